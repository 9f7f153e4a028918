"""Figures of each group of images, and which groups fall clearly behind all others.

Group and rest are drawn in the same bootstrap resamples. A group is behind in a figure where the interval of the
difference, group minus rest, lies wholly below zero. That interval is widened for the number of groups that are judged
(Bonferroni): of columns that make no difference, at most about one in twenty has a flag.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


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

    @property
    def flagged(self) -> bool:
        return bool(self.behind)
