"""The program as people meet it: commands, messages, exit codes, files."""

import csv
import errno
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import tifffile
from helpers.command import call
from helpers.shipped import shipped_onnx
from PIL import Image

from lesioncli import __version__
from lesioncli.backends.openvino import read_spec
from lesioncli.cli import render
from lesioncli.demo.draw import draw_case
from lesioncli.inference import results as outputs
from lesioncli.shipped import SHIPPED_MODEL

# Wide, so that a message stands on one line.


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_manifest: Path) -> Path:
    """A folder to work in, with the shipped model's engine already built."""
    shutil.copytree(engine_manifest.parent, tmp_path / "engines")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_case(seed, 96, 128).image).save(path)
    return path


def test_three_lines_work_in_a_real_shell(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from lesioncli.cli.app import main; main()"]

    def type_in(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert type_in("demo", ".", "--count", "4", "--size", "160", "120").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels"}
    for line in (["build-engine"], ["segment", "./images", "--out", "masks/"], ["evaluate", "--gt", "./labels"]):
        done = type_in(*line)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "masks").glob("*.png"))) == len(rows_of(tmp_path / "masks")) == 4
    assert "jaccard" in done.stdout


def test_segment_builds_the_engine_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "images" / "a.png")
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 0
    assert "built now" in done.stderr
    assert (tmp_path / "engines" / f"{SHIPPED_MODEL}.openvino.json").is_file()
    again = call("segment", "images", "--out", "masks")
    assert "built now" not in again.stderr
    assert "1 done before" in again.stdout


def test_segment_without_a_place_for_its_engine_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "images" / "a.png")
    (tmp_path / "engines").touch()  # in the way, as a folder that is read only: who runs tests as root may write there
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 3
    assert "engines/ cannot be made or written here (File exists), and an engine is needed" in done.stderr
    assert f"build-engine --out DIR, then this command with --engine DIR/{SHIPPED_MODEL}.openvino.json" in done.stderr


def test_one_bad_image_of_each_kind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.err, "width", 40)
    images = here / "images"
    draw(images / "good.jpg", 1)
    whole = draw(images / "sub" / "cut.jpg", 2)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (images / "text.jpg").write_text("not a picture")
    (images / "empty.png").touch()
    deep = draw_case(3, 96, 128).image.astype(np.uint16) * 257
    tifffile.imwrite(images / "deep.tif", deep, photometric="rgb")
    done = call("segment", images, "--out", "masks")
    assert done.exit_code == 5
    rows = rows_of(here / "masks")
    assert {name: row["status"] for name, row in rows.items()} == {
        "deep.tif": "ok",
        "empty.png": "failed",
        "good.jpg": "ok",
        "sub/cut.jpg": "failed",
        "text.jpg": "failed",
    }
    assert rows["deep.tif"]["note"] == "16-bit scaled to 8"
    assert "truncated" in rows["sub/cut.jpg"]["reason"]
    assert "empty" in rows["empty.png"]["reason"]
    for name in ("empty.png", "sub/cut.jpg", "text.jpg"):
        assert f"failed: {images / name}: decode: " in done.stderr, "a path that is broken over two lines is no path"
    assert "2 ok, 3 failed" in done.stdout
    assert {path.name for path in (here / "masks").rglob("*.png")} == {"good.png", "deep.png"}


def test_what_is_left_out_is_said(here: Path) -> None:
    draw(here / "images" / "a.png")
    for name in ("1.gif", "2.gif", "3", "4.jp2"):
        (here / "images" / name).touch()
    done = call("segment", "images", "--out", "masks", "--json")
    assert "not read: 2 .gif, 1 " in done.stderr
    expected = {".gif": 2, "without suffix": 1, ".jp2": 1}
    assert json.loads(done.stdout)["passed_over"] == expected
    assert json.loads((here / "masks" / "run.json").read_text())["passed_over"] == expected


def test_16_bit_gives_the_mask_of_8_bit(here: Path) -> None:
    picture = draw_case(3, 96, 128).image
    (here / "images").mkdir()
    Image.fromarray(picture).save(here / "images" / "eight.png")
    tifffile.imwrite(here / "images" / "sixteen.tif", picture.astype(np.uint16) * 257, photometric="rgb")
    assert call("segment", "images", "--out", "masks").exit_code == 0
    masks = [np.asarray(Image.open(here / "masks" / f"{name}.png")) for name in ("eight", "sixteen")]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert set(np.unique(masks[0])) == {0, 255}


