"""Columns of metadata and labels that define groups (`--by`) and clusters (`--cluster`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.predictions import EvaluatedPredictions
from lesioncli.evaluation.protocols import Protocol
from lesioncli.evaluation.reading.ground_truth import GroundTruth
from lesioncli.evaluation.reading.matching import masks_by_image, match
from lesioncli.evaluation.reading.metadata import (
    CONTRAST,
    LESION_SIZE,
    MEASURED,
    MISSING,
    Grouping,
    find_columns,
    make_grouping,
    values_by_image,
)
from lesioncli.evaluation.statistics.resampling import ResamplingPlan

_MEASURES: Mapping[str, Callable[[CaseResult], float]] = {
    LESION_SIZE: lambda case: 100 * case.lesion_fraction,
    CONTRAST: lambda case: case.contrast,
}


@dataclass(frozen=True)
class Columns:
    """Values of columns for each image, None for those that are MEASURED, and notes on images without a value."""

    values: Mapping[str, Mapping[str, str] | None]
    notes: tuple[str, ...]


def read_columns_by_image(
    names: Sequence[str], metadata: Path | None, ground_truth: GroundTruth, rules: Protocol
) -> Columns:
    """Read columns of `metadata`, else of the labels, for each mask and labelled id of the ground truth.

    Raises InputError where there is no such column, or no image has a row in its table.
    """
    values: dict[str, Mapping[str, str] | None] = {}
    notes: list[str] = []
    for column, by_id in find_columns(names, metadata, ground_truth.labels).items():
        if by_id is None:
            if not ground_truth.masks:
                raise InputError(f"{column}: is measured on ground truth masks, and there are none")
            values[column] = None
            continue
        masks, ids = masks_by_image(ground_truth.masks, rules), ground_truth.labels.ids
        values[column], note = values_by_image(masks, ids, by_id, rules, column)
        notes.append(note)
    return Columns(values, tuple(filter(None, notes)))


def read_clusters(column: str, metadata: Path | None, ground_truth: GroundTruth, rules: Protocol) -> Columns:
    """Read the column whose values define clusters; empty where `column` is "". InputError for a MEASURED one."""
    if column in MEASURED:
        raise InputError(f"--cluster {column}: images of one {column} are not related; name another column")
    return read_columns_by_image([column] if column else [], metadata, ground_truth, rules)


def plan_resampling(column: str, clusters: Columns, seed: int) -> ResamplingPlan:
    """Return the plan to resample images of one cluster together, or every image alone if `column` is ""."""
    values = clusters.values.get(column) or {}
    known = {image: value for image, value in values.items() if value.lower() not in MISSING}
    return ResamplingPlan(seed, column, known)


def group_images(columns: Columns, predictions: EvaluatedPredictions, rules: Protocol) -> list[Grouping]:
    """Return the groups of every column, for the images that were evaluated."""
    images = (*predictions.masks.images, *predictions.labelled.ids)
    return [
        make_grouping(column, {image: known.get(image, "") for image in images})
        for column, values in columns.values.items()
        for known in [_measured(column, predictions, rules) if values is None else values]
    ]


def _measured(column: str, predictions: EvaluatedPredictions, rules: Protocol) -> dict[str, str]:
    """Return the values of a MEASURED column, by name of the mask and by labelled id."""
    values = {case.name: str(_MEASURES[column](case)) for case in predictions.cases if not case.problem}
    matches = match(predictions.labelled.ids, values, rules)
    return {name: values[masks[0]] for name, masks in matches.items() if len(masks) == 1} | values
