"""Classifiers, trained and ImageNet's, and what a predictions table says of them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from support.tables import write_table

from benchmarks.support.specs import make_spec
from bottleneck.backbones.weight_loading import set_random_weights
from bottleneck.backbones.weights import file_sha256
from bottleneck.errors import BackboneError, ModelError, SpecMismatchError, TableError
from bottleneck.evaluation import evaluate
from bottleneck.models.classifier import (
    Classifier,
    LocatedModel,
    load_classifier,
    load_head,
    locate_model,
    top_labels,
)
from bottleneck.models.files import ModelManifest, finish_model, keras_bytes, write_file
from bottleneck.models.heads import HeadConfig, build_head, class_probabilities
from bottleneck.models.imagenet import imagenet_labels
from bottleneck.prediction.scoring import _spread, score_predictions
from bottleneck.spec import FeatureSpec, PredictionSpec, require_equal
from bottleneck.table.schemas import PREDICTIONS
from bottleneck.table.shards import write_shard
from bottleneck.table.snapshot import Snapshot
from bottleneck.table.table import FeaturesTable, PredictionsTable

# Raised by Keras, which reads its own variables in an outdated way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Array = npt.NDArray[Any]

LABELS = ("ant", "bee", "cat")
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(10, 3, 3, 16)).astype(np.float32)
IMAGES = RANDOM.integers(0, 256, (10, 8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# Trained models


@pytest.fixture(scope="module")
def head() -> Any:
    return build_head(HeadConfig((3, 3, 16), 3, hidden=(8,), standardize=False))


@pytest.fixture(scope="module")
def fused() -> Any:
    """Images in, probabilities out, as the train job writes them."""
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Flatten()(x)
    return keras.Model(images, keras.layers.Dense(3, activation="softmax")(x))


def write_model(
    uri: str, head: Any, fused: Any, labels: tuple[str, ...] = LABELS, *, binary: bool = False
) -> LocatedModel:
    files = {
        name: write_file(uri, name, keras_bytes(model))
        for name, model in (("head.keras", head), ("model.keras", fused))
        if model is not None
    }
    finish_model(ModelManifest(uri, make_spec((3, 3, 16)), labels, binary, files, {}))
    return locate_model(uri)


def test_a_trained_model_is_found(tmp_path: Path, head: Any, fused: Any) -> None:
    model = write_model(str(tmp_path / "pets"), head, fused)
    assert (model.labels, model.spec) == (LABELS, make_spec((3, 3, 16)))
    assert model.digest == file_sha256(tmp_path / "pets" / "head.keras")
    assert locate_model((tmp_path / "pets").as_uri()).digest == model.digest


@pytest.mark.parametrize("batch_size", [1, 4, 10, 32])
def test_the_last_batch_is_padded(head: Any, fused: Any, batch_size: int) -> None:
    for network, inputs, dtype in ((head, FEATURES, "float32"), (fused, IMAGES, "uint8")):
        classifier = Classifier(network, LABELS, dtype=dtype, batch_size=batch_size)
        wanted = network.predict(inputs, verbose=0)
        for count in (0, 1, 4, 5, 10):
            found = classifier(inputs[:count])
            assert (found.shape, found.dtype) == ((count, 3), np.float32)
            np.testing.assert_allclose(found, wanted[:count], atol=1e-6)


def test_images_go_through_model_keras_and_features_through_head_keras(
    tmp_path: Path, head: Any, fused: Any
) -> None:
    model = write_model(str(tmp_path / "pets"), head, fused)
    of_images = load_classifier(model, batch_size=4)
    of_features = load_head(model, batch_size=4)
    assert of_images.labels == of_features.labels == LABELS
    np.testing.assert_allclose(of_images(IMAGES), fused.predict(IMAGES, verbose=0), atol=1e-6)
    np.testing.assert_allclose(of_features(FEATURES), head.predict(FEATURES, verbose=0), atol=1e-6)


def test_a_model_in_another_storage_is_fetched_once(tmp_path: Path, head: Any, fused: Any) -> None:
    model = write_model("memory://test-classifiers/pets", head, fused)
    wanted = fused.predict(IMAGES, verbose=0)
    for _ in range(2):
        np.testing.assert_allclose(load_classifier(model)(IMAGES), wanted, atol=1e-6)
        (copy,) = (tmp_path / "cache" / "weights").glob("*-model.keras")
        copy.touch()


def test_a_binary_head_gives_both_probabilities(tmp_path: Path) -> None:
    head = build_head(HeadConfig((3, 3, 16), 2, hidden=(), binary=True, standardize=False))
    model = write_model(str(tmp_path / "pets"), head, None, ("cat", "dog"), binary=True)
    found = load_head(model, batch_size=3)(FEATURES)
    second = head.predict(FEATURES, verbose=0)
    np.testing.assert_allclose(found, class_probabilities(second), atol=1e-6)
    np.testing.assert_allclose(found[:, 1:], second, atol=1e-6)


def test_files_that_are_missing_or_changed(tmp_path: Path, head: Any, fused: Any) -> None:
    uri = str(tmp_path / "pets")
    model = write_model(uri, head, None)
    with pytest.raises(ModelError) as caught:
        load_classifier(model)
    assert str(caught.value) == f"the model at {uri} has no model.keras; train it again"
    model = write_model(uri, head, fused)
    (tmp_path / "pets" / "model.keras").write_bytes(b"something else")
    with pytest.raises(ModelError) as changed:
        load_classifier(model)
    assert str(changed.value).startswith(f"model.keras at {uri} cannot be used: the weights ")
    assert str(changed.value).endswith("; train the model again")
    (tmp_path / "pets" / "model.keras").unlink()
    with pytest.raises(ModelError, match=r"cannot be used: cannot read .*there is no such file"):
        load_classifier(model)
    (tmp_path / "pets" / "head.keras").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"^head.keras at .* is not the file that model.json"):
        load_head(model)


def test_an_imagenet_network_has_no_head_for_features(tmp_path: Path, head: Any) -> None:
    model = replace(write_model(str(tmp_path / "pets"), head, None), uri="imagenet:vgg16")
    with pytest.raises(ModelError, match=r"^imagenet:vgg16 has no head for features of a table; "):
        load_head(replace(model, manifest=None))


def test_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"^there is no model at {tmp_path}/pets "):
        locate_model(str(tmp_path / "pets"))
    with pytest.raises(ModelError) as caught:
        locate_model(f"{tmp_path}/pets", "w.h5")
    assert str(caught.value) == (
        f"--weights only belongs to a model imagenet:NAME; a trained model such as {tmp_path}/pets "
        "has its own"
    )
    with pytest.raises(BackboneError) as unknown:
        locate_model("imagenet:mobilenett")
    assert str(unknown.value).startswith("unknown backbone 'mobilenett'; nearest: mobilenet")
    assert unknown.value.exit_code == 2
    with pytest.raises(ModelError) as no_network:
        locate_model("imagenet:channel-means")
    assert str(no_network.value) == (
        "'imagenet:channel-means' is no model; give imagenet:NAME with a keras.applications name"
    )


# ImageNet


@pytest.fixture(scope="module")
def mobilenet() -> Any:
    """A whole MobileNet with weights of its own."""
    network = keras.applications.MobileNet(weights=None)
    # Keras's own initial weights make all classes equally probable.
    set_random_weights(network, 5)
    return network


@pytest.fixture(scope="module")
def mobilenet_file(mobilenet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    mobilenet.save_weights(path)
    return path


def write_index(folder: Path, names: Sequence[str]) -> None:
    index = {str(number): [f"n{number:08d}", name] for number, name in enumerate(names)}
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "imagenet_class_index.json").write_text(json.dumps(index))


def test_a_whole_network_predicts_as_keras_does(
    tmp_path: Path, mobilenet: Any, mobilenet_file: Path, no_network: None
) -> None:
    write_index(tmp_path / "keras", [f"thing {number}" for number in range(1000)])
    model = locate_model("imagenet:MobileNet", str(mobilenet_file))
    assert model.spec == FeatureSpec(
        backbone="mobilenet",
        alpha=1.0,
        weights=f"sha256:{file_sha256(mobilenet_file)}",
        layer="predictions",
        shape=(1000,),
        pooling="none",
        image_size=(224, 224),
        resize="squash",
        interpolation="bilinear",
        decode="fast",
        preprocessing="own",
        precision="float32",
    )
    assert (model.labels[7], len(model.labels), model.manifest) == ("thing 7", 1000, None)
    assert (model.digest, model.weights) == ("imagenet", str(mobilenet_file))
    images = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), np.uint8)
    images[0] = 0
    images[1, :, :, 0] = 255
    pixels = keras.applications.mobilenet.preprocess_input(images.astype(np.float32))
    wanted = mobilenet.predict(pixels, verbose=0)
    # Neither the images nor the preprocessing may be without effect, or this would show nothing.
    unprepared = mobilenet.predict(images.astype(np.float32), verbose=0)
    for others in (wanted[[1, 2, 0]], unprepared):
        assert (np.abs(others - wanted).max(axis=1) > 1e-4).all()
    found = load_classifier(model, batch_size=2)(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_without_network_a_line_says_where_the_weights_go(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(BackboneError) as caught:
        locate_model("imagenet:mobilenet")
    message = str(caught.value)
    assert message.startswith("cannot get the ImageNet weights of mobilenet from https://")
    assert "no route to host" in message
    assert f"put the file mobilenet_1_0_224_tf.h5 into {tmp_path}/keras/models on every" in message
    assert "\n" not in message


def test_without_network_a_line_says_where_the_names_go(
    tmp_path: Path, mobilenet_file: Path, no_network: None
) -> None:
    with pytest.raises(BackboneError) as caught:
        locate_model("imagenet:mobilenet", str(mobilenet_file))
    message = str(caught.value)
    assert message.startswith("cannot download the names of ImageNet's classes (")
    assert message.endswith(f"); put imagenet_class_index.json into {tmp_path}/keras/models")
    assert "\n" not in message


def test_names_are_in_order_and_repeated_ones_are_numbered(
    tmp_path: Path, no_network: None
) -> None:
    write_index(tmp_path / "keras", ["crane", "tench", "crane", "maillot", "crane"])
    assert imagenet_labels() == ("crane", "tench", "crane_2", "maillot", "crane_3")


def test_a_list_of_names_that_is_none(tmp_path: Path, no_network: None) -> None:
    write_index(tmp_path / "keras", [])
    place = tmp_path / "keras" / "models" / "imagenet_class_index.json"
    for text in ("<html>", '{"1": ["n1", "tench"]}', '["tench"]'):
        place.write_text(text)
        with pytest.raises(BackboneError) as caught:
            imagenet_labels()
        assert str(caught.value).startswith(f"{place} is not Keras's list of ImageNet's classes (")
        assert str(caught.value).endswith("); remove it to have it downloaded again")


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")
def test_weights_that_do_not_fit(tmp_path: Path, mobilenet: Any, mobilenet_file: Path) -> None:
    place = tmp_path / "broken.weights.h5"
    place.write_bytes(mobilenet_file.read_bytes()[:1000])
    with pytest.raises(BackboneError) as caught:
        locate_model("imagenet:mobilenet", str(place))
    assert str(caught.value).startswith(
        f"the weights {place} do not fit mobilenet with its classifier: "
    )
    base = keras.Model(mobilenet.input, mobilenet.get_layer("conv_pw_13_relu").output)
    base.save_weights(tmp_path / "no_top.weights.h5")
    with pytest.raises(BackboneError, match=r"do not fit mobilenet with its classifier: "):
        locate_model("imagenet:mobilenet", str(tmp_path / "no_top.weights.h5"))
    with pytest.raises(BackboneError, match=r"there is no such file"):
        locate_model("imagenet:mobilenet", str(tmp_path / "none.h5"))


# The most probable labels


def test_the_first_of_equals_comes_first() -> None:
    probabilities = np.array(
        [[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4], [0.0, 0.0, 1.0, 0.0]], np.float32
    )
    order, best = top_labels(probabilities, 3)
    assert order.tolist() == [[0, 1, 2], [1, 3, 0], [2, 0, 1]]
    np.testing.assert_array_equal(
        best, np.array([[0.25] * 3, [0.4, 0.4, 0.1], [1, 0, 0]], np.float32)
    )
    assert (order.dtype, best.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(("top", "width"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_there_are_no_more_labels_than_classes(top: int, width: int) -> None:
    probabilities = np.array([[0.2, 0.5, 0.3]], np.float32)
    order, best = top_labels(probabilities, top)
    assert order.tolist() == [[1, 2, 0][:width]]
    assert best.shape == (1, width)
    none, nothing = top_labels(np.empty((0, 3), np.float32), top)
    assert none.shape == nothing.shape == (0, width)


# The specification of predictions

OF_PREDICTIONS = PredictionSpec.of(make_spec((3, 3, 16), alpha=0.25), model="ab" * 32, top=2)


def test_a_specification_comes_back_from_properties() -> None:
    properties = OF_PREDICTIONS.to_properties()
    assert {name: properties[f"bottleneck.{name}"] for name in ("kind", "model", "top")} == {
        "kind": "predictions",
        "model": "ab" * 32,
        "top": "2",
    }
    found = PredictionSpec.from_properties(properties)
    assert found == OF_PREDICTIONS
    assert (type(found), found.length, found.shape) == (PredictionSpec, 2, (3, 3, 16))
    assert found != replace(OF_PREDICTIONS, top=3)


def test_a_table_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    features, said = str(tmp_path / "features"), str(tmp_path / "said")
    write_table(features, FEATURES, shards=(3, 7))
    PredictionsTable.create(said, OF_PREDICTIONS)
    assert PredictionsTable.open(said).snapshot().spec == OF_PREDICTIONS
    with pytest.raises(TableError) as caught:
        PredictionsTable.open(features)
    assert str(caught.value) == (
        f"{features}: this is a features table and a predictions table is needed"
    )
    with pytest.raises(TableError) as other:
        FeaturesTable.open(said)
    assert str(other.value) == (
        f"{said}: this is a predictions table and a features table is needed"
    )
    with pytest.raises(TableError) as nothing:
        PredictionsTable.open(str(tmp_path / "none"))
    assert str(nothing.value) == (
        f"there is no predictions table at {tmp_path}/none; make one with the predict job "
        "(--predictions), or check the address"
    )


def test_predictions_of_two_models_do_not_mix() -> None:
    require_equal(OF_PREDICTIONS, OF_PREDICTIONS, "said")
    with pytest.raises(SpecMismatchError) as caught:
        require_equal(replace(OF_PREDICTIONS, model="cd" * 32, top=5), OF_PREDICTIONS, "said")
    assert str(caught.value) == (
        "the predictions table said was made with another feature specification (model: "
        f"{'cd' * 32} in this run, {'ab' * 32} in the table; top: 5 in this run, 2 in the table); "
        "give this run the table's settings, or write to a new --predictions URI"
    )


# What a predictions table says

Row = tuple[str, str | None, list[tuple[str, float]]]

ROWS: list[Row] = [
    ("a", "ant", [("ant", 0.7), ("bee", 0.2)]),
    ("b", "ant", [("cat", 0.6), ("ant", 0.3)]),
    ("c", "bee", [("bee", 0.5), ("cat", 0.5)]),
    ("d", "cat", [("ant", 0.8), ("bee", 0.15)]),
    ("e", "zebra", [("ant", 0.99), ("bee", 0.01)]),
    ("f", None, [("bee", 0.4), ("ant", 0.35)]),
    ("g", "ant", []),
    ("h", "bee", [("cat", 0.6), ("bee", 0.4)]),
]


def write_predictions(uri: str, rows: Sequence[Row], shards: Sequence[int]) -> Snapshot:
    """Writes a table of predictions; a row without any has failed."""
    table = PredictionsTable.create(uri, OF_PREDICTIONS)
    files = table.snapshot().files
    written, begin = [], 0
    for size in shards:
        columns: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
        for image, label, said in rows[begin : begin + size]:
            values = {
                "image": image,
                "label": label,
                "status": "ok" if said else "truncated",
                "predicted": said[0][0] if said else None,
                "probability": said[0][1] if said else None,
                "top_labels": [name for name, _ in said] or None,
                "top_probabilities": [value for _, value in said] or None,
            }
            for name, column in columns.items():
                column.append(values.get(name))
        shard = write_shard(files, [pa.table(columns, schema=PREDICTIONS)])
        assert shard is not None
        written.append(shard)
        begin += size
    return table.commit(base=table.snapshot(), add=written, run="tests")


def test_counts_figures_and_mistakes(tmp_path: Path) -> None:
    snapshot = write_predictions(str(tmp_path / "said"), ROWS, (1, 5, 2))
    found = score_predictions(snapshot, LABELS, mistakes=9)
    assert found.statuses == {"ok": 7, "truncated": 1}
    assert found.predicted == {"ant": 3, "bee": 2, "cat": 2}
    assert (found.known, found.evaluated, found.unknown) == (5, 5, 1)
    # The most confident first, then by name.
    wanted = [("d", "cat", "ant", 0.8), ("b", "ant", "cat", 0.6), ("h", "bee", "cat", 0.6)]
    assert found.mistakes == [(*names, pytest.approx(value)) for *names, value in wanted]
    assert [mistake[0] for mistake in score_predictions(snapshot, LABELS, 2).mistakes] == ["d", "b"]
    assert score_predictions(snapshot, LABELS, 0).mistakes == []

    evaluation = found.evaluation
    assert evaluation is not None
    assert (evaluation.labels, evaluation.count) == (LABELS, 5)
    assert evaluation.confusion.tolist() == [[1, 0, 1], [0, 1, 1], [1, 0, 0]]
    assert evaluation.accuracy.value == 0.4
    # What two of three labels leave of 1 is the third's: 0.05 for the cat.
    of_truth = np.log([0.7, 0.3, 0.5, 0.05, 0.4])
    assert evaluation.log_loss.value == pytest.approx(-of_truth.mean(), rel=1e-5)


def test_labels_that_the_model_does_not_know(tmp_path: Path) -> None:
    snapshot = write_predictions(str(tmp_path / "said"), ROWS[4:7], (3,))
    found = score_predictions(snapshot, LABELS, mistakes=9)
    assert (found.evaluation, found.known, found.evaluated, found.unknown) == (None, 0, 0, 1)
    assert found.mistakes == []
    assert found.statuses == {"ok": 2, "truncated": 1}


def test_a_table_without_rows(tmp_path: Path) -> None:
    snapshot = PredictionsTable.create(str(tmp_path / "said"), OF_PREDICTIONS).snapshot()
    found = score_predictions(snapshot, LABELS, mistakes=9)
    assert (found.statuses, found.predicted, found.evaluation) == ({}, {}, None)
    assert (found.known, found.evaluated, found.unknown, found.mistakes) == (0, 0, 0, [])


def test_figures_of_huge_tables_are_from_sampled_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = write_predictions(str(tmp_path / "said"), ROWS, (3, 5))
    monkeypatch.setattr(evaluate, "_MAX_EVALUATED_ROWS", 3)
    found = score_predictions(snapshot, LABELS, mistakes=9)
    assert (found.known, found.evaluated, len(found.mistakes)) == (5, 3, 3)
    assert found.evaluation is not None
    assert found.evaluation.count == 3
    again = score_predictions(snapshot, LABELS, mistakes=9)
    assert again.evaluation is not None
    assert again.evaluation.to_json() == found.evaluation.to_json()


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_kept_probabilities_are_spread_over_all_classes(classes: int, kept: int) -> None:
    """Exactly for up to one more class than are kept; evenly beyond."""
    names = [f"class {number}" for number in range(classes)]
    drawn = np.random.default_rng(classes).dirichlet(np.ones(classes), 50).astype(np.float32)
    order, best = top_labels(drawn, kept)
    table = pa.table(
        {
            "top_labels": pa.array([[names[number] for number in row] for row in order]),
            "top_probabilities": pa.array(best.tolist(), pa.list_(pa.float32())),
        }
    )
    found = _spread(table, {name: number for number, name in enumerate(names)})
    assert (found.shape, found.dtype) == ((50, classes), np.float32)
    np.testing.assert_array_equal(np.take_along_axis(found, order, axis=1), best)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    if classes <= kept + 1:
        np.testing.assert_allclose(found, drawn, atol=2e-7)
    else:
        rest = np.sort(found, axis=1)[:, : classes - kept]
        np.testing.assert_allclose(rest, rest[:, :1].repeat(rest.shape[1], axis=1), atol=1e-7)
