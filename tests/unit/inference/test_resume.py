"""A run into the folder of an earlier run: what it skips, what it does again, and what it refuses."""

import csv
import json
import os
import pkgutil
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save, save_many
from helpers.runs import (
    assert_refused,
    files_of,
    record_of,
    rows_of,
    segment_folder,
    start_program,
    statuses,
)

from lesioncli.backends.base import Engine
from lesioncli.backends.registry import open_engine
from lesioncli.errors import InputError
from lesioncli.files import crc32_of
from lesioncli.images.find import ImageFile, ImageListing, find_images, list_images, name_masks_by_isic
from lesioncli.inference.outcome import LATER_COLUMNS, Outcome
from lesioncli.inference.run import segment_images
from lesioncli.inference.shape import MM_COLUMNS
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import TTA, Regions, SegmentOptions, Status
from lesioncli.process import count_cores


def test_a_second_run_changes_nothing(engine: Engine, images: Path, out: Path) -> None:
    assert statuses(images, engine, out) == "oooooo"
    before = files_of(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert statuses(images, engine, out) == "ssssss"
    assert files_of(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == times


def test_the_rows_and_the_record_are_read_once(
    engine: Engine, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses(images, engine, out)
    calls: list[str] = []

    def count(target: str) -> None:
        module, _, name = target.rpartition(".")
        real = pkgutil.resolve_name(target)

        def counted(*given: Any) -> Any:
            calls.append(name)
            return real(*given)

        monkeypatch.setattr(pkgutil.resolve_name(module), name, counted)

    count("lesioncli.inference.rows.RowTables._parse")
    count("lesioncli.inference.shards.read_record")
    assert statuses(images, engine, out) == "ssssss"
    assert (calls.count("_parse"), calls.count("read_record")) == (6, 1)


def remove_a_mask(images: Path, out: Path) -> None:
    (out / "002.png").unlink()


def add_an_image(images: Path, out: Path) -> None:
    save(images / "0005.jpg", draw(99, 40, 60))


def remove_the_rows(images: Path, out: Path) -> None:
    (out / "scores.csv").unlink()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove_a_mask, "ssosss"),
        (add_an_image, "sosssss"),
        (remove_the_rows, "oooooo"),
    ],
)
def test_a_second_run_does_what_is_missing(
    engine: Engine, images: Path, out: Path, change: Callable[[Path, Path], None], expected: str
) -> None:
    statuses(images, engine, out)
    before = files_of(out)
    change(images, out)
    assert statuses(images, engine, out) == expected
    masks = {name: content for name, content in before.items() if name.endswith(".png")}
    assert files_of(out).items() >= masks.items()
    assert list(rows_of(out)) == sorted(path.name for path in images.iterdir())


