"""Runs all benchmarks one after the other and prints their tables as Markdown.

Run it as .venv/bin/python -m benchmarks.run (`make bench`). Nothing else should run meanwhile. The
exit code is 1 when a benchmark failed; a figure that misses its aim is printed as such and is no
failure, since aims hold for certain machines.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

from benchmarks.support.results import CommonSettings, load_result, to_markdown


@dataclass(frozen=True)
class _Benchmark:
    """A module of this package, or of one below it.

    Attributes:
        name: Path of its file and of its result, without suffix.
        title: What it measures.
        quick: Flags for a run of all that takes some minutes.
        full: Flags for figures to publish.
    """

    name: str
    title: str
    quick: tuple[str, ...] = ()
    full: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module's name, to run it with ``python -m``."""
        return f"benchmarks.{self.name.replace('/', '.')}"


_BENCHMARKS = (
    _Benchmark("decode", "Decoding", ("--repeat", "1")),
    _Benchmark("encoding", "Encoding", ("--vgg16-images", "0"), ("--vgg16-images", "128")),
    _Benchmark("fetch", "Reading from S3", ("--images", "300")),
    _Benchmark("memory", "Memory", ("--rows", "10000", "30000")),
    _Benchmark("heads", "Training a head", ("--repeat", "1")),
    _Benchmark("pipeline", "End to end", ("--repeat", "1"), ("--repeat", "5")),
    _Benchmark(
        "scale/plan",
        "Planning a night",
        ("--rows", "20000", "100000", "--repeat", "1"),
        ("--rows", "100000", "1000000", "3000000"),
    ),
    _Benchmark(
        "scale/throughput",
        "The framework with a backbone that costs nothing",
        ("--images", "20000", "--repeat", "1"),
    ),
    _Benchmark(
        "scale/nodes",
        "More nodes with a backbone that sleeps",
        ("--nodes", "1", "2", "--images", "600"),
    ),
    _Benchmark("scale/commits", "Commits as the table grows", ("--shards", "10", "100", "1000")),
    _Benchmark("scale/needs", "What large tables need"),
)


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Runs all benchmarks: some minutes quickly, most of an hour in full.

    Attributes:
        full: Take more images, rows and turns; the table of 100,000 rows is among them.
        only: Run these alone.
    """

    full: bool = False
    only: tuple[str, ...] = ()


def main(settings: Settings) -> int:
    names = [benchmark.name for benchmark in _BENCHMARKS]
    unknown = sorted(set(settings.only) - set(names))
    if unknown:
        print(f"error: no benchmark {unknown[0]!r}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    done, failed = [], []
    for benchmark in _BENCHMARKS:
        if settings.only and benchmark.name not in settings.only:
            continue
        print(f"\n== {benchmark.name} ({time.strftime('%H:%M:%S')})", flush=True)
        command = [sys.executable, "-m", benchmark.module]
        command += ["--results", str(settings.results)]
        if settings.smoke:
            command.append("--smoke")
        else:
            command += benchmark.full if settings.full else benchmark.quick
        completed = subprocess.run(command, check=False)
        (failed if completed.returncode else done).append(benchmark)
    print("\n" + "=" * 40)
    for benchmark in done:
        stored = load_result(settings.results / f"{benchmark.name}.json")
        print(f"\n### {benchmark.title}\n\n{to_markdown(stored)}", flush=True)
    for benchmark in failed:
        print(f"error: {benchmark.module} failed, see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
