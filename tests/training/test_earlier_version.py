"""What a resumed training is begun with."""

from __future__ import annotations

import pytest

from bottleneck.errors import ConfigError
from bottleneck.training.config import TrainConfig
from bottleneck.training.job import _at_earlier_version


def config(**flags: object) -> TrainConfig:
    return TrainConfig(features="table", model="model", **flags)  # type: ignore[arg-type]


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
