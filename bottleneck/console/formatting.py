"""Durations and sizes as people read them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Returns a duration as ``M:SS`` or ``H:MM:SS``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_seconds(seconds: float) -> str:
    """Returns a duration in short form: ``0.12 s``, ``34 s``, ``5:06``."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.005 else "0 s"
    return f"{seconds:.0f} s" if seconds < 120 else format_duration(seconds)


def format_bytes(count: float) -> str:
    """Returns a size with a decimal unit, such as ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(round(count, 1)) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
