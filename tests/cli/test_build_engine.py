"""Engines for GPUs as people meet them at the command line, on a machine that has none."""

import json
from pathlib import Path

import pytest
from helpers.graphs import needs_rtx
from helpers.pictures import draw, save
from typer.testing import CliRunner, Result

from lesioncli.backends.tensorrt import driver
from lesioncli.cli.app import app

ENVIRONMENT = {"COLUMNS": "300", "TERM": "dumb", "NO_COLOR": "1"}
NO_DRIVER = "no NVIDIA driver found"
pytestmark = needs_rtx


def call(*words: str | Path) -> Result:
    return CliRunner(env=ENVIRONMENT).invoke(app, [str(word) for word in words])


@pytest.fixture
def here(tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures and an engine of the tiny graph for two GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "DRIVERS", {})  # as where there is none, whatever this machine has
    save(tmp_path / "images" / "a.png", draw(1, 40, 60))
    words = ("--precision", "fp32", "--images", "images", "--target", "SM86, sm89", "--batch", "2")
    done = call("build-engine", tiny_onnx, "--backend", "tensorrt-rtx", *words)
    assert done.exit_code == 0, done.stderr
    assert "tiny.tensorrt-rtx.json: cannot be run here, but what it is compiled of agrees" in done.stdout
    return tmp_path


def test_engines_lists_it_and_why_it_does_not_run(here: Path) -> None:
    done = call("engines")
    assert done.exit_code == 0
    assert "tiny.tensorrt-rtx.json: tensorrt-rtx" in done.stdout
    assert "for sm86, sm89, fp32, batch 2" in done.stdout
    assert f"does not run here: it is for sm86, sm89, and no GPU is here: {NO_DRIVER}" in done.stdout
    (listed,) = json.loads(call("engines", "--json").stdout)
    assert (listed["engine"], listed["runs_here"]) == ("engines/tiny.tensorrt-rtx.json", False)
    assert NO_DRIVER in listed["problem"]
    assert listed["manifest"]["targets"] == ["sm86", "sm89"]


def test_engines_of_an_empty_folder_says_what_to_type(tmp_path: Path) -> None:
    done = call("engines", tmp_path)
    assert (done.exit_code, json.loads(call("engines", tmp_path, "--json").stdout)) == (0, [])
    assert "run: lesioncli build-engine" in done.stdout


def test_doctor_says_the_same(here: Path) -> None:
    findings = {each["subject"]: each["state"] for each in json.loads(call("doctor", "--json").stdout)}
    assert findings["NVIDIA GPU"] == f"none ({NO_DRIVER})"
    assert NO_DRIVER in findings["tiny.tensorrt-rtx.json"]
    assert findings["tensorrt-rtx"].startswith("1.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--engine", "engines/tiny.tensorrt-rtx.json"), "--backend openvino"),
        (("--engine", "tiny"), "--backend openvino"),
        (("--backend", "tensorrt-rtx"), "--backend openvino"),
        (("--backend", "tensorrt"), "run: lesioncli build-engine"),
    ],
)
def test_segment_with_it_stops_and_names_the_way_out(here: Path, words: tuple[str, ...], said: str) -> None:
    done = call("segment", "images", "--out", "masks", *words)
    assert done.exit_code == 4
    assert NO_DRIVER in done.stderr
    assert said in done.stderr
    assert not (here / "masks").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--backend", "tensorrt"), 4, NO_DRIVER),
        (("--backend", "tensorrt-rtx", "--target", "sm90"), 4, "not for sm90"),
        (("--backend", "tensorrt-rtx", "--precision", "bf16"), 2, "--precision"),
        (("--precision", "fp16"), 2, "--precision"),
        (("--target", "sm86"), 2, "--target: goes with --backend tensorrt or tensorrt-rtx"),
        (("--dynamic",), 2, "--dynamic"),
        (("--workspace", "64"), 2, "--workspace"),
        (("--optimization-level", "1"), 2, "--optimization-level"),
        (("--backend", "tensorrt-rtx", "--optimization-level", "6"), 2, "--optimization-level"),
    ],
)
def test_flags_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("build-engine", *words)
    assert done.exit_code == code
    assert said in done.stderr
    assert not (tmp_path / "engines").exists()
