"""Evaluate groups of images, and find the groups that are behind all other images.

A group and its rest share their bootstrap samples. A group is behind in a metric where the interval of the difference,
group minus rest, lies entirely below zero. That interval has the Bonferroni correction for the number of differences
tested, which is groups times metrics: if no group differs, at most about one column in twenty has a group behind.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.cases import MaskMetrics
from lesioncli.evaluation.labelled_scores import LabelledScores
from lesioncli.evaluation.metrics.scores import roc_auc
from lesioncli.evaluation.reading.metadata import Grouping
from lesioncli.evaluation.statistics.bootstrap import (
    AUC_MEAN,
    bootstrap_aucs_of_subsets,
    bootstrap_means_of_subsets,
    column_means,
)
from lesioncli.evaluation.statistics.resampling import (
    Resampling,
    ResamplingPlan,
    joint_interval,
    percentile_interval,
)

MIN_IMAGES = 20  # images or clusters with a value: a percentile interval of fewer is too narrow
MIN_PER_LABEL = 10  # images or clusters with each label, for an AUC

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Estimate:
    """A value, its interval (nan where there is none) and the number of images behind it."""

    value: float
    low: float = math.nan
    high: float = math.nan
    images: int = 0


@dataclass(frozen=True)
class GroupResult:
    """Evaluation of the images of one group of a column.

    `estimates` has the mean mask metrics, the AUC of each class and AUC_MEAN. `differences` has group minus rest, with
    the corrected interval, for the tested metrics; none where group or rest is too small.
    """

    column: str
    group: str
    images: int
    estimates: Mapping[str, Estimate]
    differences: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def behind(self) -> tuple[str, ...]:
        """Metrics in which the group is behind all other images."""
        return tuple(name for name, difference in self.differences.items() if difference.high < 0)


@dataclass(frozen=True, eq=False)
class _Resampled:
    """A metric of a subset of the images: its value, its bootstrap values (R,), and whether they give an interval."""

    value: float
    samples: NDArray[np.float64]
    images: int
    is_enough: bool

    def estimate(self) -> Estimate:
        low, high = percentile_interval(self.samples) if self.is_enough else (math.nan, math.nan)
        return Estimate(self.value, low, high, self.images)


def evaluate_groups(
    grouping: Grouping, masks: MaskMetrics, labelled: LabelledScores, tested: Sequence[str], plan: ResamplingPlan
) -> list[GroupResult]:
    """Evaluate each group of a column, and test the metrics `tested` for groups that are behind all other images.

    Groups of which no image could be evaluated are left out.
    """
    mask_metrics, aucs = _mask_metrics(grouping, masks, plan), _aucs(grouping, labelled, plan)
    subsets = [{**means, **areas} for means, areas in zip(mask_metrics, aucs, strict=True)]
    groups, rests = subsets[: len(grouping.groups)], subsets[len(grouping.groups) :]
    differences = _differences(groups, rests, tested)
    # An image that has only a mask, or only scores, is in its group, too.
    sizes = Counter(grouping.group_of[image] for image in {*masks.images, *labelled.ids})
    return [
        GroupResult(
            grouping.column,
            name,
            sizes[name],
            {metric: resampled.estimate() for metric, resampled in group.items()},
            difference,
        )
        for name, group, difference in zip(grouping.groups, groups, differences, strict=True)
        if sizes[name]
    ]


def _subset_rows(grouping: Grouping, images: Sequence[str]) -> list[Rows]:
    """Return the rows of the images in each group, followed by the rows of all other images for each group."""
    numbers = np.array([grouping.groups.index(grouping.group_of[image]) for image in images], np.intp)
    inside = [numbers == number for number in range(len(grouping.groups))]
    return [np.flatnonzero(mask) for mask in (*inside, *(~mask for mask in inside))]


def _mask_metrics(grouping: Grouping, masks: MaskMetrics, plan: ResamplingPlan) -> list[dict[str, _Resampled]]:
    subsets = _subset_rows(grouping, masks.images)
    if not masks.images:
        return [{} for _ in subsets]
    resampling = plan.for_images(masks.images)
    samples = bootstrap_means_of_subsets(masks.values, subsets, resampling)
    return [_subset_means(masks, rows, samples[:, number], resampling) for number, rows in enumerate(subsets)]


def _subset_means(
    masks: MaskMetrics, rows: Rows, samples: NDArray[np.float64], resampling: Resampling
) -> dict[str, _Resampled]:
    """Return the mean of each mask metric over the images at `rows`; samples are their bootstrap values (R, M)."""
    values = masks.values[rows]
    means = column_means(values).tolist()
    known = [rows[is_known] for is_known in ~np.isnan(values).T]
    return {
        name: _Resampled(
            means[column],
            samples[:, column],
            known[column].size,
            resampling.count_clusters(known[column]) >= MIN_IMAGES,
        )
        for column, name in enumerate(masks.names)
    }


def _aucs(grouping: Grouping, labelled: LabelledScores, plan: ResamplingPlan) -> list[dict[str, _Resampled]]:
    subsets = _subset_rows(grouping, labelled.ids)
    filled = [rows for rows in subsets if rows.size]
    if not (filled and labelled.classes):
        return [{} for _ in subsets]
    resampling = plan.for_images(labelled.ids)
    samples = bootstrap_aucs_of_subsets(labelled.labels, labelled.scores, filled, resampling)
    filled_aucs = (_subset_aucs(labelled, rows, samples[:, number], resampling) for number, rows in enumerate(filled))
    return [next(filled_aucs) if rows.size else {} for rows in subsets]


def _subset_aucs(
    labelled: LabelledScores, rows: Rows, samples: NDArray[np.float64], resampling: Resampling
) -> dict[str, _Resampled]:
    """Return the AUCs of the images at `rows`, and their mean; samples are their bootstrap values (R, K)."""
    result: dict[str, _Resampled] = {}
    for column, name in enumerate(labelled.classes):
        labels, scores = labelled.labels[rows, column], labelled.scores[rows, column]
        rarer = min(resampling.count_clusters(rows[labels == label]) for label in (0, 1))
        known = int((~np.isnan(labels)).sum())
        result[name] = _Resampled(float(roc_auc(labels, scores)), samples[:, column], known, rarer >= MIN_PER_LABEL)
    if len(result) > 1:
        mean = sum(resampled.value for resampled in result.values()) / len(result)
        is_enough = all(resampled.is_enough for resampled in result.values())
        result[AUC_MEAN] = _Resampled(mean, samples.mean(axis=1), rows.size, is_enough)
    return result


def _differences(
    groups: Sequence[Mapping[str, _Resampled]], rests: Sequence[Mapping[str, _Resampled]], tested: Sequence[str]
) -> list[dict[str, Estimate]]:
    """Return group minus rest for every group and tested metric with enough images."""
    tests = [
        (number, name)
        for name in tested
        for number, (group, rest) in enumerate(zip(groups, rests, strict=True))
        if name in group and name in rest and group[name].is_enough and rest[name].is_enough
    ]
    differences: list[dict[str, Estimate]] = [{} for _ in groups]
    for number, name in tests:
        group, rest = groups[number][name], rests[number][name]
        low, high = joint_interval(group.samples - rest.samples, len(tests))
        differences[number][name] = Estimate(group.value - rest.value, low, high, group.images)
    return differences
