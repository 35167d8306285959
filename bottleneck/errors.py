"""The exception family: everything that a user can get wrong ends in one of these.

Each message says what was wrong, the value received, what is allowed and what to do next. The
jobs print the message as one line and exit with the class's ``exit_code``; nothing else of this
project is meant to be caught by callers.
"""

from __future__ import annotations


class BottleneckError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 2


class ConfigError(BottleneckError):
    """A flag, a configuration file's key or a combination of them is not allowed."""


class SourceError(BottleneckError):
    """The image source is missing, empty, unreadable or malformed."""


class BackboneError(BottleneckError):
    """The backbone, its layer, its weights or its precision is unknown or not available."""


class TableError(BottleneckError):
    """The features table is missing, unreadable, not one of ours, or cannot be written."""


class SpecMismatchError(TableError):
    """The run's feature specification differs from the table's."""


class ModelError(BottleneckError):
    """The trained model is missing, unfinished, damaged, or cannot be written."""


class ConflictError(TableError):
    """Another run committed to the table first; nothing of this commit was applied."""


class TableBusyError(TableError):
    """Another run is at work on the table; nothing was begun."""

    #: EX_TEMPFAIL of BSD's sysexits.h: try again later.
    exit_code = 75


class TooManyFailuresError(BottleneckError):
    """More images failed than ``max_failed`` allows; the good ones were committed."""

    exit_code = 1


class RunFailedError(BottleneckError):
    """The run could not finish; what was committed before stays."""

    exit_code = 1
