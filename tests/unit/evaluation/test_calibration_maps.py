"""Fits of a calibration: against scikit-learn, against maps that are known, and on degenerate values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from lesioncli.calibration import score_logit
from lesioncli.evaluation.statistics.calibration_maps import (
    BIN_IMAGES,
    MAX_BINS,
    fit_confidence,
    fit_platt,
    pool_adjacent_violators,
)

Floats = NDArray[np.float64]
UNIT = st.sampled_from([0.0, 0.1, 0.3, 0.31, 0.5, 0.8, 1.0])


def distorted_scores(images: int, slope: float, offset: float) -> tuple[NDArray[np.bool_], Floats]:
    """Return labels and scores whose probabilities are sigmoid(slope * logit + offset)."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, images)
    labels = rng.random(images) < 1 / (1 + np.exp(-slope * logits - offset))
    return labels, 1 / (1 + np.exp(-logits))


def test_platt_scaling_finds_a_known_distortion() -> None:
    scaling = fit_platt(*distorted_scores(20_000, 0.5, -1.0))
    assert scaling
    assert (scaling.slope, scaling.offset) == pytest.approx((0.5, -1.0), abs=0.05)
    assert scaling.images == 20_000


@pytest.mark.parametrize(("images", "slope", "offset"), [(40, 1, 0), (150, 0.3, -2), (400, 2, 1)])
def test_platt_scaling_equals_a_logistic_regression_of_smoothed_labels(
    images: int, slope: float, offset: float
) -> None:
    labels, scores = distorted_scores(images, slope, offset)
    scaling = fit_platt(labels, scores)
    assert scaling
    positives, negatives = int(labels.sum()), int((~labels).sum())
    assert scaling.prevalence == positives / images
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    logits = np.array([[score_logit(score)] for score in scores])
    regression = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(
        np.vstack([logits, logits]), np.repeat([1, 0], images), np.concatenate([targets, 1 - targets])
    )
    assert (scaling.slope, scaling.offset) == pytest.approx(
        (regression.coef_.item(), regression.intercept_.item()), abs=1e-4
    )


def test_separable_scores_give_a_finite_map() -> None:
    labels = np.arange(60) >= 40
    scaling = fit_platt(labels, np.where(labels, 0.999, 0.001))
    assert scaling
    assert scaling.apply(0.999) == pytest.approx(21 / 22, abs=1e-6)  # Platt's targets
    assert scaling.apply(0.001) == pytest.approx(1 / 42, abs=1e-6)


def test_scores_that_do_not_rank_the_labels_have_no_map() -> None:
    labels, scores = distorted_scores(500, 1, 0)
    assert fit_platt(labels, 1 - scores) is None
    assert fit_platt(labels, np.full(500, 0.3)) is None
    assert fit_platt(labels, np.where(labels, 0.0, 1.0)) is None


@settings(deadline=None)
@given(st.lists(st.tuples(UNIT, st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=40))
def test_pooling_equals_scikit_learn(rows: list[tuple[float, float]]) -> None:
    values, weights = np.array(rows).T
    expected = IsotonicRegression().fit_transform(np.arange(len(rows)), values, sample_weight=weights)
    np.testing.assert_allclose(pool_adjacent_violators(values, weights), expected, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=120))
def test_a_confidence_map_rises_whatever_the_values(rows: list[tuple[float, float]]) -> None:
    confidence, jaccard = np.array(rows).T
    fitted = fit_confidence(confidence, jaccard)  # which refuses knots that do not rise
    mapped = [fitted.apply(value) for value in np.linspace(0, 1, 101).tolist()]
    assert mapped == sorted(mapped)
    assert 0 <= mapped[0] <= mapped[-1] <= 1
    assert len(fitted.knots) <= MAX_BINS + 2


def test_knots_are_the_means_of_bins() -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(3 * BIN_IMAGES)
    confidence = np.repeat([0.7, 0.8, 0.9], BIN_IMAGES)[order]
    jaccard = np.repeat([0.5, 0.6, 0.8], BIN_IMAGES)[order]
    fitted = fit_confidence(confidence, jaccard)
    knots = np.array([(0, 0), (0.7, 0.5), (0.8, 0.6), (0.9, 0.8), (1, 0.9)])
    np.testing.assert_allclose(np.array(fitted.knots), knots)
    assert fitted.images == 3 * BIN_IMAGES


def test_bins_that_fall_are_pooled() -> None:
    confidence = np.repeat([0.7, 0.8, 0.9], BIN_IMAGES)
    fitted = fit_confidence(confidence, np.repeat([0.5, 0.8, 0.6], BIN_IMAGES))
    np.testing.assert_allclose(np.array(fitted.knots), [(0, 0), (0.7, 0.5), (0.85, 0.7), (1, 0.85)])


def test_images_beyond_the_outer_knots_keep_their_order() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.7, 0.99, 400)
    fitted = fit_confidence(confidence, np.clip(confidence - 0.15 + rng.normal(0, 0.05, 400), 0, 1))
    mapped = np.array([fitted.apply(value) for value in np.sort(confidence).tolist()])
    assert (np.diff(mapped) > 0).all()


def test_equal_confidences_have_their_mean_jaccard() -> None:
    fitted = fit_confidence(np.full(100, 0.9), np.linspace(0, 1, 100))
    assert fitted.apply(0.9) == pytest.approx(0.5)
