"""Recipes: every value that a training run depends on, in one TOML file under engines/."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesioncli.errors import InputError
from lesioncli.spec import ModelSpec

# In a wheel the recipes lie inside the package, in a checkout beside it.
SHIPPED_RECIPES = (Path(__file__).parents[1] / "engines", Path(__file__).parents[2] / "engines")


@dataclass(frozen=True)
class AugmentSettings:
    """How far a training sample may be bent. Probabilities unless a unit is named."""

    zoom: tuple[float, float] = (0.6, 1.25)  # side of the cut-out over the side of the picture
    aspect: float = 1.35  # the cut-out's sides are stretched against each other by up to this factor
    shift: float = 0.12  # of the picture's side
    reflect: float = 0.5  # what lies beyond the picture: its reflection, else black as under a dermoscope
    brightness: float = 0.15
    contrast: float = 0.2
    saturation: float = 0.3
    colour_cast: float = 0.07
    blur: float = 0.25
    sharpen: float = 0.15
    jpeg: float = 0.25
    hair: float = 0.15


@dataclass(frozen=True)
class LossWeights:
    """Weights of the joint loss; see losses.joint_loss."""

    jaccard: float = 1.0
    cross_entropy: float = 0.5
    classes: float = 0.5
    mask_smoothing: float = 0.02
    class_smoothing: float = 0.02


@dataclass(frozen=True)
class TrainSettings:
    """The optimiser's side of a recipe. Learning rates are the peaks of a one-cycle schedule."""

    epochs: int = 12
    batch: int = 16
    encoder_lr: float = 4e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.02
    ema: float = 0.998
    initial: str = "imagenet"  # or "none", or a file of encoder weights
    exclude: tuple[str, ...] = ()
    workers: int = 1


@dataclass(frozen=True)
class EngineSettings:
    """What build-engine takes when it is given the recipe's name."""

    checkpoint: str = ""  # "shipped", or a path relative to the recipe
    precision: str = "auto"
    batch: int = 1


@dataclass(frozen=True)
class Recipe:
    """One TOML file, resolved: what the file leaves out has its default here, and is saved with the run."""

    model: ModelSpec
    train: TrainSettings = field(default_factory=TrainSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def find_recipe(name: str) -> Path:
    """A path to a .toml, or a name looked up in ./engines and among the recipes that come with lesioncli."""
    if name.endswith(".toml"):
        return Path(name)
    for folder in (Path("engines"), *SHIPPED_RECIPES):
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    known = sorted({path.stem for folder in SHIPPED_RECIPES for path in folder.glob("*.toml")})
    raise InputError(f"no recipe {name!r}; there are {', '.join(known)}, or give a path to a .toml")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; InputError names the file and the key that is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        sections = {
            each.name: _build(each.type, tables.pop(each.name, {}), each.name) for each in dataclasses.fields(Recipe)
        }
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a recipe: {error}") from error
    if tables:
        raise InputError(f"{path}: unknown section {sorted(tables)[0]!r}")
    return Recipe(**sections)


def _build(section: Any, values: Mapping[str, Any], name: str) -> Any:
    known = {each.name for each in dataclasses.fields(section)}
    if strange := sorted(values.keys() - known):
        raise ValueError(f"[{name}] has no {strange[0]!r}; it has {', '.join(sorted(known))}")
    return section(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
