"""Configuration of the predict job: a frozen dataclass, validated when made."""

from __future__ import annotations

from dataclasses import dataclass

from bottleneck.config.checks import require_at_least, require_choices, require_gpus
from bottleneck.config.flags import require_bounds, require_sense_of_dry_run
from bottleneck.config.values import actor_range, commit_interval, failure_limit, parse_time
from bottleneck.errors import ConfigError
from bottleneck.images.options import DEFAULT_MAX_PIXELS
from bottleneck.sources.rules import Layout


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Applies a trained model to images, or its head to a features table, and keeps a table.

    Attributes:
        model: A model of jobs/train.py: a folder or URI; or imagenet:NAME, a whole
            keras.applications network such as imagenet:resnet50 with ImageNet's 1,000 classes.
        predictions: Where the predictions table is or will be: a folder, s3://, gs:// or abfs://.
        images: Where the images are: all sources that jobs/extract.py knows.
        features: A features table instead of images: only the head runs.
        version: Version of the features table; the newest when not given.
        as_of: The features table as it was at this time (ISO 8601).
        layout: What the folders of --images mean: `label`, `split-label`, `flat` or `auto`.
        top: Most probable labels kept for each image, with their probabilities.
        weights: Of imagenet:NAME: a file or URI instead of the weights that Keras downloads.
        report: Write an HTML page to this file or URI: counts, and where labels are known figures
            and the most confident mistakes as thumbnails.
        max_pixels: Images with more pixels are not decoded (`too_large`).
        max_image_mb: Files with more megabytes are not decoded (`too_large`).
        address: Ray cluster to use, such as `auto` or ray://host:10001. When not given, the
            environment variable RAY_ADDRESS, else an embedded Ray.
        actors: Number of models held by actors: N, or MIN:MAX to scale with the load.
        gpus_per_actor: GPUs of an actor, may be a fraction; 0 runs on CPUs. When not given, 1 if
            the cluster has GPUs, else 0.
        cpus_per_actor: CPUs of an actor. When not given, 0 with a GPU, else those of a node but
            one, 8 at most.
        batch_size: Images that a model computes at once. When not given, 32 on CPUs; on GPUs a
            power of two up to 128 whose activations fit 4 GB.
        fetch_concurrency: Reads in flight at a time in each fetching task.
        fetch_timeout_s: Seconds without a byte after which a read from an object store is tried
            again.
        commit_every: How often finished work is committed: a time (`90s`, `5m`, `1h`) or a number
            of shards (`20 shards`).
        shard_mb: Aimed size of a shard, in megabytes as written.
        keep_deleted: Keep rows whose image is no longer in the source.
        retry_failed: Compute images again that failed before, although they did not change.
        max_failed: Failures from which the run exits with 1, after committing the good images:
            a number, or a share of those that the run tries, such as `10%`.
        take_over: Start even though another run holds the table, one that is known to be dead; if
            it lives, it ends at its next commit.
        dry_run: Only print the plan. Files are read where only their content tells whether they are
            new.
        node_hour_price: Price of one node for one hour, for the cost in the plan.
        summary: Write the final summary to this file as JSON.
        log_json: Print log, progress and errors as JSON, one object a line, on the standard error
            stream. The summary stays as it is on the standard output.
    """

    model: str
    predictions: str
    images: str = ""
    features: str = ""
    version: int | None = None
    as_of: str | None = None
    layout: Layout = "auto"
    top: int = 5
    weights: str | None = None
    report: str | None = None
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
    shard_mb: float = 64.0
    keep_deleted: bool = False
    retry_failed: bool = False
    max_failed: str = "10%"
    take_over: bool = False
    dry_run: bool = False
    node_hour_price: float | None = None
    summary: str | None = None
    log_json: bool = False

    def __post_init__(self) -> None:
        for flag, value in (("--model", self.model), ("--predictions", self.predictions)):
            if not value:
                raise ConfigError(f"{flag} is empty; give an address")
        if bool(self.images) == bool(self.features):
            raise ConfigError(
                "give either --images (a source of images) or --features (a features table)"
            )
        if not self.features and (self.version is not None or self.as_of is not None):
            raise ConfigError("--version and --as-of belong to --features; drop them")
        if self.version is not None and self.as_of is not None:
            raise ConfigError("--version and --as-of name two versions; give one of them")
        if self.as_of is not None:
            parse_time(self.as_of)
        if self.features and self.model.startswith("imagenet:"):
            raise ConfigError(
                f"{self.model} has no head of its own for --features; give --images, or a model "
                "of jobs/train.py"
            )
        require_sense_of_dry_run(self)
        require_choices(self)
        require_bounds(self)
        require_gpus("gpus_per_actor", self.gpus_per_actor)
        require_at_least("top", self.top, 1, "labels")
        require_at_least("version", self.version, 0, "(a version)")
        actor_range(self.actors)
        commit_interval(self.commit_every)
        failure_limit(self.max_failed, 1)
