"""`lesioncli build-engine` and `engines`; engines for GPUs are built as on a machine without one."""

import json
import re
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from helpers.command import call, save_lesion
from helpers.graphs import TINY_SPEC, needs_rtx, write_graph
from helpers.shipped import shipped_onnx

from lesioncli.backends.tensorrt import driver
from lesioncli.errors import ExitCode

NO_DRIVER = "no NVIDIA driver found"
RTX_ENGINE = "tiny.tensorrt-rtx.json"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an image, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "DRIVERS", {})
    save_lesion(tmp_path / "images" / "a.png")
    return tmp_path


@pytest.fixture
def rtx_engine(folder: Path, tiny_onnx: Path) -> Path:
    """The manifest of an engine of the tiny graph for two kinds of GPU."""
    words = ("--precision", "fp32", "--images", "images", "--target", "SM86, sm89", "--batch", "2")
    done = call("build-engine", tiny_onnx, "--backend", "tensorrt-rtx", *words)
    assert done.exit_code == 0, done.stderr
    assert f"{RTX_ENGINE}: cannot run on this machine" in done.stdout
    return folder / "engines" / RTX_ENGINE


def test_an_engine_gets_the_name_asked_for(folder: Path, tiny_onnx: Path) -> None:
    words = ("build-engine", tiny_onnx, "--precision", "fp32", "--images", "images", "--batch", "3")
    done = call(*words, "--name", "mine", "--json")
    assert done.exit_code == 0
    built = json.loads(done.stdout)
    assert (built["engine"], built["precision"], built["batch"]) == ("engines/mine.openvino.json", "fp32", 3)
    assert (built["parity"]["images"], built["parity"]["mask_jaccard"]) == (1, 1)
    used = call("segment", "images", "--out", "masks", "--engine", "mine")
    assert used.exit_code == 0
    assert "engines/mine.openvino.json" in used.stderr
    refused = call(*words, "--name", "../evil")
    assert refused.exit_code == ExitCode.INPUT
    assert "../evil" in refused.stderr


def test_the_licence_of_the_weights_is_shown(folder: Path) -> None:
    onnx = write_graph(folder / "nc.onnx", spec=replace(TINY_SPEC, licence="CC-BY-NC-4.0"))
    done = call("build-engine", onnx, "--precision", "fp32", "--images", "images")
    assert done.exit_code == 0, done.stderr
    assert "CC-BY-NC-4.0" in done.stdout
    assert "CC-BY-NC-4.0" in call("engines").stdout


@pytest.mark.parametrize("recipe", ["multitask", "mbdcnn", "mine.toml"])
def test_a_recipe_without_weights_is_refused_with_the_commands_that_train_it(folder: Path, recipe: str) -> None:
    (folder / "mine.toml").write_text('[model]\nname = "m"\nnetwork = "multitask"\nheight = 64\nwidth = 96\n')
    done = call("build-engine", recipe)
    out = f"runs/{Path(recipe).stem}"
    assert done.exit_code == ExitCode.INPUT
    assert f"lesioncli train --recipe {recipe} --data DIR --out {out}," in done.stderr
    assert f"lesioncli build-engine {out}/best.safetensors" in done.stderr


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_checkpoint_is_known_by_its_suffix(folder: Path, suffix: str) -> None:
    (folder / f"net{suffix}").write_bytes(b"damaged")
    done = call("build-engine", f"net{suffix}")
    assert done.exit_code == ExitCode.INPUT
    assert f"error: net{suffix}: " in done.stderr


def test_an_unknown_recipe_is_refused_with_those_that_have_weights(folder: Path) -> None:
    (folder / "engines").mkdir()
    (folder / "engines" / "broken.toml").write_text("[model")
    done = call("build-engine", "nothing")
    assert done.exit_code == ExitCode.INPUT
    trained, untrained = re.findall(r"recipes [^:]*: ([^;]*);", done.stderr)
    assert trained.split(", ") == ["mbdcnn-lite", "multitask-lite"]
    assert {"multitask", "mbdcnn", "first-steps", "broken"} <= set(untrained.split(", "))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--name", "a/b"), "a/b"),
        (("--name", ""), "--name"),
        (("--name", ".."), ".."),
        (("--out", "images/a.png"), "images/a.png"),
        (("--out", "images/a.png/engines"), "images/a.png"),
    ],
)
def test_a_name_or_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str], named: str
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("the model was read")

    monkeypatch.setattr("lesioncli.source.resolve", fail)
    monkeypatch.setattr("lesioncli.backends.registry.open_compiler", fail)
    done = call("build-engine", *words)
    assert done.exit_code == ExitCode.INPUT
    assert named in done.stderr
    assert {path.name for path in folder.iterdir()} == {"images"}


