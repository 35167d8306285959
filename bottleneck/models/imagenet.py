"""Networks of keras.applications with their ImageNet classes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bottleneck.backbones.families import FAMILIES
from bottleneck.backbones.keras_internals import imagenet_class_index_url
from bottleneck.backbones.weights import imagenet_file, keras_models_dir, resolve_weights
from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import BackboneError
from bottleneck.storage.uris import normalize_uri

#: File name of Keras's list of ImageNet's classes.
_CLASS_INDEX = "imagenet_class_index.json"

#: Size of the weights of VGG16 with its dense layers; most others of keras.applications have less.
LARGE_NETWORK_BYTES = 553_000_000


def imagenet_labels() -> tuple[str, ...]:
    """Returns the readable names of ImageNet's 1,000 classes, in order; repeated ones numbered.

    Raises:
        BackboneError: The list cannot be downloaded; the message says where to put it. Or the
            file that is there is another.
    """
    import keras

    place = keras_models_dir() / _CLASS_INDEX
    try:
        if not place.is_file():
            # Elsewhere when Keras may not write there.
            place = Path(
                keras.utils.get_file(
                    _CLASS_INDEX, imagenet_class_index_url(), cache_subdir="models"
                )
            )
        text = place.read_text()
    except Exception as e:  # what a download raises is the network's affair
        raise BackboneError(
            f"cannot download the names of ImageNet's classes ({type(e).__name__}); "
            f"put {_CLASS_INDEX} into {place.parent}"
        ) from e
    try:
        index = json.loads(text)
        names = [str(index[str(number)][1]) for number in range(len(index))]
    except (ValueError, LookupError, TypeError) as e:
        raise BackboneError(
            f"{place} is not Keras's list of ImageNet's classes ({type(e).__name__}); "
            "remove it to have it downloaded again"
        ) from e
    # Two classes are called "maillot" and two "crane".
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(labels)


def imagenet_network(name: str, weights: str) -> tuple[Any, str]:
    """Builds an application with its classifier.

    Returns:
        ``keras.Model``, and the digest of its weights (``sha256:…``).

    Raises:
        BackboneError: The weights cannot be had, or do not fit.
    """
    # The driver calls this too, whose output should not begin with TensorFlow's start-up notes.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    family = FAMILIES[name]
    constructor = getattr(keras.applications, family.constructor)
    if weights == "imagenet":
        file, network = imagenet_file(lambda: constructor(weights="imagenet"), name)
        return network, f"sha256:{file.sha256}"
    file = resolve_weights(normalize_uri(weights))
    network = constructor(weights=None)
    try:
        network.load_weights(file.path)
    except (ValueError, OSError, KeyError) as e:
        raise BackboneError(
            f"the weights {redact_uri(weights)} do not fit {name} with its classifier: "
            f"{one_line(e)}"
        ) from e
    return network, f"sha256:{file.sha256}"
