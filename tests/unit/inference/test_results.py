"""What a run leaves behind, and what the next one makes of it, however the first one ended."""

import csv
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.graphs import MakeEngine, OpenEngine, tiny_outputs
from helpers.pictures import draw, read, save, save_many
from PIL import Image

from lesioncli import __version__
from lesioncli.backends.base import Engine
from lesioncli.backends.registry import open_engine
from lesioncli.errors import InputError
from lesioncli.images.find import ImageFile, find_images, name_masks_by_isic
from lesioncli.images.geometry import to_network
from lesioncli.images.sample import sample_images
from lesioncli.inference.pipeline import Options
from lesioncli.inference.results import FAILED, OK, SKIPPED, Outcome, RunFolder, mask_path, without_suffix, write_mask
from lesioncli.inference.run import run
from lesioncli.inference.tta import PROCEDURES
from lesioncli.process import count_cores

HEADER = (
    "image,mask,width,height,bytes,status,reason,melanoma,seborrheic_keratosis,nevus,lesion_area_fraction,confidence,"
    "agreement,note"
)


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def contents(folder: Path) -> dict[str, bytes]:
    """All files but run.json, which tells the time."""
    files = [each for each in folder.rglob("*") if each.is_file() and each.name != "run.json"]
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in files}


def statuses(images: Path, engine: Engine, out: Path, **options: Any) -> str:
    """Run over a folder: o for an image that is ok, f for failed, s for skipped."""
    told: list[str] = []
    run(find_images([images]), engine, out, Options(**options), on_outcome=lambda each: told.append(each.status[0]))
    return "".join(told)


