"""The features table on a real Delta log, on disk and in S3: commits, conflicts and readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from support.color_shards import put
from support.paths import environment_with_support

from benchmarks.support.s3_server import S3Server, _Handler
from benchmarks.support.specs import make_spec
from bottleneck.errors import ConflictError, TableError
from bottleneck.table import log
from bottleneck.table.columns import SCHEMA
from bottleneck.table.log import TableLog
from bottleneck.table.shards import write_shard
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable

SPEC = make_spec(backbone="channel-means", layer="means")
LOG_PUT = r"^PUT /[^?]*/_delta_log/\d+\.json"


def images(snapshot: Snapshot) -> list[str]:
    return sorted(snapshot.read(["image"])["image"].to_pylist())


def add(table: FeaturesTable, *names: str, **options: Any) -> Snapshot:
    return table.commit(base=table.snapshot(), add=[put(table.uri, *names)], run="tests", **options)


@pytest.fixture
def table(tmp_path: Path) -> FeaturesTable:
    return FeaturesTable.create(str(tmp_path / "table"), SPEC)


@pytest.fixture
def place(s3: S3Server) -> str:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(bucket)
    return f"s3://{bucket}/lake/table"


@pytest.fixture(params=["disk", pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow])])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "lake" / "table")
    found: str = request.getfixturevalue("place")
    return found


_COMMITTER = """
import json, sys
from bottleneck.table import log
from bottleneck.table.table import FeaturesTable
from support.color_shards import put
uri, image, attempts = sys.argv[1:4]
log._ATTEMPTS = int(attempts)
table = FeaturesTable.open(uri)
base = table.snapshot()
shard = put(uri, image)
print("ready", flush=True)
sys.stdin.readline()
try:
    after = table.commit(base=base, add=[shard], run=image)
    print(json.dumps(["landed", after.version, after.rows]), flush=True)
except Exception as e:
    print(json.dumps([type(e).__name__, str(e)]), flush=True)
