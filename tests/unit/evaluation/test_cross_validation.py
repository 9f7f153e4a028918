"""Cross-validation: folds, maps that never saw their image, and metrics before and after."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.scores import brier
from lesioncli.evaluation.statistics.cross_validation import (
    FOLDS,
    Map,
    compare_values,
    cross_validate,
    make_folds,
)
from lesioncli.evaluation.statistics.resampling import Resampling

Floats = NDArray[np.float64]


def test_every_fold_has_its_share_of_positives() -> None:
    labels = np.zeros(103)
    labels[:20] = 1
    folds = make_folds(labels, Resampling(0))
    assert np.bincount(folds).tolist() == [21, 21, 21, 20, 20]
    assert np.bincount(folds[:20]).tolist() == [4] * FOLDS
    assert (folds != make_folds(labels, Resampling(1))).any()


def test_clusters_are_not_divided() -> None:
    clusters = np.random.default_rng(0).integers(30, size=200)
    folds = make_folds(np.random.default_rng(1).random(200), Resampling(0, clusters.astype(np.intp)))
    assert all(np.unique(folds[clusters == cluster]).size == 1 for cluster in np.unique(clusters))
    assert np.unique(folds).size == FOLDS


def test_no_image_is_mapped_by_a_fit_that_saw_it() -> None:
    values = np.arange(50, dtype=np.float64)
    folds = make_folds(values, Resampling(0))
    seen: list[set[float]] = []

    def fit(targets: Floats, some_values: Floats) -> Map:
        assert targets.tolist() == some_values.tolist()
        seen.append(set(some_values.tolist()))
        known = seen[-1]
        return lambda value: float(value in known)

    mapped = cross_validate(values, values, fit, folds)
    assert mapped is not None
    assert not mapped.any()
    assert len(seen) == FOLDS
    assert set.union(*seen) == set(values.tolist())


def test_one_failing_fit_is_enough() -> None:
    answers: list[Callable[[float], float] | None] = [abs, abs, None, abs, abs]
    values = np.arange(10.0)
    assert cross_validate(values, values, lambda _, __: answers.pop(), np.arange(10) % FOLDS) is None


def test_metrics_before_and_after() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.3).astype(np.float64)
    before, after = rng.random(200), np.full(200, 0.3)
    change = compare_values(labels, before, after, {"brier": brier}, Resampling(0))["brier"]
    assert change.before == pytest.approx(np.square(before - labels).mean())
    assert change.after == pytest.approx(np.square(after - labels).mean())
    assert change.difference == pytest.approx(change.after - change.before)
    for low, high, value in (
        (*change.before_interval, change.before),
        (*change.after_interval, change.after),
        (*change.interval, change.difference),
    ):
        assert low < value < high
    same = compare_values(labels, before, before, {"brier": brier}, Resampling(0))["brier"]
    assert same.interval == (0, 0)  # paired
