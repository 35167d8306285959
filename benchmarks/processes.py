"""Watching the job's processes from outside: memory of the driver, processor time of all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

JOB = Path(__file__).resolve().parent.parent / "jobs" / "extract.py"


@dataclass
class Watched:
    """What was seen of a finished process.

    Attributes:
        seconds: Wall-clock time, start-up included.
        peak_bytes: Peak resident memory of the process itself, not of those it started.
        cpu_s: Processor time so far of it and all it started, as (moment, seconds) pairs;
            moments are ``time.time()``.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    cpu_s: list[tuple[float, float]] = field(default_factory=list)

    def cpu_s_between(self, begin: float, end: float) -> float:
        """Processor time spent between two moments, to the nearest samples."""
        at = [min(self.cpu_s, key=lambda sample: abs(sample[0] - t))[1] for t in (begin, end)]
        return at[1] - at[0]


def run_job(flags: Sequence[str], log: Path, *, watch_cpu: bool = False) -> Watched:
    """Runs jobs/extract.py to its end and watches it.

    Args:
        flags: Its flags.
        log: File for what it prints.
        watch_cpu: Also sample processor time, every second.

    Raises:
        SystemExit: It failed; with the end of what it printed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    seen = Watched()
    cpu_of = _tree_cpu()
    next_sample = 0.0
    began = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(JOB), *flags], stdout=output, stderr=output, env=environment
        )
        while process.poll() is None:
            seen.peak_bytes = max(seen.peak_bytes, peak_bytes(process.pid))
            if watch_cpu and time.time() >= next_sample:
                next_sample = time.time() + 1.0
                seen.cpu_s.append((time.time(), cpu_of(process.pid)))
            time.sleep(0.05)
    seen.seconds = time.perf_counter() - began
    if process.returncode:
        text = log.read_text(encoding="utf-8")[-2000:]
        raise SystemExit(f"jobs/extract.py exited with {process.returncode}: {text}")
    return seen


def peak_bytes(pid: int) -> int:
    """High-water mark of a process's resident memory; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _tree_cpu() -> Callable[[int], float]:
    """Returns a function that adds up the processor time of a process and all it ever started."""
    spent: dict[tuple[int, float], float] = {}

    def add_up(pid: int) -> float:
        try:
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                try:
                    times = process.cpu_times()
                    spent[process.pid, process.create_time()] = times.user + times.system
                except psutil.NoSuchProcess:
                    continue
        except psutil.NoSuchProcess:
            pass
        return sum(spent.values())

    return add_up
