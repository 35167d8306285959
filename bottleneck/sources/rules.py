"""Rules that decide which files of a source are images and what its folders mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

from bottleneck.errors import SourceError

#: Meanings of the folders of a source; see :class:`Rules`.
Layout = Literal["auto", "flat", "label", "split-label"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

#: Extensions of images, matched without regard to case.
DEFAULT_EXTENSIONS = (
    *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff"),
    *("ppm", "pgm", "ico"),
)
#: Extension of tar archives.
ARCHIVE_EXTENSION = "tar"

_SPLITS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Rules:
    """Accepted extensions and the meaning of folders; validated.

    Attributes:
        layout: One of ``LAYOUTS``. ``auto`` reads each path by itself: a first part that is
            train, validation, val, valid or test (in any case) is the split, the part after it
            the label; without such a part the first part is the label; files without a folder
            have neither. ``label``: the first part is the label, whatever its name.
            ``split-label``: the first part is the split, the second the label. ``flat``: neither.
            Folders below those named here have no meaning.
        extensions: Accepted extensions, in lower case, without dot.
    """

    layout: str = "auto"
    extensions: tuple[str, ...] = DEFAULT_EXTENSIONS

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise SourceError(
                f"layout {self.layout!r} is not allowed; choose one of {', '.join(LAYOUTS)}"
            )
        bare = tuple(dict.fromkeys(e.strip().lower().lstrip(".") for e in self.extensions))
        if not bare or not all(bare):
            raise SourceError(
                f"extensions {list(self.extensions)!r} are not allowed; give at least one, "
                "for example jpg"
            )
        object.__setattr__(self, "extensions", bare)

    def accepted(self) -> str:
        """Returns the accepted extensions as text."""
        return ", ".join(f".{e}" for e in self.extensions)


def extension_of(column: str = "path") -> pl.Expr:
    """Returns the lower-case extension of a path column without its dot; null without one."""
    return pl.col(column).str.extract(r"[^/]\.([^./]+)$").str.to_lowercase()


def with_layout(frame: pl.DataFrame, layout: str, column: str = "path") -> pl.DataFrame:
    """Adds ``label`` and ``split``, read from the folders of a path column (see ``Rules``)."""
    parts = pl.col(column).str.splitn("/", 3).struct
    first, second = parts.field("field_0"), parts.field("field_1")
    folders = pl.col(column).str.count_matches("/", literal=True)
    nothing = pl.lit(None, dtype=pl.String)
    known = first.str.to_lowercase().replace_strict(_SPLITS, default=None, return_dtype=pl.String)
    if layout == "flat":
        label, split = nothing, nothing
    elif layout == "label":
        label, split = pl.when(folders >= 1).then(first), nothing
    elif layout == "split-label":
        label = pl.when(folders >= 2).then(second)
        split = pl.when(folders >= 1).then(pl.coalesce(known, first))
    else:
        split = pl.when(folders >= 1).then(known)
        label = (
            pl.when(split.is_null())
            .then(pl.when(folders >= 1).then(first))
            .otherwise(pl.when(folders >= 2).then(second))
        )
    return frame.with_columns(label=label, split=split)


def canonical_split(column: str = "split") -> pl.Expr:
    """Returns a split column with val and valid spelled validation; unknown names are kept."""
    lower = pl.col(column).str.to_lowercase()
    known = lower.replace_strict(_SPLITS, default=None, return_dtype=pl.String)
    return pl.coalesce(known, pl.col(column))
