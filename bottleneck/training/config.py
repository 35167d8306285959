"""Configuration of the train job: a frozen dataclass, validated when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, ClassVar, Literal

from bottleneck.config.checks import AtLeast, Form, Gpus, Share, flag_of
from bottleneck.config.flags import ClusterFlags, Flags, OutputFlags, VersionFlags
from bottleneck.config.values import worker_range
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
class SplitFlags(Flags):
    """Which rows train, validate and test.

    Attributes:
        split: Where training, validation and test rows come from: `column` takes the table's
            `split` column, `hash` assigns them by a hash of the image's name, so that an image
            never changes sides whatever is added later; `auto` takes the column if it is filled.
        split_list: A list file (.csv, .jsonl, .parquet) with `image` and `split` that says it
            instead; images it does not name are left out.
        validation_fraction: Share of each label's images for validation, 0 for none; 0.2 where
            splits are assigned by hash. Beside a `split` column that has no validation rows, the
            share of the training rows.
        test_fraction: The same for the test split.
    """

    split: Split = "auto"
    split_list: str | None = None
    validation_fraction: Annotated[float | None, Share()] = None
    test_fraction: Annotated[float | None, Share()] = None

    def check(self) -> None:
        """Checks that splits come from one place and leave rows to train on."""
        super().check()
        if self.split_list is not None and self.split != "auto":
            raise ConfigError("--split-list and --split both say where splits are from; give one")
        if (self.validation_fraction or 0) + (self.test_fraction or 0) >= 1:
            raise ConfigError(
                f"--validation-fraction {self.validation_fraction} and --test-fraction "
                f"{self.test_fraction} leave nothing to train on; their sum must be below 1"
            )


@dataclass(frozen=True, kw_only=True)
class HeadFlags(Flags):
    """What the head looks like.

    Attributes:
        recipe: A tutorial's recipe in one flag: `keras-blog` (Dense 256, Dropout 0.5, RMSprop, 50
            epochs, batches of 16) or `vgg16-mlp` (the same head, RMSprop 2e-5, 20 epochs, batches
            of 20). Flags given beside it win.
        head: `mlp` (hidden layers, ReLU, dropout, output) or `linear` (output alone). [mlp]
        pool: Reduce the map to one value per channel first: `avg` or `max`.
        hidden: Units of the mlp's hidden layers. [256]
        dropout: Share of hidden units dropped while training. [0.5]
        l2: Weight of the L2 penalty on kernels. [0]
        standardize: Subtract each feature's mean over the training rows and divide by its standard
            deviation; stored inside the head. [yes]
        binary: One sigmoid output and binary cross-entropy; the table must have two labels.
    """

    recipe: Recipe = "none"
    head: HeadKind | None = None
    pool: HeadPooling = "none"
    hidden: Annotated[tuple[int, ...] | None, AtLeast(1, "units")] = None
    dropout: Annotated[float | None, Share()] = None
    l2: Annotated[float | None, AtLeast(0, "(a weight)")] = None
    standardize: bool | None = None
    binary: bool = False

    def check(self) -> None:
        """Checks that hidden layers belong to a head that has them."""
        super().check()
        if self.head == "linear" and self.hidden:
            raise ConfigError("--hidden belongs to --head mlp; a linear head has no hidden layer")


@dataclass(frozen=True, kw_only=True)
class OptimizerFlags(Flags):
    """How the head is fitted.

    Attributes:
        optimizer: `adam`, `rmsprop` or `sgd` (momentum 0.9). [adam]
        learning_rate: Learning rate, at its highest. [3e-4]
        schedule: Schedule of the learning rate over the epochs: `constant`, `cosine` (down to 0)
            or `exponential` (down to a hundredth).
        epochs: Passes over the training rows, at most. [50]
        batch_size: Rows per step, over all workers together. [64]
        class_weights: `none`, `balanced` (each label weighs the same), or weights by label, such
            as `cats=2,dogs=1`.
        monitor: Figure that tells the best epoch, whose weights are kept.
        patience: Epochs without a better one after which training stops; 0 never stops early and
            keeps the last epoch's weights. [8]
        seed: Seed of initial weights, order, dropout and assigned splits.
    """

    optimizer: Optimizer | None = None
    learning_rate: Annotated[float | None, AtLeast(1e-12, "(a rate)")] = None
    schedule: Schedule = "constant"
    epochs: Annotated[int | None, AtLeast(1, "epochs")] = None
    batch_size: Annotated[int | None, AtLeast(1, "rows")] = None
    class_weights: str = "none"
    monitor: Monitor = "val_loss"
    patience: Annotated[int | None, AtLeast(0, "epochs")] = None
    seed: Annotated[int, AtLeast(0, "(a whole number)")] = 0

    def check(self) -> None:
        """Checks the form of ``class_weights``."""
        super().check()
        given_weights(self.class_weights)


@dataclass(frozen=True, kw_only=True)
class WorkerFlags(Flags):
    """What the training workers may use.

    Attributes:
        workers: Training workers: N, or MIN:MAX to let Ray resize to what the cluster has.
        gpus_per_worker: GPUs per worker; 0 trains on CPUs. When not given, 1 if the cluster has
            GPUs, else 0.
        cpus_per_worker: CPUs per worker; those of a node, 8 at most, when not given.
        memory_gb: Memory that each worker may fill with features, in gigabytes; a larger snapshot
            is read in windows, once per epoch.
        dtype: How features are held in memory. `auto` takes float16 or bfloat16 when the
            backbone computed in it (nothing is lost); otherwise float32 if the rows then fit
            --memory-gb, else float16.
        max_worker_failures: How often lost workers are replaced before the run gives up.
    """

    workers: Annotated[str, Form(worker_range, "N|MIN:MAX")] = "1"
    gpus_per_worker: Annotated[float | None, Gpus()] = None
    cpus_per_worker: Annotated[float | None, AtLeast(1, "CPUs")] = None
    memory_gb: Annotated[float, AtLeast(0.001, "gigabytes")] = 4.0
    dtype: Dtype = "auto"
    max_worker_failures: Annotated[int, AtLeast(0, "times")] = 3


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    VersionFlags, SplitFlags, HeadFlags, OptimizerFlags, WorkerFlags, ClusterFlags, OutputFlags
):
    """Fits a small dense head on the features of a table and writes a model.

    Attributes:
        features: The features table: a folder, s3://, gs:// or abfs://.
        model: Where the model goes: a folder or URI of its own.
        resume: Go on with the run that was stopped at this --model.
        overwrite: Replace the model that is at --model.
        weights: The backbone's weights, for model.keras: a file or URI. Not needed for weights
            from Keras (`imagenet`) or a seed.
    """

    features: str
    model: str
    resume: bool = False
    overwrite: bool = False
    weights: str | None = None

    examples: ClassVar[tuple[str, ...]] = (
        "--features photo-features --model photo-model",
        "--features photo-features --model photo-model --resume",
    )

    def check(self) -> None:
        """Checks that a table and a model are given, and one way to begin."""
        for name in ("features", "model"):
            if not getattr(self, name):
                raise ConfigError(f"{flag_of(name)} is empty; give an address")
        if self.resume and self.overwrite:
            raise ConfigError("--resume goes on with a run, --overwrite starts anew; give one")
        super().check()

    @property
    def head_settings(self) -> HeadSettings:
        """The recipe's settings, overridden by the flags that were given."""
        names = [field.name for field in fields(HeadSettings)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        settings = replace(RECIPES[self.recipe], **given)
        return settings if settings.head == "mlp" else replace(settings, hidden=())


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
