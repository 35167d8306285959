"""Backbones against Keras's own models, against NumPy, and in every wrong use."""

import hashlib
import inspect
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from support.paths import SHARED

from bottleneck.backbones.backbone import Backbone
from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.families import BACKBONES, FAMILIES, canonical_name
from bottleneck.backbones.keras_models import _preprocessed, build_model
from bottleneck.backbones.precision import Hardware, cpu_flags, resolve_precision
from bottleneck.backbones.weight_loading import layer_names
from bottleneck.errors import BackboneError, SpecMismatchError
from bottleneck.images.options import DecodeOptions
from bottleneck.spec import FeatureSpec, require_equal

# Keras builds networks: seconds for each.
pytestmark = pytest.mark.slow

WEIGHTS = SHARED / "weights"
needs_shared = pytest.mark.shared(WEIGHTS)


def images(count, height, width=None):
    """Blobs of color rather than noise: closer to what activations of photos look like."""
    rng = np.random.default_rng(11)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float32)
    width = width or height
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    noise = rng.normal(0, 12, (count, height, width, 3))
    return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)


def relative_error(features, reference):
    return np.linalg.norm(features - reference) / np.linalg.norm(reference)


def base_of(model):
    return next(layer for layer in model.layers if layer.weights)


def keras_reference(backbone, pixels):
    """What a user of Keras would compute with the same weights, in float32."""
    import keras

    family = FAMILIES[backbone.config.name]
    arguments = {"alpha": backbone.config.alpha} if family.alphas else {}
    reference = getattr(keras.applications, family.constructor)(
        include_top=False, weights=None, input_shape=pixels.shape[1:], **arguments
    )
    reference.set_weights(base_of(backbone.model).get_weights())
    module = getattr(keras.applications, family.module)
    preprocessed = module.preprocess_input(pixels.astype("float32"))
    if backbone.config.name == "vgg16":
        return reference.predict(preprocessed, verbose=0)
    # What predict computes, without compiling it, which takes longer than the computation.
    return np.asarray(reference(preprocessed, training=False))


# --- the same features as Keras


@pytest.fixture(scope="module")
def vgg16():
    return Backbone.of(
        "vgg16", weights="random:0", image_size=(72, 96), precision="float32", batch_size=2
    )


def test_vgg16_equals_keras_s_predict(vgg16):
    pixels = images(3, 72, 96)
    features = vgg16(pixels)
    reference = keras_reference(vgg16, pixels)
    assert features.shape == (3, 2, 3, 512)
    assert features.dtype == np.float32
    assert relative_error(features, reference) < 1e-4
    assert np.abs(features - reference).max() < 1e-4 * np.abs(reference).max()


def test_vgg16_at_its_own_size_equals_keras_s_predict():
    backbone = Backbone.of("vgg16", weights="random:0", precision="float32", batch_size=2)
    pixels = images(2, 224)
    assert backbone.image_size == (224, 224)
    assert (backbone.layer, backbone.shape) == ("block5_pool", (7, 7, 512))
    assert relative_error(backbone(pixels), keras_reference(backbone, pixels)) < 1e-4


def test_vgg16_in_bfloat16_is_within_one_percent_and_exactly_representable(vgg16):
    import keras

    backbone = Backbone.of(
        "vgg16", weights="random:0", image_size=(72, 96), precision="bfloat16", batch_size=2
    )
    features = backbone(images(2, 72, 96))
    assert 1e-4 < relative_error(features, vgg16(images(2, 72, 96))) < 1e-2
    assert features.dtype == np.float32
    assert not np.any(features.view(np.uint32) & 0xFFFF)
    assert backbone.weights_digest == vgg16.weights_digest
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("name", "config", "shape"),
    [
        ("resnet50", {"weights": "random:1"}, (2, 2, 2048)),
        ("efficientnetb0", {"weights": "random:1"}, (2, 2, 1280)),
        pytest.param(
            "mobilenet",
            {"weights": str(WEIGHTS / "mobilenet_2_5_224_tf_no_top.h5"), "alpha": 0.25},
            (2, 2, 256),
            marks=needs_shared,
        ),
    ],
)
def test_other_families_equal_keras_s_predict_with_their_own_preprocessing(name, config, shape):
    backbone = Backbone.of(name, image_size=(64, 64), precision="float32", batch_size=2, **config)
    pixels = images(2, 64)
    assert backbone.shape == shape
    assert relative_error(backbone(pixels), keras_reference(backbone, pixels)) < 1e-4


