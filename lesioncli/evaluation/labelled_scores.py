"""Class scores of the labelled images: the join of the labels with scores.csv or a submission."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.scores import select_known
from lesioncli.evaluation.protocols import Protocol
from lesioncli.evaluation.reading.matching import match
from lesioncli.evaluation.reading.tables import LabelTable, ScoreRow

NO_ROW = "no row of scores"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Scores of the N images of which a label is known, for the K classes of which one is.

    `ids` are names in the labels and `rows` names in the table of scores. `labels` (N, K) are 1 or 0, or nan where
    unknown: the image then counts in the figures of its other classes. `scores` are (N, K). `weights`
    (N, 2) are the score weight and the validation weight, which only the official figures of a challenge use.
    `nevus` (N,) are scores of the class that ISIC-2017 labels have no column for, nan where there are none.
    `problems` names labelled ids without usable scores, with the reason, and `extra` the rows without a label.
    `unknown` counts the images with scores whose label is unknown, for each class of the table that has such images.
    """

    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    labels: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    scores: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    weights: Floats = field(default_factory=lambda: np.zeros((0, 2)))
    problems: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)
    nevus: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def count(self) -> int:
        """Number of images with scores and a known label."""
        return len(self.ids)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images with scores and a known label of each class."""
        return dict(zip(self.classes, (~np.isnan(self.labels)).sum(axis=0).tolist(), strict=True))

    @property
    def is_complete(self) -> bool:
        """Whether every label of the N images is known."""
        return not np.isnan(self.labels).any()

    @property
    def nevus_labels(self) -> Floats:
        """Labels (N,) of ISIC-2017's third class, which is that of the images that belong to neither of the others."""
        known = np.where(np.isnan(self.labels).any(axis=1), np.nan, 1.0)
        return np.where((self.labels == 1).any(axis=1), 0.0, known)

    def by_class(self) -> dict[str, tuple[NDArray[np.bool_], Floats]]:
        """Return labels and scores (n,) of the images whose label is known, for each class."""
        columns = zip(self.classes, self.labels.T, self.scores.T, strict=True)
        return {name: select_known(labels, scores, np.ones_like(scores))[:2] for name, labels, scores in columns}

    def columns(self, images: Sequence[int], classes: Sequence[str]) -> tuple[Floats, Floats]:
        """Return labels and scores (n, k) of some images, by their numbers, and some classes."""
        numbers = [self.classes.index(name) for name in classes]
        return self.labels[images][:, numbers], self.scores[images][:, numbers]

    def select(self, ids: Collection[str]) -> "LabelledScores":
        """Return the scores of some of the images."""
        rows = [row for row, name in enumerate(self.ids) if name in ids]
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            rows=tuple(self.rows[row] for row in rows),
            labels=self.labels[rows],
            scores=self.scores[rows],
            weights=self.weights[rows],
            nevus=self.nevus[rows],
        )

    def with_equal_weights(self) -> "LabelledScores":
        """Return the same scores, every image with weight 1."""
        return replace(self, weights=np.ones_like(self.weights))


def join_scores(labels: LabelTable, rows: Mapping[str, ScoreRow] | None, rules: Protocol) -> LabelledScores:
    """Join labels with rows of scores; the result is empty where there are no scores (`rows` is None)."""
    if rows is None:
        return LabelledScores()
    usable: list[tuple[str, str]] = []
    problems: list[str] = []
    matches = match(labels.ids, rows, rules)
    for name, candidates in sorted(matches.items()):
        if problem := _score_problem(candidates, rows, labels.classes, labels.by_id[name]):
            is_labelled = not all(map(math.isnan, labels.by_id[name]))
            problems += [f"{name}: {problem}"] if is_labelled or rules.complete else []
        else:
            usable.append((name, candidates[0]))
    extra = rows.keys() - {row for candidates in matches.values() for row in candidates} if labels.ids else ()
    shape = len(usable), len(labels.classes)
    joined = LabelledScores(
        classes=labels.classes,
        ids=tuple(name for name, _ in usable),
        rows=tuple(row for _, row in usable),
        labels=np.array([labels.by_id[name] for name, _ in usable], np.float64).reshape(shape),
        scores=np.array([rows[row].scores for _, row in usable], np.float64).reshape(shape),
        weights=np.array([labels.weights.get(name, (1, 1)) for name, _ in usable], np.float64).reshape(len(usable), 2),
        problems=tuple(problems),
        extra=tuple(sorted(extra)),
        nevus=np.array([rows[row].optional_score for _, row in usable], np.float64),
    )
    return _without_unknown(joined, rules)


def _without_unknown(joined: LabelledScores, rules: Protocol) -> LabelledScores:
    """Leave out images and classes of which no label is known; where a protocol needs all labels, name each image."""
    known = ~np.isnan(joined.labels)
    if known.all():
        return joined
    images, has_none = np.flatnonzero(known.any(axis=1)), not known.any()
    classes = [has_none or is_known.any() for is_known in known.T]
    unknown = {name: len(known) - count for name, count in joined.counts.items() if count < len(known)}
    problems = [
        f"{name}: unknown label of {', '.join(itertools.compress(joined.classes, (~is_known).tolist()))}"
        for name, is_known in zip(joined.ids, known, strict=True)
        if rules.complete and not is_known.all()
    ]
    return replace(
        joined,
        classes=tuple(itertools.compress(joined.classes, classes)),
        ids=tuple(joined.ids[image] for image in images),
        rows=tuple(joined.rows[image] for image in images),
        labels=joined.labels[images][:, classes],
        scores=joined.scores[images][:, classes],
        weights=joined.weights[images],
        nevus=joined.nevus[images],
        problems=tuple(sorted((*joined.problems, *problems))),
        unknown=unknown,
    )


def _score_problem(
    candidates: tuple[str, ...], rows: Mapping[str, ScoreRow], classes: Sequence[str], labels: Sequence[float]
) -> str:
    """Return why a labelled image has no usable scores of the classes whose label is known; "" where it has."""
    if not candidates:
        return NO_ROW
    if len(candidates) > 1:
        return f"several rows of scores: {', '.join(candidates)}"
    row = rows[candidates[0]]
    if row.failure:
        return f"failed: {row.failure}"
    columns = zip(classes, row.scores, labels, strict=True)
    invalid = [name for name, score, label in columns if not (0 <= score <= 1 or math.isnan(label))]
    return f"{' and '.join(invalid)} not a number from 0 to 1" if invalid else ""