"""


class Committer:
    """A process that has planned and written, and commits when told.

    A process, because delta-rs holds Python's lock while it reads the history, so that the S3
    server of this process could not answer.
    """

    def __init__(self, uri: str, image: str, attempts: int = log._ATTEMPTS) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMITTER, uri, image, str(attempts)],
            env=environment_with_support(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def outcome(self, timeout_s: float = 300) -> list[Any]:
        try:
            printed, _ = self.process.communicate(timeout=timeout_s)
        finally:
            self.process.kill()
        found: list[Any] = json.loads(printed.splitlines()[-1])
        return found


@pytest.fixture
def committers() -> Iterator[list[Committer]]:
    started: list[Committer] = []
    yield started
    for committer in started:
        committer.process.kill()
        committer.process.wait()


# Creating and opening


def test_a_new_table_is_empty_and_holds_the_specification(uri: str) -> None:
    assert FeaturesTable.find(uri) is None
    FeaturesTable.create(uri, SPEC)
    snapshot = FeaturesTable.open(uri).snapshot()
    assert snapshot == Snapshot(uri, 0, SPEC, (), 0)
    assert (snapshot.rows, snapshot.size_bytes) == (0, 0)
    found = FeaturesTable.find(uri)
    assert found is not None and found.snapshot() == snapshot


def test_properties_and_schema_are_there_for_other_tools(table: FeaturesTable) -> None:
    delta = DeltaTable(table.uri)
    properties = delta.metadata().configuration
    assert properties.items() >= SPEC.to_properties().items()
    assert properties["delta.dataSkippingStatsColumns"] == "image"
    assert [field.name for field in delta.schema().fields] == SCHEMA.names
    assert {f.name for f in delta.schema().fields if not f.nullable} == {"image", "status"}


def test_a_local_folder_that_delta_misreads_is_refused(tmp_path: Path) -> None:
    """delta-rs reads %20 in a local path as a space and loses the table it creates."""
    uri = str(tmp_path / "per%20cent")
    with pytest.raises(TableError, match="%20") as caught:
        FeaturesTable.find(uri)
    assert type(caught.value) is TableError
    assert list(tmp_path.iterdir()) == []


def test_looking_for_a_table_makes_no_folder(tmp_path: Path) -> None:
    assert FeaturesTable.find(str(tmp_path / "none" / "table")) is None
    with pytest.raises(TableError) as caught:
        FeaturesTable.open(str(tmp_path / "none" / "table"))
    assert str(caught.value) == (
        f"there is no features table at {tmp_path}/none/table; "
        "make one with the extract job (--features), or check the address"
    )
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_create_it_one_wins(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    FeaturesTable.create(uri, SPEC)
    with pytest.raises(ConflictError, match=r"another run created .*table at the same moment"):
        FeaturesTable.create(uri, replace(SPEC, resize="pad"))
    assert FeaturesTable.open(uri).snapshot().spec == SPEC


def test_of_many_that_create_it_at_once_one_wins(tmp_path: Path) -> None:
    for number in range(5):
        uri = str(tmp_path / f"table{number}")
        outcomes = in_threads(
            [partial(FeaturesTable.create, uri, replace(SPEC, layer=str(i))) for i in range(4)]
        )
        winners = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, FeaturesTable)]
        assert len(winners) == 1
        assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 3
        assert FeaturesTable.open(uri).snapshot().spec.layer == str(winners[0])


def in_threads(calls: list[Any]) -> list[Any]:
    """Results or exceptions of calls that start at the same moment."""
    outcomes: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def work(i: int) -> None:
        barrier.wait()
        try:
            outcomes[i] = calls[i]()
        except Exception as e:
            outcomes[i] = e

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("name", ["with space", "ü日", "p+q&r=s", "hash#q?x", "100%"])
def test_any_local_folder_name_will_do(tmp_path: Path, name: str) -> None:
    uri = str(tmp_path / name)
    assert FeaturesTable.find(uri) is None
    FeaturesTable.create(uri, SPEC)
    table = FeaturesTable.open(uri)
    assert images(add(table, "a", "b")) == ["a", "b"]
    assert len(DeltaTable(uri).to_pyarrow_table()) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["with space", "ü日", "p+q&r=s", "per%20cent", "hash#q"])
def test_any_key_in_a_bucket_will_do(s3: S3Server, place: str, name: str) -> None:
    uri = f"{place}/{name}"
    assert FeaturesTable.find(uri) is None
    table = FeaturesTable.create(uri, SPEC)
    assert images(add(table, "a", "b")) == ["a", "b"]
    assert FeaturesTable.open(uri).snapshot().rows == 2


def test_a_whole_bucket_may_be_the_table(s3: S3Server, place: str) -> None:
    uri = place.removesuffix("/lake/table")
    table = FeaturesTable.create(uri, SPEC)
    assert images(add(table, "a")) == ["a"]


def test_a_delta_table_of_somebody_else_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "sales")
    write_deltalake(uri, pa.table({"price": [1, 2]}))
    for opener in (FeaturesTable.open, FeaturesTable.find):
        with pytest.raises(TableError, match="not a features table") as caught:
            opener(uri)
        assert uri in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("file", "{uri} is a file; a table needs a folder"),
        (
            ["letter.txt", "shard-1.parquet"],
            "{uri} holds other things (letter.txt, shard-1.parquet, …) and no such table; "
            "give an empty or a new folder",
        ),
        (
            ["a", "b", "c", "d"],
            "{uri} holds other things (a, b, c, …) and no such table; "
            "give an empty or a new folder",
        ),
        ([], None),
        (["_delta_log", "shard-1.parquet"], None),
    ],
)
def test_a_place_must_be_free(tmp_path: Path, found: Any, message: str | None) -> None:
    place = tmp_path / "place"
    if found == "file":
        place.write_text("x")
    else:
        place.mkdir()
        for name in found:
            (place / name).mkdir() if name == "_delta_log" else (place / name).write_text("x")
    if message is None:
        assert FeaturesTable.find(str(place)) is None
        assert images(add(FeaturesTable.create(str(place), SPEC), "a")) == ["a"]
    else:
        with pytest.raises(TableError) as caught:
            FeaturesTable.find(str(place))
        assert str(caught.value) == message.format(uri=place)


def test_a_prefix_must_be_free(s3: S3Server, place: str) -> None:
    bucket, _, key = place.removeprefix("s3://").partition("/")
    s3.put_objects(bucket, {f"{key}/photo.jpg": b"x"})
    with pytest.raises(TableError, match=r"holds other things \(photo.jpg, …\)"):
        FeaturesTable.find(place)


@pytest.mark.parametrize("uri", ["ftp://host/x", "memory://x/y", "nosuch://a/b", "s3://"])
def test_addresses_that_no_table_can_have(uri: str) -> None:
    with pytest.raises(TableError) as caught:
        FeaturesTable.find(uri)
    assert str(caught.value).startswith((f"{uri} is not an address", "cannot use the"))
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_log_is_one_line(table: FeaturesTable) -> None:
    (Path(table.uri) / "_delta_log" / f"{0:020}.json").write_text("{not json")
    with pytest.raises(TableError) as caught:
        FeaturesTable.find(table.uri)
    assert table.uri in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(403, "AccessDenied", "privileges"), (404, "NoSuchBucket", "NoSuchBucket")],
)
def test_storage_that_refuses_is_one_telling_line(
    s3: S3Server, place: str, status: int, code: str, word: str
) -> None:
    s3.fail(status, match="lake", code=code)
    with pytest.raises(TableError) as caught:
        table = FeaturesTable.find(place) or FeaturesTable.create(place, SPEC)
        table.snapshot()
    message = str(caught.value)
    assert message.startswith(f"cannot use the table at {place}: ")
    assert "\n" not in message
    # What storage said, not only that it was "Generic S3 error".
    assert word in message


# Committing


def test_commits_add_and_remove_at_once(uri: str) -> None:
    table = FeaturesTable.create(uri, SPEC)
    one, two, three = put(uri, "c", "d"), put(uri, "a", "b"), put(uri, "a", "b2", "z")
    first = table.commit(base=table.snapshot(), add=[one, two], run="first", stats={"n": 1})
    assert first.shards == (two, one)
    assert (first.version, first.app_version, first.rows) == (1, 1, 4)
    assert first.size_bytes == one.size_bytes + two.size_bytes
    reader = FeaturesTable.open(uri)
    assert images(reader.snapshot()) == ["a", "b", "c", "d"]

    second = table.commit(base=first, add=[three], remove=[two], run="second")
    assert second.shards == (three, one)
    assert (second.version, second.app_version, second.rows) == (2, 2, 5)
    assert images(second) == ["a", "b2", "c", "d", "z"]
    # Who reads the old snapshot goes on reading it.
    assert images(first) == ["a", "b", "c", "d"]
    assert reader.snapshot() == first
    reader.refresh()
    assert reader.snapshot() == second

    third = table.commit(base=second, remove=[one, three], run="third")
    assert (third.version, third.rows, third.shards) == (3, 0, ())


def test_shards_are_told_with_their_bounds_by_any_opener(table: FeaturesTable) -> None:
    odd = ['q"uote', "é", "日本", "x" * 200]
    shard = put(table.uri, *sorted(odd))
    table.commit(base=table.snapshot(), add=[shard], run="r")
    assert FeaturesTable.open(table.uri).snapshot().shards == (shard,)


def test_of_two_from_one_snapshot_the_second_gets_nothing(table: FeaturesTable) -> None:
    base = table.snapshot()
    other = FeaturesTable.open(table.uri)
    after = add(other, "theirs")
    shard = put(table.uri, "ours")
    with pytest.raises(ConflictError) as caught:
        table.commit(base=base, add=[shard], run="late")
    assert str(caught.value) == (
        f"another run committed to {table.uri} first; "
        "nothing of this commit was applied, run again to continue from its result"
    )
    assert FeaturesTable.open(table.uri).snapshot() == after
    # Planned again, the same shard can be committed.
    again = table.commit(base=table.snapshot(), add=[shard], run="late")
    assert images(again) == ["ours", "theirs"]


def test_of_many_that_commit_at_once_exactly_one_wins(table: FeaturesTable) -> None:
    racers = 4
    for round_number in range(6):
        handles = [FeaturesTable.open(table.uri) for _ in range(racers)]
        bases = [handle.snapshot() for handle in handles]
        written = [put(table.uri, f"{round_number}-{i}") for i in range(racers)]
        outcomes = in_threads(
            [
                partial(handles[i].commit, base=bases[i], add=[written[i]], run=str(i))
                for i in range(racers)
            ]
        )
        winners = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, Snapshot)]
        assert len(winners) == 1, outcomes
        assert all(isinstance(o, ConflictError | Snapshot) for o in outcomes), outcomes
        snapshot = FeaturesTable.open(table.uri).snapshot()
        assert (snapshot.rows, snapshot.app_version) == (round_number + 1, round_number + 1)
        assert f"{round_number}-{winners[0]}" in images(snapshot)


def test_in_s3_exactly_one_wins_too(s3: S3Server, place: str, committers: list[Committer]) -> None:
    FeaturesTable.create(place, SPEC)
    committers += [Committer(place, image) for image in ("a", "b", "c")]
    for committer in committers:
        committer.wait_until_ready()
    s3.delay_s = 0.05
    for committer in committers:
        committer.go()
    outcomes = [committer.outcome() for committer in committers]
    assert sorted(outcome[0] for outcome in outcomes) == [
        "ConflictError",
        "ConflictError",
        "landed",
    ]
    s3.reset()
    snapshot = FeaturesTable.open(place).snapshot()
    winner = [
        image for image, outcome in zip("abc", outcomes, strict=True) if outcome[0] == "landed"
    ]
    assert images(snapshot) == winner


def test_a_commit_that_landed_is_not_called_a_conflict(
    table: FeaturesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may commit on top before the first one looks at the table again."""
    original = TableLog._write

    def write(self: TableLog, *arguments: Any) -> None:
        monkeypatch.setattr(TableLog, "_write", original)
        original(self, *arguments)
        add(FeaturesTable.open(self.uri), "theirs")

    monkeypatch.setattr(TableLog, "_write", write)
    ours = add(table, "ours")
    assert "ours" in images(ours)
    assert images(FeaturesTable.open(table.uri).snapshot()) == ["ours", "theirs"]


