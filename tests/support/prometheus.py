"""What a Ray node serves to Prometheus, of one run."""

from __future__ import annotations

import time
import urllib.request

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from bottleneck.incremental.counters import METRICS, STAGE_SECONDS
from bottleneck.incremental.summary import Summary

#: Figures by name and, where it has one, status: ``{"ray_bottleneck_images_total ok": 38.0}``.
Figures = dict[str, float]


def figures_of(port: int, run: str) -> Figures:
    """Scrapes a node; fails when a series has other labels than the code says, or a twin."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    labels = {metric.exported_name: set(metric.labels) for metric in METRICS}
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith("ray_bottleneck_") or sample.labels["run"] != run:
                continue
            own = {name for name in sample.labels if name.islower() and "otel" not in name}
            assert own == labels[sample.name], sample
            name = f"{sample.name} {sample.labels.get('status', '')}".strip()
            assert name not in found, sample
            found[name] = sample.value
    return found


def figures_in(summary: Summary) -> Figures:
    """The same figures as the run's summary has them; those that are zero are not exported."""
    ok = summary.computed - summary.failures
    images = {"ok": ok, **summary.failed}
    seconds = {
        metric.exported_name: summary.stage_s.get(stage, 0.0)
        for stage, metric in STAGE_SECONDS.items()
    }
    found = {f"ray_bottleneck_images_total {name}": float(n) for name, n in images.items()}
    found |= {
        "ray_bottleneck_bytes_read_total": float(summary.bytes_read),
        "ray_bottleneck_bytes_written_total": float(summary.bytes_written),
        "ray_bottleneck_commits_total": float(summary.commits),
        **seconds,
    }
    return {name: value for name, value in found.items() if value}


def embedded_port() -> int:
    """Where this process's embedded Ray serves its metrics."""
    node = next(node for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    port: int = node["MetricsExportPort"]
    return port


def figures_once(port: int, run: str, wanted: object) -> Figures:
    """Scrapes a node until it serves what is wanted of a run, within a minute."""
    deadline = time.monotonic() + 60
    while True:
        said: Figures | OSError
        try:
            said = figures_of(port, run)
        except OSError as e:  # a busy node may not answer in time
            said = e
        if not isinstance(said, OSError) and said == wanted:
            return said
        assert time.monotonic() < deadline, (said, wanted)
        time.sleep(1)


def require_served(summary: Summary) -> None:
    """Fails unless the embedded Ray soon serves the very figures of a summary."""
    figures_once(embedded_port(), summary.run, pytest.approx(figures_in(summary), rel=1e-9))
