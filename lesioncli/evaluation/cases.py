"""Judge predicted masks one by one, and put class scores beside their labels.

Every truth mask becomes one CaseResult, scored or with the reason why not, and every labelled id is joined with its
scores or is named: nothing is resized, guessed or left out in silence. Masks are read pair by pair, so memory does not
grow with their size; of a million images only names and numbers are held.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.cores import count_cores
from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.metrics.distances import measure
from lesioncli.evaluation.metrics.pixels import PIXEL_METRICS, count
from lesioncli.evaluation.protocols import Protocol
from lesioncli.evaluation.reading.ground_truth import Truth
from lesioncli.evaluation.reading.masks import Found, find_masks, read_mask
from lesioncli.evaluation.reading.matching import Job, by_image, match, pair
from lesioncli.evaluation.reading.tables import NO_LABELS, Labels, ScoreRow, read_scores
from lesioncli.spec import CLASSES

SCORES = "scores.csv"
OVERLAYS = "overlays"  # JPEGs, so they are no masks; photographs may lie in a folder of this name

_RESIDUAL_CLASS = CLASSES[2]  # of which ISIC-2017 has no column: what is neither of the other two
_QUEUE_LENGTH = 1024  # cases handed to the threads at once; futures for a million would outweigh the results

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CaseResult:
    """One truth mask: its metrics by name, or the `problem` that kept it from being scored.

    `note` says what is out of the ordinary about files that were scored all the same. `job` has the files, and
    `lesion_share` is the share of the picture that is truly lesion.
    """

    name: str
    metrics: Mapping[str, float]
    problem: str = ""
    note: str = ""
    job: Job | None = field(default=None, compare=False, repr=False)
    lesion_share: float = field(default=math.nan, compare=False, repr=False)


class Scored(NamedTuple):
    """Labels and scores (N, K) and weights (N, 2) of the labelled ids that have both, and what is wrong with others.

    The weights, for score and validation, are those of a challenge's documents; all else counts each id once.
    `ids` are those of the labels, and `rows` the names of their scores. `nevus` (N,) are the scores of that class where
    the labels leave it to be what the other two are not; nan where there are none.
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    rows: tuple[str, ...]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]
    weights: NDArray[np.float64]
    problems: tuple[str, ...]
    extra: tuple[str, ...]
    nevus: NDArray[np.float64]


class Masks(NamedTuple):
    """Metrics (N, M) of the N masks that could be scored; nan where a mask has none of that name."""

    images: tuple[str, ...]
    names: tuple[str, ...]
    values: NDArray[np.float64]


def masks_of(cases: Sequence[CaseResult]) -> Masks:
    """The scored cases as a table."""
    scored = [case for case in cases if not case.problem]
    names = tuple(scored[0].metrics) if scored else ()
    values = np.array([[case.metrics[name] for name in names] for case in scored], np.float64)
    return Masks(tuple(case.name for case in scored), names, values.reshape(len(scored), len(names)))


class Judged(NamedTuple):
    """One case a truth mask, sorted by name, the masks without a truth, and the scores that are labelled."""

    cases: tuple[CaseResult, ...]
    extra: tuple[str, ...]
    scored: Scored


def judge(
    truth: Path,
    true: Truth,
    predictions: Path,
    scores: Path | None,
    *,
    rules: Protocol,
    distances: bool,
    workers: int,
    on_progress: Progress | None,
) -> Judged:
    """Judge the masks in folder `predictions`, and the scores there or in the CSV `scores`, by what is `true`.

    `truth` is where that was read from. InputError where there is nothing to judge, or two masks have one name.
    """
    rows = _read_scores(scores, predictions, true.labels)
    found = _find_predictions(true, predictions)
    _refuse_nothing(truth, predictions, true, found, rows)
    failures = {name: row.failure for name, row in (rows or {}).items() if row.failure}
    truths = by_image(true.masks, rules)
    _refuse_strangers(truths, {**found.masks, **found.others}, failures, rules)
    if not truths:
        _refuse_strange_rows(true.labels, rows or {}, rules)
    jobs, extra = pair(truths, found, failures, rules)
    cases = tuple(_watched(_run(jobs, distances, workers or count_cores()), len(jobs), on_progress))
    scored = _join(true.labels, rows, rules)
    unlabelled = tuple(f"{name}: no label" for name in _unlabelled(true, rules)) if scored.classes else ()
    return Judged(cases, extra, scored._replace(problems=tuple(sorted(scored.problems + unlabelled))))


