"""The result store: its files on a full disk, after a crash, beside the files of others, and with `overwrite`."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import draw, read, save, save_many
from helpers.runs import files_of, journal_of, record_of, rows_of, segment_folder, statuses
from PIL import Image

from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.images.find import ImageFile, list_images
from lesioncli.inference.destination import Destination
from lesioncli.inference.earlier import ToDo
from lesioncli.inference.outcome import Outcome, output_columns
from lesioncli.inference.pictures import mask_path, write_mask
from lesioncli.inference.record import MaskNames, RunIdentity, RunRecord
from lesioncli.inference.results import ResultStore
from lesioncli.inference.run import segment_images
from lesioncli.options import TTA, FailureStage, Regions, Status

IDENTITY = RunIdentity(
    engine_sha256="ab", precision="fp32", threshold=0.5, tta=TTA.NONE, regions=Regions.ALL, names=MaskNames.IMAGES
)


no_links = pytest.mark.skipif(sys.platform == "win32", reason="Windows requires a privilege for links")


def test_a_mask_is_read_as_it_was_written(tmp_path: Path) -> None:
    mask = np.where(np.random.default_rng(1).random((33, 57)) < 0.5, 255, 0).astype(np.uint8)
    write_mask(tmp_path / "new" / "mask.png", mask)
    assert np.array_equal(read(tmp_path / "new" / "mask.png"), mask)


def test_an_image_is_done_with_a_row_that_is_ok_and_a_mask(out: Path) -> None:
    done, no_mask, failed, no_row = images = [ImageFile(Path(f"{name}.jpg"), name) for name in "abcd"]
    columns = output_columns(["melanoma"])
    store = ResultStore(Destination(out), IDENTITY, columns)
    store.add(Outcome(done, Status.OK, (2, 3), 7, values={"melanoma": 0.123456}))
    store.add(Outcome(no_mask, Status.OK, (2, 3), values={"melanoma": 0.5}))
    store.add(Outcome(failed, Status.FAILED, stage=FailureStage.DECODE, reason="because"))
    store.add(Outcome(no_row, Status.SKIPPED))
    for image in (done, failed, no_row):
        write_mask(mask_path(out, image), np.zeros((2, 3), np.uint8))
    store.finish(RunRecord(**msgspec.structs.asdict(IDENTITY)))
    assert (out / "scores.csv").read_text().splitlines() == [
        "image,mask,width,height,bytes,status,reason,melanoma,lesion_area_fraction,area_px,perimeter_px,long_axis_px,short_axis_px,area_mm2,perimeter_mm,"
        "long_axis_mm,short_axis_mm,confidence,note",
        "a.jpg,a.png,3,2,7,ok,,0.12346,,,,,,,,,,,",
        "b.jpg,b.png,3,2,,ok,,0.50000,,,,,,,,,,,",
        "c.jpg,,,,,failed,decode: because,,,,,,,,,,,,",
    ]
    store = ResultStore(Destination(out), IDENTITY, columns, images)
    assert store.missing == {"a": None, "b": ToDo.NO_MASK, "c": ToDo.FAILED, "d": ToDo.NEW}
    assert store.least_confident(5) == []
    store.finish(RunRecord(**msgspec.structs.asdict(IDENTITY)))


@pytest.mark.parametrize("foreign", [b"image,age\na,7\n", b"\xff\xfe\x00\n", b"image;mask\r"])
def test_the_table_of_another_program_is_not_touched(engine: Engine, images: Path, out: Path, foreign: bytes) -> None:
    out.mkdir()
    (out / "scores.csv").write_bytes(foreign)
    with pytest.raises(InputError, match=r"scores\.csv"):
        statuses(images, engine, out)
    assert files_of(out) == {"scores.csv": foreign}


def test_another_engine_is_named_although_its_columns_differ(out: Path) -> None:
    store = ResultStore(Destination(out), IDENTITY, output_columns(["melanoma"]))
    store.add(Outcome(ImageFile(Path("a.jpg"), "a"), Status.OK, (2, 3), 7))
    store.finish(RunRecord(**msgspec.structs.asdict(IDENTITY)))
    other = msgspec.structs.replace(IDENTITY, engine_sha256="cd")
    with pytest.raises(InputError, match=r"engine_sha256 ab.* cd"):
        ResultStore(Destination(out), other, output_columns(["melanoma", "nevus"]))


def test_overwrite_starts_again(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, out, threshold=0.9)
    (images / "005.jpg").unlink()
    segment_folder(images, engine, out, threshold=0.2, overwrite=True)
    statuses(images, engine, tmp_path / "whole", threshold=0.2)
    assert files_of(out) == files_of(tmp_path / "whole")
    assert record_of(out)["threshold"] == 0.2


def test_overwrite_removes_all_earlier_masks_and_overlays(
    engine: Engine, images: Path, out: Path, tmp_path: Path
) -> None:
    """Also if the earlier run was killed, or its table had other columns."""
    statuses(images, engine, out, overlay=True)
    table = (out / "scores.csv").read_text().splitlines(keepends=True)
    (out / "scores.csv").write_text("".join(["image,mask,age\n", "000.jpg,000.png,7\n", "001.jpg,001.png,7\n"]))
    (out / "scores.csv.part").write_text("".join([table[0], *table[3:]]))
    (out / "mine.png").write_text("not named in a row")
    save(tmp_path / "new" / "a.jpg", draw(1, 40, 60))
    segment_folder(tmp_path / "new", engine, out, overwrite=True)
    assert set(files_of(out)) == {"a.png", "checksums.csv", "mine.png", "scores.csv"}


@no_links
def test_overwrite_removes_nothing_outside_the_folder(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    inside, outside = out / "there" / "a.png", tmp_path / "elsewhere" / "b.png"
    for path in (inside, outside, out / "gone.png", out / "folder.png" / "c.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept, except gone.png")
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
    segment_folder(images / "000.jpg", engine, tmp_path / "link", overwrite=True)
    expected = {"000.png", "checksums.csv", "scores.csv", "there/a.png", "folder.png/c.png", "link.png"}
    assert {name for name in files_of(out) if not name.startswith(("inside/", "outside/"))} == expected
    assert outside.is_file()


def test_overwrite_keeps_a_file_in_the_place_of_a_map_that_no_run_made(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (out / "probabilities").mkdir()
    (out / "probabilities" / "000.png").write_text("mine")
    statuses(images, engine, out, overwrite=True)
    assert (out / "probabilities" / "000.png").read_text() == "mine"


def test_a_failed_image_keeps_no_earlier_mask(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    (images / "003.jpg").write_bytes(b"")
    segment_folder(images, engine, out, overwrite=True)
    assert rows_of(out)["003.jpg"]["status"] == "failed"
    assert not (out / "003.png").exists()


def test_probability_maps_have_the_size_of_the_image(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    statuses(images, engine, tmp_path / "plain", regions="all")
    statuses(images, engine, out, regions="all", save_probabilities=True)
    masks, maps = files_of(tmp_path / "plain"), files_of(out)
    assert maps.items() >= masks.items()
    added = maps.keys() - masks.keys()
    assert added == {f"probabilities/00{number}.png" for number in range(6)}
    for name in added:
        probability, mask = read(out / name), read(out / Path(name).name)
        assert probability.dtype == np.uint8
        assert np.array_equal(probability >= 128, mask == 255)
    assert record_of(out)["probabilities"] is True
    assert "probabilities" not in record_of(tmp_path / "plain")


def test_maps_are_made_where_they_are_missing(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    assert statuses(images, engine, out, save_probabilities=True) == "oooooo"
    whole = files_of(out)
    (out / "probabilities" / "002.png").unlink()
    (out / "probabilities" / "003.png").write_bytes(whole["probabilities/003.png"][:-9])
    assert statuses(images, engine, out) == "ssssss"
    assert statuses(images, engine, out, save_probabilities=True) == "ssooss"
    assert files_of(out) == whole
    (images / "004.jpg").write_bytes(b"")
    (out / "004.png").unlink()
    assert statuses(images, engine, out) == "ssssfs"
    assert not (out / "probabilities" / "004.png").exists()  # a failed image keeps no map
    statuses(images, engine, out, overwrite=True)
    assert not any(name.startswith("probabilities/") for name in files_of(out))


def test_a_mask_among_the_maps_is_refused(engine: Engine, images: Path, out: Path, tmp_path: Path) -> None:
    """The map of x.png would be the mask of probabilities/x.png."""
    save_many(tmp_path / "more" / "probabilities", 2)
    for first, second, options in [
        (images, tmp_path / "more", {}),
        (tmp_path / "more", images, {"save_probabilities": True}),
    ]:
        statuses(first, engine, out, save_probabilities=first is images, overwrite=True)
        before = files_of(out)
        with pytest.raises(InputError, match="probabilities/"):
            statuses(second, engine, out, **options)
        assert files_of(out) == before
    assert statuses(tmp_path / "more", engine, tmp_path / "alone") == "oo"


def test_overlays_are_never_those_of_an_earlier_image(engine: Engine, images: Path, out: Path) -> None:
    """Overlays of skipped images stay as they are."""
    statuses(images, engine, out, overlay=True)
    first = files_of(out)
    save(images / "001.jpg", draw(77, 50, 70))
    (images / "004.jpg").write_bytes(b"")
    for name in ("001.png", "004.png"):
        (out / name).unlink()
    assert statuses(images, engine, out) == "sossfs"
    expected = {f"overlays/00{number}.jpg" for number in (0, 2, 3, 5)}
    assert {name for name in files_of(out) if name.startswith("overlays/")} == expected
    assert statuses(images, engine, out, overlay=True) == "sossfs"
    assert files_of(out)["overlays/001.jpg"] != first["overlays/001.jpg"]


@no_links
def test_an_image_is_not_taken_for_its_own_overlay(engine: Engine, images: Path, out: Path) -> None:
    out.mkdir()
    (out / "overlays").symlink_to(images)
    assert statuses(images, engine, out) == "oooooo"
    assert len(list(images.iterdir())) == 6


def test_a_truncated_row_is_ignored(engine: Engine, tmp_path: Path, out: Path) -> None:
    """The last row has letters of two bytes, a note and a quoted comma, and is truncated at every third byte."""
    images, whole = tmp_path / "images", tmp_path / "whole"
    save(images / "a.jpg", draw(1, 40, 60))
    tiff = [Image.fromarray(draw(seed)) for seed in (1, 2)]
    tiff[0].save(images / "ö, ß.tif", save_all=True, append_images=tiff[1:])
    statuses(images, engine, whole)
    expected = files_of(whole)
    table = journal_of(whole, 0)
    for length in range(table.index("ö".encode()) - 1, len(table) + 1, 3):
        shutil.copytree(whole, out)
        (out / "scores.csv").unlink()
        (out / "checksums.csv").unlink()
        (out / "scores.csv.part").write_bytes(table[:length])
        assert statuses(images, engine, out) == ("so" if length < len(table) - 1 else "ss")
        assert files_of(out) == expected
        shutil.rmtree(out)


@pytest.mark.parametrize("damage", [b"", b"\0", b'"', b"\r\n", b"0000"])
def test_a_damaged_line_of_the_journal_is_segmented_again(
    engine: Engine, images: Path, out: Path, tmp_path: Path, damage: bytes
) -> None:
    """A power cut can leave any bytes in the last lines."""
    statuses(images, engine, tmp_path / "whole")
    lines = journal_of(tmp_path / "whole", 0).splitlines(keepends=True)
    for start in range(0, len(lines[3]) - 4, 7):
        shutil.copytree(tmp_path / "whole", out)
        (out / "scores.csv").unlink()
        damaged = lines[3][:start] + damage + lines[3][start + 4 :]
        (out / "scores.csv.part").write_bytes(b"".join([*lines[:3], damaged, *lines[4:]]))
        done = statuses(images, engine, out)
        assert done[:3] == "sso"
        assert files_of(out) == files_of(tmp_path / "whole")
        shutil.rmtree(out)


def test_a_journal_of_zeros_is_empty(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    before = files_of(out)
    (out / "scores.csv.part").write_bytes(bytes(4096) + b"\n")
    assert statuses(images, engine, out) == "ssssss"
    assert files_of(out) == before


def test_rows_of_a_killed_run_replace_earlier_ones(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    lines = (out / "scores.csv").read_text().splitlines(keepends=True)
    (out / "scores.csv.part").write_text("".join(lines))
    failed = "000.jpg,,,,0,failed,decode: file is empty" + "," * (lines[0].count(",") - 6) + "\n"
    (out / "scores.csv").write_text("".join([lines[0], failed, *lines[2:]]))
    assert statuses(images, engine, out) == "ssssss"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf_8(engine: Engine, tmp_path: Path, out: Path) -> None:
    picture = save(tmp_path / "images" / "a.jpg", draw(1, 40, 60))
    picture.rename(tmp_path / "images" / os.fsdecode(b"h\xe4ut.jpg"))
    assert statuses(tmp_path / "images", engine, out) == "o"
    assert statuses(tmp_path / "images", engine, out) == "s"
    assert rows_of(out)[r"h\udce4ut.jpg"]["mask"] == r"h\udce4ut.png"
    assert (out / os.fsdecode(b"h\xe4ut.png")).is_file()


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_a_folder_that_cannot_be_written(engine: Engine, images: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=rf"{name}: .*--out"):
        statuses(images, engine, tmp_path / name)
    assert (tmp_path / "file").read_text() == "in the way"


FULL_DISK = """
import resource, sys
from lesioncli.inference.results import ResultStore
method, calls = sys.argv.pop(1), int(sys.argv.pop(1))
real = getattr(ResultStore, method)

