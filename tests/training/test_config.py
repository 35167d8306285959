"""Configurations of the train and the predict job: rules, recipes, flags, YAML files and help."""

from __future__ import annotations

import dataclasses
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support.documents import documents_of

from bottleneck.config.checks import field_names, flag_of
from bottleneck.config.parsing import parse
from bottleneck.config.values import parse_time, worker_range
from bottleneck.errors import ConfigError
from bottleneck.prediction.config import PredictConfig
from bottleneck.training.config import TrainConfig, as_flags, given_weights
from bottleneck.training.recipes import HeadSettings

Config = TrainConfig | PredictConfig


def train_config(**options: Any) -> TrainConfig:
    return TrainConfig(**({"features": "table", "model": "pets"} | options))


def predict_config(**options: Any) -> PredictConfig:
    needed = {"model": "pets", "predictions": "said"}
    if "features" not in options:
        needed["images"] = "photos"
    return PredictConfig(**(needed | options))


def refusal(make: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        make(**options)
    assert caught.value.exit_code == 2
    return str(caught.value)


# Rules

OF_WEIGHTS = (
    "is not allowed; give none, balanced or weights of 0 or more by label, such as cats=2,dogs=1"
)
NO_TIME = "is not a time; give one such as 2026-01-31 or 2026-01-31T06:00+00:00"
TWO_VERSIONS = "--version and --as-of name two versions; give one of them"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ""}, "--features is empty; give an address"),
        ({"model": ""}, "--model is empty; give an address"),
        ({"version": 0, "as_of": "2026-01-31"}, TWO_VERSIONS),
        ({"version": -1}, "--version -1 is not allowed; give 0 (a version) or more"),
        ({"as_of": "yesterday"}, f"--as-of 'yesterday' {NO_TIME}"),
        ({"as_of": ""}, f"--as-of '' {NO_TIME}"),
        (
            {"resume": True, "overwrite": True},
            "--resume goes on with a run, --overwrite starts anew; give one",
        ),
        (
            {"split": "hash", "split_list": "list.csv"},
            "--split-list and --split both say where splits are from; give one",
        ),
        (
            {"validation_fraction": 1.0},
            "--validation-fraction 1.0 is not allowed; give 0 or more, below 1",
        ),
        (
            {"validation_fraction": -0.1},
            "--validation-fraction -0.1 is not allowed; give 0 or more, below 1",
        ),
        (
            {"test_fraction": math.nan},
            "--test-fraction nan is not allowed; give 0 or more, below 1",
        ),
        (
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            "--validation-fraction 0.5 and --test-fraction 0.5 leave nothing to train on; "
            "their sum must be below 1",
        ),
        ({"dropout": 1.0}, "--dropout 1.0 is not allowed; give 0 or more, below 1"),
        ({"l2": -1.0}, "--l2 -1.0 is not allowed; give 0 (a weight) or more"),
        (
            {"learning_rate": 0.0},
            "--learning-rate 0.0 is not allowed; give 1e-12 (a rate) or more",
        ),
        (
            {"learning_rate": math.inf},
            "--learning-rate inf is not allowed; give 1e-12 (a rate) or more",
        ),
        ({"epochs": 0}, "--epochs 0 is not allowed; give 1 epochs or more"),
        ({"batch_size": 0}, "--batch-size 0 is not allowed; give 1 rows or more"),
        ({"patience": -1}, "--patience -1 is not allowed; give 0 epochs or more"),
        ({"gpus_per_worker": -1.0}, "--gpus-per-worker -1.0 is not allowed; give 0 GPUs or more"),
        ({"cpus_per_worker": 0.5}, "--cpus-per-worker 0.5 is not allowed; give 1 CPUs or more"),
        ({"memory_gb": 0.0}, "--memory-gb 0.0 is not allowed; give 0.001 gigabytes or more"),
        (
            {"max_worker_failures": -1},
            "--max-worker-failures -1 is not allowed; give 0 times or more",
        ),
        ({"seed": -1}, "--seed -1 is not allowed; give 0 (a whole number) or more"),
        ({"hidden": (256, 0)}, "--hidden 0 is not allowed; give 1 units or more"),
        (
            {"head": "linear", "hidden": (256,)},
            "--hidden belongs to --head mlp; a linear head has no hidden layer",
        ),
        ({"class_weights": "heavy"}, f"--class-weights 'heavy' {OF_WEIGHTS}"),
        ({"class_weights": ""}, f"--class-weights '' {OF_WEIGHTS}"),
        ({"class_weights": "cats=2,dogs"}, f"--class-weights 'cats=2,dogs' {OF_WEIGHTS}"),
        ({"class_weights": "cats=-2"}, f"--class-weights 'cats=-2' {OF_WEIGHTS}"),
        ({"class_weights": "cats=inf"}, f"--class-weights 'cats=inf' {OF_WEIGHTS}"),
        ({"class_weights": "=2"}, f"--class-weights '=2' {OF_WEIGHTS}"),
        (
            {"workers": "2:1"},
            "--workers '2:1' is not allowed; give N or MIN:MAX with 1 <= MIN <= MAX",
        ),
        (
            {"workers": "0"},
            "--workers '0' is not allowed; give N or MIN:MAX with 1 <= MIN <= MAX",
        ),
    ],
)
def test_what_the_train_job_refuses(options: dict[str, Any], message: str) -> None:
    assert refusal(train_config, **options) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "--model is empty; give an address"),
        ({"predictions": ""}, "--predictions is empty; give an address"),
        (
            {"images": ""},
            "give either --images (a source of images) or --features (a features table)",
        ),
        (
            {"images": "photos", "features": "table"},
            "give either --images (a source of images) or --features (a features table)",
        ),
        ({"version": 3}, "--version and --as-of belong to --features; drop them"),
        ({"as_of": "2026-01-31"}, "--version and --as-of belong to --features; drop them"),
        ({"features": "table", "version": 3, "as_of": "2026-01-31"}, TWO_VERSIONS),
        ({"features": "table", "as_of": "then"}, f"--as-of 'then' {NO_TIME}"),
        (
            {"features": "table", "version": -1},
            "--version -1 is not allowed; give 0 (a version) or more",
        ),
        (
            {"features": "table", "model": "imagenet:resnet50"},
            "imagenet:resnet50 has no head of its own for --features; give --images, or a model "
            "of the train job",
        ),
        (
            {"node_hour_price": 2.0},
            "--node-hour-price only matters to --dry-run; add it or drop this",
        ),
        (
            {"dry_run": True, "take_over": True},
            "--dry-run takes nothing over, it writes nothing; drop --take-over",
        ),
        ({"top": 0}, "--top 0 is not allowed; give 1 labels or more"),
        (
            {"gpus_per_actor": 1.5},
            "--gpus-per-actor 1.5 is not allowed; give a whole number, or a fraction of one GPU "
            "such as 0.5",
        ),
        ({"batch_size": 0}, "--batch-size 0 is not allowed; give 1 images or more"),
        ({"max_pixels": 0}, "--max-pixels 0 is not allowed; give 1 pixels or more"),
        ({"shard_mb": 0.0}, "--shard-mb 0.0 is not allowed; give 0.001 megabytes or more"),
        (
            {"actors": "none"},
            "--actors 'none' is not allowed; give N or MIN:MAX with 1 <= MIN <= MAX",
        ),
        (
            {"commit_every": "often"},
            "--commit-every 'often' is not allowed; give a time such as 90s, 5m or 1h, "
            "or a number of shards such as '20 shards'",
        ),
        (
            {"max_failed": "all"},
            "--max-failed 'all' is not allowed; give a number of images such as 100, "
            "or a share such as 10% or 0.1",
        ),
    ],
)
def test_what_the_predict_job_refuses(options: dict[str, Any], message: str) -> None:
    assert refusal(predict_config, **options) == message


