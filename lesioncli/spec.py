"""ModelSpec: what a model expects and returns. It travels in the checkpoint, the ONNX graph and the manifest."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lesioncli.errors import InputError

METADATA_KEY = "lesioncli.spec"
REDUCTIONS = ("bilinear", "box", "hamming", "bicubic", "lanczos")
CLASSES = ("melanoma", "seborrheic_keratosis", "nevus")


@dataclass(frozen=True)
class ModelSpec:
    """A trained model, described so that nothing about it has to be guessed.

    `options` are the network's own arguments, enough to build it again. `reduction` names the kernel that shrank the
    training pictures: inference must use the same one (see inference/geometry.py). ValueError says what cannot be.
    """

    name: str
    network: str
    height: int
    width: int
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = CLASSES
    reduction: str = "bilinear"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: object) -> Self:
        """Parse to_json()'s output; `source` is named in the InputError raised for anything else."""
        try:
            values = json.loads(text)
            known = {each.name for each in dataclasses.fields(cls)}
            if strange := set(values) - known:
                raise ValueError(f"unknown fields {sorted(strange)}")
            spec = cls(**{**values, "classes": tuple(values["classes"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{source}: its ModelSpec cannot be read ({error}); export the model again") from error
        return spec

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and re.fullmatch(r"\w[\w.+-]*", self.name)):
            raise ValueError(f"name {self.name!r} must be letters, digits and -_+. since files are named after it")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction {self.reduction!r} is none of {', '.join(REDUCTIONS)}")
        for side in (self.height, self.width):
            if not isinstance(side, int) or side <= 0 or side % 32:
                raise ValueError(f"size {self.height}x{self.width} is not a positive multiple of 32")