@needs_shared
def test_real_mobilenet_in_reduced_precision_is_off_by_its_rounding():
    made = {
        precision: Backbone.of(
            "mobilenet",
            alpha=0.25,
            weights=str(WEIGHTS / "mobilenet_2_5_224_tf_no_top.h5"),
            layer="conv_pw_1_relu",
            image_size=(64, 64),
            precision=precision,
            batch_size=2,
        )(images(2, 64))
        for precision in ("float32", "bfloat16", "float16")
    }
    assert 1e-3 < relative_error(made["bfloat16"], made["float32"]) < 3e-2
    assert 1e-4 < relative_error(made["float16"], made["float32"]) < 4e-3


def test_auto_precision_is_float32_where_rounding_grows():
    automatic = {f.module for f in FAMILIES.values() if BackboneConfig(f.name).precision != "auto"}
    assert automatic == {"mobilenet", "mobilenet_v2", "mobilenet_v3", "efficientnet_v2"}
    assert BackboneConfig("mobilenet").precision == "float32"
    assert BackboneConfig("mobilenet", precision="bfloat16").precision == "bfloat16"


def test_layers_that_normalize_pixels_stay_float32_in_reduced_precision():
    model = build_model(
        BackboneConfig("efficientnetb0", weights="random:0", image_size=(32, 32)), "bfloat16"
    ).model
    layers = layer_names(base_of(model))
    dtypes = {name: layer.compute_dtype for name, layer in layers.items()}
    assert (dtypes["rescaling"], dtypes["normalization"]) == ("float32", "float32")
    assert dtypes["stem_conv"] == dtypes["top_activation"] == "bfloat16"
    assert {w.dtype for w in base_of(model).weights} <= {"float32", "int64"}


# --- the real VGG16 kernels, against NumPy


