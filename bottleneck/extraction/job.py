"""The extract job: images to a features table.

What is told here is the job's own: which backbone computes, what it makes, and what is remembered
of it. The run itself is :func:`bottleneck.incremental.run.bring_up_to_date`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from bottleneck.backbones.config import BackboneConfig
from bottleneck.cluster import calls, nodes
from bottleneck.cluster.sizing import ActorSizing, size_actors, size_batch
from bottleneck.console.redaction import redact_uri
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.known_backbone import knows_backbone, remember_backbone, settings_digest
from bottleneck.extraction.stages import BackboneNetwork
from bottleneck.images.options import DecodeOptions
from bottleneck.incremental.job import Source, TableJob, list_source
from bottleneck.incremental.maintenance import maintain
from bottleneck.incremental.run import bring_up_to_date
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline import probe
from bottleneck.pipeline.fetching import ImageReader, fetcher_of
from bottleneck.pipeline.stages import Stages
from bottleneck.spec import FeatureSpec, require_equal
from bottleneck.table.table import FeaturesTable, ImageTable


def extract(config: ExtractConfig) -> Summary:
    """Brings the features table up to date with the source, or only maintains it.

    Args:
        config: What to do. With ``vacuum`` or ``compact`` no image is looked at.

    Returns:
        What was done. An interrupted run returns too, with outcome ``interrupted``.

    Raises:
        BottleneckError: Something the user can mend, or the run could not finish; everything
            committed before stays.
    """
    if config.maintenance:
        return maintain(config)
    return bring_up_to_date(Extraction, config, Summary.begin(config))


class Extraction(TableJob[ExtractConfig, Summary]):
    """One attempt of the extract job."""

    table_type = FeaturesTable

    def source(self) -> Source:
        """Lists the images."""
        return list_source(self.config, self.snapshot)

    def spec(self) -> FeatureSpec:
        """Returns the specification of the features.

        An earlier run may have left a note that these settings make the table's own features. Then
        what there is to do can be told without a cluster, and often that is nothing.
        """
        if self.snapshot is not None:
            settings = settings_digest(self._backbone, self._decode)
            if knows_backbone(self.snapshot, settings):
                return self.snapshot.spec
        return self._description.spec

    def stages(self) -> Stages:
        """Returns the stages: fetch and decode, then the backbone."""
        spec = self._description.spec
        backbone = replace(self._backbone, precision=spec.precision)
        return Stages(
            reader=ImageReader(self._decode, fetcher_of(self.config)),
            network=BackboneNetwork(backbone, spec.length, self._description.weights_bytes),
            batch_size=size_batch(self.config.batch_size, self._actors.gpus, spec.image_size),
        )

    def finish(self, table: ImageTable) -> None:
        """Remembers what features the backbone makes, if this run found it out."""
        if "_description" not in vars(self):
            return
        spec = self._description.spec
        # The next run asks with the precision of the table.
        backbone = replace(self._backbone, precision=spec.precision)
        remember_backbone(table.uri, settings_digest(backbone, self._decode), spec)

    @cached_property
    def _backbone(self) -> BackboneConfig:
        """The backbone that was asked for; ``auto`` precision is that of the table, if any."""
        backbone = self.config.backbone_config
        if backbone.precision != "auto" or self.snapshot is None:
            return backbone
        return replace(backbone, precision=self.snapshot.spec.precision)

    @cached_property
    def _decode(self) -> DecodeOptions:
        """How images are decoded for the backbone."""
        return self._backbone.decode_options(
            resize=self.config.resize,
            decode=self.config.decode,
            interpolation=self.config.interpolation,
            max_pixels=self.config.max_pixels,
        )

    @cached_property
    def _actors(self) -> ActorSizing:
        """What the cluster gives each actor."""
        self.connect()
        return size_actors(self.config, nodes.possible_nodes())

    @cached_property
    def _description(self) -> probe.Description:
        """What the backbone is, told by a worker that built it once.

        Raises:
            BackboneError: It cannot be built.
            SpecMismatchError: Its features are not of the table's kind.
        """
        # Flags that fit no node are refused before a backbone is built.
        actors = self._actors
        where = {"num_cpus": 1.0}
        if self._backbone.precision == "auto":
            # What that means is up to the hardware that actors will have.
            where = {"num_cpus": actors.cpus, "num_gpus": actors.gpus}
        call = probe.describe.options(**where).remote(self._backbone, self._decode)
        described: probe.Description = calls.get_all([call])[0]
        if self.snapshot is not None:
            require_equal(described.spec, self.snapshot.spec, redact_uri(self.snapshot.table_uri))
        return described
