"""The lease: the right of one run at a time to change a table.

It stands in the table's own log: a run's entries say until when it holds the lease, and each commit
renews it. A run that finds another's lease leaves before it costs anything. A run that died leaves
nothing to clean up: its lease expires after :data:`LEASE_S`, or immediately, if the next run starts
on the same machine and finds the process gone.

The lease saves work that would be done twice; what keeps the table right is the guard of each
commit (:mod:`bottleneck.table.log`).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bottleneck.console.formatting import format_duration
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import ConflictError, TableBusyError, TableError
from bottleneck.table.log import COMMIT_KEY, LeaseMark, TableLog

_log = logging.getLogger(__name__)

#: Seconds without renewal after which a lease expires. Must exceed the clock skew between machines.
LEASE_S = 300.0

#: Age in seconds at which a lease is renewed, by an entry of its own where no commit renewed it.
RENEW_S = 60.0

#: Attempts at an entry of the lease when others commit at the same moment.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        run: Identity of the run.
        host: Name of the machine.
        boot: What tells this machine, since it was started, from others of the same name.
        pid: Its driver's process.
        started_s: When that process was started, in seconds since the epoch.
    """

    run: str
    host: str
    boot: str
    pid: int
    started_s: float

    @classmethod
    def of(cls, run: str) -> Self:
        """Returns this process as the holder for a run."""
        return cls(run, socket.gethostname(), _boot(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Undoes :meth:`to_json`."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Returns the attributes as JSON."""
        return json.dumps(asdict(self))

    @property
    def gone(self) -> bool:
        """Whether it is certain, seen from here, that the process has ended."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        try:
            # A later process may have got the number.
            return abs(psutil.Process(self.pid).create_time() - self.started_s) > 1
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def _boot() -> str:
    linux = Path("/proc/sys/kernel/random/boot_id")
    return linux.read_text().strip() if linux.exists() else f"{uuid.getnode():x}"


def require_free(log: TableLog, *, take_over: bool) -> None:
    """Leaves a table to the run that is at work on it.

    Args:
        log: The table's log.
        take_over: Do not look at leases.

    Raises:
        TableBusyError: Another run holds the lease.
    """
    left_s = log.lease_ends_ms / 1000 - time.time()
    if take_over or left_s <= 0:
        return
    written = log.holder()
    holder = None if written is None else Holder.from_json(written)
    if holder is not None and holder.gone:
        return
    who = "another run"
    if holder is not None:
        who = f"run {holder.run} (process {holder.pid} on {holder.host})"
    heard_s = max(0.0, LEASE_S - left_s)
    raise TableBusyError(
        f"{who} is at work on {redact_uri(log.uri)}, last heard of {format_duration(heard_s)} ago; "
        f"let it finish. If it died elsewhere, the table is free in {format_duration(left_s)}, or "
        "at once with --take-over"
    )


class Lease:
    """The lease of one run; held while entered.

    Args:
        log: The table's log.
        run: Identity of the run.
        take_over: Take the lease from whoever has it; that run then ends at its next commit.
    """

    def __init__(self, log: TableLog, run: str, *, take_over: bool = False) -> None:
        self._log = log
        self._holder = Holder.of(run)
        self._take_over = take_over
        self._ends_ms = 0
        self._renewed = 0.0

    @staticmethod
    def first_mark(run: str) -> LeaseMark:
        """Returns the lease of a run that creates the table."""
        return LeaseMark(Holder.of(run).to_json(), _end_ms(), 0)

    def next_mark(self, *, last: bool = False) -> LeaseMark:
        """Returns what the run's next entry says: that it goes on, or that it is the last one."""
        ends_ms = int(time.time() * 1000) if last else _end_ms()
        # Two entries in a millisecond must differ.
        ends_ms += ends_ms == self._ends_ms
        return LeaseMark(self._holder.to_json(), ends_ms, self._ends_ms)

    def record(self, mark: LeaseMark) -> None:
        """Records that an entry with this mark is in the log."""
        self._ends_ms = mark.ends_ms
        self._renewed = time.monotonic()

    def __enter__(self) -> Self:
        self._log.refresh()
        if self._log.lease_ends_ms > time.time() * 1000 and (
            self._log.holder() == self._holder.to_json()
        ):
            # The table was created with it.
            self._ends_ms, self._renewed = self._log.lease_ends_ms, time.monotonic()
            return self
        for attempt in range(_ATTEMPTS):
            require_free(self._log, take_over=self._take_over)
            self._ends_ms = self._log.lease_ends_ms
            try:
                self._append(self.next_mark())
                break
            except ConflictError:
                if attempt + 1 == _ATTEMPTS:
                    raise
                self._log.refresh()
        return self

    def renew_if_due(self) -> None:
        """Keeps the lease while no commit does; also looks whether somebody took it.

        Raises:
            TableBusyError: Another run took the table over.
        """
        if time.monotonic() - self._renewed < RENEW_S:
            return
        try:
            self._append(self.next_mark())
        except ConflictError as e:
            if self._log.lease_ends_ms != self._ends_ms:
                raise TableBusyError(
                    f"another run took {redact_uri(self._log.uri)} over; what this one committed "
                    "stays, and that one continues from there"
                ) from e
            # Somebody committed at the same moment; the next turn of the loop tries again.
        except TableError as e:
            # The run fails when it cannot commit, not before.
            _log.warning("cannot renew the lease: %s", e)
            self._renewed = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ends_ms <= time.time() * 1000:
            return
        try:
            self._append(self.next_mark(last=True))
        except TableError as e:
            _log.debug("the lease ends by itself: %s", e)

    def _append(self, mark: LeaseMark) -> None:
        self._log.append(
            [],
            {COMMIT_KEY: uuid.uuid4().hex},
            app_version=None,
            mark=mark,
            require_current=lambda: None,
        )
        self.record(mark)


def _end_ms() -> int:
    return int((time.time() + LEASE_S) * 1000)