def fill_disk(store, given):
    global calls
    calls -= 1
    if not calls:  # Python ignores SIGXFSZ, so writing more raises an OSError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    real(store, given)

setattr(ResultStore, method, fill_disk)
from lesioncli.__main__ import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits on the size of files")
@pytest.mark.parametrize(
    ("method", "calls", "rows", "named"), [("add", 3, 2, "scores.csv.part"), ("finish", 1, 6, "checksums.csv")]
)
def test_a_full_disk_keeps_the_rows(
    engine: Engine, tiny_manifest: MakeEngine, out: Path, method: str, calls: int, rows: int, named: str
) -> None:
    """The disk is full during the run, or at its end."""
    images = out.parent / "images"
    save_many(images, 6)
    words = ["segment", images, "--out", out, "--engine", tiny_manifest(2)]
    command = [sys.executable, "-c", FULL_DISK, method, str(calls), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert f"{out / named}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert statuses(images, engine, out) == "s" * rows + "o" * (6 - rows)
    statuses(images, engine, out.parent / "whole")
    assert files_of(out) == files_of(out.parent / "whole")


def test_the_error_that_ended_a_run_is_raised_although_the_disk_is_full(
    engine: Engine, images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupt(_: Outcome) -> None:
        monkeypatch.setattr(ResultStore, "_save_rows", refuse)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_images(list_images([images]), engine, out, on_outcome=interrupt)
    monkeypatch.undo()
    assert statuses(images, engine, out) == "sooooo"
