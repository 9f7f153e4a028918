"""From an image to the slots of an engine and back: its views for each member of an ensemble, and their mean."""

from collections.abc import Sequence
from itertools import combinations
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Cycle, Engine, Prediction
from lesioncli.backends.ensemble import ENGINE_AGREEMENT
from lesioncli.images.geometry import UInt8
from lesioncli.inference.postprocess import choose_lesion
from lesioncli.inference.tta import PROCEDURES, ImagePrediction
from lesioncli.options import SegmentOptions


class ImageViews:
    """Fills the views of images into the cycles of an engine, and merges what the engine returns.

    An engine is an ensemble of one or more members. Raises ValueError if it was not opened for the TTA of the options.
    """

    def __init__(self, engine: Engine, options: SegmentOptions) -> None:
        self._members, self._options = engine.members, options
        self._procedure = PROCEDURES[options.tta]
        for member in self._members:
            if member.layout != self._procedure.layout(member.spec, member.manifest.batch):
                raise ValueError(f"the engine was not opened for --tta {options.tta}")

    @property
    def at_least_hw(self) -> tuple[int, int]:
        """The size that a decoded image needs."""
        heights, widths = zip(*(self._procedure.at_least_hw(member.spec) for member in self._members), strict=True)
        return max(heights), max(widths)

    def fill(self, rgb: UInt8, cycle: Cycle, index: int) -> None:
        """Write the views of an image (H, W, 3) to the rows of the `index`-th image of a cycle."""
        for member in self._members:
            own = Cycle(cycle.number, cycle.slots[member.slots])
            self._procedure.fill(rgb, own, index, member.spec.reduction)

    def merge(self, prediction: Prediction, index: int) -> ImagePrediction:
        """Return the outputs for the `index`-th image of a batch: means over its views, then over the members.

        The map has the largest of the members' sizes. A further output is the mean over the members that have it.
        """
        merged = [
            self._procedure.merge(Prediction(prediction.batch, prediction.slots[member.slots]), index)
            for member in self._members
        ]
        return merged[0] if len(merged) == 1 else self._average(merged)

    def _average(self, predictions: Sequence[ImagePrediction]) -> ImagePrediction:
        largest = max((one.probability for one in predictions), key=lambda probability: probability.size)
        height, width = largest.shape
        maps = [cv2.resize(one.probability, (width, height), interpolation=cv2.INTER_LINEAR) for one in predictions]
        names = dict.fromkeys(name for one in predictions for name in one.extra)
        extra = {name: float(np.mean([one.extra[name] for one in predictions if name in one.extra])) for name in names}
        with np.errstate(invalid="ignore"):  # infinity minus infinity; `is_finite` reports it
            scores: NDArray[np.float32] = np.mean([one.scores for one in predictions], axis=0, dtype=np.float32)
        return ImagePrediction(
            probability=np.asarray(np.rint(np.mean(maps, axis=0)), np.uint8),
            scores=scores,
            extra={**extra, ENGINE_AGREEMENT: self._agreement([np.asarray(one, np.uint8) for one in maps])},
            is_finite=all(one.is_finite for one in predictions),
        )

    def _agreement(self, maps: Sequence[UInt8]) -> float:
        """Return the mean Jaccard over all pairs of masks that the maps give by themselves, at their size."""
        minimum = ceil(self._options.threshold * 255)
        masks = [choose_lesion(probability, minimum, self._options.regions)[0] for probability in maps]
        return float(np.mean([_jaccard(one, other) for one, other in combinations(masks, 2)]))


def _jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the Jaccard of two masks, 1 if both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0
