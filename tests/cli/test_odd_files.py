"""Files that are no images, odd names, and files that change after they were listed: rows and exit code of a run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine, OpenEngine
from helpers.pictures import draw, read, save, save_many
from helpers.runs import files_of, rows_of, segment_folder, statuses

from lesioncli.errors import ExitCode
from lesioncli.files import as_cell, printable
from lesioncli.images import find
from lesioncli.images.find import ImageListing

ON_UNIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files or names")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names of any bytes")


def failed_in(folder: Path) -> dict[str, str]:
    """Return the reason by name of the images that failed."""
    return {name: row["reason"] for name, row in rows_of(folder).items() if row["status"] == "failed"}


@ON_UNIX
def test_what_is_no_regular_file_is_a_row_or_no_image(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images = tmp_path / "images"
    save_many(images, 3)
    os.mkfifo(images / "pipe.jpg")
    (images / "device.jpg").symlink_to("/dev/zero")
    (images / "terminal.jpg").symlink_to("/dev/tty")
    (images / "loop.jpg").symlink_to("loop.jpg")
    (images / "there.jpg").symlink_to("back.jpg")
    (images / "back.jpg").symlink_to("there.jpg")
    (images / "broken.jpg").symlink_to("nowhere.jpg")
    (images / "link.jpg").symlink_to("000.jpg")
    (images / "folder.jpg").mkdir()
    save(images / "folder.jpg" / "inside.jpg", draw(7))
    (images / "empty.jpg").mkdir()
    (images / "up").symlink_to(images)
    words = ("segment", images, "--out", tmp_path / "out", "--engine", tiny_manifest(2))
    done = call(*words)
    assert done.exit_code == ExitCode.SOME_FAILED, done.stderr
    reasons = failed_in(tmp_path / "out")
    assert set(reasons) == {f"{name}.jpg" for name in ("pipe", "device", "terminal", "loop", "there", "back", "broken")}
    assert all(reason.startswith("decode: ") for reason in reasons.values())
    assert set(rows_of(tmp_path / "out")) - set(reasons) == {
        "000.jpg",
        "001.jpg",
        "002.jpg",
        "folder.jpg/inside.jpg",
        "link.jpg",
    }
    again = call(*words)
    assert (again.exit_code, again.stdout.count("5 skipped")) == (ExitCode.SOME_FAILED, 1)


NAMES = ["-dash.jpg", "--out.jpg", "x...jpg", "a..b.jpg", " space .jpg", "=1+1.jpg", "%s.jpg", "$(touch x).jpg"]


@ON_LINUX
def test_odd_names_are_images_as_others(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    long = "\u00e9" * 125 + ".jpg"  # 254 bytes
    longest_folder = images / ("d" * 255)
    named = [
        *NAMES,
        "new\nline.jpg",
        'quote".jpg',
        "comma,.jpg",
        long,
        os.fsdecode(b"\xff\xfe.jpg"),
        "x" * 251 + ".jpg",
    ]
    for number, name in enumerate(named):
        save(images / name, draw(number, 40, 60))
    save(longest_folder / "x.jpg", draw(50, 40, 60))
    monkeypatch.chdir(images)
    words = ("segment", ".", "--out", out, "--engine", tiny_manifest(1))
    done = call(*words)
    assert done.exit_code == ExitCode.OK, done.stderr
    rows = rows_of(out)
    assert len(rows) == len(named) + 1
    for name in named:
        assert (out / name).with_suffix(".png").is_file()
        assert rows[as_cell(printable(name))]["status"] == "ok"
    first = files_of(out)
    assert f"{len(rows)} skipped" in call(*words).stdout
    assert files_of(out) == first
    assert call("verify", out).exit_code == ExitCode.OK
    # Named one by one, behind the mark that ends the options.
    done = call("segment", "--out", tmp_path / "named", "--engine", tiny_manifest(1), "--", *NAMES)
    assert done.exit_code == ExitCode.OK, done.stderr
    assert all(read(tmp_path / "named" / f"{name[:-4]}.png").any() for name in NAMES)
    assert not (images / "x").exists()


def test_a_path_with_dots_leaves_the_output_folder_where_it_is(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a" / "x.jpg", draw(0))
    save(tmp_path / "b" / "x.jpg", draw(1))
    (tmp_path / "a" / "in").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "in")
    done = call("segment", "../x.jpg", "../../b/x.jpg", "--out", "../../out", "--engine", tiny_manifest(1))
    assert done.exit_code == ExitCode.OK, done.stderr
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")} == {"out/a/x.png", "out/b/x.png"}


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "001.jpg": Path.unlink,
    "002.jpg": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "003.jpg": lambda path: path.write_bytes(b""),
    "004.jpg": as_folder,
    "005.jpg": as_pipe,
    "006.jpg": lambda path: save(path, draw(99, 50, 70)),
}


@ON_UNIX
def test_files_that_change_between_listing_and_reading(
    tiny_manifest: MakeEngine, tiny_engine: OpenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save_many(images, 8)
    real = find.list_images

    def list_and_change(*given: object, **options: object) -> ImageListing:
        listing = real(*given, **options)  # type: ignore[arg-type]  # passed on as they came
        for name, change in CHANGES.items():
            change(images / name)
        return listing

    monkeypatch.setattr(find, "list_images", list_and_change)
    done = call("segment", images, "--out", out, "--engine", tiny_manifest(1))
    assert done.exit_code == ExitCode.SOME_FAILED, done.stderr
    assert len(rows_of(out)) == 8
    assert set(failed_in(out)) == {f"00{number}.jpg" for number in range(1, 6)}
    assert {path.stem for path in out.glob("*.png")} == {"000", "006", "007"}
    monkeypatch.undo()
    save_many(tmp_path / "whole", 8)
    save(tmp_path / "whole" / "006.jpg", draw(99, 50, 70))
    segment_folder(tmp_path / "whole", tiny_engine(1), tmp_path / "expected")
    for name in ("000.png", "006.png", "007.png"):
        assert (out / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert rows_of(out)["006.jpg"] == rows_of(tmp_path / "expected")["006.jpg"]


@pytest.mark.parametrize("seconds", [0, 2**31 - 2, 2**31 + 5, 4 * 10**9])
def test_times_of_files_are_compared_and_not_ordered(tiny_engine: OpenEngine, tmp_path: Path, seconds: int) -> None:
    """A clock that was wrong or set back: an image from the future, or replaced by an older one."""
    images, out = tmp_path / "images", tmp_path / "out"
    save_many(images, 3)
    for path in images.iterdir():
        os.utime(path, (seconds, seconds))
    assert statuses(images, tiny_engine(1), out) == "ooo"
    assert statuses(images, tiny_engine(1), out) == "sss"
    save(images / "001.jpg", draw(9, 44, 66))
    older = max(0, seconds - 10**6)
    os.utime(images / "001.jpg", (older, older))
    assert statuses(images, tiny_engine(1), out) == "sos"
