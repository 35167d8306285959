"""Figures of a classifier: against hand-made small cases, closed forms and published values."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bottleneck.errors import ConfigError
from bottleneck.evaluation import evaluate as evaluation_evaluate
from bottleneck.evaluation.evaluate import evaluate
from bottleneck.evaluation.figures import printable
from bottleneck.evaluation.intervals import Interval, basic, percentile, resamples, wilson

LABELS = ("ant", "bee", "cat")
TRUTH = np.array([0, 0, 1, 2])
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.25, 0.25]], np.float64
)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(count: int, classes: int, *, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """A classifier that knows the true probabilities, so that it is calibrated."""
    generator = np.random.default_rng(5)
    probabilities = softmax(generator.normal(size=(count, classes)) * spread)
    truth = (generator.random((count, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return truth.clip(0, classes - 1), probabilities


# Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_as_published(hits: int, count: int, low: float, high: float) -> None:
    share = wilson(hits, count)
    assert share is not None
    assert share.value == hits / count
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_at_the_ends() -> None:
    all_right = wilson(20, 20)
    assert all_right is not None
    assert (all_right.value, all_right.high) == (1.0, 1.0)
    assert all_right.low == pytest.approx(1 - 0.1611, abs=5e-5)
    assert wilson(0, 0) is None


def test_intervals_contain_their_value() -> None:
    draws = np.array([0.5, 0.6, 0.7, np.nan])
    assert percentile(0.4, draws).low == 0.4
    assert percentile(0.9, draws).high == 0.9
    # The resamples lie 0.1 above the value, so the truth is expected 0.1 below it.
    mirrored = basic(0.5, np.array([0.6, 0.6]))
    assert (mirrored.low, mirrored.high) == (pytest.approx(0.4), 0.5)
    assert basic(0.05, np.array([0.3, 0.3])).low == 0.0


def test_resamples_draw_as_many_rows_as_there_are() -> None:
    counts = np.array([5, 0, 95])
    blocks = list(resamples(counts, np.random.default_rng(0)))
    draws = np.concatenate(blocks)
    assert draws.shape == (1_000, 3)
    assert set(draws.sum(axis=1)) == {100}
    assert draws[:, 0].mean() == pytest.approx(5, abs=0.3)
    assert draws[:, 0].std() == pytest.approx(np.sqrt(100 * 0.05 * 0.95), rel=0.1)


def test_figures_by_hand() -> None:
    found = evaluate(LABELS, TRUTH, PROBABILITIES)
    assert found.labels == LABELS
    assert found.count == 4
    assert found.accuracy == wilson(2, 4)
    assert found.top_k == {1: wilson(2, 4)}
    assert found.confusion.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert found.confusion.dtype == np.int64
    assert found.log_loss.value == pytest.approx(-np.log([0.7, 0.3, 0.8, 0.25]).mean())
    # Four bins of one row: |1 - 0.7|, |0 - 0.6|, |1 - 0.8|, |0 - 0.5|.
    assert found.calibration_error.value == pytest.approx((0.3 + 0.6 + 0.2 + 0.5) / 4)
    assert found.macro_precision.value == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found.macro_recall.value == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found.macro_f1.value == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    ant, bee, cat = found.per_class
    assert (ant.label, ant.support, ant.predicted) == ("ant", 2, 2)
    assert (ant.precision, ant.recall) == (wilson(1, 2), wilson(1, 2))
    assert (bee.precision, bee.recall) == (wilson(1, 2), wilson(1, 1))
    assert (cat.support, cat.predicted, cat.precision, cat.recall) == (1, 0, None, wilson(0, 1))
    values = [one.f1.value for one in found.per_class if one.f1]
    assert values == pytest.approx([1 / 2, 2 / 3, 0])
    assert [one.label for one in found.by_f1] == ["cat", "ant", "bee"]


def test_reliability_bins_by_hand() -> None:
    bins = evaluate(LABELS, TRUTH, PROBABILITIES).reliability
    assert len(bins) == 15
    # The upper end belongs to a bin: 0.6 = 9/15 and 0.8 = 12/15 are in the 9th and the 12th.
    assert [number for number, one in enumerate(bins, start=1) if one.count] == [8, 9, 11, 12]
    assert (bins[8].low, bins[8].high) == (8 / 15, 9 / 15)
    assert (bins[8].confidence, bins[8].accuracy) == (pytest.approx(0.6), wilson(0, 1))
    assert (bins[0].count, bins[0].confidence, bins[0].accuracy) == (0, None, None)


def test_top_k_counts_equal_probabilities_in_the_order_of_classes() -> None:
    probabilities = np.full((6, 6), 1 / 6)
    found = evaluate(list("abcdef"), np.arange(6), probabilities)
    assert {k: figure.value for k, figure in found.top_k.items()} == {1: 1 / 6, 3: 3 / 6, 5: 5 / 6}
    assert found.confusion[:, 0].tolist() == [1] * 6
    assert found.accuracy == found.top_k[1]


def test_an_impossible_true_class_costs_a_finite_loss() -> None:
    found = evaluate(("a", "b"), [1, 0], np.array([[1.0, 0.0], [1.0, 0.0]], np.float32))
    assert found.log_loss.value == pytest.approx(-np.log(2.0**-23) / 2)
    assert 0 <= found.log_loss.low < found.log_loss.high


def test_one_class() -> None:
    found = evaluate(("only",), [0, 0, 0], np.ones((3, 1), np.float32))
    assert found.top_k == {}
    assert found.accuracy == wilson(3, 3)
    assert found.confusion.tolist() == [[3]]
    for figure in (found.macro_precision, found.macro_recall, found.macro_f1):
        assert figure == Interval(1.0, 1.0, 1.0)
    for figure in (found.log_loss, found.calibration_error):
        assert figure == Interval(0.0, 0.0, 0.0)


def test_classes_without_rows_are_undefined_and_do_not_count() -> None:
    labels = ("seen", "never seen", "never seen nor predicted")
    found = evaluate(labels, [0, 0], [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    _, predicted, nothing = found.per_class
    assert (predicted.precision, predicted.recall, predicted.f1) == (wilson(0, 1), None, None)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
    assert found.macro_recall.value == 0.5
    assert found.macro_precision.value == 1.0
    assert [one.label for one in found.by_f1] == list(labels)


def test_intervals_agree_with_closed_forms() -> None:
    truth, probabilities = drawn(4_000, 2)
    found = evaluate(("a", "b"), truth, probabilities)
    losses = -np.log(probabilities[np.arange(4_000), truth])
    half = 1.96 * losses.std() / np.sqrt(4_000)
    assert found.log_loss.value == pytest.approx(losses.mean())
    assert found.log_loss.high - found.log_loss.value == pytest.approx(half, rel=0.15)
    assert found.log_loss.value - found.log_loss.low == pytest.approx(half, rel=0.15)
    shares = [one.recall.value for one in found.per_class if one.recall]
    variances = [
        share * (1 - share) / one.support
        for share, one in zip(shares, found.per_class, strict=True)
    ]
    half = 1.96 * np.sqrt(sum(variances)) / 2
    assert found.macro_recall.value == pytest.approx(np.mean(shares))
    assert (found.macro_recall.high - found.macro_recall.low) / 2 == pytest.approx(half, rel=0.15)


def test_calibration_error_tells_calibrated_from_overconfident() -> None:
    truth, probabilities = drawn(3_000, 4)
    calibrated = evaluate(list("abcd"), truth, probabilities).calibration_error
    sharpened = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)
    overconfident = evaluate(list("abcd"), truth, sharpened).calibration_error
    # A percentile interval would begin above the error itself.
    assert calibrated.low < 0.01 < calibrated.value < 0.03
    assert calibrated.high < 0.05 < overconfident.low


def test_equal_arguments_give_equal_figures() -> None:
    truth, probabilities = drawn(200, 5)
    first, again = (evaluate(list("abcde"), truth, probabilities).to_json() for _ in range(2))
    assert first == again
    other = evaluate(list("abcde"), truth, probabilities, seed=1)
    assert other.log_loss.low != first["log_loss"]["low"]
    assert other.log_loss.value == first["log_loss"]["value"]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, probabilities = drawn(100, 7)
    whole = evaluate(list("abcdefg"), truth, probabilities).to_json()
    monkeypatch.setattr(evaluation_evaluate, "_BLOCK_ELEMENTS", 3 * 7)
    assert evaluate(list("abcdefg"), truth, probabilities).to_json() == whole


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_probabilities_are_fine(dtype: type) -> None:
    truth, probabilities = drawn(300, 1_000)
    found = evaluate([str(number) for number in range(1_000)], truth, probabilities.astype(dtype))
    exact = evaluate([str(number) for number in range(1_000)], truth, probabilities)
    assert found.log_loss.value == pytest.approx(exact.log_loss.value, rel=1e-2)
    assert found.confusion.shape == (1_000, 1_000)


@pytest.mark.parametrize(
    ("labels", "truth", "probabilities", "message"),
    [
        ("ab", np.zeros(0, np.int64), np.zeros((0, 2)), r"0 rows; .* choose a split"),
        ("ab", [0.0], [[1.0, 0.0]], r"\(1,\) float64; pass \(N,\) integers"),
        ("ab", [[0]], [[1.0, 0.0]], r"\(1, 1\) int64; pass"),
        ("ab", [0], [[1.0, 0.0, 0.0]], r"shape \(1, 3\); .* must be \(1, 2\)"),
        ("ab", [0, 2], [[1.0, 0.0]] * 2, r"row 1 is 2; 2 labels allow 0…1"),
        ("ab", [0, -1], [[1.0, 0.0]] * 2, r"row 1 is -1"),
        ("ab", [0, 0], [[1.0, 0.0], [2.0, -1.0]], r"row 1 is not .* -1…2 and sum to 1; .* softmax"),
        ("ab", [0, 0], [[1.0, 0.0], [3.0, 4.0]], r"sum to 7"),
        ("ab", [0], [[np.nan, 0.0]], r"nan…nan and sum to nan; .* diverged"),
    ],
)
def test_what_cannot_be_evaluated(
    labels: str, truth: Any, probabilities: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(list(labels), truth, probabilities)


def test_json_has_plain_values() -> None:
    found = evaluate(("a", "b", "c"), [0, 0], [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(values) == [
        "labels", "count", "accuracy", "top_k", "log_loss", "calibration_error",
        "macro_precision", "macro_recall", "macro_f1", "per_class", "reliability", "confusion",
    ]  # fmt: skip
    assert values["labels"] == ["a", "b", "c"]
    assert values["accuracy"] == {
        "value": 0.5,
        "low": found.accuracy.low,
        "high": found.accuracy.high,
    }
    assert values["top_k"]["1"] == values["accuracy"]
    assert values["confusion"] == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert values["per_class"][2] == {
        "label": "c",
        "support": 0,
        "predicted": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }
    assert values["reliability"][0]["accuracy"] is None


def test_text_for_few_classes() -> None:
    lines = evaluate(LABELS, TRUTH, PROBABILITIES).to_text().splitlines()
    assert lines[:2] == ["  images             4", "  accuracy           50.0 % (15.0 – 85.0)"]
    assert lines[2].startswith("  log loss           0.793 (")
    assert lines[-4:] == [
        "  class   images  predicted  precision   recall       F1",
        "  cat          1          0          -    0.0 %    0.0 %",
        "  ant          2          2     50.0 %   50.0 %   50.0 %",
        "  bee          1          2     50.0 %  100.0 %   66.7 %",
    ]


def test_text_for_many_classes_with_hostile_names() -> None:
    labels = [f"\x1b[31m name\n{number} {'long' * 20}" for number in range(100)]
    truth, probabilities = drawn(500, 100)
    text = evaluate(labels, truth, probabilities).to_text()
    lines = text.splitlines()
    assert lines[-1] == "  … 80 more"
    assert "\x1b" not in text
    assert max(map(len, lines)) < 100
    shown = [line for line in lines if "name" in line]
    assert len(shown) == 20
    assert "  top-3 accuracy     " in text and "  top-5 accuracy     " in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("tabby  cat\n", "tabby cat"),
        ("a very long name", "a very lo…"),
        ("Häße 猫", "Häße 猫"),
        ("a\x1b\udcffb\u202e", "a\ufffd\ufffdb\ufffd"),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text, 10) == shown
