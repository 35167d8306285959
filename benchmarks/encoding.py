"""Features as Parquet: bytes per image, and how fast they are written and read, by encoding.

Run it as .venv/bin/python -m benchmarks.encoding. Features are real as far as weights can be had
without a network:

* MobileNet (alpha 0.25) with ImageNet's weights, maps and averages over them;
* VGG16 with ImageNet's weights: the block5_pool output that somebody published, of one photo;
* VGG16 with the real kernels of its first two blocks and seeded random ones behind them, which
  shows why random weights say nothing of size: ImageNet's leave 10 % of its map above zero,
  random ones 64 %.

Values are as computed in float32, or rounded to 16 bits, which is what the job stores after
computing in 16 bits.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.support.images import small_photos
from benchmarks.support.paths import SHARED
from benchmarks.support.results import CommonSettings, Result
from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.images.decoding import decode
from bottleneck.table import columns

_MOBILENET = SHARED / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
_VGG16_BLOCKS = SHARED / "weights" / "vgg16_partial_blocks12.npz"
_VGG16_GOLDEN = SHARED / "data" / "vgg16_golden" / "fc_input_flatten.txt"

_AIM_SHARE = 0.20

Features = npt.NDArray[np.float32]

#: How a Parquet file is written, by name; `ours` is what
#: :class:`bottleneck.table.shards.ShardWriter` does to the column `features`.
_ZSTD: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": False,
    "write_statistics": False,
}
_OURS = "zstd-3 (ours)"
_ENCODINGS: dict[str, dict[str, Any]] = {
    "pyarrow's defaults": {},
    _OURS: _ZSTD,
    "zstd-3, byte stream split": {
        **_ZSTD,
        "column_encoding": {"features.list.element": "BYTE_STREAM_SPLIT"},
    },
}


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures bytes per image and speed of the encodings on real features.

    Attributes:
        mobilenet_images: Photos through MobileNet (alpha 0.25).
        vgg16_images: Photos through VGG16; 0 leaves it out.
        repeat: Times that each is written and read; the median counts.
    """

    mobilenet_images: int = 1024
    vgg16_images: int = 64
    repeat: int = 3


@dataclass(frozen=True)
class _Sample:
    """Features to store.

    Attributes:
        name: Of which backbone, with which weights.
        kind: ``map`` or ``vector``, as in `bottleneck.table.shards`.
        trained: Whether all weights are ImageNet's, so that the size is one to expect.
        values: (N, length) float32.
    """

    name: str
    kind: str
    trained: bool
    values: Features


def main(settings: Settings) -> None:
    result = Result("encoding", settings.to_json())
    table = result.table("Features as Parquet, by encoding")
    shares: dict[tuple[str, str, str], float] = {}
    for sample in _samples(settings):
        for rounding, round_values in _ROUNDINGS.items():
            values = round_values(sample.values)
            for encoding, options in _ENCODINGS.items():
                row = _measure(values, options, 1 if settings.smoke else settings.repeat)
                table.add(
                    features=sample.name,
                    images=len(values),
                    zeros=round(float((values == 0).mean()), 3),
                    values=rounding,
                    encoding=encoding,
                    **row,
                )
                if encoding == _OURS and sample.trained:
                    shares[sample.name, sample.kind, rounding] = row["share_of_raw"]
    estimates = result.table(
        "Share of raw: what bottleneck.shards expects, and measured with ImageNet weights"
    )
    for kind in ("map", "vector"):
        for rounding in _ROUNDINGS:
            found = [share for (_, k, r), share in shares.items() if (k, r) == (kind, rounding)]
            estimates.add(
                features=kind,
                values=rounding,
                expected=_expected_share(kind, rounding),
                smallest=min(found, default=None),
                largest=max(found, default=None),
            )
    for (name, kind, rounding), share in shares.items():
        if kind == "map":
            result.target(f"{name}, {rounding}: share of raw", share, _AIM_SHARE, at_most=True)
    result.finish(settings.results)


