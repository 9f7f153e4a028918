"""How sure a figure is: percentile bootstraps over images, or over clusters of them, all from one seed.

The same images and the same seed give the same resamples, so that figures of one resample belong together. Where images
are of one patient or lesion they are no independent draws: whole clusters are drawn then, each with all its images
(Field and Welsh 2007, "Bootstrapping clustered data"). AUC is the area under the ROC curve with ties counted half
(Mann-Whitney).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
MAX_DRAWS = 200_000_000  # in all resamples together: about 5 s a class
DRAWS_AT_ONCE = 1_000_000  # 8 MB an array, about six of them live at a time
LEVEL = 0.95
AUC_MEAN = "auc_mean"  # the plain mean over the classes, by which ISIC-2017 Part 3 ranks

Parts = Sequence[NDArray[np.intp]]  # which of the images belong to each


class Draws(NamedTuple):
    """How N images are drawn: the seed, and the cluster that each is in (N,), from 0 on; None where each is alone."""

    seed: int
    clusters: NDArray[np.intp] | None = None

    def count(self, rows: NDArray[np.intp]) -> int:
        """How many clusters the images of these numbers are in."""
        return rows.size if self.clusters is None else np.unique(self.clusters[rows]).size

    def of_images(self, of_clusters: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is drawn for each cluster (R, C) as what it is for each image (R, N)."""
        return of_clusters if self.clusters is None else of_clusters[:, self.clusters]


@dataclass(frozen=True)
class Drawing:
    """How an evaluation draws: its seed, and the `column` that says by its values, `cluster_of`, whose each image is.

    An image that is not in `cluster_of` is drawn alone. Without a column all are.
    """

    seed: int = 0
    column: str = ""
    cluster_of: Mapping[str, str] = field(default_factory=dict)

    def of(self, images: Sequence[str]) -> Draws:
        """For these images, in their order."""
        if not self.column:
            return Draws(self.seed)
        names = [("cluster", self.cluster_of[each]) if each in self.cluster_of else ("image", each) for each in images]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return Draws(self.seed, np.array([numbers[name] for name in names], np.intp))


def auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve of scores (N,) for labels (N,).

    nan where only one label occurs, and where a score is nan: sorting would quietly rank it above all others.
    """
    if not labels.size or np.isnan(scores).any():
        return math.nan
    return float(_weighted_auc(_rank(labels, scores), np.ones((1, labels.size)))[0])


class _Ranking(NamedTuple):
    """Labels and scores (N,), sorted by score once for all the resamples that follow."""

    order: NDArray[np.intp]  # (N,) where each sorted row came from
    positives: NDArray[np.float64]  # (N,) sorted labels, 0 or 1
    tie_starts: NDArray[np.intp]  # (G,) where each run of equal scores begins


def _rank(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> _Ranking:
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    tie_starts = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))
    return _Ranking(order, labels[order].astype(np.float64), tie_starts)


def _weighted_auc(ranking: _Ranking, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC (R,) when rows count as often as each line of weights (R, N) says; nan where one label has no weight."""
    weights = weights[:, ranking.order]
    positives = np.add.reduceat(weights * ranking.positives, ranking.tie_starts, axis=1)
    negatives = np.add.reduceat(weights, ranking.tie_starts, axis=1) - positives
    below = np.cumsum(negatives, axis=1) - negatives / 2  # a tie counts half
    won = (positives * below).sum(axis=1)
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)


def bootstrap_means(values: NDArray[np.float64], draws: Draws) -> NDArray[np.float64]:
    """Means (R, M) of R resamples of the N images in values (N, M); N > 0. A nan is left out of its column's mean."""
    return bootstrap_means_of_parts(values, [np.arange(len(values))], draws)[:, 0]


def bootstrap_means_of_parts(values: NDArray[np.float64], parts: Parts, draws: Draws) -> NDArray[np.float64]:
    """The same (R, P, M) of P parts of the images, all from the same resamples of the N."""
    known = ~np.isnan(values)
    filled, counted = np.where(known, values, 0), known.astype(np.float64)

    def of_parts(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(
            [_ratio(weights[:, each] @ filled[each], weights[:, each] @ counted[each]) for each in parts], 1
        )

    return np.concatenate([of_parts(weights) for weights in resamples(len(values), draws)])


def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (M,) of each column of values (N, M); a nan is left out, and a column of nothing else has no mean."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def _ratio(sums: NDArray[np.float64], counts: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def bootstrap_aucs(labels: NDArray[np.bool_], scores: NDArray[np.float64], draws: Draws) -> NDArray[np.float64]:
    """AUCs (R, K) of R resamples of the N images in labels and scores (N, K); N > 0, no score is nan.

    All K columns see the same resamples, so their mean per resample is right. nan where a resample has one label only.
    """
    return bootstrap_aucs_of_parts(labels, scores, [np.arange(len(labels))], draws)[:, 0]


def bootstrap_aucs_of_parts(
    labels: NDArray[np.bool_], scores: NDArray[np.float64], parts: Parts, draws: Draws
) -> NDArray[np.float64]:
    """The same (R, P, K) of P parts of the images, none empty, all from the same resamples of the N."""
    rankings = [[_rank(*columns) for columns in zip(labels[each].T, scores[each].T, strict=True)] for each in parts]

    def of_parts(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = zip(parts, rankings, strict=True)
        return np.stack(
            [np.stack([_weighted_auc(each, weights[:, part]) for each in ranked], 1) for part, ranked in pairs], 1
        )

    return np.concatenate([of_parts(weights) for weights in resamples(len(labels), draws)])


def percentile_interval(resampled: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The middle of resampled values (R,), 95 % of them unless told; a nan is left out, and nan is all of nothing."""
    known = resampled[~np.isnan(resampled)]
    if not known.size:
        return math.nan, math.nan
    tail = round(50 * (1 - level), 9)  # 2.5 of 95 %, whatever floating point makes of it
    low, high = np.percentile(known, (tail, 100 - tail))
    return float(low), float(high)


def joint_interval(resampled: NDArray[np.float64], intervals: int) -> tuple[float, float]:
    """One of so many `intervals` that all of them together hold their figures at LEVEL (Bonferroni).

    Where its tails are less than one resample, it is the normal interval of the same spread: there is no percentile.
    """
    level = 1 - (1 - LEVEL) / intervals
    known = resampled[~np.isnan(resampled)]
    if not known.size or known.size * (1 - level) / 2 >= 1:
        return percentile_interval(known, level)
    middle, reach = known.mean(), NormalDist().inv_cdf((1 + level) / 2) * known.std()
    return float(middle - reach), float(middle + reach)


def count_resamples(images: int) -> int:
    """RESAMPLES; fewer above 100,000 images, down to 200, where an interval is so narrow that its ends need no more."""
    return min(RESAMPLES, max(200, MAX_DRAWS // max(1, images)))


def resamples(images: int, draws: Draws) -> Iterator[NDArray[np.float64]]:
    """Blocks (R, images): how often each image is drawn in each of R resamples; count_resamples() rows in all."""
    rng = np.random.default_rng(draws.seed)
    wanted = count_resamples(images)
    rows_at_once = max(1, DRAWS_AT_ONCE // images)
    clusters = draws.count(np.arange(images))
    for done in range(0, wanted, rows_at_once):
        rows = min(rows_at_once, wanted - done)
        drawn = rng.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield draws.of_images(np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64))
