"""One run at a time changes a table; one that died does not stand in the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from support.tables import write_table

from benchmarks.support.s3_server import S3Server
from benchmarks.support.specs import make_spec
from bottleneck.errors import ConflictError, TableBusyError
from bottleneck.extraction.config import ExtractConfig
from bottleneck.incremental.maintenance import maintain
from bottleneck.table import lease
from bottleneck.table.lease import Holder, Lease, require_free
from bottleneck.table.table import FeaturesTable

_VALUES = np.ones((4, 3), np.float32)


@pytest.fixture
def table(tmp_path: Path) -> FeaturesTable:
    write_table(tmp_path / "table", _VALUES, shards=(4,))
    return FeaturesTable.open(str(tmp_path / "table"))


def opened(table: FeaturesTable) -> FeaturesTable:
    """The same table as another process sees it."""
    return FeaturesTable.open(table.uri)


def hold_elsewhere(table: FeaturesTable, monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    """Has a run of another machine begin, and never end."""
    with monkeypatch.context() as patch:
        patch.setattr(lease.socket, "gethostname", lambda: "elsewhere")
        Lease(table.log, run).__enter__()


def ends_ms(table: FeaturesTable) -> int:
    return opened(table).log.lease_ends_ms


def ends_in_s(table: FeaturesTable) -> float:
    return ends_ms(table) / 1000 - time.time()


def test_a_second_run_leaves_at_once_and_says_who_is_at_work(table: FeaturesTable) -> None:
    with Lease(table.log, "first"):
        log = opened(table).log
        with pytest.raises(TableBusyError) as caught:
            require_free(log, take_over=False)
        with pytest.raises(TableBusyError), Lease(log, "second"):
            pass
    assert re.fullmatch(
        rf"run first \(process {os.getpid()} on \S+\) is at work on {table.uri}, last heard of "
        r"0:\d\d ago; let it finish. If it died elsewhere, the table is free in (5:00|4:\d\d), or "
        "at once with --take-over",
        str(caught.value),
    )
    assert caught.value.exit_code == 75


def test_a_lease_ends_with_its_run(table: FeaturesTable) -> None:
    with Lease(table.log, "first"):
        assert 240 < ends_in_s(table) <= 300
    assert ends_in_s(table) <= 0
    require_free(opened(table).log, take_over=False)
    with Lease(opened(table).log, "second"):
        assert ends_in_s(table) > 240


def test_a_lease_also_ends_with_a_run_that_fails(table: FeaturesTable) -> None:
    with pytest.raises(ValueError, match="boom"), Lease(table.log, "first"):
        raise ValueError("boom")
    assert ends_in_s(table) <= 0


def test_leases_are_no_commits(table: FeaturesTable) -> None:
    before = table.snapshot()
    with Lease(table.log, "first"):
        pass
    after = opened(table).snapshot()
    assert replace(after, version=before.version) == before
    assert after.version == before.version + 2
    assert [commit.run for commit in opened(table).commits()] == ["tests"]
    assert DeltaTable(table.uri).to_pyarrow_table().num_rows == 4


def test_a_commit_renews_the_lease_and_the_last_one_ends_it(table: FeaturesTable) -> None:
    with Lease(table.log, "first") as held:
        for last in (False, True):
            mark = held.next_mark(last=last)
            base = opened(table).snapshot()
            after = table.commit(base=base, run="first", mark=mark)
            held.record(mark)
            assert after.version == base.version + 1
            assert (ends_in_s(table) > 240) is not last
    # Nothing was left to release.
    assert opened(table).snapshot().version == after.version


def test_a_table_is_created_with_the_lease_of_its_run(tmp_path: Path) -> None:
    uri = str(tmp_path / "new")
    table = FeaturesTable.create(uri, make_spec((3,)), Lease.first_mark("first"))
    with pytest.raises(TableBusyError, match="run first "):
        Lease(FeaturesTable.open(uri).log, "second").__enter__()
    with Lease(table.log, "first"):
        assert FeaturesTable.open(uri).snapshot().version == 0


def test_a_lease_that_nobody_renewed_is_over(
    table: FeaturesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_elsewhere(table, monkeypatch, "dead")
    with pytest.raises(TableBusyError, match=r"run dead \(process \d+ on elsewhere\) is at work"):
        require_free(opened(table).log, take_over=False)
    log, later = opened(table).log, time.time() + 301
    monkeypatch.setattr(lease.time, "time", lambda: later)
    require_free(log, take_over=False)


def test_a_process_of_this_machine_that_is_gone_holds_nothing(table: FeaturesTable) -> None:
    code = (
        "import os, sys\n"
        "from bottleneck.table.table import FeaturesTable\n"
        "from bottleneck.table.lease import Lease\n"
        "Lease(FeaturesTable.open(sys.argv[1]).log, 'killed').__enter__()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, table.uri], check=False)
    assert done.returncode == -9
    log = opened(table).log
    assert ends_in_s(table) > 250
    assert Holder.from_json(log.holder() or "").run == "killed"
    require_free(log, take_over=False)
    with Lease(log, "next"):
        assert Holder.from_json(opened(table).log.holder() or "").run == "next"


def test_a_process_is_known_by_more_than_its_number() -> None:
    mine = Holder.of("run")
    assert not mine.gone
    assert replace(mine, started_s=mine.started_s - 60).gone
    assert not replace(mine, host="elsewhere", pid=2**22).gone
    assert not replace(mine, boot="another", pid=2**22).gone
    assert Holder.from_json(mine.to_json()) == mine


def test_a_lease_can_be_taken_over_and_its_run_notices(
    table: FeaturesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.0)
    with Lease(table.log, "first") as first:
        other = opened(table)
        require_free(other.log, take_over=True)
        with Lease(other.log, "second", take_over=True):
            with pytest.raises(ConflictError):
                table.commit(base=table.snapshot(), run="first", mark=first.next_mark())
            with pytest.raises(TableBusyError, match=r"another run took .* over; what this one"):
                first.renew_if_due()
            other.commit(base=other.snapshot(), run="second")
    assert [commit.run for commit in opened(table).commits()] == ["second", "tests"]


def test_renewal_goes_on_beside_commits_of_others(
    table: FeaturesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lease(table.log, "first") as held:
        version = opened(table).snapshot().version
        held.renew_if_due()
        assert opened(table).snapshot().version == version
        monkeypatch.setattr(lease, "RENEW_S", 0.0)
        other = opened(table)
        other.commit(base=other.snapshot(), run="other")
        before = ends_ms(table)
        held.renew_if_due()
        assert ends_ms(table) > before
        assert Holder.from_json(opened(table).log.holder() or "").run == "first"


def test_storage_that_fails_does_not_end_a_run_at_a_renewal(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.0)
    s3.create_bucket("lease")
    table = FeaturesTable.create("s3://lease/table", make_spec((3,)), Lease.first_mark("first"))
    with Lease(table.log, "first") as held:
        s3.fail(403, match="_delta_log", code="AccessDenied")
        held.renew_if_due()
        assert "cannot renew the lease: cannot use the table at s3://" in caplog.text
        s3.reset()
        held.renew_if_due()
    assert ends_in_s(table) <= 0


def test_a_lease_whose_entry_is_no_longer_there_still_counts(
    table: FeaturesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_elsewhere(table, monkeypatch, "first")
    DeltaTable(table.uri).create_checkpoint()
    for entry in (Path(table.uri) / "_delta_log").glob("*.json"):
        entry.unlink()
    with pytest.raises(TableBusyError, match=r"^another run is at work on "):
        require_free(opened(table).log, take_over=False)


@pytest.mark.parametrize("step", [{"vacuum": 7}, {"compact": True}])
def test_maintenance_leaves_a_table_to_the_run_that_is_at_work(
    table: FeaturesTable, monkeypatch: pytest.MonkeyPatch, step: dict[str, Any]
) -> None:
    hold_elsewhere(table, monkeypatch, "night")
    before = opened(table).snapshot().version
    with pytest.raises(TableBusyError, match=r"^run night \(process \d+ on elsewhere\)"):
        maintain(ExtractConfig(features=table.uri, **step))
    assert opened(table).snapshot().version == before
    done = maintain(ExtractConfig(features=table.uri, take_over=True, **step))
    assert done.outcome in ("vacuumed", "compacted")


def test_the_log_tells_other_tools_who_holds_it(table: FeaturesTable) -> None:
    with Lease(table.log, "first"):
        newest = sorted((Path(table.uri) / "_delta_log").glob("*.json"))[-1]
        lines = [json.loads(line) for line in newest.read_text().splitlines()]
    info = next(line["commitInfo"] for line in lines if "commitInfo" in line)
    assert json.loads(info["bottleneck.lease"])["run"] == "first"
    assert next(line["txn"]["appId"] for line in lines if "txn" in line) == "bottleneck-lease"
