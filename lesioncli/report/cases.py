"""The cases of a report: every image, predicted mask or ground truth mask is one case.

A case has the name of its mask, relative to the folder, with "/", without suffix and `_segmentation`. This is also the
name of its image, except where `segment --isic` named the masks.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.reading.masks import find_predicted_masks
from lesioncli.evaluation.result import Evaluation
from lesioncli.files import printable
from lesioncli.images.stored import ImagePath
from lesioncli.inference.outcome import without_suffix
from lesioncli.options import Status
from lesioncli.segmented import CONFIDENCE, NOTE, SegmentedFolder


class CaseState(StrEnum):
    """State of a case; the first two are problems."""

    FAILED = "failed"  # by `segment`
    NOT_EVALUATED = "not evaluated"
    EVALUATED = "evaluated"
    NO_GROUND_TRUTH = "without ground truth"
    SEGMENTED = "segmented"  # in a report without ground truth


PROBLEMS = (CaseState.FAILED, CaseState.NOT_EVALUATED)


@dataclass(frozen=True)
class Case:
    """Everything that is known of one case.

    `image` is the image's name in scores.csv. `problem` is the reason of a FAILED or NOT_EVALUATED state. `values` are
    the numbers in scores.csv and `metrics` those of the evaluation. `labels` are the classes that its labels give it,
    None where it has no labels.
    """

    name: str
    image: str
    state: CaseState
    problem: str = ""
    note: str = ""
    size: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    image_path: Path | None = None
    prediction_path: ImagePath | None = None
    truth_path: Path | None = None

    def number(self, column: str) -> float:
        """Return a metric or a value; nan where there is none."""
        return self.metrics.get(column, self.values.get(column, math.nan))


def list_cases(
    segmented: SegmentedFolder, image_paths: Mapping[str, Path], evaluation: Evaluation | None
) -> list[Case]:
    """Return one case for every row of scores.csv, predicted mask and ground truth mask, the worst first.

    `image_paths` are image files by name without suffix.

    Raises InputError if there is no case.
    """
    names_by_image = {without_suffix(row["image"]): name for name, row in segmented.rows.items()}
    cases = evaluation.masks.cases if evaluation else ()
    sources = _Sources(
        segmented,
        image_paths,
        predictions=_find_predictions(segmented.folder, evaluation),
        results={_case_name(result, names_by_image): result for result in cases},
        labels=_labels_by_row(evaluation),
    )
    names = sorted({*segmented.rows, *sources.predictions, *sources.results})
    if not names:
        raise InputError(
            f"{segmented.folder}: no masks and no scores.csv found; give the folder that `lesioncli segment` wrote"
        )
    return sorted((sources.case(name) for name in names), key=_badness)


def _case_name(result: CaseResult, names_by_image: Mapping[str, str]) -> str:
    """Return the case of an evaluation result; a failed image is matched by its image's name."""
    name = printable((result.pair.matched if result.pair else "") or result.name)
    return names_by_image.get(name, name)


def _find_predictions(folder: Path, evaluation: Evaluation | None) -> dict[str, ImagePath]:
    if evaluation and not folder.is_dir():  # a table of pairs may name masks anywhere
        return {}
    return {printable(name): path for name, path in find_predicted_masks(folder).masks.items()}


def _labels_by_row(evaluation: Evaluation | None) -> dict[str, tuple[str, ...]]:
    """Return the classes of each labelled image, by its name in the scores, if all are known or one is positive."""
    if evaluation is None:
        return {}
    labelled = evaluation.scores.labelled
    return {
        row: tuple(itertools.compress(labelled.classes, labels == 1))
        for row, labels in zip(labelled.rows, labelled.labels, strict=True)
        if (labels == 1).any() or not np.isnan(labels).any()
    }


@dataclass(frozen=True)
class _Sources:
    """Everything from which cases are put together, by name."""

    segmented: SegmentedFolder
    image_paths: Mapping[str, Path]
    predictions: Mapping[str, ImagePath]
    results: Mapping[str, CaseResult]
    labels: Mapping[str, tuple[str, ...]]

    def case(self, name: str) -> Case:
        row = self.segmented.rows.get(name, {})
        result = self.results.get(name)
        image = without_suffix(row["image"]) if row else name
        image_path = self.image_paths.get(image)
        is_failed = row.get("status") == Status.FAILED
        problem = result.problem if result else ""
        notes = row.get(NOTE, ""), result.note if result else ""
        return Case(
            name=name,
            image=row.get("image") or (image_path and printable(image_path.name)) or name,
            state=CaseState.FAILED if is_failed else self._state(result),
            problem=(row["reason"] or "failed") if is_failed else problem,
            note="; ".join(filter(None, notes)),
            size=f"{row['width']} x {row['height']} px" if row.get("width") else "",
            values=self.segmented.values(name) if row and not is_failed else {},
            metrics=result.metrics if result else {},
            labels=self.labels.get(image),
            image_path=image_path,
            prediction_path=None if is_failed else self._prediction(name, result),
            truth_path=result.pair.truth if result and result.pair else None,
        )

    def _state(self, result: CaseResult | None) -> CaseState:
        if not self.results:
            return CaseState.SEGMENTED
        if result is None:
            return CaseState.NO_GROUND_TRUTH
        return CaseState.NOT_EVALUATED if result.problem else CaseState.EVALUATED

    def _prediction(self, name: str, result: CaseResult | None) -> ImagePath | None:
        paired = result.pair.prediction if result and result.pair else None
        return paired or self.predictions.get(name)


def _badness(case: Case) -> tuple[int, float, str]:
    """Return a sort key: problems, then by Jaccard, then cases without ground truth by confidence."""
    jaccard, confidence = case.number("jaccard"), case.number(CONFIDENCE)
    if case.state in PROBLEMS:
        return 0, 0.0, case.name
    if not math.isnan(jaccard):
        return 1, jaccard, case.name
    return (3, 0.0, case.name) if math.isnan(confidence) else (2, confidence, case.name)
