"""Compare a folder of predicted masks, and class scores, with the truth: figures and how sure they are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import CaseResult, Judged, Masks, Progress, Scored, judge, masks_of
from lesioncli.evaluation.metrics.pixels import Counts
from lesioncli.evaluation.metrics.scores import (
    POSITIVE_ABOVE,
    bootstrap_metrics,
    class_metrics,
    confusion_matrix,
    count_scores,
)
from lesioncli.evaluation.notes import notes_on_intervals, notes_on_scores
from lesioncli.evaluation.protocols import (
    PROTOCOLS,
    Interval,
    Protocol,
    mask_document,
    mask_intervals,
    ranking,
    score_document,
    score_intervals,
)
from lesioncli.evaluation.reading.ground_truth import Truth, read_truth
from lesioncli.evaluation.reading.matching import by_image, match
from lesioncli.evaluation.reading.metadata import LESION_SIZE, MISSING, cut, find_texts, texts_of
from lesioncli.evaluation.statistics.bootstrap import (
    AUC_MEAN,
    Drawing,
    auc,
    bootstrap_aucs,
    bootstrap_means,
    means,
    percentile_interval,
)
from lesioncli.evaluation.statistics.comparison import Comparison, compare
from lesioncli.evaluation.statistics.groups import Group, split
from lesioncli.spec import CLASSES


class Matrix(NamedTuple):
    """How many images of each class, a row each, have their highest score in each, and last how many have a tie."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Evaluation:
    """What evaluate() found.

    `cases` has one entry for every truth mask, sorted by name; `extra` names the predictions without a truth, and
    `extra_scores` the rows without a label. `means` are over the scored cases in which the metric is defined, nan where
    there is none, and empty where no case was scored. `auc` is per class in the labels, over the `auc_count` ids with a
    score, and nan where those have one label only; it is empty where there are no labels or no scores. `per_class` has
    the further metrics of each class, `confusion` its counts, and `matrix` those of the highest score, where each image
    is in one class; they are empty where no scores were judged. In all of these each image counts once; what it weighs
    by its labels counts in the documents of a challenge alone. `score_problems` names the other labelled ids, and where
    the protocol wants every image also the true masks that lack a label, and says why. `intervals` are 95 % bootstrap
    intervals for the keys of `means` and `auc` and for AUC_MEAN, `per_class_intervals` for those of `per_class`, and
    `official_intervals` for the paths in the two documents, except where the value itself is nan.
    `mask_document` and `score_document` are what the official scorer prints, and `ranking` what the protocol ranks by;
    empty where the protocol wants every image judged, and not every one could be. `scored` is what the figures of the
    classes are made of. `groups` has each group of each column that was asked for, column by column, and `comparison`
    the differences to other predictions. `notes` says what else was left out or decided,
    and `drawing` how all resamples are drawn.
    """

    cases: tuple[CaseResult, ...]
    extra: tuple[str, ...]
    means: Mapping[str, float]
    auc: Mapping[str, float]
    auc_count: int
    score_problems: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]]
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    per_class_intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    confusion: Mapping[str, Counts] = field(default_factory=dict)
    matrix: Matrix | None = None
    extra_scores: tuple[str, ...] = ()
    mask_document: Mapping[str, Any] = field(default_factory=dict)
    score_document: Mapping[str, Any] = field(default_factory=dict)
    ranking: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    official_intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    scored: Scored | None = field(default=None, compare=False, repr=False)
    groups: tuple[Group, ...] = ()
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()
    drawing: Drawing = field(default_factory=Drawing)

    @property
    def auc_mean(self) -> float:
        """Plain mean over the classes in the labels, by which ISIC-2017 Part 3 ranks; nan where there is none."""
        return sum(self.auc.values()) / len(self.auc) if self.auc else math.nan

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Of what not every truth mask or labelled id could be judged: masks, scores."""
        lacking = {"masks": any(case.problem for case in self.cases), "scores": bool(self.score_problems)}
        return tuple(what for what, lacks in lacking.items() if lacks)

    @property
    def failed(self) -> bool:
        """Whether any truth mask or labelled id could not be judged."""
        return bool(self.incomplete)


def evaluate(
    truth: Path,
    predictions: Path,
    *,
    protocol: str = "plain",
    labels: Path | None = None,
    scores: Path | None = None,
    distances: bool = False,
    other: Path | None = None,
    by: Sequence[str] = (),
    cluster: str = "",
    metadata: Path | None = None,
    positive_above: float = POSITIVE_ABOVE,
    workers: int = 0,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Judge the masks and scores in folder `predictions` by the masks and labels in `truth`, as `protocol` says.

    `truth` is anything that readers.read_truth() knows. `labels` and `scores` are CSVs that take the place of those
    found in the two folders. `distances` also measures how far outlines are apart. `other` is another folder of
    predictions, or a CSV of scores, to compare with. `by` are columns, of the CSV `metadata` or of the labels, to split
    by, and `cluster` is the one that says by its values which images are drawn together. `positive_above` is where a
    score begins to be called positive, but in official figures. `workers` threads read masks, 0 means one per CPU.
    `seed` is that of all draws. `on_progress` is told (done, total) after each case.
    InputError where a folder has no masks or two of one name, a CSV is not what it should be, a column is not there, or
    `other` has no image in common with `predictions`.
    """
    rules = PROTOCOLS[protocol]
    true = read_truth(truth, labels)
    if truth.is_dir() and not true.masks:
        raise InputError(f"{truth}: no masks found; looked for x.png or x_segmentation.png, also .bmp, .tif and .tiff")
    texts, notes = _texts(by, metadata, true, rules)
    whose, more_notes = _whose(cluster, metadata, true, rules)
    how = partial(judge, truth, rules=rules, distances=distances, workers=workers, on_progress=on_progress)
    judged = how(true, predictions, scores)
    masks, scored = masks_of(judged.cases), judged.scored
    drawing, drawn = _drawing(cluster, whose, masks, scored, seed)
    comparison = _compare(how, true, other, masks, scored, drawing) if other else None
    averages, mean_intervals = _mean_metrics(masks, drawing)
    aucs, auc_intervals = _aucs(scored, drawing)
    documents = _official(judged, rules)
    resampled = _resampled(scored, drawing)
    per_class, per_class_intervals = _per_class(scored, resampled, positive_above, drawing)
    return Evaluation(
        cases=judged.cases,
        extra=judged.extra,
        means=averages,
        auc=aucs,
        auc_count=len(scored.labels),
        score_problems=scored.problems,
        intervals=mean_intervals | auc_intervals,
        per_class=per_class,
        per_class_intervals=per_class_intervals,
        confusion=_confusion(scored, positive_above),
        matrix=_matrix(scored),
        extra_scores=scored.extra,
        mask_document=documents[0],
        score_document=documents[1],
        ranking=ranking(rules, *documents),
        official_intervals=_official_intervals(documents, mean_intervals, scored, rules, resampled, drawing),
        scored=scored,
        groups=_groups(texts, judged, masks, rules, drawing),
        comparison=comparison,
        notes=(
            *true.notes,
            *notes,
            *more_notes,
            *drawn,
            *notes_on_scores(true.labels, scored, protocol),
            *notes_on_intervals(masks, scored, comparison, drawing),
        ),
        drawing=drawing,
    )


