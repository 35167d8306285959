"""The stages of the extract job: fetch and decode, then the backbone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.pipeline.blocks import pixels_of, with_inference_time
from bottleneck.pipeline.fetching import fetch_and_decode
from bottleneck.pipeline.stages import PipelineConfig
from bottleneck.table.columns import features_array


@dataclass(frozen=True)
class BackbonePipeline(PipelineConfig):
    """Images → features.

    Attributes:
        backbone: The backbone each actor holds.
    """

    backbone: BackboneConfig

    @property
    def stages(self) -> tuple[Callable[..., Iterator[pa.Table]], type]:
        """Fetching and decoding, then the backbone."""
        return fetch_and_decode, BackboneActor


class BackboneActor:
    """Second stage: deploys one :class:`~bottleneck.backbones.backbone.Backbone` in a Ray actor."""

    def __init__(self, config: BackbonePipeline, threads: int) -> None:
        self._config = config
        self._backbone = Backbone(config.backbone, batch_size=config.batch_size, threads=threads)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Replaces `pixels` by `features`."""
        began = time.perf_counter()
        pixels, valid = pixels_of(block, self._config.decode)
        if len(pixels):
            values = self._backbone(pixels).reshape(len(pixels), -1)
        else:
            values = np.empty((0, self._config.row_length), np.float32)
        result = block.drop_columns(["pixels"])
        result = result.append_column("features", features_array(values, valid))
        return with_inference_time(result, began)