def test_a_run_continues_a_table_that_lacks_the_columns_of_this_version(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    statuses(images, engine, out)
    with (out / "scores.csv").open(newline="") as file:
        rows = [[row[name] for name in row if name not in LATER_COLUMNS] for row in csv.DictReader(file)]
    header = [name for name in next(iter(rows_of(out).values())) if name not in LATER_COLUMNS]
    with (out / "scores.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    (out / "002.png").unlink()
    assert statuses(images, engine, out) == "ssosss"
    areas = [row["area_px"] for row in rows_of(out).values()]
    assert [bool(area) for area in areas] == [False, False, True, False, False, False]
    assert [row["confidence"] for row in rows_of(out).values()][:1] == [rows[0][header.index("confidence")]]


def test_a_run_with_another_scale_is_refused(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, out, mm_per_pixel=0.5)
    row = rows_of(out)["000.jpg"]
    assert float(row["area_mm2"]) == float(row["area_px"]) / 4
    assert_refused(out, engine, images, "mm_per_pixel", "0.5", "0.25", mm_per_pixel=0.25)
    assert_refused(out, engine, images, "mm_per_pixel", "0.5", "none")
    assert statuses(images, engine, out, mm_per_pixel=0.5) == "ssssss"
    statuses(images, engine, tmp_path / "without")
    assert rows_of(tmp_path / "without")["000.jpg"] == {**row, **dict.fromkeys(MM_COLUMNS, "")}


@pytest.mark.parametrize("table", ["scores.csv", "scores.csv.part"])  # a killed run leaves the second
def test_retry_failed_does_exactly_the_images_that_failed(engine: Engine, images: Path, out: Path, table: str) -> None:
    whole = (images / "001.jpg").read_bytes()
    for name in ("001.jpg", "004.jpg"):
        (images / name).write_bytes(whole[:100])
    assert statuses(images, engine, out) == "ofoofo"
    (out / "scores.csv").rename(out / table)
    rows = (out / table).read_text()
    (images / "001.jpg").write_bytes(whole)
    add_an_image(images, out)
    remove_a_mask(images, out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}

    assert statuses(images, engine, out, retry_failed=True, overlay=True) == "sosfs"
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == times | {
        out / "001.png": (out / "001.png").stat().st_mtime_ns
    }
    assert [path.name for path in (out / "overlays").iterdir()] == ["001.jpg"]
    assert {*rows.splitlines()} - {*(out / "scores.csv").read_text().splitlines()} == {
        line for line in rows.splitlines() if line.startswith("001.jpg")
    }
    record = record_of(out)
    assert [record[key] for key in ("status", "images", "ok", "failed", "skipped")] == ["interrupted", 7, 1, 1, 3]
    assert statuses(images, engine, out, retry_failed=True) == "sssfs"
    assert statuses(images, engine, out) == "sososfs"


CUTS = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "zeros at the end": lambda content: content[:-20] + bytes(20),
    "longer": lambda content: content + b"\0",
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_mask_that_was_cut_is_written_again(
    engine: Engine, images: Path, out: Path, cut: Callable[[bytes], bytes]
) -> None:
    """A power cut, or a program that copies folders, leaves files of the right name."""
    statuses(images, engine, out)
    before = files_of(out)
    (out / "002.png").write_bytes(cut(before["002.png"]))
    assert statuses(images, engine, out) == "ssosss"
    assert files_of(out) == before


def edit_scores(out: Path, edit: Callable[[list[str]], list[str]], line: int = 3) -> None:
    """Change the fields of a line of scores.csv, as a user does by hand."""
    path = out / "scores.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line - 1] = ",".join(edit(lines[line - 1].split(",")))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda fields: [*fields[:-3], "abc", *fields[-2:]], "confidence is 'abc'"),
        (lambda fields: [*fields[:4], "12.5", *fields[5:]], "bytes is '12.5'"),
        (lambda fields: fields[:-1], "21"),
        (lambda fields: [*fields, "7"], "fields"),
        (lambda fields: [*fields[:-1], "x" * 200_000], "131072"),
    ],
)
def test_a_table_edited_by_hand_is_refused_at_its_line(
    engine: Engine, images: Path, out: Path, edit: Callable[[list[str]], list[str]], named: str
) -> None:
    statuses(images, engine, out)
    edit_scores(out, edit)
    before = files_of(out)
    with pytest.raises(InputError, match=f"{out / 'scores.csv'}, line 3: .*{named}"):
        statuses(images, engine, out)
    assert files_of(out) == before


