"""Score metrics against values by hand, brute force over thresholds, and scikit-learn."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation_data import write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.metrics.scores import (
    SCORE_METRICS,
    ClassScores,
    balanced_accuracy,
    brier,
    calibration_error,
    class_metrics,
    confusion_matrix,
    count_scores,
    resampled_metrics,
    roc_auc,
    roc_curve,
)
from lesioncli.evaluation.metrics.scores import log_loss as log_loss_of
from lesioncli.evaluation.statistics.bootstrap import bootstrap_metrics
from lesioncli.evaluation.statistics.resampling import Resampling
from lesioncli.options import EvaluationOptions

Labels = NDArray[np.bool_]
Floats = NDArray[np.float64]
ROWS = st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.sampled_from([0.0, 0.5, 1.0, 3.0]))


def columns(rows: list[tuple[bool, float, float]]) -> tuple[Labels, Floats, Floats]:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    return labels.astype(bool), scores, weights


def equally_weighted(labels: list[int], scores: list[float]) -> dict[str, float]:
    return class_metrics(np.array(labels, bool), np.array(scores), np.ones(len(labels)))


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_metrics_equal_scikit_learn_with_ties_and_weights(rows: list[tuple[bool, float, float]]) -> None:
    labels, scores, weights = columns(rows)
    ours = class_metrics(labels, scores, weights)
    if not (weights[labels].sum() and weights[~labels].sum()):
        assert math.isnan(ours["auc"])
        assert math.isnan(ours["ap"])
        assert math.isnan(ours["spec_at_sens_89"])
        return
    assert ours["auc"] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert roc_auc(labels, scores, weights) == ours["auc"]
    assert ours["ap"] == pytest.approx(average_precision_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert ours["brier"] == pytest.approx(brier_score_loss(labels, scores, sample_weight=weights), abs=1e-12)
    inside = np.clip(scores, 5e-6, 1 - 5e-6)
    assert ours["log_loss"] == pytest.approx(log_loss(labels, inside, sample_weight=weights), abs=1e-9)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_operating_points_are_the_best_over_all_thresholds(rows: list[tuple[bool, float, float]]) -> None:
    labels, scores, weights = columns(rows)
    positive, negative = weights * labels, weights * ~labels
    if not (positive.sum() and negative.sum()):
        return
    predictions = [scores >= threshold for threshold in (*np.unique(scores), 2)]
    points = [
        (positive[predicted].sum() / positive.sum(), negative[~predicted].sum() / negative.sum())
        for predicted in predictions
    ]
    ours = class_metrics(labels, scores, weights)
    for percent in (80, 90, 95):
        best = max(sensitivity for sensitivity, specificity in points if specificity >= percent / 100 - 1e-9)
        assert ours[f"sens_at_spec_{percent}"] == pytest.approx(best)
    for percent in (82, 89, 95):
        best = max(specificity for sensitivity, specificity in points if sensitivity >= percent / 100 - 1e-9)
        assert ours[f"spec_at_sens_{percent}"] == pytest.approx(best)


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_operating_points_include_the_exact_minimum(weight: float) -> None:
    # Two of 20 negatives are above the only positive; 5 of 100 positives are below the only negative.
    above = class_metrics(np.arange(21) == 18, np.arange(21) / 20, np.full(21, weight))
    below = class_metrics(np.arange(101) != 5, np.arange(101) / 100, np.full(101, weight))
    assert above["sens_at_spec_90"] == 1
    assert below["spec_at_sens_95"] == 1


def test_a_score_of_exactly_one_half_is_negative() -> None:
    labels, scores = np.array([1, 1, 0, 0, 1], bool), np.array([0.9, 0.5, 0.51, 0.1, 0.2])
    assert count_scores(labels, scores, np.array([1, 2, 4, 8, 16.0])) == (1, 4, 18, 8)


def test_auc_above_a_sensitivity_by_hand() -> None:
    # The curve climbs to 1/2, goes right to 1/2, climbs to 1, goes right: .8 is reached at 1/2, and 1/2 wide at 1.
    assert equally_weighted([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6])["auc_sens_80"] == pytest.approx(0.5)


def test_calibration_error_by_hand() -> None:
    # The bins are 1/15 wide: .01 and .05 share the first, whose mean score is .03 where half are positive.
    assert equally_weighted([0, 1, 1], [0.01, 0.05, 1.0])["calibration_error"] == pytest.approx(2 / 3 * (0.5 - 0.03))
    assert equally_weighted([0, 1], [0.01, 0.99])["calibration_error"] == pytest.approx(0.01)
    assert equally_weighted([0, 1], [0.06, 0.07])["calibration_error"] == pytest.approx((0.06 + 0.93) / 2)
    assert equally_weighted([0, 1], [0.92, 0.94])["calibration_error"] == pytest.approx((0.92 + 0.06) / 2)


def test_brier_by_hand() -> None:
    assert equally_weighted([1, 0], [0.7, 0.4])["brier"] == pytest.approx((0.09 + 0.16) / 2)


def test_zero_weights_leave_only_metrics_with_a_rule_for_zero_by_zero() -> None:
    metrics = class_metrics(np.array([True, False]), np.array([0.9, 0.1]), np.zeros(2))
    assert {name for name, value in metrics.items() if not math.isnan(value)} == {
        "sensitivity", "specificity", "dice", "ppv", "npv",
    }  # fmt: skip


def test_a_nan_score_has_no_roc_curve() -> None:
    assert roc_curve(np.array([True, False, True]), np.array([0.9, 0.1, math.nan]), np.ones(3)) is None


def test_balanced_accuracy_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.4, 0.4, 0.1], [0.9, 0.0, 0.1]])
    # 1 of 2, and 1 of 2 since a tie is wrong; the last row has no class, and the third class has no row.
    assert balanced_accuracy(labels, scores, np.ones(5)) == 0.5
    assert balanced_accuracy(labels, scores, np.array([3, 1, 1, 0, 1.0])) == (3 / 4 + 1) / 2
    assert math.isnan(balanced_accuracy(labels, scores, np.array([0, 0, 0, 0, 1.0])))


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=20), st.integers(0, 9))
def test_metrics_of_all_samples_equal_those_of_each_sample(rows: list[tuple[bool, float, float]], seed: int) -> None:
    labels, scores, _ = columns(rows)
    weights = np.random.default_rng(seed).integers(0, 3, (5, len(rows))).astype(float)
    together = resampled_metrics(labels, scores, weights)
    for row, sample in enumerate(weights):
        alone = class_metrics(labels, scores, sample)
        assert {name: values[row] for name, values in together.items()} == pytest.approx(alone, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("metric", [brier, calibration_error, log_loss_of])
def test_weights_need_no_axis_of_samples(metric: Callable[[Labels, Floats, Floats], Floats]) -> None:
    rng = np.random.default_rng(1)
    labels, scores, weights = rng.random(50) < 0.4, rng.random(50), rng.random(50)
    assert metric(labels, scores, weights) == pytest.approx(metric(labels, scores, weights[None])[0])


def test_bootstrap_samples_multiply_weights() -> None:
    rng = np.random.default_rng(0)
    labels, scores, weights = rng.random((30, 2)) < 0.4, rng.random((30, 2)), rng.random(30)
    indices = np.random.default_rng(5).integers(30, size=(2000, 30))
    resampled = bootstrap_metrics(labels, scores, weights, Resampling(5))
    for row in range(20):
        alone = class_metrics(labels[indices[row], 1], scores[indices[row], 1], weights[indices[row]])
        sample = {name: values[row] for name, values in resampled[1].items()}
        assert sample == pytest.approx(alone, abs=1e-9, nan_ok=True)


def test_confusion_matrix_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    scores = np.array([[0.5, 0.2, 0.1], [0.1, 0.2, 0.3], [0.4, 0.4, 0.1], [0.1, 0.2, 0.3]])
    assert confusion_matrix(labels, scores).tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_a_metric_in_the_table_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_score(scored: ClassScores) -> Floats:
        return np.asarray(scored.weights @ scored.scores / scored.weights.sum(axis=-1))

    monkeypatch.setitem(SCORE_METRICS, "mean_score", mean_score)
    labels = write_lines(tmp_path / "labels.csv", "image,melanoma", "a,1", "b,0", "c,0")
    scores = write_lines(tmp_path / "scores.csv", "image,melanoma", "a,.9", "b,.2", "c,.4")
    evaluation = evaluate(labels, tmp_path, EvaluationOptions(scores=scores))
    assert evaluation.scores.per_class["melanoma"]["mean_score"] == pytest.approx(0.5)
    low, high = evaluation.scores.per_class_intervals["melanoma"]["mean_score"]
    assert 0.2 <= low < 0.5 < high <= 0.9
    assert "mean_score" not in evaluation.official.score_document["per_category"]