def _samples(settings: Settings) -> Iterator[_Sample]:
    config = BackboneConfig("mobilenet", alpha=0.25, weights="random:0", precision="float32")
    what, trained = "MobileNet 0.25, random weights", False
    if settings.smoke:
        config = dataclasses.replace(config, image_size=(64, 64))
    elif _MOBILENET.is_file():
        config = dataclasses.replace(config, weights=str(_MOBILENET))
        what, trained = "MobileNet 0.25, ImageNet weights", True
    maps = _compute(Backbone(config), 8 if settings.smoke else settings.mobilenet_images)
    yield from _map_and_average(what, trained, maps)
    if settings.smoke:
        return
    if _VGG16_GOLDEN.is_file():
        golden = np.loadtxt(_VGG16_GOLDEN, dtype=np.float32).reshape(1, 7, 7, 512)
        yield from _map_and_average("VGG16, ImageNet weights", True, golden)
    if settings.vgg16_images:
        backbone = Backbone.of("vgg16", weights="random:0", precision="float32")
        what = "VGG16, random weights"
        if _VGG16_BLOCKS.is_file():
            _load_real_kernels(backbone.model)
            what = "VGG16, blocks 1–2 real, rest random"
        yield from _map_and_average(what, False, _compute(backbone, settings.vgg16_images))


def _map_and_average(name: str, trained: bool, maps: Features) -> Iterator[_Sample]:
    yield _Sample(name, "map", trained, maps.reshape(len(maps), -1))
    yield _Sample(f"{name}, avg pooled", "vector", trained, maps.mean(axis=(1, 2)))


def _compute(backbone: Backbone, count: int) -> Features:
    options = backbone.decode_options()
    pixels = [decode(data, options).pixels for data in small_photos(count)[1]]
    return backbone(np.stack([image for image in pixels if image is not None]))


def _load_real_kernels(model: Any) -> None:
    """Puts the real kernels of blocks 1 and 2 into a VGG16; the compiled function sees them."""
    stored = np.load(_VGG16_BLOCKS, allow_pickle=False)
    layers = {layer.name: layer for layer in model._flatten_layers()}
    for block in (1, 2):
        for number in (1, 2):
            name = f"block{block}_conv{number}"
            layers[name].set_weights([stored[f"{name}/kernel"], stored[f"{name}/bias_fixed16"]])


def _to_bfloat16(values: Features) -> Features:
    """Rounds to the nearest bfloat16, ties to even, kept as float32."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


_ROUNDINGS: dict[str, Callable[[Features], Features]] = {
    "float32": lambda values: values,
    "bfloat16": _to_bfloat16,
    "float16": lambda values: values.astype(np.float16).astype(np.float32),
}


def _expected_share(kind: str, rounding: str) -> float:
    return columns._ENCODED_SHARE[kind, rounding == "float32"]


def _measure(values: Features, options: dict[str, Any], repeat: int) -> dict[str, float]:
    """Writes and reads one column of features in row groups as the table has them."""
    array = columns.features_array(values, np.ones(len(values), dtype=bool))
    table = pa.table({"features": array}, schema=pa.schema([columns.SCHEMA.field("features")]))
    group_rows = columns.row_group_rows(values.shape[1])
    written, read = [], []
    with tempfile.TemporaryDirectory(prefix="bench-encoding-") as folder:
        path = Path(folder) / "features.parquet"
        for _ in range(repeat):
            began = time.perf_counter()
            pq.write_table(table, path, row_group_size=group_rows, store_schema=False, **options)
            written.append(time.perf_counter() - began)
            began = time.perf_counter()
            for rows in _read_row_groups(path):
                columns.to_numpy(rows["features"], (values.shape[1],))
            read.append(time.perf_counter() - began)
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
            stored = sum(group.column(0).total_compressed_size for group in groups)
    megabytes = values.nbytes / 1e6
    return {
        "bytes_per_image": round(stored / len(values)),
        "share_of_raw": round(stored / values.nbytes, 3),
        "write_MB_s": round(megabytes / statistics.median(written), 1),
        "read_MB_s": round(megabytes / statistics.median(read), 1),
    }


def _read_row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main(tyro.cli(Settings))
