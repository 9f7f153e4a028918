"""`lesioncli train` as a user types it: one process, two processes, and on to an engine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lesioncli.demo.folder import write_demo
from lesioncli.training.checkpoint import load_checkpoint

PROGRAM = Path(sys.executable).parent / "lesioncli"
RECIPE = """
[model]
name = "tiny-cascade"
network = "mbdcnn"
height = 64
width = 64
[model.options]
encoder = "efficientnet_lite0"
reads = "crop"
width = 8
rates = [1, 2, 3]
[train]
epochs = 1
batch = 4
initial = "none"
workers = 0
[loss]
dice = 1.0
rank = 0.05
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures as `demo` leaves them, and a recipe for seconds."""
    here = tmp_path_factory.mktemp("train")
    write_demo(here / "lesions", count=8, height=64, width=64)
    write_demo(here / "held-out", count=3, seed=100, height=64, width=64)
    (here / "tiny.toml").write_text(RECIPE)
    return here


def train(folder: Path, out: str, *words: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--no-python", "--"]
    command = [str(PROGRAM), "train", "--recipe", "tiny.toml", "--data", "lesions", "--val", "held-out", "--out", out]
    return subprocess.run(
        [*(launcher if processes > 1 else []), *command, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(folder: Path) -> subprocess.CompletedProcess[str]:
    return train(folder, "run")


def test_every_stage_says_where_it_starts_and_what_came_of_it(trained: subprocess.CompletedProcess[str]) -> None:
    assert trained.returncode == 0, trained.stderr
    assert "8 (8 labelled) training and 3 (3 labelled) validation samples; device cpu" in trained.stderr
    assert "mask-cn: initial weights: none" in trained.stderr
    assert (
        "enhanced-sn: initial weights: coarse_sn, but for 6 tensors of the layer that takes the map" in trained.stderr
    )
    for stage, figure in (("coarse-sn", "jaccard"), ("mask-cn", "auc_melanoma"), ("enhanced-sn", "jaccard")):
        assert f"{stage}, epoch 1: loss " in trained.stderr
        assert figure in trained.stderr.partition(f"{stage}, epoch 1")[2].splitlines()[0]
    assert trained.stdout.strip() == (
        "best checkpoint: run/best.safetensors; next: lesioncli build-engine run/best.safetensors"
    )


def test_the_trained_cascade_becomes_an_engine_with_a_column_for_the_agreement(
    folder: Path, trained: subprocess.CompletedProcess[str]
) -> None:
    words = ["build-engine", "run/best.safetensors", "--precision", "fp32", "--images", "held-out/images"]
    built = subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    words = ["segment", "held-out/images", "--out", "masks", "--engine", "tiny-cascade"]
    done = subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    header, *rows = (folder / "masks/scores.csv").read_text().splitlines()
    assert "confidence,agreement,note" in header
    assert len(rows) == 3
    assert all(0 <= float(row.split(",")[-2]) <= 1 for row in rows)


def test_one_stage_can_be_trained_again_from_a_checkpoint(
    folder: Path, trained: subprocess.CompletedProcess[str]
) -> None:
    done = train(folder, "again", "--stage", "enhanced-sn", "--start", "run/best.safetensors", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert "again/best.safetensors" in done.stdout
    assert "coarse-sn, epoch" not in done.stderr
    before, after = (load_checkpoint(folder / name / "best.safetensors")[0].state_dict() for name in ("run", "again"))
    parts = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert parts == {"enhanced_sn"}


def test_a_stage_without_what_it_builds_on_exits_3(folder: Path) -> None:
    done = train(folder, "alone", "--stage", "mask-cn")
    assert done.returncode == 3
    assert "mask-cn builds on coarse-sn, which is not trained here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mask_that_is_missing_exits_3_and_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "spoilt", ignore=shutil.ignore_patterns("run*", "again", "masks"))
    next((tmp_path / "spoilt/lesions/labels").glob("*_0003_*.png")).unlink()
    done = train(tmp_path / "spoilt", "run")
    assert done.returncode == 3
    assert "no mask demo_0003_segmentation.png or demo_0003.png" in done.stderr


def test_under_torchrun_two_processes_train_one_model_and_one_of_them_speaks(folder: Path) -> None:
    done = train(folder, "two", "--stage", "coarse-sn", processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("coarse-sn, epoch 1: ") == 1
    assert done.stdout.count("best checkpoint") == 1
    network, _ = load_checkpoint(folder / "two/coarse-sn/best.safetensors")
    state = torch.load(folder / "two/coarse-sn/last.pt", weights_only=True)
    assert int(state["schedule"]["last_epoch"]) == 2  # 8 pictures in batches of 4, two of each on either device
    assert all(torch.isfinite(each).all() for each in network.state_dict().values())
