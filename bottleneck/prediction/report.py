"""The report of the predict job: figures, mistakes, thumbnails."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from bottleneck.console.redaction import redact_uri
from bottleneck.evaluation import charts, pages
from bottleneck.evaluation.pages import Mistake
from bottleneck.images.decoding import decode
from bottleneck.images.options import DecodeOptions
from bottleneck.models.classifier import LocatedModel
from bottleneck.pipeline.fetching import requests_of
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.scoring import Judgement, judge_predictions
from bottleneck.prediction.source import _Source
from bottleneck.prediction.summary import PredictSummary
from bottleneck.storage import files
from bottleneck.storage.fetcher import Fetcher
from bottleneck.storage.uris import normalize_uri
from bottleneck.table.snapshot import Snapshot

_MISTAKES = 24
_THUMBNAIL_PIXELS = 160


def _judge(
    config: PredictConfig,
    snapshot: Snapshot,
    model: LocatedModel,
    source: _Source,
    summary: PredictSummary,
) -> None:
    judgement = judge_predictions(snapshot, model.labels, _MISTAKES if config.report else 0)
    summary.evaluation, summary.unknown_labels = judgement.evaluation, judgement.unknown
    if not config.report:
        return
    place = normalize_uri(config.report)
    page = _page(config, snapshot, model, judgement, _thumbnails(judgement, source))
    files.write_bytes(place, page.encode())
    summary.report_uri = redact_uri(place)


def _page(
    config: PredictConfig,
    snapshot: Snapshot,
    model: LocatedModel,
    judgement: Judgement,
    thumbnails: Mapping[str, bytes],
) -> str:
    evaluation = judgement.evaluation
    facts = {
        "model": redact_uri(model.uri),
        "backbone": model.spec.backbone,
        "labels": f"{len(model.labels):,}",
        "source": redact_uri(normalize_uri(config.images or config.features)),
        "table": f"{redact_uri(snapshot.table_uri)} version {snapshot.version}",
    }
    if judgement.unknown:
        facts["labels unknown to the model"] = f"{judgement.unknown:,} rows, not in the figures"
    if judgement.judged < judgement.known:
        facts["figures from"] = f"{judgement.judged:,} of {judgement.known:,} rows, drawn"
    return pages.prediction_report(
        title="Predictions of " + redact_uri(model.uri).rstrip("/").rpartition("/")[2],
        model=facts,
        statuses=judgement.statuses,
        predicted=judgement.predicted,
        evaluation=evaluation,
        mistakes=[
            Mistake(image, label, predicted, probability, thumbnails.get(image))
            for image, label, predicted, probability in judgement.mistakes
        ],
        confusion_matrix=charts.confusion_matrix(evaluation.labels, evaluation.confusion)
        if evaluation is not None
        else None,
        reliability_diagram=charts.reliability_diagram(evaluation)
        if evaluation is not None
        else None,
    )


def _thumbnails(judgement: Judgement, source: _Source) -> dict[str, bytes]:
    """Reads the mistaken images again; those that cannot be read have no picture."""
    wanted = [image for image, *_ in judgement.mistakes]
    if source.table is not None or not wanted:
        return {}
    chosen = source.images.filter(pa.compute.is_in(source.images["image"], pa.array(wanted)))
    fetcher = Fetcher(concurrency=8, timeout_s=30.0, max_bytes=64_000_000)
    side = _THUMBNAIL_PIXELS
    options = DecodeOptions(height=side, width=side, resize="pad")
    found = {}
    for image, answer in zip(
        chosen["image"].to_pylist(), fetcher.fetch(requests_of(chosen)), strict=True
    ):
        pixels = decode(answer.data, options).pixels if answer.data is not None else None
        if pixels is not None:
            found[image] = _jpeg(pixels)
    return found


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