def _read_scores(asked: Path | None, predictions: Path, labels: Labels) -> dict[str, ScoreRow] | None:
    if asked and not asked.is_file():
        raise InputError(f"{asked}: no such file")
    return read_scores(asked or predictions / SCORES, labels.classes, also=_RESIDUAL_CLASS, labels=labels.table)


def _find_predictions(true: Truth, predictions: Path) -> Found:
    """The predicted masks: those that a table pairs, or those in the folder; none are asked for without true masks."""
    if true.predictions is not None:
        return Found(true.predictions, {})
    return find_masks(predictions, skip=OVERLAYS) if true.masks or not true.labels.by_id else Found({}, {})


def _refuse_nothing(
    truth: Path, predictions: Path, true: Truth, found: Found, rows: Mapping[str, ScoreRow] | None
) -> None:
    if true.masks and not (found.masks or found.others or rows):
        raise InputError(f"{predictions}: no masks found; give the folder that `lesioncli segment` wrote")
    if not true.masks and rows is None:
        raise InputError(f"{predictions / SCORES}: no scores to compare with {truth}; give them with --scores")


def _refuse_strangers(
    truths: Mapping[str, Path], predictions: Mapping[str, Path], failures: Collection[str], rules: Protocol
) -> None:
    """Where not one true mask has a prediction, they are called otherwise, or are of other images."""
    if not (truths and predictions) or any(match(truths, {*predictions, *failures}, rules).values()):
        return
    one, other = predictions[min(predictions)], truths[min(truths)]
    raise InputError(
        f"{one}: neither this nor any other mask has the name of a true one, such as {other}; of image x, both are to"
        " be called x.png or x_segmentation.png, in sub-folders of the same names"
    )


def _refuse_strange_rows(labels: Labels, rows: Collection[str], rules: Protocol) -> None:
    """The same of scores."""
    if labels.by_id and rows and not any(match(labels.by_id, rows, rules).values()):
        raise InputError(
            f"{labels.table or 'labels'}: no id is that of a row of scores, as {min(labels.by_id)} and {min(rows)}; "
            "both are to be the image's name, with its suffix or without"
        )


def _run(jobs: list[Job], distances: bool, workers: int) -> Iterator[CaseResult]:
    judge = partial(_judge_one, distances)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), _QUEUE_LENGTH):
            yield from pool.map(judge, jobs[start : start + _QUEUE_LENGTH])


def _watched(cases: Iterator[CaseResult], total: int, on_progress: Progress | None) -> Iterator[CaseResult]:
    for done, case in enumerate(cases, 1):
        if on_progress:
            on_progress(done, total)
        yield case


def _judge_one(distances: bool, job: Job) -> CaseResult:
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
    note = "; ".join(filter(None, (truth.note, prediction.note)))
    share = (counts.true_positive + counts.false_negative) / truth.lesion.size
    return CaseResult(job.name, metrics, note=note, job=job, lesion_share=share)


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
    nevus = np.array([rows[row].also for _, row in usable], np.float64)
    return Scored(labels.classes, ids, named, truths, scores, weights, tuple(problems), tuple(sorted(extra)), nevus)


def _unlabelled(true: Truth, rules: Protocol) -> list[str]:
    """The images of true masks that have no label, where a protocol wants every image and others of them have one.

    Of ISIC-2018, masks and labels are of other images altogether.
    """
    matches = match(by_image(true.masks, rules), true.labels.by_id, rules)
    without = [name for name, found in matches.items() if not found]
    return without if rules.complete and len(without) < len(matches) else []


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
