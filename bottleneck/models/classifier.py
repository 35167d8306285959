"""Classifiers: images in, probabilities out. Needs no cluster.

>>> classifier = load_model("s3://models/pets")
>>> probabilities = classifier(images)  # (N, 224, 224, 3) uint8 RGB → (N, C) float32

A model is one that the train job wrote, or ``imagenet:NAME``, a whole ``keras.applications``
network with its 1,000 ImageNet classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bottleneck.backbones.families import FAMILIES, canonical_name
from bottleneck.backbones.runtime import compiled, configure_backend
from bottleneck.backbones.weights import resolve_weights
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import BackboneError, ModelError
from bottleneck.models.files import FUSED, HEAD, ModelManifest, load_keras, read_file, read_manifest
from bottleneck.models.heads import class_probabilities
from bottleneck.models.imagenet import LARGE_NETWORK_BYTES, imagenet_labels, imagenet_network
from bottleneck.spec import FeatureSpec
from bottleneck.storage.uris import join_uri, normalize_uri

_IMAGENET = "imagenet:"


@dataclass(frozen=True)
class LocatedModel:
    """A model that was found, before anything large is loaded.

    Attributes:
        uri: As given.
        spec: Specification of the features inside it.
        labels: Names of its classes, in order.
        digest: What identifies its head.
        manifest: Manifest of a trained model; None for an ImageNet one.
        weights: Weights of an ImageNet network: ``imagenet``, a path or a URI.
    """

    uri: str
    spec: FeatureSpec
    labels: tuple[str, ...]
    digest: str
    manifest: ModelManifest | None
    weights: str = "imagenet"

    @property
    def weights_bytes(self) -> int:
        """Approximate size of the whole network's weights in bytes."""
        if self.manifest is None:
            return LARGE_NETWORK_BYTES
        return max(record.bytes for record in self.manifest.files.values())


def locate_model(uri: str, weights: str | None = None) -> LocatedModel:
    """Finds a model and reads what it is.

    Args:
        uri: URI of a trained model, or ``imagenet:NAME``.
        weights: For ``imagenet:NAME``, a file or URI instead of Keras's own weights.

    Raises:
        ModelError: There is no such model.
        BackboneError: The ImageNet weights or class names cannot be had.
    """
    if not uri.startswith(_IMAGENET):
        if weights is not None:
            raise ModelError(
                f"--weights only belongs to a model {_IMAGENET}NAME; a trained model such as "
                f"{redact_uri(uri)} has its own"
            )
        manifest = read_manifest(normalize_uri(uri))
        return LocatedModel(uri, manifest.spec, manifest.labels, manifest.digest, manifest)
    name = canonical_name(uri.removeprefix(_IMAGENET))
    if name not in FAMILIES:
        raise ModelError(f"{uri!r} is no model; give imagenet:NAME with a keras.applications name")
    network, digest = imagenet_network(name, weights or "imagenet")
    spec = FeatureSpec(
        backbone=name,
        alpha=1.0 if FAMILIES[name].alphas else None,
        weights=digest,
        layer=network.layers[-1].name,
        shape=(int(network.output_shape[1]),),
        pooling="none",
        image_size=(int(network.input_shape[1]), int(network.input_shape[2])),
        resize="squash",
        interpolation="bilinear",
        decode="fast",
        preprocessing="own",
        precision="float32",
    )
    return LocatedModel(uri, spec, imagenet_labels(), "imagenet", None, weights or "imagenet")


