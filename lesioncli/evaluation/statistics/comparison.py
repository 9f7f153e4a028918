"""Compare two sets of predictions of the same images: paired differences, their intervals and p-values.

Both predictions of an image are resampled together. All p-values are two-sided and never zero.

References:
    Phipson and Smyth 2010, "Permutation p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9(1): the
    sign-flip test of a mean difference. If the two sets of predictions were equally good, the differences of each
    image, or of all images of a cluster, could as well have the opposite sign.
    Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 15.4: the p-value of an AUC difference, which
    is no mean of differences, is the level at which its bootstrap interval just touches zero.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.cases import MaskMetrics
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.scores import roc_auc
from lesioncli.evaluation.predictions import EvaluatedPredictions
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN, bootstrap_aucs, bootstrap_means, column_means
from lesioncli.evaluation.statistics.resampling import (
    BLOCK_SIZE,
    MAX_DRAWN_IMAGES,
    Resampling,
    ResamplingPlan,
    percentile_interval,
)

SIGN_FLIPS = 10_000

Floats = NDArray[np.float64]
CommonRows = tuple[list[int], list[int]]  # rows of the same images, in our table and in the other


@dataclass(frozen=True)
class Difference:
    """One metric of both predictions over the same images: ours minus the other's, its 95 % interval and p-value.

    `clusters` is the number of clusters of these images; it equals `images` where each is resampled alone.
    """

    ours: float
    other: float
    difference: float
    low: float
    high: float
    p_value: float
    images: int
    clusters: int


@dataclass(frozen=True)
class Comparison:
    """Result of compare_predictions().

    `name` and `other` name ours and the other predictions. `differences` has the mask metrics, the AUC of each class
    and AUC_MEAN. `per_image` has the differences of the mask metrics of each image with a mask in both. `only_ours` and
    `only_other` name the images that only one of the two could be evaluated for.
    """

    name: str
    other: str
    differences: Mapping[str, Difference]
    per_image: Mapping[str, Mapping[str, float]]
    only_ours: tuple[str, ...]
    only_other: tuple[str, ...]


def compare_predictions(
    ours: EvaluatedPredictions, other: EvaluatedPredictions, names: tuple[str, str], plan: ResamplingPlan
) -> Comparison:
    """Compare masks over the images with both masks, and scores over those with both scores."""
    masks = _common_rows(ours.masks.images, other.masks.images)
    scores = _common_rows(ours.labelled.ids, other.labelled.ids)
    return Comparison(
        name=names[0],
        other=names[1],
        differences={
            **_mask_differences(ours.masks, other.masks, masks, plan),
            **_auc_differences(ours.labelled, other.labelled, scores, plan),
        },
        per_image=_differences_per_image(ours.masks, other.masks, masks),
        only_ours=_only_in(ours, other),
        only_other=_only_in(other, ours),
    )


def _common_rows(ours: Sequence[str], other: Sequence[str]) -> CommonRows:
    """Return the rows of the images that are in both, in our order."""
    other_rows = {image: row for row, image in enumerate(other)}
    rows = [row for row, image in enumerate(ours) if image in other_rows]
    return rows, [other_rows[ours[row]] for row in rows]


def _differences_per_image(ours: MaskMetrics, other: MaskMetrics, rows: CommonRows) -> dict[str, dict[str, float]]:
    return {
        ours.images[row]: dict(zip(ours.names, (ours.values[row] - other.values[other_row]).tolist(), strict=True))
        for row, other_row in zip(*rows, strict=True)
    }


def _only_in(first: EvaluatedPredictions, second: EvaluatedPredictions) -> tuple[str, ...]:
    """Return the images whose mask, or scores, were evaluated in the first only."""
    masks = {*first.masks.images} - {*second.masks.images}
    scores = {*first.labelled.ids} - {*second.labelled.ids}
    return tuple(sorted(masks | scores))


def _mask_differences(
    ours: MaskMetrics, other: MaskMetrics, rows: CommonRows, plan: ResamplingPlan
) -> dict[str, Difference]:
    if not rows[0]:
        return {}
    values = np.stack([ours.values[rows[0]], other.values[rows[1]]])  # (2, N, M)
    values[np.broadcast_to(np.isnan(values).any(axis=0), values.shape)] = math.nan  # a pair needs both values
    paired = values[0] - values[1]
    resampling = plan.for_images([ours.images[row] for row in rows[0]])
    our_means, other_means, differences = (column_means(table).tolist() for table in (*values, paired))
    resampled = bootstrap_means(paired, resampling)
    p_values = sign_flip_p_values(paired, resampling)
    result: dict[str, Difference] = {}
    for column, name in enumerate(ours.names):
        known = np.flatnonzero(~np.isnan(paired[:, column]))
        if not known.size:
            continue
        low, high = percentile_interval(resampled[:, column])
        result[name] = Difference(
            our_means[column],
            other_means[column],
            differences[column],
            low,
            high,
            p_values[column],
            known.size,
            resampling.count_clusters(known),
        )
    return result


def sign_flip_p_values(paired: Floats, resampling: Resampling) -> list[float]:
    """Return the two-sided p-value (M,) of each mean of paired differences (N, M) by a sign-flip test.

    The differences of all images of a cluster change their sign together; nan values are ignored.
    """
    filled = np.where(np.isnan(paired), 0, paired)
    sums = np.abs(filled.sum(axis=0))
    tolerance = 1e-12 * np.abs(filled).sum(axis=0)  # of two equal sums one may round up
    at_least_as_large = np.zeros(len(sums))
    flips = 0
    for signs in _random_signs(len(filled), resampling):
        flips += len(signs)
        at_least_as_large += (np.abs(signs @ filled) >= sums - tolerance).sum(axis=0)
    return [float(p_value) for p_value in (at_least_as_large + 1) / (flips + 1)]


def _random_signs(images: int, resampling: Resampling) -> Iterator[Floats]:
    """Yield blocks (F, N) of 1 and -1; SIGN_FLIPS rows in all, and fewer, down to 1000, above 20,000 images."""
    rng = np.random.default_rng(resampling.seed)
    flips = min(SIGN_FLIPS, max(1000, MAX_DRAWN_IMAGES // images))
    block_rows = max(1, BLOCK_SIZE // images)
    clusters = resampling.count_clusters(np.arange(images))
    for start in range(0, flips, block_rows):
        bits = rng.integers(2, size=(min(block_rows, flips - start), clusters), dtype=np.int8)
        yield resampling.per_image(bits * np.float64(2) - 1)


def _auc_differences(
    ours: LabelledScores, other: LabelledScores, rows: CommonRows, plan: ResamplingPlan
) -> dict[str, Difference]:
    known = ~np.isnan(ours.labels[rows[0]])
    labelled = {name for name, is_known in zip(ours.classes, known.T, strict=True) if is_known.any()}
    names = [name for name in other.classes if name in labelled]
    labels, our_scores = ours.columns(rows[0], names)
    _, other_scores = other.columns(rows[1], names)
    if not labels.size:
        return {}
    resampling = plan.for_images([ours.ids[row] for row in rows[0]])
    resampled = bootstrap_aucs(labels, our_scores, resampling) - bootstrap_aucs(labels, other_scores, resampling)
    subsets = [*map(np.flatnonzero, ~np.isnan(labels).T), np.arange(len(labels))]
    counts = [(images.size, resampling.count_clusters(images)) for images in subsets]
    our_aucs = [float(roc_auc(*columns)) for columns in zip(labels.T, our_scores.T, strict=True)]
    other_aucs = [float(roc_auc(*columns)) for columns in zip(labels.T, other_scores.T, strict=True)]
    result = {
        name: _auc_difference(our_aucs[column], other_aucs[column], resampled[:, column], counts[column])
        for column, name in enumerate(names)
    }
    if len(result) > 1:
        result[AUC_MEAN] = _auc_difference(_mean(our_aucs), _mean(other_aucs), resampled.mean(axis=1), counts[-1])
    return result


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _auc_difference(ours: float, other: float, resampled: Floats, counts: tuple[int, int]) -> Difference:
    """Summarize the resampled differences (R,) of an AUC; `counts` is the number of images and of clusters."""
    known = resampled[~np.isnan(resampled)]
    low, high = percentile_interval(known)
    rarer_side = min((known <= 0).sum(), (known >= 0).sum())
    p_value = min(1.0, 2 * (rarer_side + 1) / (known.size + 1)) if known.size else math.nan
    return Difference(ours, other, ours - other, low, high, float(p_value), *counts)
