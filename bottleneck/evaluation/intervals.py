"""How sure a figure is: 95 % intervals of shares in closed form, of the rest by resampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: The 97.5 % quantile of the normal distribution.
_Z = 1.959963984540054

_RESAMPLES = 1_000

#: Elements of a block of resamples: 32 MiB at any number of rows.
_BLOCK_ELEMENTS = 1 << 22

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval.

    Attributes:
        value: The estimate.
        low: Lower end, at most ``value``.
        high: Upper end, at least ``value``.
    """

    value: float
    low: float
    high: float

    def to_percent(self) -> str:
        """Returns the figures as percentages: ``91.2 % (89.3 – 92.8)``."""
        return f"{self.value:.1%} ({100 * self.low:.1f} – {100 * self.high:.1f})".replace("%", " %")

    def to_number(self) -> str:
        """Returns the figures with three decimals: ``0.312 (0.287 – 0.340)``."""
        return f"{self.value:.3f} ({self.low:.3f} – {self.high:.3f})"

    @classmethod
    def around(cls, value: float, low: float, high: float) -> Interval:
        """Makes one that contains its value, which quantiles of skewed resamples may not."""
        return cls(float(value), float(min(value, low)), float(max(value, high)))


def wilson(hits: int, count: int) -> Interval | None:
    """Returns a share with its score interval (Wilson 1927); None if ``count`` is 0."""
    if not count:
        return None
    share = hits / count
    scale = 1 + _Z**2 / count
    center = (share + _Z**2 / (2 * count)) / scale
    half = _Z * (share * (1 - share) / count + _Z**2 / (4 * count**2)) ** 0.5 / scale
    return Interval.around(share, max(0.0, center - half), min(1.0, center + half))


def resamples(counts: Ints, generator: np.random.Generator) -> Iterator[Ints]:
    """Draws N rows with replacement, 1,000 times.

    Args:
        counts: (cells,), how many of the N rows each cell holds; rows of a cell are equal.
        generator: Makes the draws.

    Yields:
        (B, cells), how many rows of each cell the next B resamples drew.
    """
    size = max(1, _BLOCK_ELEMENTS // len(counts))
    total = int(counts.sum())
    for start in range(0, _RESAMPLES, size):
        block = min(size, _RESAMPLES - start)
        yield generator.multinomial(total, counts / total, size=block)


def percentile(value: float, draws: Floats) -> Interval:
    """Returns the percentile interval of resampled figures, where they are not nan."""
    return Interval.around(value, *_quantiles(draws))


def basic(value: float, draws: Floats) -> Interval:
    """Returns the basic interval of resampled shares (Davison & Hinkley 1997, section 5.2).

    It mirrors the percentile interval at the value, which undoes a bias that each resample adds
    again.
    """
    low, high = _quantiles(draws)
    return Interval.around(value, max(0.0, 2 * value - high), min(1.0, 2 * value - low))


def _quantiles(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws[~np.isnan(draws)], (0.025, 0.975))
    return float(low), float(high)
