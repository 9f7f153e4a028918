"""Comparison of two sets of predictions: by hand, scipy's permutation test and bootstrap, DeLong's variance."""

import math
from dataclasses import astuple, replace
from statistics import NormalDist

import numpy as np
import pytest
from helpers.statistics_data import (
    Bools,
    Floats,
    labelled_scores,
    mask_metrics,
    numbered,
    predictions,
    two_classifiers,
)
from scipy.stats import bootstrap, permutation_test
from sklearn.metrics import roc_auc_score

from lesioncli.evaluation.cases import MaskMetrics
from lesioncli.evaluation.predictions import EvaluatedPredictions
from lesioncli.evaluation.statistics import comparison
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN
from lesioncli.evaluation.statistics.comparison import (
    SIGN_FLIPS,
    Comparison,
    Difference,
    compare_predictions,
    sign_flip_p_values,
)
from lesioncli.evaluation.statistics.resampling import Resampling, ResamplingPlan


def compare(ours: EvaluatedPredictions, other: EvaluatedPredictions, seed: int = 0) -> Comparison:
    return compare_predictions(ours, other, ("ours", "other"), ResamplingPlan(seed))


def compare_masks(ours: MaskMetrics, other: MaskMetrics, seed: int = 0) -> Comparison:
    return compare(predictions(ours), predictions(other), seed)


def compare_scores(labels: Bools, ours: Floats, other: Floats, seed: int = 0) -> Comparison:
    first, second = (predictions(labelled=labelled_scores(labels, scores)) for scores in (ours, other))
    return compare(first, second, seed)


def values(difference: Difference) -> tuple[float, float, float]:
    return difference.ours, difference.other, difference.difference


def test_pairs_by_hand() -> None:
    nan = math.nan
    ours = mask_metrics("abcd", jaccard=np.array([0.9, 0.5, 0.1, 0.7]), dice=np.array([1, 2, 3, nan]))
    other = mask_metrics("cdbx", jaccard=np.array([0.4, 0.8, 0.3, 0.9]), dice=np.array([1, 1, nan, 1]))
    found = compare_masks(ours, other)
    assert values(found.differences["jaccard"]) == pytest.approx((1.3 / 3, 1.5 / 3, -0.2 / 3))  # b, c and d
    assert found.differences["jaccard"].images == 3
    assert values(found.differences["dice"]) == (3, 1, 2)  # only c has both
    assert found.differences["dice"].images == 1
    assert found.per_image["b"]["jaccard"] == pytest.approx(0.2)
    assert list(found.per_image) == ["b", "c", "d"]
    assert (found.only_ours, found.only_other, found.other) == (("a",), ("x",), "other")


def test_scores_are_paired_by_image() -> None:
    labels, ours, other = two_classifiers(60)
    order = np.random.default_rng(0).permutation(60)[:50]
    names = [numbered(60)[row] for row in order]
    shuffled = predictions(labelled=labelled_scores(labels[order], other[order], names))
    found = compare(predictions(labelled=labelled_scores(labels, ours)), shuffled)
    rows = np.sort(order)
    expected = [[roc_auc_score(labels[rows, k], each[rows, k]) for k in (0, 1)] for each in (ours, other)]
    for k, name in enumerate(("mel", "sk")):
        first, second = expected[0][k], expected[1][k]
        assert values(found.differences[name]) == pytest.approx((first, second, first - second))
    mean_difference = sum(expected[0]) / 2 - sum(expected[1]) / 2
    assert found.differences[AUC_MEAN].difference == pytest.approx(mean_difference)
    assert (found.differences["mel"].images, len(found.only_ours), found.only_other) == (50, 10, ())


def test_unknown_labels_do_not_count_in_differences() -> None:
    labels, ours, other = two_classifiers(60)
    in_part = labels.astype(np.float64)
    in_part[:20, 0] = np.nan
    first, second = (
        predictions(labelled=replace(labelled_scores(labels, scores), labels=in_part)) for scores in (ours, other)
    )
    found = compare(first, second).differences
    assert [found[name].images for name in ("mel", "sk", AUC_MEAN)] == [40, 60, 60]
    expected = [roc_auc_score(labels[20:, 0], scores[20:, 0]) for scores in (ours, other)]
    assert [found["mel"].ours, found["mel"].other] == pytest.approx(expected)
    in_part[:, 0] = np.nan
    assert list(compare(first, second).differences) == ["sk"]


def test_the_same_predictions_do_not_differ() -> None:
    labels, scores, _ = two_classifiers(40)
    jaccard, dice = np.random.default_rng(0).random((2, 40))
    both = predictions(mask_metrics(jaccard=jaccard, dice=dice), labelled_scores(labels, scores))
    found = compare(both, both).differences
    assert set(found) == {"jaccard", "dice", "mel", "sk", AUC_MEAN}
    assert {astuple(each)[2:6] for each in found.values()} == {(0, 0, 0, 1)}


