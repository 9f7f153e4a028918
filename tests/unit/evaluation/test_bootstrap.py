"""bootstrap.py: by hand, scikit-learn, textbook standard errors."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from lesioncli.evaluation.statistics import bootstrap
from lesioncli.evaluation.statistics.bootstrap import Draws, auc, bootstrap_aucs, bootstrap_means, joint_interval
from lesioncli.evaluation.statistics.bootstrap import percentile_interval as interval

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 1),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], 3 / 4),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 1 / 2),
        ([0, 1, 0, 1], [0.1, 0.1, 0.3, 0.4], 5 / 8),  # pairs won: 1/2 + 0 + 1 + 1, of 4
    ],
)
def test_auc_by_hand(labels: list[int], scores: list[float], expected: float) -> None:
    assert auc(np.array(labels, bool), np.array(scores)) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])), min_size=1, max_size=40))
def test_auc_is_that_of_scikit_learn_ties_included(rows: list[tuple[bool, float]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    if labels.all() or not labels.any():
        assert math.isnan(auc(labels, scores))
    else:
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("labels", [[], [False], [True, True]])
def test_auc_of_one_label_is_nan(labels: list[bool]) -> None:
    assert math.isnan(auc(np.array(labels, bool), np.linspace(0, 1, len(labels))))


def test_auc_of_a_nan_score_is_nan() -> None:
    assert math.isnan(auc(np.array([False, True, True]), np.array([0.1, 0.2, math.nan])))


def made_up(images: int) -> tuple[Bools, Floats]:
    """Labels and scores (images, 2), the second class rarer and told apart better; scores have ties."""
    rng = np.random.default_rng(7)
    labels = rng.random((images, 2)) < (0.3, 0.15)
    scores = rng.normal(0.4 + labels * (0.15, 0.3), 0.2)
    return labels, np.asarray(scores.clip(0, 1).round(2), np.float64)


def test_each_resampled_auc_is_that_of_the_rows_drawn() -> None:
    labels, scores = made_up(60)
    drawn = np.random.default_rng(3).integers(60, size=(2000, 60))
    theirs = [[roc_auc_score(labels[rows, k], scores[rows, k]) for k in (0, 1)] for rows in drawn[:40]]
    assert bootstrap_aucs(labels, scores, Draws(3))[:40] == pytest.approx(np.array(theirs), abs=1e-12)


def test_each_resampled_mean_is_that_of_the_rows_drawn() -> None:
    values = np.random.default_rng(1).random((50, 3))
    drawn = np.random.default_rng(3).integers(50, size=(2000, 50))
    assert bootstrap_means(values, Draws(3)) == pytest.approx(values[drawn].mean(axis=1), abs=1e-12)


def test_a_nan_is_left_out_of_its_columns_mean() -> None:
    values = np.array([[1.0, math.nan, math.nan], [2.0, 5.0, math.nan], [6.0, 7.0, math.nan]])
    assert bootstrap.means(values) == pytest.approx([3, 6, math.nan], nan_ok=True)
    drawn = np.random.default_rng(3).integers(3, size=(2000, 3))
    resampled = bootstrap_means(values, Draws(3))
    for rows, found in zip(drawn[:50], resampled[:50], strict=True):
        known = values[rows, 1][~np.isnan(values[rows, 1])]
        assert found == pytest.approx(
            [values[rows, 0].mean(), known.mean() if known.size else math.nan, math.nan], nan_ok=True
        )


def test_the_size_of_a_block_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = made_up(60)
    at_once = bootstrap_aucs(labels, scores, Draws(0)), bootstrap_means(scores, Draws(0))
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 130)
    assert bootstrap_aucs(labels, scores, Draws(0)) == pytest.approx(at_once[0], abs=1e-12, nan_ok=True)
    assert bootstrap_means(scores, Draws(0)) == pytest.approx(at_once[1], abs=1e-12)


def test_another_seed_draws_otherwise() -> None:
    values = np.arange(20.0)[:, None]
    assert (bootstrap_means(values, Draws(0)) == bootstrap_means(values, Draws(0))).all()
    assert (bootstrap_means(values, Draws(0)) != bootstrap_means(values, Draws(1))).any()


def test_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    values = np.random.default_rng(5).random((1000, 1))
    low, high = interval(bootstrap_means(values, Draws(0))[:, 0])
    standard_error = values.std() / math.sqrt(1000)
    assert (low, high) == pytest.approx(
        values.mean() + np.array([-1.96, 1.96]) * standard_error, abs=standard_error / 5
    )


def test_interval_of_an_auc_is_that_of_delong() -> None:
    labels, scores = made_up(1000)
    positive, negative = scores[labels[:, 0], 0], scores[~labels[:, 0], 0]
    won = (positive[:, None] > negative) + (positive[:, None] == negative) / 2
    standard_error = math.sqrt(won.mean(1).var() / len(positive) + won.mean(0).var() / len(negative))
    low, high = interval(bootstrap_aucs(labels, scores, Draws(0))[:, 0])
    assert (low, high) == pytest.approx(won.mean() + np.array([-1.96, 1.96]) * standard_error, abs=standard_error / 5)


def test_resamples_without_a_positive_are_left_out_of_the_interval() -> None:
    labels, scores = (
        np.array([[True], [False], [False], [False], [False]]),
        np.array([[1.0], [0.1], [0.2], [0.3], [0.4]]),
    )
    resampled = bootstrap_aucs(labels, scores, Draws(0))
    assert np.isnan(resampled).mean() == pytest.approx(0.8**5 + 0.2**5, abs=0.03)
    assert interval(resampled[:, 0]) == (1.0, 1.0)


def test_interval_is_the_middle_95_percent() -> None:
    assert interval(np.array([*np.arange(1001.0), math.nan])) == (25.0, 975.0)


def test_a_joint_interval_is_a_percentile_where_there_is_one_and_normal_beyond() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2000)
    assert joint_interval(values, 1) == interval(values)
    assert joint_interval(values, 50) == interval(values, 0.999)
    assert joint_interval(values, 1000) == pytest.approx((3 - 2 * 4.06, 3 + 2 * 4.06), abs=0.3)  # of a normal table
    assert all(math.isnan(end) for end in joint_interval(np.array([math.nan]), 3))


@pytest.mark.parametrize(("images", "expected"), [(10, 2000), (100_000, 2000), (400_000, 500), (5_000_000, 200)])
def test_very_many_images_are_resampled_less_often(images: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MAX_DRAWS", bootstrap.MAX_DRAWS // 1000)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 1)
    assert len(bootstrap_means(np.zeros((images // 1000 or 1, 1)), Draws(0))) == expected


def test_memory_stays_bounded() -> None:
    labels, scores = made_up(2000)
    tracemalloc.start()
    bootstrap_aucs(labels, scores, Draws(0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80e6  # 2000 resamples of 2000 images in one piece take 230 MB