def _convolved(maps, kernel, bias):
    """A 3x3 convolution with zero padding and ReLU, in float64."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = maps.shape[1:3]
    total = np.zeros((*maps.shape[:3], kernel.shape[3])) + bias
    for row in range(3):
        for column in range(3):
            total += padded[:, row : row + height, column : column + width] @ kernel[row, column]
    return np.maximum(total, 0)


def _pooled(maps):
    n, height, width, channels = maps.shape
    return maps.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


@needs_shared
def test_the_real_vgg16_kernels_give_what_numpy_computes_with_them(tmp_path):
    stored = np.load(WEIGHTS / "vgg16_partial_blocks12.npz", allow_pickle=False)
    layers = ["block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"]
    arrays = {}
    for layer in layers:
        arrays[f"{layer}/kernel"] = stored[f"{layer}/kernel"]
        arrays[f"{layer}/bias"] = stored[f"{layer}/bias_fixed16"]
    np.savez(tmp_path / "vgg16.npz", **arrays)

    backbone = Backbone.of(
        "vgg16",
        weights=str(tmp_path / "vgg16.npz"),
        layer="block2_pool",
        image_size=(32, 48),
        precision="float32",
        batch_size=2,
    )
    pixels = images(3, 32, 48)
    # Caffe's preprocessing: BGR, ImageNet's means subtracted.
    maps = pixels[..., ::-1].astype(np.float64) - [103.939, 116.779, 123.68]
    for layer in layers:
        maps = _convolved(maps, arrays[f"{layer}/kernel"], arrays[f"{layer}/bias"])
        if layer.endswith("conv2"):
            maps = _pooled(maps)
    features = backbone(pixels)
    assert features.shape == (3, 8, 12, 128)
    assert relative_error(features, maps) < 1e-5

    rows = (WEIGHTS / "vgg16_layer_npy_sha256.tsv").read_text().splitlines()[1:]
    published = {row.split("\t")[0]: row.split("\t")[3] for row in rows}
    for weight in base_of(backbone.model).weights:
        if weight.path.endswith("/kernel"):
            kernel = weight.numpy()
            if weight.path == "block1_conv1/kernel":
                # Published for RGB input, where Keras's model takes BGR.
                kernel = kernel[:, :, ::-1]
            assert _npy_sha256(kernel) == published[weight.path], weight.path


def _npy_sha256(array):
    """The digest of an array as NumPy 1 wrote it: a version 1.0 header padded to 16 bytes."""
    buffer = io.BytesIO()
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {array.shape}, }}"
    # It padded to the next multiple of 16 even from a multiple of 16.
    length = ((10 + len(header) + 1) // 16 + 1) * 16 - 10
    buffer.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little"))
    buffer.write(header.ljust(length - 1).encode() + b"\n" + array.tobytes())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


# --- batches, layers, pooling, preprocessing


def test_any_number_of_images_gives_the_same_rows(vgg16):
    pixels = images(5, 72, 96)
    together = vgg16(pixels)
    assert vgg16(pixels[:0]).shape == (0, 2, 3, 512)
    assert vgg16(pixels[:0]).dtype == np.float32
    for i in range(5):
        assert relative_error(vgg16(pixels[i : i + 1])[0], together[i]) < 1e-6
    np.testing.assert_array_equal(vgg16(pixels[:4]), together[:4])


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (np.zeros((2, 96, 72, 3), np.uint8), "(2, 96, 72, 3) uint8"),
        (np.zeros((72, 96, 3), np.uint8), "(72, 96, 3) uint8"),
        (np.zeros((1, 72, 96, 3), np.float32), "(1, 72, 96, 3) float32"),
    ],
)
def test_images_of_another_form_are_refused(vgg16, pixels, got):
    with pytest.raises(BackboneError) as error:
        vgg16(pixels)
    assert str(error.value) == (f"images must be (N, 72, 96, 3) uint8 RGB for vgg16, got {got}")


def test_an_inner_layer_pooled(vgg16):
    config = {"weights": "random:0", "image_size": (72, 96), "batch_size": 2}
    pixels = images(2, 72, 96)
    made = {
        pooling: Backbone.of("vgg16", layer="block3_conv2", pooling=pooling, **config, **extra)
        for pooling, extra in {
            "none": {"precision": "float32"},
            "avg": {"precision": "float32"},
            "max": {"precision": "float32"},
        }.items()
    }
    maps = made["none"](pixels)
    assert maps.shape == (2, 18, 24, 256)
    np.testing.assert_allclose(made["avg"](pixels), maps.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(made["max"](pixels), maps.max(axis=(1, 2)))
    assert {b.layer for b in made.values()} == {"block3_conv2"}
    assert {b.weights_digest for b in made.values()} == {vgg16.weights_digest}


def test_rescale_divides_by_255():
    config = {"weights": "random:0", "image_size": (32, 32), "precision": "float32"}
    backbone = Backbone.of("vgg16", preprocessing="rescale", batch_size=1, **config)
    pixels = images(1, 32)
    reference = base_of(backbone.model).predict(pixels.astype("float32") / 255, verbose=0)
    assert relative_error(backbone(pixels), reference) < 1e-5


def test_a_layer_that_does_not_exist_brings_the_nearest():
    with pytest.raises(BackboneError) as error:
        Backbone.of("vgg16", weights="random:0", image_size=(32, 32), layer="block5_pol")
    message = str(error.value)
    assert message.startswith("vgg16 has no layer 'block5_pol'; nearest: block5_pool, ")


def test_pooling_needs_a_map():
    config = BackboneConfig(
        "mobilenetv3small",
        weights="random:0",
        image_size=(32, 32),
        layer="expanded_conv_squeeze_excite_conv_1",
    )
    from bottleneck.backbones import keras_models

    flat = keras_models.build_model(config, "float32").model.output
    assert flat.shape[1:] == (1, 1, 16)
    with pytest.raises(BackboneError, match=r"pooling 'avg' needs a map .* fc gives \(7,\)"):
        keras_models._pooled(np.zeros((1, 7)), "avg", "fc")


def test_numbered_layers_have_the_names_of_a_fresh_process():
    config = BackboneConfig("mobilenetv3small", weights="random:0", image_size=(32, 32))
    inner = replace(config, layer="activation_3")
    built = [build_model(made, "float32") for made in (config, inner, inner)]
    assert [one.layer for one in built] == ["activation_17", "activation_3", "activation_3"]
    assert built[1].model.output_shape == built[2].model.output_shape == (None, 2, 2, 240)


def test_features_that_overflow_are_refused(tmp_path):
    kernel = np.full((3, 3, 3, 64), 1e5, np.float32)
    np.savez(
        tmp_path / "w.npz",
        **{"block1_conv1/kernel": kernel, "block1_conv1/bias": np.zeros(64, np.float32)},
    )
    backbone = Backbone.of(
        "vgg16",
        weights=str(tmp_path / "w.npz"),
        layer="block1_conv1",
        image_size=(32, 32),
        precision="float16",
        batch_size=1,
    )
    with pytest.raises(BackboneError) as error:
        backbone(np.full((1, 32, 32, 3), 255, np.uint8))
    assert str(error.value).startswith("some features of vgg16 are not finite in float16: ")


def test_the_model_can_be_saved_and_used_elsewhere(vgg16, tmp_path):
    import keras

    vgg16.model.save(tmp_path / "base.keras")
    loaded = keras.models.load_model(tmp_path / "base.keras")
    pixels = images(2, 72, 96)
    assert loaded.input.dtype == "uint8"
    assert relative_error(np.asarray(loaded(pixels)), vgg16(pixels)) < 1e-6


def test_the_specification_it_knows(vgg16):
    spec = vgg16.spec(vgg16.decode_options(decode="exact"))
    assert spec == FeatureSpec(
        backbone="vgg16",
        alpha=None,
        weights=vgg16.weights_digest,
        layer="block5_pool",
        shape=(2, 3, 512),
        pooling="none",
        image_size=(72, 96),
        resize="squash",
        interpolation="bilinear",
        decode="exact",
        preprocessing="own",
        precision="float32",
    )
    assert spec.weights.startswith("random:0 sha256:")


def test_images_of_another_size_have_no_specification(vgg16):
    assert vgg16.decode_options(resize="crop") == DecodeOptions(72, 96, resize="crop")
    with pytest.raises(BackboneError) as error:
        vgg16.spec(DecodeOptions(224, 224))
    assert str(error.value) == (
        "images were decoded to 224x224 and vgg16 takes 72x96; decode them with "
        "Backbone.decode_options()"
    )


# --- the built-in


def test_channel_means_tell_which_image_they_are_of():
    backbone = Backbone.of("channel-means", batch_size=2)
    colors = np.array([[10, 20, 30], [255, 0, 1], [7, 8, 9]], np.uint8)
    pixels = np.broadcast_to(colors[:, None, None], (3, 32, 32, 3))
    np.testing.assert_array_equal(backbone(pixels), colors.astype(np.float32))
    assert (backbone.shape, backbone.layer, backbone.precision) == (
        (3,),
        "channel_means",
        "float32",
    )
    assert backbone.config.weights == backbone.weights_digest == "none"
    assert backbone.image_size == (32, 32)
    noise = images(3, 32)
    np.testing.assert_allclose(backbone.model.predict(noise, verbose=0), backbone(noise), rtol=1e-5)


def test_channel_means_need_no_keras():
    code = (
        "import sys, numpy as np; from bottleneck.backbones.backbone import Backbone\n"
        "Backbone.of('channel-means')(np.zeros((1, 32, 32, 3), np.uint8))\n"
        "print('keras' in sys.modules, 'ray' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False False"


# --- threads


def test_threads_are_set_before_tensorflow_runs_or_refused():
    code = """
