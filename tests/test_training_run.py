"""How a training is laid out over a cluster, without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from bottleneck.errors import ConfigError
from bottleneck.training.config import TrainConfig
from bottleneck.training.job import _at_earlier_version
from bottleneck.training.ray_train import _size_workers, _Workers

SMALL: Mapping[str, float] = {"CPU": 4.0}
LARGE: Mapping[str, float] = {"CPU": 32.0}
GPU: Mapping[str, float] = {"CPU": 8.0, "GPU": 2.0}
HEAD: Mapping[str, float] = {"CPU": 0.0}


def config(**flags: object) -> TrainConfig:
    return TrainConfig(features="table", model="model", **flags)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "flags", "wanted"),
    [
        # No worker is larger than a node, however many CPUs there are in all.
        ([SMALL] * 4, {}, _Workers(1, 4.0, 0.0)),
        ([SMALL] * 4, {"workers": "4"}, _Workers(4, 4.0, 0.0)),
        ([SMALL] * 4, {"workers": "5"}, _Workers(5, 2.0, 0.0)),
        ([SMALL] * 4, {"workers": "16"}, _Workers(16, 1.0, 0.0)),
        ([HEAD, LARGE], {"workers": "2"}, _Workers(2, 8.0, 0.0)),
        ([SMALL, LARGE], {"workers": "2:6"}, _Workers((2, 6), 8.0, 0.0)),
        ([HEAD, GPU, GPU], {"workers": "4"}, _Workers(4, 1.0, 1.0)),
        ([HEAD, GPU], {"workers": "2", "gpus_per_worker": 0.0}, _Workers(2, 4.0, 0.0)),
        ([SMALL], {"workers": "2", "cpus_per_worker": 1.5}, _Workers(2, 1.5, 0.0)),
    ],
)
def test_a_worker_fits_a_node(
    nodes: Sequence[Mapping[str, float]], flags: dict[str, object], wanted: _Workers
) -> None:
    found = _size_workers(config(**flags), nodes)
    assert found == wanted
    assert found.threads >= 1


def test_what_no_node_has_room_for_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        _size_workers(config(workers="3", cpus_per_worker=4.0), [SMALL, {"CPU": 3.0}])
    assert str(caught.value) == (
        "--workers 3: the cluster has room for 1 workers of 4 CPUs and 0 GPUs (7 CPUs, 0 GPUs in "
        "all); lower --workers, --cpus-per-worker or --gpus-per-worker"
    )


@pytest.mark.parametrize(
    ("flags", "asked"),
    [({"version": 9}, "--version 9"), ({"as_of": "2026-01-31T06:00+00:00"}, "--as-of")],
)
def test_a_stopped_training_goes_on_with_its_own_version(
    flags: dict[str, object], asked: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _at_earlier_version(config(resume=True, **flags), 4)
    assert str(caught.value) == (
        "--resume goes on with version 4 of the table, which the stopped training was begun with; "
        f"drop {asked}"
    )
    assert _at_earlier_version(config(resume=True), 4).version == 4
    assert _at_earlier_version(config(resume=True, version=4), 4).version == 4
