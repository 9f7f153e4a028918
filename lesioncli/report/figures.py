"""The figures of a report, made ready to be read: names in words, values with their intervals, plots with their data.

No figure is computed here that evaluate computes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.pixels import MINIMUM_JACCARD
from lesioncli.evaluation.metrics.scores import CALIBRATION_BINS, calibration_bins, roc_curve
from lesioncli.evaluation.result import ConfusionMatrix, Evaluation
from lesioncli.evaluation.statistics import groups
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN
from lesioncli.report import plots as draw
from lesioncli.report.cases import AREA, CONFIDENCE, Case

Floats = NDArray[np.float64]
Interval = tuple[float, float] | None

_WORDS = {
    "jaccard": "Jaccard",
    "dice": "Dice",
    "threshold_jaccard": "thresholded Jaccard",
    "hausdorff95_px": "95 % Hausdorff distance, px",
    "hausdorff95_diagonal": "95 % Hausdorff distance / diagonal",
    "surface_distance_px": "average surface distance, px",
    "surface_distance_diagonal": "average surface distance / diagonal",
    "centroid_error_px": "distance of centres, px",
    "centroid_error_diagonal": "distance of centres / diagonal",
    AREA: "lesion area, share of the picture",
    AUC_MEAN: "AUC, mean of the classes",
    "auc": "AUC",
    "auc_sens_80": "AUC above sensitivity 0.80",
    "ap": "average precision",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
_AT = re.compile(r"(sens|spec)_at_(sens|spec)_(\d+)")


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval and the number of images behind it. `key` is its name in evaluate's JSON."""

    key: str
    words: str
    value: float
    interval: Interval
    images: int


@dataclass(frozen=True)
class Plot:
    """An SVG and the sentence under it."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class ClassesTable:
    """Metrics in words by their keys, and for each a figure of every class."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Figure, ...]], ...]
    images: int


def readable(key: str) -> str:
    """A metric, class or column in words."""
    if found := _AT.fullmatch(key):
        words = {"sens": "sensitivity", "spec": "specificity"}
        return f"{words[found[1]]} at {words[found[2]]} 0.{found[3]}"
    return _WORDS.get(key, key.replace("_", " "))


def mask_figures(evaluation: Evaluation) -> list[Figure]:
    """Means over the judged images."""
    judged = [case.metrics for case in evaluation.masks.cases if not case.problem]
    return [
        Figure(
            key,
            readable(key),
            value,
            evaluation.masks.intervals.get(key),
            sum(not math.isnan(metrics[key]) for metrics in judged),
        )
        for key, value in evaluation.masks.means.items()
    ]


def auc_figures(evaluation: Evaluation) -> list[Figure]:
    """AUC of each class, and their mean where there are several."""
    values = {
        **evaluation.scores.auc,
        **({AUC_MEAN: evaluation.scores.auc_mean} if len(evaluation.scores.auc) > 1 else {}),
    }
    return [
        Figure(
            key,
            readable(key) if key == AUC_MEAN else f"AUC, {readable(key)}",
            value,
            evaluation.scores.intervals.get(key),
            evaluation.scores.labelled.count,
        )
        for key, value in values.items()
    ]


def classes_table(evaluation: Evaluation) -> ClassesTable | None:
    """Every metric of every class, the AUC first; None where no scores were judged."""
    if not evaluation.scores.labelled.count:
        return None
    classes = tuple(evaluation.scores.per_class)
    keys = list(next(iter(evaluation.scores.per_class.values())))
    rows = tuple(
        (
            key,
            readable(key),
            tuple(
                Figure(
                    key,
                    readable(key),
                    evaluation.scores.per_class[name][key],
                    evaluation.scores.per_class_intervals.get(name, {}).get(key),
                    evaluation.scores.labelled.count,
                )
                for name in classes
            ),
        )
        for key in sorted(keys, key=lambda key: key != "auc")
    )
    return ClassesTable(tuple(map(readable, classes)), rows, evaluation.scores.labelled.count)


@dataclass(frozen=True)
class GroupTable:
    """The groups of a column: headings in words; of each group its name, images, figures, and where it is behind."""

    column: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Figure, ...], str], ...]


def group_tables(evaluation: Evaluation, mask_metric: str) -> list[GroupTable]:
    """One table for each column that was asked for, of the metric by which the masks are ranked and of the AUCs."""
    aucs = [*evaluation.scores.auc, *([AUC_MEAN] if len(evaluation.scores.auc) > 1 else [])]
    words = {mask_metric: readable(mask_metric)} if evaluation.masks.means else {}
    words |= {key: readable(key) if key == AUC_MEAN else f"AUC, {readable(key)}" for key in aucs}
    by_column: dict[str, list[groups.GroupResult]] = {}
    for group in evaluation.groups:
        by_column.setdefault(group.column, []).append(group)
    return [
        GroupTable(readable(column), tuple(words.values()), tuple(_group_row(group, words) for group in members))
        for column, members in by_column.items()
    ]


def _group_row(group: groups.GroupResult, words: Mapping[str, str]) -> tuple[str, int, tuple[Figure, ...], str]:
    nothing = groups.Estimate(math.nan)
    found = {key: group.estimates.get(key, nothing) for key in words}
    figures = (
        Figure(key, words[key], each.value, None if math.isnan(each.low) else (each.low, each.high), each.images)
        for key, each in found.items()
    )
    behind = (f"{words.get(name, readable(name))} {_signed(group.differences[name])}" for name in group.behind)
    return group.group, group.images, tuple(figures), "; ".join(behind)


def _signed(difference: groups.Estimate) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


