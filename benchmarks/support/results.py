"""Results of a benchmark: tables for people, JSON for later, in one form for all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.support.machine import describe_machine
from benchmarks.support.paths import RESULTS

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """What every benchmark can be told.

    Attributes:
        results: Folder for the JSON.
        smoke: Next to no work, to see that the benchmark runs; its figures mean nothing.
    """

    results: Path = RESULTS
    smoke: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the settings that figures depend on."""
        return {name: value for name, value in asdict(self).items() if name != "results"}


@dataclass
class Table:
    """Figures in rows; every row has the same columns, with units in their names.

    Attributes:
        title: What was measured.
        rows: Column name → value.
    """

    title: str
    rows: list[dict[str, Cell]] = field(default_factory=list)

    def add(self, **cells: Cell) -> None:
        """Appends a row and prints it, since a benchmark may take minutes."""
        self.rows.append(cells)
        print(
            "  " + "  ".join(f"{name}={_text(value)}" for name, value in cells.items()), flush=True
        )


@dataclass
class Result:
    """What one benchmark found.

    Attributes:
        benchmark: Its name, also of its file.
        settings: What it was asked to do.
        machine: What it ran on.
        tables: The figures.
        targets: What was aimed at, and whether it was reached here.
    """

    benchmark: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any] = field(default_factory=describe_machine)
    tables: list[Table] = field(default_factory=list)
    targets: list[Mapping[str, Any]] = field(default_factory=list)

    def table(self, title: str) -> Table:
        """Begins a table."""
        print(f"\n{title}", flush=True)
        self.tables.append(Table(title))
        return self.tables[-1]

    def target(self, what: str, value: float, limit: float, *, at_most: bool = False) -> None:
        """Notes whether a figure reaches what was aimed at."""
        met = value <= limit if at_most else value >= limit
        self.targets.append({"target": what, "value": value, "limit": limit, "met": met})

    def finish(self, folder: Path) -> None:
        """Prints the tables as Markdown and stores everything as JSON."""
        print("\n" + to_markdown(asdict(self)), flush=True)
        path = folder / f"{self.benchmark}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


def load_result(path: Path) -> dict[str, Any]:
    """Reads what :meth:`Result.finish` stored."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def to_markdown(result: Mapping[str, Any]) -> str:
    """Returns a result's tables, targets and machine as Markdown."""
    parts = [
        f"**{table['title']}**\n\n{_markdown_rows(table['rows'])}" for table in result["tables"]
    ]
    if result["targets"]:
        parts.append("\n".join(_target_line(target) for target in result["targets"]))
    return "\n\n".join([*parts, machine_line(result["machine"])]) + "\n"


def _target_line(target: Mapping[str, Any]) -> str:
    word = "reached" if target["met"] else "not reached here"
    return f"- {target['target']}: {_text(target['value'])}, aim {_text(target['limit'])}: {word}"


def machine_line(machine: Mapping[str, Any]) -> str:
    """Returns the machine's description in one line."""
    flags = ", ".join(machine["flags"]) or "no vector extensions that matter"
    return (
        f"{machine['cores']} cores of {machine['processor']} ({flags}), "
        f"{machine['memory_gb']} GB, load {machine['load_1m']}, {machine['date'][:10]}"
    )


def _markdown_rows(rows: Sequence[Mapping[str, Cell]]) -> str:
    if not rows:
        return "(no rows)"
    names = list(rows[0])
    numeric = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "|".join(" ---: " if number else " --- " for number in numeric) + "|",
    ]
    lines += ["| " + " | ".join(_text(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _text(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value
