"""Contrast of a lesion with the skin around it, in the image and the ground truth mask."""

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import ImageError
from lesioncli.images.decode import decode
from lesioncli.images.geometry import UInt8, from_upright
from lesioncli.options import FailureStage

MAX_SIDE_PX = 512  # means of more pixels are the same
# The ring of skin, in radii of a disc as large as the lesion. The margin leaves out the soft border of the lesion; the
# ring around a disc has the area of the disc.
MARGIN, WIDTH = 0.1, 0.4


def measure_contrast(image: Path, lesion: NDArray[np.bool_]) -> float:
    """Return the contrast of a lesion (H, W) in the image file that it belongs to, see lab_contrast().

    Raises ImageError if the image cannot be decoded, or has another size.
    """
    height, width = lesion.shape
    scale = min(1.0, MAX_SIDE_PX / max(height, width))
    reduced_wh = max(1, round(width * scale)), max(1, round(height * scale))
    smallest = min(reduced_wh)
    decoded = decode(image, (smallest, smallest))
    if decoded.stored_hw != (height, width):
        stored_height, stored_width = decoded.stored_hw
        raise ImageError(FailureStage.DECODE, f"the image has another size: {stored_width} x {stored_height} pixels")
    stored = np.ascontiguousarray(from_upright(decoded.rgb, decoded.orientation))
    rgb = cv2.resize(stored, reduced_wh, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(lesion.astype(np.float32), reduced_wh, interpolation=cv2.INTER_AREA)
    return lab_contrast(np.asarray(rgb, np.uint8), np.asarray(mask) >= 0.5)


def lab_contrast(rgb: UInt8, lesion: NDArray[np.bool_]) -> float:
    """Return the CIE 1976 colour difference of the mean colours of a lesion (H, W) and of a ring of skin around it.

    rgb: sRGB (H, W, 3). nan if there is no lesion, or no skin beside it.
    """
    radius = math.sqrt(np.count_nonzero(lesion) / math.pi)
    distance = cv2.distanceTransform((~lesion).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = (distance > max(MARGIN * radius, 1)) & (distance <= max((MARGIN + WIDTH) * radius, 3))
    if not lesion.any() or not ring.any():
        return math.nan
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    difference = lab[lesion].mean(axis=0, dtype=np.float64) - lab[ring].mean(axis=0, dtype=np.float64)
    return float(np.linalg.norm(difference))
