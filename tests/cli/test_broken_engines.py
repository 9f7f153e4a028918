"""Engines whose outputs are wrong for some images, and threads that fail: rows and exit code of a run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command import call
from helpers.graphs import TINY_CONSTANTS, TINY_NODES, TINY_OUTPUTS, MakeEngine, write_graph
from helpers.pictures import SIDE, UInt8, draw, save
from helpers.runs import files_of, record_of, rows_of
from onnx import helper

from lesioncli.backends.build import build
from lesioncli.errors import ExitCode
from lesioncli.options import Backend, BuildOptions, Precision

WHITE = np.full((SIDE, SIDE, 3), 255, np.uint8)
BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)
COUNT = 12
MANY = 24  # more than the engine, its queue and the writers hold on any machine with two cores


def save_images(folder: Path, special: UInt8, *numbers: int, count: int = COUNT) -> Path:
    """Save images, the special one under some of the numbers."""
    for number in range(count):
        save(folder / f"{number:02d}.png", special if number in numbers else draw(number))
    return folder


def statuses(folder: Path) -> str:
    """Return one letter per row: o for ok, f for failed."""
    return "".join(row["status"][0] for _, row in sorted(rows_of(folder).items()))


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine that gives one class score too many for a white image, which its parity check did not have."""
    folder = tmp_path_factory.mktemp("growing")
    nodes = {
        **{name: node for name, node in TINY_NODES.items() if name != "scores"},
        "shares": helper.make_node("Div", ["sums", "light"], ["shares"]),
        "lightest": helper.make_node("ReduceMin", ["pixels"], ["lightest"], keepdims=0),
        "is_white": helper.make_node("Equal", ["lightest", "white"], ["is_white"]),
        "added": helper.make_node("Cast", ["is_white"], ["added"], to=7),
        "classes": helper.make_node("Add", ["added", "three"], ["classes"]),
        "ends": helper.make_node("Unsqueeze", ["classes", "axis"], ["ends"]),
        "doubled": helper.make_node("Concat", ["shares", "shares"], ["doubled"], axis=1),
        "scores": helper.make_node("Slice", ["doubled", "start", "ends", "channels"], ["scores"]),
    }
    constants = {
        **TINY_CONSTANTS,
        "white": np.array(255, np.float32),
        "three": np.array(3, np.int64),
        "axis": np.array([0], np.int64),
        "start": np.array([0], np.int64),
    }
    outputs = {**TINY_OUTPUTS, "scores": (1, ("n", "k"))}
    onnx = write_graph(folder / "growing.onnx", nodes, outputs, constants)
    options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32)
    return build(onnx, folder, [draw(seed) for seed in range(3)], options).path


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_nan_scores_of_whole_batches_fail_these_images(tiny_manifest: MakeEngine, tmp_path: Path, batch: int) -> None:
    images = save_images(tmp_path / "images", BLACK, 4, 5, 6, 7, 11)
    done = call("segment", images, "--out", tmp_path / "masks", "--engine", tiny_manifest(batch))
    assert done.exit_code == ExitCode.SOME_FAILED
    assert statuses(tmp_path / "masks") == "ooooffffooof"
    assert {row["reason"].partition(":")[0] for row in rows_of(tmp_path / "masks").values()} == {"", "network"}
    assert {path.stem for path in (tmp_path / "masks").glob("*.png")} == {f"{i:02d}" for i in (0, 1, 2, 3, 8, 9, 10)}


@pytest.mark.parametrize("number", [0, 6, 11])
def test_an_output_of_another_shape_ends_the_run(growing: Path, tmp_path: Path, number: int) -> None:
    images, out = save_images(tmp_path / "images", WHITE, number), tmp_path / "masks"
    done = call("segment", images, "--out", out, "--engine", growing)
    assert done.exit_code == ExitCode.ENGINE
    assert "'scores' is float32 (1, 4)" in done.stderr
    letters = statuses(out)
    assert letters.startswith("o" * number + "f")
    assert set(letters[number:]) == {"f"}, "images that the engine had are rows, too"
    assert record_of(out)["status"] == "interrupted"
    (images / f"{number:02d}.png").unlink()
    assert call("segment", images, "--out", out, "--engine", growing).exit_code == ExitCode.OK


SABOTAGE = """
import sys
from lesioncli.inference import pipeline
name, stage = sys.argv.pop(1), sys.argv.pop(1)
real = getattr(pipeline, stage)

def fail(path, *given):
    if path.stem == name:
        raise ZeroDivisionError("planted")
    return real(path, *given)

setattr(pipeline, stage, fail)
from lesioncli.__main__ import main
main()
"""


@pytest.mark.parametrize("stage", ["OpenedImage", "write_runs"])
def test_a_thread_that_fails_is_a_bug_and_costs_no_finished_row(
    tiny_manifest: MakeEngine, tmp_path: Path, stage: str
) -> None:
    images, out, engine = save_images(tmp_path / "images", WHITE, 0, count=MANY), tmp_path / "out", tiny_manifest(1)
    words = ["segment", str(images), "--engine", str(engine), "--workers", "1", "--out"]
    for folder, name in ((out, "20"), (tmp_path / "whole", "none")):
        command = [sys.executable, "-c", SABOTAGE, name, stage, *words, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == (ExitCode.BUG if folder == out else ExitCode.OK), done.stderr
        assert ("ZeroDivisionError: planted" in done.stderr) == (folder == out)
    kept = statuses(out)
    assert kept == "o" * len(kept)
    assert record_of(out)["status"] == "interrupted"
    done_again = call(*words, out)
    assert done_again.exit_code == ExitCode.OK
    assert f"{len(kept)} skipped" in done_again.stdout
    assert files_of(out) == files_of(tmp_path / "whole")