def test_another_graph_with_the_shipped_models_name_is_not_taken_for_it(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    assert "(the default model)" in call("segment", "images", "--out", "masks").stderr
    graph = onnx.load(shipped_onnx())
    graph.doc_string = "another"
    onnx.save(graph, here / "other.onnx")
    assert call("build-engine", "other.onnx", "--precision", "fp32", "--images", "images").exit_code == 0
    done = call("segment", "images", "--out", "others")
    assert done.exit_code == 0
    assert "(the default model)" not in done.stderr


def test_images_that_cannot_be_read_are_no_parity_check(folder: Path, tiny_onnx: Path) -> None:
    (folder / "images" / "a.png").write_text("not an image")
    done = call("build-engine", tiny_onnx, "--images", "images")
    assert done.exit_code == ExitCode.INPUT
    assert "images" in done.stderr
    assert not list(folder.glob("engines/*.json"))


def test_an_empty_folder_has_no_engines(tmp_path: Path) -> None:
    done = call("engines", tmp_path)
    assert (done.exit_code, json.loads(call("engines", tmp_path, "--json").stdout)) == (0, [])
    assert "lesioncli build-engine" in done.stdout


@needs_rtx
def test_engines_and_doctor_show_why_an_engine_does_not_run(rtx_engine: Path) -> None:
    done = call("engines")
    assert done.exit_code == 0
    assert f"{RTX_ENGINE}: tensorrt-rtx" in done.stdout
    assert "sm86, sm89, fp32, batch 2" in done.stdout
    assert NO_DRIVER in done.stdout
    (listed,) = json.loads(call("engines", "--json").stdout)
    assert (listed["engine"], listed["runs_here"]) == (f"engines/{RTX_ENGINE}", False)
    assert NO_DRIVER in listed["problem"]
    assert listed["manifest"]["targets"] == ["sm86", "sm89"]
    findings = {finding["subject"]: finding["state"] for finding in json.loads(call("doctor", "--json").stdout)}
    assert NO_DRIVER in findings["NVIDIA GPU"]
    assert NO_DRIVER in findings[RTX_ENGINE]
    assert re.search(r"\btensorrt-rtx 1\.", findings["extra rtx"])


@needs_rtx
@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("--engine", f"engines/{RTX_ENGINE}"), "--backend openvino"),
        (("--engine", "tiny"), "--backend openvino"),
        (("--backend", "tensorrt-rtx"), "--backend openvino"),
        (("--backend", "tensorrt"), "lesioncli build-engine"),
    ],
)
def test_segment_with_an_engine_for_gpus_names_the_command_that_helps(
    rtx_engine: Path, words: tuple[str, ...], command: str
) -> None:
    done = call("segment", "images", "--out", "masks", *words)
    assert done.exit_code == ExitCode.ENGINE
    assert NO_DRIVER in done.stderr
    assert command in done.stderr
    assert not Path("masks").exists()


@needs_rtx
@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--backend", "tensorrt"), ExitCode.ENGINE, NO_DRIVER),
        (("--backend", "tensorrt-rtx", "--target", "sm90"), ExitCode.ENGINE, "sm90"),
        (("--backend", "tensorrt-rtx", "--precision", "bf16"), ExitCode.USAGE, "--precision"),
        (("--precision", "fp16"), ExitCode.USAGE, "--precision"),
        (("--target", "sm86"), ExitCode.USAGE, "--target"),
        (("--dynamic",), ExitCode.USAGE, "--backend tensorrt or tensorrt-rtx"),
        (("--workspace", "64"), ExitCode.USAGE, "--workspace"),
        (("--optimization-level", "1"), ExitCode.USAGE, "--optimization-level"),
        (("--backend", "tensorrt-rtx", "--optimization-level", "6"), ExitCode.USAGE, "--optimization-level"),
    ],
)
def test_options_that_a_backend_does_not_have_are_refused(
    folder: Path, words: tuple[str, ...], code: ExitCode, named: str
) -> None:
    done = call("build-engine", *words)
    assert done.exit_code == code
    assert named in done.stderr
    assert not (folder / "engines").exists()
