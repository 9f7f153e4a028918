"""Distances between the outlines of two masks.

A border pixel is a lesion pixel with at least one of its four neighbours, or the outside of the image, not lesion.
Distances are between centres of border pixels. They are 0 if both masks are empty, and nan if one of them is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.evaluation.metrics.pixels import count_pixels

Mask = NDArray[np.bool_]  # (H, W)

PERCENTILE = 95

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True)
class Outlines:
    """Two masks that are not empty, and the distance in pixels from each border pixel to the other mask's border."""

    truth: Mask
    prediction: Mask
    from_truth_px: NDArray[np.float64]
    from_prediction_px: NDArray[np.float64]


def hausdorff95(outlines: Outlines) -> float:
    """Return the larger of the 95th percentiles of both directions.

    This is the distance of Huttenlocher et al. 1993 with a percentile in place of the maximum.
    """
    return max(_percentile(outlines.from_truth_px), _percentile(outlines.from_prediction_px))


def surface_distance(outlines: Outlines) -> float:
    """Return the mean distance over the border pixels of both masks (Heimann et al. 2009)."""
    return float(np.concatenate([outlines.from_truth_px, outlines.from_prediction_px]).mean())


def centroid_error(outlines: Outlines) -> float:
    """Return the distance between the centroids of both masks."""
    return math.dist(_centroid(outlines.truth), _centroid(outlines.prediction))


# Distances by name; each becomes a column in pixels and one in image diagonals. To add one, write its function and add
# a line here.
DISTANCE_METRICS: dict[str, Callable[[Outlines], float]] = {
    "hausdorff95": hausdorff95,
    "surface_distance": surface_distance,
    "centroid_error": centroid_error,
}


def measure_distances(truth: Mask, prediction: Mask) -> dict[str, float]:
    """Return the area error, and every distance of two masks (H, W) in pixels and as a fraction of the diagonal."""
    if truth.any() and prediction.any():
        outlines = _find_outlines(truth, prediction)
        distances_px = {name: metric(outlines) for name, metric in DISTANCE_METRICS.items()}
    else:
        both_empty = not truth.any() and not prediction.any()
        distances_px = dict.fromkeys(DISTANCE_METRICS, 0.0 if both_empty else math.nan)
    diagonal_px = math.hypot(*truth.shape)
    return {
        "area_error": area_error(truth, prediction),
        **{f"{name}_px": value for name, value in distances_px.items()},
        **{f"{name}_diagonal": value / diagonal_px for name, value in distances_px.items()},
    }


def area_error(truth: Mask, prediction: Mask) -> float:
    """Return the difference of predicted and ground truth area, as a fraction of the latter; nan if that is 0."""
    counts = count_pixels(truth, prediction)
    area = counts.true_positive + counts.false_negative
    return (counts.false_positive - counts.false_negative) / area if area else math.nan


def _find_outlines(truth: Mask, prediction: Mask) -> Outlines:
    box = _bounding_box(truth | prediction)
    truth_border, prediction_border = _border(truth[box]), _border(prediction[box])
    return Outlines(
        truth,
        prediction,
        from_truth_px=_nearest_px(truth_border, prediction_border),
        from_prediction_px=_nearest_px(prediction_border, truth_border),
    )


def _bounding_box(mask: Mask) -> tuple[slice, slice]:
    """Return the rows and columns of the lesion; cropping both masks to them changes no distance."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _border(mask: Mask) -> Mask:
    inner = cv2.erode(mask.view(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (inner == 0))


def _nearest_px(border: Mask, other_border: Mask) -> NDArray[np.float64]:
    """Return the distance from each pixel of one border to the nearest pixel of the other."""
    nearest = cv2.distanceTransform((~other_border).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # OpenCV's last float32 digits differ from run to run; a squared distance between pixel centres is an integer.
    return np.sqrt(np.rint(np.square(nearest[border].astype(np.float64))))


def _percentile(distances: NDArray[np.float64]) -> float:
    return float(np.percentile(distances, PERCENTILE))


def _centroid(mask: Mask) -> tuple[float, float]:
    rows, columns = (np.count_nonzero(mask, axis=axis) for axis in (1, 0))
    return (
        float(np.average(np.arange(rows.size), weights=rows)),
        float(np.average(np.arange(columns.size), weights=columns)),
    )
