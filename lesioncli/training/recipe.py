"""Recipes: every value that a training run depends on, in one TOML file under engines/."""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from lesioncli.errors import InputError
from lesioncli.spec import ModelSpec

# In a wheel the recipes lie inside the package, in a checkout beside it.
SHIPPED_RECIPES = (Path(__file__).parents[1] / "engines", Path(__file__).parents[2] / "engines")


SCHEDULES = ("one-cycle", "poly")


@dataclass(frozen=True)
class AugmentSettings:
    """How far a training sample may be bent. Probabilities unless a unit is named."""

    zoom: tuple[float, float] = (0.6, 1.25)  # side of the cut-out over the side of the picture
    aspect: float = 1.35  # the cut-out's sides are stretched against each other by up to this factor
    shift: float = 0.12  # of the picture's side
    centred: bool = False  # in place of zoom, aspect and shift: the centred crops of paper A's classifier
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
    """Weights of what losses.mask_loss and losses.class_loss add up; a stage takes those that fit its outputs."""

    jaccard: float = 1.0
    cross_entropy: float = 0.5
    dice: float = 0.0
    rank: float = 0.0
    classes: float = 0.5
    teachers: float = 0.0  # share of the truth that is the teachers' answer
    mask_smoothing: float = 0.02
    class_smoothing: float = 0.02


@dataclass(frozen=True)
class TrainSettings:
    """The optimiser's side of a recipe: AdamW, which without weight decay is Adam."""

    epochs: int = 12
    batch: int = 16  # of all devices together
    encoder_lr: float = 4e-4  # the highest of the schedule
    head_lr: float = 1e-3
    schedule: str = "one-cycle"  # or "poly": lr * (1 - step / steps) ** 0.9, as paper A
    weight_decay: float = 0.02
    ema: float = 0.998  # decay of the running average of the weights, reached after a warm-up; 0 is none
    keep_start: float = 0.0  # share of --start's weights in what is validated and saved; below 1
    initial: str = "imagenet"  # or "none", or a file of encoder weights
    teachers: tuple[str, ...] = ()  # shipped models or checkpoints that answer beside the truth, see [loss]
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0)  # how often melanoma, keratosis and the rest are drawn
    exclude: tuple[str, ...] = ()
    workers: int = 1

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"[train] schedule = {self.schedule!r}: it must be one of {', '.join(SCHEDULES)}")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"[train] {name} = {getattr(self, name)}: it must be at least 1")
        if self.keep_start and self.initial != "none":
            raise ValueError('[train] keep_start keeps what --start has, which initial would replace: initial = "none"')
        if not 0 <= self.keep_start < 1:
            raise ValueError(f"[train] keep_start = {self.keep_start}: it must be at least 0 and below 1")


@dataclass(frozen=True)
class EngineSettings:
    """What build-engine takes when it is given the recipe's name."""

    checkpoint: str = ""  # "shipped", or a path relative to the recipe
    precision: str = "auto"
    batch: int = 1


@dataclass(frozen=True)
class StageSettings:
    """What one stage of the training goes by."""

    train: TrainSettings = field(default_factory=TrainSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if bool(self.train.teachers) != bool(self.loss.teachers):
            raise ValueError("[train] teachers says who answers and [loss] teachers for how much: give both or neither")


@dataclass(frozen=True)
class Recipe:
    """One TOML file, resolved: what the file leaves out has its default here, and is saved with the run.

    [train], [loss] and [augment] are for every stage; [stages.NAME.train] and so on change single values for one.
    """

    model: ModelSpec
    train: TrainSettings = field(default_factory=TrainSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    stages: Mapping[str, StageSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.for_stage("any other")  # whose settings must fit together, too

    def for_stage(self, name: str) -> StageSettings:
        return self.stages.get(name) or StageSettings(self.train, self.loss, self.augment)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def find_recipe(name: str) -> Path:
    """A path to a .toml, or a name looked up in ./engines and among the recipes that come with lesioncli."""
    if name.endswith(".toml"):
        return Path(name)
    folders = (Path("engines"), *SHIPPED_RECIPES)
    for folder in folders:
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.toml")})
    raise InputError(f"no recipe {name!r}; there are {', '.join(known)}, or give a path to a .toml")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; InputError names the file and the key that is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        stages = _build_stages(tables.pop("stages", {}), tables)
        sections = {
            each.name: _build(each.type, tables.pop(each.name, {}), each.name)
            for each in dataclasses.fields(Recipe)
            if each.name != "stages"
        }
        if tables:
            raise ValueError(f"unknown section {sorted(tables)[0]!r}")
        return Recipe(**sections, stages=stages)
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a recipe: {error}") from error


def _build_stages(stages: Any, common: Mapping[str, Any]) -> dict[str, StageSettings]:
    """Each stage's sections: what all stages have in common, changed by what stands under the stage's name."""
    parts = {each.name: each.type for each in dataclasses.fields(StageSettings)}
    built = {}
    for name, own in _table(stages, "stages").items():
        if strange := set(_table(own, f"stages.{name}")) - set(parts):
            raise ValueError(f"[stages.{name}] has no {sorted(strange)[0]!r}; it has {', '.join(parts)}")
        if "exclude" in _table(own.get("train", {}), f"stages.{name}.train"):
            raise ValueError(f"[stages.{name}.train] has no exclude: all stages see the same pictures; see [train]")
        built[name] = StageSettings(
            **{
                part: _build(
                    kind,
                    {**_table(common.get(part, {}), part), **_table(own.get(part, {}), f"stages.{name}.{part}")},
                    f"stages.{name}.{part}",
                )
                for part, kind in parts.items()
            }
        )
    return built


def _table(values: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise TypeError(f"{name} must be a section, [{name}]")
    return values


def _build(section: Any, values: Any, name: str) -> Any:
    fields = {each.name: each for each in dataclasses.fields(section)}
    for key, value in _table(values, name).items():
        if key not in fields:
            raise ValueError(f"[{name}] has no {key!r}; it has {', '.join(sorted(fields))}")
        if not _fits(value, fields[key].type):
            raise TypeError(f"[{name}] {key} = {value!r}: it must be {_in_words(fields[key].type)}")
    required = [key for key, each in fields.items() if each.default is each.default_factory is dataclasses.MISSING]
    if lacking := [key for key in required if key not in values]:
        raise ValueError(f"[{name}] needs {', '.join(lacking)}")
    return section(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _fits(value: object, kind: Any) -> bool:
    """Whether a value of a TOML file is what a field of type `kind` takes; a whole number will do for a float."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            return False
        kinds = inside[:1] * len(value) if inside[-1] is Ellipsis else inside
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind or (origin is not None and isinstance(value, origin))


def _in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        first, *rest = get_args(kind)
        return f"a list of {first.__name__}" if Ellipsis in rest else f"a list of {1 + len(rest)} {first.__name__}"
    return "a table" if get_origin(kind) else str(kind.__name__)
