"""Recipes: one TOML file per training run with every value that the run depends on.

The dataclasses are the only definition of keys, allowed values, defaults and descriptions. load_recipe() checks a file
against them; lesioncli/training/reference.py writes the tables of docs/training.md from them.
"""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin

import msgspec
from msgspec import Meta

from lesioncli.errors import InputError
from lesioncli.options import Precision
from lesioncli.shipped import list_recipes
from lesioncli.spec import NOT_IN_RECIPE, ModelSpec

Count = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]


class Schedule(StrEnum):
    """Learning rate over the steps of a stage."""

    ONE_CYCLE = "one-cycle"
    POLY = "poly"


class Auxiliary(StrEnum):
    """What an auxiliary head learns."""

    NONE = "none"
    DIAGNOSIS = "diagnosis"


@dataclass(frozen=True)
class AugmentSettings:
    """How far a training sample is changed at random."""

    zoom: Annotated[tuple[float, float], Meta(description="side of the crop, as a share of the image's side")] = (
        0.6,
        1.25,
    )
    aspect: Annotated[float, Meta(ge=1, description="greatest factor between the stretch of width and height")] = 1.35
    shift: Annotated[NonNegative, Meta(description="greatest shift of the crop, as a share of the image's side")] = 0.12
    centred: Annotated[
        bool, Meta(description="instead of `zoom`, `aspect` and `shift`: the 15 centred crops of MB-DCNN's mask-CN")
    ] = False
    reflect: Annotated[Probability, Meta(description="probability of reflection beyond the border; else black")] = 0.5
    brightness: Annotated[NonNegative, Meta(description="greatest relative change of brightness")] = 0.15
    contrast: Annotated[NonNegative, Meta(description="greatest relative change of contrast")] = 0.2
    saturation: Annotated[NonNegative, Meta(description="greatest relative change of saturation")] = 0.3
    colour_cast: Annotated[NonNegative, Meta(description="greatest relative change of a single colour channel")] = 0.07
    blur: Annotated[Probability, Meta(description="probability of Gaussian blur")] = 0.25
    sharpen: Annotated[Probability, Meta(description="probability of sharpening")] = 0.15
    jpeg: Annotated[Probability, Meta(description="probability of JPEG compression")] = 0.25
    hair: Annotated[Probability, Meta(description="probability of drawn hairs")] = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"[augment] zoom = {list(self.zoom)} is not a positive range, smaller number first")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; a stage uses those that fit its outputs."""

    jaccard: Annotated[NonNegative, Meta(description="soft Jaccard loss of the mask")] = 1.0
    cross_entropy: Annotated[NonNegative, Meta(description="binary cross-entropy of the mask")] = 0.5
    dice: Annotated[NonNegative, Meta(description="Dice loss of the mask, as in MB-DCNN")] = 0.0
    rank: Annotated[NonNegative, Meta(description="rank loss of the mask, as in MB-DCNN")] = 0.0
    classes: Annotated[NonNegative, Meta(description="cross-entropy of the classes")] = 0.5
    auxiliary: Annotated[NonNegative, Meta(description="cross-entropy of the auxiliary head")] = 0.25
    teachers: Annotated[Probability, Meta(description="share of the teachers' mean prediction in the targets")] = 0.0
    mask_smoothing: Annotated[Probability, Meta(description="label smoothing of the mask's cross-entropy")] = 0.02
    class_smoothing: Annotated[Probability, Meta(description="label smoothing of the classes")] = 0.02


@dataclass(frozen=True)
class TrainSettings:
    """Optimisation with AdamW, which is Adam if there is no weight decay."""

    epochs: Annotated[Count, Meta(description="epochs of a stage")] = 12
    batch: Annotated[Count, Meta(description="images per batch, over all devices together")] = 16
    encoder_lr: Annotated[NonNegative, Meta(description="highest learning rate of the encoder")] = 4e-4
    head_lr: Annotated[NonNegative, Meta(description="highest learning rate of all other layers")] = 1e-3
    schedule: Annotated[
        Schedule, Meta(description="learning rate; `poly` is lr * (1 - step / steps) ** 0.9, as in MB-DCNN")
    ] = Schedule.ONE_CYCLE
    weight_decay: Annotated[NonNegative, Meta(description="weight decay of AdamW")] = 0.02
    ema: Annotated[Share, Meta(description="decay of the running average of the weights; 0: no average")] = 0.998
    keep_start: Annotated[
        Share, Meta(description="share of the weights of `--start` in what is validated and saved")
    ] = 0.0
    initial: Annotated[
        str, Meta(description='initial weights: "imagenet", "none", a shipped model, or a file of encoder weights')
    ] = "imagenet"
    teachers: Annotated[
        tuple[str, ...], Meta(description="shipped models or checkpoints whose predictions are mixed into the targets")
    ] = ()
    auxiliary: Annotated[
        Auxiliary,
        Meta(description="head that is trained along: of the column `diagnosis` in the tables of labels; not saved"),
    ] = Auxiliary.NONE
    balance: Annotated[
        tuple[NonNegative, NonNegative, NonNegative],
        Meta(description="relative frequency of samples with melanoma, with seborrheic keratosis, with neither"),
    ] = (1.0, 1.0, 1.0)
    exclude: Annotated[
        tuple[str, ...],
        Meta(description='training images to leave out, by name; "isic2017-test-duplicates" is a list of eight'),
    ] = ()
    workers: Annotated[int, Meta(ge=0, description="processes that load and augment images; 0: none")] = 1

    def __post_init__(self) -> None:
        if self.keep_start and self.initial != "none":
            raise ValueError(
                '[train] keep_start needs initial = "none": initial weights would replace those of --start'
            )


@dataclass(frozen=True)
class EngineSettings:
    """What `build-engine` does with the recipe's name."""

    checkpoint: Annotated[str, Meta(description='"shipped", or a path relative to the recipe')] = ""
    precision: Annotated[Precision, Meta(description="arithmetic of the engine")] = Precision.AUTO
    batch: Annotated[Count, Meta(description="images per batch of the engine")] = 1


