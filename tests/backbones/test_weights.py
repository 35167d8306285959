"""Where weights come from, what is loaded of them, and every way that can fail."""

import hashlib
import http.server
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace

import fsspec
import numpy as np
import pytest
from support.paths import SHARED

from bottleneck.backbones import keras_models
from bottleneck.backbones import weights as weights_module
from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.families import FAMILIES
from bottleneck.backbones.keras_internals import keras_requests
from bottleneck.backbones.keras_models import build_model
from bottleneck.backbones.weights import imagenet_file, resolve_weights
from bottleneck.errors import BackboneError

# Keras builds networks: seconds for each.
pytestmark = pytest.mark.slow

MOBILENET = SHARED / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
SIZE = (64, 64)

needs_mobilenet = pytest.mark.shared(MOBILENET)


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def mobilenet(**config) -> Backbone:
    defaults = {"alpha": 0.25, "image_size": SIZE, "precision": "float32"}
    return Backbone.of("mobilenet", batch_size=2, **{**defaults, **config})


def built(precision="float32", **config):
    defaults = {"alpha": 0.25, "image_size": SIZE}
    return build_model(BackboneConfig("mobilenet", **{**defaults, **config}), precision)


def base_of(model):
    """The application within a backbone's model, whose first layers preprocess."""
    return next(layer for layer in model.layers if layer.weights)


def images(count=2):
    return np.random.default_rng(5).integers(0, 256, (count, *SIZE, 3), np.uint8)


# --- files


def test_a_local_file_is_used_where_it_lies(tmp_path):
    path = tmp_path / "w.h5"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    for uri in (str(path), path.as_uri()):
        file = resolve_weights(uri, digest)
        assert (file.path, file.sha256) == (path, digest)
    assert not (tmp_path / "cache").exists()


def test_a_uri_is_copied_once_and_again_when_it_changes(tmp_path, monkeypatch):
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/models/w.npz", b"one")
    fetched = []
    original = type(remote).get_file

    def counting(self, *args, **kwargs):
        fetched.append(args[0])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(remote), "get_file", counting)
    first = resolve_weights("memory://models/w.npz")
    abandoned = first.path.parent / f".partial-{first.path.name}-killed"
    first.path.unlink()
    abandoned.mkdir()
    (abandoned / "half").write_bytes(b"o")
    fetched.clear()
    first = resolve_weights("memory://models/w.npz")
    assert first.path.parent == tmp_path / "cache" / "weights"
    assert first.path.read_bytes() == b"one"
    assert first.path.name.endswith("-w.npz")
    assert resolve_weights("memory://models/w.npz") == first
    assert len(fetched) == 1

    remote.pipe_file("/models/w.npz", b"three")
    assert resolve_weights("memory://models/w.npz").sha256 == hashlib.sha256(b"three").hexdigest()
    assert len(fetched) == 2
    assert [p.name for p in first.path.parent.iterdir() if p.name.startswith(".partial")] == []


def test_missing_file_and_wrong_digest_are_one_line_each(tmp_path):
    path = tmp_path / "w.h5"
    with pytest.raises(BackboneError) as error:
        resolve_weights(str(path))
    assert str(error.value) == (
        f"cannot read the weights file {str(path)!r}: there is no such file; give --weights a "
        "readable file or URI, or random:SEED"
    )
    path.write_bytes(b"weights")
    with pytest.raises(BackboneError, match=r"have sha256 \w{64} and weights_sha256 asks for 0000"):
        resolve_weights(str(path), "0" * 64)


def test_secrets_of_a_uri_are_not_printed():
    with pytest.raises(BackboneError) as error:
        resolve_weights("memory://nowhere/w.h5?X-Amz-Signature=abc&v=1")
    assert "abc" not in str(error.value)
    assert "memory://nowhere/w.h5?v=1" in str(error.value)


# --- ImageNet weights


class _Files(http.server.BaseHTTPRequestHandler):
    content = b"keras weights"
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *args):
        pass


@pytest.fixture
def file_server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Handler", (_Files,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/w.h5", handler
    server.shutdown()
    server.server_close()


_FETCH = """
import sys
from bottleneck.backbones import weights
print("ready", flush=True)
sys.stdin.readline()
weights._keras_file("w.h5", sys.argv[1], sys.argv[2], "vgg16")
"""


def test_processes_that_want_one_file_download_it_once(file_server, tmp_path):
    origin, handler = file_server
    file_hash = hashlib.md5(handler.content).hexdigest()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _FETCH, origin, file_hash],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    # At once, however long each took to start.
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    assert [worker.communicate(timeout=120) for worker in workers] == [("", None)] * 4
    assert [worker.returncode for worker in workers] == [0, 0, 0, 0]
    assert (tmp_path / "keras" / "models" / "w.h5").read_bytes() == handler.content
    assert handler.requests == 1


