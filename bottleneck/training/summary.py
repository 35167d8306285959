"""What a training did, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from bottleneck.console.formatting import format_duration
from bottleneck.console.outcome import Outcome
from bottleneck.evaluation.figures import Evaluation


@dataclass(kw_only=True)
class TrainSummary(Outcome):
    """What a training did.

    Attributes:
        run: Identity of the run.
        table_uri: The table, without credentials.
        version: Its version that was trained on.
        model_uri: The model, without credentials.
        labels: Names of the classes.
        rows: Rows by split.
        left_out: Rows that took no part, by reason.
        warnings: What the user should know of the data.
        epochs: Epochs done.
        best_epoch: The one whose weights were kept.
        history: Losses and accuracies by epoch.
        evaluated_on: ``test``, or ``validation`` without a test split; empty without either.
        evaluation: Figures on that split.
        workers: Workers asked for.
        dtype: How features were held in memory.
        seconds: Wall-clock time.
    """

    run: str
    table_uri: str
    model_uri: str
    version: int = 0
    labels: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    epochs: int = 0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    evaluated_on: str = ""
    evaluation: Evaluation | None = None
    workers: str = "1"
    dtype: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        """Returns the summary as a JSON object, the attributes its keys."""
        values: dict[str, Any] = dict(vars(self))
        values["labels"] = list(self.labels)
        values["evaluation"] = None if self.evaluation is None else self.evaluation.to_json()
        values["seconds"] = round(self.seconds, 3)
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Returns the summary as lines for the terminal."""
        out = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        split = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        best = self.history[self.best_epoch - 1] if self.history else {}
        kept = ", ".join(
            f"{name} {best[name]:.4f}"
            for name in ("loss", "accuracy", "val_loss", "val_accuracy")
            if name in best
        )
        lines = [
            f"Trained (run {self.run})",
            f"  table       {self.table_uri}  version {self.version}",
            f"  rows        {split}" + (f"  (left out: {out})" if out else ""),
            f"  labels      {len(self.labels):,}",
            f"  epochs      {self.epochs}, best {self.best_epoch}  ({kept})",
            f"  time        {format_duration(self.seconds)}",
            f"  model       {self.model_uri}",
            *(f"  note        {text}" for text in self.warnings),
        ]
        if self.evaluation is not None:
            lines += ["", f"On the {self.evaluated_on} split", self.evaluation.to_text()]
        return "\n".join(lines)
