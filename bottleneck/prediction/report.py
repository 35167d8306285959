"""The figures of a predictions table and its HTML report, with thumbnails of the mistakes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from bottleneck.console.redaction import redact_uri
from bottleneck.evaluation import charts
from bottleneck.evaluation.pages import Mistake, PredictionReport
from bottleneck.images.decoding import decode
from bottleneck.images.options import DecodeOptions
from bottleneck.models.classifier import LocatedModel
from bottleneck.pipeline.fetching import fetch_in_order, fetcher_of
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.scoring import Scores, score_predictions
from bottleneck.prediction.summary import PredictSummary
from bottleneck.storage import files
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.snapshot import Snapshot

#: Maximum number of mistakes that a report shows.
_MISTAKES = 24

#: Height and width of a thumbnail in pixels.
_THUMBNAIL_PIXELS = 160


def evaluate_table(
    config: PredictConfig,
    snapshot: Snapshot,
    model: LocatedModel,
    images: pa.Table | None,
    summary: PredictSummary,
) -> None:
    """Evaluates a predictions table, and writes the report if one is wanted.

    Args:
        config: Says whether and where a report is written, and how images are read for it.
        snapshot: The predictions.
        model: The model that made them.
        images: Rows of :data:`~bottleneck.sources.rows.LISTING_SCHEMA` of the images that were
            classified, for thumbnails; None where a features table was.
        summary: Receives the figures and the report's URI.

    Raises:
        TableError: A shard cannot be read.
        SourceError: The report cannot be written.
    """
    scores = score_predictions(snapshot, model.labels, _MISTAKES if config.report else 0)
    summary.evaluation, summary.unknown_labels = scores.evaluation, scores.unknown
    if not config.report:
        return
    pictures = {}
    if images is not None:
        wanted = pa.array([image for image, *_ in scores.mistakes], pa.string())
        pictures = thumbnails(images.filter(pa.compute.is_in(images["image"], wanted)), config)
    uri = normalize_uri(config.report)
    files.write_bytes(uri, _page(config, snapshot, model, scores, pictures).encode())
    summary.report_uri = redact_uri(uri)


def _page(
    config: PredictConfig,
    snapshot: Snapshot,
    model: LocatedModel,
    scores: Scores,
    pictures: Mapping[str, bytes],
) -> str:
    evaluation = scores.evaluation
    facts = {
        "model": redact_uri(model.uri),
        "backbone": model.spec.backbone,
        "labels": f"{len(model.labels):,}",
        "source": redact_uri(normalize_uri(config.images or config.features)),
        "table": f"{redact_uri(snapshot.table_uri)} version {snapshot.version}",
    }
    if scores.unknown:
        facts["labels unknown to the model"] = f"{scores.unknown:,} rows, not in the figures"
    if scores.evaluated < scores.known:
        facts["figures from"] = f"{scores.evaluated:,} of {scores.known:,} rows, sampled"
    report = PredictionReport(
        title="Predictions of " + redact_uri(model.uri).rstrip("/").rpartition("/")[2],
        model=facts,
        statuses=scores.statuses,
        predicted=scores.predicted,
        evaluation=evaluation,
        mistakes=[
            Mistake(image, label, predicted, probability, pictures.get(image))
            for image, label, predicted, probability in scores.mistakes
        ],
        confusion_matrix=charts.confusion_matrix(evaluation.labels, evaluation.confusion)
        if evaluation is not None
        else None,
        reliability_diagram=charts.reliability_diagram(evaluation)
        if evaluation is not None
        else None,
    )
    return report.to_html()


def thumbnails(rows: pa.Table, config: PredictConfig) -> dict[str, bytes]:
    """Reads images once more, within the job's own limits, and makes small pictures of them.

    Args:
        rows: Rows of :data:`~bottleneck.sources.rows.LISTING_SCHEMA`.
        config: Says how images are read, and how large they may be.

    Returns:
        JPEG files by image; images that cannot be read or decoded are left out.
    """
    side = _THUMBNAIL_PIXELS
    options = DecodeOptions(height=side, width=side, resize="pad", max_pixels=config.max_pixels)
    found = {}
    answers = fetch_in_order(rows, fetcher_of(config), _MISTAKES)
    for image, (answer, _) in zip(rows["image"].to_pylist(), answers, strict=True):
        pixels = decode(answer.data, options).pixels if answer.data is not None else None
        if pixels is not None:
            found[image] = _jpeg(pixels)
    return found


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
