"""Runs in a process of their own: a GPU that fails, and NVIDIA's tool that watches memory and races."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gpu.cards import Card
from gpu.conftest import MakePlan
from gpu.runs import read_outputs

from lesioncli.images.find import ImageFile

pytestmark = pytest.mark.gpu

COMMAND = Path(__file__).with_name("command.py")
FOUND_SOMETHING = 9


def find_sanitizer() -> str | None:
    """Return the path of compute-sanitizer: on the path, or in a CUDA toolkit."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def run(
    standin: bool, *words: str | Path, trespass: int = 0, under: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    options = [*(["--standin"] if standin else []), *(["--trespass", str(trespass)] if trespass else [])]
    command = [*under, sys.executable, str(COMMAND), *options, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, env=environment)


def test_an_illegal_address_ends_the_run_and_the_next_one_completes_it(
    card: Card, make_plan: MakePlan, images: list[ImageFile], standin: bool, tmp_path: Path
) -> None:
    plan = make_plan(2)
    words = ("segment", images[0].local_path.parent, "--engine", plan, "--no-verify", "--out")
    whole = run(standin, *words, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    lost = run(standin, *words, tmp_path / "out", trespass=4)
    assert lost.returncode == 4, lost.stderr
    assert "illegal" in lost.stderr
    again = run(standin, *words, tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert read_outputs(tmp_path / "out") == read_outputs(tmp_path / "whole")


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(
    card: Card, make_plan: MakePlan, images: list[ImageFile], standin: bool, tmp_path: Path, tool: str
) -> None:
    sanitizer = find_sanitizer()
    if sanitizer is None:
        pytest.skip("no compute-sanitizer on the path or in a CUDA toolkit")
    under = (sanitizer, "--tool", tool, "--report-api-errors", "no", "--error-exitcode", str(FOUND_SOMETHING))
    words = ("segment", images[0].local_path.parent, "--engine", make_plan(2), "--no-verify", "--out")
    done = run(standin, *words, tmp_path / "out", under=under)
    assert done.returncode == 0, done.stdout + done.stderr
