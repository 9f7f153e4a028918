"""`lesioncli train`: what a run prints and leaves, and its exit codes."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.command import call
from helpers.train_command import TRAIN, write_training_folder
from typer.testing import Result

from lesioncli.errors import ExitCode
from lesioncli.training.checkpoint import load_checkpoint

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
    assert "8 (8 labelled) training and 3 (3 labelled) validation samples; device cpu" in done.stderr
    for stage, metric in (("coarse-sn", "jaccard"), ("mask-cn", "auc_melanoma"), ("enhanced-sn", "jaccard")):
        assert f"{stage}: initial weights: " in done.stderr
        assert metric in done.stderr.partition(f"{stage}, epoch 1: loss ")[2].splitlines()[0]
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


def test_a_stage_without_the_stage_before_it_is_bad_input(folder: Path) -> None:
    done = call(*TRAIN, "--out", "alone", "--stage", "mask-cn")
    assert done.exit_code == ExitCode.INPUT
    assert "coarse-sn" in done.stderr


def test_a_missing_mask_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path / "spoilt", ignore=shutil.ignore_patterns("run*", "again"))
    next((tmp_path / "spoilt/lesions/labels").glob("*_0003_*.png")).unlink()
    monkeypatch.chdir(tmp_path / "spoilt")
    done = call(*TRAIN, "--out", "run")
    assert done.exit_code == ExitCode.INPUT
    assert "demo_0003_segmentation.png" in done.stderr
