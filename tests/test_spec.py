import subprocess
import sys
from dataclasses import replace

import pytest

from bottleneck.errors import SpecMismatchError, TableError
from bottleneck.spec import FeatureSpec, require_equal

SPEC = FeatureSpec(
    backbone="mobilenet",
    alpha=0.25,
    weights="sha256:" + "ab" * 32,
    layer="conv_pw_13_relu",
    shape=(7, 7, 256),
    pooling="none",
    image_size=(224, 192),
    resize="squash",
    interpolation="bilinear",
    decode="exact",
    preprocessing="own",
    precision="float32",
)


def test_properties_are_prefixed_strings():
    assert SPEC.to_properties() == {
        "bottleneck.spec_version": "1",
        "bottleneck.kind": "features",
        "bottleneck.backbone": "mobilenet",
        "bottleneck.alpha": "0.25",
        "bottleneck.weights": "sha256:" + "ab" * 32,
        "bottleneck.layer": "conv_pw_13_relu",
        "bottleneck.shape": "7,7,256",
        "bottleneck.pooling": "none",
        "bottleneck.image_size": "224,192",
        "bottleneck.resize": "squash",
        "bottleneck.interpolation": "bilinear",
        "bottleneck.decode": "exact",
        "bottleneck.preprocessing": "own",
        "bottleneck.precision": "float32",
    }


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, alpha=None, shape=(512,), pooling="avg")])
def test_properties_round_trip_among_others(spec):
    properties = {**spec.to_properties(), "delta.dataSkippingStatsColumns": "image"}
    read = FeatureSpec.from_properties(properties)
    assert read == spec
    assert read.fingerprint == spec.fingerprint
    assert read.differences(spec) == []


def test_length_is_the_number_of_values():
    assert SPEC.length == 12_544
    assert replace(SPEC, shape=(512,)).length == 512


def test_fingerprint_is_the_same_everywhere_and_differs_by_any_field():
    # Written down: a change would make every existing table look foreign.
    assert SPEC.fingerprint == ("da9618fd45746ff4c9a5b6e19efa5e0496ca35827318fe9e435635e3ebbd50ef")
    others = [
        replace(SPEC, **{field: value})
        for field, value in {
            "backbone": "mobilenetv2", "alpha": 0.5, "weights": "random:0", "layer": "x",
            "shape": (7, 7, 128), "pooling": "avg", "image_size": (192, 224), "resize": "crop",
            "interpolation": "bicubic", "decode": "fast", "preprocessing": "rescale",
            "precision": "bfloat16",
        }.items()
    ]  # fmt: skip
    assert len({SPEC.fingerprint, *(other.fingerprint for other in others)}) == 13


def test_a_foreign_table_is_refused():
    with pytest.raises(TableError) as error:
        FeatureSpec.from_properties({"delta.appendOnly": "true"})
    assert str(error.value) == (
        "this is not a features table: it has no property bottleneck.spec_version; name a table "
        "that the extract job wrote, or a location where nothing is yet"
    )


def test_a_later_version_is_refused():
    with pytest.raises(TableError, match="spec_version '2' and this version of the project reads"):
        FeatureSpec.from_properties({**SPEC.to_properties(), "bottleneck.spec_version": "2"})


def test_an_incomplete_specification_names_what_it_lacks():
    properties = SPEC.to_properties()
    del properties["bottleneck.layer"], properties["bottleneck.decode"]
    with pytest.raises(TableError, match=r"lacks .* bottleneck\.layer, bottleneck\.decode; "):
        FeatureSpec.from_properties(properties)


@pytest.mark.parametrize(
    ("field", "value"), [("image_size", "224"), ("alpha", "wide"), ("shape", "7x7")]
)
def test_an_unreadable_value_is_shown(field, value):
    with pytest.raises(TableError, match=f"cannot be read: .*{field} '{value}'"):
        FeatureSpec.from_properties({**SPEC.to_properties(), f"bottleneck.{field}": value})


def test_a_run_that_differs_is_refused_with_both_values_of_each_field():
    run = replace(SPEC, alpha=None, shape=(7, 7, 512), precision="bfloat16")
    with pytest.raises(SpecMismatchError) as error:
        require_equal(run, SPEC, "s3://lake/features")
    assert str(error.value) == (
        "the features table s3://lake/features was made with another feature specification "
        "(alpha: none in this run, 0.25 in the table; shape: 7,7,512 in this run, 7,7,256 in the "
        "table; precision: bfloat16 in this run, float32 in the table); give this run the table's "
        "settings, or write to a new --features URI"
    )
    assert error.value.exit_code == 2
    require_equal(SPEC, replace(SPEC), "s3://lake/features")


def test_nothing_here_loads_keras_or_ray():
    code = (
        "import sys, bottleneck.spec, bottleneck.backbones.config, bottleneck.backbones.weights,"
        " bottleneck.backbones.weight_loading, bottleneck.backbones.keras_models,"
        " bottleneck.backbones.backbone\n"
        "bottleneck.backbones.config.BackboneConfig('resnet50', pooling='avg')\n"
        "print(sorted({'keras', 'tensorflow', 'ray', 'jax', 'torch', 'h5py'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