from bottleneck.backbones.runtime import configure_backend
configure_backend(1)
import tensorflow as tf
tf.zeros(1)
print(tf.config.threading.get_intra_op_parallelism_threads())
configure_backend(1)
try:
    configure_backend(2)
except Exception as error:
    print(type(error).__name__, error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = out.stdout.strip().splitlines()
    assert lines[0] == "1"
    assert lines[1] == (
        "BackboneError threads=2 comes too late: TensorFlow already runs in this process with 1 "
        "threads; make the backbone before any other TensorFlow work, or leave threads at 0"
    )


# --- precision


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        (Hardware(), "float32"),
        (Hardware(frozenset({"avx2", "avx512f"})), "float32"),
        (Hardware(frozenset({"avx2", "avx512_bf16"})), "bfloat16"),
        (Hardware(frozenset({"amx_bf16"})), "bfloat16"),
        (Hardware(frozenset({"amx_bf16"}), (6, 1)), "float32"),
        (Hardware(frozenset(), (7, 0)), "float16"),
        (Hardware(frozenset(), (7, 5)), "float16"),
        (Hardware(frozenset(), (8, 0)), "bfloat16"),
        (Hardware(frozenset(), (10, 0)), "bfloat16"),
    ],
)
def test_auto_precision_is_what_the_hardware_is_fast_at(hardware, expected):
    assert resolve_precision("auto", hardware) == expected
    assert resolve_precision("float32", hardware) == "float32"


