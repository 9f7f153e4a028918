"""The values of an image by column of scores.csv: class scores, confidence and further outputs, calibrated or raw."""

from lesioncli.calibration import RAW_PREFIX
from lesioncli.inference.tta import ImagePrediction
from lesioncli.spec import ModelSpec

CONFIDENCE = "confidence"


def image_values(merged: ImagePrediction, confidence: float, spec: ModelSpec) -> dict[str, float]:
    """Return the values of an image by column; `confidence` is that of its mask, before calibration."""
    scores = dict(zip(spec.classes, map(float, merged.scores), strict=True))
    if spec.calibration is None:
        return {**scores, CONFIDENCE: confidence, **merged.extra}
    return {**spec.calibration.apply(scores, confidence), **merged.extra}


def raw_columns(spec: ModelSpec) -> tuple[str, ...]:
    """Return the columns of uncalibrated values; none if the model has no calibration."""
    return tuple(f"{RAW_PREFIX}{name}" for name in (*spec.classes, CONFIDENCE)) if spec.calibration else ()
