"""`lesioncli train` in two processes, and a trained cascade as an engine."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.train_command import TRAIN, write_training_folder

from lesioncli.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
MANUAL = Path(__file__).parents[2] / "docs/training.md"
PROGRAM = str(Path(sys.executable).parent / "lesioncli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", "--")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_folder(tmp_path_factory.mktemp("train"))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_a_trained_cascade_becomes_an_engine_with_a_column_for_its_further_output(folder: Path) -> None:
    run(folder, PROGRAM, *TRAIN, "--out", "run")
    run(folder, PROGRAM, "build-engine", "run/best.safetensors", "--precision", "fp32", "--images", "held-out/images")
    run(folder, PROGRAM, "segment", "held-out/images", "--out", "masks", "--engine", "tiny-cascade")
    header, *rows = (folder / "masks/scores.csv").read_text().splitlines()
    assert "confidence,agreement,note" in header
    assert len(rows) == 3
    assert all(0 <= float(row.split(",")[-2]) <= 1 for row in rows)


def test_two_processes_train_one_model_and_one_of_them_prints(folder: Path) -> None:
    done = run(folder, *TORCHRUN, PROGRAM, *TRAIN, "--out", "two", "--stage", "coarse-sn")
    assert done.stderr.count("coarse-sn, epoch 1: ") == 1
    assert done.stdout.count("best checkpoint") == 1
    network, _ = load_checkpoint(folder / "two/coarse-sn/best.safetensors")
    state = torch.load(folder / "two/coarse-sn/last.pt", weights_only=True)
    assert int(state["schedule"]["last_epoch"]) == 2  # 8 images in batches of 4, two images per process
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


def test_the_fine_tuning_of_the_manual_runs_as_printed(tmp_path: Path) -> None:
    section = re.split(
        r"^##+ ", MANUAL.read_text(encoding="utf-8").split("### Fine-tune a shipped model\n")[1], flags=re.M
    )[0]
    (recipe,) = re.findall(r"^```toml\n(.*?)^```", section, re.M | re.S)
    (tmp_path / "mine.toml").write_text(recipe)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    for line in commands.splitlines():
        run(tmp_path, PROGRAM, *shlex.split(line)[1:])
    with (tmp_path / "runs/mine/joint/history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    assert len(history) == 5
    assert max(float(row["jaccard"]) for row in history) > 0.85
    assert len(list((tmp_path / "masks").glob("*.png"))) == 40