def test_without_common_images_there_are_no_differences() -> None:
    first, second = (mask_metrics([name], jaccard=np.ones(1)) for name in "ab")
    assert compare_masks(first, second).differences == {}


# p-values


@pytest.mark.parametrize("shift", [0, 0.02, 0.05])
def test_sign_flip_p_values_are_those_of_scipy(shift: float) -> None:
    paired = np.random.default_rng(4).normal(shift, 0.2, 150)
    expected = permutation_test(
        (paired, np.zeros(150)), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=9999, rng=0
    )
    assert sign_flip_p_values(paired[:, None], Resampling(0))[0] == pytest.approx(expected.pvalue, abs=0.015)


def test_sign_flip_p_values_by_hand() -> None:
    # Of 8 ways to give signs to 1, 2 and 4, two have a sum of at least 7; of 4 ways for 3 and 1, all have at least 2.
    paired = np.array([[1.0, 3, 0, math.nan], [2, -1, 0, 2], [4, math.nan, 0, math.nan]])
    assert sign_flip_p_values(paired, Resampling(0)) == pytest.approx([1 / 4, 1, 1, 1], abs=0.015)


def test_no_p_value_is_zero() -> None:
    assert sign_flip_p_values(np.ones((200, 1)), Resampling(0)) == [1 / (SIGN_FLIPS + 1)]
    labels = np.array([[True]] * 40 + [[False]] * 40)
    found = compare_scores(labels, labels.astype(float), 1 - labels.astype(float))
    assert found.differences["mel"].p_value == pytest.approx(2 / 2001)


def test_the_block_size_does_not_change_a_p_value(monkeypatch: pytest.MonkeyPatch) -> None:
    paired = np.random.default_rng(4).normal(0.02, 0.2, (50, 2))
    at_once = sign_flip_p_values(paired, Resampling(0))
    monkeypatch.setattr(comparison, "BLOCK_SIZE", 1200)
    assert sign_flip_p_values(paired, Resampling(0)) == pytest.approx(at_once, abs=0.01)


# Intervals


def test_the_interval_of_a_paired_mean_is_that_of_scipy() -> None:
    rng = np.random.default_rng(2)
    ours, other = rng.beta(8, 2, 200), rng.beta(7, 2, 200)
    found = compare_masks(mask_metrics(jaccard=ours), mask_metrics(jaccard=other)).differences["jaccard"]
    expected = bootstrap((ours - other,), np.mean, n_resamples=4000, method="percentile", rng=0)
    tolerance = expected.standard_error / 4
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=tolerance)


def placements(labels: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """Return DeLong et al. 1988's structural components: the AUC of each positive and of each negative image."""
    won = (scores[labels][:, None] > scores[~labels]) + (scores[labels][:, None] == scores[~labels]) / 2
    return won.mean(axis=1), won.mean(axis=0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_interval_and_p_value_of_an_auc_difference_are_those_of_delong(seed: int) -> None:
    labels, ours, other = two_classifiers(400, seed)
    found = compare_scores(labels[:, :1], ours[:, :1], other[:, :1]).differences["mel"]
    (a, b), (c, d) = (placements(labels[:, 0], each[:, 0]) for each in (ours, other))
    error = math.sqrt((a - c).var(ddof=1) / a.size + (b - d).var(ddof=1) / b.size)
    expected = (found.difference - 1.96 * error, found.difference + 1.96 * error)
    assert (found.low, found.high) == pytest.approx(expected, abs=error / 3)
    assert found.p_value == pytest.approx(2 * NormalDist().cdf(-abs(found.difference) / error), abs=0.05)


def test_interval_and_p_value_of_an_auc_difference_agree() -> None:
    for seed in range(12):
        found = compare_scores(*two_classifiers(80, seed), seed=seed).differences[AUC_MEAN]
        if abs(found.p_value - 0.05) > 0.005:
            assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_an_undefined_auc_has_no_difference() -> None:
    labels = np.array([[True], [True]])
    found = compare_scores(labels, np.array([[0.1], [0.2]]), np.array([[0.3], [0.1]])).differences["mel"]
    assert all(math.isnan(value) for value in astuple(found)[:6])


def test_intervals_cover_the_true_difference_as_often_as_they_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw 300 samples of 150 pairs with a known mean difference: 95 % of the intervals should contain it."""
    monkeypatch.setattr(comparison, "SIGN_FLIPS", 1000)  # p-values are not used here
    expected = 8 / 10 - 7 / 10
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ours, other = rng.beta(8, 2, 150), rng.beta(7, 3, 150)
        found = compare_masks(mask_metrics(jaccard=ours), mask_metrics(jaccard=other), seed).differences["jaccard"]
        covered += found.low <= expected <= found.high
    assert 276 <= covered <= 296  # mean 285, standard deviation 3.8
