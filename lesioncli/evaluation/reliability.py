"""Reliability: values that claim to be a probability or an expected Jaccard, against what was observed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.scores import (
    CALIBRATION_BINS,
    brier,
    calibration_bins,
    calibration_error,
)
from lesioncli.evaluation.statistics.resampling import (
    Interval,
    Resampling,
    bootstrap_weights,
    percentile_interval,
)

Labels = NDArray[np.bool_]
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
    jaccard, confidence = jaccard[known], confidence[known]
    resampling = resampling.select(known)
    blocks, equal = list(bootstrap_weights(images, resampling)), np.ones((1, images))
    metrics = {name: float(metric(jaccard, confidence, equal)[0]) for name, metric in CONFIDENCE_METRICS.items()}
    intervals = {
        name: percentile_interval(np.concatenate([metric(jaccard, confidence, weights) for weights in blocks]))
        for name, metric in CONFIDENCE_METRICS.items()
    }
    means = {"confidence": float(confidence.mean()), "jaccard": float(jaccard.mean())}
    return ConfidenceEvaluation(
        images, missing, means, metrics, intervals, reliability_table(jaccard, confidence, resampling)
    )


def reliability_table(targets: Labels | Floats, values: Floats, resampling: Resampling) -> tuple[ReliabilityBin, ...]:
    """Return the filled bins of values (N,) from 0 to 1, N > 0; targets (N,) are labels or Jaccards."""
    bins = calibration_bins(targets, values, np.ones(targets.size))
    blocks = [calibration_bins(targets, values, weights) for weights in bootstrap_weights(targets.size, resampling)]
    observed = np.concatenate([np.where(block.weights > 0, block.positives, math.nan) for block in blocks])
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    return tuple(
        ReliabilityBin(
            low=float(edges[number]),
            high=float(edges[number + 1]),
            images=int(bins.weights[number]),
            mean=float(bins.scores[number]),
            observed=float(bins.positives[number]),
            interval=percentile_interval(observed[:, number]),
        )
        for number in np.flatnonzero(bins.weights)
    )
