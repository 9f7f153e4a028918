"""How far apart two outlines are.

A border pixel is a lesion pixel with one of its four neighbours, or the outside of the picture, not lesion. Distances
are between the centres of border pixels. Where one mask is empty and the other is not, there is none: nan.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.pixels import count_pixels

Mask = NDArray[np.bool_]  # (H, W)

PERCENTILE = 95
DISTANCES = ("hausdorff95", "surface_distance", "centroid_error")

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def measure_distances(truth: Mask, prediction: Mask) -> dict[str, float]:
    """The area error, and each of DISTANCES in pixels and as a share of the diagonal, for two masks (H, W)."""
    in_px = dict(zip(DISTANCES, (*_surface(truth, prediction), _centroid_error(truth, prediction)), strict=True))
    diagonal = math.hypot(*truth.shape)
    return {
        "area_error": area_error(truth, prediction),
        **{f"{name}_px": value for name, value in in_px.items()},
        **{f"{name}_diagonal": value / diagonal for name, value in in_px.items()},
    }


def area_error(truth: Mask, prediction: Mask) -> float:
    """By how much of the true area the predicted one is larger, or (below 0) smaller; nan without a true lesion."""
    counts = count_pixels(truth, prediction)
    area = counts.true_positive + counts.false_negative
    return (counts.false_positive - counts.false_negative) / area if area else math.nan


def _surface(truth: Mask, prediction: Mask) -> tuple[float, float]:
    """95 % Hausdorff distance and average symmetric surface distance, in pixels.

    The first is the larger of the 95th percentiles of the two directions (Huttenlocher et al. 1993, with a percentile
    for the maximum), the second the mean over the border pixels of both (Heimann et al. 2009).
    """
    if not (truth.any() and prediction.any()):
        return (math.nan, math.nan) if truth.any() or prediction.any() else (0.0, 0.0)
    around = _bounding_box(truth | prediction)
    borders = _border(truth[around]), _border(prediction[around])
    there, back = _distances(*borders), _distances(*borders[::-1])
    robust = max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE))
    return float(robust), float(np.concatenate([there, back]).mean())


def _bounding_box(mask: Mask) -> tuple[slice, slice]:
    """Outside it both masks are background, so that no distance changes where it is left out."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _border(mask: Mask) -> Mask:
    inner = cv2.erode(mask.view(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (inner == 0))


def _distances(of: Mask, to: Mask) -> NDArray[np.float64]:
    """From each border pixel of one mask to the nearest one of the other."""
    nearest = cv2.distanceTransform((~to).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return nearest[of].astype(np.float64)


def _centroid_error(truth: Mask, prediction: Mask) -> float:
    """Distance of the two centres of area; 0 where both masks are empty."""
    if not (truth.any() and prediction.any()):
        return math.nan if truth.any() or prediction.any() else 0.0
    centres = [_centre(mask) for mask in (truth, prediction)]
    return math.dist(*centres)


def _centre(mask: Mask) -> tuple[float, float]:
    rows, columns = (np.count_nonzero(mask, axis=axis) for axis in (1, 0))
    return float(np.average(np.arange(rows.size), weights=rows)), float(
        np.average(np.arange(columns.size), weights=columns)
    )
