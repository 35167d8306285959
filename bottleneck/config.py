"""Configuration of the jobs: frozen dataclasses, validated when made.

Every field is a flag of the job and a key of its ``--config`` file. The docstrings below are the
text of ``--help``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bottleneck.errors import ConfigError

Layout = Literal["auto", "flat", "label", "split-label"]
Resize = Literal["squash", "crop", "pad"]
Decode = Literal["fast", "exact"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Pooling = Literal["none", "avg", "max"]
Preprocessing = Literal["own", "rescale"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


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
    max_pixels: int = 178_956_970
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


#: (field, smallest value allowed, unit); None values are not checked.
_LOWER_BOUNDS: tuple[tuple[str, float, str], ...] = (
    ("max_pixels", 1, "pixels"),
    ("max_image_mb", 0.001, "megabytes"),
    ("gpus_per_actor", 0, "GPUs"),
    ("cpus_per_actor", 0.1, "CPUs"),
    ("batch_size", 1, "images"),
    ("fetch_concurrency", 1, "reads"),
    ("fetch_timeout_s", 0.1, "seconds"),
    ("shard_mb", 0.001, "megabytes"),
    ("node_hour_price", 0, "per hour"),
    ("vacuum", 1, "days"),
)


def require_choices(config: Any) -> None:
    """Refuses words that a flag does not know; the command line does so by itself.

    Raises:
        ConfigError: A field has a value that is none of its type's.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        kinds = [hints[field.name], *get_args(hints[field.name])]
        allowed = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        value = getattr(config, field.name)
        if allowed and value is not None and value not in allowed:
            raise ConfigError(
                f"{flag_of(field.name)} {value!r} is not allowed; give {', '.join(allowed)}"
            )


def require_bounds(config: Any) -> None:
    """Refuses numbers below what the flags that jobs share allow.

    Raises:
        ConfigError: One is lower, or not finite.
    """
    for name, lowest, unit in _LOWER_BOUNDS:
        require_at_least(name, getattr(config, name, None), lowest, unit)


def require_sense_of_dry_run(config: Any) -> None:
    """Refuses flags that mean nothing with or without ``--dry-run``.

    Raises:
        ConfigError: One is given.
    """
    if config.node_hour_price is not None and not config.dry_run:
        raise ConfigError("--node-hour-price only matters to --dry-run; add it or drop this")
    if config.take_over and config.dry_run:
        raise ConfigError("--dry-run takes nothing over, it writes nothing; drop --take-over")


def require_at_least(name: str, value: Any, lowest: float, unit: str) -> None:
    """Refuses a number below what a flag allows; None passes.

    Raises:
        ConfigError: It is lower, or not finite.
    """
    if value is not None and not (math.isfinite(value) and value >= lowest):
        raise ConfigError(f"{flag_of(name)} {value} is not allowed; give {lowest:g} {unit} or more")


def require_gpus(name: str, gpus: float | None) -> None:
    """Refuses a number of GPUs that Ray does not give: more than one, and not whole.

    Raises:
        ConfigError: It is.
    """
    if gpus is not None and gpus > 1 and not float(gpus).is_integer():
        raise ConfigError(
            f"{flag_of(name)} {gpus} is not allowed; give a whole number, or a fraction of one GPU "
            "such as 0.5"
        )


def flag_of(name: str) -> str:
    """Returns the flag of a field, such as ``--batch-size``."""
    return "--" + name.replace("_", "-")


def field_names(config_type: type[Any]) -> tuple[str, ...]:
    """Returns the names that a configuration file for this type may hold."""
    return tuple(field.name for field in fields(config_type))


def actor_range(text: str | None) -> tuple[int, int] | None:
    """Reads ``--actors``: N or MIN:MAX.

    Returns:
        (min, max), or None when not given.

    Raises:
        ConfigError: It is neither, or not 1 <= MIN <= MAX.
    """
    return None if text is None else _range("actors", text)


def worker_range(text: str) -> tuple[int, int]:
    """Reads ``--workers``: N or MIN:MAX.

    Returns:
        (min, max).

    Raises:
        ConfigError: It is neither, or not 1 <= MIN <= MAX.
    """
    return _range("workers", text)


def _range(name: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text.strip())
    if match:
        low = int(match[1])
        high = int(match[2]) if match[2] else low
        if 1 <= low <= high:
            return low, high
    raise ConfigError(
        f"{flag_of(name)} {text!r} is not allowed; give N or MIN:MAX with 1 <= MIN <= MAX"
    )


@dataclass(frozen=True)
class CommitInterval:
    """When to commit: after `seconds` or `shards`, whichever is set."""

    seconds: float = math.inf
    shards: float = math.inf


def commit_interval(text: str) -> CommitInterval:
    """Reads ``--commit-every``: a time or a number of shards.

    Raises:
        ConfigError: It is neither, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|shards?)", text.strip())
    if match and float(match[1]) > 0:
        number, unit = float(match[1]), match[2]
        if unit.startswith("shard"):
            if number.is_integer():
                return CommitInterval(shards=number)
        else:
            return CommitInterval(seconds=number * {"s": 1, "m": 60, "h": 3600}[unit])
    raise ConfigError(
        f"--commit-every {text!r} is not allowed; give a time such as 90s, 5m or 1h, "
        "or a number of shards such as '20 shards'"
    )


def failure_limit(text: str, tried: int) -> int:
    """Reads ``--max-failed``: how many of `tried` images may fail.

    Raises:
        ConfigError: It is neither a count nor a share between 0 and 100 %.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if match:
        # Fractions, since 29 % of 100 must be 29 and not 28.999….
        number = Fraction(match[1])
        if not match[2] and "." not in match[1]:
            return int(number)
        share = number / 100 if match[2] else number
        if share <= 1:
            return math.floor(share * tried)
    raise ConfigError(
        f"--max-failed {text!r} is not allowed; give a number of images such as 100, "
        "or a share such as 10% or 0.1"
    )
