"""Bootstrap samples and intervals: against resampling by hand, scikit-learn and textbook standard errors."""

import math
import tracemalloc

import numpy as np
import pytest
from helpers.statistics_data import two_classes
from sklearn.metrics import roc_auc_score

from lesioncli.evaluation.statistics import resampling
from lesioncli.evaluation.statistics.bootstrap import bootstrap_aucs, bootstrap_means, bootstrap_metrics, column_means
from lesioncli.evaluation.statistics.resampling import (
    Resampling,
    count_bootstrap_samples,
    joint_interval,
    percentile_interval,
)


def test_each_resampled_auc_is_that_of_the_rows_drawn() -> None:
    labels, scores = two_classes(60)
    drawn = np.random.default_rng(3).integers(60, size=(2000, 60))
    expected = [[roc_auc_score(labels[rows, k], scores[rows, k]) for k in (0, 1)] for rows in drawn[:40]]
    assert bootstrap_aucs(labels, scores, Resampling(3))[:40] == pytest.approx(np.array(expected), abs=1e-12)


def test_unknown_labels_do_not_count_in_the_aucs_of_their_class() -> None:
    labels, scores = two_classes(60)
    in_part = np.where(np.random.default_rng(2).random((60, 2)) < 0.2, np.nan, labels)
    drawn = np.random.default_rng(3).integers(60, size=(2000, 60))
    known = [[rows[~np.isnan(in_part[rows, k])] for k in (0, 1)] for rows in drawn[:40]]
    expected = [[roc_auc_score(labels[rows[k], k], scores[rows[k], k]) for k in (0, 1)] for rows in known]
    assert bootstrap_aucs(in_part, scores, Resampling(3))[:40] == pytest.approx(np.array(expected), abs=1e-12)
    metrics = bootstrap_metrics(in_part, scores, np.ones(60), Resampling(3))
    assert [metrics[k]["auc"][:40].tolist() for k in (0, 1)] == pytest.approx(np.array(expected).T, abs=1e-12)
    brier = [np.square(scores[rows[1], 1] - labels[rows[1], 1]).mean() for rows in known]
    assert metrics[1]["brier"][:40] == pytest.approx(brier)


def test_each_resampled_mean_is_that_of_the_rows_drawn() -> None:
    values = np.random.default_rng(1).random((50, 3))
    drawn = np.random.default_rng(3).integers(50, size=(2000, 50))
    assert bootstrap_means(values, Resampling(3)) == pytest.approx(values[drawn].mean(axis=1), abs=1e-12)


def test_means_ignore_nan() -> None:
    values = np.array([[1.0, math.nan, math.nan], [2.0, 5.0, math.nan], [6.0, 7.0, math.nan]])
    assert column_means(values) == pytest.approx([3, 6, math.nan], nan_ok=True)
    drawn = np.random.default_rng(3).integers(3, size=(2000, 3))
    for rows, means in zip(drawn[:50], bootstrap_means(values, Resampling(3))[:50], strict=True):
        known = values[rows, 1][~np.isnan(values[rows, 1])]
        second = known.mean() if known.size else math.nan
        assert means == pytest.approx([values[rows, 0].mean(), second, math.nan], nan_ok=True)


def test_the_block_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = two_classes(60)
    aucs, means = bootstrap_aucs(labels, scores, Resampling(0)), bootstrap_means(scores, Resampling(0))
    monkeypatch.setattr(resampling, "BLOCK_SIZE", 130)
    assert bootstrap_aucs(labels, scores, Resampling(0)) == pytest.approx(aucs, abs=1e-12, nan_ok=True)
    assert bootstrap_means(scores, Resampling(0)) == pytest.approx(means, abs=1e-12)


def test_the_seed_decides_the_samples() -> None:
    values = np.arange(20.0)[:, None]
    assert (bootstrap_means(values, Resampling(0)) == bootstrap_means(values, Resampling(0))).all()
    assert (bootstrap_means(values, Resampling(0)) != bootstrap_means(values, Resampling(1))).any()


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    values = np.random.default_rng(5).random((1000, 1))
    standard_error = values.std() / math.sqrt(1000)
    expected = values.mean() + np.array([-1.96, 1.96]) * standard_error
    interval = percentile_interval(bootstrap_means(values, Resampling(0))[:, 0])
    assert interval == pytest.approx(expected, abs=standard_error / 5)


def test_the_interval_of_an_auc_is_that_of_delong() -> None:
    labels, scores = two_classes(1000)
    positive, negative = scores[labels[:, 0], 0], scores[~labels[:, 0], 0]
    won = (positive[:, None] > negative) + (positive[:, None] == negative) / 2
    standard_error = math.sqrt(won.mean(1).var() / len(positive) + won.mean(0).var() / len(negative))
    expected = won.mean() + np.array([-1.96, 1.96]) * standard_error
    interval = percentile_interval(bootstrap_aucs(labels[:, :1], scores[:, :1], Resampling(0))[:, 0])
    assert interval == pytest.approx(expected, abs=standard_error / 5)


def test_samples_with_one_label_only_are_ignored_by_the_interval() -> None:
    labels = np.array([[True], [False], [False], [False], [False]])
    scores = np.array([[1.0], [0.1], [0.2], [0.3], [0.4]])
    resampled = bootstrap_aucs(labels, scores, Resampling(0))
    assert np.isnan(resampled).mean() == pytest.approx(0.8**5 + 0.2**5, abs=0.03)
    assert percentile_interval(resampled[:, 0]) == (1.0, 1.0)


def test_the_interval_is_the_middle_95_percent() -> None:
    assert percentile_interval(np.array([*np.arange(1001.0), math.nan])) == (25.0, 975.0)


def test_a_joint_interval_is_normal_where_no_percentile_exists() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2000)
    assert joint_interval(values, 1) == percentile_interval(values)
    assert joint_interval(values, 50) == percentile_interval(values, 0.999)
    assert joint_interval(values, 1000) == pytest.approx((3 - 2 * 4.06, 3 + 2 * 4.06), abs=0.3)  # 4.06: normal table
    assert all(math.isnan(end) for end in joint_interval(np.array([math.nan]), 3))


@pytest.mark.parametrize(("images", "expected"), [(10, 2000), (100_000, 2000), (400_000, 500), (5_000_000, 200)])
def test_very_many_images_have_fewer_bootstrap_samples(
    images: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert count_bootstrap_samples(images) == expected
    monkeypatch.setattr(resampling, "MAX_DRAWN_IMAGES", resampling.MAX_DRAWN_IMAGES // 1000)
    monkeypatch.setattr(resampling, "BLOCK_SIZE", 1)
    assert len(bootstrap_means(np.zeros((images // 1000 or 1, 1)), Resampling(0))) == expected


def test_memory_is_bounded() -> None:
    labels, scores = two_classes(2000)
    tracemalloc.start()
    bootstrap_aucs(labels, scores, Resampling(0))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 80e6  # 2000 samples of 2000 images in one block take 230 MB
