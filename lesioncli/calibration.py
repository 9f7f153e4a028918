"""Calibration of a model's outputs: class scores become probabilities, the confidence becomes an expected Jaccard.

A Calibration is part of a ModelSpec, and so of checkpoints, graphs and manifests. It is applied to the merged outputs
of an image, in Python and in double precision, so every backend gives the same. All maps rise, so they keep the order
of images.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from lesioncli.errors import InputError
from lesioncli.files import atomic_output
from lesioncli.options import TTA, Regions

RAW_PREFIX = "raw_"  # of the columns of scores.csv that hold uncalibrated values
NO_CALIBRATION = "none"  # its identifier in run.json
SCORE_FLOOR = 5e-6  # half the last digit of scores.csv; a score of 0 has no logit
MAX_LOGIT = 700.0  # math.exp() overflows above 709


@dataclass(frozen=True)
class PlattScaling:
    """Turns a score into a probability: sigmoid(slope * logit(score) + offset), with a positive slope.

    Fitted on `images`; `prevalence` is the share of positives among them, which the probabilities assume.

    Reference: Platt 1999, "Probabilistic outputs for support vector machines", on logits instead of margins.
    """

    slope: float
    offset: float
    images: int
    prevalence: float

    def __post_init__(self) -> None:
        if not 0 < self.slope < math.inf or not math.isfinite(self.offset):
            raise ValueError(f"slope {self.slope} and offset {self.offset} are not a rising, finite map")
        if self.images < 1 or not 0 < self.prevalence < 1:
            raise ValueError(f"{self.images} images with prevalence {self.prevalence} cannot be calibrated on")

    def apply(self, score: float) -> float:
        """Return the probability for a score from 0 to 1."""
        logit = self.slope * score_logit(score) + self.offset
        return 1 / (1 + math.exp(-max(-MAX_LOGIT, min(MAX_LOGIT, logit))))


def score_logit(score: float) -> float:
    """Return log(score / (1 - score)), with the score at least SCORE_FLOOR away from 0 and 1."""
    clipped = max(SCORE_FLOOR, min(1 - SCORE_FLOOR, score))
    return math.log(clipped / (1 - clipped))


@dataclass(frozen=True)
class ConfidenceMap:
    """Turns a raw confidence into an expected Jaccard: linear between `knots` (raw, Jaccard), constant beyond them.

    Fitted on `images`.
    """

    knots: tuple[tuple[float, float], ...]
    images: int

    def __post_init__(self) -> None:
        if not self.knots or not all(0 <= value <= 1 for knot in self.knots for value in knot):
            raise ValueError(f"knots {self.knots} are not pairs of numbers from 0 to 1")
        if any(left[0] >= right[0] or left[1] > right[1] for left, right in pairwise(self.knots)):
            raise ValueError(f"knots {self.knots} do not rise")

    def apply(self, confidence: float) -> float:
        """Return the expected Jaccard for a raw confidence from 0 to 1."""
        right = bisect_right(self.knots, (confidence, math.inf))
        if right in (0, len(self.knots)):
            return self.knots[max(0, right - 1)][1]
        (x0, y0), (x1, y1) = self.knots[right - 1 : right + 1]
        return y0 + (y1 - y0) * (confidence - x0) / (x1 - x0)


@dataclass(frozen=True)
class Calibration:
    """Maps for some classes and for the confidence; what has no map keeps its raw value.

    `threshold`, `tta` and `regions` are those of the masks that it was fitted on. Raises ValueError if a map is not
    valid.
    """

    name: str
    classes: Mapping[str, PlattScaling] = field(default_factory=dict)
    confidence: ConfidenceMap | None = None
    threshold: float = 0.5
    tta: TTA = TTA.NONE
    regions: Regions = Regions.LARGEST

    @property
    def identifier(self) -> str:
        """Return the name with a hash of all values, as run.json has it."""
        content = msgspec.json.encode(self, order="sorted")
        return f"{self.name}-{hashlib.sha256(content).hexdigest()[:12]}"

    @property
    def description(self) -> str:
        """Return one line: the name, and what is calibrated, with the prevalence that probabilities assume."""
        parts = [f"{name} at prevalence {scaling.prevalence:.2f}" for name, scaling in self.classes.items()]
        parts += ["confidence"] if self.confidence else []
        return f"{self.name} ({', '.join(parts)})"

    def describe_mismatch(self, threshold: float, tta: TTA, regions: Regions) -> str:
        """Return the options that differ from those of the masks that it was fitted on; "" if none does."""
        fitted = {"threshold": self.threshold, "tta": self.tta, "regions": self.regions}
        now = {"threshold": threshold, "tta": tta, "regions": regions}
        return ", ".join(f"--{name} {fitted[name]}, not {now[name]}" for name in now if fitted[name] != now[name])

    def apply(self, scores: Mapping[str, float], confidence: float) -> dict[str, float]:
        """Return calibrated scores by class, then `confidence`, then the raw values under RAW_PREFIX."""
        maps = {**self.classes, "confidence": self.confidence}
        raw = {**scores, "confidence": confidence}
        calibrated = {name: found.apply(value) if (found := maps.get(name)) else value for name, value in raw.items()}
        return calibrated | {f"{RAW_PREFIX}{name}": value for name, value in raw.items()}

    def to_json(self) -> bytes:
        """Return the calibration as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def identify(calibration: Calibration | None) -> str:
    """Return the identifier of a calibration, or NO_CALIBRATION."""
    return calibration.identifier if calibration else NO_CALIBRATION


def write_calibration(path: Path, calibration: Calibration, flag: str) -> None:
    """Write a calibration to a path that the user chose with `flag`; InputError if it cannot be written."""
    with atomic_output(path, flag) as temporary:
        temporary.write_bytes(calibration.to_json())


def read_calibration(path: Path) -> Calibration:
    """Read what write_calibration() wrote; InputError if it is not valid."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"{path}: not a calibration ({error}); write one with lesioncli calibrate --export") from error