def test_bytes_that_are_not_keras_s_are_neither_kept_nor_used(file_server, tmp_path):
    origin, _ = file_server
    folder = tmp_path / "keras" / "models"
    with pytest.raises(BackboneError, match="the bytes received do not have the hash aaaa"):
        weights_module._keras_file("w.h5", origin, "a" * 32, "vgg16")
    assert [p.name for p in folder.iterdir()] == [".w.h5.lock"]

    (folder / "w.h5").write_bytes(b"other")
    with pytest.raises(BackboneError, match=r"w\.h5 is not Keras's file \(its hash is not aaaa"):
        weights_module._keras_file("w.h5", origin, "a" * 32, "vgg16")


def test_a_download_that_cannot_be_made_says_where_to_put_which_file(tmp_path, monkeypatch):
    # Nothing listens on port 9 of this machine.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(BackboneError) as error:
        Backbone.of("vgg16", image_size=(32, 32), precision="float32")
    message = str(error.value)
    assert message.startswith("cannot get the ImageNet weights of vgg16 from https://")
    assert message.endswith(
        "put the file vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 "
        "(md5 6d6bbae143d832006294945121d1f1fc) into "
        f"{tmp_path / 'keras' / 'models'} on every node, or give --weights PATH (a copy of it, "
        "any URI) or --weights random:SEED"
    )
    assert "\n" not in message


@needs_mobilenet
def test_imagenet_weights_put_where_the_message_says_are_found(tmp_path):
    folder = tmp_path / "keras" / "models"
    folder.mkdir(parents=True)
    shutil.copy(MOBILENET, folder)
    given = mobilenet(weights=str(MOBILENET))
    found = mobilenet(weights="imagenet", weights_sha256=given.weights_digest)
    assert found.weights_digest == given.weights_digest
    assert found.weights_digest == f"sha256:{hashlib.sha256(MOBILENET.read_bytes()).hexdigest()}"
    np.testing.assert_array_equal(found(images()), given(images()))
    with pytest.raises(BackboneError, match="weights_sha256 asks for 1111"):
        mobilenet(weights="imagenet", weights_sha256="1" * 64)


def test_keras_is_left_as_it_was():
    import keras
    from keras.src.utils import file_utils

    before = file_utils.get_file
    with pytest.raises(ZeroDivisionError), keras_requests(lambda *_a, **_k: "x"):
        assert file_utils.get_file is not before
        1 / 0  # noqa: B018
    assert file_utils.get_file is before is keras.utils.get_file


def test_an_application_that_asks_for_no_file_is_told(monkeypatch):
    with pytest.raises(BackboneError, match="has no ImageNet weights for vgg16 as asked"):
        imagenet_file(lambda: None, "vgg16")


# --- loading


@needs_mobilenet
def test_one_set_of_weights_in_five_formats_loads_the_same(tmp_path):
    import keras

    reference = keras.applications.MobileNet(
        include_top=False, alpha=0.25, weights=str(MOBILENET), input_shape=(*SIZE, 3)
    )
    reference.save_weights(tmp_path / "w.weights.h5")
    reference.save(tmp_path / "w.keras")
    reference.save(tmp_path / "whole.h5")
    np.savez(tmp_path / "w.npz", **{w.path: w.numpy() for w in reference.weights})
    names = ("w.weights.h5", "w.keras", "whole.h5", "w.npz")
    for path in (MOBILENET, *(tmp_path / name for name in names)):
        loaded = base_of(built(weights=str(path)).model)
        for got, expected in zip(loaded.weights, reference.weights, strict=True):
            np.testing.assert_array_equal(got.numpy(), expected.numpy(), err_msg=path.name)


def _resaved(tmp_path, name, change):
    """MobileNet's arrays as .npz, after ``change`` of the dict of them."""
    arrays = {w.path: w.numpy() for w in base_of(built(weights="random:0").model).weights}
    change(arrays)
    np.savez(tmp_path / name, **arrays)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("conv1_bn/beta"), r"it lacks conv1_bn/beta \(1 of 135 missing\)"),
        (lambda a: a.update({"conv99/kernel": a["conv1/kernel"]}), "it has conv99/kernel, which"),
        (
            lambda a: a.update({"conv1/kernel": a["conv1/kernel"][..., :4]}),
            r"conv1/kernel has shape \(3, 3, 3, 4\), not \(3, 3, 3, 8\)",
        ),
        (
            lambda a: a["conv1/kernel"].fill(np.nan),
            "it gives no finite values for conv1/kernel",
        ),
        (
            lambda a: a.update({"conv1/kernel": np.array([{}], dtype=object)}),
            "Object arrays cannot be loaded when allow_pickle=False",
        ),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(tmp_path, change, reason):
    with pytest.raises(BackboneError, match=f"the weights file w.npz does not fit .*{reason}"):
        built(weights=_resaved(tmp_path, "w.npz", change))


@needs_mobilenet
def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path):
    for name, alpha, reason in (
        ("mobilenet", 0.5, "Shape mismatch in layer #0"),
        ("mobilenetv2", 0.35, "Layer count mismatch"),
        ("vgg16", None, "Layer count mismatch"),
    ):
        config = BackboneConfig(name, alpha=alpha, weights=str(MOBILENET), image_size=SIZE)
        with pytest.raises(BackboneError) as error:
            build_model(config, "float32")
        assert f"does not fit {name}: ValueError: {reason}" in str(error.value)
        assert "(include_top=False)" in str(error.value)
        assert "\n" not in str(error.value)