@pytest.mark.parametrize(
    "options",
    [
        {"validation_fraction": 0.0, "test_fraction": 0.0},
        {"validation_fraction": 0.5, "test_fraction": 0.49},
        {"dropout": 0.0, "l2": 0.0, "patience": 0},
        {"head": "linear", "hidden": ()},
        {"workers": "1:8", "gpus_per_worker": 0.0, "cpus_per_worker": 1.0},
        {"seed": 2**40},
    ],
)
def test_what_is_allowed(options: dict[str, Any]) -> None:
    made = train_config(**options)
    assert {name: getattr(made, name) for name in options} == options


@pytest.mark.parametrize(
    ("text", "wanted"), [("1", (1, 1)), ("4", (4, 4)), ("1:8", (1, 8)), (" 2:2 ", (2, 2))]
)
def test_worker_ranges(text: str, wanted: tuple[int, int]) -> None:
    assert worker_range(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("none", None),
        ("balanced", None),
        ("cats=2,dogs=1", {"cats": 2.0, "dogs": 1.0}),
        ("cats=0", {"cats": 0.0}),
        # A label may hold the signs itself, as far as that can be read at all.
        ("a=b=0.5", {"a=b": 0.5}),
        ("black cats=1e1", {"black cats": 10.0}),
    ],
)
def test_class_weights(text: str, wanted: dict[str, float] | None) -> None:
    assert given_weights(text) == wanted


