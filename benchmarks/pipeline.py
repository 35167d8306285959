"""The job end to end against what bounds it and what it replaces, side by side in one run.

Run it as .venv/bin/python -m benchmarks.pipeline, or for a small backbone with --backbone
mobilenet --images 4096. Three contestants take turns, so that what else the machine does meets all
of them alike:

* ``bare``: the compiled backbone over arrays already decoded, nothing else: the most that a
  pipeline around it can reach.
* ``keras``: what a Keras user writes today: ``image_dataset_from_directory`` and the
  application's ``predict`` with its own ``preprocess_input``, in float32.
* ``job``: ``jobs/extract.py`` in a process of its own, from files to a committed table. Its rate
  is the one of its summary: from its first finished images on, so without Ray's, TensorFlow's
  and the backbone's start-up, which the other two are spared as well.

`cpu_s_per_image` is processor time, of all of the job's processes together, and `others_cores` what
was used by processes that have nothing to do with the benchmark. Turns in which these took more
than a tenth of the machine are left out as long as there are others.

All use seeded random weights: speed does not depend on them, and ImageNet's need a network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.support.images import write_photos
from benchmarks.support.processes import machine_cpu_s, run_job
from benchmarks.support.results import CommonSettings, Result
from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.families import FAMILIES
from bottleneck.images.decoding import decode

_WEIGHTS = "random:0"

#: Ray's workers leave precedence to other processes (`RAY_worker_niceness`); so do the contestants
#: here, or whatever else runs on the machine would slow the job alone.
_WORKER_NICENESS = 15

#: Aims of the project: bare on any machine, Keras where AMX multiplies bfloat16.
_AIM_BARE = 0.9
_AIM_KERAS = 4.0

#: A turn counts if others used no more of the machine than this.
_OTHERS_SHARE = 0.1
_LOOK_S = 10.0

#: What each contestant measured, turn by turn.
Turns = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures images/s of the extract job, the bare backbone and plain Keras.

    Attributes:
        backbone: A keras.applications model.
        images: Photos in a turn of each contestant.
        image_size: Height and width in pixels; the backbone's own when not given.
        batch_size: Images that a backbone computes at once.
        repeat: Turns of each contestant.
        precision: Arithmetic of `bare` and `job`; Keras's is always float32.
        patience_s: Seconds that a turn waits for others to leave the machine alone.
        job_flags: More flags for jobs/extract.py, in one text.
    """

    backbone: str = "vgg16"
    images: int = 128
    image_size: tuple[int, int] | None = None
    batch_size: int = 32
    repeat: int = 3
    precision: str = "auto"
    patience_s: float = 0.0
    job_flags: str = ""


def main(settings: Settings) -> None:
    if settings.smoke:
        tiny = {"backbone": "mobilenet", "image_size": (32, 32), "images": 64, "repeat": 1}
        settings = dataclasses.replace(settings, **tiny)
    result = Result("pipeline", settings.to_json())
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as scratch:
        folder = Path(scratch) / "photos"
        what = write_photos(folder, settings.images)
        turns = _take_turns(settings, folder, Path(scratch))
    precision = turns["job"][0]["precision"]
    chosen = _quiet(turns)
    count = len(chosen["job"])
    table = result.table(
        f"{settings.backbone}, {settings.images} {what}, batches of {settings.batch_size}, "
        f"medians of {count} turns out of {settings.repeat}"
    )
    for name, taken in chosen.items():
        table.add(
            contestant=name,
            precision="float32" if name == "keras" else precision,
            images_per_s=_median(taken, "images_per_s", 2),
            slowest=round(min(turn["images_per_s"] for turn in taken), 2),
            fastest=round(max(turn["images_per_s"] for turn in taken), 2),
            cpu_s_per_image=_median(taken, "cpu_s_per_image", 3),
            others_cores=_median(taken, "others_cores", 2),
            wall_clock_s=_median(taken, "wall_s", 3),
        )
    for name, aim in (("bare", _AIM_BARE), ("keras", _AIM_KERAS)):
        ratios = [
            job["images_per_s"] / other["images_per_s"]
            for job, other in zip(chosen["job"], chosen[name], strict=True)
        ]
        what = f"images/s, job / {name}, median of {count} turns"
        result.target(what, round(statistics.median(ratios), 3), aim)
    stages = result.table("Seconds by stage in the job's last turn, added up over workers")
    stages.add(**turns["job"][-1]["stage_s"])
    result.finish(settings.results)


