"""Two sets of predictions of the same images: paired differences, how sure they are, and how likely by chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Difference(NamedTuple):
    """One figure of both over the same images, and ours minus the other's with its 95 % interval and p-value."""

    ours: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    images: int


@dataclass(frozen=True)
class Comparison:
    """What compare() found.

    `differences` are by the names of Evaluation.means and .auc, and AUC_MEAN. `per_image` has the differences of the
    metrics of each mask that both have. `only_ours` and `only_other` name the images that one of them alone has, once
    for masks and once for scores.
    """

    differences: Mapping[str, Difference]
    per_image: Mapping[str, Mapping[str, float]]
    only_ours: tuple[str, ...]
    only_other: tuple[str, ...]
