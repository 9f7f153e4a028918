"""Compare a folder of predicted masks, and the class scores beside them, with the truth.

Every truth mask becomes one CaseResult, scored or with the reason why not, and every labelled id counts for the AUC or
is named: nothing is resized, guessed or left out in silence. Masks are read pair by pair, so memory does not grow with
their size; of a million images only names and numbers are held.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.cores import count_cores
from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.bootstrap import auc, bootstrap_aucs, bootstrap_means, means, percentile_interval
from lesioncli.evaluation.compare import Comparison
from lesioncli.evaluation.distances import measure
from lesioncli.evaluation.groups import Group
from lesioncli.evaluation.masks import Found, find_masks, read_mask
from lesioncli.evaluation.matching import Job, by_image, match, pair
from lesioncli.evaluation.metrics import PIXEL_METRICS, count
from lesioncli.evaluation.protocols import PROTOCOLS, Protocol, mask_document, ranking, score_document
from lesioncli.evaluation.readers import Truth, read_truth
from lesioncli.evaluation.scores import class_metrics
from lesioncli.evaluation.tables import NO_LABELS, Labels, ScoreRow, read_scores
from lesioncli.files import written_whole

SCORES = "scores.csv"
OVERLAYS = "overlays"
AUC_MEAN = "auc_mean"

_QUEUE_LENGTH = 1024  # cases handed to the threads at once; futures for a million would outweigh the results


@dataclass(frozen=True)
class CaseResult:
    """One truth mask: its metrics by name, or the `problem` that kept it from being scored.

    `note` says what is out of the ordinary about files that were scored all the same. `job` has the files.
    """

    name: str
    metrics: Mapping[str, float]
    problem: str = ""
    note: str = ""
    job: Job | None = field(default=None, compare=False, repr=False)


class Scored(NamedTuple):
    """Labels and scores (N, K) and weights (N, 2) of the labelled ids that have both, and what is wrong with others.

    `ids` are those of the labels, and `rows` the names of their scores.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    rows: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    weights: NDArray[np.float64]
    problems: tuple[str, ...]
    extra: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """What evaluate() found.

    `cases` has one entry for every truth mask, sorted by name; `extra` names the predictions without a truth, and
    `extra_scores` the rows without a label. `means` are over the scored cases in which the metric is defined, nan where
    there is none, and empty where no case was scored. `auc` is per class in the labels, over the `auc_count` ids with a
    score, and nan where those have one label only; it is empty where there are no labels or no scores. `per_class` has
    the further metrics of each class. `score_problems` names the other labelled ids and says why. `intervals` are 95 %
    bootstrap intervals for the keys of `means` and `auc` and for AUC_MEAN, except where the value itself is nan.
    `mask_document` and `score_document` are what the official scorer prints, and `ranking` what the protocol ranks by;
    empty where the protocol wants every image judged, and not every one could be. `scored` is what the figures of the
    classes are made of. `groups` has each group of each column that was asked for, column by column, and `comparison`
    the differences to other predictions. `notes` says what else was left out or decided.
    """

    cases: tuple[CaseResult, ...]
    extra: tuple[str, ...]
    means: Mapping[str, float]
    auc: Mapping[str, float]
    auc_count: int
    score_problems: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]]
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    extra_scores: tuple[str, ...] = ()
    mask_document: Mapping[str, Any] = field(default_factory=dict)
    score_document: Mapping[str, Any] = field(default_factory=dict)
    ranking: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    scored: Scored | None = field(default=None, compare=False, repr=False)
    groups: tuple[Group, ...] = ()
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()

    @property
    def auc_mean(self) -> float:
        """Plain mean over the classes in the labels, by which ISIC-2017 Part 3 ranks; nan where there is none."""
        return sum(self.auc.values()) / len(self.auc) if self.auc else math.nan

    @property
    def failed(self) -> bool:
        """Whether any truth mask or labelled id could not be judged."""
        return bool(self.score_problems) or any(case.problem for case in self.cases)


