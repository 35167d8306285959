"""Which rows of a snapshot a head is trained, validated and tested on.

Only the table's small columns are looked at. No Ray, no Keras.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import ConfigError, TableError
from bottleneck.images.statuses import OK
from bottleneck.sources.lists import read_rows
from bottleneck.sources.rules import canonical_split
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.snapshot import Snapshot
from bottleneck.training.config import TrainConfig

#: In the order of their codes in :attr:`LabelledRows.split`.
SPLITS = ("train", "validation", "test")

_DRAWN_FRACTION = 0.2


@dataclass(frozen=True)
class LabelledRows:
    """The rows that a head learns from and is evaluated on, in the order they have in the snapshot.

    Attributes:
        labels: The labels' names, sorted; a row's class is the place of its label here.
        shard: (N,) int32, number of the row's shard in the snapshot.
        row: (N,) int64, its place in the shard.
        label: (N,) int32, its class.
        split: (N,) int8, place of its split in :data:`SPLITS`.
        left_out: Rows that take no part, by reason.
    """

    labels: tuple[str, ...]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int64]
    label: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    left_out: dict[str, int]

    def counts(self, split: str) -> npt.NDArray[np.int64]:
        """Returns how many rows of a split each class has, (C,) int64."""
        chosen = self.label[self.split == SPLITS.index(split)]
        return np.bincount(chosen, minlength=len(self.labels)).astype(np.int64)


def select_rows(snapshot: Snapshot, config: TrainConfig) -> LabelledRows:
    """Decides for each row of a snapshot whether and in which split it is used.

    Args:
        snapshot: The table.
        config: How splits are found.

    Raises:
        TableError: No row has features and a label, or all labels are the same.
        ConfigError: The splits asked for leave nothing to train on, or do not fit the table.
        SourceError: The split list cannot be read.
    """
    rows = snapshot.read_by_shard(("image", "label", "split", "status"))
    rows = rows.with_columns(row=pl.int_range(pl.len()).over("shard"))
    total = len(rows)
    rows = rows.filter(pl.col("status") == OK)
    left_out = {"failed": total - len(rows)}
    unlabeled = int(rows["label"].null_count())
    rows = rows.filter(pl.col("label").is_not_null())
    left_out["without label"] = unlabeled
    where = f"version {snapshot.version} of {redact_uri(snapshot.table_uri)}"
    if rows.is_empty():
        raise TableError(
            f"no row of {where} has features and a label ({total:,} rows, "
            f"{left_out['failed']:,} failed, {unlabeled:,} without label); extract with "
            "--layout label, or from a list file with a `label` column"
        )
    rows = _with_split(rows, config, where)
    left_out["without split"] = int(rows["split"].null_count())
    rows = rows.filter(pl.col("split").is_not_null())
    labels = tuple(rows["label"].unique().sort().to_list())
    _require_classes(labels, config.binary, where)
    order = pl.Enum(SPLITS)
    result = LabelledRows(
        labels=labels,
        shard=rows["shard"].to_numpy().astype(np.int32),
        row=rows["row"].to_numpy().astype(np.int64),
        label=rows["label"].cast(pl.Enum(labels)).to_physical().to_numpy().astype(np.int32),
        split=rows["split"].cast(order).to_physical().to_numpy().astype(np.int8),
        left_out={reason: number for reason, number in left_out.items() if number},
    )
    if not result.counts("train").any():
        raise ConfigError(
            f"no row of {where} is in the train split; look at the `split` column of the table "
            "or of --split-list, or draw the splits of more rows with --split hash"
        )
    return result


def _require_classes(labels: Sequence[str], binary: bool, where: str) -> None:
    if len(labels) < 2:
        raise TableError(
            f"all rows of {where} that can be used have the label {labels[0]!r}; "
            "a head tells at least two labels apart"
        )
    if binary and len(labels) != 2:
        raise ConfigError(
            f"--binary needs two labels and {where} has {len(labels)} ({', '.join(labels[:5])}"
            f"{', …' if len(labels) > 5 else ''}); drop --binary"
        )


def _with_split(rows: pl.DataFrame, config: TrainConfig, where: str) -> pl.DataFrame:
    """Sets `split` to one of :data:`SPLITS` or null."""
    if config.split_list is not None:
        return _from_list(rows, config)
    known = rows["split"].is_in(SPLITS)
    if config.split == "column" and not known.any():
        raise ConfigError(
            f"--split column: no row of {where} has a split called {', '.join(SPLITS)}; "
            "draw the splits with --split hash"
        )
    if config.split == "hash" or not known.any():
        validation = _share(config.validation_fraction)
        return _drawn(rows, validation, _share(config.test_fraction), config.seed)
    rows = rows.with_columns(pl.when(known).then("split").alias("split"))
    present = set(rows["split"].drop_nulls().unique())
    for name, fraction in (
        ("validation", config.validation_fraction),
        ("test", config.test_fraction),
    ):
        if fraction is not None and name in present:
            raise ConfigError(
                f"--{name}-fraction {fraction} is given and {where} has a {name} split of its "
                "own; drop it, or draw all splits with --split hash"
            )
    validation = 0.0 if "validation" in present else _share(config.validation_fraction)
    test = config.test_fraction or 0.0
    if validation == test == 0:
        return rows
    drawn = _drawn(rows.filter(pl.col("split") == "train"), validation, test, config.seed)
    drawn = drawn.select("image", pl.col("split").alias("drawn"))
    return rows.join(drawn, on="image", how="left", maintain_order="left").with_columns(
        split=pl.coalesce("drawn", "split")
    )


def _share(fraction: float | None) -> float:
    return _DRAWN_FRACTION if fraction is None else fraction


def _from_list(rows: pl.DataFrame, config: TrainConfig) -> pl.DataFrame:
    assert config.split_list is not None
    uri = normalize_uri(config.split_list)
    listed = read_rows(uri, required="image").select("image", pl.col("split").alias("listed"))
    listed = listed.with_columns(listed=canonical_split("listed"))
    wrong = listed.filter(~pl.col("listed").is_in(SPLITS) | pl.col("listed").is_null())
    if len(wrong):
        image, name = wrong.row(0)
        raise ConfigError(
            f"{redact_uri(uri)} puts {image!r} into the split {name!r}; "
            f"allowed are {', '.join(SPLITS)}"
        )
    repeated = listed.filter(pl.col("image").is_duplicated())
    if len(repeated):
        raise ConfigError(f"{redact_uri(uri)} names {repeated['image'][0]!r} twice; name it once")
    joined = rows.join(listed, on="image", how="left", maintain_order="left")
    if joined["listed"].is_null().all():
        raise ConfigError(
            f"{redact_uri(uri)} names no image of the table; its first is {listed['image'][0]!r}, "
            f"the table's {rows['image'][0]!r}"
        )
    return joined.with_columns(split=pl.col("listed"))


def _drawn(rows: pl.DataFrame, validation: float, test: float, seed: int) -> pl.DataFrame:
    """Draws splits by :func:`side_of`.

    The threshold is the same within every label, so that each label's share is the fraction asked
    for, up to the chance of the draw; drawing exact shares would move images between splits when
    others are added.
    """
    if validation + test >= 1:
        raise ConfigError(
            f"--validation-fraction {validation:g} and --test-fraction {test:g} (0.2 when not "
            "given) leave nothing to train on; their sum must be below 1"
        )
    sides = side_of(rows["image"].to_list(), seed)
    split = np.where(sides < test, "test", np.where(sides < test + validation, SPLITS[1], "train"))
    return rows.with_columns(split=pl.Series("split", split, dtype=pl.String))


def side_of(images: Sequence[str], seed: int) -> npt.NDArray[np.float64]:
    """Returns a number in [0, 1) for each image, which depends on its name and the seed alone."""
    prefix = f"{seed}\0".encode()
    digests = b"".join(
        hashlib.blake2b(prefix + image.encode(), digest_size=8).digest() for image in images
    )
    values: npt.NDArray[np.float64] = np.frombuffer(digests, ">u8") / 2.0**64
    return values
