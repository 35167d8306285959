"""Configuration of the predict job: a frozen dataclass, validated when made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bottleneck.config.checks import AtLeast
from bottleneck.config.flags import OutputFlags, RunFlags, SourceFlags, VersionFlags
from bottleneck.errors import ConfigError
from bottleneck.storage.uris import normalize_uri


@dataclass(frozen=True, kw_only=True)
class PredictConfig(SourceFlags, VersionFlags, RunFlags, OutputFlags):
    """Applies a trained model to images, or its head to a features table, and keeps a table.

    Attributes:
        model: A model of the train job: a folder or URI; or imagenet:NAME, a whole
            keras.applications network such as imagenet:resnet50 with ImageNet's 1,000 classes.
        predictions: Where the predictions table is or will be: a folder, s3://, gs:// or abfs://.
        features: A features table instead of images: only the head runs.
        top: Most probable labels kept for each image, with their probabilities.
        weights: Of imagenet:NAME: a file or URI instead of the weights that Keras downloads.
        report: Write an HTML page to this file or URI: counts, and where labels are known figures
            and the most confident mistakes as thumbnails.
        shard_mb: Target size of a shard, in megabytes as written.
    """

    model: str
    predictions: str
    features: str = ""
    top: Annotated[int, AtLeast(1, "labels")] = 5
    weights: str | None = None
    report: str | None = None
    # Rows of predictions are small: full shards of them would hold too many images.
    shard_mb: Annotated[float, AtLeast(0.001, "megabytes")] = 64.0

    examples: ClassVar[tuple[str, ...]] = (
        "--model photo-model --images new-photos/ --predictions photo-predictions",
        "--model photo-model --features photo-features --predictions photo-predictions",
    )

    def check(self) -> None:
        """Checks that there is a model, a table, and one source that fits the model."""
        for flag, value in (("--model", self.model), ("--predictions", self.predictions)):
            if not value:
                raise ConfigError(f"{flag} is empty; give an address")
        if bool(self.images) == bool(self.features):
            raise ConfigError(
                "give either --images (a source of images) or --features (a features table)"
            )
        if not self.features and (self.version is not None or self.as_of is not None):
            raise ConfigError("--version and --as-of belong to --features; drop them")
        if self.features and self.model.startswith("imagenet:"):
            raise ConfigError(
                f"{self.model} has no head of its own for --features; give --images, or a model "
                "of the train job"
            )
        super().check()

    @property
    def table_uri(self) -> str:
        """Normalized URI of the predictions table."""
        return normalize_uri(self.predictions)

    @property
    def source_uri(self) -> str:
        """Normalized URI of the images, or of the features table."""
        return normalize_uri(self.images or self.features)
