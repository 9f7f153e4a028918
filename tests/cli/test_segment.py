"""`lesioncli segment`: files, messages and exit codes."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from helpers.command import call, save_lesion
from helpers.graphs import MakeEngine
from helpers.pictures import read, save
from helpers.runs import record_of, rows_of
from helpers.shipped import shipped_onnx

from lesioncli.backends import registry
from lesioncli.backends.openvino import read_spec
from lesioncli.cli import console
from lesioncli.demo.draw import draw_case
from lesioncli.errors import ExitCode
from lesioncli.inference import results
from lesioncli.inference.outcome import Outcome
from lesioncli.options import Backend, Decision
from lesioncli.shipped import SHIPPED_MODEL

ENGINE = f"engines/{SHIPPED_MODEL}.openvino.json"


def statuses(folder: Path) -> dict[str, str]:
    return {name: row["status"] for name, row in rows_of(folder).items()}


def test_a_missing_engine_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lesioncli.engines.PARITY_IMAGES", 2)
    save_lesion(tmp_path / "images" / "a.png")
    first = call("segment", "images", "--out", "masks", "--batch", "2")
    assert first.exit_code == 0, first.stderr
    manifest = json.loads((tmp_path / ENGINE).read_text())
    assert manifest["batch"] == 2
    assert ENGINE in first.stderr
    again = call("segment", "images", "--out", "masks", "--json")
    assert json.loads(again.stdout)["skipped"] == 1
    assert json.loads((tmp_path / ENGINE).read_text())["created"] == manifest["created"]


def test_without_a_place_for_an_engine_the_message_has_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_lesion(tmp_path / "images" / "a.png")
    (tmp_path / "engines").touch()  # a file in the way, because root may write to a read-only folder
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == ExitCode.INPUT
    assert "engines/" in done.stderr
    assert f"--engine DIR/{SHIPPED_MODEL}.openvino.json" in done.stderr


def test_every_kind_of_bad_image_is_a_row(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.stderr, "width", 40)
    images = here / "images"
    save_lesion(images / "good.jpg", 1)
    whole = save_lesion(images / "sub" / "cut.jpg", 2)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (images / "text.jpg").write_text("not an image")
    (images / "empty.png").touch()
    eight_bit = draw_case(3, 96, 128).image
    save(images / "8.png", eight_bit)
    tifffile.imwrite(images / "16.tif", eight_bit.astype(np.uint16) * 257, photometric="rgb")
    done = call("segment", images, "--out", "masks")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert statuses(here / "masks") == {
        "16.tif": "ok",
        "8.png": "ok",
        "empty.png": "failed",
        "good.jpg": "ok",
        "sub/cut.jpg": "failed",
        "text.jpg": "failed",
    }
    rows = rows_of(here / "masks")
    assert "16" in rows["16.tif"]["note"]
    assert "truncated" in rows["sub/cut.jpg"]["reason"]
    for name in ("empty.png", "sub/cut.jpg", "text.jpg"):
        assert f"{images / name}: decode: " in done.stderr, "a path must not be wrapped"
    assert {path.name for path in (here / "masks").rglob("*.png")} == {"good.png", "16.png", "8.png"}
    masks = [read(here / "masks" / name) for name in ("16.png", "8.png")]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert set(np.unique(masks[0])) == {0, 255}


def test_ignored_files_are_counted(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    for name in ("1.svg", "2.svg", "3", "4.mov"):
        (here / "images" / name).touch()
    done = call("segment", "images", "--out", "masks", "--json")
    assert "2 .svg" in done.stderr
    expected = {".svg": 2, "without suffix": 1, ".mov": 1}
    assert json.loads(done.stdout)["passed_over"] == expected
    assert json.loads((here / "masks" / "run.json").read_text())["passed_over"] == expected


def test_two_images_with_one_mask_are_refused(here: Path) -> None:
    save_lesion(here / "images" / "x.jpg")
    save_lesion(here / "images" / "x.png")
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == ExitCode.INPUT
    assert "x.jpg" in done.stderr
    assert "x.png" in done.stderr
    assert not (here / "masks").exists()


def test_a_trace_that_cannot_be_written_is_bad_input(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    done = call("segment", "images", "--out", "masks", "--trace", "images/a.png/trace.json")
    assert done.exit_code == ExitCode.INPUT
    assert "images/a.png/trace.json" in done.stderr
    assert "--trace" in done.stderr
    assert not (here / "masks" / "scores.csv").exists()


def test_a_missing_or_damaged_engine_is_an_engine_error(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    assert call("segment", "images", "--out", "masks", "--engine", "mine").exit_code == ExitCode.ENGINE
    weights = here / "engines" / f"{SHIPPED_MODEL}.openvino.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    done = call("segment", "images", "--out", "masks")
    assert done.exit_code == ExitCode.ENGINE
    assert weights.name in done.stderr
    assert "lesioncli build-engine" in done.stderr


def test_an_interrupted_run_continues(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        save_lesion(here / "images" / f"{number}.png", number)
    add = results.ResultStore.add
    added: list[Outcome] = []

    def interrupt(self: results.ResultStore, outcome: Outcome) -> None:
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(outcome)
        add(self, outcome)

    monkeypatch.setattr(results.ResultStore, "add", interrupt)
    assert call("segment", "images", "--out", "masks").exit_code == ExitCode.INTERRUPTED
    assert len(rows_of(here / "masks")) == 3
    monkeypatch.setattr(results.ResultStore, "add", add)
    done = json.loads(call("segment", "images", "--out", "masks", "--json").stdout)
    assert (done["ok"], done["failed"], done["skipped"]) == (3, 0, 3)


def test_overlay_threshold_and_batch(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    masks_only = call("segment", "images", "--out", "half")
    assert masks_only.exit_code == 0
    assert "overlays/" not in masks_only.stdout
    drawn = call("segment", "images", "--out", "half", "--overlay")
    assert "1 ok" in drawn.stdout, "an overlay that is missing is drawn"
    assert "overlays/" in drawn.stdout
    assert read(here / "half" / "overlays" / "a.jpg").shape == (96, 128, 3)
    assert json.loads(call("segment", "images", "--out", "half", "--overlay", "--json").stdout)["skipped"] == 1
    assert call("segment", "images", "--out", "strict", "--threshold", "0.95").exit_code == 0
    half, strict = (float(rows_of(here / name)["a.png"]["lesion_area_fraction"]) for name in ("half", "strict"))
    assert strict < half
    refused = call("segment", "images", "--out", "half", "--batch", "3")
    assert refused.exit_code == ExitCode.INPUT
    assert "build-engine --batch 3" in refused.stderr


def test_tta_and_regions_are_recorded_and_a_folder_has_one_of_them(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    for tta in ("none", "flips", "full"):
        done = call("segment", "images", "--out", tta, "--tta", tta, "--json")
        assert json.loads(done.stdout)["tta"] == tta
        record = json.loads((here / tta / "run.json").read_text())
        assert (record["tta"], record["regions"]) == (tta, "largest")
    assert len({rows_of(here / tta)["a.png"]["melanoma"] for tta in ("none", "flips", "full")}) == 3
    for words, named in ((("--tta", "flips"), "flips"), (("--threshold", "0.7"), "0.7"), (("--regions", "all"), "all")):
        refused = call("segment", "images", "--out", "none", *words)
        assert refused.exit_code == ExitCode.INPUT
        assert named in refused.stderr
        assert "--overwrite" in refused.stderr
    assert call("segment", "images", "--out", "none", "--regions", "all", "--overwrite").exit_code == 0
    assert json.loads((here / "none" / "run.json").read_text())["regions"] == "all"


def test_an_engine_of_one_input_size_refuses_full_tta(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    graph = onnx.load(shipped_onnx())
    spec = read_spec(shipped_onnx())
    for axis, side in ((1, spec.height), (2, spec.width)):
        graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    onnx.save(graph, here / "one-size.onnx")
    build = call("build-engine", "one-size.onnx", "--name", "one-size", "--precision", "fp32", "--images", "images")
    assert build.exit_code == 0
    assert call("segment", "images", "--out", "flips", "--engine", "one-size", "--tta", "flips").exit_code == 0
    done = call("segment", "images", "--out", "full", "--engine", "one-size", "--tta", "full")
    assert done.exit_code == ExitCode.ENGINE
    assert not (here / "full").exists()


def test_the_images_of_lowest_confidence_are_named_if_there_are_more(here: Path) -> None:
    assert call("demo", "data", "--count", "7", "--size", "96", "64").exit_code == 0
    done = call("segment", "data/images", "--out", "masks")
    rows = rows_of(here / "masks")
    lowest = sorted(rows, key=lambda name: float(rows[name]["confidence"]))[:5]
    shown = ", ".join(f"{name} ({float(rows[name]['confidence']):.2f})" for name in lowest)
    assert shown in done.stdout
    assert shown in call("segment", "data/images", "--out", "masks").stdout
    assert "demo_0001" not in call("segment", "data/images/demo_0001.jpg", "--out", "one").stdout


def test_no_bar_is_drawn_outside_a_terminal(here: Path) -> None:
    save_lesion(here / "images" / "a.png")
    done = call("segment", "images", "--out", "masks")
    assert "images/s" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_an_image_saved_again_with_another_suffix_has_one_row(here: Path) -> None:
    first = save_lesion(here / "images" / "a.png")
    call("segment", "images", "--out", "masks")
    first.unlink()
    save_lesion(here / "images" / "a.jpg", 1)
    assert json.loads(call("segment", "images", "--out", "masks", "--json").stdout)["ok"] == 1
    assert list(rows_of(here / "masks")) == ["a.jpg"]


def test_an_engine_named_by_its_manifest_brings_its_backend(
    here: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_lesion(here / "images" / "a.png")
    engine = tiny_manifest(2)
    refused = call("segment", "images", "--out", "masks", "--engine", engine, "--backend", "tensorrt")
    assert refused.exit_code == ExitCode.ENGINE
    assert str(engine) in refused.stderr
    assert "--backend tensorrt" in refused.stderr
    assert not (here / "masks").exists()

    def choose_tensorrt(asked: Backend) -> Decision[Backend]:
        return Decision(Backend.TENSORRT, "a GPU")

    monkeypatch.setattr(registry, "choose_backend", choose_tensorrt)
    done = call("segment", "images", "--out", "masks", "--engine", engine)
    assert done.exit_code == 0
    assert f"engine {engine} (as asked); backend openvino" in done.stderr


def test_a_folder_that_cannot_be_listed_does_not_stop_the_others(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # permissions do not stop root, which may run these tests
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    save_lesion(here / "photos" / "a.jpg")
    save_lesion(here / "photos" / "lost+found" / "b.jpg")
    result = call("segment", "photos", "--out", "masks")
    assert result.exit_code == ExitCode.SOME_FAILED
    assert "lost+found" in result.stderr
    assert list(rows_of(here / "masks")) == ["a.jpg"]
    assert record_of(here / "masks")["unreadable"] == ["photos/lost+found"]


@pytest.mark.parametrize(
    ("limit", "code", "stops_early"),
    [
        ([], ExitCode.SOME_FAILED, False),
        (["--max-failures", "2"], ExitCode.OK, False),
        (["--max-failures", "1"], ExitCode.SOME_FAILED, True),
        (["--max-failures", "0"], ExitCode.SOME_FAILED, True),
        (["--max-failures", "5%"], ExitCode.OK, False),
        (["--max-failures", "4.9%"], ExitCode.SOME_FAILED, True),
    ],
)
def test_some_failures_may_be_accepted(
    tmp_path: Path, tiny_manifest: MakeEngine, limit: list[str], code: ExitCode, stops_early: bool
) -> None:
    images, out = tmp_path / "images", tmp_path / "masks"
    for number in range(40):
        save(images / f"{number:02d}.png", draw_case(number, 40, 60).image)
    for number in (0, 1):
        (images / f"{number:02d}.png").write_text("no image")
    words = ("segment", images, "--out", out, "--engine", tiny_manifest(1), "--workers", "1")
    done = call(*words, *limit)
    assert done.exit_code == code
    assert "00.png: decode: " in done.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["failed"] == 2
    assert (record["status"], len(rows_of(out)) < 40) == ("interrupted" if stops_early else "finished", stops_early)
    assert list(record.get("failures", {})) == (["00.png", "01.png"] if limit else [])
    assert call(*words, "--max-failures", "2").exit_code == ExitCode.OK
    assert len(rows_of(out)) == 40


@pytest.mark.parametrize("limit", ["many", "-1", "101%", "%"])
def test_a_limit_of_failures_is_a_number_or_a_percentage(limit: str) -> None:
    done = call("segment", ".", "--out", "masks", "--max-failures", limit)
    assert done.exit_code == ExitCode.USAGE
    assert "--max-failures" in done.stderr


@pytest.mark.parametrize("flag", ["--threshold", "--mm-per-pixel", "--crops"])
@pytest.mark.parametrize("value", ["nan", "-1"])
def test_a_number_out_of_range_is_a_usage_error(flag: str, value: str) -> None:
    assert call("segment", ".", "--out", "masks", flag, value).exit_code == ExitCode.USAGE


def test_cut_outs_and_millimetres(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    save_lesion(tmp_path / "images" / "a.jpg")
    words = ("segment", tmp_path / "images", "--out", tmp_path / "out", "--engine", tiny_manifest(1))
    done = call(*words, "--crops", "10", "--mm-per-pixel", "0.1")
    assert done.exit_code == 0, done.stderr
    assert "crops/" in done.stdout
    assert (tmp_path / "out" / "crops" / "a.jpg").is_file()
    row = rows_of(tmp_path / "out")["a.jpg"]
    assert float(row["area_mm2"]) == pytest.approx(float(row["area_px"]) / 100)
    assert call(*words, "--mm-per-pixel", "0.2").exit_code == ExitCode.INPUT


def test_several_engines_are_averaged(tiny_manifest: MakeEngine, free_manifest: MakeEngine, tmp_path: Path) -> None:
    save_lesion(tmp_path / "images" / "a.jpg")
    words = ("segment", tmp_path / "images", "--out", tmp_path / "out", "--engine", tiny_manifest(1))
    done = call(*words, "--engine", free_manifest(1), "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["engine"] == "free+tiny"
    assert "engine_agreement" in rows_of(tmp_path / "out")["a.jpg"]
    assert call(*words).exit_code == ExitCode.INPUT
    assert call(*words, "--engine", tiny_manifest(1), "--overwrite").exit_code == ExitCode.ENGINE


def test_a_dry_run_writes_nothing_and_says_why(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        save_lesion(tmp_path / "images" / f"{name}.png")
    words: tuple[str, ...] = ("segment", "images", "--out", "masks")
    done = call(*words, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "2 new" in done.stdout
    assert "would be built" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    words = (*words, "--engine", str(tiny_manifest(1)))
    call(*words)
    (tmp_path / "masks" / "a.png").unlink()
    planned = call(*words, "--dry-run", "--json", "-v")
    assert "a.png: mask missing" in planned.stderr
    expected = {"images": 2, "to_do": 1, "done": 1, "engine": "tiny", "out": "masks"}
    assert json.loads(planned.stdout).items() >= expected.items()
    assert not (tmp_path / "masks" / "a.png").exists()
    assert call(*words, "--dry-run", "--threshold", "0.7").exit_code == ExitCode.INPUT
    assert call(*words, "--dry-run", "--batch", "3").exit_code == ExitCode.INPUT


def test_quiet_and_verbose(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    save_lesion(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "bad.png").write_text("no image")
    (tmp_path / "images" / "notes.txt").touch()
    words = ("segment", tmp_path / "images", "--out", tmp_path / "out", "--engine", tiny_manifest(1))
    verbose = call(*words, "--verbose")
    assert [line.partition(":")[0] for line in verbose.stderr.splitlines()][-2:] == ["ok", "failed"]
    quiet = call(*words, "-q")
    assert quiet.stderr.startswith("failed: ")
    assert quiet.stderr.count("\n") == 1
    assert "1 failed, 1 skipped" in quiet.stdout
    assert "notes" not in quiet.stderr
    assert "ignored files" in call(*words).stderr


def test_retry_failed_has_an_exit_code_for_each_end(tmp_path: Path, tiny_manifest: MakeEngine) -> None:
    images, out = tmp_path / "images", tmp_path / "masks"
    first, second = (save(images / f"{name}.png", draw_case(1, 40, 60).image) for name in "ab")
    whole = first.read_bytes()
    words = ("segment", images, "--out", out, "--engine", tiny_manifest(1), "--workers", "1")
    refused = call(*words, "--retry-failed")
    assert refused.exit_code == ExitCode.INPUT
    assert str(out / "scores.csv") in refused.stderr
    assert not out.exists()
    assert call(*words, "--retry-failed", "--overwrite").exit_code == ExitCode.USAGE

    first.write_bytes(whole[:99])
    assert call(*words).exit_code == ExitCode.SOME_FAILED
    assert call(*words, "--retry-failed").exit_code == ExitCode.SOME_FAILED
    assert call(*words, "--retry-failed", "--max-failures", "1").exit_code == ExitCode.OK
    first.write_bytes(whole)
    done = call(*words, "--retry-failed", "--json")
    assert done.exit_code == ExitCode.OK
    assert [json.loads(done.stdout)[key] for key in ("ok", "failed", "skipped")] == [1, 0, 1]

    second.rename(images / "c.png")
    plan = json.loads(call(*words, "--retry-failed", "--dry-run", "--json").stdout)
    assert [plan[key] for key in ("to_do", "done", "left")] == [0, 1, 1]
    done = call(*words, "--retry-failed")
    assert done.exit_code == ExitCode.SOME_FAILED
    assert "1 of 2 images remain" in done.stderr
    assert list(rows_of(out)) == ["a.png", "b.png"]
