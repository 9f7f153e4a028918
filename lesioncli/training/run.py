"""A training run: what it depends on, its progress, and the record in its folder."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lesioncli import __version__
from lesioncli.errors import InputError
from lesioncli.files import atomic_output, sha256_of
from lesioncli.models.registry import find_network
from lesioncli.training.recipe import Recipe
from lesioncli.training.samples import Sample, fingerprint
from lesioncli.training.teachers import teacher_path

BEST = "best.safetensors"
LAST = "last.pt"


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step. Epochs and steps count from 0.

    `batch` is the number of images per step, `later` that of the images in all epochs after this one.
    """

    stage: str
    epoch: int
    epochs: int
    steps: int
    batch: int
    later: int
    step: int = 0
    loss: float = 0.0

    @property
    def images_left(self) -> int:
        """Images until the end of the last stage of this call."""
        return (self.steps - self.step - 1) * self.batch + self.later

    def at(self, step: int, loss: float) -> "Progress":
        return replace(self, step=step, loss=loss)


@dataclass(frozen=True)
class TrainingRun:
    """Inputs and output folder of a run. The networks are taken from the checkpoint `start`, as far as they fit."""

    recipe: Recipe
    training: Sequence[Sample]
    validation: Sequence[Sample]
    folder: Path
    seed: int = 0
    start: Path | None = None
    on_step: Callable[[Progress], None] = lambda progress: None
    on_epoch: Callable[[str, Mapping[str, float]], None] = lambda stage, row: None
    on_note: Callable[[str], None] = lambda text: None


def check_or_write_record(run: TrainingRun) -> None:
    """Write recipe.json, or compare it if the folder holds a run with a complete epoch; InputError if it differs.

    Before the first complete epoch, recipe.json may change: a run that failed there is repeated in the same folder.
    """
    inputs = {
        "recipe": run.recipe.as_dict(),
        "seed": run.seed,
        "data": {"training": fingerprint(run.training), "validation": fingerprint(run.validation)},
        "counts": {"training": len(run.training), "validation": len(run.validation)},
        "start": _hash_start(run.start) if run.start else None,
        "teachers": _hash_teachers(run.recipe),
    }
    path = run.folder / "recipe.json"
    if any(run.folder.glob(f"*/{LAST}")):
        saved, inputs = _read_record(path), json.loads(json.dumps(inputs))
        changed = [key for key in inputs if saved.get(key) != inputs[key]]
        if changed == ["recipe"] and _without_epochs(saved["recipe"]) == _without_epochs(inputs["recipe"]):
            raise InputError(
                f"{run.folder}: holds a run with another number of epochs, for which its learning rates were planned;"
                f" to train its result further, choose another folder with --out, and --start {run.folder / BEST}"
                ' with initial = "none" in the recipe'
            )
        if changed:
            raise InputError(
                f"{run.folder}: holds a run with another {' and '.join(changed)}; choose another folder with --out"
            )
        return
    versions = {"lesioncli": __version__, "torch": torch.__version__, "python": platform.python_version()}
    with atomic_output(path, "--out") as temporary:
        temporary.write_text(json.dumps({**inputs, "versions": versions}, indent=1) + "\n", encoding="utf-8")


def _without_epochs(recipe: Any) -> Any:
    """A recipe as a dictionary, without the numbers of epochs in its tables."""
    if not isinstance(recipe, dict):
        return recipe
    return {key: _without_epochs(value) for key, value in recipe.items() if key != "epochs"}


def _hash_start(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); choose another checkpoint with --start"
        ) from error


def _hash_teachers(recipe: Recipe) -> dict[str, str]:
    stages = find_network(recipe.model.network).stages
    names = {name for stage in stages for name in recipe.for_stage(stage.name).train.teachers}
    return {name: sha256_of(teacher_path(name)) for name in sorted(names)}


def _read_record(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}), so the run cannot continue; choose another folder with --out"
        ) from error
