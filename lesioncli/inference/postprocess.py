"""Postprocessing: from a probability map to a mask.

Probabilities are uint8 in 1/255. Network size is (h, w), the size of the stored image (H, W).
"""

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.images.geometry import UInt8, to_full_size
from lesioncli.options import Regions


@dataclass(frozen=True, eq=False)
class LesionMask:
    """A mask and how it was made.

    mask: uint8 (H, W), 0 or 255. probability: uint8 (h, w), below `min_probability` in the removed regions.
    min_probability: smallest value, in 1/255, that counts as lesion. confidence: expected Jaccard, 0 to 1.
    """

    mask: UInt8
    probability: UInt8
    min_probability: int
    removed_regions: int
    confidence: float


def make_mask(
    probability: UInt8, stored_hw: tuple[int, int], orientation: int, threshold: float, regions: Regions
) -> LesionMask:
    """Turn an upright probability map (h, w) into a mask (H, W) in the orientation of the stored image.

    Regions are chosen at network size; the threshold is applied again after upsampling.
    """
    min_probability = ceil(threshold * 255)
    lesion, removed_regions = probability >= min_probability, 0
    if regions == Regions.LARGEST:
        lesion, removed_regions = keep_largest_region(lesion)
    # Removed regions get the largest value below the threshold, so that upsampling does not bring them back.
    kept = np.where(lesion, probability, np.minimum(probability, min_probability - 1))
    mask = apply_threshold(to_full_size(kept, stored_hw, orientation), min_probability)
    return LesionMask(mask, kept, min_probability, removed_regions, expected_jaccard(probability, lesion))


def apply_threshold(probability: UInt8, min_probability: int) -> UInt8:
    """Make a probability map a mask, in place: 255 where it is at least `min_probability`, else 0."""
    cv2.threshold(probability, min_probability - 1, 255, cv2.THRESH_BINARY, dst=probability)
    return probability


def keep_largest_region(lesion: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return the largest 8-connected region of a mask (h, w), and the number of regions removed.

    In the 2,000 training masks of ISIC 2017, regions beyond the largest have at most 3 % of the lesion area, so a
    second region is more often an error than a lesion.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lesion.astype(np.uint8), connectivity=8)
    if count <= 2:  # the background counts as one
        return lesion, 0
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return labels == largest, count - 2


def expected_jaccard(probability: UInt8, lesion: NDArray[np.bool_]) -> float:
    """Return the expected intersection over the expected union of a mask, both under the probability map (h, w).

    Near 1 if no pixel is in doubt. For an empty mask it is the probability that the likeliest pixel is not lesion.
    """
    if not lesion.any():
        return 1 - float(probability.max()) / 255
    inside = float(probability[lesion].sum(dtype=np.int64)) / 255
    outside = float(probability[~lesion].sum(dtype=np.int64)) / 255
    return inside / (int(np.count_nonzero(lesion)) + outside)
