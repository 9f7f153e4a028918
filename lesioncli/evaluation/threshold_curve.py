"""The mean Jaccard over the thresholds of probability maps, and the threshold where it is highest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.metrics.thresholds import THRESHOLDS
from lesioncli.evaluation.statistics.bootstrap import bootstrap_means
from lesioncli.evaluation.statistics.cross_validation import make_folds
from lesioncli.evaluation.statistics.resampling import Interval, ResamplingPlan, percentile_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ThresholdCurve:
    """Mean Jaccard at each threshold over the images that have a probability map, with 95 % intervals.

    `best` is the threshold with the highest mean; `best_interval` holds that of 95 % of the bootstrap samples.
    `missing` counts evaluated masks without a map.
    """

    thresholds: tuple[float, ...]
    means: tuple[float, ...]
    intervals: tuple[Interval, ...]
    images: int
    missing: int
    best: float
    best_interval: Interval


@dataclass(frozen=True)
class ThresholdProposal:
    """A mask threshold for these annotators, and what it is worth.

    `now` is the threshold of the masks, `best` the one with the highest mean Jaccard, with the interval of
    ThresholdCurve. `gain` is the mean Jaccard at thresholds that were chosen on other images (cross-validation), minus
    that of the masks, with a paired 95 % bootstrap interval.
    """

    now: float
    best: float
    best_interval: Interval
    gain: float
    gain_interval: Interval
    images: int

    @property
    def is_better(self) -> bool:
        """Return whether the best threshold is clearly better than the present one."""
        return self.gain_interval[0] > 0


@dataclass(frozen=True, eq=False)
class ThresholdJaccards:
    """Jaccards (N, T) of the images that have a probability map, and of their masks (N,)."""

    images: tuple[str, ...]
    values: Floats
    of_masks: Floats


def collect_jaccards(cases: Sequence[CaseResult]) -> ThresholdJaccards:
    """Return the Jaccards of the cases that have a probability map."""
    known = [(case, case.threshold_jaccards) for case in cases if case.threshold_jaccards is not None]
    return ThresholdJaccards(
        tuple(case.name for case, _ in known),
        np.array([values for _, values in known], np.float64).reshape(len(known), len(THRESHOLDS)),
        np.array([case.metrics["jaccard"] for case, _ in known], np.float64),
    )


def evaluate_thresholds(cases: Sequence[CaseResult], plan: ResamplingPlan) -> ThresholdCurve | None:
    """Return the curve of the evaluated cases; None if none has a probability map."""
    jaccards = collect_jaccards(cases)
    if not jaccards.images:
        return None
    resampled = bootstrap_means(jaccards.values, plan.for_images(jaccards.images))
    means = jaccards.values.mean(axis=0)
    return ThresholdCurve(
        thresholds=THRESHOLDS,
        means=tuple(means.tolist()),
        intervals=tuple(percentile_interval(values) for values in resampled.T),
        images=len(jaccards.images),
        missing=sum(not case.problem for case in cases) - len(jaccards.images),
        best=THRESHOLDS[int(means.argmax())],
        best_interval=percentile_interval(np.array(THRESHOLDS)[resampled.argmax(axis=1)]),
    )


def propose_threshold(cases: Sequence[CaseResult], now: float, plan: ResamplingPlan) -> ThresholdProposal | None:
    """Compare the masks, made with the threshold `now`, with other thresholds; None if no case has a map."""
    curve = evaluate_thresholds(cases, plan)
    if curve is None:
        return None
    jaccards = collect_jaccards(cases)
    resampling = plan.for_images(jaccards.images)
    gains = _choose_on_other_folds(jaccards.values, make_folds(jaccards.of_masks, resampling)) - jaccards.of_masks
    resampled = bootstrap_means(gains[:, None], resampling)[:, 0]
    return ThresholdProposal(
        now, curve.best, curve.best_interval, float(gains.mean()), percentile_interval(resampled), curve.images
    )


def _choose_on_other_folds(values: Floats, folds: NDArray[np.intp]) -> Floats:
    """Return the Jaccard (N,) of each image at the threshold that is best for the other folds, given values (N, T)."""
    chosen = np.empty(len(values))
    for fold in np.unique(folds):
        inside = folds == fold
        others = values[~inside] if (~inside).any() else values
        chosen[inside] = values[inside, others.mean(axis=0).argmax()]
    return chosen
