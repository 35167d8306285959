"""The files of a model: half of one, a changed one and one that holds code are refused."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from benchmarks.support.specs import make_spec
from bottleneck.errors import ModelError
from bottleneck.models import files as models_files
from bottleneck.models.files import (
    FileRecord,
    ModelManifest,
    finish_model,
    keras_bytes,
    load_keras,
    model_exists,
    read_file,
    read_manifest,
    withdraw_model,
    write_file,
)
from bottleneck.spec import FeatureSpec
from bottleneck.storage.files import read_bytes, write_bytes
from bottleneck.storage.uris import join_uri

# Raised by Keras, which reads its own variables in an outdated way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABELS = ("犬", "žába", "a/b, c", "Äpfel", "0", "cat")
SPEC = make_spec((7, 7, 512), alpha=0.25, image_size=(160, 192), weights="sha256:" + "ab" * 32)
FACTS: dict[str, Any] = {
    "table": {"uri": "s3://lake/features", "version": 3},
    "metrics": {"on": "test", "values": None},
}


@pytest.fixture(params=["folder", "file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place that does not exist yet."""
    folder = tmp_path / "lake of models" / "pets"
    return {
        "folder": str(folder),
        "file": folder.as_uri(),
        "memory": f"memory://{uuid.uuid4().hex}/pets",
    }[str(request.param)]


def write(uri: str, *, labels: tuple[str, ...] = LABELS, **contents: bytes) -> ModelManifest:
    """Writes a model whose files hold what is given, or a few bytes."""
    data = {"head.keras": b"head", "model.keras": b"model"} | {
        name.replace("_", "."): value for name, value in contents.items()
    }
    files = {name: write_file(uri, name, value) for name, value in data.items()}
    manifest = ModelManifest(uri, SPEC, labels, False, files, FACTS)
    finish_model(manifest)
    return manifest


def refusal(uri: str) -> str:
    with pytest.raises(ModelError) as caught:
        read_manifest(uri)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Writing and reading


def test_a_model_comes_back_as_it_was_written(uri: str) -> None:
    assert not model_exists(uri)
    manifest = write(uri)
    assert model_exists(uri)
    found = read_manifest(uri)
    assert found == manifest
    assert found.labels == LABELS
    assert isinstance(found.spec, FeatureSpec)
    assert found.spec.fingerprint == SPEC.fingerprint
    assert (read_file(found, "head.keras"), read_file(found, "model.keras")) == (b"head", b"model")
    assert found.files["model.keras"] == FileRecord(hashlib.sha256(b"model").hexdigest(), 5)
    assert found.digest == hashlib.sha256(b"head").hexdigest()


def test_the_manifest_is_readable_json(tmp_path: Path) -> None:
    write(str(tmp_path / "pets"))
    text = (tmp_path / "pets" / "model.json").read_text()
    assert text.endswith("}\n")
    values = json.loads(text)
    assert list(values) == ["format", "labels", "binary", "specification", "table", "metrics",
                            "files"]  # fmt: skip
    assert "žába" in text
    assert values["format"] == 1
    assert values["specification"] == json.loads(json.dumps(asdict(SPEC)))


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def watched(uri: str, data: bytes) -> None:
        written.append(uri.rpartition("/")[2])
        assert not model_exists(str(tmp_path / "pets"))
        write_bytes(uri, data)

    monkeypatch.setattr(models_files, "write_bytes", watched)
    write(str(tmp_path / "pets"), labels_json=b"[]", report_html=b"<html>")
    assert written == ["head.keras", "model.keras", "labels.json", "report.html", "model.json"]
    assert model_exists(str(tmp_path / "pets"))


def test_a_binary_model_says_so(tmp_path: Path) -> None:
    uri = str(tmp_path / "pets")
    finish_model(ModelManifest(uri, SPEC, ("cat", "dog"), True, {}, {}))
    assert read_manifest(uri).binary is True


