"""Writing a trained model: Keras files by a worker, figures and report by the driver."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bottleneck.backbones.config import BackboneConfig
from bottleneck.cluster import calls
from bottleneck.console.redaction import redact_uri
from bottleneck.evaluation import charts, pages
from bottleneck.models import files as models_files
from bottleneck.models.files import FileRecord, ModelManifest
from bottleneck.table.snapshot import Snapshot
from bottleneck.training.config import TrainConfig, as_flags
from bottleneck.training.fit_config import FitConfig
from bottleneck.training.summary import TrainSummary
from bottleneck.training.worker import write_models

#: TensorFlow comes under either name, by platform and extra.
_LIBRARIES = ("keras", "tensorflow", "tensorflow-cpu", "ray", "numpy", "bottleneck-features")


def write_model(
    config: TrainConfig,
    uri: str,
    snapshot: Snapshot,
    fit: FitConfig,
    weights: Sequence[npt.NDArray[Any]],
    backbone: BackboneConfig,
    summary: TrainSummary,
) -> None:
    """Writes all files, the manifest last.

    Args:
        config: The training's settings.
        uri: Where the model goes; an earlier one there is withdrawn first.
        snapshot: What it was trained on.
        fit: How.
        weights: Of the head's best epoch.
        backbone: What goes under the head in ``model.keras``.
        summary: What came out.

    Raises:
        ModelError: Storage refuses.
    """
    models_files.withdraw_model(uri)
    models = calls.get_all([write_models.remote(uri, fit.head, weights, backbone)])[0]
    files: dict[str, FileRecord] = dict(models)
    evaluation = summary.evaluation
    curves = charts.learning_curves(summary.history, best_epoch=summary.best_epoch)
    confusion = reliability = None
    if evaluation is not None:
        confusion = charts.confusion_matrix(evaluation.labels, evaluation.confusion)
        reliability = charts.reliability_diagram(evaluation)
    versions = _versions()
    page = pages.training_report(
        title="Head of " + _title(snapshot),
        configuration=as_flags(config),
        data={
            "table": summary.table_uri,
            "version": str(summary.version),
            **{f"{name} rows": f"{count:,}" for name, count in summary.rows.items()},
            **{f"left out, {name}": f"{count:,}" for name, count in summary.left_out.items()},
        },
        specification=snapshot.spec.to_properties(),
        history=summary.history,
        best_epoch=summary.best_epoch,
        evaluation=evaluation,
        evaluated_on=summary.evaluated_on,
        learning_curves=curves,
        confusion_matrix=confusion,
        reliability_diagram=reliability,
        versions=versions,
    )
    texts = {
        models_files.LABELS: json.dumps(list(summary.labels), ensure_ascii=False, indent=2) + "\n",
        "history.csv": _csv(summary.history),
        "report.html": page,
    }
    pictures = {
        "learning_curves.png": curves,
        "confusion_matrix.png": confusion,
        "reliability.png": reliability,
        "tensorboard/events.out.tfevents.0.bottleneck": _tensorboard_events(summary.history),
    }
    for name, data in ({name: text.encode() for name, text in texts.items()} | pictures).items():
        if data is not None:
            files[name] = models_files.write_file(uri, name, data)
    manifest = ModelManifest(
        uri=uri,
        spec=snapshot.spec,
        labels=summary.labels,
        binary=fit.head.binary,
        files=files,
        facts={
            "table": {"uri": summary.table_uri, "version": summary.version},
            "rows": summary.rows,
            "configuration": as_flags(config),
            "fit": asdict(fit),
            "epochs": summary.epochs,
            "best_epoch": summary.best_epoch,
            "metrics": {
                "on": summary.evaluated_on,
                "values": None if evaluation is None else evaluation.to_json(),
            },
            "versions": versions,
        },
    )
    models_files.finish_model(manifest)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _title(snapshot: Snapshot) -> str:
    """What a model is called in its report."""
    table = redact_uri(snapshot.table_uri).rstrip("/").rpartition("/")[2]
    return f"{snapshot.spec.backbone} on {table}"


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
