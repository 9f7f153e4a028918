"""scores.py: figures by hand, by brute force over thresholds, and scikit-learn's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from lesioncli.evaluation.metrics.scores import (
    balanced_accuracy,
    bootstrap_metrics,
    class_metrics,
    confusion_matrix,
    count_scores,
    resampled_metrics,
    roc_curve,
)
from lesioncli.evaluation.statistics.bootstrap import Draws

Labels = NDArray[np.bool_]
Floats = NDArray[np.float64]
ROWS = st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.sampled_from([0.0, 0.5, 1.0, 3.0]))


def columns(rows: list[tuple[bool, float, float]]) -> tuple[Labels, Floats, Floats]:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    return labels.astype(bool), scores, weights


def even(labels: list[int], scores: list[float]) -> dict[str, float]:
    return class_metrics(np.array(labels, bool), np.array(scores), np.ones(len(labels)))


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_figures_are_those_of_scikit_learn_ties_and_weights_included(rows: list[tuple[bool, float, float]]) -> None:
    labels, scores, weights = columns(rows)
    mine = class_metrics(labels, scores, weights)
    if not (weights[labels].sum() and weights[~labels].sum()):
        assert math.isnan(mine["auc"])
        assert math.isnan(mine["ap"])
        assert math.isnan(mine["spec_at_sens_89"])
        return
    assert mine["auc"] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert mine["ap"] == pytest.approx(average_precision_score(labels, scores, sample_weight=weights), abs=1e-12)
    assert mine["brier"] == pytest.approx(brier_score_loss(labels, scores, sample_weight=weights), abs=1e-12)


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_operating_points_are_the_best_of_all_thresholds(rows: list[tuple[bool, float, float]]) -> None:
    labels, scores, weights = columns(rows)
    positive, negative = weights * labels, weights * ~labels
    if not (positive.sum() and negative.sum()):
        return
    called = [scores >= threshold for threshold in (*np.unique(scores), 2)]
    points = [(positive[each].sum() / positive.sum(), negative[~each].sum() / negative.sum()) for each in called]
    mine = class_metrics(labels, scores, weights)
    for percent in (80, 90, 95):
        best = max(sensitivity for sensitivity, specificity in points if specificity >= percent / 100 - 1e-9)
        assert mine[f"sens_at_spec_{percent}"] == pytest.approx(best)
    for percent in (82, 89, 95):
        best = max(specificity for sensitivity, specificity in points if sensitivity >= percent / 100 - 1e-9)
        assert mine[f"spec_at_sens_{percent}"] == pytest.approx(best)


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_exactly_the_specificity_or_sensitivity_asked_for_is_enough(weight: float) -> None:
    # Two of 20 negatives are above the only positive; 5 of 100 positives are below the only negative.
    above = class_metrics(np.arange(21) == 18, np.arange(21) / 20, np.full(21, weight))
    below = class_metrics(np.arange(101) != 5, np.arange(101) / 100, np.full(101, weight))
    assert above["sens_at_spec_90"] == 1
    assert below["spec_at_sens_95"] == 1


def test_counts_by_hand_where_half_is_negative() -> None:
    labels, scores = np.array([1, 1, 0, 0, 1], bool), np.array([0.9, 0.5, 0.51, 0.1, 0.2])
    assert count_scores(labels, scores, np.array([1, 2, 4, 8, 16.0])) == (1, 4, 18, 8)


def test_area_above_a_sensitivity_by_hand() -> None:
    # The curve climbs to 1/2, goes right to 1/2, climbs to 1, goes right: .8 is reached at 1/2, and 1/2 wide at 1.
    assert even([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6])["auc_sens_80"] == pytest.approx(0.5)


def test_calibration_error_by_hand() -> None:
    # The bins are 1/15 wide: .01 and .05 share the first, whose mean score is .03 where half are positive.
    assert even([0, 1, 1], [0.01, 0.05, 1.0])["calibration_error"] == pytest.approx(2 / 3 * (0.5 - 0.03))
    assert even([0, 1], [0.01, 0.99])["calibration_error"] == pytest.approx(0.01)
    assert even([0, 1], [0.06, 0.07])["calibration_error"] == pytest.approx((0.06 + 0.93) / 2)
    assert even([0, 1], [0.92, 0.94])["calibration_error"] == pytest.approx((0.92 + 0.06) / 2)


def test_brier_by_hand() -> None:
    assert even([1, 0], [0.7, 0.4])["brier"] == pytest.approx((0.09 + 0.16) / 2)


def test_without_weight_there_are_no_figures() -> None:
    figures = class_metrics(np.array([True, False]), np.array([0.9, 0.1]), np.zeros(2))
    assert {name for name, value in figures.items() if not math.isnan(value)} == {
        "sensitivity", "specificity", "dice", "ppv", "npv",
    }  # fmt: skip


def test_a_nan_score_has_no_curve() -> None:
    assert roc_curve(np.array([True, False, True]), np.array([0.9, 0.1, math.nan]), np.ones(3)) is None


def test_balanced_accuracy_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.4, 0.4, 0.1], [0.9, 0.0, 0.1]])
    # 1 of 2, and 1 of 2 since a tie is no answer; the last row belongs to no class, and no row to the third.
    assert balanced_accuracy(labels, scores, np.ones(5)) == 0.5
    assert balanced_accuracy(labels, scores, np.array([3, 1, 1, 0, 1.0])) == (3 / 4 + 1) / 2
    assert math.isnan(balanced_accuracy(labels, scores, np.array([0, 0, 0, 0, 1.0])))


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=20), st.integers(0, 9))
def test_resamples_at_once_are_each_by_itself(rows: list[tuple[bool, float, float]], seed: int) -> None:
    labels, scores, _ = columns(rows)
    weights = np.random.default_rng(seed).integers(0, 3, (5, len(rows))).astype(float)
    at_once = resampled_metrics(labels, scores, weights)
    for row, each in enumerate(weights):
        alone = class_metrics(labels, scores, each)
        assert {name: values[row] for name, values in at_once.items()} == pytest.approx(alone, abs=1e-12, nan_ok=True)


def test_resampled_metrics_are_weighted_by_what_an_image_weighs() -> None:
    rng = np.random.default_rng(0)
    labels, scores, weights = rng.random((30, 2)) < 0.4, rng.random((30, 2)), rng.random(30)
    drawn = np.random.default_rng(5).integers(30, size=(2000, 30))
    found = bootstrap_metrics(labels, scores, weights, Draws(5))
    for row in range(20):
        alone = class_metrics(labels[drawn[row], 1], scores[drawn[row], 1], weights[drawn[row]])
        assert {name: values[row] for name, values in found[1].items()} == pytest.approx(alone, abs=1e-9, nan_ok=True)


def test_confusion_matrix_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    scores = np.array([[0.5, 0.2, 0.1], [0.1, 0.2, 0.3], [0.4, 0.4, 0.1], [0.1, 0.2, 0.3]])
    assert confusion_matrix(labels, scores).tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
