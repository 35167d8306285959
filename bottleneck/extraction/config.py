"""The configuration of the extract job: a frozen dataclass, validated when made.

Every field is a flag of the job and a key of its ``--config`` file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from bottleneck.backbones.config import BackboneConfig, Pooling, Preprocessing
from bottleneck.backbones.precision import Precision
from bottleneck.config.checks import AtLeast
from bottleneck.config.flags import Flags, MaintenanceFlags, OutputFlags, RunFlags, SourceFlags
from bottleneck.errors import ConfigError
from bottleneck.images.options import Decode, Interpolation, Resize
from bottleneck.storage.uris import normalize_uri


@dataclass(frozen=True, kw_only=True)
class BackboneFlags(Flags):
    """Which backbone computes the features.

    Attributes:
        backbone: A keras.applications model, such as vgg16, resnet50, mobilenetv2,
            efficientnetb0, convnexttiny.
        alpha: Width multiplier of mobilenet and mobilenetv2; Keras's default when not given.
        layer: Layer whose activation is the feature; the last one of the convolutional base when
            not given.
        pooling: `none` keeps the activation map (7×7×512 for vgg16), `avg` and `max` reduce it to
            one value per channel.
        image_size: Height and width in pixels that images are resized to; the backbone's own when
            not given.
        preprocessing: `own` is what the backbone was trained with; `rescale` divides by 255, as
            many tutorials do, and gives worse features.
        precision: Arithmetic of the backbone. `auto` takes bfloat16 where the hardware of the
            workers is fast at it, else float16 (older GPUs), else float32; an existing table's
            precision is kept.
        weights: `imagenet` (Keras downloads them), a file or URI, or `random:SEED`.
        weights_sha256: Refuse a weights file with another SHA-256.
    """

    backbone: str = "vgg16"
    alpha: float | None = None
    layer: str | None = None
    pooling: Pooling = "none"
    image_size: Annotated[tuple[int, int] | None, AtLeast(1, "pixels")] = None
    preprocessing: Preprocessing = "own"
    precision: Precision = "auto"
    weights: str = "imagenet"
    weights_sha256: str | None = None

    @property
    def backbone_config(self) -> BackboneConfig:
        """These flags as the configuration of a backbone, checked against what there is."""
        return BackboneConfig(
            name=self.backbone,
            alpha=self.alpha,
            layer=self.layer,
            pooling=self.pooling,
            image_size=self.image_size,
            preprocessing=self.preprocessing,
            precision=self.precision,
            weights=self.weights,
            weights_sha256=self.weights_sha256,
        )


@dataclass(frozen=True, kw_only=True)
class DecodeFlags(Flags):
    """How files become arrays of the backbone's size.

    Attributes:
        resize: `squash` ignores the aspect ratio (the tutorials' way), `crop` takes the largest
            centered box, `pad` fits the image inside a black frame.
        decode: `fast` lets JPEGs be decoded at a reduced scale where that stays within a stated
            tolerance, turns images upright by EXIF and puts transparent ones on white; `exact` is
            bit-equal to keras.utils.load_img, which does neither.
        interpolation: Resampling filter.
    """

    resize: Resize = "squash"
    decode: Decode = "fast"
    interpolation: Interpolation = "bilinear"


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(
    SourceFlags, BackboneFlags, DecodeFlags, RunFlags, MaintenanceFlags, OutputFlags
):
    """Computes features of all images of a source and keeps a table of them up to date.

    Attributes:
        features: Where the features table is or will be: a folder, s3://, gs:// or abfs://.
    """

    features: str

    examples: ClassVar[tuple[str, ...]] = (
        "--images photos/ --features photo-features",
        "--images s3://photos/ --features s3://lake/photo-features --dry-run",
    )

    def check(self) -> None:
        """Checks that a table and a source are given, and one step at a time."""
        if not self.features:
            raise ConfigError("--features is empty; give the address of the features table")
        steps = [
            flag
            for flag, asked in (
                ("--dry-run", self.dry_run),
                ("--vacuum", self.vacuum is not None),
                ("--compact", self.compact),
            )
            if asked
        ]
        if len(steps) > 1:
            raise ConfigError(f"{' and '.join(steps)} are separate steps; give one at a time")
        if not self.images and not self.maintenance:
            raise ConfigError(
                "--images is missing; give a folder, an S3 prefix, a list file or tar files"
            )
        super().check()

    @property
    def table_uri(self) -> str:
        """Normalized URI of the features table."""
        return normalize_uri(self.features)

    @property
    def source_uri(self) -> str:
        """Normalized URI of the images."""
        return normalize_uri(self.images)
