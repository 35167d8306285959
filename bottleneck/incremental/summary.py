"""Summary of a run: a table for people, JSON for programs, statistics for the next estimate."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from bottleneck.config.flags import RunFlags
from bottleneck.config.values import failure_limit
from bottleneck.console import logs
from bottleneck.console.formatting import format_bytes, format_duration, format_seconds
from bottleneck.console.outcome import Outcome
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import TooManyFailuresError
from bottleneck.images.statuses import UNAVAILABLE
from bottleneck.incremental.estimate import Estimate


@dataclass(kw_only=True)
class Summary(Outcome):
    """Summary of a run.

    Attributes:
        run: Identity of the run, as in the table's history.
        source_uri: The source, without credentials.
        table_uri: The table, without credentials.
        outcome: ``done``, ``unchanged``, ``planned``, ``interrupted``, ``vacuumed`` or
            ``compacted``.
        signal: Number of the signal that interrupted the run, or None.
        listed: Images in the source.
        skipped: Files that are not images, by reason.
        new: Images computed because the table did not have them.
        changed: Images computed because their content changed.
        retried: Images computed because they failed before.
        reused: Images whose features were kept under a new name, label or time.
        removed: Rows that disappeared.
        unchanged: Images that cost nothing.
        computed: Images whose rows were committed by this run.
        failed: Failures among these and unavailable images, by status.
        images_per_s: Throughput of the pipeline once its first images came out.
        stage_s: Seconds by stage; `fetch`, `decode`, `inference` and `write` add up over workers.
        bytes_read: Bytes of image files read.
        bytes_written: Bytes of shards written.
        commits: Number of commits made.
        version: The table's version afterwards; None when there is no table.
        rows: Rows in the table afterwards.
        precision: Arithmetic of the backbone.
        nodes: Nodes of the cluster that worked.
        seconds: Wall-clock time of the run.
        deleted_files: Files that a vacuum deleted.
        max_failed: Failures that the run may have: a number, or a share of the images it tried.
        estimate: What the planned work would take, after a dry run.
    """

    run: str
    source_uri: str
    table_uri: str
    outcome: str = "done"
    signal: int | None = None
    listed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    new: int = 0
    changed: int = 0
    retried: int = 0
    reused: int = 0
    removed: int = 0
    unchanged: int = 0
    computed: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    images_per_s: float = 0.0
    stage_s: dict[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_written: int = 0
    commits: int = 0
    version: int | None = None
    rows: int = 0
    precision: str = ""
    nodes: int = 0
    seconds: float = 0.0
    deleted_files: int = 0
    max_failed: str = "100%"
    estimate: Estimate | None = None

    @classmethod
    def begin(cls, config: RunFlags) -> Self:
        """Begins a run; from now on log lines bear its identity."""
        return cls(
            run=logs.begin_run(),
            source_uri=redact_uri(config.source_uri),
            table_uri=redact_uri(config.table_uri),
            max_failed=config.max_failed,
        )

    @property
    def failures(self) -> int:
        """Number of images that failed in this run."""
        return sum(self.failed.values())

    @property
    def tried(self) -> int:
        """Number of images that this run computed or could not reach."""
        return self.computed + self.failed.get(UNAVAILABLE, 0)

    @property
    def error(self) -> TooManyFailuresError | None:
        """More failures than ``max_failed`` allows; None otherwise, and after an interruption."""
        limit = failure_limit(self.max_failed, self.tried)
        if self.signal is not None or self.failures <= limit:
            return None
        return TooManyFailuresError(
            f"{self.failures:,} images failed and --max-failed {self.max_failed} allows {limit:,}; "
            "the others are committed, see the statuses above and the table's `error` column"
        )

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 128 and the signal's number after an interruption."""
        return super().exit_code if self.signal is None else 128 + self.signal

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Counts the time spent in a ``with`` block as that of a stage."""
        began = time.perf_counter()
        yield
        self.add_seconds(stage, time.perf_counter() - began)

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Counts time spent in a stage."""
        self.stage_s[stage] = self.stage_s.get(stage, 0.0) + seconds

    def to_json(self) -> str:
        """Returns the summary as a JSON object, the attributes its keys."""
        return self.json_with()

    def json_with(self, **more: Any) -> str:
        """Returns the summary as JSON with some attributes given as JSON values."""
        values = {
            field.name: more.get(field.name, getattr(self, field.name)) for field in fields(self)
        }
        if self.estimate is not None:
            values["estimate"] = asdict(self.estimate)
        values["stage_s"] = {name: round(value, 3) for name, value in self.stage_s.items()}
        values["images_per_s"] = round(self.images_per_s, 2)
        values["seconds"] = round(self.seconds, 3)
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Returns the summary as a table of two columns."""
        stages = [f"{name} {format_seconds(value)}" for name, value in self.stage_s.items()]
        rows: dict[str, str] = {
            "images": self.source_uri,
            "table": f"{self.table_uri}  {self._version_text()}",
            "listed": _count(self.listed) + _breakdown(self.skipped, "skipped: "),
            "new": _count(self.new),
            "changed": _count(self.changed),
            "retried": _count(self.retried),
            "reused": _count(self.reused),
            "removed": _count(self.removed),
            "unchanged": _count(self.unchanged),
            "failed": _count(self.failures) + _breakdown(self.failed),
            "throughput": f"{self.images_per_s:,.1f} images/s" if self.images_per_s else "-",
            "time": f"{format_duration(self.seconds)}  ({', '.join(stages) or '-'})",
            "read": format_bytes(self.bytes_read),
            "written": f"{format_bytes(self.bytes_written)} in {self.commits} commit(s)",
        }
        if self.estimate is not None:
            for name in ("failed", "throughput", "read", "written"):
                del rows[name]
            rows |= self.estimate.to_rows()
        if not self.source_uri:
            rows = {name: rows[name] for name in ("table", "time", "written")}
            rows["deleted"] = f"{self.deleted_files:,} files"
        width = max(len(name) for name in rows)
        lines = [f"  {name.ljust(width)}  {value}" for name, value in rows.items()]
        return "\n".join([f"{self.outcome.capitalize()} (run {self.run})", *lines])

    def _version_text(self) -> str:
        if self.version is None:
            return "(no table yet)"
        return f"version {self.version}, {self.rows:,} rows"


def _count(number: int) -> str:
    return f"{number:,}"


def _breakdown(counts: Mapping[str, int], prefix: str = "") -> str:
    named = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()) if count)
    return f"  ({prefix}{named})" if named else ""


def history_entry(summary: Summary, **more: Any) -> dict[str, Any]:
    """Returns the statistics that a commit keeps, for `--dry-run` and the status job."""
    return {
        "images_per_s": round(summary.images_per_s, 2),
        "nodes": summary.nodes,
        "precision": summary.precision,
        **more,
    }
