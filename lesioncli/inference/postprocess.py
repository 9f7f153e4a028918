"""From a map of probabilities to a mask: where it is cut, what of it is kept, how far it can be trusted."""

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import UInt8


def cut_at(probability: UInt8, cut: int) -> UInt8:
    """255 where the probability (in 1/255) is at least `cut`, 0 elsewhere."""
    return np.asarray(cv2.threshold(probability, cut - 1, 255, cv2.THRESH_BINARY)[1], np.uint8)


def largest_region(lesion: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """The largest connected region of a mask (h, w), and how many others there were.

    Each of ISIC-2017's 2,000 training masks is one region but for 3 % of its area at most, so that a second one is a
    mistake more often than a lesion.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lesion.astype(np.uint8), connectivity=8)
    if count <= 2:  # the background is one
        return lesion, 0
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return labels == largest, count - 2


def expected_jaccard(probability: NDArray[np.uint8], lesion: NDArray[np.bool_]) -> float:
    """The Jaccard that a mask would have if the probabilities (in 1/255) were true; near 1 where nothing is in doubt.

    Expected intersection over expected union; an empty mask is as sure as its likeliest pixel is unlikely.
    """
    if not lesion.any():
        return 1 - float(probability.max()) / 255
    inside = float(probability[lesion].sum(dtype=np.int64)) / 255
    outside = float(probability[~lesion].sum(dtype=np.int64)) / 255
    return inside / (np.count_nonzero(lesion) + outside)