@dataclass(frozen=True)
class MatrixTable:
    """Images of each class, by the class of their highest score, and last how many have a tie."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]


def matrix_table(matrix: ConfusionMatrix | None) -> MatrixTable | None:
    if matrix is None:
        return None
    classes = tuple(map(readable, matrix.classes))
    return MatrixTable(classes, tuple(zip(classes, matrix.counts, strict=True)))


def tiles(cases: Sequence[Case], evaluation: Evaluation | None) -> list[Figure]:
    """The few figures that stand large at the top; without truth, medians of what the model says of itself."""
    if evaluation:
        by_key = {figure.key: figure for figure in (*mask_figures(evaluation), *auc_figures(evaluation))}
        auc = [AUC_MEAN] if AUC_MEAN in by_key else list(evaluation.scores.auc)
        return [by_key[key] for key in ("jaccard", "threshold_jaccard", "dice", *auc) if key in by_key]
    medians = [(key, _known(cases, key)) for key in (CONFIDENCE, AREA)]
    return [
        Figure(key, f"{readable(key)}, median", float(np.median(values)), None, values.size)
        for key, values in medians
        if values.size
    ]


@dataclass(frozen=True)
class Described:
    """A column of scores.csv over all images: quantiles of .05, .25, .5, .75 and .95."""

    words: str
    quantiles: tuple[float, ...]
    images: int


def described(cases: Sequence[Case], columns: Sequence[str]) -> list[Described]:
    """How each column of scores.csv is distributed."""
    known = [(column, _known(cases, column)) for column in columns]
    return [
        Described(readable(column), tuple(np.percentile(values, (5, 25, 50, 75, 95)).tolist()), values.size)
        for column, values in known
        if values.size
    ]


def _known(cases: Sequence[Case], column: str) -> Floats:
    values = np.array([case.value(column) for case in cases], np.float64)
    return np.asarray(values[np.isfinite(values)])


def plots(cases: Sequence[Case], classes: Sequence[str], evaluation: Evaluation | None) -> list[Plot]:
    """The plots that the data allow."""
    if evaluation is None:
        return _plots_without_truth(cases, classes)
    scored = evaluation.scores.labelled
    found = [_jaccard_plot(_known(cases, "jaccard")), _confidence_plot(cases)]
    return [*filter(None, found), *(_class_plots(scored, evaluation) if scored.labels.size else ())]


def _jaccard_plot(values: Floats) -> Plot | None:
    if not values.size:
        return None
    low, middle, high = np.percentile(values, (25, 50, 75))
    below = np.count_nonzero(values < MINIMUM_JACCARD)
    caption = (
        f"Jaccard of {_images(values.size)}: median {middle:.3f}, the middle half from {low:.3f} to {high:.3f}; "
        f"{below} below {MINIMUM_JACCARD:.2f}, where ISIC-2018 counts a mask as nothing."
    )
    return Plot("jaccard", draw.jaccard_histogram(values, caption), caption)


def _confidence_plot(cases: Sequence[Case]) -> Plot | None:
    pairs = np.array([(case.value(CONFIDENCE), case.value("jaccard")) for case in cases], np.float64)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < 2 * draw.TENTHS:
        return None
    caption = (
        f"What confidence is worth, on {_images(len(pairs))}: their Jaccard by tenths of confidence, median and "
        "middle 80 %. On the line, confidence is right."
    )
    return Plot("confidence", draw.confidence_against_jaccard(pairs[:, 0], pairs[:, 1], caption), caption)


def _class_plots(scored: LabelledScores, evaluation: Evaluation) -> list[Plot]:
    columns = {
        readable(name): (labels, scores, np.ones(len(labels)))
        for name, labels, scores in zip(scored.classes, scored.labels.T, scored.scores.T, strict=True)
    }
    curves = {name: curve for name, each in columns.items() if (curve := roc_curve(*each))}
    if not curves:
        return []
    shares = {name: float(labels.mean()) for name, (labels, *_) in columns.items()}
    positive = "; ".join(f"{name}: {int(labels.sum())} of {len(labels)}" for name, (labels, *_) in columns.items())
    by_name = {readable(name): value for name, value in evaluation.scores.auc.items()}
    aucs = ", ".join(f"{name} {by_name[name]:.3f}" for name in curves)
    captions = {
        "roc": f"ROC curves; area under the curve: {aucs}.",
        "precision-recall": f"Precision and recall. Faint lines: the share of positives ({positive}).",
        "calibration": f"Calibration: share of positives by score, in {CALIBRATION_BINS} bins; a larger dot is of more "
        "images. On the line, a score is a probability.",
    }
    bins = {name: calibration_bins(*columns[name]) for name in curves}
    svgs = {
        "roc": draw.roc_curves(curves, captions["roc"]),
        "precision-recall": draw.precision_recall_curves(curves, shares, captions["precision-recall"]),
        "calibration": draw.calibration(bins, captions["calibration"]),
    }
    return [Plot(name, svgs[name], caption) for name, caption in captions.items()]


def _plots_without_truth(cases: Sequence[Case], classes: Sequence[str]) -> list[Plot]:
    columns = {
        CONFIDENCE: "The Jaccard that the masks would have if their own probabilities were true",
        AREA: "Share of the picture that is lesion",
    }
    columns |= {name: f"Scores for {readable(name)}" for name in classes}
    found = []
    for number, (column, words) in enumerate(columns.items()):
        values = _known(cases, column)
        if values.size:
            caption = f"{words}: median {np.median(values):.3f} of {_images(values.size)}."
            name = f"column-{number}"  # a column may be called anything
            found.append(Plot(name, draw.histogram(name, values, readable(column), caption), caption))
    return found


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