def evaluate(
    truth: Path,
    predictions: Path,
    *,
    protocol: str = "plain",
    labels: Path | None = None,
    scores: Path | None = None,
    distances: bool = False,
    workers: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge the masks and scores in folder `predictions` by the masks and labels in `truth`, as `protocol` says.

    `truth` is anything that readers.read_truth() knows. `labels` and `scores` are CSVs that take the place of those
    found in the two folders. `distances` also measures how far outlines are apart. `workers` threads read masks, 0
    means one per CPU. `seed` is the bootstrap's. `on_progress` is told (done, total) after each case. InputError where
    a folder has no masks or two of one name, or a CSV is not what it should be.
    """
    rules = PROTOCOLS[protocol]
    true = read_truth(truth, labels)
    rows = _read_scores(scores, predictions, true.labels)
    found = _find_predictions(true, predictions)
    _refuse_nothing(truth, predictions, true, found, rows)
    failures = {name: row.failure for name, row in (rows or {}).items() if row.failure}
    jobs, extra = pair(by_image(true.masks, rules), found, failures, rules)
    cases = tuple(_watched(_run(jobs, distances, workers or count_cores()), len(jobs), on_progress))
    averages, mean_intervals = _mean_metrics(cases, seed)
    scored = _join(true.labels, rows, rules)
    aucs, auc_intervals = _aucs(scored, seed)
    documents = _official(cases, scored, rules)
    return Evaluation(
        cases=cases,
        extra=extra,
        means=averages,
        auc=aucs,
        auc_count=len(scored.labels),
        score_problems=scored.problems,
        intervals=mean_intervals | auc_intervals,
        per_class=_per_class(scored),
        extra_scores=scored.extra,
        mask_document=documents[0],
        score_document=documents[1],
        ranking=ranking(rules, *documents),
        scored=scored,
        notes=(*true.notes, *_one_label(scored), *_weightless(true.labels, rows)),
    )


def write_cases(evaluation: Evaluation, path: Path) -> None:
    """Write one CSV row per case: image, the metrics (blank where there is none), problem, note.

    Written whole or not at all.
    """
    names = tuple(evaluation.means) or tuple(PIXEL_METRICS)
    rows = (
        (case.name, *(_shown(case.metrics.get(each, math.nan)) for each in names), case.problem, case.note)
        for case in evaluation.cases
    )
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *names, "problem", "note"))
        writer.writerows(rows)


def _shown(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _read_scores(asked: Path | None, predictions: Path, labels: Labels) -> dict[str, ScoreRow] | None:
    if asked and not asked.is_file():
        raise InputError(f"{asked}: no such file")
    return read_scores(asked or predictions / SCORES, labels.classes)


def _find_predictions(true: Truth, predictions: Path) -> Found:
    """The predicted masks: those that a table pairs, or those in the folder; none are asked for without true masks."""
    if true.predictions is not None:
        return Found(true.predictions, {})
    return find_masks(predictions, skip=OVERLAYS) if true.masks or not true.labels.by_id else Found({}, {})


def _refuse_nothing(
    truth: Path, predictions: Path, true: Truth, found: Found, rows: Mapping[str, ScoreRow] | None
) -> None:
    if truth.is_dir() and not true.masks:
        raise InputError(f"{truth}: no masks found; looked for x.png or x_segmentation.png, also .bmp, .tif and .tiff")
    if true.masks and not (found.masks or found.others or rows):
        raise InputError(f"{predictions}: no masks found; give the folder that `lesioncli segment` wrote")
    if not true.masks and rows is None:
        raise InputError(f"{predictions / SCORES}: no scores to compare with {truth}; give them with --scores")


def _run(jobs: list[Job], distances: bool, workers: int) -> Iterator[CaseResult]:
    judge = partial(_judge, distances)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), _QUEUE_LENGTH):
            yield from pool.map(judge, jobs[start : start + _QUEUE_LENGTH])


def _watched(
    cases: Iterator[CaseResult], total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[CaseResult]:
    for done, case in enumerate(cases, 1):
        if on_progress:
            on_progress(done, total)
        yield case


def _judge(distances: bool, job: Job) -> CaseResult:
    if isinstance(job.prediction, str):
        return CaseResult(job.name, {}, job.prediction, job=job)
    try:
        truth, prediction = read_mask(job.truth, "truth"), read_mask(job.prediction, "prediction")
    except ImageError as error:
        return CaseResult(job.name, {}, error.reason, job=job)
    if truth.lesion.shape != prediction.lesion.shape:
        sizes = "truth {}x{}, prediction {}x{}".format(*truth.lesion.shape, *prediction.lesion.shape)
        return CaseResult(job.name, {}, f"sizes differ: {sizes}", job=job)
    counts = count(truth.lesion, prediction.lesion)
    metrics = {name: metric(counts) for name, metric in PIXEL_METRICS.items()}
    if distances:
        metrics |= measure(truth.lesion, prediction.lesion)
    return CaseResult(job.name, metrics, note="; ".join(filter(None, (truth.note, prediction.note))), job=job)


def _mean_metrics(cases: tuple[CaseResult, ...], seed: int) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Means over the scored cases, and their intervals."""
    scored = [case.metrics for case in cases if not case.problem]
    if not scored:
        return {}, {}
    names = tuple(scored[0])
    values = np.array([[metrics[name] for name in names] for metrics in scored])
    averages = dict(zip(names, means(values).tolist(), strict=True))
    resampled = bootstrap_means(values, seed)
    columns = [column for column, name in enumerate(names) if not math.isnan(averages[name])]
    return averages, {names[column]: percentile_interval(resampled[:, column]) for column in columns}


def _join(labels: Labels, rows: Mapping[str, ScoreRow] | None, rules: Protocol) -> Scored:
    """Scores of the labelled ids; nothing at all where there are no scores."""
    if rows is None:
        labels, rows = NO_LABELS, {}
    usable: list[tuple[str, str]] = []
    problems: list[str] = []
    matches = match(labels.by_id, rows, rules)
    for name, found in sorted(matches.items()):
        if problem := _score_problem(found, rows, labels.classes):
            problems.append(f"{name}: {problem}")
        else:
            usable.append((name, found[0]))
    shape = len(usable), len(labels.classes)
    truths = np.array([labels.by_id[name] for name, _ in usable], np.bool_).reshape(shape)
    scores = np.array([rows[row].scores for _, row in usable], np.float64).reshape(shape)
    weights = np.array([labels.weights[name] for name, _ in usable], np.float64).reshape(len(usable), 2)
    extra = rows.keys() - {name for found in matches.values() for name in found} if labels.by_id else ()
    ids, named = tuple(name for name, _ in usable), tuple(row for _, row in usable)
    return Scored(labels.classes, ids, named, truths, scores, weights, tuple(problems), tuple(sorted(extra)))


def _score_problem(found: tuple[str, ...], rows: Mapping[str, ScoreRow], classes: tuple[str, ...]) -> str:
    if not found:
        return "no row of scores"
    if len(found) > 1:
        return f"several rows of scores: {', '.join(found)}"
    row = rows[found[0]]
    if row.failure:
        return f"failed: {row.failure}"
    bad = [column for column, score in zip(classes, row.scores, strict=True) if not 0 <= score <= 1]
    return f"{' and '.join(bad)} not a number from 0 to 1" if bad else ""


def _aucs(scored: Scored, seed: int) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """AUC per class, and the intervals of these and their mean."""
    columns = list(zip(scored.labels.T, scored.scores.T, strict=True))
    aucs = {name: auc(*column) for name, column in zip(scored.classes, columns, strict=True)}
    if not scored.labels.size:
        return aucs, {}
    resampled = bootstrap_aucs(scored.labels, scored.scores, seed)
    by_name = {**dict(zip(aucs, resampled.T, strict=True)), AUC_MEAN: resampled.mean(axis=1)}
    return aucs, {name: percentile_interval(each) for name, each in by_name.items() if not np.isnan(each).all()}


def _per_class(scored: Scored) -> dict[str, dict[str, float]]:
    columns = zip(scored.classes, scored.labels.T, scored.scores.T, strict=True)
    return {name: class_metrics(labels, scores, scored.weights[:, 0]) for name, labels, scores in columns}


def _one_label(scored: Scored) -> tuple[str, ...]:
    """The classes that cannot be ranked, and why."""
    columns = zip(scored.classes, scored.labels.T, strict=True)
    return tuple(
        f"{name}: all {len(labels)} labels are {int(labels[0])}, so its AUC and average precision are undefined"
        for name, labels in columns
        if labels.size and labels.all() == labels.any()
    )


def _weightless(labels: Labels, rows: Mapping[str, ScoreRow] | None) -> tuple[str, ...]:
    """Which images count for nothing: the truth may say so, and the official scorer does of one."""
    none = [name for name, (weight, _) in labels.weights.items() if not weight] if rows else []
    return (f"of weight 0, so in no official figure of scores: {', '.join(none)}",) if none else ()


def _official(
    cases: tuple[CaseResult, ...], scored: Scored, rules: Protocol
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The official scorer's documents of masks and of scores."""
    judged = [case.metrics for case in cases if not case.problem]
    masks = mask_document(judged) if len(judged) == len(cases) or not rules.complete else {}
    if scored.problems and rules.complete:
        return masks, {}
    return masks, score_document(scored.classes, scored.labels, scored.scores, scored.weights, rules)