def test_facts_must_be_json(tmp_path: Path) -> None:
    """`NaN` would make a manifest that other programs cannot read."""
    manifest = ModelManifest(str(tmp_path), SPEC, LABELS, False, {}, {"loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        finish_model(manifest)
    assert not model_exists(str(tmp_path))


def test_a_model_that_is_withdrawn_is_none_until_it_is_written_again(uri: str) -> None:
    withdraw_model(uri)
    write(uri)
    withdraw_model(uri)
    assert not model_exists(uri)
    assert refusal(uri).startswith(f"there is no model at {uri} (model.json, which is")
    assert read_bytes(join_uri(uri, "head.keras")) == b"head"
    write(uri, head_keras=b"another")
    assert read_file(read_manifest(uri), "head.keras") == b"another"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError) as caught:
        write(str(tmp_path / "file"))
    assert str(caught.value).startswith(
        f"cannot write head.keras of the model: {tmp_path}/file/head.keras cannot be used ("
    )


# What is refused


def test_half_a_model(uri: str) -> None:
    """The files of a run that was killed before its end."""
    write_file(uri, "head.keras", b"head")
    write_file(uri, "model.keras", b"model")
    assert not model_exists(uri)
    message = refusal(uri)
    assert message.startswith(
        f"there is no model at {uri} (model.json, which is written last, cannot be read: "
        f"{uri}/model.json "
    )
    assert message.endswith("); train one with the train job (--model), or check the address")
    if not uri.startswith("memory:"):
        assert f"{uri}/model.json does not exist; check the path);" in message


def test_nothing_at_all(uri: str) -> None:
    assert refusal(uri).startswith(f"there is no model at {uri} (model.json, which is")


def test_no_secret_is_printed() -> None:
    message = refusal("http://user:secret@127.0.0.1:9/pets")
    assert message.startswith("there is no model at http://127.0.0.1:9/pets (model.json, which")
    assert "secret" not in message


@pytest.mark.parametrize("text", ["", "{", "<html>", "\x00", "\udcff"])
def test_a_manifest_that_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_bytes(text.encode(errors="surrogateescape"))
    message = refusal(str(tmp_path))
    assert message.startswith(f"{tmp_path}/model.json is no JSON: ")
    assert message.endswith("; train the model again")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "found"),
    [('{"format": 2}', "2"), ('{"format": "1"}', "'1'"), ("{}", "None"), ("[1]", "None")],
)
def test_a_manifest_of_another_version(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "model.json").write_text(text)
    assert refusal(str(tmp_path)) == (
        f"{tmp_path}/model.json has format {found} and this version reads 1; train the model "
        "again, or update bottleneck-features"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": None}, "'NoneType' object is not iterable"),
        ({"files": []}, "'list' object has no attribute 'items'"),
        ({"files": {"head.keras": {"size": 3}}}, "unexpected keyword argument 'size'"),
        ({"specification": {}}, "'image_size'"),
        ({"specification": asdict(SPEC) | {"image_size": [3]}}, "not enough values to unpack"),
        ({"specification": asdict(SPEC) | {"color": 3}}, "unexpected keyword argument 'color'"),
    ],
)
def test_a_manifest_that_lacks_something(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    write(str(tmp_path))
    place = tmp_path / "model.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    message = refusal(str(tmp_path))
    assert message.startswith(f"{place} is incomplete: ")
    assert reason in message
    assert message.endswith("; train the model again")


def test_a_key_that_is_missing(tmp_path: Path) -> None:
    write(str(tmp_path))
    place = tmp_path / "model.json"
    values = json.loads(place.read_text())
    del values["binary"]
    place.write_text(json.dumps(values))
    assert refusal(str(tmp_path)) == f"{place} is incomplete: 'binary'; train the model again"


def test_a_file_that_was_changed(uri: str) -> None:
    manifest = write(uri, head_keras=b"x" * 1234)
    write_bytes(join_uri(uri, "head.keras"), b"y" * 1234)
    with pytest.raises(ModelError) as caught:
        read_file(manifest, "head.keras")
    assert str(caught.value) == (
        f"head.keras at {uri} is not the file that model.json names (1,234 bytes, 1,234 "
        "expected); train the model again"
    )
    write_bytes(join_uri(uri, "head.keras"), b"")
    with pytest.raises(ModelError, match=r"names \(0 bytes, 1,234 expected\)"):
        read_file(manifest, "head.keras")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    manifest = write(str(tmp_path))
    (tmp_path / "head.keras").unlink()
    with pytest.raises(ModelError) as caught:
        read_file(manifest, "head.keras")
    assert str(caught.value) == (
        f"cannot read head.keras of the model: {tmp_path}/head.keras does not exist; check the path"
    )
    with pytest.raises(ModelError) as unknown:
        read_file(manifest, "labels.json")
    assert str(unknown.value) == f"the model at {tmp_path} has no labels.json; train it again"


# Keras's format


@pytest.fixture(scope="module")
def small() -> Any:
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


def test_keras_models_come_back_through_any_storage(uri: str, small: Any) -> None:
    manifest = write(uri, head_keras=keras_bytes(small))
    loaded = load_keras(read_file(manifest, "head.keras"))
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(loaded.predict_on_batch(values), small.predict_on_batch(values))


def test_a_file_that_holds_code_is_refused() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs))
    with pytest.raises(ModelError) as caught:
        load_keras(keras_bytes(model))
    message = str(caught.value)
    assert message.startswith(
        "Keras cannot load the model: Requested the deserialization of a `Lambda` layer"
    )
    assert "\n" not in message
    assert len(message) < 350


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "changed"])
def test_a_damaged_file(small: Any, damage: str) -> None:
    data = keras_bytes(small)
    middle = len(data) // 2
    damaged = {
        "empty": b"",
        "text": b"no zip file at all",
        "cut": data[:middle],
        "changed": data[:400] + bytes(100) + data[500:],
    }[damage]
    with pytest.raises(ModelError, match=r"^Keras cannot load the model: "):
        load_keras(damaged)
