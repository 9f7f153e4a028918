"""Reliability: values that claim to be a probability or an expected Jaccard, against what was observed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.scores import (
    CALIBRATION_BINS,
    CalibrationBins,
    brier,
    calibration_bins,
    calibration_error,
    select_known,
)
from lesioncli.evaluation.statistics.resampling import (
    Interval,
    Resampling,
    bootstrap_weights,
    percentile_interval,
)

Floats = NDArray[np.float64]


def confidence_bias(jaccard: Floats, confidence: Floats, weights: Floats) -> Floats:
    """Return the mean confidence minus the mean Jaccard: positive if the confidence is too high."""
    total = weights.sum(axis=-1)
    return np.asarray(weights @ (confidence - jaccard) / np.where(total > 0, total, math.nan))


CONFIDENCE_METRICS = {"calibration_error": calibration_error, "squared_error": brier, "bias": confidence_bias}


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose value is from `low` to `high`: their mean value, and the mean of what was observed.

    `interval` is the 95 % interval of `observed`: a share of positives, or a mean Jaccard.
    """

    low: float
    high: float
    images: int
    mean: float
    observed: float
    interval: Interval


@dataclass(frozen=True)
class ConfidenceEvaluation:
    """The confidence of masks against their Jaccard: CONFIDENCE_METRICS with intervals, and a reliability table.

    `missing` counts evaluated masks without a confidence from 0 to 1.
    """

    images: int = 0
    missing: int = 0
    means: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    reliability: tuple[ReliabilityBin, ...] = ()


def evaluate_confidence(jaccard: Floats, confidence: Floats, resampling: Resampling) -> ConfidenceEvaluation:
    """Compare confidence (N,), nan where there is none, with the Jaccard (N,) of the same masks."""
    known = ~np.isnan(confidence)
    images, missing = int(known.sum()), int((~known).sum())
    if not images:
        return ConfidenceEvaluation(missing=missing)
    jaccard, confidence, equal = jaccard[known], confidence[known], np.ones((1, images))
    resampling = resampling.select(known)
    blocks = [_measure(jaccard, confidence, weights) for weights in bootstrap_weights(images, resampling)]
    bins, metrics = _measure(jaccard, confidence, equal)
    intervals = {
        name: percentile_interval(np.concatenate([resampled[name] for _, resampled in blocks])) for name in metrics
    }
    observed = np.concatenate([_observed(block) for block, _ in blocks])
    return ConfidenceEvaluation(
        images,
        missing,
        means={"confidence": float(confidence.mean()), "jaccard": float(jaccard.mean())},
        metrics={name: float(values[0]) for name, values in metrics.items()},
        intervals=intervals,
        reliability=_table(bins, observed),
    )


def _measure(jaccard: Floats, confidence: Floats, weights: Floats) -> tuple[CalibrationBins, dict[str, Floats]]:
    """Return the bins and the CONFIDENCE_METRICS (R,) in bootstrap samples (R, N); the bins are computed once."""
    bins = calibration_bins(jaccard, confidence, weights)
    others = {name: metric for name, metric in CONFIDENCE_METRICS.items() if metric is not calibration_error}
    return bins, {"calibration_error": bins.error} | {
        name: metric(jaccard, confidence, weights) for name, metric in others.items()
    }


def reliability_tables(labels: Floats, scores: Floats, resampling: Resampling) -> list[tuple[ReliabilityBin, ...]]:
    """Return the filled bins of each class of labels, 1, 0 or nan, and scores from 0 to 1 (N, K), N > 0."""
    columns, images = list(zip(labels.T, scores.T, strict=True)), len(labels)
    blocks = [
        [_observed(calibration_bins(*select_known(*column, weights))) for column in columns]
        for weights in bootstrap_weights(images, resampling)
    ]
    resampled = np.concatenate(blocks, axis=1)  # (columns, samples, bins)
    return [
        _table(calibration_bins(*select_known(*column, np.ones((1, images)))), observed)
        for column, observed in zip(columns, resampled, strict=True)
    ]


def _observed(bins: CalibrationBins) -> Floats:
    """Return the mean target of each bin, nan where a bin is empty."""
    return np.where(bins.weights > 0, bins.positives, math.nan)


def _table(bins: CalibrationBins, resampled: Floats) -> tuple[ReliabilityBin, ...]:
    """Return the filled ones of bins (1, B), given what was observed in R bootstrap samples (R, B)."""
    weights, scores, positives = bins.weights[0], bins.scores[0], bins.positives[0]
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    return tuple(
        ReliabilityBin(
            low=float(edges[number]),
            high=float(edges[number + 1]),
            images=int(weights[number]),
            mean=float(scores[number]),
            observed=float(positives[number]),
            interval=percentile_interval(resampled[:, number]),
        )
        for number in np.flatnonzero(weights)
    )