def _texts(
    by: Sequence[str], metadata: Path | None, true: Truth, rules: Protocol
) -> tuple[dict[str, dict[str, str] | None], tuple[str, ...]]:
    """What each column to split by says of each image, None for the lesion's size, and what is missing there."""
    found: dict[str, dict[str, str] | None] = {}
    notes: list[str] = []
    for column, texts in find_texts(by, metadata, true.labels).items():
        if texts is None:
            if not true.masks:
                raise InputError(f"{column}: only true masks have one")
            found[column] = None
            continue
        found[column], note = texts_of(by_image(true.masks, rules), true.labels.by_id, texts, rules, column)
        notes.append(note)
    return found, tuple(filter(None, notes))


def _whose(
    column: str, metadata: Path | None, true: Truth, rules: Protocol
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """What the column to draw by says of each image, and what is missing there; nothing where there is no column."""
    if column == LESION_SIZE:
        raise InputError(f"{LESION_SIZE}: images of one size do not belong together; --cluster wants another column")
    texts, notes = _texts([column] if column else [], metadata, true, rules)
    return texts.get(column) or {}, notes


def _drawing(
    column: str, whose: Mapping[str, str], masks: Masks, scored: Scored, seed: int
) -> tuple[Drawing, tuple[str, ...]]:
    """How to draw where images of one value of a column belong together, and that in words."""
    if not column:
        return Drawing(seed), ()
    known = {image: value for image, value in whose.items() if value.lower() not in MISSING}
    tables = [{*masks.images}, {*scored.ids}]
    clusters = max(len({known[image] for image in images & known.keys()}) for images in tables)
    alone = max(len(images - known.keys()) for images in tables)
    note = f"intervals: all images of one {column} are drawn together, {clusters} of them"
    note += f"; images of unknown {column}, each drawn alone: {alone}" if alone else ""
    return Drawing(seed, column, known), (note,)


def _groups(
    texts: Mapping[str, Mapping[str, str] | None], judged: Judged, masks: Masks, rules: Protocol, drawing: Drawing
) -> tuple[Group, ...]:
    judged_by = (rules.mask_metric, *judged.scored.classes)
    found: list[Group] = []
    for name, said in texts.items():
        known = _lesion_sizes(judged, rules) if said is None else said
        column = cut(name, {image: known.get(image, "") for image in (*masks.images, *judged.scored.ids)})
        found += split(column, masks, judged.scored, judged_by, drawing)
    return tuple(found)


def _lesion_sizes(judged: Judged, rules: Protocol) -> dict[str, str]:
    """Percent of the picture that is lesion, by the name of a mask and by that of a labelled id."""
    sizes = {case.name: str(100 * case.lesion_share) for case in judged.cases if not case.problem}
    matches = match(judged.scored.ids, sizes, rules)
    return {name: sizes[found[0]] for name, found in matches.items() if len(found) == 1} | sizes


def _compare(
    how: Callable[..., Judged], true: Truth, other: Path, masks: Masks, scored: Scored, drawing: Drawing
) -> Comparison:
    """Differences to `other`, which a table of pairs does not pair; to a CSV of scores, those of the scores alone."""
    if other.is_file():
        if not true.labels.by_id:
            raise InputError(f"{other}: scores are judged by labels, and there are none; give them with --labels")
        true, masks = true._replace(masks={}), masks_of(())
    second = how(true._replace(predictions=None), other, other if other.is_file() else None)
    found = compare((masks, scored), (masks_of(second.cases), second.scored), str(other), drawing)
    if not found.differences:
        raise InputError(f"{other}: no image of it could be judged that could be judged in the other predictions too")
    return found


def _mean_metrics(masks: Masks, drawing: Drawing) -> tuple[dict[str, float], dict[str, Interval]]:
    """Means over the scored masks, and their intervals."""
    if not masks.images:
        return {}, {}
    averages = dict(zip(masks.names, means(masks.values).tolist(), strict=True))
    resampled = dict(zip(masks.names, bootstrap_means(masks.values, drawing.of(masks.images)).T, strict=True))
    return averages, {name: percentile_interval(resampled[name]) for name in averages if not math.isnan(averages[name])}


def _aucs(scored: Scored, drawing: Drawing) -> tuple[dict[str, float], dict[str, Interval]]:
    """AUC per class, and the intervals of these and their mean."""
    columns = list(zip(scored.labels.T, scored.scores.T, strict=True))
    aucs = {name: auc(*column) for name, column in zip(scored.classes, columns, strict=True)}
    if not scored.labels.size:
        return aucs, {}
    resampled = bootstrap_aucs(scored.labels, scored.scores, drawing.of(scored.ids))
    by_name = {**dict(zip(aucs, resampled.T, strict=True)), AUC_MEAN: resampled.mean(axis=1)}
    return aucs, {name: percentile_interval(each) for name, each in by_name.items() if not np.isnan(each).all()}


def _resampled(scored: Scored, drawing: Drawing) -> list[dict[str, NDArray[np.float64]]]:
    """Every metric of each class in each resample; nothing where there are no scores."""
    even = np.ones(len(scored.labels))
    if not scored.labels.size:
        return []
    return bootstrap_metrics(scored.labels, scored.scores, even, drawing.of(scored.ids))


def _per_class(
    scored: Scored, resampled: Sequence[Mapping[str, NDArray[np.float64]]], above: float, drawing: Drawing
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Interval]]]:
    """Every metric of each class, and their intervals; `resampled` is for the challenges' threshold.

    Nothing where there are no scores: a ratio of nothing to nothing has a value by its rule.
    """
    if not scored.labels.size:
        return {}, {}
    even = np.ones(len(scored.labels))
    columns = zip(scored.labels.T, scored.scores.T, strict=True)
    values = dict(zip(scored.classes, [class_metrics(*each, even, above) for each in columns], strict=True))
    if above != POSITIVE_ABOVE:
        resampled = bootstrap_metrics(scored.labels, scored.scores, even, drawing.of(scored.ids), above)
    intervals = {
        name: {metric: percentile_interval(each[metric]) for metric in each if not math.isnan(values[name][metric])}
        for name, each in zip(scored.classes, resampled, strict=True)
    }
    return values, intervals


