"""ModelSpec: the inputs and outputs of a model. Checkpoints, ONNX graphs and manifests hold one."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from lesioncli.calibration import Calibration
from lesioncli.errors import InputError
from lesioncli.files import FORMULA_STARTS

METADATA_KEY = "lesioncli.spec"
KERNELS = ("bilinear", "box", "hamming", "bicubic", "lanczos")
NOT_IN_RECIPE = "not in recipe"  # metadata of a field that is not a key of [model]
CLASSES = ("melanoma", "seborrheic_keratosis", "nevus")


def check_name(name: object) -> None:
    """Raise ValueError if this is not the name of a model, which is part of the names of its files."""
    if not (isinstance(name, str) and re.fullmatch(r"\w[\w.+-]*", name)):
        raise ValueError(f"name {name!r} is not made of letters, digits and -_+. as a file name must be")


@dataclass(frozen=True)
class ModelSpec:
    """Everything that must be known to run a trained model.

    `network` and `options` name the network and its arguments. `height` and `width` are the input size in pixels.
    `reduction` is the kernel that downsampled the training images; inference must use the same one. `calibration` is
    applied to the outputs; without one they stay as they are. `licence` is that of the weights, as an SPDX identifier;
    "" if none is stated. Raises ValueError if a value is not valid.
    """

    name: str
    network: str
    height: int
    width: int
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = CLASSES
    reduction: str = "bilinear"
    calibration: Calibration | None = field(default=None, metadata={NOT_IN_RECIPE: True})
    licence: str = ""

    def to_json(self) -> str:
        """Return one line of JSON, as before 0.2.0 where there is neither calibration nor licence."""
        values = dataclasses.asdict(self)
        for name in ("calibration", "licence"):
            if not values[name]:
                del values[name]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: object) -> Self:
        """Read a spec from JSON; InputError, which names `source`, if it is not a valid one."""
        try:
            values = json.loads(text)
            if unknown := set(values) - {field.name for field in dataclasses.fields(cls)}:
                raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
            typed: dict[str, Any] = {"classes": tuple(values["classes"])}
            if "calibration" in values:
                typed["calibration"] = msgspec.convert(values["calibration"], Calibration | None)
            return cls(**{**values, **typed})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{source}: not a valid ModelSpec ({error}); export the model again") from error

    def __post_init__(self) -> None:
        check_name(self.name)
        if formulas := [name for name in self.classes if str(name).startswith(FORMULA_STARTS)]:
            raise ValueError(f"class {formulas[0]!r} would be a column that spreadsheets take for a formula")
        if self.reduction not in KERNELS:
            raise ValueError(f"reduction {self.reduction!r} is not one of {', '.join(KERNELS)}")
        for side in (self.height, self.width):
            if not isinstance(side, int) or side <= 0 or side % 32:
                raise ValueError(f"size {self.height}x{self.width} is not a positive multiple of 32")
        if not (isinstance(self.licence, str) and re.fullmatch(r"[\w.+-]*", self.licence)):
            raise ValueError(f"licence {self.licence!r} is not an SPDX identifier, such as CC-BY-NC-4.0")
        if self.calibration and (unknown := self.calibration.classes.keys() - set(self.classes)):
            raise ValueError(f"calibration {self.calibration.name!r} has classes that the model lacks: {unknown}")
