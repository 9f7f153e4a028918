"""Evaluate predicted masks one by one.

Every ground truth mask becomes one CaseResult: its metrics, or the reason why there are none. Masks are read pair by
pair, so memory does not grow with their size; for a million images only names and numbers are kept.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import ImageError
from lesioncli.evaluation.contrast import measure_contrast
from lesioncli.evaluation.metrics.distances import measure_distances
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS, count_pixels
from lesioncli.evaluation.metrics.thresholds import threshold_jaccards
from lesioncli.evaluation.reading.masks import Mask, MaskRole, read_mask, read_probability_map
from lesioncli.evaluation.reading.matching import MaskPair
from lesioncli.images.decode import OUT_OF_MEMORY
from lesioncli.memory import opencv_memory_errors
from lesioncli.options import Regions
from lesioncli.process import count_cores

_QUEUE_LENGTH = 1024  # cases given to the threads at once; a future per image of a million would outweigh the results

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CaseResult:
    """Evaluation of one ground truth mask: its metrics by name, or the `problem` that prevented them.

    `note` names unusual properties of files that were evaluated all the same. `pair` has the two files, and
    `lesion_fraction` is the fraction of the ground truth's pixels that are lesion. `threshold_jaccards` (T,) is the
    Jaccard of the probability map at each of THRESHOLDS, None if there is no map that can be evaluated. `contrast` is
    that of the lesion with the skin, nan where it is not known. `image` is the image in scores.csv, "" if there is no
    row of it.
    """

    name: str
    metrics: Mapping[str, float]
    problem: str = ""
    note: str = ""
    pair: MaskPair | None = field(default=None, compare=False, repr=False)
    lesion_fraction: float = field(default=math.nan, compare=False, repr=False)
    threshold_jaccards: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    contrast: float = field(default=math.nan, compare=False, repr=False)
    image: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class MaskMetrics:
    """Metrics of the N evaluated masks: `values` (N, M), nan where a metric is undefined for an image."""

    images: tuple[str, ...]
    names: tuple[str, ...]
    values: NDArray[np.float64]

    @classmethod
    def from_cases(cls, cases: Sequence[CaseResult]) -> "MaskMetrics":
        """Collect the metrics of the cases that have no problem."""
        evaluated = [case for case in cases if not case.problem]
        names = tuple(evaluated[0].metrics) if evaluated else ()
        values = np.array([[case.metrics[name] for name in names] for case in evaluated], np.float64)
        return cls(tuple(case.name for case in evaluated), names, values.reshape(len(evaluated), len(names)))


@dataclass(frozen=True)
class Measures:
    """What is measured beside the pixel metrics: boundary distances, and probability maps at many thresholds.

    `regions` are those that `segment` kept; None: maps are not read.
    """

    distances: bool = False
    regions: Regions | None = None


def evaluate_pairs(
    pairs: Sequence[MaskPair], measures: Measures, workers: int = 0, on_progress: Progress | None = None
) -> tuple[CaseResult, ...]:
    """Evaluate pairs of masks on `workers` threads (0: one per core), in their order.

    `on_progress` receives (done, total) after each pair.
    """
    cases: list[CaseResult] = []
    for case in _map_pairs(pairs, measures, workers or count_cores()):
        cases.append(case)
        if on_progress:
            on_progress(len(cases), len(pairs))
    return tuple(cases)


def _map_pairs(pairs: Sequence[MaskPair], measures: Measures, workers: int) -> Iterator[CaseResult]:
    evaluate_one = partial(evaluate_pair, measures=measures)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(pairs), _QUEUE_LENGTH):
            yield from pool.map(evaluate_one, pairs[start : start + _QUEUE_LENGTH])


def evaluate_pair(pair: MaskPair, measures: Measures) -> CaseResult:
    """Evaluate one predicted mask; a file that cannot be evaluated gives a CaseResult with a problem."""
    if pair.prediction is None:
        return CaseResult(pair.name, {}, pair.problem, pair=pair)
    try:
        with opencv_memory_errors():
            truth = read_mask(pair.truth, MaskRole.GROUND_TRUTH)
            prediction = read_mask(pair.prediction, MaskRole.PREDICTION)
            return _compare(pair, truth, prediction, measures)
    except ImageError as error:
        return CaseResult(pair.name, {}, error.reason, pair=pair)
    except MemoryError:
        return CaseResult(pair.name, {}, OUT_OF_MEMORY, pair=pair)


def _compare(pair: MaskPair, truth: Mask, prediction: Mask, measures: Measures) -> CaseResult:
    if truth.lesion.shape != prediction.lesion.shape:
        sizes = "ground truth {1} x {0}, prediction {3} x {2}".format(*truth.lesion.shape, *prediction.lesion.shape)
        return CaseResult(pair.name, {}, f"sizes differ: {sizes} pixels", pair=pair)
    counts = count_pixels(truth.lesion, prediction.lesion)
    metrics = {name: metric(counts) for name, metric in PIXEL_METRICS.items()}
    if measures.distances:
        metrics |= measure_distances(truth.lesion, prediction.lesion)
    jaccards, map_note = _measure_thresholds(pair, truth, measures.regions)
    contrast, image_note = _measure_contrast(pair, truth)
    return CaseResult(
        pair.name,
        metrics,
        note="; ".join(filter(None, (truth.note, prediction.note, map_note, image_note))),
        pair=pair,
        lesion_fraction=(counts.true_positive + counts.false_negative) / truth.lesion.size,
        threshold_jaccards=jaccards,
        contrast=contrast,
    )


def _measure_contrast(pair: MaskPair, truth: Mask) -> tuple[float, str]:
    """Return the contrast of the lesion, nan without an image or with a broken one, and a note on that."""
    if pair.image is None:
        return math.nan, ""
    try:
        return measure_contrast(pair.image, truth.lesion), ""
    except ImageError as error:
        return math.nan, f"contrast unknown: {error.reason}"


def _measure_thresholds(pair: MaskPair, truth: Mask, regions: Regions | None) -> tuple[NDArray[np.float32] | None, str]:
    """Return the Jaccards (T,) of the probability map, if there is one, and a note if it cannot be evaluated."""
    if pair.probability_map is None or regions is None:
        return None, ""
    try:
        probability = read_probability_map(pair.probability_map)
    except ImageError as error:
        return None, error.reason
    if probability.shape != truth.lesion.shape:
        height, width = probability.shape
        return None, f"{MaskRole.PROBABILITY_MAP} has another size: {width} x {height} pixels"
    return threshold_jaccards(truth.lesion, probability, regions), ""
