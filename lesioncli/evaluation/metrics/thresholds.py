"""The Jaccard index of a probability map at many thresholds, as `segment --threshold` would give it."""

from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.options import Regions

UInt8 = NDArray[np.uint8]

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
LEVELS = tuple(ceil(threshold * 255) for threshold in THRESHOLDS)  # the smallest values that count as lesion
REGION_SIDE_PX = 256  # segment chooses regions at the size of the network's input


def threshold_jaccards(truth: NDArray[np.bool_], probability: UInt8, regions: Regions) -> NDArray[np.float32]:
    """Return the Jaccard (T,) of a probability map (H, W), in 1/255, at each of THRESHOLDS; 1 if both are empty.

    With Regions.LARGEST, only the largest region at each threshold counts. It is chosen in the downsampled map.
    """
    lesion = truth.view(np.uint8)
    inside, everywhere = _counts_above(probability, lesion), _counts_above(probability, None)
    if regions is Regions.LARGEST:
        small = _downsample(probability)
        for index, level in enumerate(LEVELS):
            removed = _removed_regions(small, level, probability.shape)
            if removed is not None:
                outside = (probability >= level) & removed
                everywhere[index] -= np.count_nonzero(outside)
                inside[index] -= np.count_nonzero(outside & truth)
    union = np.count_nonzero(truth) + everywhere - inside
    return np.where(union > 0, inside / np.maximum(union, 1), 1).astype(np.float32)


def _counts_above(probability: UInt8, mask: UInt8 | None) -> NDArray[np.int64]:
    """Return the number of pixels (T,), in a mask (H, W), at or above each level."""
    histogram = cv2.calcHist([probability], [0], mask, [256], [0, 256]).ravel().astype(np.int64)
    return np.asarray(histogram[::-1].cumsum()[::-1][list(LEVELS)])


def _downsample(probability: UInt8) -> UInt8:
    height, width = probability.shape
    scale = min(1.0, REGION_SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(probability, size, interpolation=cv2.INTER_AREA), np.uint8)


def _removed_regions(small: UInt8, level: int, full_hw: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return where (H, W) regions other than the largest are, with a margin of a downsampled pixel; None if nowhere."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((small >= level).view(np.uint8), connectivity=8)
    if count <= 2:  # the background counts as one
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    others = ((labels > 0) & (labels != largest)).astype(np.uint8)
    removed = cv2.dilate(others, np.ones((3, 3), np.uint8))  # not in the largest: with 8 neighbours, it is not adjacent
    height, width = full_hw[:2]
    return np.asarray(cv2.resize(removed, (width, height), interpolation=cv2.INTER_NEAREST) > 0)
