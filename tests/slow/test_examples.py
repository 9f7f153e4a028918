"""The examples for one machine, run for real: they leave what one process leaves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import save_many
from helpers.runs import files_of

from lesioncli.errors import ExitCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="scripts of a Unix shell"),
]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `lesioncli` is the program under test."""
    program = tmp_path / "bin/lesioncli"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lesioncli "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(EXAMPLES.parent)}


@pytest.fixture
def folder(tmp_path: Path, tiny_manifest: MakeEngine) -> Path:
    """A folder with drawn images and an engine."""
    save_many(tmp_path / "images", 9)
    shutil.copytree(tiny_manifest(1).parent, tmp_path / "engines")
    return tmp_path


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run an example; compare what it leaves with what one process leaves."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    engine = next(folder.glob("engines/*.json"))
    one = call("segment", "--from", folder / "images.csv", "--out", folder / "one", "--engine", engine)
    assert one.exit_code == ExitCode.OK
    assert files_of(folder / "masks") == files_of(folder / "one")


@pytest.mark.parametrize(("script", "needs"), [("xargs.sh", "xargs"), ("parallel.sh", "parallel")])
def test_scripts_for_one_machine(script: str, needs: str, folder: Path, environment: dict[str, str]) -> None:
    if shutil.which(needs) is None:
        pytest.skip(f"{needs} is not installed")
    run([str(EXAMPLES / "parallel" / script), "images", "2", "2"], folder, environment)


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
def test_snakemake(folder: Path, environment: dict[str, str]) -> None:
    words = ["--snakefile", str(EXAMPLES / "snakemake/Snakefile"), "--cores", "2", "--set-threads", "segment=1"]
    shutil.rmtree(folder / "engines")  # a rule builds it
    run(["snakemake", *words, "--config", "images=images", "shards=2"], folder, environment)
