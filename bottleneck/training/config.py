"""Configuration of the train job: a frozen dataclass, validated when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Literal

from bottleneck.config.checks import flag_of, require_at_least, require_choices, require_gpus
from bottleneck.config.values import parse_time, worker_range
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import ConfigError
from bottleneck.training.recipes import RECIPES, HeadSettings

Recipe = Literal["none", "keras-blog", "vgg16-mlp"]
Split = Literal["auto", "column", "hash"]
HeadKind = Literal["mlp", "linear"]
HeadPooling = Literal["none", "avg", "max"]
Optimizer = Literal["adam", "rmsprop", "sgd"]
Schedule = Literal["constant", "cosine", "exponential"]
Monitor = Literal["val_loss", "val_accuracy"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fits a small dense head on the features of a table and writes a model.

    Attributes:
        features: The features table: a folder, s3://, gs:// or abfs://.
        model: Where the model goes: a folder or URI of its own.
        version: Version of the table to train on; the newest when not given.
        as_of: The table as it was at this time (ISO 8601, such as 2026-01-31T06:00+00:00).
        split: Where training, validation and test rows come from: `column` takes the table's
            `split` column, `hash` draws them by a hash of the image's name, so that an image
            never changes sides whatever is added later; `auto` takes the column if it is filled.
        split_list: A list file (.csv, .jsonl, .parquet) with `image` and `split` that says it
            instead; images it does not name are left out.
        validation_fraction: Share of each label's images drawn for validation, 0 for none; 0.2
            where splits are drawn. Beside a `split` column that has no validation rows, the share
            of the training rows.
        test_fraction: The same for the test split.
        recipe: A tutorial's recipe in one flag: `keras-blog` (Dense 256, Dropout 0.5, RMSprop, 50
            epochs, batches of 16) or `vgg16-mlp` (the same head, RMSprop 2e-5, 20 epochs, batches
            of 20). Flags given beside it win.
        head: `mlp` (hidden layers, ReLU, dropout, output) or `linear` (output alone). [mlp]
        pool: Reduce the map to one value a channel first: `avg` or `max`.
        hidden: Units of the mlp's hidden layers. [256]
        dropout: Share of hidden units dropped while training. [0.5]
        l2: Weight of the L2 penalty on kernels. [0]
        standardize: Subtract each feature's mean over the training rows and divide by its standard
            deviation; stored inside the head. [yes]
        binary: One sigmoid output and binary cross-entropy; the table must have two labels.
        optimizer: `adam`, `rmsprop` or `sgd` (momentum 0.9). [adam]
        learning_rate: Learning rate, at its highest. [3e-4]
        schedule: Of the learning rate over the epochs: `constant`, `cosine` (down to 0) or
            `exponential` (down to a hundredth).
        epochs: Passes over the training rows, at most. [50]
        batch_size: Rows of a step, over all workers together. [64]
        class_weights: `none`, `balanced` (each label weighs the same), or weights by label, such
            as `cats=2,dogs=1`.
        monitor: What tells the best epoch, whose weights are kept.
        patience: Epochs without a better one after which training stops; 0 never stops early and
            keeps the last epoch's weights. [8]
        seed: Of initial weights, order, dropout and drawn splits.
        workers: Training workers: N, or MIN:MAX to let Ray resize to what the cluster has.
        gpus_per_worker: GPUs of a worker; 0 trains on CPUs. When not given, 1 if the cluster has
            GPUs, else 0.
        cpus_per_worker: CPUs of a worker; those of a node, 8 at most, when not given.
        memory_gb: Memory that each worker may fill with features, in gigabytes; a larger snapshot
            is read in windows, once an epoch.
        dtype: How features are held in memory. `auto` takes float16 or bfloat16 when the
            backbone computed in it (nothing is lost); otherwise float32 if the rows then fit
            --memory-gb, else float16.
        max_worker_failures: How often lost workers are replaced before the run gives up.
        resume: Go on with the run that was stopped at this --model.
        overwrite: Replace the model that is at --model.
        weights: The backbone's weights, for model.keras: a file or URI. Not needed for weights
            from Keras (`imagenet`) or a seed.
        address: Ray cluster to use, such as `auto` or ray://host:10001. When not given, the
            environment variable RAY_ADDRESS, else an embedded Ray.
        summary: Write the final summary to this file as JSON.
        log_json: Print log, progress and errors as JSON, one object a line, on the standard error
            stream. The summary stays as it is on the standard output.
    """

    features: str
    model: str
    version: int | None = None
    as_of: str | None = None
    split: Split = "auto"
    split_list: str | None = None
    validation_fraction: float | None = None
    test_fraction: float | None = None
    recipe: Recipe = "none"
    head: HeadKind | None = None
    pool: HeadPooling = "none"
    hidden: tuple[int, ...] | None = None
    dropout: float | None = None
    l2: float | None = None
    standardize: bool | None = None
    binary: bool = False
    optimizer: Optimizer | None = None
    learning_rate: float | None = None
    schedule: Schedule = "constant"
    epochs: int | None = None
    batch_size: int | None = None
    class_weights: str = "none"
    monitor: Monitor = "val_loss"
    patience: int | None = None
    seed: int = 0
    workers: str = "1"
    gpus_per_worker: float | None = None
    cpus_per_worker: float | None = None
    memory_gb: float = 4.0
    dtype: Dtype = "auto"
    max_worker_failures: int = 3
    resume: bool = False
    overwrite: bool = False
    weights: str | None = None
    address: str | None = None
    summary: str | None = None
    log_json: bool = False

    def __post_init__(self) -> None:
        for name in ("features", "model"):
            if not getattr(self, name):
                raise ConfigError(f"{flag_of(name)} is empty; give an address")
        if self.version is not None and self.as_of is not None:
            raise ConfigError("--version and --as-of name two versions; give one of them")
        if self.as_of is not None:
            parse_time(self.as_of)
        if self.resume and self.overwrite:
            raise ConfigError("--resume goes on with a run, --overwrite starts anew; give one")
        if self.split_list is not None and self.split != "auto":
            raise ConfigError("--split-list and --split both say where splits are from; give one")
        require_choices(self)
        for name, lowest, unit in _LOWER_BOUNDS:
            require_at_least(name, getattr(self, name), lowest, unit)
        require_gpus("gpus_per_worker", self.gpus_per_worker)
        for name in ("validation_fraction", "test_fraction", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(
                    f"{flag_of(name)} {value} is not allowed; give 0 or more, below 1"
                )
        if (self.validation_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ConfigError(
                f"--validation-fraction {self.validation_fraction} and --test-fraction "
                f"{self.test_fraction} leave nothing to train on; their sum must be below 1"
            )
        for units in self.hidden or ():
            require_at_least("hidden", units, 1, "units")
        if self.head == "linear" and self.hidden:
            raise ConfigError("--hidden belongs to --head mlp; a linear head has no hidden layer")
        given_weights(self.class_weights)
        worker_range(self.workers)

    @property
    def head_settings(self) -> HeadSettings:
        """The recipe's settings, overridden by the flags that were given."""
        names = [field.name for field in fields(HeadSettings)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        settings = replace(RECIPES[self.recipe], **given)
        return settings if settings.head == "mlp" else replace(settings, hidden=())

    @property
    def moment(self) -> datetime | None:
        """``as_of`` as a moment."""
        return None if self.as_of is None else parse_time(self.as_of)


_LOWER_BOUNDS: tuple[tuple[str, float, str], ...] = (
    ("version", 0, "(a version)"),
    ("l2", 0, "(a weight)"),
    ("learning_rate", 1e-12, "(a rate)"),
    ("epochs", 1, "epochs"),
    ("batch_size", 1, "rows"),
    ("patience", 0, "epochs"),
    ("gpus_per_worker", 0, "GPUs"),
    ("cpus_per_worker", 1, "CPUs"),
    ("memory_gb", 0.001, "gigabytes"),
    ("max_worker_failures", 0, "times"),
    ("seed", 0, "(a whole number)"),
)


def given_weights(text: str) -> dict[str, float] | None:
    """Reads ``--class-weights``.

    Returns:
        Weights by label; None for ``none`` and ``balanced``.

    Raises:
        ConfigError: It is neither, nor weights.
    """
    if text in ("none", "balanced"):
        return None
    weights: dict[str, float] = {}
    for part in text.split(","):
        label, equals, number = part.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not equals or not label or not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(
                f"--class-weights {text!r} is not allowed; give none, balanced or weights of 0 or "
                "more by label, such as cats=2,dogs=1"
            )
        weights[label] = weight
    return weights


def as_flags(config: TrainConfig) -> dict[str, str]:
    """Returns every setting that has a value as text, addresses without secrets, for reports.

    Where no flag was given, the setting of the recipe stands.
    """
    found = {}
    for name, value in (vars(config) | vars(config.head_settings)).items():
        if value is not None:
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found[name] = redact_uri(text)
    return found
