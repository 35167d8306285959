"""The quickstart: draws images, extracts their features, shows the summary and the table.

    make quickstart

Everything is written to quickstart/. A second run finds nothing to do and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from draw_images import write_image_set
from look_at_table import look

from bottleneck.backbones.weights import imagenet_file
from bottleneck.errors import BackboneError

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = Path("quickstart")
_SEEDED = "random:0"

_NOTICE = """
***
*** The ImageNet weights of VGG16 are not available here, so this quickstart computes with
*** RANDOM WEIGHTS (--weights {seeded}). Everything works as with the real ones, and the
*** table records which weights it holds, but these features are only good for trying things out.
***
*** {reason}
***
"""


def choose_weights() -> str:
    """Returns ``imagenet`` where Keras has or can download VGG16's weights, else seeded ones.

    Only this example chooses: the jobs compute with the weights that they are given, or fail.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    try:
        imagenet_file(
            lambda: keras.applications.VGG16(weights="imagenet", include_top=False), "vgg16"
        )
    except BackboneError as e:
        print(_NOTICE.format(seeded=_SEEDED, reason=e), flush=True)
        return _SEEDED
    return "imagenet"


def main() -> int:
    """Runs the example; returns its exit code."""
    os.chdir(_ROOT)
    images = _FOLDER / "images"
    print(f"Drawing images into {images}: {write_image_set(images)} files written", flush=True)
    weights = choose_weights()
    # Features of different weights must not be mixed, so each kind has a table of its own.
    features = _FOLDER / f"features-vgg16-{weights.replace(':', '-')}"
    command = ["jobs/extract.py", "--images", f"{images}", "--features", f"{features}"]
    command += ["--backbone", "vgg16", "--weights", weights]
    command += ["--summary", f"{_FOLDER / 'summary.json'}"]
    print("$ python " + " ".join(command), flush=True)
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code == 0:
        print()
        look(f"{features}", None, images, _FOLDER / "neighbors.png")
    return code


if __name__ == "__main__":
    sys.exit(main())
