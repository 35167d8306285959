"""The standard error stream of a command: log, progress and errors, with the run's id.

There are two forms: lines for people, or with ``--log-json`` one JSON object per line for programs.
Jobs call :func:`begin_run` and :func:`say` and need not know which; only the command line sets
:class:`Console` up, so that a notebook keeps its own logging.

Nothing is printed with the passwords and signatures of addresses: users may have typed them, and
libraries repeat them in their messages.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import uuid
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from bottleneck.console.redaction import redact_text

_log = logging.getLogger(__name__)


class _Process:
    """State of the process, which runs one job at a time: signals and Ray settings are global."""

    run: str | None = None
    console: Console | None = None


#: Logger that Ray gives a handler of its own, which would print lines that are not JSON.
_RAY = "ray"


def begin_run() -> str:
    """Returns the identity of a new run, 12 hex digits, which log lines carry from now on."""
    _Process.run = uuid.uuid4().hex[:12]
    return _Process.run


def structured() -> bool:
    """Returns whether lines are JSON objects."""
    return _Process.console is not None and _Process.console.as_json


def say(text: str, *, event: str, level: int = logging.INFO, **figures: Any) -> None:
    """Prints a line that a user watching the job should see.

    Args:
        text: The line.
        event: Kind of the line, for programs: ``progress``, ``notice``, …
        level: Log level, for programs.
        figures: Figures in the line as values, for programs.
    """
    if structured():
        _log.log(level, text, extra={"event": event, "figures": figures})
    else:
        print(redact_text(text), file=sys.stderr, flush=True)


def fail(message: str, *, exit_code: int) -> None:
    """Prints why the command ends with this exit code."""
    if structured():
        say(message, event="error", level=logging.ERROR, exit_code=exit_code)
    else:
        print(f"error: {redact_text(message)}", file=sys.stderr, flush=True)


class Console(logging.Handler):
    """Log handler that prints warnings while entered; in JSON this package's notices too.

    Args:
        as_json: Whether each line is a JSON object.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        super().__init__()
        self._package_level = logging.NOTSET
        self._ray_handlers: list[logging.Handler] = []
        self._ray_propagates = True
        self.as_json = as_json

    @property
    def as_json(self) -> bool:
        """Whether each line is a JSON object."""
        return isinstance(self.formatter, JsonFormatter)

    @as_json.setter
    def as_json(self, wanted: bool) -> None:
        self.setFormatter(JsonFormatter() if wanted else PlainFormatter())
        if _Process.console is self:
            self._route()

    def __enter__(self) -> Console:
        _Process.run, _Process.console = None, self
        self._package_level = logging.getLogger("bottleneck").level
        self._ray_handlers = logging.getLogger(_RAY).handlers
        self._ray_propagates = logging.getLogger(_RAY).propagate
        logging.getLogger().addHandler(self)
        self._route()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.as_json = False
        _Process.console = None
        logging.getLogger().removeHandler(self)

    def _route(self) -> None:
        """Routes everything that would print its own lines through this handler, or back."""
        logging.captureWarnings(self.as_json)
        level = logging.INFO if self.as_json else self._package_level
        logging.getLogger("bottleneck").setLevel(level)
        ray = logging.getLogger(_RAY)
        ray.handlers = [] if self.as_json else self._ray_handlers
        ray.propagate = self.as_json or self._ray_propagates

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record in one write, so that lines of several threads do not mix."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class PlainFormatter(logging.Formatter):
    """Lines such as ``WARNING [run 1f2e3d4c5b6a] bottleneck.incremental.loop: …``."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, followed by the traceback if there is one; no run id before a run."""
        run = f" [run {_Process.run}]" if _Process.run else ""
        return f"{record.levelname}{run} {redact_text(super().format(record))}"


class JsonFormatter(logging.Formatter):
    """One JSON object per record.

    Its keys: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``run`` (null before it begins),
    ``event`` (``log`` unless the record says what it is), ``message``, the event's figures (null
    where there is no finite number), and ``exception`` with a traceback. Only ASCII is written,
    whatever the stream's encoding.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object, without a line break."""
        moment = datetime.fromtimestamp(record.created, UTC)
        figures: dict[str, Any] = getattr(record, "figures", {})
        values = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "run": _Process.run,
            "event": getattr(record, "event", "log"),
            "message": redact_text(record.getMessage()),
        }
        values |= {name: _finite(value) for name, value in figures.items()}
        if record.exc_info:
            values["exception"] = redact_text(self.formatException(record.exc_info))
        return json.dumps(values, default=str)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
