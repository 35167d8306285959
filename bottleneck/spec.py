"""What determines the values of a features column, and whether two runs may share a table.

Features of different backbones, weights, sizes or preprocessing look alike and do not mix: a head
trained on a mixture trains badly and nothing says why. So every table carries its specification
as properties, and a run whose specification differs is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from bottleneck.errors import SpecMismatchError, TableError

PREFIX = "bottleneck."
_VERSION = "1"
_KIND = PREFIX + "kind"


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that decides which numbers an image's features are.

    Attributes:
        backbone: Name in ``backbones.families.FAMILIES``, for example ``vgg16``.
        alpha: Width multiplier of the MobileNets; None for every other family.
        weights: Digest of the weights, ``sha256:<64 hex digits>`` of the file, or
            ``random:<seed> sha256:<64 hex digits>`` of the arrays; ``none`` for a backbone
            without weights.
        layer: Layer whose output the features are.
        shape: Shape of one image's features, channels last: (7, 7, 512), or (512,) when pooled.
        pooling: One of ``none``, ``avg`` or ``max``.
        image_size: (height, width) of the backbone's input in pixels.
        resize: How an image gets that size: ``squash``, ``crop`` or ``pad``.
        interpolation: Resampling filter of that step.
        decode: Decode mode, ``fast`` or ``exact``.
        preprocessing: Preprocessing, ``own`` (the family's) or ``rescale`` (1/255).
        precision: Number format of the computation: ``float32``, ``bfloat16`` or ``float16``.
            Features are stored as float32 in any case.
    """

    backbone: str
    alpha: float | None
    weights: str
    layer: str
    shape: tuple[int, ...]
    pooling: str
    image_size: tuple[int, int]
    resize: str
    interpolation: str
    decode: str
    preprocessing: str
    precision: str

    kind: ClassVar[str] = "features"
    made_by: ClassVar[str] = "the extract job"

    @property
    def length(self) -> int:
        """Number of float32 values in one image's features."""
        return math.prod(self.shape)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all fields: equal only for equal ones."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_properties(self) -> dict[str, str]:
        """Returns the table properties from which ``from_properties`` makes this specification."""
        properties = {PREFIX + field.name: self._text(field.name) for field in fields(self)}
        return {PREFIX + "spec_version": _VERSION, _KIND: self.kind, **properties}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str | None]) -> Self:
        """Reads the specification from a table's properties; other properties are ignored.

        Raises:
            TableError: The properties are not those of a table of this kind, or a later version
                of this project wrote them.
        """
        version = properties.get(PREFIX + "spec_version")
        if version is None:
            raise TableError(
                f"this is not a {cls.kind} table: it has no property {PREFIX}spec_version; name a "
                f"table that {cls.made_by} wrote, or a location where nothing is yet"
            )
        kind = properties.get(_KIND) or "features"
        if kind != cls.kind:
            raise TableError(f"this is a {kind} table and a {cls.kind} table is needed")
        if version != _VERSION:
            raise TableError(
                f"this {cls.kind} table has {PREFIX}spec_version {version!r} and this version of "
                f"the project reads {_VERSION!r}; update bottleneck-features"
            )
        missing = [f.name for f in fields(cls) if properties.get(PREFIX + f.name) is None]
        if missing:
            raise TableError(
                f"the {cls.kind} table's specification is incomplete: it lacks the properties "
                f"{', '.join(PREFIX + name for name in missing)}; extract into a new table"
            )
        text = {f.name: str(properties[PREFIX + f.name]) for f in fields(cls)}
        try:
            return cls(**cls.parsed(text))
        except ValueError as e:
            raise TableError(
                f"the {cls.kind} table's specification cannot be read: {e} (image_size "
                f"{text['image_size']!r}, alpha {text['alpha']!r}, shape {text['shape']!r}); "
                "extract into a new table"
            ) from e

    @classmethod
    def parsed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the properties as field values: numbers are parsed.

        Raises:
            ValueError: A number cannot be parsed.
        """
        height, width = (int(number) for number in values["image_size"].split(","))
        return {
            **values,
            "image_size": (height, width),
            "alpha": float(values["alpha"]) if values["alpha"] else None,
            "shape": tuple(int(number) for number in values["shape"].split(",")),
        }

    def differences(self, other: FeatureSpec) -> list[tuple[str, str, str]]:
        """Returns the fields that differ as (field, value here, value in ``other``)."""
        return [
            (field.name, self._text(field.name) or "none", other._text(field.name) or "none")
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]

    def _text(self, name: str) -> str:
        value = getattr(self, name)
        if value is None:
            return ""
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def require_equal(run: FeatureSpec, table: FeatureSpec, table_uri: str) -> None:
    """Refuses to add features of one specification to a table of another.

    Args:
        run: Specification of the features about to be computed.
        table: Specification in the table's properties.
        table_uri: Where the table is, for the message.

    Raises:
        SpecMismatchError: They differ; the message names each field with both values.
    """
    differences = run.differences(table)
    if not differences:
        return
    listed = "; ".join(
        f"{field}: {mine} in this run, {theirs} in the table" for field, mine, theirs in differences
    )
    raise SpecMismatchError(
        f"the {table.kind} table {table_uri} was made with another feature specification "
        f"({listed}); give this run the table's settings, or write to a new --{table.kind} URI"
    )


@dataclass(frozen=True)
class PredictionSpec(FeatureSpec):
    """Everything that decides which predictions an image gets: its features, and the head.

    Attributes:
        model: SHA-256 of ``head.keras``; ``imagenet`` for a whole network.
        top: Number of labels that are kept.
    """

    model: str
    top: int

    kind: ClassVar[str] = "predictions"
    made_by: ClassVar[str] = "the predict job"

    @property
    def length(self) -> int:
        """Number of probabilities that a row holds."""
        return self.top

    @classmethod
    def of(cls, features: FeatureSpec, model: str, top: int) -> PredictionSpec:
        """Returns the specification of predictions that a head makes from features."""
        values = {name: getattr(features, name) for name in asdict(features)}
        return cls(**values, model=model, top=top)

    @classmethod
    def parsed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the properties as field values: numbers are parsed."""
        return {**super().parsed(values), "top": int(values["top"])}
