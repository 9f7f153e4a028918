"""How the challenges judge, and their scorer's document: its names, its rules, its digits.

The model is isic-challenge-scoring 5.8.0, which judges masks and scores apart. `overall` is what it prints there: of
masks always the thresholded Jaccard. What a challenge ranked by, which is something else in 2017, is `ranking`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.scores import COUNT_METRICS, balanced_accuracy, bootstrap_metrics, class_metrics
from lesioncli.evaluation.reading.tables import column_key
from lesioncli.evaluation.statistics.bootstrap import Draws, percentile_interval, resamples
from lesioncli.isic import find_id
from lesioncli.spec import CLASSES

Interval = tuple[float, float]

MASK_METRICS = ("accuracy", "sensitivity", "specificity", "jaccard", "threshold_jaccard", "dice")
SCORE_METRICS = (*COUNT_METRICS, "auc", "auc_sens_80", "ap")


@dataclass(frozen=True)
class Protocol:
    """A challenge's rules.

    Masks are ranked by the mean `mask_metric`, scores by `score_metric`: the mean of this metric over the classes, or
    the balanced accuracy. Where there are `classes`, scores are ranked by these together or not at all. Where
    `isic_names`, a file belongs to the image whose number of seven digits it names.
    Where `complete`, there are no official figures unless every image could be judged. Where `weighted`, an image
    counts in the document of scores what it weighs by its labels, as in the official scorer; else once, as everywhere.
    """

    mask_metric: str
    score_metric: str
    isic_names: bool
    complete: bool
    weighted: bool
    classes: tuple[str, ...] = ()


ISIC2018 = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # of Task 3

PROTOCOLS: Mapping[str, Protocol] = {
    "plain": Protocol("jaccard", "auc", isic_names=False, complete=False, weighted=False),
    "isic2017": Protocol("jaccard", "auc", isic_names=True, complete=True, weighted=True, classes=CLASSES[:2]),
    "isic2018": Protocol(
        "threshold_jaccard", "balanced_accuracy", isic_names=True, complete=True, weighted=True, classes=ISIC2018
    ),
    "ph2": Protocol("jaccard", "auc", isic_names=False, complete=True, weighted=False),
}


def image_id(name: str, protocol: Protocol) -> str:
    """The image to which a file or row of this name belongs: `ISIC_` and its number, or the last part of the name."""
    return (find_id(name) if protocol.isic_names else "") or name.rpartition("/")[2]


def mask_document(cases: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """What the official scorer prints of masks, from the metrics of each; nothing where there are none."""
    if not cases:
        return {}
    means = {name: float(np.mean([case[name] for case in cases])) for name in MASK_METRICS}
    overall = means["threshold_jaccard"]
    return {"overall": overall, "validation": overall, "macro_average": means}


def score_document(
    classes: tuple[str, ...],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    protocol: Protocol,
) -> dict[str, Any]:
    """What the official scorer prints of labels and scores (N, K); weights (N, 2) are those for score and validation.

    Nothing where there are no images. A figure that is undefined is nan.
    """
    if not labels.size:
        return {}
    overall, validation = (_judge(classes, labels, scores, column) for column in weights.T)
    return {
        "overall": _ranked(overall, protocol.score_metric),
        "validation": _ranked(validation, protocol.score_metric),
        **overall,
    }


def _judge(
    classes: tuple[str, ...], labels: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, Any]:
    by_class = [class_metrics(*columns, weights) for columns in zip(labels.T, scores.T, strict=True)]
    per_category = {name: dict(zip(classes, (each[name] for each in by_class), strict=True)) for name in SCORE_METRICS}
    return {
        "per_category": per_category,
        "macro_average": {name: sum(values.values()) / len(classes) for name, values in per_category.items()},
        "aggregate": {"balanced_accuracy": float(balanced_accuracy(labels, scores, weights))},
    }


def mask_intervals(means: Mapping[str, Interval]) -> dict[str, Interval]:
    """The intervals of what mask_document() has, by their path in it."""
    overall = {name: means["threshold_jaccard"] for name in ("overall", "validation") if means}
    return {**overall, **{f"macro_average.{name}": means[name] for name in MASK_METRICS if means}}


def score_intervals(
    classes: tuple[str, ...],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    protocol: Protocol,
    resampled: Sequence[Mapping[str, NDArray[np.float64]]],
    draws: Draws,
) -> dict[str, Interval]:
    """The intervals of what score_document() has, by their path in it; none of what is undefined.

    `resampled` is what bootstrap_metrics() finds with the same draws where each image counts once.
    """
    if not labels.size:
        return {}
    by_column = partial(_by_path, classes, labels, scores, resampled=resampled, draws=draws)
    overall = by_column(weights[:, 0])
    validation = by_column(weights[:, 1]) if (weights[:, 0] != weights[:, 1]).any() else overall
    part = "aggregate" if protocol.score_metric == "balanced_accuracy" else "macro_average"
    ranked = f"{part}.{protocol.score_metric}"
    every = {"overall": overall[ranked], "validation": validation[ranked], **overall}
    found = {name: percentile_interval(values) for name, values in every.items()}
    return {name: interval for name, interval in found.items() if not math.isnan(interval[0])}


def _by_path(
    classes: tuple[str, ...],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    resampled: Sequence[Mapping[str, NDArray[np.float64]]],
    draws: Draws,
) -> dict[str, NDArray[np.float64]]:
    """What _judge() has, by its path, in each resample; drawn anew where an image counts more or less than once."""
    if (weights != 1).any():
        resampled = bootstrap_metrics(labels, scores, weights, draws)
    by_class = dict(zip(classes, resampled, strict=True))
    balanced = [balanced_accuracy(labels, scores, counts * weights) for counts in resamples(len(labels), draws)]
    return {
        **{f"per_category.{name}.{each}": by_class[each][name] for name in SCORE_METRICS for each in classes},
        **{f"macro_average.{name}": np.mean([by_class[each][name] for each in classes], 0) for name in SCORE_METRICS},
        "aggregate.balanced_accuracy": np.concatenate(balanced),
    }


def _ranked(document: Mapping[str, Any], metric: str) -> float:
    figures = document["aggregate"] | document["macro_average"]
    return float(figures[metric])


def lacking(protocol: Protocol, classes: Collection[str]) -> tuple[str, ...]:
    """The classes of a challenge that are not among these, in any spelling."""
    there = set(map(column_key, classes))
    return tuple(name for name in protocol.classes if column_key(name) not in there)


def exceeding(protocol: Protocol, classes: Collection[str]) -> tuple[str, ...]:
    """Those of the classes that a challenge does not know."""
    known = set(map(column_key, protocol.classes))
    return tuple(name for name in classes if known and column_key(name) not in known)


def ranking(protocol: Protocol, masks: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """The figures a challenge ranks by, with the name under which the documents hold them.

    None of scores unless they are of the challenge's classes, all and no other: a mean over others is not its figure.
    """
    found: dict[str, tuple[str, float]] = {}
    if masks:
        found["masks"] = f"macro_average.{protocol.mask_metric}", masks["macro_average"][protocol.mask_metric]
    classes = scores["per_category"]["auc"] if scores else ()
    if scores and not (lacking(protocol, classes) or exceeding(protocol, classes)):
        part = "aggregate" if protocol.score_metric in scores["aggregate"] else "macro_average"
        found["scores"] = f"{part}.{protocol.score_metric}", scores[part][protocol.score_metric]
    return found


def joined(masks: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """One document of the official two: the scores' own under `classification`, and the masks' over it at the top.

    So each official name is found where the scorer has it; `overall`, `validation` and `macro_average`, which both
    have, are those of the masks where there are masks.
    """
    return {**scores, **masks, **({"classification": dict(scores)} if scores else {})}
