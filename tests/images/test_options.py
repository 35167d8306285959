"""Options of decoding, as a specification holds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.support.specs import make_spec
from bottleneck.errors import ConfigError
from bottleneck.images.options import DEFAULT_MAX_PIXELS, DecodeOptions


def test_options_of_a_specification_are_those_its_images_were_read_with() -> None:
    words = {"resize": "pad", "decode": "exact", "interpolation": "box"}
    made = replace(make_spec((3,)), image_size=(72, 96), **words)
    expected = DecodeOptions(72, 96, **words, max_pixels=DEFAULT_MAX_PIXELS)
    assert DecodeOptions.of_spec(made) == expected
    assert DecodeOptions.of_spec(made, 1000) == replace(expected, max_pixels=1000)


def test_a_specification_of_other_words_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        DecodeOptions.of_spec(replace(make_spec((3,)), decode="rough"))
    assert str(error.value) == (
        "decode is 'rough', but must be one of fast, exact; choose one of these"
    )
