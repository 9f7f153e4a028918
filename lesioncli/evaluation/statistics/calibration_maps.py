"""Fit the maps of a calibration: Platt scaling of a class score, a rising map of the confidence.

References:
    Platt 1999, "Probabilistic outputs for support vector machines", section 2.2, with its smoothed targets.
    Lin, Lin and Weng 2007, "A note on Platt's probabilistic outputs", Machine Learning 68: Newton with line search.
    Barlow et al. 1972, Statistical Inference under Order Restrictions: pool adjacent violators.
"""

import numpy as np
from numpy.typing import NDArray

from lesioncli.calibration import ConfidenceMap, PlattScaling, score_logit

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

BIN_IMAGES = 20  # fewer images give a knot that is mostly chance
MAX_BINS = 16
NEWTON_STEPS = 100
GRADIENT_PER_IMAGE = 1e-10
RIDGE = 1e-12  # keeps the Hessian of a constant score invertible
MIN_STEP = 1e-10


def fit_platt(labels: Labels, scores: Floats) -> PlattScaling | None:
    """Fit the probability of a positive label on the logit of scores (N,); None if it does not rise with the score.

    Both labels must occur.
    """
    positives = int(labels.sum())
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (labels.size - positives + 2))
    logits = np.array([score_logit(score) for score in scores])
    slope, offset = _fit_logistic(logits, targets)
    if not slope > 0 or np.ptp(logits) == 0:
        return None
    return PlattScaling(float(slope), float(offset), labels.size, positives / labels.size)


def _fit_logistic(x: Floats, targets: Floats) -> Floats:
    """Return slope and offset (2,) of the logistic curve with the least cross-entropy to targets (N,), 0 < t < 1."""
    design = np.column_stack([x, np.ones_like(x)])
    weights = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    loss = _cross_entropy(design @ weights, targets)
    for _ in range(NEWTON_STEPS):
        fitted = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (fitted - targets)
        if np.abs(gradient).max() < GRADIENT_PER_IMAGE * x.size:
            break
        hessian = (design * (fitted * (1 - fitted))[:, None]).T @ design + RIDGE * np.eye(2)
        direction, step = np.linalg.solve(hessian, gradient), 1.0
        while (new_loss := _cross_entropy(design @ (weights - step * direction), targets)) > loss and step > MIN_STEP:
            step /= 2
        weights, loss = weights - step * direction, new_loss
    return weights


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    return float((np.logaddexp(0, logits) - targets * logits).sum())


def fit_confidence(confidence: Floats, jaccard: Floats) -> ConfidenceMap:
    """Fit the mean Jaccard (N,) as a rising function of the raw confidence (N,), N > 0.

    Images are binned by confidence, the means of the bins pooled until they rise, and each pool is a knot. The map goes
    on to (0, 0) below the knots, and with slope 1 above them: images beyond the outer knots keep their order.
    """
    bins = _bin_by_value(confidence)
    y = np.array([jaccard[rows].mean() for rows in bins])
    pooled = pool_adjacent_violators(y, np.array([rows.size for rows in bins], np.float64))
    knots: list[tuple[float, float]] = []
    for value in np.unique(pooled):
        rows = np.concatenate([bins[number] for number in np.flatnonzero(pooled == value)])
        knots.append((float(confidence[rows].mean()), float(value)))
    return ConfidenceMap(_with_ends(knots), confidence.size)


def _bin_by_value(values: Floats) -> list[NDArray[np.intp]]:
    """Return the rows of bins of about equal size, in order of values (N,); equal values are in the same bin."""
    parts = np.array_split(np.sort(values), max(1, min(MAX_BINS, values.size // BIN_IMAGES)))
    numbers = np.searchsorted(np.unique([part[0] for part in parts]), values, side="right")
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def _with_ends(knots: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    (first, _), (last, highest) = knots[0], knots[-1]
    below = [(0.0, 0.0)] if first > 0 else []
    above = [(1.0, min(1.0, highest + 1 - last))] if last < 1 else []
    return (*below, *knots, *above)


def pool_adjacent_violators(values: Floats, weights: Floats) -> Floats:
    """Return the rising sequence (N,) with the least weighted squared distance to values (N,)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] >= mean:
            other_mean, other_total, other_count = pools.pop()
            mean = (mean * total + other_mean * other_total) / (total + other_total)
            total, count = total + other_total, count + other_count
        pools.append((mean, total, count))
    return np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])
