"""The settings of a stopped training, which its continuation must share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bottleneck.errors import ConfigError
from bottleneck.training.resume import earlier_settings, require_same, write_settings


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = {"version": 3, "dtype": "float16", "hidden": [8, 4]}
    write_settings(str(tmp_path), settings)
    assert earlier_settings(str(tmp_path)) == settings


def test_a_training_that_was_stopped_before_dtype_had_its_name_goes_on(tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    text = json.dumps({"version": 3, "storage": "float16", "epochs": 4})
    (tmp_path / "unfinished/settings.json").write_text(text)
    earlier = earlier_settings(str(tmp_path))
    require_same(earlier, {"version": 3, "dtype": "float16", "epochs": 4})
    with pytest.raises(ConfigError, match=r"\(dtype: float32 now, float16 before\)"):
        require_same(earlier, {"version": 3, "dtype": "float32", "epochs": 4})
