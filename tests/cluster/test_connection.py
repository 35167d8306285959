"""Connecting to Ray, and the nodes of a cluster: those that are alive and those that may come."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import ray

from bottleneck.cluster import connection
from bottleneck.console.interruption import Interruption
from bottleneck.errors import RunFailedError


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: Any) -> None:
        raise ConnectionError("Could not reach it\nand a stack of other lines")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(RunFailedError) as caught:
        connection.connect("ray://nowhere:10001")
    assert str(caught.value) == (
        "cannot reach Ray at ray://nowhere:10001: Could not reach it; "
        "check --address and that the cluster is up"
    )


@pytest.mark.parametrize(
    ("address", "environment", "wanted"),
    [
        (None, None, "local"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "10.0.0.1:6379", "auto"),
    ],
)
def test_where_ray_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    environment: str | None,
    wanted: str,
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    if environment is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    connection.connect(address)
    assert asked[0]["address"] == wanted
    # Sizes are only told to a Ray of our own; credentials to none.
    assert ("num_cpus" in asked[0]) == (wanted == "local")
    assert "secret" not in str(asked)
    # The processes of our own have our environment; other machines are told a part of it.
    if wanted == "local":
        assert "runtime_env" not in asked[0]
    else:
        assert asked[0]["runtime_env"]["env_vars"]["KERAS_BACKEND"] == "jax"


def test_an_embedded_ray_that_starts_slowly_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[str] = []

    def init(**options: Any) -> None:
        tries.append(options["address"])
        if len(tries) < 3:
            raise TimeoutError("node timed out during startup")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(connection.time, "sleep", lambda seconds: None)
    connection.connect("local")
    assert tries == ["local"] * 3


def test_connecting_gives_the_signals_back_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[bool] = []

    def init(**options: Any) -> None:
        connected.append(True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does when it starts

    monkeypatch.setattr(ray, "is_initialized", lambda: bool(connected))
    monkeypatch.setattr(ray, "init", init)
    with Interruption() as interruption:
        own = signal.getsignal(signal.SIGTERM)
        for _ in range(2):
            # The second time this process is connected already.
            connection.connect("auto", interruption)
            assert signal.getsignal(signal.SIGTERM) == own
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert connected == [True]