def _confusion(scored: Scored, above: float) -> dict[str, Counts]:
    """Images by class."""
    even = np.ones(len(scored.labels))
    columns = zip(scored.classes, scored.labels.T, scored.scores.T, strict=True)
    return {name: count_scores(labels, scores, even, above) for name, labels, scores in columns if labels.size}


def _matrix(scored: Scored) -> Matrix | None:
    """Where every image is in one of several classes; what ISIC-2017 has no column for is the third."""
    classes, labels, scores = scored.classes, scored.labels, scored.scores
    if classes == CLASSES[:2] and not np.isnan(scored.nevus).any():
        classes, scores = CLASSES, np.column_stack([scores, scored.nevus])
        labels = np.column_stack([labels, ~labels.any(axis=1)])
    if not labels.size or len(classes) < 2 or (labels.sum(axis=1) != 1).any():
        return None
    return Matrix(classes, tuple(map(tuple, confusion_matrix(labels, scores).tolist())))


def _official(judged: Judged, rules: Protocol) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The official scorer's documents of masks and of scores."""
    scored = judged.scored
    cases = [case.metrics for case in judged.cases if not case.problem]
    masks = mask_document(cases) if len(cases) == len(judged.cases) or not rules.complete else {}
    if scored.problems and rules.complete:
        return masks, {}
    return masks, score_document(scored.classes, scored.labels, scored.scores, _official_weights(scored, rules), rules)


def _official_weights(scored: Scored, rules: Protocol) -> NDArray[np.float64]:
    """What each image counts in the document of scores, and in its validation (N, 2)."""
    return scored.weights if rules.weighted else np.ones_like(scored.weights)


def _official_intervals(
    documents: tuple[Mapping[str, Any], Mapping[str, Any]],
    of_means: Mapping[str, Interval],
    scored: Scored,
    rules: Protocol,
    resampled: Sequence[Mapping[str, NDArray[np.float64]]],
    drawing: Drawing,
) -> dict[str, dict[str, Interval]]:
    """Those of the figures that the documents have."""
    found: dict[str, dict[str, Interval]] = {}
    if documents[0]:
        found["masks"] = mask_intervals(of_means)
    if documents[1]:
        table = scored.classes, scored.labels, scored.scores, _official_weights(scored, rules)
        found["scores"] = score_intervals(*table, rules, resampled, drawing.of(scored.ids))
    return found