@pytest.mark.parametrize("fault", [500, 503, "reset"])
def test_errors_that_pass_are_waited_out(s3: S3Server, place: str, fault: Any) -> None:
    table = FeaturesTable.create(place, SPEC)
    base, shard = table.snapshot(), put(place, "a")
    s3.reset()
    s3.fail(fault, n_requests=3, match=LOG_PUT)
    after = table.commit(base=base, add=[shard], run="r")
    assert (after.version, images(after)) == (1, ["a"])
    assert len([r for r in s3.requests() if r.method == "PUT" and r.status != 200]) == 3


def test_a_commit_whose_answer_is_lost_counts_once(
    s3: S3Server, place: str, committers: list[Committer], monkeypatch: pytest.MonkeyPatch
) -> None:
    FeaturesTable.create(place, SPEC)
    committers.append(Committer(place, "a"))
    committers[0].wait_until_ready()
    answer, lost = _Handler._answer, []

    def lose(self: Any, status: int, *arguments: Any, **options: Any) -> None:
        if self.command == "PUT" and "_delta_log" in self.path and status == 200 and not lost:
            lost.append(self.path)
            self._hang_up()
        else:
            answer(self, status, *arguments, **options)

    monkeypatch.setattr(_Handler, "_answer", lose)
    committers[0].go()
    assert committers[0].outcome() == ["landed", 1, 1]
    assert len(lost) == 1
    assert images(FeaturesTable.open(place).snapshot()) == ["a"]


