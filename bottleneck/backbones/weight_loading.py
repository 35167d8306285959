"""Loads weights into a Keras model: from a file of any format, all or nothing, or seeded."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bottleneck.console.redaction import one_line
from bottleneck.errors import BackboneError


def layer_names(model: Any) -> dict[str, Any]:
    """Returns a model's layers by names that do not depend on what else this process built.

    Keras numbers unnamed layers through the life of a process, so one model's ``conv2d_93`` is
    the next one's ``conv2d_187``. Here each kind is counted from the model's own first layer, in
    the order of creation: the names a fresh process gives.

    Returns:
        Layers by name, in the model's order.
    """
    numbered: dict[str, list[tuple[int, Any]]] = {}
    for layer in model.layers:
        match = _auto_numbered(layer)
        if match is not None:
            kind, number = match
            numbered.setdefault(kind, []).append((number, layer))
    stable: dict[int, str] = {}
    for kind, layers in numbered.items():
        for rank, (_, layer) in enumerate(sorted(layers, key=lambda pair: pair[0])):
            stable[id(layer)] = f"{kind}_{rank}" if rank else kind
    return {stable.get(id(layer), layer.name): layer for layer in model.layers}


def _auto_numbered(layer: Any) -> tuple[str, int] | None:
    """Returns (kind, number) of a name that Keras derived from a class; None for other names."""
    match = re.fullmatch(r"(\D.*?)(?:_(\d+))?", layer.name)
    if match is None or match[1].replace("_", "") != type(layer).__name__.lower():
        return None
    return match[1], int(match[2] or 0)


def load_weights(model: Any, part: Any, path: Path, backbone: str) -> None:
    """Loads a weights file; every weight that ``part`` needs must come from it.

    Args:
        model: Keras application without its classifier, in float32.
        part: Model up to the wanted layer, made of ``model``'s layers.
        path: A ``.npz`` file with arrays named ``layer/variable`` (``block1_conv1/kernel``), which
            must hold all of ``part`` and nothing that ``model`` lacks; or a ``.h5``, ``.hdf5``,
            ``.weights.h5`` or ``.keras`` file, which must hold all of ``model``.
        backbone: Name of the backbone, for messages.

    Raises:
        BackboneError: The file cannot be read or does not fit; ``model`` is then unusable.
    """
    try:
        if path.suffix.lower() == ".npz":
            _load_npz(model, part, path)
        else:
            _load_keras(model, path)
    except BackboneError:
        raise
    except Exception as e:
        # Keras, h5py and zipfile have no common exception for "this is not the file you think".
        raise _unfit(path, backbone, one_line(e, kind=True)) from e
    for name, weight in _weights_by_name(part).items():
        if not np.isfinite(weight.numpy()).all():
            raise _unfit(path, backbone, f"it gives no finite values for {name}")


def _unfit(path: Path, backbone: str, reason: str) -> BackboneError:
    return BackboneError(
        f"the weights file {path.name} does not fit {backbone}: {reason}; give weights of "
        "keras.applications' architecture without the classifier (include_top=False) and, for a "
        "MobileNet, of the same alpha"
    )


def _load_keras(model: Any, path: Path) -> None:
    # What a loader leaves untouched stays NaN and is found by the caller.
    for weight in model.weights:
        if np.issubdtype(np.dtype(weight.dtype), np.floating):
            weight.assign(np.full(weight.shape, np.nan, weight.dtype))
    name = path.name.lower()
    if name.endswith((".h5", ".hdf5")) and not name.endswith(".weights.h5"):
        _require_same_order(model, path)
    elif name.endswith(".keras") and not zipfile.is_zipfile(path):
        raise ValueError("it is not a .keras file (a zip archive)")
    model.load_weights(str(path))


def _require_same_order(model: Any, path: Path) -> None:
    """Refuses a legacy file whose layers are in another order: Keras loads those by position.

    Only names that both have are compared. Official files carry older spellings of some names,
    and names that Keras numbered mean nothing.
    """
    import h5py

    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs:
            return
        stored = [_decoded(name) for name in group.attrs["layer_names"]]
        stored = [name for name in stored if len(group[name].attrs.get("weight_names", ()))]
    ours = [layer.name for layer in model.layers if layer.weights and not _auto_numbered(layer)]
    mine, theirs = (
        [name for name in names if name in set(stored) & set(ours)] for names in (ours, stored)
    )
    for own, other in zip(mine, theirs, strict=False):
        if own != other:
            raise ValueError(f"layer {other} is where {own} is expected")


def _decoded(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _load_npz(model: Any, part: Any, path: Path) -> None:
    known, needed = _weights_by_name(model), _weights_by_name(part)
    with np.load(path, allow_pickle=False) as arrays:
        if unknown := sorted(set(arrays.files) - set(known)):
            raise ValueError(f"it has {unknown[0]}, which the architecture lacks")
        if missing := [name for name in needed if name not in arrays.files]:
            raise ValueError(f"it lacks {missing[0]} ({len(missing)} of {len(needed)} missing)")
        for name, weight in needed.items():
            array = arrays[name]
            if array.shape != tuple(weight.shape):
                raise ValueError(f"{name} has shape {array.shape}, not {tuple(weight.shape)}")
            weight.assign(array)


def _weights_by_name(model: Any) -> dict[str, Any]:
    return {
        f"{name}/{weight.path.removeprefix(layer.name + '/')}": weight
        for name, layer in layer_names(model).items()
        for weight in layer.weights
    }


def set_random_weights(model: Any, seed: int) -> str:
    """Gives every kernel seeded He-uniform values; biases and statistics keep their initial ones.

    NumPy samples them, so they are the same bits on every machine and Keras backend, and neither
    Keras's nor NumPy's global seed is touched. He's scale (He et al. 2015) keeps the size of
    activations through many layers, where Keras's default lets MobileNet's features shrink to
    1e-15.

    Returns:
        SHA-256 (hex) of all weights of the model.
    """
    for index, weight in enumerate(model.weights):
        shape = tuple(weight.shape)
        if len(shape) < 2:
            continue
        # (height, width, channels, 1) is a depthwise kernel: each output sees one channel.
        depthwise = len(shape) == 4 and shape[-1] == 1
        fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
        draw = np.random.default_rng([seed, index]).random(shape, dtype=np.float32)
        limit = np.float32(np.sqrt(6.0 / fan_in))
        weight.assign((draw * np.float32(2.0) - np.float32(1.0)) * limit)
    return arrays_sha256(model)


def arrays_sha256(model: Any) -> str:
    """Returns the SHA-256 (hex) of the shapes and values of all weights, in the model's order."""
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(weight.numpy())
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