def test_cpu_flags_are_read_from_cpuinfo(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu amx_bf16 avx2\nprocessor: 1")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "amx_bf16", "avx2"}
    assert cpu_flags(tmp_path / "missing") == frozenset()


# --- families and configurations


def test_every_application_of_keras_is_known():
    import keras

    constructors = {
        name
        for name, value in vars(keras.applications).items()
        if inspect.isfunction(value) and name[0].isupper()
    }
    # The ResNet modules also export names of their own; each is a constructor here too.
    assert {family.constructor for family in FAMILIES.values()} == constructors
    assert len(FAMILIES) == len(constructors)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_what_keras_says_it_is(family):
    import keras

    constructor = getattr(keras.applications, family.constructor)
    module = getattr(keras.applications, family.module)
    assert constructor.__module__.endswith(f".{family.module}")
    assert ("alpha" in inspect.signature(constructor).parameters) == bool(family.alphas)
    pixels = images(1, 8).astype("float32")
    expected = module.preprocess_input(pixels.copy())
    assert np.array_equal(expected, pixels) == family.normalizes_inside
    got = _preprocessed(keras.ops.convert_to_tensor(pixels), family, "own")
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5, atol=1e-5)


def test_default_sizes_are_those_of_keras_s_own_models():
    import keras

    for name, size in {"efficientnetb3": 300, "efficientnetv2s": 384, "nasnetlarge": 331}.items():
        constructor = getattr(keras.applications, FAMILIES[name].constructor)
        body = inspect.getsource(constructor)
        assert f"{size}" in body
        assert BackboneConfig(name).input_size == (size, size)


