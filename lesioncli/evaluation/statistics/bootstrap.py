"""Bootstrap samples of means, of AUCs and of every metric of class scores.

All functions draw the same bootstrap samples for the same images and seed. Labels are nan where they are unknown; the
image then does not count in that class. R is the number of samples, N of images, M
of mask metrics, K of classes and P of subsets of the images.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.scores import SCORE_THRESHOLD, resampled_metrics, roc_auc
from lesioncli.evaluation.statistics.resampling import Resampling, bootstrap_weights

AUC_MEAN = "auc_mean"  # mean AUC of the classes, by which ISIC-2017 Part 3 ranks

Floats = NDArray[np.float64]
Subsets = Sequence[NDArray[np.intp]]  # row numbers of the images of each subset


def column_means(values: Floats) -> Floats:
    """Return the mean (M,) of each column of values (N, M) without its nan values; nan where there is no other."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def bootstrap_means(values: Floats, resampling: Resampling) -> Floats:
    """Return the column means (R, M) of values (N, M), N > 0, in each bootstrap sample; nan values are ignored."""
    return bootstrap_means_of_subsets(values, [np.arange(len(values))], resampling)[:, 0]


def bootstrap_means_of_subsets(values: Floats, subsets: Subsets, resampling: Resampling) -> Floats:
    """Return the column means (R, P, M) of P subsets of the rows of values (N, M).

    All N images are resampled together, so the means of one bootstrap sample can be compared across subsets.
    """
    known = ~np.isnan(values)
    filled, counted = np.where(known, values, 0), known.astype(np.float64)

    def subset_means(weights: Floats) -> Floats:
        return np.stack(
            [_ratio(weights[:, rows] @ filled[rows], weights[:, rows] @ counted[rows]) for rows in subsets], 1
        )

    return np.concatenate([subset_means(weights) for weights in bootstrap_weights(len(values), resampling)])


def _ratio(sums: Floats, counts: NDArray[Any]) -> Floats:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def bootstrap_aucs(labels: NDArray[Any], scores: Floats, resampling: Resampling) -> Floats:
    """Return the AUCs (R, K) of labels and scores (N, K), N > 0 and no score nan, in each bootstrap sample.

    All classes share the samples, so their mean in each sample is valid. nan where a sample has one label only.
    """
    return bootstrap_aucs_of_subsets(labels, scores, [np.arange(len(labels))], resampling)[:, 0]


def bootstrap_aucs_of_subsets(labels: NDArray[Any], scores: Floats, subsets: Subsets, resampling: Resampling) -> Floats:
    """Return the AUCs (R, P, K) of P subsets, none empty, of the rows of labels and scores (N, K).

    All N images are resampled together, so the AUCs of one bootstrap sample can be compared across subsets.
    """

    def subset_aucs(weights: Floats) -> Floats:
        return np.stack([_aucs(labels[rows], scores[rows], weights[:, rows]) for rows in subsets], 1)

    return np.concatenate([subset_aucs(weights) for weights in bootstrap_weights(len(labels), resampling)])


def _aucs(labels: NDArray[Any], scores: Floats, weights: Floats) -> Floats:
    """Return the AUC (R, K) of each class for weights (R, N)."""
    return np.stack([roc_auc(*columns, weights) for columns in zip(labels.T, scores.T, strict=True)], 1)


def bootstrap_metrics(
    labels: NDArray[Any],
    scores: Floats,
    weights: Floats,
    resampling: Resampling,
    threshold: float = SCORE_THRESHOLD,
) -> list[dict[str, Floats]]:
    """Return for each class of labels and scores (N, K), N > 0, every metric (R,) in each bootstrap sample.

    weights (N,) multiply how often an image occurs; a score above `threshold` is positive.
    """
    columns = list(zip(labels.T, scores.T, strict=True))
    blocks = [
        [resampled_metrics(*column, counts * weights, threshold) for column in columns]
        for counts in bootstrap_weights(len(labels), resampling)
    ]
    return [
        {name: np.concatenate([block[name] for block in class_blocks]) for name in class_blocks[0]}
        for class_blocks in zip(*blocks, strict=True)
    ]
