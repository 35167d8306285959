"""The summary of a run of the predict job."""

from __future__ import annotations

from dataclasses import dataclass

from bottleneck.evaluation.figures import Evaluation
from bottleneck.incremental.summary import Summary


@dataclass(kw_only=True)
class PredictSummary(Summary):
    """What a run did, and what its predictions table says after it.

    Attributes:
        evaluation: Figures over all rows whose label the model knows; None without any.
        unknown_labels: Rows whose label the model does not know.
        report_uri: URI of the report; empty if none was written.
    """

    evaluation: Evaluation | None = None
    unknown_labels: int = 0
    report_uri: str = ""

    def to_json(self) -> str:
        """Returns the summary as a JSON object, the attributes its keys."""
        figures = None if self.evaluation is None else self.evaluation.to_json()
        return self.json_with(evaluation=figures)

    def to_text(self) -> str:
        """Returns the summary as a table of two columns, and the figures."""
        lines = [super().to_text()]
        if self.report_uri:
            lines.append(f"  report      {self.report_uri}")
        if self.unknown_labels:
            lines.append(f"  note        {self.unknown_labels:,} rows have a label that the model "
                         "does not know and take no part in the figures")  # fmt: skip
        if self.evaluation is not None:
            lines += ["", "Against the labels of the source", self.evaluation.to_text()]
        return "\n".join(lines)
