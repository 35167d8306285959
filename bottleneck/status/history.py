"""The contents of a features table and the history of its runs, read from the table, without Ray.

Every commit carries the figures of its run (:mod:`bottleneck.incremental.commits`), so the table's
own history is the only record needed. Besides that history only the `status` column of the newest
version is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from bottleneck.console.formatting import format_bytes
from bottleneck.console.outcome import Outcome
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import TableError
from bottleneck.images.statuses import OK, UNAVAILABLE
from bottleneck.spec import PREFIX
from bottleneck.status.config import StatusConfig
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.log import CommitRecord
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable

#: Number of versions whose size is read, beside the last one of each run: what a chart can show.
_GROWTH_POINTS = 60


@dataclass(frozen=True)
class Size:
    """Size of the table after a commit.

    Attributes:
        version: Delta version.
        time: Time of the commit, UTC.
        rows: Number of rows, failed images included.
        bytes: Size of all shards in bytes.
    """

    version: int
    time: datetime
    rows: int
    bytes: int


@dataclass(frozen=True)
class Run:
    """One run, as its commits record it.

    Attributes:
        run: Identity of the run.
        step: ``extract`` or ``compact``.
        source_uri: The source, without credentials; empty where no commit names one.
        first: Time of its first commit, UTC.
        last: Time of its last commit, UTC.
        commits: Number of commits.
        first_version: Delta version of its first commit.
        last_version: Delta version of its last commit.
        rows: Number of rows computed, failed images included.
        failed: Failed images by status; unavailable ones have no row.
        images_per_s: Throughput that the run measured at its last commit; 0 if it computed none.
        nodes: Number of nodes that worked.
        precision: Arithmetic of the backbone.
        bytes_read: Bytes of image files read.
        bytes_written: Bytes of shards written.
        size: The table after the run; None where the log no longer knows that version.
    """

    run: str
    step: str
    source_uri: str
    first: datetime
    last: datetime
    commits: int
    first_version: int
    last_version: int
    rows: int
    failed: dict[str, int]
    images_per_s: float
    nodes: int
    precision: str
    bytes_read: int
    bytes_written: int
    size: Size | None


@dataclass(frozen=True)
class Status(Outcome):
    """Contents of a features table and the history of its runs.

    Attributes:
        table_uri: The table, without credentials.
        version: Its newest Delta version.
        rows: Rows, failed images included.
        bytes: Size of all shards in bytes.
        shards: Number of shards.
        statuses: Number of rows by status, `ok` included.
        spec: Feature specification, as the table's properties spell it.
        runs: The newest runs, oldest of them first.
        runs_known: Number of runs that the log still knows.
        growth: Sizes of versions that the shown runs committed, oldest first.
    """

    table_uri: str
    version: int
    rows: int
    bytes: int
    shards: int
    statuses: dict[str, int]
    spec: dict[str, str]
    runs: list[Run]
    runs_known: int
    growth: list[Size]

    def to_json(self) -> str:
        """Returns the status as a JSON object, the attributes its keys, times in ISO 8601."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, default=_iso) + "\n"

    def to_text(self) -> str:
        """Returns the status as tables for people."""
        head = (
            f"{self.table_uri}  version {self.version}, {self.rows:,} rows, "
            f"{format_bytes(self.bytes)} in {self.shards:,} shard(s)"
        )
        failures = sorted(item for item in self.statuses.items() if item[0] != OK)
        counts = [(OK, self.statuses.get(OK, 0)), *failures]
        parts = [
            [head],
            ["Specification", *_aligned([[name, value] for name, value in self.spec.items()])],
            ["Rows by status", *_aligned([[name, f"{count:,}"] for name, count in counts], "lr")],
        ]
        if self.runs:
            title = f"Runs ({len(self.runs):,} of {self.runs_known:,}, times in UTC)"
            lines = [_RUN_COLUMNS, *map(_run_cells, self.runs)]
            parts.append([title, *_aligned(lines, "llllrrrrrrrrl")])
        else:
            parts.append(["No run has committed to this table yet"])
        return "\n\n".join("\n".join(part) for part in parts)


_RUN_COLUMNS = ["run", "step", "first commit", "last commit", "commits", "versions", "rows"]
_RUN_COLUMNS += ["images/s", "read", "written", "rows after", "size after", "failed"]


def _run_cells(run: Run) -> list[str]:
    return [
        run.run,
        run.step,
        _minute(run.first),
        _minute(run.last),
        f"{run.commits:,}",
        "-".join(str(version) for version in sorted({run.first_version, run.last_version})),
        f"{run.rows:,}",
        f"{run.images_per_s:,.1f}" if run.images_per_s else "-",
        format_bytes(run.bytes_read),
        format_bytes(run.bytes_written),
        f"{run.size.rows:,}" if run.size else "-",
        format_bytes(run.size.bytes) if run.size else "-",
        ", ".join(f"{name} {count:,}" for name, count in sorted(run.failed.items())) or "-",
    ]


