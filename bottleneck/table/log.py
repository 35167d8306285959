"""The Delta log of a table: entries that land whole, once, and on top of what they were made from.

An entry is guarded by application transactions (Delta's ``txn`` actions). One counts the commits
that this package made, so that of two runs racing from the same snapshot exactly one wins and the
other gets :class:`~bottleneck.errors.ConflictError` and must plan again; another one is the lease
of the run at work (:mod:`bottleneck.table.lease`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import ConflictError, TableError
from bottleneck.table.location import arrow_filesystem, delta_uri, unreachable

#: Name under which commits are counted.
APP_ID = "bottleneck-features"

#: Name under which the end of the lease is written, in milliseconds since the epoch.
LEASE_ID = "bottleneck-lease"

#: Keys in Delta's ``commitInfo``: identity of a commit, of its run, the run's figures, and who
#: holds the lease.
COMMIT_KEY = "bottleneck.commit"
RUN_KEY = "bottleneck.run"
STATS_KEY = "bottleneck.stats"
HOLDER_KEY = "bottleneck.lease"

#: Attempts at an entry when storage answers with errors (not with a conflict).
_ATTEMPTS = 5

#: Number of log entries to search for the lease holder. A lease is renewed with each commit of its
#: run, so that only entries of others come after it.
_ENTRIES_WITHOUT_HOLDER = 20


@dataclass(frozen=True)
class LeaseMark:
    """What an entry says of the lease.

    Attributes:
        holder: Who holds it, as JSON.
        ends_ms: When it ends, in milliseconds since the epoch.
        replaces_ms: The end that was written before, so that nobody else's lease is overwritten.
    """

    holder: str
    ends_ms: int
    replaces_ms: int


@dataclass(frozen=True)
class CommitRecord:
    """One commit of this package as the table's history tells it.

    Attributes:
        version: Delta version that the commit made.
        timestamp_s: When, in seconds since the epoch.
        run: Identity of the run that made it.
        stats: Figures the run stored with it (rows by status, seconds by stage, bytes …).
    """

    version: int
    timestamp_s: float
    run: str
    stats: Mapping[str, Any] = field(default_factory=dict)


class TableLog:
    """The log of one table.

    Args:
        uri: The table.
        delta: The same, opened.
    """

    def __init__(self, uri: str, delta: DeltaTable) -> None:
        self.uri = uri
        self.delta = delta

    @property
    def app_version(self) -> int:
        """Number of commits that this package made."""
        return self.delta.transaction_version(APP_ID) or 0

    @property
    def lease_ends_ms(self) -> int:
        """When the newest lease ends or ended, in milliseconds since the epoch; 0 without any."""
        return self.delta.transaction_version(LEASE_ID) or 0

    def refresh(self) -> None:
        """Moves to the newest version.

        Raises:
            TableError: Storage refuses.
        """
        try:
            self.delta.update_incremental()
        except (DeltaError, OSError) as e:
            raise TableError(unreachable(self.uri, e)) from e

    def at(self, wanted: int | datetime | None) -> DeltaTable:
        """Opens an earlier version.

        Args:
            wanted: Its number, or a time with a time zone.

        Raises:
            TableError: There is no such version (any more).
        """
        missing = (
            f"{redact_uri(self.uri)} has no version {wanted}; its newest is "
            f"{self.delta.version()}, and the oldest ones may have been cleaned up"
        )
        try:
            delta = DeltaTable(delta_uri(self.uri))
            delta.load_as_version(wanted)  # type: ignore[arg-type]
            created_ms = delta.metadata().created_time or 0
            if isinstance(wanted, datetime) and wanted.timestamp() * 1000 < created_ms:
                # delta-rs takes the first version for any time before it.
                raise TableError(missing)
        except (DeltaError, OSError, ValueError, OverflowError) as e:
            raise TableError(missing) from e
        return delta

    def commits(self, limit: int | None) -> list[CommitRecord]:
        """Returns this package's commits that the log still knows, newest first.

        Args:
            limit: Number of entries to look at, of other tools too; None for all.

        Raises:
            TableError: Storage refuses.
        """
        return [
            CommitRecord(
                version=int(entry["version"]),
                timestamp_s=entry["timestamp"] / 1000,
                run=str(entry.get(RUN_KEY, "")),
                stats=json.loads(entry.get(STATS_KEY, "{}")),
            )
            for entry in self._history(limit)
            if STATS_KEY in entry
        ]

    def _history(self, limit: int | None = None) -> list[dict[str, Any]]:
        try:
            return self.delta.history(limit)
        except (DeltaError, OSError) as e:
            raise TableError(unreachable(self.uri, e)) from e

    def append(
        self,
        actions: Sequence[AddAction | RemoveAction],
        metadata: Mapping[str, str],
        *,
        app_version: int | None,
        mark: LeaseMark | None,
        require_current: Callable[[], None],
    ) -> None:
        """Appends an entry.

        Args:
            actions: Shards that appear and disappear.
            metadata: Keys and values for ``commitInfo``, :data:`COMMIT_KEY` among them.
            app_version: The new number of commits; None when this is none.
            mark: The new state of the lease; None leaves it.
            require_current: Raises when the newest version is no longer one to append to.

        Raises:
            ConflictError: Somebody appended in the meantime; nothing was applied.
            TableError: Storage refused the entry; nothing was applied.
        """
        properties = log_entry(metadata, app_version, mark)
        for attempt in range(_ATTEMPTS):
            self.refresh()
            require_current()
            if mark is not None and self.lease_ends_ms != mark.replaces_ms:
                raise ConflictError(self.conflict())
            try:
                self._write(actions, properties)
            except CommitFailedError as e:
                # The answer to the write may have been lost although it landed.
                if self._landed(metadata[COMMIT_KEY]):
                    return
                raise ConflictError(self.conflict()) from e
            except (DeltaError, OSError) as e:
                if self._landed(metadata[COMMIT_KEY]):
                    return
                if attempt + 1 == _ATTEMPTS:
                    raise TableError(unreachable(self.uri, e)) from e
                time.sleep(0.5 * 2**attempt)
            else:
                return

    def _write(
        self, actions: Sequence[AddAction | RemoveAction], properties: CommitProperties
    ) -> None:
        self.delta.create_write_transaction(
            list(actions), "append", self.delta.schema(), commit_properties=properties
        )

    def _landed(self, commit_id: str) -> bool:
        """Returns whether an entry of ours is in the log although its writer saw an error."""
        for attempt in range(_ATTEMPTS):
            try:
                self.delta.update_incremental()
                return any(entry.get(COMMIT_KEY) == commit_id for entry in self.delta.history(20))
            except (DeltaError, OSError) as e:
                if attempt + 1 == _ATTEMPTS:
                    raise TableError(unreachable(self.uri, e)) from e
                time.sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable")

    def version_of(self, commit_id: str) -> int:
        """Returns the Delta version that an entry made."""
        for entry in self._history():
            if entry.get(COMMIT_KEY) == commit_id:
                return int(entry["version"])
        raise ConflictError(self.conflict())

    def conflict(self) -> str:
        """Returns what to say when somebody else was first."""
        return (
            f"another run committed to {redact_uri(self.uri)} first; "
            "nothing of this commit was applied, run again to continue from its result"
        )

    def holder(self) -> str | None:
        """Returns who wrote the newest lease, as JSON; None when its entry is no longer there."""
        newest = self.delta.version()
        filesystem, root = arrow_filesystem(self.uri)
        for version in range(newest, max(-1, newest - _ENTRIES_WITHOUT_HOLDER), -1):
            try:
                with filesystem.open_input_file(f"{root}/_delta_log/{version:020}.json") as file:
                    lines = file.read().splitlines()
            except FileNotFoundError:
                return None
            except (OSError, pa.ArrowException) as e:
                raise TableError(unreachable(self.uri, e)) from e
            for line in lines:
                text: str | None = json.loads(line).get("commitInfo", {}).get(HOLDER_KEY)
                if text is not None:
                    return text
        return None


def log_entry(
    metadata: Mapping[str, str], app_version: int | None, mark: LeaseMark | None
) -> CommitProperties:
    """Returns what delta-rs needs for one entry; it must not try on its own after a conflict."""
    written = dict(metadata)
    transactions = []
    if app_version is not None:
        transactions.append(Transaction(APP_ID, app_version))
    if mark is not None:
        transactions.append(Transaction(LEASE_ID, mark.ends_ms))
        written[HOLDER_KEY] = mark.holder
    return CommitProperties(
        custom_metadata=written, max_commit_retries=0, app_transactions=transactions
    )
