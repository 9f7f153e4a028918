"""Class scores of the labelled images: the join of the labels with scores.csv or a submission."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.protocols import Protocol
from lesioncli.evaluation.reading.matching import match
from lesioncli.evaluation.reading.tables import LabelTable, ScoreRow

NO_ROW = "no row of scores"
UNKNOWN_LABEL = "a label is unknown"


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Labels and scores of the N images that have both, for K classes.

    `ids` are names in the labels and `rows` names in the table of scores. `labels` and `scores` are (N, K). `weights`
    (N, 2) are the score weight and the validation weight, which only the official figures of a challenge use.
    `nevus` (N,) are scores of the class that ISIC-2017 labels have no column for, nan where there are none.
    `problems` names labelled ids without usable scores, with the reason, and `extra` the rows without a label.
    `unknown` names labelled ids with scores and an unknown label, which count in no figure.
    """

    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    labels: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    problems: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    nevus: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def count(self) -> int:
        """Number of images with labels and scores."""
        return len(self.ids)

    def by_class(self) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.float64]]]:
        """Return labels (N,) and scores (N,) of each class."""
        return dict(zip(self.classes, zip(self.labels.T, self.scores.T, strict=True), strict=True))

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
    unknown: list[str] = []
    matches = match(labels.ids, rows, rules)
    for name, candidates in sorted(matches.items()):
        if name in labels.partial:
            unknown += [name] if candidates else []
        elif problem := _score_problem(candidates, rows, labels.classes):
            problems.append(f"{name}: {problem}")
        else:
            usable.append((name, candidates[0]))
    if rules.complete:
        problems = sorted([*problems, *(f"{name}: {UNKNOWN_LABEL}" for name in unknown)])
    extra = rows.keys() - {row for candidates in matches.values() for row in candidates} if labels.ids else ()
    shape = len(usable), len(labels.classes)
    return LabelledScores(
        classes=labels.classes,
        ids=tuple(name for name, _ in usable),
        rows=tuple(row for _, row in usable),
        labels=np.array([labels.by_id[name] for name, _ in usable], np.bool_).reshape(shape),
        scores=np.array([rows[row].scores for _, row in usable], np.float64).reshape(shape),
        weights=np.array([labels.weights.get(name, (1, 1)) for name, _ in usable], np.float64).reshape(len(usable), 2),
        problems=tuple(problems),
        unknown=tuple(unknown),
        extra=tuple(sorted(extra)),
        nevus=np.array([rows[row].optional_score for _, row in usable], np.float64),
    )


def _score_problem(candidates: tuple[str, ...], rows: Mapping[str, ScoreRow], classes: tuple[str, ...]) -> str:
    """Return why a labelled image has no usable scores; "" where it has."""
    if not candidates:
        return NO_ROW
    if len(candidates) > 1:
        return f"several rows of scores: {', '.join(candidates)}"
    row = rows[candidates[0]]
    if row.failure:
        return f"failed: {row.failure}"
    invalid = [column for column, score in zip(classes, row.scores, strict=True) if not 0 <= score <= 1]
    return f"{' and '.join(invalid)} not a number from 0 to 1" if invalid else ""