def table_status(config: StatusConfig) -> Status:
    """Reads a table's history and the `status` column of its newest version.

    Args:
        config: Names the table and the number of runs to show.

    Raises:
        TableError: There is no features table, or it cannot be read.
    """
    table = FeaturesTable.open(normalize_uri(config.features))
    snapshot = table.snapshot()
    grouped = _by_run(table.commits())
    shown = grouped[-config.limit :]
    sizes = _sizes(table, shown)
    properties = snapshot.spec.to_properties()
    named = {field.name: properties[PREFIX + field.name] for field in fields(snapshot.spec)}
    return Status(
        table_uri=redact_uri(table.uri),
        version=snapshot.version,
        rows=snapshot.rows,
        bytes=snapshot.size_bytes,
        shards=len(snapshot.shards),
        statuses=_count_statuses(snapshot),
        spec={name: text for name, text in named.items() if text},
        runs=[_run(commits, sizes.get(commits[-1].version)) for commits in shown],
        runs_known=len(grouped),
        growth=[sizes[version] for version in sorted(sizes)],
    )


def _by_run(commits: Sequence[CommitRecord]) -> list[list[CommitRecord]]:
    """Groups commits by run, oldest first; runs that overlapped are ordered by their ends."""
    groups: dict[str, list[CommitRecord]] = {}
    for commit in sorted(commits, key=lambda commit: commit.version):
        groups.setdefault(commit.run, []).append(commit)
    return sorted(groups.values(), key=lambda group: group[-1].version)


def _run(commits: Sequence[CommitRecord], size: Size | None) -> Run:
    first, last = commits[0], commits[-1]
    statuses: Counter[str] = Counter()
    for commit in commits:
        statuses.update(commit.stats.get("statuses") or {})
    return Run(
        run=last.run,
        step="compact" if any("compacted" in commit.stats for commit in commits) else "extract",
        source_uri=str(_newest(commits, "images", "")),
        first=_moment(first),
        last=_moment(last),
        commits=len(commits),
        first_version=first.version,
        last_version=last.version,
        rows=sum(number for name, number in statuses.items() if name != UNAVAILABLE),
        failed={name: statuses[name] for name in sorted(statuses) if name != OK},
        images_per_s=float(_newest(commits, "images_per_s", 0.0)),
        nodes=max(int(commit.stats.get("nodes") or 0) for commit in commits),
        precision=str(_newest(commits, "precision", "")),
        bytes_read=sum(int(commit.stats.get("bytes_read") or 0) for commit in commits),
        bytes_written=sum(int(commit.stats.get("bytes_written") or 0) for commit in commits),
        size=size,
    )


def _newest(commits: Sequence[CommitRecord], key: str, default: Any) -> Any:
    """Returns the last figure that is not empty: the first commits of a run may lack it."""
    return next((c.stats[key] for c in reversed(commits) if c.stats.get(key)), default)


def _sizes(table: FeaturesTable, runs: Sequence[Sequence[CommitRecord]]) -> dict[int, Size]:
    """Returns the sizes after each run, and after some commits between, by version."""
    commits = sorted((c for run in runs for c in run), key=lambda commit: commit.version)
    step = max(1, len(commits) // _GROWTH_POINTS)
    wanted = {run[-1].version for run in runs} | {c.version for c in commits[::step]}
    found: dict[int, Size] = {}
    for commit in commits:
        if commit.version not in wanted:
            continue
        try:
            snapshot = table.snapshot(version=commit.version)
        except TableError:
            # Delta deletes log entries after a while (`delta.logRetentionDuration`).
            continue
        found[commit.version] = Size(
            commit.version, _moment(commit), snapshot.rows, snapshot.size_bytes
        )
    return found


def _count_statuses(snapshot: Snapshot) -> dict[str, int]:
    counts = pc.value_counts(snapshot.read(["status"])["status"]).to_pylist()
    return dict(sorted((entry["values"], entry["counts"]) for entry in counts))


def _moment(commit: CommitRecord) -> datetime:
    return datetime.fromtimestamp(commit.timestamp_s, UTC)


def _minute(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def _iso(value: object) -> str:
    assert isinstance(value, datetime)
    return value.isoformat(timespec="seconds")


def _aligned(rows: Sequence[Sequence[str]], sides: str = "ll") -> list[str]:
    """Pads cells to columns; `sides` has l or r for each."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(sides))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in rows
    ]