def test_a_byte_order_mark_is_accepted(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    path = out / "scores.csv"
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert statuses(images, engine, out) == "ssssss"


def test_an_overlay_that_was_cut_is_drawn_again(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out, overlay=True)
    before = files_of(out)
    (out / "overlays" / "003.jpg").write_bytes(before["overlays/003.jpg"][:-10])
    assert statuses(images, engine, out, overlay=True) == "sssoss"
    assert files_of(out) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not rename a folder with open files")
@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_folder_that_is_renamed_during_the_run_is_noticed(
    engine: Engine, images: Path, out: Path, tmp_path: Path, after: int, is_replaced: bool
) -> None:
    seen: list[Outcome] = []

    def rename(outcome: Outcome) -> None:
        seen.append(outcome)
        if len(seen) == after:
            out.rename(tmp_path / "moved")
            if is_replaced:
                out.mkdir()

    with pytest.raises(InputError, match=str(out)):
        segment_images(list_images([images]), engine, out, on_outcome=rename)
    assert len(seen) == after
    assert out.exists() == is_replaced
    assert not (out / "scores.csv").exists()
    assert statuses(images, engine, tmp_path / "moved") == "s" * after + "o" * (6 - after)
    assert statuses(images, engine, tmp_path / "whole") == "oooooo"
    assert files_of(tmp_path / "moved") == files_of(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove a folder with open files")
def test_a_folder_that_is_removed_during_the_run_is_noticed(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save_many(images, 100)
    with start_program("segment", images, "--out", out, "--engine", tiny_manifest(1), delay=0.02) as process:
        while not list(out.glob("*.png")) and process.poll() is None:
            time.sleep(0.02)
        out.rename(tmp_path / "gone")  # rmtree() would race with new files
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output.decode()
    assert f"{out}: " in output.decode()
    assert not out.exists()


def test_a_failed_image_is_tried_again(engine: Engine, images: Path, out: Path) -> None:
    good = (images / "001.jpg").read_bytes()
    (images / "001.jpg").write_bytes(good[:-500])
    assert statuses(images, engine, out) == "ofoooo"
    assert statuses(images, engine, out) == "sfssss"
    assert rows_of(out)["001.jpg"]["reason"].startswith("decode: ")
    (images / "001.jpg").write_bytes(good)
    assert statuses(images, engine, out) == "sossss"
    assert rows_of(out)["001.jpg"]["reason"] == ""
    assert rows_of(out)["001.jpg"]["status"] == "ok"


def replace_content(path: Path, keep_time: bool = False) -> None:
    """Give an image other pixels in a file of the same size."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # inside the entropy-coded data
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_replaced_image_is_segmented_again(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, out)
    save(images / "001.jpg", draw(77, 50, 70))
    replace_content(images / "004.jpg")
    (images / "005.jpg").write_bytes(b"")
    summary = segment_folder(images, engine, out)
    assert (summary.ok, summary.failed, summary.skipped, summary.changed) == (2, 1, 3, 3)
    statuses(images, engine, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    assert statuses(images, engine, out) == "sssssf"


def test_an_image_with_the_same_time_is_compared_on_request(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    before = files_of(out)
    assert statuses(images, engine, out, check_inputs=True) == "ssssss"
    assert files_of(out) == before
    replace_content(images / "002.jpg", keep_time=True)
    assert statuses(images, engine, out) == "ssssss"
    assert statuses(images, engine, out, check_inputs=True) == "ssosss"
    assert statuses(images, engine, out, check_inputs=True) == "ssssss"


def test_a_copy_of_the_images_is_read_once(
    engine: Engine, images: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files have other times and the same content."""
    statuses(images, engine, out)
    scores = files_of(out)["scores.csv"]
    copy = tmp_path / "copy"
    compared: list[Path] = []

    def compare(path: Path) -> int:
        compared.append(path)
        return crc32_of(path)

    shutil.copytree(images, copy, copy_function=shutil.copyfile)
    for path in copy.iterdir():
        os.utime(path, (1e9, 1e9))
    shutil.rmtree(images)
    monkeypatch.setattr("lesioncli.inference.inputs.crc32_of_image", compare)
    assert statuses(copy, engine, out) == "ssssss"
    assert sorted(compared) == sorted(copy.iterdir())
    assert statuses(copy, engine, out) == "ssssss"
    assert len(compared) == 6
    assert files_of(out)["scores.csv"] == scores


def test_a_folder_of_an_early_version_continues(engine: Engine, images: Path, out: Path) -> None:
    """It has no checksums, so only sizes are compared."""
    statuses(images, engine, out)
    (out / "checksums.csv").unlink()
    replace_content(images / "002.jpg")
    save(images / "003.jpg", draw(77, 50, 70))
    assert statuses(images, engine, out, check_inputs=True) == "sssoss"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"image,modified_ns\r\n",
        b"\0" * 100,
        b'image,a,b,c\r\n000.jpg,x,"y\r\n',
        b"image,a,b,c\r\n000.jpg,1," + b"f" * 5000 + b",1\r\n",
    ],
)
def test_damaged_checksums_are_unknown(engine: Engine, images: Path, out: Path, damage: bytes) -> None:
    statuses(images, engine, out)
    (out / "checksums.csv").write_bytes(damage)
    assert statuses(images, engine, out) == "ssssss"


def test_checksums_are_found_in_any_order(engine: Engine, images: Path, out: Path) -> None:
    """A row without its line is as one of an early version; that of a failed image never has one."""
    (images / "000.jpg").write_bytes(b"")
    statuses(images, engine, out)
    header, *lines = (out / "checksums.csv").read_bytes().splitlines(keepends=True)
    assert [line[:3] for line in lines] == [b"001", b"002", b"003", b"004", b"005"]
    (out / "checksums.csv").write_bytes(b"".join([header, lines[4], lines[1], lines[3], lines[0]]))
    for name in ("001", "002", "003", "004", "005"):
        replace_content(images / f"{name}.jpg")
    assert statuses(images, engine, out) == "foosoo"


def test_rows_are_looked_at_in_batches(
    engine: Engine, images: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lesioncli.inference.earlier.BATCH_ROWS", 2)
    statuses(images, engine, out)
    for name in ("000", "003", "005"):
        replace_content(images / f"{name}.jpg")
    (out / "004.png").unlink()
    assert statuses(images, engine, out) == "ossooo"
    statuses(images, engine, tmp_path / "whole")
    assert files_of(out) == files_of(tmp_path / "whole")
    for name in ("000", "003", "004"):
        (images / f"{name}.jpg").unlink()
    assert segment_folder(images, engine, out, prune=True).pruned == 3
    assert list(rows_of(out)) == ["001.jpg", "002.jpg", "005.jpg"]


def test_an_image_does_not_take_the_mask_of_another_with_its_isic_number(
    engine: Engine, tmp_path: Path, out: Path
) -> None:
    """A failed image has no mask to take, so its row gives way."""

    def segment(name: str) -> str:
        picture = save(tmp_path / name, draw(len(name), 40, 60))
        if "broken" in name:
            picture.write_bytes(b"")
        outcomes: list[Outcome] = []
        named = ImageListing(name_masks_by_isic(find_images([picture])))
        segment_images(named, engine, out, on_outcome=outcomes.append)
        return outcomes[0].status

    assert segment("ISIC_0000001_broken.jpg") == Status.FAILED
    assert segment("ISIC_0000001.jpg") == Status.OK
    assert list(rows_of(out)) == ["ISIC_0000001.jpg"]
    before = files_of(out)
    for name in ("ISIC_0000001_downsampled.jpg", "ISIC_0000001_broken.jpg"):
        with pytest.raises(InputError, match=rf"ISIC_0000001_segmentation\.png.* ISIC_0000001\.jpg.*{name}"):
            segment(name)
        assert files_of(out) == before
    assert segment("ISIC_0000001.jpg") == Status.SKIPPED
    assert segment("ISIC_0000002_downsampled.jpg") == Status.OK
    (out / "ISIC_0000001_segmentation.png").unlink()
    assert segment("ISIC_0000001_downsampled.jpg") == Status.OK
    assert list(rows_of(out)) == ["ISIC_0000001_downsampled.jpg", "ISIC_0000002_downsampled.jpg"]
    with pytest.raises(InputError, match=r"belongs to ISIC_0000001_downsampled\.jpg"):
        segment("ISIC_0000001.jpg")


@pytest.mark.parametrize("name_masks", [list, name_masks_by_isic], ids=["by image", "by ISIC number"])
def test_an_image_in_another_format_replaces_the_one_before(
    engine: Engine, tmp_path: Path, out: Path, name_masks: Callable[[list[ImageFile]], list[ImageFile]]
) -> None:
    """It has the same name and so the same mask."""
    for suffix in (".jpg", ".png"):
        picture = save(tmp_path / f"ISIC_0000001{suffix}", draw(1, 40, 60))
        summary = segment_images(ImageListing(name_masks(find_images([picture]))), engine, out)
        assert (summary.ok, summary.skipped) == (1, 0)
    assert list(rows_of(out)) == ["ISIC_0000001.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows requires a privilege for links")
def test_an_image_that_is_done_stays_done_without_its_file(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (images / "003.jpg").unlink()
    (images / "003.jpg").symlink_to("gone")
    assert statuses(images, engine, out) == "ssssss"


def test_rows_of_images_that_are_not_in_this_run_stay(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    before = files_of(out)
    assert statuses(images / "002.jpg", engine, out) == "s"
    assert statuses(images / "002.jpg", engine, out, prune=True) == "s"
    assert files_of(out) == before


def test_rows_of_images_that_are_gone_are_marked_until_they_are_back(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    before = files_of(out)
    (images / "004.jpg").rename(images / "away")
    (images / "005.jpg").rename(images / "away too")
    (images / "005.jpg").symlink_to("nowhere")
    summary = segment_folder(images, engine, out)
    assert (summary.skipped, summary.gone, summary.pruned) == (5, 2, 0)
    notes = {name: row["note"] for name, row in rows_of(out).items()}
    assert {name for name, note in notes.items() if note.endswith("image is gone")} == {"004.jpg", "005.jpg"}
    assert notes["004.jpg"] == "1 smaller region left out; image is gone"
    marked = files_of(out)
    assert statuses(images, engine, out) == "sssss"
    assert files_of(out) == marked
    (images / "005.jpg").unlink()
    (images / "004.jpg").write_bytes((images / "away").read_bytes())
    (images / "away too").rename(images / "005.jpg")
    assert statuses(images, engine, out) == "ssssss"
    assert files_of(out)["scores.csv"] == before["scores.csv"]


def test_images_that_are_gone_are_pruned_with_their_pictures(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    pictures: dict[str, Any] = {"overlay": True, "save_probabilities": True}
    (images / "002.jpg").write_bytes(b"")
    statuses(images, engine, out, **pictures)
    (out / "mine.png").write_text("stays")
    for name in ("001.jpg", "002.jpg", "004.jpg"):
        (images / name).unlink()
    summary = segment_folder(images, engine, out, prune=True, **pictures)
    assert (summary.skipped, summary.gone, summary.pruned) == (3, 0, 3)
    statuses(images, engine, tmp_path / "whole", **pictures)
    assert files_of(out) == {**files_of(tmp_path / "whole"), "mine.png": b"stays"}


def test_nothing_is_pruned_while_a_folder_of_images_is_not_there(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    """Its disk may not be mounted."""
    save(tmp_path / "more" / "a.jpg", draw(1, 40, 60))
    statuses(images, engine, out)
    images.rename(tmp_path / "unmounted")
    before = files_of(out)
    with pytest.raises(InputError, match=f"{images.name}: is not there"):
        statuses(tmp_path / "more", engine, out, prune=True)
    assert files_of(out) == before
    images.mkdir()
    statuses(tmp_path / "more", engine, out, prune=True)
    assert list(rows_of(out)) == ["a.jpg"]


@pytest.mark.parametrize("after", [1, 4, 6])
def test_an_interrupted_run_keeps_its_rows_and_continues(
    engine: Engine, images: Path, out: Path, tmp_path: Path, after: int
) -> None:
    statuses(images, engine, tmp_path / "whole")
    outcomes: list[Outcome] = []

    def interrupt(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if len(outcomes) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_images(list_images([images]), engine, out, on_outcome=interrupt)
    assert list(rows_of(out)) == [f"00{number}.jpg" for number in range(after)]
    record = record_of(out)
    assert (record["status"], record["images"], record["ok"]) == ("interrupted", 6, after)
    assert statuses(images, engine, out) == "s" * after + "o" * (6 - after)
    assert files_of(out) == files_of(tmp_path / "whole")


def kill_during_run(images: Path, at: str, out: Path, *options: str | Path) -> int:
    """Run the program until image `at`, which it never finishes, then kill it; return the number of rows."""
    with start_program("segment", images, "--out", out, "--workers", "2", *options, endless=at) as process:
        part, rows, deadline = out / "scores.csv.part", 0, time.monotonic() + 60
        while rows < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            rows = part.read_bytes().count(b"\n") - 1 if part.exists() else 0
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output.decode()
    assert rows >= 10
    return part.read_bytes().count(b"\n") - 1


# Maximum number of images in the pipeline: the endless image comes after them, so that rows are written before it.
IN_PIPELINE = 3 * (count_cores() + 7)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows cannot kill with a signal")
def test_a_killed_run_continues_and_ends_like_an_uninterrupted_one(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    count, at = IN_PIPELINE + 40, IN_PIPELINE + 15
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    save_many(images, count)
    manifest = tiny_manifest(1)
    rows = kill_during_run(images, f"{at:03d}.jpg", out, "--engine", manifest)
    assert record_of(out)["status"] == "running"
    assert not (out / "scores.csv").exists()
    (out / f".{at:03d}.png.part").write_bytes(b"half a mask")

    with start_program("segment", images, "--out", out, "--engine", manifest, "--json") as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    summary = json.loads(output[output.index(b"{") :])
    assert (summary["ok"], summary["skipped"]) == (count - rows, rows)

    with open_engine(manifest) as engine:
        segment_folder(images, engine, whole)
    assert files_of(out) == files_of(whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows cannot kill with a signal")
def test_a_killed_overwrite_leaves_no_earlier_row(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    count, at = IN_PIPELINE + 40, IN_PIPELINE + 15
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    save_many(images, count)
    manifest = tiny_manifest(1)
    with open_engine(manifest) as engine:
        statuses(images, engine, out, threshold=0.9)
        again = ("--overwrite", "--threshold", "0.2", "--engine", manifest)
        rows = kill_during_run(images, f"{at:03d}.jpg", out, *again)
        assert statuses(images, engine, out, threshold=0.2) == "s" * rows + "o" * (count - rows)
        statuses(images, engine, whole, threshold=0.2)
    assert files_of(out) == files_of(whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows cannot kill with a signal")
def test_two_runs_at_the_same_time_do_not_share_a_folder(
    engine: Engine, tiny_manifest: MakeEngine, images: Path, out: Path
) -> None:
    words = ("segment", images, "--out", out, "--engine", tiny_manifest(2))
    with start_program(*words, endless="003.jpg") as process:
        try:
            deadline = time.monotonic() + 60
            while not (out / "run.json").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            for overwrite in (False, True):
                with pytest.raises(InputError, match=f"{out}.*another run.*--out"):
                    segment_folder(images, engine, out, overwrite=overwrite)
            assert (out / "scores.csv.part").read_text().startswith("image,mask")
        finally:
            process.kill()
            output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output.decode()
    assert statuses(images, engine, out).endswith("ooo")
    assert list(rows_of(out)) == sorted(path.name for path in images.iterdir())


@pytest.fixture
def other_precision(tiny_manifest: MakeEngine) -> Iterator[Engine]:
    """The same engine as it would be described in bf16; it has the same files, and so the same hash."""
    with open_engine(tiny_manifest(2)) as engine:
        engine.manifest = msgspec.structs.replace(engine.manifest, precision="bf16")
        yield engine


@pytest.fixture
def other_engine(tiny_manifest: MakeEngine) -> Iterator[Engine]:
    """An engine with other files."""
    with open_engine(tiny_manifest(2)) as engine:
        engine.manifest = msgspec.structs.replace(engine.manifest, files=dict.fromkeys(engine.manifest.files, "0" * 64))
        yield engine


@pytest.fixture
def flips_engine(tiny_manifest: MakeEngine) -> Iterator[Engine]:
    """The same engine, opened for four views per image."""
    with open_engine(tiny_manifest(2), make_layout=PROCEDURES[TTA.FLIPS].layout) as engine:
        yield engine


def test_another_engine_precision_or_threshold_is_refused(
    other_engine: Engine, other_precision: Engine, engine: Engine, images: Path, out: Path
) -> None:
    statuses(images, engine, out)
    assert_refused(out, engine, images, "threshold", "0.5", "0.6", threshold=0.6)
    assert_refused(out, other_engine, images, "engine_sha256", engine.manifest.sha256, other_engine.manifest.sha256)
    assert_refused(out, other_precision, images, "precision", "fp32", "bf16")


def test_another_tta_is_refused(engine: Engine, flips_engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, out)
    assert_refused(out, flips_engine, images, "tta", "none", "flips", tta=TTA.FLIPS)
    statuses(images, flips_engine, tmp_path / "flips", tta=TTA.FLIPS)
    assert record_of(tmp_path / "flips")["tta"] == "flips"
    assert_refused(tmp_path / "flips", engine, images, "tta", "flips", "none")


def remove_from_record(folder: Path, *keys: str) -> None:
    """Turn run.json into that of an early version."""
    record = {key: value for key, value in record_of(folder).items() if key not in ("format", "classes", *keys)}
    (folder / "run.json").write_text(json.dumps(record))


def test_an_early_version_had_one_view(engine: Engine, flips_engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    remove_from_record(out, "tta")
    assert_refused(out, flips_engine, images, "tta", "none", "flips", tta=TTA.FLIPS)
    assert statuses(images, engine, out) == "ssssss"


def test_an_early_version_kept_all_regions(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out, regions=Regions.ALL)
    remove_from_record(out, "regions", "names")
    assert_refused(out, engine, images, "regions", "all", "largest")
    assert statuses(images, engine, out, regions=Regions.ALL) == "ssssss"


def test_a_run_with_several_views_continues(flips_engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    some = ImageListing(find_images([images])[1:3])
    segment_images(some, flips_engine, out, SegmentOptions(tta=TTA.FLIPS))
    assert statuses(images, flips_engine, out, tta=TTA.FLIPS) == "ossooo"
    assert statuses(images, flips_engine, tmp_path / "whole", tta=TTA.FLIPS) == "oooooo"
    assert files_of(out) == files_of(tmp_path / "whole")


def test_another_threshold_is_refused_after_an_interruption_too(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (out / "scores.csv").rename(out / "scores.csv.part")
    assert_refused(out, engine, images, "threshold", "0.5", threshold=0.6)


@pytest.mark.parametrize("record", [None, "", '{"threshold": 0.5'])
def test_masks_without_a_readable_record_are_refused(
    engine: Engine, images: Path, out: Path, record: str | None
) -> None:
    statuses(images, engine, out)
    (out / "run.json").unlink()
    if record is not None:
        (out / "run.json").write_text(record)
    with pytest.raises(InputError, match="engine_sha256 unknown"):
        statuses(images, engine, out)


def test_an_image_that_an_earlier_version_named_otherwise_has_no_second_row(
    engine: Engine, tmp_path: Path, out: Path
) -> None:
    for name in ("P01/a.jpg", "P02/b.jpg"):
        save(tmp_path / "images" / name, draw(1, 40, 60))
    folders = [tmp_path / "images" / name for name in ("P01", "P02")]
    segment_images(list_images(folders[:1]), engine, out)
    with pytest.raises(InputError, match=r"a\.jpg.*P01/a\.jpg.*--overwrite"):
        segment_images(list_images(folders), engine, out)
    assert list(rows_of(out)) == ["a.jpg"]
    segment_images(list_images(folders[1:]), engine, out)
    assert list(rows_of(out)) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("side", [20, 80])
def test_an_image_of_that_name_with_another_length_is_another_image(
    engine: Engine, tmp_path: Path, out: Path, side: int
) -> None:
    """Its file is shorter or longer than that of the row."""
    save(tmp_path / "images/P01/a.jpg", draw(1, 40, 60))
    segment_images(list_images([tmp_path / "images/P01"]), engine, out)
    save(tmp_path / "images/P01/a.jpg", draw(1, side, 60))
    save(tmp_path / "images/P02/b.jpg", draw(2, 40, 60))
    segment_images(list_images([tmp_path / "images/P01", tmp_path / "images/P02"]), engine, out)
    assert list(rows_of(out)) == ["P01/a.jpg", "P02/b.jpg", "a.jpg"]


def test_parts_of_a_folder_with_its_root_have_the_rows_of_the_whole(engine: Engine, tmp_path: Path, out: Path) -> None:
    for name in ("P01/a.jpg", "P02/a.jpg"):
        save(tmp_path / "images" / name, draw(1, 40, 60))
    root = tmp_path / "images"
    for part in ("P01", "P02"):
        segment_images(list_images([root / part], root=root), engine, out)
    segment_images(list_images([root]), engine, tmp_path / "whole")
    assert rows_of(out) == rows_of(tmp_path / "whole")
    assert record_of(out)["roots"] == ["../images"]
    assert segment_images(list_images([root]), engine, out).skipped == 2


def test_a_two_level_image_is_noted_in_its_row(engine: Engine, images: Path, out: Path) -> None:
    mask = draw(0, 40, 60)
    mask[:] = 0
    mask[10:20] = 255
    save(images / "mask.png", mask)
    segment_images(list_images([images]), engine, out)
    assert {name for name, row in rows_of(out).items() if "two grey levels" in row["note"]} == {"mask.png"}
