"""What a job returns: a summary for people and for programs, and the exit code that it means."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bottleneck.errors import BottleneckError


class Outcome(ABC):
    """What a job that ran to its end has to tell."""

    @abstractmethod
    def to_text(self) -> str:
        """Returns the summary for people, without a line break at its end."""

    @abstractmethod
    def to_json(self) -> str:
        """Returns the summary for programs: a JSON object, with a line break at its end."""

    @property
    def error(self) -> BottleneckError | None:
        """What was wrong although the job ran to its end; None when nothing was."""
        return None

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return 0 if self.error is None else self.error.exit_code
