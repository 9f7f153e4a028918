"""Tables of metrics, labels and scores for tests of statistics."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.cases import MaskMetrics
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.predictions import EvaluatedPredictions

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

NO_MASKS = MaskMetrics.from_cases(())


def numbered(count: int) -> tuple[str, ...]:
    """Return image names i0000, i0001, ..."""
    return tuple(f"i{number:04}" for number in range(count))


def mask_metrics(names: Sequence[str] | None = None, **columns: Floats) -> MaskMetrics:
    """Return mask metrics (N, M) from their columns."""
    values = np.stack(list(columns.values()), axis=1)
    return MaskMetrics(tuple(names or numbered(len(values))), tuple(columns), values)


def labelled_scores(labels: Bools, scores: Floats, ids: Sequence[str] | None = None) -> LabelledScores:
    """Return labels and scores (N, K) of the classes mel, sk and nv."""
    names = tuple(ids or numbered(len(labels)))
    classes = ("mel", "sk", "nv")[: labels.shape[1]]
    return LabelledScores(classes, names, names, labels.astype(np.float64), scores, np.ones((len(labels), 2)))


def predictions(masks: MaskMetrics = NO_MASKS, labelled: LabelledScores | None = None) -> EvaluatedPredictions:
    """Return predictions that were evaluated with these results."""
    return EvaluatedPredictions(masks=masks, labelled=labelled or LabelledScores())


def two_classes(images: int) -> tuple[Bools, Floats]:
    """Return labels and scores (images, 2) with ties; the second class is rarer and easier to recognize."""
    rng = np.random.default_rng(7)
    labels = rng.random((images, 2)) < (0.3, 0.15)
    scores = rng.normal(0.4 + labels * (0.15, 0.3), 0.2)
    return labels, np.asarray(scores.clip(0, 1).round(2), np.float64)


def two_classifiers(images: int, seed: int = 7) -> tuple[Bools, Floats, Floats]:
    """Return labels (images, 2) and the correlated scores of a better and a worse classifier."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, 2)) < (0.3, 0.2)
    common = labels * 0.6 + rng.normal(0, 0.5, labels.shape)
    return labels, common + rng.normal(0, 0.2, labels.shape), common + rng.normal(0, 0.5, labels.shape)
