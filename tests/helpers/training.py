"""Training runs on drawn folders, complete and killed."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lesioncli.demo.draw import draw_case
from lesioncli.options import TrainingDevice
from lesioncli.spec import CLASSES, ModelSpec
from lesioncli.training.devices import make_fabric
from lesioncli.training.recipe import AugmentSettings, Recipe
from lesioncli.training.run import TrainingRun
from lesioncli.training.samples import Sample
from lesioncli.training.trainer import train

SIDE = 64
EPOCHS = 3

SPEC = ModelSpec(
    name="tiny",
    network="multitask",
    height=SIDE,
    width=SIDE,
    options={
        "encoder": "tiny",
        "decoder_widths": [32, 16, 8],
        "separable": True,
        "lesion_pooling": True,
        "dropout": 0.2,
    },
)

NEARLY_STILL = AugmentSettings(
    zoom=(0.95, 1.05),
    aspect=1.05,
    shift=0.02,
    brightness=0.02,
    contrast=0.02,
    saturation=0.02,
    colour_cast=0.01,
    blur=0,
    sharpen=0,
    jpeg=0,
    hair=0,
)


def draw_folder(folder: Path, count: int, height: int = SIDE, width: int = SIDE) -> Path:
    """Write images, masks and labels.csv; return the folder."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows = ["image,melanoma,seborrheic_keratosis"]
    for seed in range(count):
        case = draw_case(seed, height, width)
        Image.fromarray(case.image).save(folder / f"images/x{seed}.png")
        Image.fromarray(case.mask.astype(np.uint8) * 255).save(folder / f"masks/x{seed}.png")
        rows.append(f"x{seed},{case.label == CLASSES[0]:d},{case.label == CLASSES[1]:d}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def repeat(samples: list[Sample], count: int) -> list[Sample]:
    """Return the samples `count` times, each time as other images."""
    return [replace(sample, name=f"{sample.name}-{number}") for number in range(count) for sample in samples]


def run(recipe: Recipe, training: list[Sample], validation: list[Sample], folder: Path, **more: Any) -> Path:
    """Train on the CPU; `only` is the name of a stage, further arguments are those of TrainingRun."""
    only = more.pop("only", None)
    return train(TrainingRun(recipe, training, validation, folder, **more), make_fabric(TrainingDevice.CPU).value, only)


KILLED = """
import os, signal, sys
from pathlib import Path

import torch

from lesioncli.options import TrainingDevice
from lesioncli.training.devices import make_fabric
from lesioncli.training.recipe import load_recipe
from lesioncli.training.run import TrainingRun
from lesioncli.training.samples import read_samples
from lesioncli.training.trainer import train


def die_in_the_middle_of_epoch_2(progress):
    if (progress.stage, progress.epoch, progress.step) == (stage, 1, 0):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[5])
    from helpers.networks import register_tiny_encoders

    register_tiny_encoders()
    torch.set_num_threads(1)
    recipe, data, run = map(Path, sys.argv[1:4])
    stage = sys.argv[4]
    samples = read_samples(data, "Training")
    task = TrainingRun(load_recipe(recipe), samples, samples, run, seed=5, on_step=die_in_the_middle_of_epoch_2)
    train(task, make_fabric(TrainingDevice.CPU).value)
"""


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return where two nested dicts, lists, tensors and values are not equal bit for bit; seconds are ignored."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, Mapping):
        assert a.keys() == b.keys()
        return [path for key in a if key != "seconds" for path in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return [path for n, pair in enumerate(zip(a, b, strict=True)) for path in differences(*pair, f"{where}/{n}")]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a} and {b}"]


def killed(tmp_path: Path, recipe: Path, data: Path, stage: str) -> Path:
    """Return the folder of a run that was killed at the first step of that stage's second epoch."""
    script, folder = tmp_path / "killed.py", tmp_path / "killed"
    script.write_text(KILLED)
    command = [sys.executable, *map(str, (script, recipe, data, folder)), stage, str(Path(__file__).parents[1])]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    return folder


def saved_state(folder: Path) -> dict[str, Any]:
    """Return the training state in last.pt of a run."""
    state: dict[str, Any] = torch.load(folder / "last.pt", weights_only=True)
    return state