def _wait_until_quiet(patience_s: float) -> None:
    """Waits until hardly anything computes, for as long as there is patience."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before = machine_cpu_s()
        time.sleep(_LOOK_S)
        if (machine_cpu_s() - before) / _LOOK_S <= _others_limit():
            return


def _others_limit() -> float:
    return _OTHERS_SHARE * len(os.sched_getaffinity(0))


def _quiet(turns: Turns) -> Turns:
    """Returns the turns that others hardly disturbed; all when they disturbed every one."""
    quiet = [
        number
        for number, taken in enumerate(zip(*turns.values(), strict=True))
        if max(one["others_cores"] for one in taken) <= _others_limit()
    ]
    if not quiet:
        return turns
    return {name: [taken[number] for number in quiet] for name, taken in turns.items()}


def _median(taken: list[dict[str, Any]], name: str, digits: int) -> float:
    return round(statistics.median(one[name] for one in taken), digits)


def _take_turns(settings: Settings, folder: Path, scratch: Path) -> Turns:
    bare = _Contestant(_bare, settings, folder)
    plain = _Contestant(_keras, settings, folder)
    contestants = {
        "bare": bare.take_turn,
        "keras": plain.take_turn,
        "job": lambda: _job(settings, folder, scratch),
    }
    turns: Turns = {name: [] for name in contestants}
    try:
        for number in range(settings.repeat):
            _wait_until_quiet(settings.patience_s)
            for name, take_turn in contestants.items():
                taken = take_turn()
                turns[name].append(taken)
                print(
                    f"turn {number + 1}: {name} {taken['images_per_s']:.2f} images/s, "
                    f"{taken['others_cores']:.2f} cores used by others",
                    flush=True,
                )
    finally:
        bare.close()
        plain.close()
    return turns


class _Contestant:
    """A process that holds a loaded model and runs it when asked to."""

    def __init__(self, target: Callable[..., None], settings: Settings, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, settings, folder), daemon=True)
        self._process.start()
        theirs.close()
        # So that nobody loads while another one runs.
        self._pipe.recv()

    def take_turn(self) -> dict[str, Any]:
        self._pipe.send("go")
        answer: dict[str, Any] = self._pipe.recv()
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _serve(
    pipe: Connection, images: int, warm_up: Callable[[], Any], compute: Callable[[], Any]
) -> None:
    """Warms up, then computes at every request and answers with the rate."""
    os.nice(_WORKER_NICENESS)
    warm_up()
    pipe.send("ready")
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        began, began_own, began_all = time.perf_counter(), time.process_time(), machine_cpu_s()
        compute()
        seconds = time.perf_counter() - began
        own_s, all_s = time.process_time() - began_own, machine_cpu_s() - began_all
        pipe.send(
            {
                "images_per_s": images / seconds,
                "wall_s": seconds,
                "cpu_s_per_image": own_s / images,
                "others_cores": max(0.0, (all_s - own_s) / seconds),
            }
        )


def _bare(pipe: Connection, settings: Settings, folder: Path) -> None:
    backbone = Backbone(_config(settings), batch_size=settings.batch_size)
    options = backbone.decode_options()
    decoded = [decode(path.read_bytes(), options).pixels for path in sorted(folder.rglob("*.jpg"))]
    pixels = np.stack([image for image in decoded if image is not None])
    first = pixels[: settings.batch_size]
    _serve(pipe, len(pixels), lambda: backbone(first), lambda: backbone(pixels))


def _keras(pipe: Connection, settings: Settings, folder: Path) -> None:
    import keras

    keras.utils.set_random_seed(0)
    family = FAMILIES[settings.backbone]
    height, width = _config(settings).input_size
    application = getattr(keras.applications, family.constructor)
    preprocess_input = getattr(keras.applications, family.module).preprocess_input
    model = application(include_top=False, weights=None, input_shape=(height, width, 3))
    with contextlib.redirect_stdout(io.StringIO()):
        files = keras.utils.image_dataset_from_directory(
            folder,
            labels=None,
            image_size=(height, width),
            batch_size=settings.batch_size,
            shuffle=False,
        )
    dataset = files.map(preprocess_input)
    _serve(
        pipe,
        settings.images,
        lambda: model.predict(dataset.take(1), verbose=0),
        lambda: model.predict(dataset, verbose=0),
    )


def _job(settings: Settings, folder: Path, scratch: Path) -> dict[str, Any]:
    """Times one run of the extract job, start-up included."""
    table, summary = scratch / "table", scratch / "summary.json"
    shutil.rmtree(table, ignore_errors=True)
    flags = ["--images", str(folder), "--features", str(table), "--summary", str(summary)]
    flags += ["--backbone", settings.backbone, "--weights", _WEIGHTS]
    flags += ["--batch-size", str(settings.batch_size), "--precision", settings.precision]
    if settings.image_size is not None:
        flags += ["--image-size", *map(str, settings.image_size)]
    seen = run_job([*flags, *settings.job_flags.split()], scratch / "log.txt", watch_cpu=True)
    answer: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    # The rate is that of the images after the first block, up to the last commit.
    committed = max(path.stat().st_mtime for path in (table / "_delta_log").iterdir())
    warm_images = settings.images - settings.batch_size
    warm_s = warm_images / max(answer["images_per_s"], 1e-9)
    cpu_s, others = seen.cpu_between(committed - warm_s, committed)
    return answer | {
        "wall_s": seen.seconds,
        "cpu_s_per_image": cpu_s / max(1, warm_images),
        "others_cores": others,
    }


def _config(settings: Settings) -> BackboneConfig:
    return BackboneConfig(
        settings.backbone,
        image_size=settings.image_size,
        precision=settings.precision,
        weights=_WEIGHTS,
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main(tyro.cli(Settings))