@dataclass(frozen=True)
class StageSettings:
    """Settings of one stage."""

    train: TrainSettings = field(default_factory=TrainSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if bool(self.train.teachers) != bool(self.loss.teachers):
            raise ValueError(
                "[train] teachers names the networks and [loss] teachers their share: give both or neither"
            )


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: keys that the file leaves out have their defaults. It is saved with the run.

    [train], [loss] and [augment] are for all stages; [stages.NAME.train] and so on change single keys for one stage.
    """

    model: ModelSpec
    train: TrainSettings = field(default_factory=TrainSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    stages: Mapping[str, StageSettings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        StageSettings(self.train, self.loss, self.augment)  # raises if they do not fit together

    def for_stage(self, name: str) -> StageSettings:
        return self.stages.get(name) or StageSettings(self.train, self.loss, self.augment)

    @property
    def most_workers(self) -> int:
        """The workers of the stage that has most."""
        return max(settings.workers for settings in (self.train, *(stage.train for stage in self.stages.values())))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def find_recipe(name: str) -> Path:
    """The path of a .toml file, or of the recipe of that name in ./engines or among those that come with lesioncli."""
    if name.endswith(".toml"):
        return Path(name)
    recipes = list_recipes()
    if name not in recipes:
        raise InputError(f"no recipe {name!r}; choose one of {', '.join(recipes)}, or give the path of a .toml file")
    return recipes[name]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; InputError names the file, the table, the key and what is allowed."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        tables = [part.name for part in dataclasses.fields(Recipe)]
        _check_names(content, tables, "a recipe", "table")
        stages = _read_stages(content.pop("stages", {}), content)
        parts = {
            part.name: _read_table(cast(type, part.type), content.get(part.name, {}), part.name)
            for part in dataclasses.fields(Recipe)
            if part.name != "stages"
        }
        return Recipe(**parts, stages=stages)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a valid recipe: {error}") from error


def _read_stages(stages: Any, common: Mapping[str, Any]) -> dict[str, StageSettings]:
    """Settings per stage: the tables for all stages, changed by those of the stage."""
    parts = {part.name: cast(type, part.type) for part in dataclasses.fields(StageSettings)}
    settings = {}
    for name, tables in _as_table(stages, "stages").items():
        where = f"stages.{name}"
        _check_names(_as_table(tables, where), parts, f"[{where}]", "table")
        if "exclude" in _as_table(tables.get("train", {}), f"{where}.train"):
            raise ValueError(f"[{where}.train] exclude: all stages use the same images; set it in [train]")
        merged = {
            part: {**_as_table(common.get(part, {}), part), **_as_table(tables.get(part, {}), f"{where}.{part}")}
            for part in parts
        }
        settings[name] = StageSettings(
            **{part: _read_table(kind, merged[part], f"{where}.{part}") for part, kind in parts.items()}
        )
    return settings


def _as_table(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a table, [{name}]")
    return value


def _check_names(table: Iterable[str], known: Iterable[str], where: str, kind: str) -> None:
    allowed = sorted(known)
    for name in table:
        if name not in allowed:
            raise ValueError(f"{where} has no {kind} {name!r}; it has {', '.join(allowed)}")


def _read_table(section: type, values: Any, name: str) -> Any:
    """A section's dataclass from its table. Each value is checked alone, so that the message can name its key."""
    fields = {part.name: part for part in dataclasses.fields(section) if NOT_IN_RECIPE not in part.metadata}
    _check_names(_as_table(values, name), fields, f"[{name}]", "key")
    required = [key for key, part in fields.items() if part.default is part.default_factory is dataclasses.MISSING]
    if missing := [key for key in required if key not in values]:
        raise ValueError(f"[{name}] needs {', '.join(missing)}")
    checked = {}
    for key, value in values.items():
        kind = cast(Any, fields[key].type)
        try:
            checked[key] = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise ValueError(f"[{name}] {key} = {value!r} is not {describe_type(kind)}") from error
    return section(**checked)


def describe_type(kind: Any) -> str:
    """The values that a key takes, in words: "a number from 0 to 1", "one of one-cycle, poly"."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe_type(inside[0]) + "".join(_describe_bounds(meta) for meta in inside[1:])
    if origin is tuple:
        count = "" if inside[-1] is Ellipsis else f"{len(inside)} "
        noun, space, bounds = describe_type(inside[0]).removeprefix("a ").partition(" ")
        return f"a list of {count}{noun}s{space}{bounds}"
    if origin is not None:
        return "a table"
    if issubclass(kind, StrEnum):
        return f"one of {', '.join(kind)}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[kind]


def _describe_bounds(meta: Meta) -> str:
    if meta.ge is None:
        return ""
    if meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    return f" of at least {meta.ge}" + (f" and below {meta.lt}" if meta.lt is not None else "")