def test_names_are_understood_in_any_spelling():
    assert canonical_name("VGG16") == "vgg16"
    assert canonical_name("EfficientNet_V2-B0") == "efficientnetv2b0"
    assert canonical_name("Channel_Means") == "channel-means"
    assert BackboneConfig("ResNet50V2").name == "resnet50v2"
    assert len({name.replace("-", "") for name in BACKBONES}) == len(FAMILIES) + 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "resnet5"}, "unknown backbone 'resnet5'; nearest: resnet50, "),
        ({"name": "zzz"}, "unknown backbone 'zzz'; known backbones: vgg16, vgg19, resnet50, "),
        ({"pooling": "mean"}, "pooling must be one of none, avg, max, got 'mean'"),
        ({"preprocessing": "tf"}, "preprocessing must be one of own, rescale, got 'tf'"),
        (
            {"precision": "int8"},
            "precision must be one of auto, float32, bfloat16, float16, got 'int8'",
        ),
        (
            {"alpha": 0.5},
            "vgg16 has no alpha (got 0.5); leave it out, or choose one of mobilenet, mobilenetv2, "
            "mobilenetv3small, mobilenetv3large",
        ),
        (
            {"name": "mobilenet", "alpha": 0.3},
            "there are no ImageNet weights of mobilenet for alpha 0.3; choose one of 0.25, 0.5, "
            "0.75, 1.0, or give --weights PATH",
        ),
        (
            {"name": "mobilenet", "alpha": 0, "weights": "random:0"},
            "alpha must be above 0 and at most 10, got 0.0",
        ),
        (
            {"name": "xception", "image_size": (70, 224)},
            "image_size 70x224 is too small for xception; the smallest is 71x71",
        ),
        ({"image_size": (224,)}, "image_size must be (height, width) in pixels, got (224,)"),
        (
            {"name": "convnexttiny", "preprocessing": "rescale"},
            "preprocessing 'rescale' is not possible with convnexttiny: its own first layers take "
            "pixels of 0 to 255 and normalize them; use preprocessing 'own'",
        ),
        (
            {"name": "channel-means", "weights": "random:0"},
            "weights 'random:0' is not possible with channel-means, which has no weights and no "
            "inner layers; leave weights out",
        ),
        (
            {"name": "channel-means", "precision": "bfloat16"},
            "precision 'bfloat16' is not possible with channel-means",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_when_made(config, message):
    with pytest.raises(BackboneError) as error:
        BackboneConfig(**config)
    assert str(error.value).startswith(message)


def test_alpha_means_one_when_left_out():
    assert BackboneConfig("mobilenetv2").alpha == 1.0
    assert BackboneConfig("vgg16").alpha is None


def test_batch_size_and_threads_are_checked():
    with pytest.raises(BackboneError, match=r"batch_size must be at least 1 .* got 0 and 0"):
        Backbone(BackboneConfig("channel-means"), batch_size=0)


def test_resnet50_features_of_rescaled_pixels_do_not_mix_with_its_own():
    """The case of the Keras issue: ResNet50 fed pixels/255 trains badly and nothing says why."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, 32, 32, 3), np.uint8)
    specs, features = {}, {}
    for preprocessing in ("own", "rescale"):
        backbone = Backbone.of(
            "resnet50",
            weights="random:0",
            image_size=(32, 32),
            pooling="avg",
            preprocessing=preprocessing,
            batch_size=4,
        )
        specs[preprocessing] = backbone.spec(backbone.decode_options(decode="exact"))
        features[preprocessing] = backbone(images)
    assert specs["own"].differences(specs["rescale"]) == [("preprocessing", "own", "rescale")]
    assert np.abs(features["own"] - features["rescale"]).max() > 0.1
    with pytest.raises(SpecMismatchError) as caught:
        require_equal(specs["rescale"], specs["own"], "s3://lake/features")
    assert str(caught.value) == (
        "the features table s3://lake/features was made with another feature specification "
        "(preprocessing: rescale in this run, own in the table); give this run the table's "
        "settings, or write to a new --features URI"
    )