def test_a_conflict_whose_answer_is_lost_stays_a_conflict(
    s3: S3Server, place: str, committers: list[Committer]
) -> None:
    table = FeaturesTable.create(place, SPEC)
    committers.append(Committer(place, "late"))
    committers[0].wait_until_ready()
    add(table, "early")
    s3.fail("reset", n_requests=2, match="_delta_log")
    committers[0].go()
    assert committers[0].outcome()[0] == "ConflictError"
    assert images(FeaturesTable.open(place).snapshot()) == ["early"]


def test_storage_that_denies_the_log_is_one_line(
    s3: S3Server, place: str, committers: list[Committer]
) -> None:
    FeaturesTable.create(place, SPEC)
    # All five take eight seconds.
    committers.append(Committer(place, "a", attempts=2))
    committers[0].wait_until_ready()
    s3.fail(403, match=LOG_PUT)
    committers[0].go()
    kind, message = committers[0].outcome()
    assert kind == "TableError"
    assert message.startswith(f"cannot use the table at {place}: ")
    assert "\n" not in message
    s3.reset()
    assert FeaturesTable.open(place).snapshot().rows == 0


def test_a_shard_that_is_not_there_is_not_committed(uri: str) -> None:
    table = FeaturesTable.create(uri, SPEC)
    shard = put(uri, "a")
    base = table.snapshot()
    for wrong, found in (
        (replace(shard, path="shard-0.parquet"), "nothing"),
        (replace(shard, size_bytes=shard.size_bytes + 1), f"{shard.size_bytes} bytes"),
    ):
        with pytest.raises(TableError) as caught:
            table.commit(base=base, add=[put(uri, "b"), wrong], run="r")
        assert str(caught.value) == (
            f"shard {wrong.path} of {uri} should have {wrong.size_bytes} bytes "
            f"but storage has {found}; it was not committed, run again"
        )
    assert FeaturesTable.open(uri).snapshot() == base


