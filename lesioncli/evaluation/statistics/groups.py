"""Figures of each group of images, and which groups fall clearly behind all others.

Group and rest are drawn in the same bootstrap resamples. A group is behind in a figure where the interval of the
difference, group minus rest, lies wholly below zero. That interval is widened for the number of differences that are
judged, groups times figures (Bonferroni): of columns that make no difference, at most about one in twenty has a flag.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.cases import Masks, Scored
from lesioncli.evaluation.reading.metadata import Column
from lesioncli.evaluation.statistics.bootstrap import (
    AUC_MEAN,
    Drawing,
    Draws,
    auc,
    bootstrap_aucs_of_parts,
    bootstrap_means_of_parts,
    joint_interval,
    means,
    percentile_interval,
)

LEAST_IMAGES = 20  # with a value, in a group and in the rest: a percentile interval of fewer is too narrow
LEAST_OF_A_LABEL = 10  # with either label, for an AUC


class Figure(NamedTuple):
    """A value with the ends of its interval, nan where there is none, and the number of images it is made of."""

    value: float
    low: float = math.nan
    high: float = math.nan
    images: int = 0


@dataclass(frozen=True)
class Group:
    """The images of one group of a column.

    `figures` are means of masks and AUCs by the names that Evaluation.means and .auc have, and AUC_MEAN. `differences`
    are group minus rest, with the widened interval, of the figures that groups are judged by; none where group or rest
    are too small.
    """

    column: str
    group: str
    images: int
    figures: Mapping[str, Figure]
    differences: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def behind(self) -> tuple[str, ...]:
        """The figures in which the group falls clearly behind."""
        return tuple(name for name, difference in self.differences.items() if difference.high < 0)


class _Part(NamedTuple):
    """One figure of a part of the images: its value, resamples (R,), and whether they are enough for an interval."""

    value: float
    resampled: NDArray[np.float64]
    images: int
    enough: bool

    def figure(self) -> Figure:
        low, high = percentile_interval(self.resampled) if self.enough else (math.nan, math.nan)
        return Figure(self.value, low, high, self.images)


def split(column: Column, masks: Masks, scored: Scored, judged_by: Sequence[str], drawing: Drawing) -> list[Group]:
    """Each group of a column, its figures, and by `judged_by` how far it is from all others."""
    parts = [dict[str, _Part]() for _ in range(2 * len(column.groups))]  # each group, then the rest of each
    for found in (_means(column, masks, drawing), _aucs(column, scored, drawing)):
        for mine, more in zip(parts, found, strict=True):
            mine.update(more)
    groups, rests = parts[: len(column.groups)], parts[len(column.groups) :]
    differences = _differences(groups, rests, judged_by)
    counted = Counter(column.of[image] for image in masks.images or scored.ids)
    return [
        Group(column.name, name, counted[name], {key: part.figure() for key, part in mine.items()}, difference)
        for name, mine, difference in zip(column.groups, groups, differences, strict=True)
    ]


def _members(column: Column, images: Sequence[str]) -> list[NDArray[np.intp]]:
    """Which images are in each group, and then which are in the rest of each."""
    groups = np.array([column.groups.index(column.of[image]) for image in images], np.intp)
    inside = [groups == number for number in range(len(column.groups))]
    return [np.flatnonzero(each) for each in (*inside, *(~each for each in inside))]


def _means(column: Column, masks: Masks, drawing: Drawing) -> list[dict[str, _Part]]:
    members = _members(column, masks.images)
    if not masks.images:
        return [{} for _ in members]
    draws = drawing.of(masks.images)
    resampled = bootstrap_means_of_parts(masks.values, members, draws)
    found: list[dict[str, _Part]] = []
    for number, rows in enumerate(members):
        values = masks.values[rows]
        known = [rows[each] for each in ~np.isnan(values).T]
        columns = zip(masks.names, means(values).tolist(), resampled[:, number].T, known, strict=True)
        found.append(
            {
                name: _Part(value, each, there.size, draws.count(there) >= LEAST_IMAGES)
                for name, value, each, there in columns
            }
        )
    return found


def _aucs(column: Column, scored: Scored, drawing: Drawing) -> list[dict[str, _Part]]:
    members = _members(column, scored.ids)
    filled = [rows for rows in members if rows.size]
    if not (filled and scored.classes):
        return [{} for _ in members]
    draws = drawing.of(scored.ids)
    resampled = iter(np.moveaxis(bootstrap_aucs_of_parts(scored.labels, scored.scores, filled, draws), 1, 0))
    return [_aucs_of_part(scored, rows, next(resampled), draws) if rows.size else {} for rows in members]


def _aucs_of_part(
    scored: Scored, rows: NDArray[np.intp], resampled: NDArray[np.float64], draws: Draws
) -> dict[str, _Part]:
    """AUC of each class, and their mean, where resampled (R, K) are those of the same rows."""
    labels = scored.labels[rows]
    rarer = np.array([min(draws.count(rows[each]), draws.count(rows[~each])) for each in labels.T])
    values = [auc(*columns) for columns in zip(labels.T, scored.scores[rows].T, strict=True)]
    columns = zip(scored.classes, values, resampled.T, (rarer >= LEAST_OF_A_LABEL).tolist(), strict=True)
    found = {name: _Part(value, each, rows.size, enough) for name, value, each, enough in columns}
    if len(found) > 1:
        every = all(part.enough for part in found.values())
        found[AUC_MEAN] = _Part(sum(values) / len(values), resampled.mean(axis=1), rows.size, every)
    return found


def _differences(
    groups: Sequence[Mapping[str, _Part]], rests: Sequence[Mapping[str, _Part]], judged_by: Sequence[str]
) -> list[dict[str, Figure]]:
    """Group minus rest, for each group and figure that there are enough images for."""
    judged = [
        (number, name)
        for name in judged_by
        for number, (group, rest) in enumerate(zip(groups, rests, strict=True))
        if name in group and name in rest and group[name].enough and rest[name].enough
    ]
    found: list[dict[str, Figure]] = [{} for _ in groups]
    for number, name in judged:
        group, rest = groups[number][name], rests[number][name]
        low, high = joint_interval(group.resampled - rest.resampled, len(judged))
        found[number][name] = Figure(group.value - rest.value, low, high, group.images)
    return found
