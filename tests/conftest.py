"""Fixtures shared by all tests."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from support.labeled import ThreeLabels, three_splits, write_labeled
from support.paths import SHARED

from benchmarks.support.s3_server import S3Server
from bottleneck.cli import run_job
from bottleneck.cluster import connection
from bottleneck.training.config import TrainConfig

# What the developer's shell has would be taken before what the tests set.
for _name in ("RAY_ADDRESS", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
    os.environ.pop(_name, None)


#: Fixture → marker of the tests that use it, directly or through another fixture.
_MARKERS = {"ray_session": "ray", "s3_session": "s3", "shared": "shared"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their fixtures, before `-m` selects."""
    for item in items:
        assert isinstance(item, pytest.Function)
        for fixture in _MARKERS.keys() & set(item.fixturenames):
            item.add_marker(_MARKERS[fixture])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test without its shared files; where they have to be, as in CI, it fails."""
    for marker in item.iter_markers("shared"):
        path = marker.args[0] if marker.args else SHARED
        if not path.exists():
            message = f"needs {Path('..') / path.relative_to(SHARED.parent)}, which is not here"
            if os.environ.get("BOTTLENECK_REQUIRE_SHARED"):
                pytest.fail(message)
            pytest.skip(message)


@pytest.fixture(autouse=True)
def _marked_as_what_it_uses(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lets no test start Ray, here or in another process, that is not marked as one."""
    if request.node.get_closest_marker("ray") is None:

        def refused(*args: object, **options: object) -> None:
            pytest.fail("this test starts Ray: mark it with @pytest.mark.ray")

        monkeypatch.setattr(ray, "init", refused)
        # Jobs in other processes look for this cluster, and say its name when there is none.
        monkeypatch.setenv("RAY_ADDRESS", "a-test-without-the-marker-ray:1")


@pytest.fixture(scope="session")
def s3_session() -> Iterator[S3Server]:
    """One S3 server for the session, with the environment pointing at it."""
    with S3Server() as server, server.environ():
        yield server


@pytest.fixture
def s3(s3_session: S3Server, request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """The session's S3 server with counts, faults and delay cleared before and after the test."""
    if request.node.get_closest_marker("s3") is None:
        pytest.fail("this test uses the S3 server: mark it with @pytest.mark.s3")
    s3_session.reset()
    yield s3_session
    s3_session.reset()


@pytest.fixture(scope="session")
def ray_session(s3_session: S3Server) -> Iterator[None]:
    """One embedded Ray for the session; its workers know the S3 server."""
    connection.connect("local")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def three_labels(s3_session: S3Server, ray_session: None) -> ThreeLabels:
    """A model to look at and to predict with: training one takes most of a minute."""
    from bottleneck.training.job import train

    s3_session.create_bucket("heads")
    features, model = "s3://heads/features", "s3://heads/model"
    write_labeled(features, three_splits(("red", "green", "blue"), 240))
    flags = [f"--features={features}", f"--model={model}", "--epochs=3", "--hidden=8",
             "--learning-rate=0.02", "--class-weights=balanced", "--log-json"]  # fmt: skip
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_job(TrainConfig, train, flags)
    return ThreeLabels(features, model, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the project."""
    return SHARED
