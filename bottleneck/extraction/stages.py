"""The second stage of the extract job: images to features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.pipeline.blocks import block_pixels
from bottleneck.pipeline.stages import Compute
from bottleneck.table.columns import features_array


@dataclass(frozen=True)
class BackboneNetwork:
    """A backbone that actors load: `pixels` to `features`.

    Attributes:
        backbone: The backbone, its precision decided.
        row_length: Values of one image's features.
        weights_bytes: Size of its weights in float32.
    """

    backbone: BackboneConfig
    row_length: int
    weights_bytes: int

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the images that the backbone takes."""
        return self.backbone.input_size

    def load(self, *, batch_size: int, threads: int) -> Compute:
        """Builds the backbone; see :class:`bottleneck.pipeline.stages.Network`."""
        backbone = Backbone(self.backbone, batch_size=batch_size, threads=threads)

        def compute(block: pa.Table) -> Mapping[str, pa.Array]:
            pixels, valid = block_pixels(block, self.image_size)
            features = backbone(pixels).reshape(len(pixels), self.row_length)
            return {"features": features_array(features, valid)}

        return compute
