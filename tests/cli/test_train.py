"""`lesioncli train`: what a run prints and leaves, and its exit codes."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.command import call
from helpers.train_command import TRAIN, write_training_folder
from PIL import Image
from typer.testing import Result

from lesioncli.errors import ExitCode
from lesioncli.shipped import find_checkpoint
from lesioncli.training.checkpoint import load_checkpoint

FINE_TUNE = """
[model]
name = "mine"
network = "multitask"
height = 64
width = 64
[model.options]
encoder = "efficientnet_lite0"
decoder_widths = [128, 64, 48]
separable = true
lesion_pooling = true
smooth = true
[train]
epochs = 1
batch = 4
initial = "none"
encoder_lr = 0.0
head_lr = 0.0
ema = 0.999
workers = 0
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Path, Result]:
    """A folder with a finished run of three stages, and the result of its command."""
    folder = write_training_folder(tmp_path_factory.mktemp("train"))
    before = Path.cwd()
    os.chdir(folder)  # monkeypatch is for one test
    try:
        return folder, call(*TRAIN, "--out", "run")
    finally:
        os.chdir(before)


@pytest.fixture
def folder(trained: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained[0])
    return trained[0]


def test_every_stage_is_trained_and_reported(trained: tuple[Path, Result]) -> None:
    done = trained[1]
    assert done.exit_code == 0, done.output
    for line in (
        "training: 8 images: melanoma 3, seborrheic keratosis 3, neither 2, unknown 0; without mask 0",
        "validation: 3 images: melanoma 1, seborrheic keratosis 1, neither 1, unknown 0; without mask 0",
        "device cpu: ",
        "threads 1: as asked",
        "choice: ",
    ):
        assert line in done.stderr
    for stage, metric in (("coarse-sn", "jaccard"), ("mask-cn", "auc_melanoma"), ("enhanced-sn", "jaccard")):
        assert f"{stage}: initial weights: " in done.stderr
        line = done.stderr.partition(f"{stage}, epoch 1: loss ")[2].splitlines()[0]
        assert metric in line
        assert re.search(r", [\d.e+]+ images/s, \d+ s left$", line)
    assert done.stdout.strip().endswith("lesioncli build-engine run/best.safetensors")


def test_one_stage_can_be_trained_again_from_a_checkpoint(folder: Path) -> None:
    words = ("--out", "again", "--stage", "enhanced-sn", "--start", "run/best.safetensors", "--seed", "1")
    done = call(*TRAIN, *words)
    assert done.exit_code == 0, done.output
    assert "again/best.safetensors" in done.stdout
    assert "coarse-sn, epoch" not in done.stderr
    before, after = (load_checkpoint(folder / name / "best.safetensors")[0].state_dict() for name in ("run", "again"))
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"enhanced_sn"}


def test_a_shipped_model_is_a_start(folder: Path) -> None:
    (folder / "mine.toml").write_text(FINE_TUNE)
    done = call("train", "--recipe", "mine.toml", *TRAIN[3:], "--start", "multitask-lite", "--out", "tuned")
    assert done.exit_code == 0, done.output
    (loaded,) = [line for line in done.stderr.splitlines() if "joint: loaded joint from " in line]
    assert "multitask-lite.safetensors" in loaded
    tuned, _ = load_checkpoint(folder / "tuned/best.safetensors")
    shipped, _ = load_checkpoint(find_checkpoint("multitask-lite"))
    pairs = zip(tuned.parameters(), shipped.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_start_that_is_neither_a_model_nor_a_file_is_bad_input(folder: Path) -> None:
    done = call(*TRAIN, "--out", "never", "--start", "multitask-lit")
    assert done.exit_code == ExitCode.INPUT
    assert "'multitask-lit'" in done.stderr
    assert not (folder / "never").exists()


def test_a_stage_without_the_stage_before_it_is_bad_input(folder: Path) -> None:
    done = call(*TRAIN, "--out", "alone", "--stage", "mask-cn")
    assert done.exit_code == ExitCode.INPUT
    assert "coarse-sn" in done.stderr


@pytest.fixture
def spoilt(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, without its run, as the working directory."""
    shutil.copytree(folder, tmp_path / "spoilt", ignore=shutil.ignore_patterns("run*", "again", "tuned", "fold"))
    monkeypatch.chdir(tmp_path / "spoilt")
    return tmp_path / "spoilt"


@pytest.mark.parametrize("data", ["lesions", "held-out"])
def test_a_mask_of_another_size_is_named_before_the_first_epoch(spoilt: Path, data: str) -> None:
    mask = max((spoilt / data / "labels").glob("*.png"))
    Image.fromarray(np.zeros((64, 65), np.uint8)).save(mask)
    done = call(*TRAIN, "--out", "run")
    assert done.exit_code == ExitCode.INPUT
    assert f"{mask.relative_to(spoilt)}: 65 x 64 pixels" in done.stderr
    assert not (spoilt / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_by_its_own_message(spoilt: Path, workers: int) -> None:
    recipe = spoilt / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("workers = 0", f"workers = {workers}"))
    image = min((spoilt / "lesions/images").iterdir())
    image.write_bytes(image.read_bytes()[:900])
    done = call(*TRAIN, "--out", "run")
    assert done.exit_code == ExitCode.INPUT
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {image.relative_to(spoilt)}: ")
    assert "Traceback" not in done.output


def test_a_fold_is_held_out(folder: Path) -> None:
    words = ("train", "--recipe", "tiny.toml", "--data", "lesions", "--stage", "coarse-sn")
    done = call(*words, "--fold", "1/2", "--out", "fold")
    assert done.exit_code == 0, done.output
    record = json.loads((folder / "fold/recipe.json").read_text())
    assert sum(record["counts"].values()) == 8
    assert 1 <= record["counts"]["validation"] <= 7
    again = call(*words, "--fold", "2/2", "--out", "fold")
    assert again.exit_code == ExitCode.INPUT
    assert "another data" in again.stderr


@pytest.mark.parametrize("words", [("--fold", "3/2"), ("--fold", "1/2", "--val", "held-out")])
def test_a_fold_that_cannot_be_is_a_wrong_option(folder: Path, words: tuple[str, ...]) -> None:
    done = call("train", "--recipe", "tiny.toml", "--data", "lesions", "--out", "never", *words)
    assert done.exit_code == ExitCode.USAGE
    assert not (folder / "never").exists()


def test_images_of_one_class_are_validated_without_its_auc(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "held-out", tmp_path / "held-out")
    table = tmp_path / "held-out/labels/labels.csv"
    table.write_text(table.read_text().replace("1.0", "0.0"))
    words = ("--val", str(tmp_path / "held-out"), "--out", str(tmp_path / "run"), "--stage", "mask-cn")
    done = call("train", "--recipe", "tiny.toml", "--data", "lesions", *words, "--start", "run/best.safetensors")
    assert done.exit_code == 0, done.output
    assert "validation: melanoma is 0 for every image" in done.stderr


def test_images_without_masks_train_what_they_have(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "lesions", tmp_path / "lesions")
    for path in (tmp_path / "lesions/labels").glob("*.png"):
        path.unlink()
    words = ("train", "--recipe", "tiny.toml", "--data", str(tmp_path / "lesions"), "--val", "held-out")
    done = call(*words, "--stage", "mask-cn", "--start", "run/best.safetensors", "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    assert "without mask 8" in done.stderr
    done = call(*words, "--stage", "coarse-sn", "--out", str(tmp_path / "other"))
    assert done.exit_code == ExitCode.INPUT
    assert "coarse-sn" in done.stderr
