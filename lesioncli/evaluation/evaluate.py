"""Compare a folder of predicted masks, and the class scores beside them, with the truth.

Every truth mask becomes one CaseResult, scored or with the reason why not, and every labelled id counts for the AUC or
is named: nothing is resized, guessed or left out in silence. Masks are read pair by pair, so memory does not grow with
their size; of a million images only names and numbers are held.
"""

import csv
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.cores import count_cores
from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.masks import find_masks, read_mask
from lesioncli.evaluation.metrics import (
    PIXEL_METRICS,
    auc,
    bootstrap_aucs,
    bootstrap_means,
    count,
    percentile_interval,
)
from lesioncli.evaluation.tables import Labels, ScoreRow, read_labels, read_scores
from lesioncli.files import written_whole

SCORES = "scores.csv"
OVERLAYS = "overlays"
AUC_MEAN = "auc_mean"

_QUEUE_LENGTH = 1024  # cases handed to the threads at once; futures for a million would outweigh the results


@dataclass(frozen=True)
class CaseResult:
    """One truth mask: its metrics by the names in PIXEL_METRICS, or the `problem` that kept it from being scored."""

    name: str
    metrics: Mapping[str, float]
    problem: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What evaluate() found.

    `cases` has one entry for every truth mask, sorted by name; `extra` names the predictions without a truth. `means`
    are over the scored cases, and empty where there are none. `auc` is per class in the labels CSV, over the
    `auc_count` ids with a score, and nan where those have one label only; it is empty where there is no labels CSV or
    no scores.csv. `score_problems` names the other labelled ids and says why. `intervals` are 95 % bootstrap
    intervals for the keys of `means` and `auc` and for AUC_MEAN, except where the value itself is nan.
    """

    cases: tuple[CaseResult, ...]
    extra: tuple[str, ...]
    means: Mapping[str, float]
    auc: Mapping[str, float]
    auc_count: int
    score_problems: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def auc_mean(self) -> float:
        """Plain mean over the classes in the labels CSV, by which ISIC-2017 Part 3 ranks; nan where there is none."""
        return sum(self.auc.values()) / len(self.auc) if self.auc else math.nan

    @property
    def failed(self) -> bool:
        """Whether any truth mask or labelled id could not be judged."""
        return bool(self.score_problems) or any(case.problem for case in self.cases)


def evaluate(
    truth: Path,
    predictions: Path,
    *,
    workers: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge the masks and scores.csv in folder `predictions` by the masks and the labels CSV in folder `truth`.

    `workers` threads read masks, 0 means one per CPU. `seed` is the bootstrap's. `on_progress` is told (done, total)
    after each case. InputError where a folder has no masks or two of one name, or a CSV is not what it should be.
    """
    truths, masks = find_masks(truth), find_masks(predictions, skip=OVERLAYS)
    labels = read_labels(truth)
    rows = read_scores(predictions / SCORES, labels.classes)
    if not truths:
        raise InputError(f"{truth}: no masks found; looked for x.png or x_segmentation.png, also .bmp, .tif and .tiff")
    if not masks and not rows:
        raise InputError(f"{predictions}: no masks found; give the folder that `lesioncli segment` wrote")
    failures = {name: row.failure for name, row in (rows or {}).items() if row.failure}
    jobs, extra = _pair(truths, masks, failures)
    cases = tuple(_watched(_run(jobs, workers or count_cores()), len(jobs), on_progress))
    means, mean_intervals = _mean_metrics(cases, seed)
    scored = _join(labels, rows)
    aucs, auc_intervals = _aucs(scored, seed)
    intervals = mean_intervals | auc_intervals
    return Evaluation(cases, extra, means, aucs, len(scored.labels), scored.problems, intervals)


def write_cases(evaluation: Evaluation, path: Path) -> None:
    """Write one CSV row per case: image, the metrics (blank where not scored), problem. Written whole or not at all."""
    rows = (
        (case.name, *(case.metrics.get(each, "") for each in PIXEL_METRICS), case.problem) for case in evaluation.cases
    )
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *PIXEL_METRICS, "problem"))
        writer.writerows(rows)


# Which belongs to which


def _match(names: Collection[str], available: Collection[str]) -> dict[str, tuple[str, ...]]:
    """For each name what it may mean in `available`: one is a match, none or several are a problem.

    The whole name decides. Only where no name has a folder does the last part of an available one do too: elsewhere
    x could take what belongs to a/x.
    """
    by_last_part: dict[str, list[str]] = {}
    if not any("/" in name for name in names):
        for each in sorted(available):
            by_last_part.setdefault(each.rpartition("/")[2], []).append(each)
    return {name: (name,) if name in available else tuple(by_last_part.get(name, ())) for name in names}


class _Job(NamedTuple):
    """A truth mask and its prediction, or why there is none."""

    name: str
    truth: Path
    prediction: Path | str