def test_a_removed_shard_must_be_in_the_table(table: FeaturesTable) -> None:
    first = add(table, "a")
    stranger = put(table.uri, "b")
    with pytest.raises(ConflictError):
        table.commit(base=first, add=[put(table.uri, "c")], remove=[stranger], run="r")
    assert FeaturesTable.open(table.uri).snapshot() == first


def test_a_disk_that_refuses_the_log_is_one_line(
    table: FeaturesTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    base, shard = table.snapshot(), put(table.uri, "a")
    monkeypatch.setattr(TableLog, "_write", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(TableError) as caught:
        table.commit(base=base, add=[shard], run="r")
    assert "No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert FeaturesTable.open(table.uri).snapshot() == base


def test_other_tools_commits_in_between_do_no_harm(table: FeaturesTable) -> None:
    """Their log entries move the version, but no row that this run planned with."""
    base = add(table, "a")
    DeltaTable(table.uri).alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 9 days"}
    )
    table.vacuum(1)
    after = table.commit(base=base, add=[put(table.uri, "b")], run="r")
    assert after.version > base.version + 1
    assert (after.app_version, images(after)) == (2, ["a", "b"])


def test_a_long_history_keeps_everything(table: FeaturesTable) -> None:
    """Past a hundred commits delta-rs sums the log up in a checkpoint."""
    shard = put(table.uri, "a")
    snapshot = table.commit(base=table.snapshot(), add=[shard], run="r")
    for number in range(104):
        snapshot = table.commit(base=snapshot, run=f"empty {number}")
    assert any((Path(table.uri) / "_delta_log").glob("*.checkpoint*.parquet"))
    opened = FeaturesTable.open(table.uri)
    assert opened.snapshot() == snapshot
    assert (snapshot.app_version, snapshot.shards) == (105, (shard,))
    assert [record.run for record in opened.commits(2)] == ["empty 103", "empty 102"]
    assert images(opened.snapshot(version=1)) == ["a"]


# History and older versions


def test_snapshots_by_version_and_by_time(uri: str) -> None:
    table = FeaturesTable.create(uri, SPEC)
    one = add(table, "a")
    time.sleep(1.1)  # S3 tells whole seconds
    between = datetime.now(UTC)
    time.sleep(1.1)
    two = add(table, "b")
    assert table.snapshot(version=0).rows == 0
    assert table.snapshot(version=1) == one
    assert table.snapshot(version=2) == two == table.snapshot()
    assert table.snapshot(as_of=between) == one
    assert table.snapshot(as_of=between.astimezone()) == one
    assert table.snapshot(as_of=datetime.now(UTC)) == two
    assert table.snapshot(as_of=datetime.now(UTC) + timedelta(days=900)) == two


@pytest.mark.parametrize("version", [3, -1, 10**20])
def test_a_version_that_never_was(table: FeaturesTable, version: int) -> None:
    add(table, "a")
    with pytest.raises(TableError) as caught:
        table.snapshot(version=version)
    assert str(caught.value) == (
        f"{table.uri} has no version {version}; its newest is 1, "
        "and the oldest ones may have been cleaned up"
    )


def test_a_time_before_the_table_was(table: FeaturesTable) -> None:
    with pytest.raises(TableError, match="has no version 2001-01-01"):
        table.snapshot(as_of=datetime(2001, 1, 1, tzinfo=UTC))


def test_history_tells_our_commits_with_their_figures(table: FeaturesTable) -> None:
    assert table.commits() == []
    before = time.time()
    add(table, "a", stats={"images_per_s": 1.5, "statuses": {"ok": 1}, "text": 'é"'})
    table.vacuum(1)
    add(table, "b")
    newest, oldest = FeaturesTable.open(table.uri).commits()
    assert oldest.stats == {"images_per_s": 1.5, "statuses": {"ok": 1}, "text": 'é"'}
    assert (oldest.version, oldest.run) == (1, "tests")
    assert before - 1 <= oldest.timestamp_s <= newest.timestamp_s <= time.time() + 1
    assert newest.stats == {}
    assert newest.version == table.snapshot().version


# Vacuum


def test_vacuum_keeps_what_versions_and_runs_need(table: FeaturesTable) -> None:
    root = Path(table.uri)
    kept = add(table, "a", "b")
    replaced = kept.shards[0]
    new = put(table.uri, "a")
    now = table.commit(base=kept, add=[new], remove=[replaced], run="r")
    in_flight, orphan = put(table.uri, "c"), put(table.uri, "d")
    note = root / "_bottleneck" / "archives.json"
    note.parent.mkdir()
    note.write_text("{}")
    for path in (root / orphan.path, root / new.path, note):
        os.utime(path, (time.time() - 3 * 86_400,) * 2)

    assert table.vacuum(2) == 1
    left = {path.name for path in root.iterdir() if path.name.startswith("shard-")}
    assert left == {replaced.path, new.path, in_flight.path}
    assert note.exists()
    assert images(FeaturesTable.open(table.uri).snapshot()) == ["a"]
    assert images(table.snapshot(version=1)) == ["a", "b"]
    assert table.vacuum(2) == 0
    # A vacuum is no commit of ours: plans made before it hold.
    assert table.commit(base=now, add=[in_flight], run="r").rows == 2


def test_vacuum_in_s3(s3: S3Server, place: str) -> None:
    """Objects have the age that S3 says: fresh orphans stay."""
    code = (
        "import sys\n"
        "from bottleneck.table.table import FeaturesTable\n"
        "from support.color_shards import put\n"
        "table = FeaturesTable.open(sys.argv[1]); put(table.uri, 'orphan')\n"
        "print(table.vacuum(1), table.vacuum(0))"
    )
    table = FeaturesTable.create(place, SPEC)
    add(table, "a")
    done = subprocess.run(
        [sys.executable, "-c", code, place],
        env=environment_with_support(),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.split() == ["0", "1"]
    assert images(FeaturesTable.open(place).snapshot()) == ["a"]


# Other readers


def test_every_reader_sees_the_same_rows(table: FeaturesTable) -> None:
    import duckdb

    one = add(table, "a", "bb", "ccc")
    rows = pa.table(
        [["x"], ["cat"], ["test"], ["f"], [None], [None], [None], ["empty"], ["0 bytes"], [None]],
        schema=SCHEMA,
    )
    failed = write_shard(one.files, [rows])
    assert failed is not None
    put(table.uri, "an orphan that no reader may see")
    table.commit(
        base=one, add=[failed, put(table.uri, "a", "ccc")], remove=list(one.shards), run="r"
    )

    def features(image: str) -> list[float]:
        return [float(len(image)), float(sum(image.encode())), 0.5]

    wanted = [
        ("a", None, "ok", features("a")),
        ("ccc", None, "ok", features("ccc")),
        ("x", "cat", "empty", None),
    ]
    names = ["image", "label", "status", "features"]
    frame = pl.scan_delta(table.uri).select(names).sort("image").collect()
    assert frame.rows() == wanted
    assert frame.schema["features"] == pl.List(pl.Float32)
    picked = pl.scan_delta(table.uri).filter(pl.col("image") == "ccc").select("features").collect()
    assert picked.rows() == [(features("ccc"),)]

    delta = DeltaTable(table.uri)
    arrow = delta.to_pyarrow_dataset().to_table(columns=names).sort_by("image")
    assert [tuple(row.values()) for row in arrow.to_pylist()] == wanted
    dataset = delta.to_pyarrow_dataset()  # DuckDB finds it by this name
    assert dataset is not None
    found = duckdb.sql("SELECT image, label, status, features FROM dataset ORDER BY image")
    assert found.fetchall() == wanted

    pandas = delta.to_pandas().sort_values("image")
    assert pandas["image"].tolist() == ["a", "ccc", "x"]
    assert np.array_equal(pandas["features"].iloc[1], np.array(features("ccc"), np.float32))
    assert pandas["features"].iloc[2] is None
    old = pl.scan_delta(table.uri, version=1).select("image").collect()
    assert sorted(old["image"]) == ["a", "bb", "ccc"]


def test_every_reader_sees_the_rows_in_s3(s3: S3Server, place: str) -> None:
    """In a process of its own, since Polars may hold Python's lock while it waits for S3."""
    table = FeaturesTable.create(place, SPEC)
    add(table, "a", "bb")
    code = (
        "import os, sys, polars as pl; from deltalake import DeltaTable\n"
        "print(sorted(pl.scan_delta(sys.argv[1]).collect()['image']))\n"
        "print(sorted(DeltaTable(sys.argv[1]).to_pyarrow_table()['image'].to_pylist()))\n"
        # pyarrow's threads that call delta-rs back sometimes abort an interpreter that ends.
        "sys.stdout.flush(); os._exit(0)"
    )
    command = [sys.executable, "-c", code, place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.splitlines() == ["['a', 'bb']"] * 2
