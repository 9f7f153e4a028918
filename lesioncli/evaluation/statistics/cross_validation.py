"""Cross-validation of a calibration: every image is mapped by a fit on other images, and metrics are compared.

Images of one cluster (a patient, a lesion) are always in the same fold.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.statistics.bootstrap import Floats
from lesioncli.evaluation.statistics.resampling import (
    Interval,
    Resampling,
    bootstrap_weights,
    percentile_interval,
)

FOLDS = 5

Map = Callable[[float], float]
Metric = Callable[[Floats, Floats, Floats], Floats]  # targets (N,), values (N,), weights (R, N) -> (R,)


@dataclass(frozen=True)
class Change:
    """A metric before and after, and the difference (after minus before), with 95 % intervals."""

    before: float
    after: float
    before_interval: Interval
    after_interval: Interval
    interval: Interval

    @property
    def difference(self) -> float:
        """Return after minus before."""
        return self.after - self.before


def make_folds(targets: Floats, resampling: Resampling) -> NDArray[np.intp]:
    """Return the fold (N,) of each image; folds have similar targets, and clusters are not divided."""
    numbers = np.arange(targets.size) if resampling.clusters is None else resampling.clusters
    clusters = np.unique(numbers)
    highest = np.array([targets[numbers == cluster].max() for cluster in clusters])
    random = np.random.default_rng(resampling.seed).random(clusters.size)
    ranks = np.empty(clusters.size, np.intp)
    ranks[np.lexsort((random, highest))] = np.arange(clusters.size)
    return np.asarray(ranks[np.searchsorted(clusters, numbers)] % FOLDS, np.intp)


def cross_validate(
    targets: Floats, values: Floats, fit: Callable[[Floats, Floats], Map | None], folds: NDArray[np.intp]
) -> Floats | None:
    """Return values (N,) mapped by fits on the other folds; None if one of the fits fails.

    `fit` takes targets and values of some images.
    """
    mapped = np.empty_like(values)
    for fold in np.unique(folds):
        inside = folds == fold
        fitted = fit(targets[~inside], values[~inside])
        if fitted is None:
            return None
        mapped[inside] = [fitted(value) for value in values[inside].tolist()]
    return mapped


def compare_values(
    targets: Floats, before: Floats, after: Floats, metrics: Mapping[str, Metric], resampling: Resampling
) -> dict[str, Change]:
    """Return the change of each metric from values `before` to `after` (N,), N > 0, with paired bootstrap intervals."""
    pair = (before, after)

    def measure(weights: Floats) -> Floats:
        return np.array([[metric(targets, values, weights) for values in pair] for metric in metrics.values()])

    found = measure(np.ones((1, targets.size)))[..., 0]  # (metrics, 2)
    blocks = [measure(weights) for weights in bootstrap_weights(targets.size, resampling)]
    resampled = np.concatenate(blocks, axis=2)  # (metrics, 2, samples)
    return {name: _change(*found[row], *resampled[row]) for row, name in enumerate(metrics)}


def _change(before: float, after: float, resampled_before: Floats, resampled_after: Floats) -> Change:
    samples = resampled_before, resampled_after, resampled_after - resampled_before
    return Change(float(before), float(after), *map(percentile_interval, samples))
