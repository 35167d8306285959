"""The choreography of a run: another attempt after a conflict, and what it may do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.support.specs import make_spec
from bottleneck.errors import ConflictError
from bottleneck.extraction.config import ExtractConfig
from bottleneck.incremental.job import Source, TableJob
from bottleneck.incremental.run import bring_up_to_date
from bottleneck.incremental.summary import Summary
from bottleneck.pipeline.stages import Stages
from bottleneck.sources.rows import LISTING_SCHEMA
from bottleneck.spec import FeatureSpec
from bottleneck.table.table import FeaturesTable


def job_that(lists: Callable[[ExtractConfig, Summary], None]) -> type[TableJob]:
    """Returns a job whose listing does what the test wants, and finds no image."""

    class Listing(TableJob[ExtractConfig, Summary]):
        table_type = FeaturesTable

        def source(self) -> Source:
            lists(self.config, self.summary)
            return Source(LISTING_SCHEMA.empty_table())

        def spec(self) -> FeatureSpec:
            return make_spec()

        def stages(self) -> Stages:
            raise AssertionError("there is nothing to compute")

    return Listing


@pytest.fixture
def config(tmp_path: Path) -> ExtractConfig:
    return ExtractConfig(images="i", features=str(tmp_path / "table"), take_over=True)


def test_a_run_that_is_overtaken_plans_again_and_takes_nothing_over_then(
    config: ExtractConfig,
) -> None:
    asked: list[bool] = []

    def lists(config: ExtractConfig, summary: Summary) -> None:
        asked.append(config.take_over)
        if len(asked) == 1:
            summary.failed.update(empty=1, unavailable=2)
            raise ConflictError("another run committed")

    summary = bring_up_to_date(job_that(lists), config, Summary.begin(config))
    # Committed failures stay; those without a row are tried again.
    assert (asked, summary.failed) == ([True, False], {"empty": 1})
    assert (summary.outcome, summary.seconds > 0) == ("unchanged", True)
    assert set(summary.stage_s) == {"list", "plan"}


def test_conflicts_end_the_run_after_some_attempts(config: ExtractConfig) -> None:
    asked: list[bool] = []

    def lists(config: ExtractConfig, summary: Summary) -> None:
        asked.append(config.take_over)
        raise ConflictError("another run committed")

    with pytest.raises(ConflictError, match="another run committed"):
        bring_up_to_date(job_that(lists), config, Summary.begin(config))
    assert asked == [True, False, False]
