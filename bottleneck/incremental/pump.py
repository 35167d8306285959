"""A thread that pulls finished blocks out of a running pipeline."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

#: Seconds between two checks of a waiting thread whether it should end.
_POLL_S = 0.2

#: Seconds that a pipeline may take to end its actors.
_STOP_TIMEOUT_S = 30.0


class Pump:
    """Iterator in a thread, so that the loop can commit and react to signals meanwhile.

    Args:
        start: Starts the pipeline, given an event that ends it when set, and yields its blocks; see
            :func:`bottleneck.pipeline.stages.run_stages`.

    Attributes:
        error: Exception that ended the pipeline early, or None.
    """

    def __init__(self, start: Callable[[threading.Event], Iterator[Any]]) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self._stopped = threading.Event()
        self._finished = threading.Event()
        self.error: BaseException | None = None
        threading.Thread(target=self._pull, args=(start,), daemon=True).start()

    def _pull(self, start: Callable[[threading.Event], Iterator[Any]]) -> None:
        blocks = start(self._stopped)
        try:
            for block in blocks:
                while not self._stopped.is_set():
                    try:
                        self._queue.put(block, timeout=_POLL_S)
                        break
                    except queue.Full:
                        continue
                if self._stopped.is_set():
                    break
        except BaseException as e:  # passed on to the loop, which decides
            self.error = e
        finally:
            # Closing the iterator ends the pipeline's tasks and actors.
            del blocks
            self._finished.set()

    def next(self, timeout_s: float) -> Any:
        """Returns the next block, or None if none is ready within `timeout_s` seconds."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None

    @property
    def ended(self) -> bool:
        """Whether there will be no further block."""
        return self._finished.is_set() and self._queue.empty()

    def stop(self) -> None:
        """Ends the pipeline, its tasks and its actors."""
        self._stopped.set()
        self._finished.wait(_STOP_TIMEOUT_S)
