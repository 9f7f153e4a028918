"""Titles of metrics and of columns of scores.csv, as readers of the report see them."""

import re

from lesioncli.evaluation.metrics.pixels import AREA_LOG_RATIO
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN
from lesioncli.segmented import AREA

_TITLES = {
    "jaccard": "Jaccard",
    "dice": "Dice",
    "threshold_jaccard": "thresholded Jaccard",
    AREA_LOG_RATIO: "log of predicted / ground-truth area",
    "hausdorff95_px": "95 % Hausdorff distance, px",
    "hausdorff95_diagonal": "95 % Hausdorff distance / diagonal",
    "surface_distance_px": "average surface distance, px",
    "surface_distance_diagonal": "average surface distance / diagonal",
    "centroid_error_px": "distance of centroids, px",
    "centroid_error_diagonal": "distance of centroids / diagonal",
    AREA: "lesion area, fraction of the image",
    AUC_MEAN: "AUC, mean of the classes",
    "auc": "AUC",
    "auc_sens_80": "AUC above sensitivity 0.80",
    "ap": "average precision",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "log_loss": "log loss",
}
_OPERATING_POINT = re.compile(r"(sens|spec)_at_(sens|spec)_(\d+)")
_LENGTH = re.compile(r"(area|perimeter|long_axis|short_axis)_(px|mm2?)")
_RATES = {"sens": "sensitivity", "spec": "specificity"}


def title(key: str) -> str:
    """Return the title of a metric, class or column."""
    if point := _OPERATING_POINT.fullmatch(key):
        return f"{_RATES[point[1]]} at {_RATES[point[2]]} 0.{point[3]}"
    if length := _LENGTH.fullmatch(key):
        return f"{length[1].replace('_', ' ')}, {length[2].replace('2', '²')}"
    return _TITLES.get(key, key.replace("_", " "))


def auc_title(name: str) -> str:
    """Return the title of the AUC of a class, or of the mean AUC."""
    return title(name) if name == AUC_MEAN else f"AUC, {title(name)}"


def count_images(number: int) -> str:
    """Return a number of images in words."""
    return f"{number} image{'' if number == 1 else 's'}"