def test_times_are_in_utc_unless_they_name_a_zone() -> None:
    assert parse_time("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert parse_time("2026-01-31 06:00:30") == datetime(2026, 1, 31, 6, 0, 30, tzinfo=UTC)
    moment = parse_time("2026-01-31T06:00+02:00")
    assert moment == datetime(2026, 1, 31, 6, tzinfo=timezone(timedelta(hours=2)))
    assert train_config(as_of="2026-01-31T06:00Z").moment == datetime(2026, 1, 31, 6, tzinfo=UTC)
    assert train_config().moment is None


# Recipes

SETTINGS = {
    "none": {
        "head": "mlp",
        "hidden": (256,),
        "dropout": 0.5,
        "optimizer": "adam",
        "learning_rate": 3e-4,
        "epochs": 50,
        "batch_size": 64,
        "standardize": True,
        "patience": 8,
        "l2": 0.0,
    },
    "keras-blog": {
        "head": "mlp",
        "hidden": (256,),
        "dropout": 0.5,
        "optimizer": "rmsprop",
        "learning_rate": 1e-3,
        "epochs": 50,
        "batch_size": 16,
        "standardize": False,
        "patience": 0,
        "l2": 0.0,
    },
    "vgg16-mlp": {
        "head": "mlp",
        "hidden": (256,),
        "dropout": 0.5,
        "optimizer": "rmsprop",
        "learning_rate": 2e-5,
        "epochs": 20,
        "batch_size": 20,
        "standardize": False,
        "patience": 0,
        "l2": 0.0,
    },
}


@pytest.mark.parametrize("recipe", list(SETTINGS))
def test_what_a_recipe_sets(recipe: str) -> None:
    config = train_config(recipe=recipe, seed=3)
    assert vars(config.head_settings) == SETTINGS[recipe]
    # Every setting of a recipe has a flag, which is not given here.
    assert {name: getattr(config, name) for name in SETTINGS[recipe]} == dict.fromkeys(
        SETTINGS[recipe]
    )


OWN: dict[str, Any] = {
    "head": "mlp",
    "hidden": (8, 4),
    "dropout": 0.0,
    "optimizer": "sgd",
    "learning_rate": 0.5,
    "epochs": 1,
    "batch_size": 7,
    "standardize": True,
    "patience": 3,
    "l2": 1e-4,
}


@pytest.mark.parametrize("recipe", list(SETTINGS))
@pytest.mark.parametrize("name", list(OWN))
def test_a_flag_beside_a_recipe_wins(recipe: str, name: str) -> None:
    settings = train_config(recipe=recipe, **{name: OWN[name]}).head_settings
    assert vars(settings) == SETTINGS[recipe] | {name: OWN[name]}


@pytest.mark.parametrize("recipe", list(SETTINGS))
def test_values_that_count_as_nothing_are_given_all_the_same(recipe: str) -> None:
    nothing = {"hidden": (), "dropout": 0.0, "patience": 0, "l2": 0.0, "standardize": False}
    settings = train_config(recipe=recipe, **nothing).head_settings
    assert {name: getattr(settings, name) for name in nothing} == nothing


@pytest.mark.parametrize("recipe", list(SETTINGS))
def test_a_linear_head_has_no_hidden_layer_whatever_the_recipe(recipe: str) -> None:
    settings = train_config(recipe=recipe, head="linear").head_settings
    assert (settings.head, settings.hidden) == ("linear", ())


def test_help_states_the_defaults_that_hold() -> None:
    stated = {}
    for name, document in documents_of(TrainConfig).items():
        found = re.search(r"\[(.+)\]\s*$", document)
        if found:
            stated[name] = found[1]
    shown = {"hidden": "256", "l2": "0", "learning_rate": "3e-4", "standardize": "yes"}
    expected = {name: shown.get(name, str(value)) for name, value in vars(HeadSettings()).items()}
    assert stated == expected


def test_settings_in_reports() -> None:
    found = as_flags(train_config(recipe="keras-blog", hidden=(64, 32), version=3))
    assert {name: found[name] for name in ("hidden", "version", "standardize", "l2")} == {
        "hidden": "64 32",
        "version": "3",
        "standardize": "False",
        "l2": "0.0",
    }
    assert "as_of" not in found


# Flags and files

TRAIN = TrainConfig(
    features="s3://lake/features",
    model="s3://models/pets",
    as_of="2026-01-31T06:00+00:00",
    split="hash",
    validation_fraction=0.1,
    test_fraction=0.0,
    recipe="vgg16-mlp",
    head="mlp",
    pool="avg",
    hidden=(128, 64),
    dropout=0.25,
    l2=1e-5,
    standardize=True,
    binary=True,
    optimizer="sgd",
    learning_rate=1e-3,
    schedule="cosine",
    epochs=7,
    batch_size=128,
    class_weights="cats=2,dogs=1",
    monitor="val_accuracy",
    patience=0,
    seed=11,
    workers="1:4",
    gpus_per_worker=0.0,
    cpus_per_worker=2.0,
    memory_gb=1.5,
    dtype="bfloat16",
    max_worker_failures=9,
    resume=True,
    weights="w.h5",
    address="auto",
    summary="s.json",
    log_json=True,
)
TRAIN_FLAGS = (
    "--features s3://lake/features --model s3://models/pets --as-of 2026-01-31T06:00+00:00 "
    "--split hash --validation-fraction 0.1 --test-fraction 0 --recipe vgg16-mlp --head mlp "
    "--pool avg --hidden 128 64 --dropout 0.25 --l2 1e-5 --standardize True --binary "
    "--optimizer sgd --learning-rate 1e-3 --schedule cosine --epochs 7 --batch-size 128 "
    "--class-weights cats=2,dogs=1 --monitor val_accuracy --patience 0 --seed 11 --workers 1:4 "
    "--gpus-per-worker 0 --cpus-per-worker 2 --memory-gb 1.5 --dtype bfloat16 "
    "--max-worker-failures 9 --resume --weights w.h5 --address auto --summary s.json --log-json"
)
TRAIN_YAML = """
features: s3://lake/features
model: s3://models/pets
as_of: 2026-01-31T06:00+00:00
split: hash
validation-fraction: 0.1
test_fraction: 0
recipe: vgg16-mlp
head: mlp
pool: avg
hidden: [128, 64]
dropout: 0.25
l2: 1e-5
standardize: true
binary: yes
optimizer: sgd
learning_rate: 1e-3
schedule: cosine
epochs: 7
batch_size: 128
class_weights: cats=2,dogs=1
monitor: val_accuracy
patience: 0
seed: 11
workers: 1:4
gpus_per_worker: 0
cpus_per_worker: 2
memory_gb: 1.5
dtype: bfloat16
max_worker_failures: 9
resume: true
weights: w.h5
address: auto
summary: s.json
log_json: true
"""

PREDICT = PredictConfig(
    model="pets",
    predictions="said",
    features="table",
    version=4,
    layout="flat",
    top=3,
    weights="w.h5",
    report="report.html",
    max_pixels=1000,
    max_image_mb=1.0,
    address="auto",
    actors="1:2",
    gpus_per_actor=0.5,
    cpus_per_actor=1.0,
    batch_size=8,
    fetch_concurrency=4,
    fetch_timeout_s=5.0,
    commit_every="20 shards",
    shard_mb=1.0,
    keep_deleted=True,
    retry_failed=True,
    max_failed="5%",
    dry_run=True,
    node_hour_price=2.5,
    summary="s.json",
    log_json=True,
)
PREDICT_FLAGS = (
    "--model pets --predictions said --features table --version 4 --layout flat --top 3 "
    "--weights w.h5 --report report.html --max-pixels 1000 --max-image-mb 1 --address auto "
    "--actors 1:2 --gpus-per-actor 0.5 --cpus-per-actor 1 --batch-size 8 --fetch-concurrency 4 "
    "--fetch-timeout-s 5 --shard-mb 1 --keep-deleted --retry-failed --max-failed 5% --dry-run "
    "--node-hour-price 2.5 --summary s.json --log-json"
)
PREDICT_YAML = """
model: pets
predictions: said
features: table
version: 4
layout: flat
top: 3
weights: w.h5
report: report.html
max-pixels: 1_000
max_image_mb: 1
address: auto
actors: 1:2
gpus_per_actor: 0.5
cpus_per_actor: 1
batch_size: 8
fetch_concurrency: 4
fetch_timeout_s: 5
commit_every: 20 shards
shard_mb: 1
keep_deleted: true
retry_failed: true
max_failed: 5%
dry_run: true
node_hour_price: 2.5
summary: s.json
log_json: true
"""


def test_every_flag_is_read() -> None:
    assert parse(TrainConfig, TRAIN_FLAGS.split()) == TRAIN
    flags = [*PREDICT_FLAGS.split(), "--commit-every", "20 shards"]
    assert parse(PredictConfig, flags) == PREDICT


def test_every_flag_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(TRAIN_YAML)
    assert parse(TrainConfig, ["--config", str(file)]) == TRAIN
    file.write_text(PREDICT_YAML)
    assert parse(PredictConfig, ["--config", str(file)]) == PREDICT


def test_few_flags_are_needed() -> None:
    assert parse(TrainConfig, ["--features=table", "--model=pets"]) == train_config()
    flags = ["--model=pets", "--predictions=said", "--images=photos"]
    assert parse(PredictConfig, flags) == predict_config()


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("standardize: false", "standardize", False),
        ("standardize:", "standardize", None),
        ("binary: no", "binary", False),
        ("hidden: 64", "hidden", (64,)),
        ("hidden: []", "hidden", ()),
        ("hidden:", "hidden", None),
        ("as_of: 2026-01-31", "as_of", "2026-01-31"),
        ("as_of: 2026-01-31T06:00:00+00:00", "as_of", "2026-01-31 06:00:00+00:00"),
        ("version: 0", "version", 0),
        ("workers: 2", "workers", "2"),
        ("class_weights: balanced", "class_weights", "balanced"),
        ("learning_rate: 3.0e-4", "learning_rate", 3e-4),
    ],
)
def test_values_of_a_file(tmp_path: Path, line: str, name: str, value: Any) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"features: table\nmodel: pets\n{line}\n")
    found = getattr(parse(TrainConfig, ["--config", str(file)]), name)
    assert found == value
    assert type(found) is type(value)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(TRAIN_YAML)
    flags = "--standardize False --no-binary --hidden 9 --no-resume --overwrite --weights=None"
    assert parse(TrainConfig, ["--config", str(file), *flags.split()]) == dataclasses.replace(
        TRAIN,
        standardize=False,
        binary=False,
        hidden=(9,),
        resume=False,
        overwrite=True,
        weights=None,
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--epochs many", r"--epochs.*'many'"),
        ("--hidden many", r"--hidden.*'many'"),
        ("--learning_rates 1", r"--learning-rate"),
        # What --dtype was called before.
        ("--storage float16", r"Unrecognized options: --storage"),
    ],
)
def test_wrong_flags_are_one_line(flags: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(TrainConfig, ["--features=table", "--model=pets", *flags.split()])
    assert str(caught.value).endswith("; see --help")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        ("--recipe pie", "none, keras-blog, vgg16-mlp"),
        ("--head convolution", "mlp, linear"),
        ("--optimizer adagrad", "adam, rmsprop, sgd"),
        ("--schedule step", "constant, cosine, exponential"),
        ("--dtype int8", "auto, float32, float16, bfloat16"),
    ],
)
def test_unknown_words_are_one_line_that_lists_the_allowed(flags: str, allowed: str) -> None:
    flag, word = flags.split()
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, ["--features=table", "--model=pets", flag, word])
    assert str(caught.value) == f"{flag} {word!r} is not allowed; give {allowed}"


