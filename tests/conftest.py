"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from s3_server import S3Server

from bottleneck import cluster


@pytest.fixture(scope="session")
def s3_session() -> Iterator[S3Server]:
    """One S3 server for the session, with the environment pointing at it."""
    with S3Server() as server, server.environ():
        yield server


@pytest.fixture
def s3(s3_session: S3Server) -> Iterator[S3Server]:
    """The session's S3 server with counts, faults and delay cleared before and after the test."""
    s3_session.reset()
    yield s3_session
    s3_session.reset()


@pytest.fixture(scope="session")
def ray_session(s3_session: S3Server) -> Iterator[None]:
    """One embedded Ray for the session; its workers know the S3 server."""
    cluster.connect("local")
    yield
    ray.shutdown()


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the project; in CI it must be there."""
    if not SHARED.is_dir():
        message = "needs ../shared (real photos and weights), which is not here"
        if os.environ.get("BOTTLENECK_REQUIRE_SHARED"):
            pytest.fail(message)
        pytest.skip(message)
    return SHARED