def test_two_inputs_with_one_output_name(here: Path) -> None:
    draw(here / "images" / "x.jpg")
    draw(here / "images" / "x.png")
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 3
    assert "x.jpg" in done.stderr
    assert "x.png" in done.stderr
    assert not (here / "masks").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["segment", "nowhere", "--out", "masks"], 3, "no such file or folder"),
        (["segment", ".", "--out", "masks"], 3, "no images"),
        (["segment", ".", "--out", "masks", "--batch", "0"], 2, "--batch"),
        (["segment", ".", "--out", "masks", "--threshold", "1.5"], 2, "--threshold"),
        (["segment", ".", "--out", "masks", "--backend", "magic"], 2, "--backend"),
        (["segment", ".", "--out", "masks", "--workers", "257"], 2, "--workers"),
        (["segment", ".", "--out", "masks", "--trace", "photo.jpg"], 2, "photo.jpg does not end in .json"),
        (["segment", ".", "--out", "masks", "--tta", "some"], 2, "'some' is none of none, flips, full"),
        (["segment"], 2, "Missing"),
        (["evaluate", "--gt", "nowhere"], 3, "no such folder"),
        (["build-engine", "nothing-of-the-kind"], 3, "multitask-lite"),
        (["build-engine", "gone.safetensors"], 3, "no such file"),
        (["build-engine", "--precision", "fp8"], 2, "--precision"),
        (["train", "--recipe", "none-such", "--data", ".", "--out", "run"], 3, "multitask-lite"),
        (["train", "--recipe", "multitask-lite", "--data", ".", "--out", "run"], 3, "images/"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_have_their_code_and_name_the_matter(here: Path, words: list[str], code: int, said: str) -> None:
    done = call(*words)
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trace_that_has_no_place_is_bad_input(here: Path) -> None:
    draw(here / "images" / "a.png")
    done = call("segment", "images", "--out", "masks", "--trace", "images/a.png/trace.json")
    assert done.exit_code == 3
    said = "images/a.png/trace.json: cannot be written (File exists); name another with --trace"
    assert said in " ".join(done.stderr.split())
    assert not (here / "masks" / "scores.csv").exists()


def test_engine_errors_exit_4(here: Path) -> None:
    draw(here / "images" / "a.png")
    assert call("segment", "images", "--out", "masks", "--engine", "mine").exit_code == 4
    weights = here / "engines" / f"{SHIPPED_MODEL}.openvino.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 4
    assert f"{SHIPPED_MODEL}.openvino.bin" in done.stderr
    assert "lesioncli build-engine" in done.stderr


def test_a_bug_shows_its_traceback_and_version(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("planted")

    draw(here / "images" / "a.png")
    monkeypatch.setattr("lesioncli.images.find.list_images", broken)
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 1
    assert f"bug in lesioncli {__version__}" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lesioncli doctor | head -1`: the pipe may be closed before the last line is written."""

    def closed(*args: object, **how: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("lesioncli.cli.app.out.print", closed)
    done = call("doctor")
    assert (done.exit_code, done.stderr) == (1, "")


def test_interrupt_exits_130_and_keeps_rows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        draw(here / "images" / f"{number}.png", number)
    real = outputs.RunFolder.add
    calls: list[outputs.Outcome] = []

    def add(self: outputs.RunFolder, outcome: outputs.Outcome) -> None:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(outcome)
        real(self, outcome)

    monkeypatch.setattr(outputs.RunFolder, "add", add)
    assert call("segment", "images", "--out", "masks").exit_code == 130
    assert len(rows_of(here / "masks")) == 3
    monkeypatch.setattr(outputs.RunFolder, "add", real)
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == 0
    assert "3 ok, 0 failed, 3 done before" in done.stdout


def test_an_interrupted_command_that_starts_anew_does_not_promise_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lesioncli.demo.folder.write_demo", stop)
    done = call("demo", "data")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def test_demo_names_a_folder_as_it_is(here: Path) -> None:
    done = call("demo", "d[red]x[/y]", "--count", "1", "--size", "64", "64")
    assert (done.exit_code, done.stdout.count("d[red]x[/y]")) == (0, 2)


def test_json_is_the_only_thing_on_stdout(here: Path) -> None:
    assert call("demo", "data", "--count", "3", "--size", "128", "96").exit_code == 0
    summary = json.loads(call("segment", "data/images", "--out", "masks", "--json").stdout)
    assert (summary["images"], summary["ok"], summary["failed"]) == (3, 3, 0)
    result = json.loads(call("evaluate", "--gt", "data/labels", "--json").stdout)
    assert (result["lesioncli"]["truths"], result["lesioncli"]["scored"], result["lesioncli"]["problems"]) == (3, 3, [])
    assert set(result["per_category"]["auc"]) == set(result["lesioncli"]["auc"]) == {"melanoma", "seborrheic_keratosis"}
    assert result["macro_average"]["jaccard"] == result["lesioncli"]["means"]["jaccard"]
    built = json.loads(call("build-engine", "--precision", "fp32", "--json").stdout)
    assert built["precision"] == "fp32"
    assert built["parity"]["mask_jaccard"] == 1
    findings = json.loads(call("doctor", "--json").stdout)
    assert {"lesioncli", "openvino", "processor", "engine"} <= {each["subject"] for each in findings}


def test_doctor_looks_for_every_package_that_pyproject_names(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    del extras["dev"]

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("lesioncli.doctor.importlib.metadata.version", absent)
    found = {each["subject"]: each for each in json.loads(call("doctor", "--json").stdout)}
    names = {extra: {re.split(r"[^\w-]", line)[0] for line in lines} for extra, lines in extras.items()}
    base = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert {name for name, each in found.items() if each["needed"]} >= base
    assert all(found[name]["fix"] == "pip install /path/to/lesioncli" for name in base)
    assert set(found) >= set().union(*names.values()) - {"lesioncli"}
    assert found["jinja2"]["fix"] == "pip install '/path/to/lesioncli[report]'"
    assert found["pycuda"]["fix"].endswith("on a machine with an NVIDIA GPU")


def test_each_class_and_the_ranking_are_shown_for_a_challenge_alone(here: Path) -> None:
    call("demo", "data", "--count", "3", "--size", "96", "64")
    call("segment", "data/images", "--out", "masks")
    plain, ph2 = (call("evaluate", "--gt", "data/labels", "--protocol", name).stdout for name in ("plain", "ph2"))
    assert "more of each class: --protocol isic2017, or --json" in plain
    assert "ranks" not in plain
    assert "ppv" not in plain
    assert "ph2 ranks masks by macro_average.jaccard: " in ph2
    assert "ppv" in ph2


def test_evaluate_names_what_is_missing(here: Path) -> None:
    call("demo", "data", "--count", "3", "--size", "128", "96")
    call("segment", "data/images", "--out", "masks")
    (here / "masks" / "demo_0002.png").unlink()
    draw(here / "masks" / "stranger.png")
    done = call("evaluate", "--gt", "data/labels")
    assert done.exit_code == 5
    assert "demo_0002" in done.stderr
    assert "stranger" in done.stderr
    with (here / "masks" / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        problems = {row["image"]: row["problem"] for row in csv.DictReader(file)}
    assert problems["demo_0001"] == ""
    assert problems["demo_0002"]


def test_overlay_threshold_and_batch(here: Path) -> None:
    draw(here / "images" / "a.png")
    assert call("segment", "images", "--out", "half", "--overlay").exit_code == 0
    assert call("segment", "images", "--out", "strict", "--threshold", "0.95").exit_code == 0
    half, strict = (float(rows_of(here / name)["a.png"]["lesion_area_fraction"]) for name in ("half", "strict"))
    assert strict < half
    with Image.open(here / "half" / "overlays" / "a.jpg") as overlay:
        assert overlay.size == (128, 96)
    refused = call("segment", "images", "--out", "half", "--batch", "3")
    assert refused.exit_code == 3
    assert "build-engine --batch 3" in refused.stderr
    assert call("build-engine", "--batch", "3", "--precision", "fp32", "--images", "images").exit_code == 0
    assert call("segment", "images", "--out", "half", "--batch", "3", "--overwrite").exit_code == 0


def test_procedures_have_folders_of_their_own_and_say_who_they_are(here: Path) -> None:
    draw(here / "images" / "a.png")
    for tta in ("none", "flips", "full"):
        done = call("segment", "images", "--out", tta, "--tta", tta, "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["tta"] == tta
        assert json.loads((here / tta / "run.json").read_text())["tta"] == tta
    assert len({rows_of(here / tta)["a.png"]["melanoma"] for tta in ("none", "flips", "full")}) == 3
    call("segment", "images", "--out", "default")
    assert rows_of(here / "default") == rows_of(here / "none")
    refused = call("segment", "images", "--out", "none", "--tta", "flips")
    assert refused.exit_code == 3
    assert "made with tta none, this run has flips" in refused.stderr
    assert "1 done before" in call("segment", "images", "--out", "flips", "--tta", "flips").stdout


def test_regions_are_the_largest_unless_all_are_asked_for(here: Path) -> None:
    draw(here / "images" / "a.png")
    for words, expected in (((), "largest"), (("--regions", "all"), "all")):
        assert call("segment", "images", "--out", expected, *words).exit_code == 0
        assert json.loads((here / expected / "run.json").read_text())["regions"] == expected
    refused = call("segment", "images", "--out", "other", "--regions", "two")
    assert refused.exit_code == 2
    assert "largest, all" in refused.stderr


def test_an_engine_that_takes_one_size_only_says_what_to_do(here: Path) -> None:
    draw(here / "images" / "a.png")
    graph = onnx.load(shipped_onnx())
    spec = read_spec(shipped_onnx())
    for axis, side in ((1, spec.height), (2, spec.width)):
        graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    onnx.save(graph, here / "one-size.onnx")
    build = call("build-engine", "one-size.onnx", "--name", "one-size", "--precision", "fp32", "--images", "images")
    assert build.exit_code == 0
    assert call("segment", "images", "--out", "flips", "--engine", "one-size", "--tta", "flips").exit_code == 0
    done = call("segment", "images", "--out", "full", "--engine", "one-size", "--tta", "full")
    assert done.exit_code == 4
    assert "build it again from its checkpoint" in done.stderr
    assert not (here / "full").exists()


def test_another_threshold_is_refused_in_the_same_folder(here: Path) -> None:
    draw(here / "images" / "a.png")
    call("segment", "images", "--out", "masks")
    done = call("segment", "images", "--out", "masks", "--threshold", "0.7")
    assert done.exit_code == 3
    assert "--overwrite" in done.stderr


def test_what_is_least_sure_is_named_where_there_is_a_choice(here: Path) -> None:
    assert call("demo", "data", "--count", "7", "--size", "96", "64").exit_code == 0
    done = call("segment", "data/images", "--out", "masks")
    rows = rows_of(here / "masks")
    first = sorted(rows, key=lambda name: float(rows[name]["confidence"]))[:5]
    shown = ", ".join(f"{name} ({float(rows[name]['confidence']):.2f})" for name in first)
    assert f"least sure, so worth a look first: {shown}" in done.stdout
    assert f"least sure, so worth a look first: {shown}" in call("segment", "data/images", "--out", "masks").stdout
    assert "least sure" not in call("segment", "data/images/demo_0001.jpg", "--out", "one").stdout


def test_progress_is_quiet_when_not_in_a_terminal(here: Path) -> None:
    draw(here / "images" / "a.png")
    done = call("segment", "images", "--out", "masks")
    assert "images/s" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_version_and_help() -> None:
    assert call("--version").stdout.strip() == f"lesioncli {__version__}"
    assert call().exit_code == 2
    assert "not a medical device" in call("--help").stdout


def test_overlay_asked_for_later_is_drawn(here: Path) -> None:
    draw(here / "images" / "a.png")
    call("segment", "images", "--out", "masks")
    assert "1 ok" in call("segment", "images", "--out", "masks", "--overlay").stdout
    assert (here / "masks" / "overlays" / "a.jpg").is_file()
    assert "1 done before" in call("segment", "images", "--out", "masks", "--overlay").stdout


def test_an_image_saved_anew_under_another_suffix_has_one_row(here: Path) -> None:
    first = draw(here / "images" / "a.png")
    call("segment", "images", "--out", "masks")
    first.unlink()
    draw(here / "images" / "a.jpg", 1)
    assert "1 ok" in call("segment", "images", "--out", "masks").stdout
    assert list(rows_of(here / "masks")) == ["a.jpg"]


def test_an_engine_by_another_name(here: Path) -> None:
    draw(here / "images" / "a.png")
    shipped = str(shipped_onnx())
    assert call("build-engine", shipped, "--name", "mine", "--precision", "fp32").exit_code == 0
    done = call("segment", "images", "--out", "masks", "--engine", "mine")
    assert done.exit_code == 0
    assert "mine.openvino.json (as asked)" in done.stderr
    assert call("build-engine", shipped, "--name", "../evil").exit_code == 3


def test_an_engine_by_its_manifest_brings_its_backend(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(here / "images" / "a.png")
    engine = f"engines/{SHIPPED_MODEL}.openvino.json"
    refused = call("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt")
    assert refused.exit_code == 4
    assert f"{engine}: is built for openvino; to use it, leave out --backend tensorrt" in refused.stderr
    assert not (here / "masks").exists()
    monkeypatch.setattr("lesioncli.backends.registry._best_backend", lambda: ("tensorrt", "a GPU, and TensorRT"))
    done = call("segment", "images", "--out", "masks", "--engine", engine)
    assert done.exit_code == 0
    assert f"engine {engine} (as asked); backend openvino: what this engine is built for" in done.stderr


def test_a_model_of_the_shipped_ones_name_is_not_called_the_shipped_one(here: Path) -> None:
    draw(here / "images" / "a.png")
    assert "(the shipped model's)" in call("segment", "images", "--out", "masks").stderr
    graph = onnx.load(shipped_onnx())
    graph.doc_string = "another"
    onnx.save(graph, here / "other.onnx")
    assert call("build-engine", "other.onnx", "--precision", "fp32").exit_code == 0
    assert "built of another" in call("segment", "images", "--out", "others").stderr