class Classifier:
    """One compiled function to probabilities, with a fixed batch shape.

    Args:
        network: Keras model to probabilities.
        labels: Names of the classes, in the order of the probabilities.
        dtype: Type of its inputs.
        batch_size: Rows computed at once; the last batch is padded.
    """

    def __init__(
        self, network: Any, labels: tuple[str, ...], *, dtype: str, batch_size: int
    ) -> None:
        self.labels = labels
        self._shape = tuple(int(side) for side in network.input_shape[1:])
        self._dtype, self._batch_size = dtype, batch_size
        self._compute = compiled(network, (batch_size, *self._shape), dtype)

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Returns probabilities.

        Args:
            inputs: (N, height, width, 3) uint8 RGB, or (N, *shape) float32 features; N may be 0.

        Returns:
            (N, C) float32, rows add up to 1.
        """
        parts = [np.empty((0, len(self.labels)), np.float32)]
        for start in range(0, len(inputs), self._batch_size):
            batch = inputs[start : start + self._batch_size]
            short = self._batch_size - len(batch)
            if short:
                padding = np.zeros((short, *self._shape), self._dtype)
                batch = np.concatenate([batch, padding])
            outputs = self._compute(batch)[: self._batch_size - short]
            parts.append(class_probabilities(outputs.astype(np.float32, copy=False)))
        return np.concatenate(parts)


def load_classifier(model: LocatedModel, *, batch_size: int = 32, threads: int = 0) -> Classifier:
    """Loads a whole network, which takes images. A trained model's file is fetched once per node.

    Raises:
        ModelError: The file is missing, damaged or cannot be loaded.
        BackboneError: ImageNet weights cannot be had.
    """
    import keras

    configure_backend(threads)
    if model.manifest is not None:
        network = load_keras(_fused_file(model.manifest).read_bytes())
    else:
        body, _ = imagenet_network(model.spec.backbone, model.weights)
        family = getattr(keras.applications, FAMILIES[model.spec.backbone].module)
        images = keras.Input((*model.spec.image_size, 3), dtype="uint8")
        pixels = family.preprocess_input(keras.ops.cast(images, "float32"))
        network = keras.Model(images, body(pixels))
    return Classifier(network, model.labels, dtype="uint8", batch_size=batch_size)


def load_model(uri: str) -> Classifier:
    """Loads a model from images to probabilities, wherever it lies.

    >>> classifier = load_model("imagenet:mobilenet")
    >>> labels, probabilities = classifier.labels, classifier(images)  # (N, 224, 224, 3) uint8 RGB

    Args:
        uri: Of a trained model, a folder or URI; or ``imagenet:NAME``, a network of
            ``keras.applications`` with its 1,000 ImageNet classes.

    Returns:
        The model; its ``labels`` name the columns of the probabilities that it returns.

    Raises:
        ModelError: There is no such model, or its file is missing, damaged or cannot be loaded.
        BackboneError: The ImageNet weights or class names cannot be had.
    """
    return load_classifier(locate_model(uri))


def load_head(model: LocatedModel, *, batch_size: int = 32, threads: int = 0) -> Classifier:
    """Loads a trained model's head, which takes features.

    Raises:
        ModelError: It is missing, damaged or cannot be loaded, or the model was not trained here.
    """
    if model.manifest is None:
        raise ModelError(
            f"{model.uri} has no head for features of a table; give a model that the train job "
            "wrote, or load the whole network, which takes images"
        )
    configure_backend(threads)
    network = load_keras(read_file(model.manifest, HEAD))
    return Classifier(network, model.labels, dtype="float32", batch_size=batch_size)


def _fused_file(manifest: ModelManifest) -> Path:
    record = manifest.files.get(FUSED)
    if record is None:
        raise ModelError(f"the model at {redact_uri(manifest.uri)} has no {FUSED}; train it again")
    try:
        return resolve_weights(join_uri(manifest.uri, FUSED), record.sha256).path
    except BackboneError as e:
        raise ModelError(
            f"{FUSED} at {redact_uri(manifest.uri)} cannot be used: {e}; train the model again"
        ) from e


def top_labels(
    probabilities: npt.NDArray[np.float32], top: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Returns the most probable classes, (N, k) int64, and their probabilities, (N, k) float32.

    The first of equally probable classes comes first; k is `top` or the number of classes.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return order, np.take_along_axis(probabilities, order, axis=1)