def _pair(
    truths: Mapping[str, Path], masks: Mapping[str, Path], failures: Mapping[str, str]
) -> tuple[list[_Job], tuple[str, ...]]:
    """One job per truth, sorted by name, and the names of the masks that no truth asked for."""
    matches = _match(truths, masks.keys() | failures.keys())
    jobs = [_Job(name, truths[name], _choose(matches[name], masks, failures)) for name in sorted(truths)]
    asked_for = {name for found in matches.values() for name in found}
    return jobs, tuple(sorted(masks.keys() - asked_for))


def _choose(found: tuple[str, ...], masks: Mapping[str, Path], failures: Mapping[str, str]) -> Path | str:
    if not found:
        return "no prediction"
    if len(found) > 1:
        return f"several predictions: {', '.join(found)}"
    if found[0] in failures:  # a mask that is there all the same is left from an earlier run
        return f"no prediction: {failures[found[0]]}"
    return masks[found[0]]


# Judging masks


def _run(jobs: list[_Job], workers: int) -> Iterator[CaseResult]:
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), _QUEUE_LENGTH):
            yield from pool.map(_judge, jobs[start : start + _QUEUE_LENGTH])


def _watched(
    cases: Iterator[CaseResult], total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[CaseResult]:
    for done, case in enumerate(cases, 1):
        if on_progress:
            on_progress(done, total)
        yield case


def _judge(job: _Job) -> CaseResult:
    if isinstance(job.prediction, str):
        return CaseResult(job.name, {}, job.prediction)
    try:
        truth, prediction = read_mask(job.truth, "truth"), read_mask(job.prediction, "prediction")
    except ImageError as error:
        return CaseResult(job.name, {}, error.reason)
    if truth.shape != prediction.shape:
        sizes = "truth {}x{}, prediction {}x{}".format(*truth.shape, *prediction.shape)
        return CaseResult(job.name, {}, f"sizes differ: {sizes}")
    counts = count(truth, prediction)
    return CaseResult(job.name, {name: metric(counts) for name, metric in PIXEL_METRICS.items()})


def _mean_metrics(cases: tuple[CaseResult, ...], seed: int) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Means over the scored cases, and their intervals."""
    values = np.array([[case.metrics[name] for name in PIXEL_METRICS] for case in cases if not case.problem])
    if not values.size:
        return {}, {}
    means = dict(zip(PIXEL_METRICS, values.mean(axis=0).tolist(), strict=True))
    resampled = bootstrap_means(values, seed)
    return means, {name: percentile_interval(resampled[:, column]) for column, name in enumerate(PIXEL_METRICS)}


# Labels and scores


class _Scored(NamedTuple):
    """Labels and scores (N, K) of the labelled ids that have both, and what is wrong with the others."""

    classes: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    problems: tuple[str, ...]


def _join(labels: Labels, rows: Mapping[str, ScoreRow] | None) -> _Scored:
    """Scores of the labelled ids; nothing at all where there is no scores.csv."""
    if rows is None:
        labels, rows = Labels((), {}), {}
    usable: list[tuple[str, ScoreRow]] = []
    problems: list[str] = []
    for name, found in sorted(_match(labels.by_id, rows).items()):
        if problem := _score_problem(found, rows, labels.classes):
            problems.append(f"{name}: {problem}")
        else:
            usable.append((name, rows[found[0]]))
    shape = len(usable), len(labels.classes)
    truths = np.array([labels.by_id[name] for name, _ in usable], np.bool_).reshape(shape)
    scores = np.array([row.scores for _, row in usable], np.float64).reshape(shape)
    return _Scored(labels.classes, truths, scores, tuple(problems))


def _score_problem(found: tuple[str, ...], rows: Mapping[str, ScoreRow], classes: tuple[str, ...]) -> str:
    if not found:
        return f"no row in {SCORES}"
    if len(found) > 1:
        return f"several rows in {SCORES}: {', '.join(found)}"
    row = rows[found[0]]
    if row.failure:
        return f"failed: {row.failure}"
    bad = [column for column, score in zip(classes, row.scores, strict=True) if not 0 <= score <= 1]
    return f"{' and '.join(bad)} not a number from 0 to 1" if bad else ""


def _aucs(scored: _Scored, seed: int) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """AUC per class, and the intervals of these and their mean."""
    columns = list(zip(scored.labels.T, scored.scores.T, strict=True))
    aucs = {name: auc(*column) for name, column in zip(scored.classes, columns, strict=True)}
    if not scored.labels.size:
        return aucs, {}
    resampled = bootstrap_aucs(scored.labels, scored.scores, seed)
    by_name = {**dict(zip(aucs, resampled.T, strict=True)), AUC_MEAN: resampled.mean(axis=1)}
    return aucs, {name: percentile_interval(each) for name, each in by_name.items() if not np.isnan(each).all()}
