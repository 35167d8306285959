"""Writing a trained model: Keras files by a worker, figures and report by the driver."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bottleneck.backbones.config import BackboneConfig
from bottleneck.cluster import calls
from bottleneck.console.redaction import redact_uri
from bottleneck.evaluation import charts
from bottleneck.evaluation.pages import TrainingReport
from bottleneck.models import files as models_files
from bottleneck.models.files import FileRecord, ModelManifest
from bottleneck.table.snapshot import Snapshot
from bottleneck.training.config import TrainConfig, as_flags
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.summary import TrainSummary
from bottleneck.training.worker import write_models

#: TensorFlow comes under either name, by platform and extra.
_LIBRARIES = ("keras", "tensorflow", "tensorflow-cpu", "ray", "numpy", "bottleneck-features")

#: Files of the report's pictures by the names that the report has for them.
_PICTURE_FILES = {
    "learning_curves": "learning_curves.png",
    "confusion_matrix": "confusion_matrix.png",
    "reliability_diagram": "reliability.png",
}


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a model's files are made of.

    Attributes:
        uri: Where the model goes; an earlier one there is withdrawn first.
        config: The training's flags.
        snapshot: What it was trained on.
        fit: How.
        weights: Weights of the head's best epoch.
        backbone: What goes under the head in ``model.keras``.
        summary: What came out.
    """

    uri: str
    config: TrainConfig
    snapshot: Snapshot
    fit: FitConfig
    weights: Sequence[npt.NDArray[Any]]
    backbone: BackboneConfig
    summary: TrainSummary


def write_model(model: TrainedModel) -> None:
    """Writes all files, the manifest last.

    Raises:
        ModelError: Storage refuses.
    """
    models_files.withdraw_model(model.uri)
    keras_files = write_models.remote(model.uri, model.fit.head, model.weights, model.backbone)
    files: dict[str, FileRecord] = dict(calls.get_all([keras_files])[0])
    for name, data in _documents(model).items():
        files[name] = models_files.write_file(model.uri, name, data)
    models_files.finish_model(_manifest(model, files))


def _documents(model: TrainedModel) -> dict[str, bytes]:
    """Returns the files for people and for other programs, by name."""
    summary = model.summary
    pictures = {
        "learning_curves": charts.learning_curves(summary.history, best_epoch=summary.best_epoch)
    }
    if summary.evaluation is not None:
        pictures |= {
            "confusion_matrix": charts.confusion_matrix(
                summary.evaluation.labels, summary.evaluation.confusion
            ),
            "reliability_diagram": charts.reliability_diagram(summary.evaluation),
        }
    texts = {
        models_files.LABELS: json.dumps(list(summary.labels), ensure_ascii=False, indent=2) + "\n",
        "history.csv": _csv(summary.history),
        "report.html": _report(model, pictures).to_html(),
    }
    return (
        {name: text.encode() for name, text in texts.items()}
        | {_PICTURE_FILES[name]: picture for name, picture in pictures.items()}
        | {"tensorboard/events.out.tfevents.0.bottleneck": _tensorboard_events(summary.history)}
    )


def _report(model: TrainedModel, pictures: dict[str, bytes]) -> TrainingReport:
    summary, snapshot = model.summary, model.snapshot
    table = redact_uri(snapshot.table_uri).rstrip("/").rpartition("/")[2]
    return TrainingReport(
        title=f"Head of {snapshot.spec.backbone} on {table}",
        configuration=as_flags(model.config),
        data={
            "table": summary.table_uri,
            "version": str(summary.version),
            **{f"{name} rows": f"{count:,}" for name, count in summary.rows.items()},
            **{f"left out, {name}": f"{count:,}" for name, count in summary.left_out.items()},
        },
        specification=snapshot.spec.to_properties(),
        history=summary.history,
        best_epoch=summary.best_epoch,
        evaluation=summary.evaluation,
        evaluated_on=summary.evaluated_on,
        versions=_versions(),
        **pictures,
    )


def _manifest(model: TrainedModel, files: dict[str, FileRecord]) -> ModelManifest:
    summary, evaluation = model.summary, model.summary.evaluation
    return ModelManifest(
        uri=model.uri,
        spec=model.snapshot.spec,
        labels=summary.labels,
        binary=model.fit.head.binary,
        files=files,
        facts={
            "table": {"uri": summary.table_uri, "version": summary.version},
            "rows": summary.rows,
            "configuration": as_flags(model.config),
            "fit": asdict(model.fit),
            "epochs": summary.epochs,
            "best_epoch": summary.best_epoch,
            "metrics": {
                "on": summary.evaluated_on,
                "values": None if evaluation is None else evaluation.to_json(),
            },
            "versions": _versions(),
        },
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _tensorboard_events(history: list[dict[str, float]]) -> bytes:
    """Returns a TensorBoard event file of the epochs' losses and accuracies."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for entry in history:
                for name, value in entry.items():
                    if name != "epoch":
                        writer.add_scalar(f"epoch_{name}", value, int(entry["epoch"]))
        (file,) = Path(folder).iterdir()
        return file.read_bytes()


def _csv(history: list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for entry in history for name in entry))
    rows = [",".join(repr(entry[name]) if name in entry else "" for name in names)
            for entry in history]  # fmt: skip
    return "\n".join([",".join(names), *rows]) + "\n"
