"""What the jobs share: another attempt after a conflict, and what it may do."""

from __future__ import annotations

import pytest

from bottleneck.console.interruption import Interruption
from bottleneck.errors import ConflictError
from bottleneck.extraction.config import ExtractConfig
from bottleneck.incremental.run import settle
from bottleneck.incremental.summary import Summary

CONFIG = ExtractConfig(images="i", features="f", take_over=True)


def test_a_run_that_is_overtaken_plans_again_and_takes_nothing_over_then() -> None:
    summary = Summary(run="r", source_uri="i", table_uri="f")
    asked: list[bool] = []

    def attempt(config: ExtractConfig, interruption: Interruption) -> None:
        asked.append(config.take_over)
        if len(asked) == 1:
            summary.failed.update(empty=1, unavailable=2)
            raise ConflictError("another run committed")

    settle(CONFIG, attempt, summary)
    # Committed failures stay; those without a row are tried again.
    assert (asked, summary.failed) == ([True, False], {"empty": 1})
    assert (summary.outcome, summary.seconds > 0) == ("done", True)


def test_conflicts_end_the_run_after_some_attempts() -> None:
    asked: list[bool] = []

    def attempt(config: ExtractConfig, interruption: Interruption) -> None:
        asked.append(config.take_over)
        raise ConflictError("another run committed")

    with pytest.raises(ConflictError, match="another run committed"):
        settle(CONFIG, attempt, Summary(run="r", source_uri="i", table_uri="f"))
    assert asked == [True, False, False]
