"""The configuration of the extract job: a frozen dataclass, validated when made.

Every field is a flag of the job and a key of its ``--config`` file. The docstring below is the
text of ``--help``.
"""

from __future__ import annotations

from dataclasses import dataclass

from bottleneck.backbones.config import Pooling, Preprocessing
from bottleneck.backbones.precision import Precision
from bottleneck.config.checks import require_at_least, require_choices, require_gpus
from bottleneck.config.flags import require_bounds, require_sense_of_dry_run
from bottleneck.config.values import actor_range, commit_interval, failure_limit
from bottleneck.errors import ConfigError
from bottleneck.images.options import DEFAULT_MAX_PIXELS, Decode, Interpolation, Resize
from bottleneck.sources.rules import Layout


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Computes features of all images of a source and keeps a table of them up to date.

    Attributes:
        images: Where the images are: a folder, an S3 prefix or any fsspec URL; a list file (.csv,
            .jsonl, .parquet) with a `uri` column and optional `image`, `label`, `split`,
            `fingerprint`; a tar file or a folder of tar files (WebDataset layout). File names
            ending in jpg, jpeg, jpe, jfif, png, webp, gif, bmp, dib, tif, tiff, ppm, pgm or ico
            (any case) are images; hidden and other files are skipped and counted.
        features: Where the features table is or will be: a folder, s3://, gs:// or abfs://.
        layout: What the folders mean: `label` (label/file), `split-label` (split/label/file),
            `flat` (nothing) or `auto`, which tells them apart by a first folder called train,
            validation, val, valid or test.
        backbone: A keras.applications model, such as vgg16, resnet50, mobilenetv2,
            efficientnetb0, convnexttiny.
        alpha: Width multiplier of mobilenet and mobilenetv2; Keras's default when not given.
        layer: Layer whose activation is the feature; the last one of the convolutional base when
            not given.
        pooling: `none` keeps the activation map (7×7×512 for vgg16), `avg` and `max` reduce it to
            one value a channel.
        image_size: Height and width in pixels that images are resized to; the backbone's own when
            not given.
        preprocessing: `own` is what the backbone was trained with; `rescale` divides by 255, as
            many tutorials do, and gives worse features.
        precision: Arithmetic of the backbone. `auto` takes bfloat16 where the hardware of the
            workers is fast at it, else float16 (older GPUs), else float32; an existing table's
            precision is kept.
        weights: `imagenet` (Keras downloads them), a file or URI, or `random:SEED`.
        weights_sha256: Refuse a weights file with another SHA-256.
        resize: `squash` ignores the aspect ratio (the tutorials' way), `crop` takes the largest
            centred box, `pad` fits the image inside a black frame.
        decode: `fast` lets JPEGs be decoded at a reduced scale where that stays within a stated
            tolerance, turns images upright by EXIF and puts transparent ones on white; `exact` is
            bit-equal to keras.utils.load_img, which does neither.
        interpolation: Resampling filter.
        max_pixels: Images with more pixels are not decoded (`too_large`).
        max_image_mb: Files with more megabytes are not decoded (`too_large`).
        address: Ray cluster to use, such as `auto` or ray://host:10001. When not given, the
            environment variable RAY_ADDRESS (set by `ray job submit`), else an embedded Ray.
        actors: Number of backbones held by actors: N, or MIN:MAX to scale with the load. When not
            given, from 1 to as many as the cluster has room for.
        gpus_per_actor: GPUs of an actor, may be a fraction; 0 runs on CPUs. When not given, 1 if
            the cluster has GPUs, else 0.
        cpus_per_actor: CPUs of an actor. When not given, 0 with a GPU, else those of a node but
            one, 8 at most.
        batch_size: Images that a backbone computes at once. When not given, 32 on CPUs; on GPUs a
            power of two up to 128 whose activations fit 4 GB.
        fetch_concurrency: Reads in flight at a time in each fetching task.
        fetch_timeout_s: Seconds without a byte after which a read from an object store is tried
            again.
        commit_every: How often finished work is committed: a time (`90s`, `5m`, `1h`) or a number
            of shards (`20 shards`). A killed run loses at most this much.
        shard_mb: Aimed size of a shard, in megabytes as written.
        keep_deleted: Keep rows whose image is no longer in the source.
        retry_failed: Compute images again that failed before, although they did not change.
        max_failed: Failures from which the run exits with 1, after committing the good images:
            a number, or a share of those that the run tries, such as `10%`.
        take_over: Start even though another run holds the table, one that is known to be dead; if
            it lives, it ends at its next commit.
        dry_run: Only print the plan: counts, bytes, expected time, growth and cost. Files are read
            where only their content tells whether they are new.
        node_hour_price: Price of one node for one hour, for the cost in the plan.
        vacuum: Only delete files that no version of the last DAYS days needs, then stop. Keep it
            longer than the longest run.
        compact: Only merge small shards into full ones, then stop.
        summary: Write the final summary to this file as JSON.
        log_json: Print log, progress and errors as JSON, one object a line, on the standard error
            stream. The summary stays as it is on the standard output.
    """

    images: str = ""
    features: str
    layout: Layout = "auto"
    backbone: str = "vgg16"
    alpha: float | None = None
    layer: str | None = None
    pooling: Pooling = "none"
    image_size: tuple[int, int] | None = None
    preprocessing: Preprocessing = "own"
    precision: Precision = "auto"
    weights: str = "imagenet"
    weights_sha256: str | None = None
    resize: Resize = "squash"
    decode: Decode = "fast"
    interpolation: Interpolation = "bilinear"
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_image_mb: float = 256.0
    address: str | None = None
    actors: str | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: float | None = None
    batch_size: int | None = None
    fetch_concurrency: int = 32
    fetch_timeout_s: float = 30.0
    commit_every: str = "5m"
    shard_mb: float = 256.0
    keep_deleted: bool = False
    retry_failed: bool = False
    max_failed: str = "10%"
    take_over: bool = False
    dry_run: bool = False
    node_hour_price: float | None = None
    vacuum: float | None = None
    compact: bool = False
    summary: str | None = None
    log_json: bool = False

    def __post_init__(self) -> None:
        if not self.features:
            raise ConfigError("--features is empty; give the address of the features table")
        steps = [
            flag
            for flag, on in (
                ("--dry-run", self.dry_run),
                ("--vacuum", self.vacuum is not None),
                ("--compact", self.compact),
            )
            if on
        ]
        if len(steps) > 1:
            raise ConfigError(f"{' and '.join(steps)} are separate steps; give one at a time")
        if not self.images and not self.maintenance:
            raise ConfigError(
                "--images is missing; give a folder, an S3 prefix, a list file or tar files"
            )
        require_choices(self)
        require_bounds(self)
        if self.image_size is not None:
            for side in self.image_size:
                require_at_least("image_size", side, 1, "pixels")
        require_sense_of_dry_run(self)
        require_gpus("gpus_per_actor", self.gpus_per_actor)
        actor_range(self.actors)
        commit_interval(self.commit_every)
        failure_limit(self.max_failed, 1)

    @property
    def maintenance(self) -> bool:
        """Whether the run is a vacuum or a compaction, which look at no image."""
        return self.compact or self.vacuum is not None
