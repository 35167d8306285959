"""Configuration: each rule with its message, the flags' help, and YAML files."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.documents import documents_of

from bottleneck.config.checks import field_groups, field_names, flag_of
from bottleneck.config.flags import SourceFlags
from bottleneck.config.parsing import parse
from bottleneck.config.values import CommitInterval, actor_range, commit_interval, failure_limit
from bottleneck.errors import BottleneckError, ConfigError, SourceError
from bottleneck.extraction.config import ExtractConfig

NAMES = [field.name for field in dataclasses.fields(ExtractConfig)]


def config(**options: Any) -> ExtractConfig:
    return ExtractConfig(**({"images": "photos", "features": "table"} | options))


def test_defaults_are_allowed_and_cannot_be_changed() -> None:
    made = config()
    assert (made.backbone, made.weights, made.batch_size, made.shard_mb) == (
        "vgg16", "imagenet", None, 256.0,
    )  # fmt: skip
    assert not made.maintenance
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.batch_size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ""}, "--features is empty; give the address of the features table"),
        (
            {"images": ""},
            "--images is missing; give a folder, an S3 prefix, a list file or tar files",
        ),
        (
            {"images": "", "dry_run": True},
            "--images is missing; give a folder, an S3 prefix, a list file or tar files",
        ),
        (
            {"dry_run": True, "compact": True},
            "--dry-run and --compact are separate steps; give one at a time",
        ),
        (
            {"vacuum": 7.0, "compact": True},
            "--vacuum and --compact are separate steps; give one at a time",
        ),
        ({"vacuum": 0.0, "compact": True}, "--vacuum 0.0 is not allowed; give 1 days or more"),
        (
            {"dry_run": True, "vacuum": 7.0, "compact": True},
            "--dry-run and --vacuum and --compact are separate steps; give one at a time",
        ),
        (
            {"node_hour_price": 2.0},
            "--node-hour-price only matters to --dry-run; add it or drop this",
        ),
        (
            {"dry_run": True, "take_over": True},
            "--dry-run takes nothing over, it writes nothing; drop --take-over",
        ),
        ({"max_pixels": 0}, "--max-pixels 0 is not allowed; give 1 pixels or more"),
        ({"max_image_mb": 0.0}, "--max-image-mb 0.0 is not allowed; give 0.001 megabytes or more"),
        ({"gpus_per_actor": -1.0}, "--gpus-per-actor -1.0 is not allowed; give 0 GPUs or more"),
        ({"cpus_per_actor": 0.0}, "--cpus-per-actor 0.0 is not allowed; give 0.1 CPUs or more"),
        ({"batch_size": 0}, "--batch-size 0 is not allowed; give 1 images or more"),
        ({"fetch_concurrency": 0}, "--fetch-concurrency 0 is not allowed; give 1 reads or more"),
        (
            {"fetch_timeout_s": 0.0},
            "--fetch-timeout-s 0.0 is not allowed; give 0.1 seconds or more",
        ),
        ({"shard_mb": -3.0}, "--shard-mb -3.0 is not allowed; give 0.001 megabytes or more"),
        ({"shard_mb": math.nan}, "--shard-mb nan is not allowed; give 0.001 megabytes or more"),
        ({"shard_mb": math.inf}, "--shard-mb inf is not allowed; give 0.001 megabytes or more"),
        ({"vacuum": 0.5}, "--vacuum 0.5 is not allowed; give 1 days or more"),
        (
            {"dry_run": True, "node_hour_price": -1.0},
            "--node-hour-price -1.0 is not allowed; give 0 per hour or more",
        ),
        ({"image_size": (224, 0)}, "--image-size 0 is not allowed; give 1 pixels or more"),
        (
            {"actors": "2:1"},
            "--actors '2:1' is not allowed; give N or MIN:MAX with 1 <= MIN <= MAX",
        ),
        (
            {"commit_every": "5"},
            "--commit-every '5' is not allowed; give a time such as 90s, 5m or 1h, "
            "or a number of shards such as '20 shards'",
        ),
        (
            {"max_failed": "many"},
            "--max-failed 'many' is not allowed; give a number of images such as 100, "
            "or a share such as 10% or 0.1",
        ),
    ],
)
def test_each_rule_says_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**options)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        {"images": "", "compact": True},
        {"images": "", "vacuum": 7.0},
        {"dry_run": True, "node_hour_price": 0.0},
        {"gpus_per_actor": 0.0},
        {"gpus_per_actor": 0.25},
        {"gpus_per_actor": 2.0},
        {"image_size": (1, 1)},
        {"cpus_per_actor": 0.1, "batch_size": 1, "shard_mb": 0.001},
    ],
)
def test_what_is_allowed(options: dict[str, Any]) -> None:
    config(**options)


def test_ray_takes_fractions_of_one_gpu_only() -> None:
    """More than one GPU must be a whole number; Ray would say so in a traceback, much later."""
    with pytest.raises(ConfigError, match=r"--gpus-per-actor 1\.5 is not allowed"):
        config(gpus_per_actor=1.5)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(None, None), ("1", (1, 1)), ("4", (4, 4)), ("1:8", (1, 8)), (" 2:2 ", (2, 2))],
)
def test_actor_ranges(text: str | None, wanted: tuple[int, int] | None) -> None:
    assert actor_range(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "0", "0:3", "3:2", "-1", "1:", ":2", "1:2:3", "a", "1.5", "1-2"]
)
def test_no_actor_ranges(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--actors .* is not allowed; give N or MIN:MAX"):
        actor_range(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90s", CommitInterval(seconds=90)),
        ("5m", CommitInterval(seconds=300)),
        ("1.5h", CommitInterval(seconds=5400)),
        (" 0.5 s ", CommitInterval(seconds=0.5)),
        ("1 shard", CommitInterval(shards=1)),
        ("20 shards", CommitInterval(shards=20)),
        ("20shards", CommitInterval(shards=20)),
    ],
)
def test_commit_intervals(text: str, wanted: CommitInterval) -> None:
    assert commit_interval(text) == wanted
    assert (wanted.seconds == math.inf) != (wanted.shards == math.inf)


@pytest.mark.parametrize(
    "text", ["", "5", "0s", "0 shards", "1.5 shards", "-5m", "5 min", "m", "5m30s", "1e3s", "inf"]
)
def test_no_commit_intervals(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--commit-every .* is not allowed; give a time such"):
        commit_interval(text)


@pytest.mark.parametrize(
    ("text", "listed", "wanted"),
    [
        ("0", 1000, 0),
        ("1", 1000, 1),
        ("100", 5, 100),
        ("10%", 1000, 100),
        ("10 %", 19, 1),
        ("0.1", 1000, 100),
        ("0.5%", 1000, 5),
        ("0%", 1000, 0),
        ("0.0", 1000, 0),
        ("100%", 1000, 1000),
        ("10%", 0, 0),
        # Written as a share, so it is one, as 0.99 is.
        ("1.0", 1000, 1000),
    ],
)
def test_failure_limits(text: str, listed: int, wanted: int) -> None:
    assert failure_limit(text, listed) == wanted


@pytest.mark.parametrize("listed", [100, 1000, 10_000_000])
def test_shares_are_exact(listed: int) -> None:
    """29 % of 100 are 29, although 0.29 * 100 is a little less in floating point."""
    for percent in range(101):
        assert failure_limit(f"{percent}%", listed) == percent * listed // 100
        if percent < 100:
            assert failure_limit(f"0.{percent:02}", listed) == percent * listed // 100


@pytest.mark.parametrize(
    "text", ["", "%", "101%", "1.5", "-1", "-10%", "ten", "1/10", "nan", "1e2"]
)
def test_no_failure_limits(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--max-failed .* is not allowed; give a number"):
        failure_limit(text, 100)


# Types


def test_python_may_give_paths_lists_and_numbers_of_numpy() -> None:
    made = config(
        images=Path("photos"), image_size=[64, 96], batch_size=np.int64(4), shard_mb=np.float64(2)
    )
    assert made == config(images="photos", image_size=(64, 96), batch_size=4, shard_mb=2.0)
    assert [type(value) for value in (made.images, made.image_size, made.batch_size)] == [
        str, tuple, int,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": None}, "--images None is not allowed; give text"),
        ({"images": b"photos"}, "--images b'photos' is not allowed; give text"),
        ({"batch_size": "x"}, "--batch-size 'x' is not allowed; give a whole number"),
        ({"batch_size": 1.5}, "--batch-size 1.5 is not allowed; give a whole number"),
        ({"batch_size": True}, "--batch-size True is not allowed; give a whole number"),
        ({"shard_mb": "64"}, "--shard-mb '64' is not allowed; give a number"),
        ({"image_size": 64}, "--image-size 64 is not allowed; give 2 whole numbers"),
        ({"image_size": (64,)}, "--image-size (64,) is not allowed; give 2 whole numbers"),
        ({"image_size": (64, "x")}, "--image-size (64, 'x') is not allowed; give 2 whole numbers"),
        ({"keep_deleted": 1}, "--keep-deleted 1 is not allowed; give True or False"),
        ({"pooling": None}, "--pooling None is not allowed; give none, avg, max"),
        ({"actors": 4}, "--actors 4 is not allowed; give text"),
    ],
)
def test_values_of_another_type_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**options)
    assert str(caught.value) == message


# Documentation


def test_every_field_is_documented_by_the_group_that_owns_it() -> None:
    groups = field_groups(ExtractConfig)
    for group, names in groups.items():
        assert re.findall(r"^        (\w+): ", group.__doc__ or "", re.MULTILINE) == names
    assert list(field_names(ExtractConfig)) == [name for names in groups.values() for name in names]
    assert sorted(field_names(ExtractConfig)) == sorted(NAMES)
    assert list(groups)[:2] == [ExtractConfig, SourceFlags]


def test_help_tells_every_flag_its_meaning_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        parse(ExtractConfig, ["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    text = " ".join(line.strip("│ ") for line in printed.splitlines())
    text = re.sub(r"\s+", " ", text)
    paragraphs = re.split(r"\s(?=--[a-z])", text)
    documents = documents_of(ExtractConfig)
    for field in dataclasses.fields(ExtractConfig):
        flag = flag_of(field.name)
        assert any(re.match(rf"{flag}[ ,]", part) for part in paragraphs), flag
        # The text stands there whole, apart from how it is broken into lines.
        document = re.sub(r"\s+", "", documents[field.name])
        assert document in re.sub(r"\s+", "", text), flag
    plain = re.sub(r"\s+", "", text)
    for default in (
        "(default:vgg16)",
        "(default:32)",
        "(default:5m)",
        "(default:10%)",
        "(required)",
    ):
        assert default in plain
    assert "--config FILE" in text
    assert "jpg, jpeg, jpe, jfif, png, webp, gif" in text  # which files are images


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("image_size", "pixels"),
        ("max_pixels", "pixels"),
        ("max_image_mb", "megabytes"),
        ("gpus_per_actor", "GPUs"),
        ("cpus_per_actor", "CPUs"),
        ("batch_size", "Images"),
        ("fetch_timeout_s", "Seconds"),
        ("commit_every", "time"),
        ("shard_mb", "megabytes"),
        ("node_hour_price", "hour"),
        ("vacuum", "days"),
    ],
)
def test_help_tells_the_unit(name: str, unit: str) -> None:
    assert unit in documents_of(ExtractConfig)[name]


# YAML files


def parsed(tmp_path: Path, text: str, *flags: str) -> ExtractConfig:
    file = tmp_path / "nightly.yaml"
    file.write_text(text)
    return parse(ExtractConfig, ["--config", str(file), *flags])


BOTH = "images: photos\nfeatures: table\n"


def test_a_file_may_hold_every_kind_of_flag(tmp_path: Path) -> None:
    got = parsed(
        tmp_path,
        """
        images: s3://photos/
        features: s3://lake/features
        backbone: mobilenet
        alpha: 0.25
        layer: null
        pooling: none
        image-size: [160, 192]
        weights: random:0
        max_pixels: 1_000_000
        actors: 2
        gpus_per_actor: 0
        commit-every: 20 shards
        shard_mb: 64
        keep_deleted: true
        retry-failed: no
        max_failed: 0.05
        """,
    )
    assert got == ExtractConfig(
        images="s3://photos/",
        features="s3://lake/features",
        backbone="mobilenet",
        alpha=0.25,
        pooling="none",
        image_size=(160, 192),
        weights="random:0",
        max_pixels=1_000_000,
        actors="2",
        gpus_per_actor=0.0,
        commit_every="20 shards",
        shard_mb=64.0,
        keep_deleted=True,
        retry_failed=False,
        max_failed="0.05",
    )


@pytest.mark.parametrize("text", ["1:4", "2:8", "1:16"])
def test_an_actor_range_is_no_number_of_minutes(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads 2:8 as 128, two minutes and eight seconds."""
    assert parsed(tmp_path, f"{BOTH}actors: {text}\n").actors == text


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("weights: 'yes'", "weights", "yes"),
        ("layer: block5_conv3", "layer", "block5_conv3"),
        ("max_failed: 10%", "max_failed", "10%"),
        ("max_failed: 0", "max_failed", "0"),
        ("commit_every: 90s", "commit_every", "90s"),
        ("summary: a b=c.json", "summary", "a b=c.json"),
        ("layer: --odd", "layer", "--odd"),
        ("layer: ''", "layer", ""),
        ("address:", "address", None),
        ("shard_mb:", "shard_mb", 256.0),
        ("batch_size: 7", "batch_size", 7),
        ("shard_mb: 0.5", "shard_mb", 0.5),
    ],
)
def test_values_mean_what_they_mean_as_flags(
    tmp_path: Path, line: str, name: str, value: Any
) -> None:
    assert getattr(parsed(tmp_path, f"{BOTH}{line}\n"), name) == value


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    text = f"{BOTH}batch_size: 8\nkeep_deleted: true\nimage_size: [10, 20]\nlayer: a\n"
    flags = ["--batch-size", "16", "--no-keep-deleted", "--image-size", "3", "4", "--layer=None"]
    got = parsed(tmp_path, text, *flags)
    assert (got.batch_size, got.keep_deleted, got.image_size, got.layer) == (
        16,
        False,
        (3, 4),
        None,
    )
    assert got.images == "photos"
    before = parse(
        ExtractConfig, ["--batch-size=16", f"--config={tmp_path / 'nightly.yaml'}", "--shard_mb=1"]
    )
    assert (before.batch_size, before.shard_mb, before.image_size) == (16, 1.0, (10, 20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{BOTH}batchsize: 3",
            "{file} has a key 'batchsize' that is not a flag of this job; "
            "did you mean 'batch_size'?",
        ),
        (
            f"{BOTH}Keep-Deletd: 3",
            "{file} has a key 'Keep-Deletd' that is not a flag of this job; "
            "did you mean 'keep_deleted'?",
        ),
        ("- images", "{file} holds no flags; it must consist of lines such as 'images: DIR'"),
        ("", "{file} holds no flags; it must consist of lines such as 'images: DIR'"),
        ("just words", "{file} holds no flags; it must consist of lines such as 'images: DIR'"),
    ],
)
def test_what_a_file_may_not_hold(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(tmp_path, text)
    assert str(caught.value) == message.format(file=tmp_path / "nightly.yaml")


def test_a_key_like_no_other_gets_the_list(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'qqqq' that is not a flag.*; allowed are features, images"
    ):
        parsed(tmp_path, f"{BOTH}qqqq: 1")


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("batch_size: many", "--batch-size"),
        ("batch_size: 1.5", "--batch-size"),
        ("batch_size: [1, 2]", ""),
        ("image_size: 224", "--image-size"),
        ("image_size: [1, 2, 3]", ""),
        ("pooling: sum", "--pooling"),
        ("keep_deleted: 3", "--keep-deleted"),
        ("backbone: false", "backbone"),
        # A value that is left out is no name: there must be no table called None.
        ("features:", "--features"),
        ("images:", "--images"),
        ("features: {a: b}", "features"),
    ],
)
def test_values_of_another_kind_are_one_line(tmp_path: Path, line: str, flag: str) -> None:
    name = line.split(":", maxsplit=1)[0]
    kept = "".join(f"{row}\n" for row in BOTH.splitlines() if not row.startswith(f"{name}:"))
    with pytest.raises(ConfigError) as caught:
        parsed(tmp_path, f"{kept}{line}\n")
    assert flag in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "[bold]" not in str(caught.value)


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"nightly.yaml is not a YAML file: .*; mend it"
    ) as caught:
        parsed(tmp_path, "images: [a\nfeatures: b: c")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\x00")
    with pytest.raises(BottleneckError) as caught:
        parse(ExtractConfig, [f"--config={tmp_path / 'photo.jpg'}"])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        parse(ExtractConfig, ["--config", str(tmp_path / "none.yaml")])
    assert str(caught.value) == f"{tmp_path}/none.yaml does not exist; check the path"
    with pytest.raises(ConfigError) as no_value:
        parse(ExtractConfig, ["--images=a", "--config"])
    assert str(no_value.value) == "--config needs a file; give a YAML file of the job's flags"


# Flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "abc"], r"--batch-size: .*'abc'"),
        (["--batchsize", "3"], r"--batchsize.*--batch-size"),
        (["--image-size", "224"], r"--image-size"),
        (["stray"], r"stray"),
        (["--shard-mb"], r"^Missing value for argument '--shard-mb'"),
    ],
)
def test_wrong_flags_are_one_clear_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(ExtractConfig, ["--images=a", "--features=b", *flags])
    text = str(caught.value)
    assert text.endswith("; see --help")
    assert not re.search(r"\n|\x1b|\[/?bold\]|[│╭╰─]", text)


def test_a_missing_flag_is_named() -> None:
    with pytest.raises(ConfigError, match="--features") as caught:
        parse(ExtractConfig, ["--images=a"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_messages_do_not_depend_on_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(ConfigError) as caught:
        parse(ExtractConfig, ["--images=a", "--features=b", f"--fetch-concurrency={'x' * 160}"])
    assert str(caught.value) == (
        "Error parsing --fetch-concurrency: invalid literal for int() with base 10: "
        f"'{'x' * 160}'; see --help"
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("resize", "stretch", "--resize 'stretch' is not allowed; give squash, crop, pad"),
        ("decode", "quick", "--decode 'quick' is not allowed; give fast, exact"),
        ("layout", "deep", "--layout 'deep' is not allowed; give auto, flat, label, split-label"),
        ("pooling", "sum", "--pooling 'sum' is not allowed; give none, avg, max"),
    ],
)
def test_unknown_words_are_refused_alike_everywhere(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    makers: tuple[Callable[[], Any], ...] = (
        lambda: ExtractConfig(images="i", features="f", **{name: value}),
        lambda: parse(ExtractConfig, ["--images=i", "--features=f", flag_of(name), value]),
        lambda: parsed(tmp_path, f"{BOTH}{name}: {value}\n"),
    )
    for make in makers:
        with pytest.raises(ConfigError) as caught:
            make()
        assert str(caught.value) == said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--batch-size=x"],
            "Error parsing --batch-size: 'x' is not allowed; give INT; see --help",
        ),
        (["--alpha=x"], "Error parsing --alpha: 'x' is not allowed; give FLOAT; see --help"),
        (
            ["--image-size", "3", "y"],
            "Error parsing --image-size: '3', 'y' is not allowed; give INT INT; see --help",
        ),
    ],
)
def test_messages_of_flags_that_may_be_left_out(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(ExtractConfig, ["--images=a", "--features=b", *flags])
    assert str(caught.value) == message
