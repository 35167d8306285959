"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3_server import S3Server


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