@pytest.fixture
def engine(tiny_engine: OpenEngine) -> Engine:
    return tiny_engine(2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of six pictures, 000.jpg to 005.jpg."""
    save_many(tmp_path / "images", 6)
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_scores_csv_has_a_row_for_every_image(engine: Engine, tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "images"
    picture = draw(1, 40, 60)
    save(folder / "sub" / "fine.png", picture)
    save(folder / "black.png", np.zeros((40, 60, 3), np.uint8))
    (folder / "broken, sadly.jpg").write_text("no picture")
    tiff = [Image.fromarray(draw(seed)) for seed in (1, 2)]
    tiff[0].save(folder / "two.tif", save_all=True, append_images=tiff[1:])
    assert statuses(folder, engine, out) == "ffoo"
    rows = rows_of(out)
    assert (out / "scores.csv").read_text().splitlines()[0] == HEADER
    assert list(rows) == ["black.png", "broken, sadly.jpg", "sub/fine.png", "two.tif"]
    empty = dict.fromkeys(HEADER.split(","), "")
    assert rows["broken, sadly.jpg"] == {
        **empty,
        "image": "broken, sadly.jpg",
        "bytes": "10",
        "status": "failed",
        "reason": "decode: not a JPEG, PNG, BMP, WebP or TIFF image (or damaged header)",
    }
    assert rows["black.png"] == {
        **empty,
        "image": "black.png",
        "width": "60",
        "height": "40",
        "bytes": str((folder / "black.png").stat().st_size),
        "status": "failed",
        "reason": "network: a score is not a finite number",
    }
    fine = rows["sub/fine.png"]
    assert {name: fine[name] for name in ("mask", "width", "height", "status", "reason", "note")} == {
        "mask": "sub/fine.png",
        "width": "60",
        "height": "40",
        "status": "ok",
        "reason": "",
        "note": "",
    }
    _, shares, brightness = tiny_outputs(to_network(picture, 32, 32))
    for name, value in zip(["melanoma", "seborrheic_keratosis", "nevus"], shares, strict=True):
        assert float(fine[name]) == pytest.approx(value, abs=6e-6)
    assert float(fine["agreement"]) == pytest.approx(brightness, abs=6e-6)
    assert float(fine["lesion_area_fraction"]) == pytest.approx((read(out / "sub/fine.png") == 255).mean(), abs=6e-6)
    assert rows["two.tif"]["note"] == "first of 2 pages"


def test_masks_are_8_bit_grey_of_0_and_255(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    for path in out.glob("*.png"):
        with Image.open(path) as mask:
            assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (60, 40))
    assert set(np.unique(read(out / "000.png"))) == {0, 255}


def test_a_mask_is_read_as_it_was_written(tmp_path: Path) -> None:
    mask = np.where(np.random.default_rng(1).random((33, 57)) < 0.5, 255, 0).astype(np.uint8)
    write_mask(tmp_path / "new" / "mask.png", mask)
    assert np.array_equal(read(tmp_path / "new" / "mask.png"), mask)


def test_run_json_says_what_ran_and_how_it_ended(engine: Engine, images: Path, out: Path) -> None:
    (images / "001.jpg").write_bytes(b"")
    statuses(images, engine, out)
    manifest, report = engine.manifest, report_of(out)
    cpu, seconds = report.pop("cpu_seconds"), report.pop("seconds")
    assert set(cpu) == {"decode", "write"}
    assert 0 <= sum(cpu.values()) <= seconds * (count_cores() + 1)
    assert report.pop("started")
    assert report.pop("python") == ".".join(map(str, sys.version_info[:3]))
    assert report == {
        "engine_sha256": manifest.sha256,
        "precision": "fp32",
        "threshold": 0.5,
        "tta": "none",
        "regions": "largest",
        "names": "images",
        "lesioncli": __version__,
        "model": "tiny",
        "backend": f"openvino {manifest.backend_version}",
        "device": manifest.device,
        "batch": 2,
        "workers": 0,
        "sources": [],
        "passed_over": {},
        "status": "finished",
        "images": 6,
        "ok": 5,
        "failed": 1,
        "skipped": 0,
    }


def test_run_json_keeps_where_the_images_of_all_runs_lie(engine: Engine, images: Path, out: Path) -> None:
    found = find_images([images])
    for source in (images, found[0].path, images):
        run(found, engine, out, Options(), sources=[source])
    assert [(out / source).resolve() for source in report_of(out)["sources"]] == [images, found[0].path]
    assert not Path(report_of(out)["sources"][0]).is_absolute()
    run(found, engine, out, Options(), overwrite=True, sources=[found[1].path])
    assert [(out / source).resolve() for source in report_of(out)["sources"]] == [found[1].path]


def test_a_linked_folder_is_left_by_its_real_parent(engine: Engine, images: Path, tmp_path: Path) -> None:
    (tmp_path / "disk" / "masks").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "masks")
    run(find_images([images]), engine, tmp_path / "link", Options(), sources=[images])
    (source,) = report_of(tmp_path / "link")["sources"]
    assert (tmp_path / "link" / source).resolve() == images


def test_the_summary_counts_what_was_done(engine: Engine, images: Path, out: Path) -> None:
    (images / "001.jpg").write_bytes(b"")
    found = find_images([images])
    run(found[:2], engine, out, Options())
    summary = run(found, engine, out, Options())
    assert (summary.images, summary.ok, summary.failed, summary.skipped) == (6, 4, 1, 1)
    assert (summary.engine, summary.precision, summary.tta, summary.out) == ("tiny", "fp32", "none", str(out))
    assert summary.images_per_second == pytest.approx(5 / summary.seconds)
    assert dataclasses.replace(summary, seconds=0.0).images_per_second == 0


def test_the_least_sure_are_those_of_all_runs_into_the_folder(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    (images / "001.jpg").write_bytes(b"")
    found = find_images([images])
    expected = run(found, engine, tmp_path / "whole", Options()).look_first
    assert len(expected) == 5
    assert run(found[:4], engine, out, Options()).look_first == [each for each in expected if each[0] < "004.jpg"]
    assert run(found[4:], engine, out, Options()).look_first == expected
    assert run(found, engine, out, Options()).look_first == expected


def test_no_file_is_left_half_written(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out, overlay=True)
    names = [f"00{number}" for number in range(6)]
    expected = [*(f"{name}.png" for name in names), *(f"overlays/{name}.jpg" for name in names), "scores.csv"]
    assert sorted(contents(out)) == expected


def test_a_second_run_does_nothing(engine: Engine, images: Path, out: Path) -> None:
    assert statuses(images, engine, out) == "oooooo"
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert statuses(images, engine, out) == "ssssss"
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == times


def remove_a_mask(images: Path, out: Path) -> None:
    (out / "002.png").unlink()


def add_an_image(images: Path, out: Path) -> None:
    save(images / "0005.jpg", draw(99, 40, 60))


def forget_the_rows(images: Path, out: Path) -> None:
    (out / "scores.csv").unlink()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove_a_mask, "ssosss"),
        (add_an_image, "sosssss"),
        (forget_the_rows, "oooooo"),
    ],
)
def test_a_second_run_does_what_is_missing(
    engine: Engine, images: Path, out: Path, change: Callable[[Path, Path], None], expected: str
) -> None:
    statuses(images, engine, out)
    before = contents(out)
    change(images, out)
    assert statuses(images, engine, out) == expected
    masks = {name: content for name, content in before.items() if name.endswith(".png")}
    assert contents(out).items() >= masks.items()
    assert list(rows_of(out)) == sorted(path.name for path in images.iterdir())


def test_a_failed_image_is_tried_again(engine: Engine, images: Path, out: Path) -> None:
    good = (images / "001.jpg").read_bytes()
    (images / "001.jpg").write_bytes(good[:-500])
    assert statuses(images, engine, out) == "ofoooo"
    assert statuses(images, engine, out) == "sfssss"
    assert rows_of(out)["001.jpg"]["reason"].startswith("decode: truncated")
    (images / "001.jpg").write_bytes(good)
    assert statuses(images, engine, out) == "sossss"
    assert rows_of(out)["001.jpg"]["reason"] == ""
    assert rows_of(out)["001.jpg"]["status"] == "ok"


def test_another_file_of_the_same_name_is_not_taken_for_done(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    statuses(images, engine, out)
    others = tmp_path / "others"
    shutil.copytree(images, others)
    sizes = [(images / name).stat().st_size for name in ("001.jpg", "004.jpg")]
    (others / "001.jpg").write_bytes(b"")  # whatever it is: the size is enough to know
    save(others / "004.jpg", draw(77, 50, 70))
    message = rf"out: .* 2 in all, the first {others}/001\.jpg \({sizes[0]} bytes then, 0 now\)"
    assert_refused(out, engine, others, message)
    (out / "001.png").unlink()
    assert_refused(out, engine, others, rf"out: .* 1 in all, the first {others}/004\.jpg \({sizes[1]} bytes then")
    (out / "004.png").unlink()
    assert statuses(others, engine, out) == "sfssos"
    assert rows_of(out)["004.jpg"]["bytes"] == str((others / "004.jpg").stat().st_size)
    assert run(find_images([images]), engine, out, Options(), overwrite=True).ok == 6


def test_an_image_does_not_take_the_mask_of_another_of_its_number(engine: Engine, tmp_path: Path, out: Path) -> None:
    """One that failed has no mask to take, so that a row of it gives way."""

    def segment(name: str) -> str:
        picture = save(tmp_path / name, draw(len(name), 40, 60))
        if "broken" in name:
            picture.write_bytes(b"")
        told: list[str] = []
        found = name_masks_by_isic(find_images([picture]))
        run(found, engine, out, Options(), on_outcome=lambda each: told.append(each.status))
        return told[0]

    assert segment("ISIC_0000001_broken.jpg") == FAILED
    assert segment("ISIC_0000001.jpg") == OK
    assert list(rows_of(out)) == ["ISIC_0000001.jpg"]
    before = contents(out)
    for name in ("ISIC_0000001_downsampled.jpg", "ISIC_0000001_broken.jpg"):
        message = rf"the mask ISIC_0000001_segmentation\.png is of ISIC_0000001\.jpg, and .*{name} would take its place"
        with pytest.raises(InputError, match=message):
            segment(name)
        assert contents(out) == before
    assert segment("ISIC_0000001.jpg") == SKIPPED
    assert segment("ISIC_0000002_downsampled.jpg") == OK
    (out / "ISIC_0000001_segmentation.png").unlink()
    assert segment("ISIC_0000001_downsampled.jpg") == OK
    assert list(rows_of(out)) == ["ISIC_0000001_downsampled.jpg", "ISIC_0000002_downsampled.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows, making a link takes a right")
def test_what_is_done_stays_done_where_its_file_is_gone(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (images / "003.jpg").unlink()
    (images / "003.jpg").symlink_to("gone")
    assert statuses(images, engine, out) == "ssssss"


def test_rows_of_images_that_are_no_longer_asked_for_stay(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    before = contents(out)
    (images / "004.jpg").unlink()
    assert statuses(images, engine, out) == "sssss"
    assert contents(out) == before


@pytest.mark.parametrize("after", [1, 4, 6])
def test_an_interrupted_run_keeps_its_rows_and_goes_on(
    engine: Engine, images: Path, out: Path, tmp_path: Path, after: int
) -> None:
    statuses(images, engine, tmp_path / "whole")
    told: list[Outcome] = []

    def interrupt(outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(find_images([images]), engine, out, Options(), on_outcome=interrupt)
    assert list(rows_of(out)) == [f"00{number}.jpg" for number in range(after)]
    assert {key: report_of(out)[key] for key in ("status", "images", "ok")} == {
        "status": "interrupted",
        "images": 6,
        "ok": after,
    }
    assert statuses(images, engine, out) == "s" * after + "o" * (6 - after)
    assert contents(out) == contents(tmp_path / "whole")


PROGRAM = """
import sys, time
from lesioncli.inference import pipeline
real, never = pipeline.decode, sys.argv.pop(1)

def decode(path, at_least_hw):
    while path.name == never:
        time.sleep(1)
    return real(path, at_least_hw)

pipeline.decode = decode
from lesioncli.cli.app import main
main()
"""


def start(*arguments: str | Path, never: str = "") -> subprocess.Popen[bytes]:
    """The real program in a process of its own; the image called `never` is never read to its end."""
    command = [sys.executable, "-c", PROGRAM, never, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_in_the_middle(images: Path, at: str, out: Path, *options: str | Path) -> int:
    """Run until image `at`, which takes for ever, then SIGKILL; returns the number of rows by then."""
    with start("segment", images, "--out", out, "--workers", "2", *options, never=at) as process:
        part, rows, deadline = out / "scores.csv.part", 0, time.monotonic() + 60
        while rows < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            rows = part.read_bytes().count(b"\n") - 1 if part.exists() else 0
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert rows >= 10
    return part.read_bytes().count(b"\n") - 1


# Images that can be on their way or wait to be told: the endless one comes after them, so that rows come before it.
AHEAD = 3 * (count_cores() + 7)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows cannot kill with a signal")
def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    count, at = AHEAD + 40, AHEAD + 15
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    save_many(images, count)
    manifest = tiny_manifest(1)
    rows = kill_in_the_middle(images, f"{at:03d}.jpg", out, "--engine", manifest)
    assert report_of(out)["status"] == "running"
    assert not (out / "scores.csv").exists()
    (out / f".{at:03d}.png.part").write_bytes(b"half a mask")

    with start("segment", images, "--out", out, "--engine", manifest, "--json") as process:
        said, _ = process.communicate()
    assert process.returncode == 0
    summary = json.loads(said[said.index(b"{") :])
    assert (summary["ok"], summary["skipped"]) == (count - rows, rows)

    with open_engine(manifest) as engine:
        run(find_images([images]), engine, whole, Options())
    assert contents(out) == contents(whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows cannot kill with a signal")
def test_a_killed_overwrite_leaves_nothing_of_before_as_done(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    count, at = AHEAD + 40, AHEAD + 15
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    save_many(images, count)
    manifest = tiny_manifest(1)
    with open_engine(manifest) as engine:
        statuses(images, engine, out, threshold=0.9)
        again = ("--overwrite", "--threshold", "0.2", "--engine", manifest)
        rows = kill_in_the_middle(images, f"{at:03d}.jpg", out, *again)
        assert statuses(images, engine, out, threshold=0.2) == "s" * rows + "o" * (count - rows)
        statuses(images, engine, whole, threshold=0.2)
    assert contents(out) == contents(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows, see journal.py")
def test_two_runs_at_once_do_not_share_a_folder(
    engine: Engine, tiny_manifest: MakeEngine, images: Path, out: Path
) -> None:
    with start("segment", images, "--out", out, "--engine", tiny_manifest(2), never="003.jpg") as process:
        try:
            deadline = time.monotonic() + 60
            while not (out / "run.json").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            for overwrite in (False, True):
                with pytest.raises(InputError, match=r"out: another run is writing into this folder; wait .* --out"):
                    run(find_images([images]), engine, out, Options(), overwrite=overwrite)
            assert (out / "scores.csv.part").read_text().startswith("image,mask")
        finally:
            process.kill()
            said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert statuses(images, engine, out).endswith("ooo")
    assert list(rows_of(out)) == sorted(path.name for path in images.iterdir())


@pytest.fixture
def other_precision(tiny_manifest: MakeEngine) -> Iterator[Engine]:
    """The same engine as a run in bf16 would describe it; it has the same files, and so the same hash."""
    with open_engine(tiny_manifest(2)) as engine:
        engine.manifest = dataclasses.replace(engine.manifest, precision="bf16")
        yield engine


@pytest.fixture
def other_graph(tiny_manifest: MakeEngine) -> Iterator[Engine]:
    """An engine of other files."""
    with open_engine(tiny_manifest(2)) as engine:
        engine.manifest = dataclasses.replace(engine.manifest, files=dict.fromkeys(engine.manifest.files, "0" * 64))
        yield engine


@pytest.fixture
def four_views(tiny_manifest: MakeEngine) -> Iterator[Engine]:
    """The same engine, open for four views of each image."""
    with open_engine(tiny_manifest(2), lay_out=PROCEDURES["flips"].layout) as engine:
        yield engine


def assert_refused(out: Path, engine: Engine, images: Path, message: str, **options: Any) -> None:
    before, report = contents(out), report_of(out)
    with pytest.raises(InputError, match=message) as caught:
        statuses(images, engine, out, **options)
    assert re.search("choose another --out, (or|use) --overwrite", str(caught.value))
    assert contents(out) == before
    assert report_of(out) == report


def test_another_engine_or_threshold_is_refused(
    other_graph: Engine, other_precision: Engine, engine: Engine, images: Path, out: Path
) -> None:
    statuses(images, engine, out)
    assert_refused(out, engine, images, r"made with threshold 0\.5, this run has 0\.6", threshold=0.6)
    assert_refused(out, other_graph, images, f"made with engine_sha256 {engine.manifest.sha256}, this run has ")
    assert_refused(out, other_precision, images, "made with precision fp32, this run has bf16")


def test_masks_of_another_procedure_are_refused_both_ways(
    engine: Engine, four_views: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    statuses(images, engine, out)
    assert_refused(out, four_views, images, "made with tta none, this run has flips", tta="flips")
    statuses(images, four_views, tmp_path / "flips", tta="flips")
    assert report_of(tmp_path / "flips")["tta"] == "flips"
    assert_refused(tmp_path / "flips", engine, images, "made with tta flips, this run has none")


def test_a_run_of_before_there_were_procedures_is_one_look(
    engine: Engine, four_views: Engine, images: Path, out: Path
) -> None:
    statuses(images, engine, out)
    report = {key: value for key, value in report_of(out).items() if key != "tta"}
    (out / "run.json").write_text(json.dumps(report))
    assert_refused(out, four_views, images, "made with tta none, this run has flips", tta="flips")
    assert statuses(images, engine, out) == "ssssss"


def test_a_run_of_before_regions_were_chosen_kept_them_all(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out, regions="all")
    report = {key: value for key, value in report_of(out).items() if key != "regions"}
    (out / "run.json").write_text(json.dumps(report))
    assert_refused(out, engine, images, "made with regions all, this run has largest")
    assert statuses(images, engine, out, regions="all") == "ssssss"


def test_views_are_resumed_where_they_stopped(four_views: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    found, options = find_images([images]), Options(tta="flips")
    run(found[1:3], four_views, out, options)
    assert statuses(images, four_views, out, tta="flips") == "ossooo"
    assert statuses(images, four_views, tmp_path / "whole", tta="flips") == "oooooo"
    assert contents(out) == contents(tmp_path / "whole")


def test_a_threshold_is_refused_after_an_interruption_too(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (out / "scores.csv").rename(out / "scores.csv.part")
    assert_refused(out, engine, images, r"made with threshold 0\.5", threshold=0.6)


@pytest.mark.parametrize("report", [None, "", '{"threshold": 0.5'])
def test_masks_of_nobody_knows_what_are_refused(engine: Engine, images: Path, out: Path, report: str | None) -> None:
    statuses(images, engine, out)
    (out / "run.json").unlink()
    if report is not None:
        (out / "run.json").write_text(report)
    with pytest.raises(InputError, match="made with engine_sha256 unknown"):
        statuses(images, engine, out)


@pytest.mark.parametrize("foreign", [b"image,age\na,7\n", b"\xff\xfe\x00\n", b"image;mask\r"])
def test_a_table_of_somebody_else_is_not_touched(engine: Engine, images: Path, out: Path, foreign: bytes) -> None:
    out.mkdir()
    (out / "scores.csv").write_bytes(foreign)
    with pytest.raises(InputError, match=r"scores\.csv: has other columns"):
        statuses(images, engine, out)
    assert contents(out) == {"scores.csv": foreign}


def test_overwrite_starts_anew(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, out, threshold=0.9)
    (images / "005.jpg").unlink()
    run(find_images([images]), engine, out, Options(threshold=0.2), overwrite=True)
    statuses(images, engine, tmp_path / "whole", threshold=0.2)
    assert contents(out) == contents(tmp_path / "whole")
    assert report_of(out)["threshold"] == 0.2


def test_overwrite_leaves_no_mask_and_no_overlay_of_before(
    engine: Engine, other_graph: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    """Also where the earlier run was killed, or had other columns."""
    statuses(images, other_graph, out, overlay=True)
    table = (out / "scores.csv").read_text().splitlines(keepends=True)
    (out / "scores.csv").write_text("".join(["image,mask,age\n", "000.jpg,000.png,7\n", "001.jpg,001.png,7\n"]))
    (out / "scores.csv.part").write_text("".join([table[0], *table[3:]]))
    (out / "mine.png").write_text("not named in a row")
    save(tmp_path / "new" / "a.jpg", draw(1, 40, 60))
    run(find_images([tmp_path / "new"]), engine, out, Options(), overwrite=True)
    assert set(contents(out)) == {"a.png", "mine.png", "scores.csv"}


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows, making a link takes a right")
def test_overwrite_removes_nothing_that_lies_elsewhere(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    inside, outside = out / "there" / "a.png", tmp_path / "elsewhere" / "b.png"
    for path in (inside, outside, out / "gone.png", out / "folder.png" / "c.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept, but for the one")
    (out / "outside").symlink_to(outside.parent)
    (out / "inside").symlink_to(inside.parent)
    (out / "link.png").symlink_to(inside)
    names = [
        *(str(outside), "../elsewhere/b.png", "outside/b.png", "inside/a.png", "there/../there/a.png", "link.png"),
        *("run.json", "folder.png", "nul\0.png", "x" * 300 + ".png", "", "gone.png"),
    ]
    (out / "run.json").write_text("{}")
    lines = [f"{number}.jpg,{name}\n" for number, name in enumerate(names)]
    (out / "scores.csv").write_text("".join(["image,mask\n", "../../elsewhere/b.jpg,\n", *lines, "y" * 200_000]))
    (tmp_path / "link").symlink_to(out)
    run(find_images([images])[:1], engine, tmp_path / "link", Options(), overwrite=True)
    expected = {"000.png", "scores.csv", "there/a.png", "folder.png/c.png", "link.png"}
    assert {name for name in contents(out) if not name.startswith(("inside/", "outside/"))} == expected
    assert outside.is_file()


def test_a_failed_image_keeps_no_mask_of_before(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (images / "003.jpg").write_bytes(b"")
    run(find_images([images]), engine, out, Options(), overwrite=True)
    assert rows_of(out)["003.jpg"]["status"] == "failed"
    assert not (out / "003.png").exists()


def test_no_overlay_is_of_an_earlier_picture(engine: Engine, images: Path, out: Path) -> None:
    """Nor of an image that fails; those of images that are done stay as they are."""
    statuses(images, engine, out, overlay=True)
    first = contents(out)
    save(images / "001.jpg", draw(77, 50, 70))
    (images / "004.jpg").write_bytes(b"")
    for name in ("001.png", "004.png"):
        (out / name).unlink()
    assert statuses(images, engine, out) == "sossfs"
    expected = {f"overlays/00{number}.jpg" for number in (0, 2, 3, 5)}
    assert {name for name in contents(out) if name.startswith("overlays/")} == expected
    assert statuses(images, engine, out, overlay=True) == "sossfs"
    assert contents(out)["overlays/001.jpg"] != first["overlays/001.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows, making a link takes a right")
def test_a_photograph_is_not_taken_for_its_own_overlay(engine: Engine, images: Path, out: Path) -> None:
    out.mkdir()
    (out / "overlays").symlink_to(images)
    assert statuses(images, engine, out) == "oooooo"
    assert len(list(images.iterdir())) == 6


def test_a_row_cut_short_is_not_taken_for_a_row(engine: Engine, tmp_path: Path, out: Path) -> None:
    """At every byte of the last row, which has letters of two bytes, a note and a comma in quotes."""
    images, whole = tmp_path / "images", tmp_path / "whole"
    save(images / "a.jpg", draw(1, 40, 60))
    tiff = [Image.fromarray(draw(seed)) for seed in (1, 2)]
    tiff[0].save(images / "ö, ß.tif", save_all=True, append_images=tiff[1:])
    statuses(images, engine, whole)
    expected = contents(whole)
    table = expected["scores.csv"]
    for length in range(table.index("ö".encode()) - 1, len(table) + 1, 3):
        shutil.copytree(whole, out)
        (out / "scores.csv").unlink()
        (out / "scores.csv.part").write_bytes(table[:length])
        assert statuses(images, engine, out) == ("so" if length < len(table) - 1 else "ss")
        assert contents(out) == expected
        shutil.rmtree(out)


def test_a_killed_runs_rows_come_after_the_earlier_ones(engine: Engine, images: Path, out: Path) -> None:
    """scores.csv says failed, scores.csv.part ok: the later one counts."""
    statuses(images, engine, out)
    lines = (out / "scores.csv").read_text().splitlines(keepends=True)
    (out / "scores.csv.part").write_text("".join(lines))
    failed = "000.jpg,,,,0,failed,decode: file is empty,,,,,,,\n"
    (out / "scores.csv").write_text("".join([lines[0], failed, *lines[2:]]))
    assert statuses(images, engine, out) == "ssssss"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf_8_is_one_image_like_others(engine: Engine, tmp_path: Path, out: Path) -> None:
    picture = save(tmp_path / "images" / "a.jpg", draw(1, 40, 60))
    picture.rename(tmp_path / "images" / os.fsdecode(b"h\xe4ut.jpg"))
    assert statuses(tmp_path / "images", engine, out) == "o"
    assert statuses(tmp_path / "images", engine, out) == "s"
    assert rows_of(out)[r"h\udce4ut.jpg"]["mask"] == r"h\udce4ut.png"
    assert (out / os.fsdecode(b"h\xe4ut.png")).is_file()


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_a_folder_that_cannot_be_written_is_bad_input(engine: Engine, images: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=rf"{name}: cannot be written \(.*\); choose another --out"):
        statuses(images, engine, tmp_path / name)
    assert (tmp_path / "file").read_text() == "in the way"


FULL_DISK = """
import resource, sys
from lesioncli.inference.results import RunFolder
method, calls = sys.argv.pop(1), int(sys.argv.pop(1))
real = getattr(RunFolder, method)

def full(folder, given):
    global calls
    calls -= 1
    if not calls:  # Python ignores SIGXFSZ, so that writing more is an OSError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    real(folder, given)

setattr(RunFolder, method, full)
from lesioncli.cli.app import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a full disk is made with resource limits, which Windows lacks")
@pytest.mark.parametrize(
    ("method", "calls", "rows", "named"), [("add", 3, 2, "scores.csv.part"), ("finish", 1, 6, "scores.csv")]
)
def test_a_full_disk_is_no_bug_and_rows_are_kept(
    engine: Engine,
    tiny_manifest: MakeEngine,
    images: Path,
    out: Path,
    tmp_path: Path,
    method: str,
    calls: int,
    rows: int,
    named: str,
) -> None:
    """While rows come, or at the end; either way there is no room for scores.csv."""
    words = ["segment", images, "--out", out, "--engine", tiny_manifest(2)]
    command = [sys.executable, "-c", FULL_DISK, method, str(calls), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert f"{out / named}: File too large; make room, then run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert statuses(images, engine, out) == "s" * rows + "o" * (6 - rows)
    statuses(images, engine, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_what_ended_a_run_is_told_although_its_end_finds_no_room(
    engine: Engine, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupt(_: Outcome) -> None:
        monkeypatch.setattr(RunFolder, "_save_rows", refuse)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(find_images([images]), engine, out, Options(), on_outcome=interrupt)
    monkeypatch.undo()
    assert statuses(images, engine, out) == "sooooo"


def test_a_run_folder_knows_what_is_done(out: Path) -> None:
    """A row without a mask, a mask without a row and a failed row are none of them done."""
    done, no_mask, failed, no_row = (ImageFile(Path(f"{name}.jpg"), name) for name in "abcd")
    folder = RunFolder(out, {}, ("melanoma",))
    folder.add(Outcome(done, OK, (2, 3), 7, values={"melanoma": 0.123456}))
    folder.add(Outcome(no_mask, OK, (2, 3), values={"melanoma": 0.5}))
    folder.add(Outcome(failed, FAILED, stage="decode", reason="because"))
    folder.add(Outcome(no_row, SKIPPED))
    for image in (done, failed, no_row):
        write_mask(mask_path(out, image), np.zeros((2, 3), np.uint8))
    assert [folder.is_done(image) for image in (done, no_mask, failed, no_row)] == [True, False, False, False]
    folder.finish({"status": "finished"})
    assert (out / "scores.csv").read_text().splitlines() == [
        "image,mask,width,height,bytes,status,reason,melanoma,note",
        "a.jpg,a.png,3,2,7,ok,,0.12346,",
        "b.jpg,b.png,3,2,,ok,,0.50000,",
        "c.jpg,,,,,failed,decode: because,,",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.jpg", "x"), ("a.d/x.y.jpg", "a.d/x.y"), ("a.d/x", "a.d/x"), ("x", "x"), (".jpg", ".jpg"), ("", "")],
)
def test_a_name_without_its_suffix(name: str, expected: str) -> None:
    assert without_suffix(name) == expected


def save_numbered(folder: Path, count: int, broken: Container[int] = ()) -> list[ImageFile]:
    """Flat pictures whose value is their number; those of `broken` are empty files."""
    for number in range(count):
        path = save(folder / f"{number:03}.png", np.full((4, 5, 3), number, np.uint8))
        if number in broken:
            path.write_bytes(b"")
    return find_images([folder])


@pytest.mark.parametrize(
    ("there", "broken", "count", "expected"),
    [
        (10, (), 5, [0, 2, 4, 6, 8]),
        (10, (4,), 5, [0, 2, 6, 8, 1]),
        (10, (4,), 99, [0, 1, 2, 3, 5, 6, 7, 8, 9]),
        (7, (), 4, [0, 1, 3, 5]),
        (8, range(4), 4, [4, 6, 5, 7]),
        (20, {*range(8), *range(10, 18)}, 2, []),  # those are tried, and no more
    ],
)
def test_sample_images_are_spread_and_readable(
    tmp_path: Path, there: int, broken: Container[int], count: int, expected: list[int]
) -> None:
    found = sample_images(save_numbered(tmp_path, there, broken), count, (32, 32))
    assert [picture[0, 0, 0] for picture in found] == expected


def test_sample_images_come_from_all_of_a_folder(tmp_path: Path) -> None:
    found = [int(picture[0, 0, 0]) for picture in sample_images(save_numbered(tmp_path, 63), 32, (32, 32))]
    assert (len(found), found[0], found[-1]) == (32, 0, 61)
    assert max(np.diff(found)) == 2


def test_masks_named_as_isic_does(images: Path, engine: Engine, out: Path) -> None:
    (images / "sub").mkdir()
    for number in range(4):
        (images / f"{number:03}.jpg").rename(images / "sub" / f"x_{number:07}_y.jpg")
    for number in (4, 5):
        (images / f"{number:03}.jpg").rename(images / f"ISIC_{number:07}.jpg")
    found = name_masks_by_isic(find_images([images]))
    assert run(found, engine, out, Options()).ok == 6
    masks = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    expected = {f"sub/ISIC_{number:07}_segmentation.png" for number in range(4)}
    assert masks == expected | {f"ISIC_{number:07}_segmentation.png" for number in (4, 5)}
    assert rows_of(out)["sub/x_0000001_y.jpg"]["mask"] == "sub/ISIC_0000001_segmentation.png"
    assert run(found, engine, out, Options()).skipped == 6
    with pytest.raises(InputError, match="holds masks made with names isic, this run has images"):
        run(find_images([images]), engine, out, Options())


@pytest.mark.parametrize("name", ["x.jpg", "ISIC_12345.jpg", "ISIC_0000001_0000002.jpg", "0000001/x.jpg"])
def test_an_image_without_an_isic_number_is_named(name: str, tmp_path: Path) -> None:
    save(tmp_path / "images" / name, draw(0))
    with pytest.raises(InputError, match=rf"{name}: not one ISIC number of seven digits .*; leave out --isic"):
        name_masks_by_isic(find_images([tmp_path / "images"]))


def test_two_images_of_one_isic_number_are_refused(tmp_path: Path) -> None:
    for name in ("a/ISIC_0000001.jpg", "b/0000001.jpg"):
        save(tmp_path / "images" / name, draw(0))
    with pytest.raises(
        InputError, match=r"two images are ISIC_0000001: .*a/ISIC_0000001\.jpg and .*b/0000001\.jpg; keep"
    ):
        name_masks_by_isic(find_images([tmp_path / "images"]))
