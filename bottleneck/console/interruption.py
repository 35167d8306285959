"""SIGINT and SIGTERM: they end a run at once, or at its next commit once there is work to save."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class InterruptedRunError(KeyboardInterrupt):
    """The run was asked to stop before it had anything to save.

    Like every interruption it is not an :class:`Exception`: code that turns errors of storage into
    messages of its own must not catch it.
    """

    def __init__(self, signum: int, outcome: str = "what was committed before stays") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; {outcome}")
        self.signum = signum
        self.exit_code = 128 + signum


class Interruption:
    """Context in which a first SIGINT or SIGTERM is recorded and a second one ends the process.

    Attributes:
        signal: Number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Only the main thread may set handlers; elsewhere (a notebook's worker) nothing changes.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def reinstall(self) -> None:
        """Installs the handlers again: Ray installs its own when it starts."""
        for signum in self._before:
            signal.signal(signum, self._on_signal)

    def defer(self) -> None:
        """Makes a signal only be recorded from now on; the run checks it and saves its work."""
        self._deferred = True

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self.signal = signum
        if not self._deferred:
            raise InterruptedRunError(signum)
        # A second signal, of either kind, means now.
        for handled in self._before:
            signal.signal(handled, signal.SIG_DFL)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
