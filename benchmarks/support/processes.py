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

from benchmarks.support.paths import ROOT

JOB = ROOT / "jobs" / "extract.py"


@dataclass
class Watched:
    """What was seen of a finished process.

    Attributes:
        seconds: Wall-clock time, start-up included.
        peak_bytes: Peak resident memory of the process itself, not of those it started.
        samples: Processor time so far, each second.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    samples: list[CpuSample] = field(default_factory=list)

    def cpu_between(self, begin: float, end: float) -> tuple[float, float]:
        """Returns what was used between two moments (``time.time()``), to the nearest samples.

        Returns:
            Processor seconds of the job, and processors that others kept busy on average.
        """
        first, last = (
            min(self.samples, key=lambda sample: abs(sample.moment - t)) for t in (begin, end)
        )
        own = last.own_s - first.own_s
        others = (last.machine_s - first.machine_s - own) / max(1.0, last.moment - first.moment)
        return own, max(0.0, others)


@dataclass(frozen=True)
class CpuSample:
    """Processor time so far.

    Attributes:
        moment: When, as ``time.time()``.
        own_s: Of the job and all it started.
        machine_s: Of everything on the machine.
    """

    moment: float
    own_s: float
    machine_s: float


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
                own_s = cpu_of(process.pid)
                seen.samples.append(CpuSample(time.time(), own_s, machine_cpu_s()))
            time.sleep(0.05)
    seen.seconds = time.perf_counter() - began
    if process.returncode:
        text = log.read_text(encoding="utf-8")[-2000:]
        raise SystemExit(f"jobs/extract.py exited with {process.returncode}: {text}")
    return seen


def machine_cpu_s() -> float:
    """Returns the seconds that processors were busy since the machine started, or were stolen."""
    times = psutil.cpu_times()
    # Guests' time is part of `user` and `nice`.
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def peak_bytes(pid: int) -> int:
    """Returns the high-water mark of a process's resident memory; 0 once it has ended."""
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
