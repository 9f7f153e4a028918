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

    mask: uint8 (H, W), 0 or 255. probability: uint8 (h, w), below `min_probability` in the removed regions; without
    them, the map that the mask was made of. min_probability: smallest value, in 1/255, that counts as lesion.
    confidence: expected Jaccard, 0 to 1.
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
    lesion, removed_regions = choose_lesion(probability, min_probability, regions)
    kept = probability
    if removed_regions:  # they get the largest value below the threshold, so that upsampling does not bring them back
        kept = np.where(lesion, probability, np.minimum(probability, min_probability - 1))
    mask = apply_threshold(to_full_size(kept, stored_hw, orientation), min_probability)
    return LesionMask(mask, kept, min_probability, removed_regions, expected_jaccard(probability, lesion))


def choose_lesion(probability: UInt8, min_probability: int, regions: Regions) -> tuple[NDArray[np.bool_], int]:
    """Return the lesion of a probability map (h, w) at network size, and the number of regions removed."""
    lesion = probability >= min_probability
    return keep_largest_region(lesion) if regions == Regions.LARGEST else (lesion, 0)


def apply_threshold(probability: UInt8, min_probability: int) -> UInt8:
    """Make a probability map a mask, in place: 255 where it is at least `min_probability`, else 0."""
    cv2.threshold(probability, min_probability - 1, 255, cv2.THRESH_BINARY, dst=probability)
    return probability


def keep_largest_region(lesion: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return the largest 8-connected region of a mask (h, w), and the number of regions removed.

    In the 2,000 training masks of ISIC 2017, regions beyond the largest have at most 3 % of the lesion area, so a
    second region is more often an error than a lesion.
    """
    pixels = lesion.view(np.uint8)
    if _count_regions(pixels) <= 1:
        return lesion, 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return labels == largest, count - 2  # the background counts as one


def _count_regions(pixels: UInt8) -> int:
    """Return the number of 8-connected regions: outlines that are in no other one, which takes a tenth of labels."""
    _, hierarchy = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return 0 if hierarchy is None else int(np.count_nonzero(hierarchy[0, :, 3] < 0))  # 3: the outline around it


def expected_jaccard(probability: UInt8, lesion: NDArray[np.bool_]) -> float:
    """Return the expected intersection over the expected union of a mask, both under the probability map (h, w).

    Near 1 if no pixel is in doubt. For an empty mask it is the probability that the likeliest pixel is not lesion.
    """
    pixels = lesion.view(np.uint8)
    area = cv2.countNonZero(pixels)
    if not area:
        return 1 - float(probability.max()) / 255
    total, inside = _sum(probability), _sum(probability * pixels)
    return inside / 255 / (area + (total - inside) / 255)


def _sum(values: UInt8) -> int:
    return int(cv2.sumElems(values)[0])