# Documentation


@pytest.mark.parametrize("config_type", [TrainConfig, PredictConfig])
def test_every_field_is_documented_and_explained_by_help(
    config_type: type[Config], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = documents_of(config_type)
    assert set(documents) == set(field_names(config_type))
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        parse(config_type, ["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    text = re.sub(r"\s+", "", " ".join(line.strip("│ ") for line in printed.splitlines()))
    for name, document in documents.items():
        assert flag_of(name) in text
        assert re.sub(r"\s+", "", document) in text, name


@pytest.mark.parametrize(
    ("config_type", "name", "unit"),
    [
        (TrainConfig, "validation_fraction", "Share"),
        (TrainConfig, "hidden", "Units"),
        (TrainConfig, "dropout", "Share"),
        (TrainConfig, "epochs", "Passes"),
        (TrainConfig, "batch_size", "Rows"),
        (TrainConfig, "patience", "Epochs"),
        (TrainConfig, "gpus_per_worker", "GPUs"),
        (TrainConfig, "cpus_per_worker", "CPUs"),
        (TrainConfig, "memory_gb", "gigabytes"),
        (TrainConfig, "as_of", "ISO 8601"),
        (PredictConfig, "top", "labels"),
        (PredictConfig, "max_pixels", "pixels"),
        (PredictConfig, "max_image_mb", "megabytes"),
        (PredictConfig, "gpus_per_actor", "GPUs"),
        (PredictConfig, "cpus_per_actor", "CPUs"),
        (PredictConfig, "batch_size", "Images"),
        (PredictConfig, "fetch_timeout_s", "Seconds"),
        (PredictConfig, "commit_every", "time"),
        (PredictConfig, "shard_mb", "megabytes"),
        (PredictConfig, "node_hour_price", "hour"),
    ],
)
def test_help_tells_the_unit(config_type: type[Config], name: str, unit: str) -> None:
    assert unit in documents_of(config_type)[name]