@needs_mobilenet
def test_layers_of_equal_shape_in_another_order_are_refused(tmp_path):
    import h5py

    path = tmp_path / "swapped.h5"
    shutil.copy(MOBILENET, path)
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        # Blocks 8 and 9 have the same shapes: loaded by position they would fit.
        a, b = names.index(b"conv_pw_8"), names.index(b"conv_pw_9")
        names[a], names[b] = names[b], names[a]
        file.attrs["layer_names"] = names
    with pytest.raises(BackboneError, match="layer conv_pw_9 is where conv_pw_8 is expected"):
        mobilenet(weights=str(path))


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "w.keras", "w.npz"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(BackboneError, match=f"the weights file {name} does not fit mobilenet: "):
        built(weights=str(tmp_path / name))


def test_a_weights_file_that_lacks_arrays_does_not_load_in_part(tmp_path):
    import h5py

    base_of(built(weights="random:0").model).save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "r+") as file:
        del file["layers/batch_normalization_3/vars"]
    with pytest.raises(BackboneError, match=r"the weights file w\.weights\.h5 does not fit"):
        built(weights=str(tmp_path / "w.weights.h5"))


def test_keras_s_own_efficientnet_file_by_path_is_built_as_keras_builds_it(tmp_path, monkeypatch):
    """Given by path, Keras would leave out the layer that its ImageNet weights need."""
    config = BackboneConfig("efficientnetb0", weights="random:3", image_size=(32, 32))
    plain = base_of(build_model(config, "float32").model)
    plain.save(tmp_path / "official.h5")
    monkeypatch.setattr(keras_models, "file_matches", lambda *_arguments: True)
    by_path = replace(config, weights=str(tmp_path / "official.h5"))
    loaded = base_of(build_model(by_path, "float32").model)
    corrections = [
        sum(type(layer).__name__ == "Rescaling" for layer in base.layers)
        for base in (plain, loaded)
    ]
    assert corrections == [1, 2]
    np.testing.assert_array_equal(loaded.weights[-1].numpy(), plain.weights[-1].numpy())


# --- random weights


def test_random_weights_are_the_same_in_every_process_and_disturb_no_seed():
    import random

    import keras

    random.seed(1)
    np.random.seed(1)
    keras.utils.set_random_seed(1)
    expected = keras.random.uniform((2,)), random.random(), np.random.rand()
    keras.utils.set_random_seed(1)
    first = built(weights="random:7")
    seen = keras.random.uniform((2,)), random.random(), np.random.rand()
    assert np.array_equal(expected[0], seen[0])
    assert expected[1:] == seen[1:]
    # Written down: drawn by NumPy, the values do not depend on the machine or Keras's backend.
    assert first.weights_digest == (
        "random:7 sha256:9e43a027fda36dacddd8a7dc49e09a73ba617deba58f21ff363c5a0607dc2202"
    )
    assert built(weights="random:8").weights_digest != first.weights_digest


def test_random_weights_do_not_depend_on_the_layer_or_precision_asked_for():
    whole = built(weights="random:7").weights_digest
    assert built(weights="random:7", layer="conv_pw_3_relu").weights_digest == whole
    assert built("bfloat16", weights="random:7").weights_digest == whole


# --- what a configuration may say


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"weights": "random"},
            "weights 'random' are not possible with vgg16; give imagenet, random:SEED with an "
            "integer seed, or the path or URI of a weights file",
        ),
        ({"weights": "none"}, "weights 'none' are not possible with vgg16; give imagenet, random:"),
        ({"weights": "w.pth"}, "weights 'w.pth' have no known format; give imagenet, random:SEED"),
        (
            {"weights": "https://h/w.bin?token=s3cret"},
            "weights 'https://h/w.bin' have no known format",
        ),
        ({"weights_sha256": "abc"}, "weights_sha256 must be 64 hexadecimal digits, got 'abc'"),
        (
            {"weights": "random:0", "weights_sha256": "0" * 64},
            "weights_sha256 is of a weights file and 'random:0' has none; leave it out",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused_before_anything_is_loaded(config, message):
    with pytest.raises(BackboneError) as error:
        BackboneConfig("vgg16", **config)
    assert str(error.value).startswith(message)


def test_a_digest_may_carry_its_prefix_and_a_url_its_query():
    config = BackboneConfig(weights="https://h/w.h5?sig=1", weights_sha256="SHA256:" + "AB" * 32)
    assert config.weights_sha256 == "ab" * 32


def test_every_family_with_a_correction_is_known():
    import inspect

    import keras.applications as applications

    for family in FAMILIES.values():
        source = inspect.getsource(inspect.getmodule(getattr(applications, family.constructor)))
        assert ("IMAGENET_STDDEV_RGB" in source) == family.imagenet_rescales


def test_zip_that_is_no_model_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.keras", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(BackboneError, match=r"the weights file w\.keras does not fit mobilenet"):
        built(weights=str(tmp_path / "w.keras"))
