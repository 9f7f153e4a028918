"""Lists of images: the same images and names as the folder itself, and errors that name the line."""

import io
import os
import re
import sys
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import save_many
from helpers.runs import files_of, record_of, rows_of

from lesioncli.errors import ExitCode, InputError
from lesioncli.images.find import ImageListing, list_images
from lesioncli.images.image_list import STDIN, ImageList, read_image_list
from lesioncli.images.written_list import write_image_list

NAMES = ("b.jpg", "P01/a.PNG", "P01/x.y.tiff", "P02/caf\N{LATIN SMALL LETTER E WITH ACUTE}, 1.bmp", "P02/deep/z.webp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files with the suffixes of images, and one that is ignored."""
    for number, name in enumerate((*NAMES, "notes.txt")):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"any" * number)
    return tmp_path / "images"


def identify(listing: ImageListing) -> list[tuple[str, str, str]]:
    """Return name, suffix and real path of each image."""
    return [(image.name, image.suffix, os.path.realpath(image.local_path)) for image in listing.images]


def checked(image_list: ImageList, check_content: bool = False) -> ImageList:
    image_list.check(image_list.listing.images, Path("elsewhere"), check_content)
    return image_list


@pytest.mark.parametrize("where", ["images.csv", "lists/images.csv", "images/images.csv"])
def test_a_list_gives_the_names_of_its_folder(where: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    listing = list_images([folder])
    written = write_image_list(listing, tmp_path / where, with_crc32=True)
    assert (written.images, written.total_bytes, written.unreadable) == (5, 3 * (0 + 1 + 2 + 3 + 4), ())
    read = checked(read_image_list(tmp_path / where), check_content=True).listing
    assert identify(read) == identify(listing)
    assert os.path.realpath(str(read.root)) == str(folder)
    assert read.sources == (read.root,)


def test_a_list_and_its_images_can_be_moved_together(folder: Path, tmp_path: Path) -> None:
    write_image_list(list_images([folder]), tmp_path / "images.csv")
    (tmp_path / "moved").mkdir()
    for name in ("images", "images.csv"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert len(checked(read_image_list(tmp_path / "moved" / "images.csv")).entries) == len(NAMES)
    (tmp_path / "moved/images.csv").rename(tmp_path / "images.csv")
    with pytest.raises(InputError, match=r"images\.csv, line 2: .*and 2 more"):
        checked(read_image_list(tmp_path / "images.csv"))
    assert checked(read_image_list(tmp_path / "images.csv", root=tmp_path / "moved/images")).entries


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (tmp_path / name).write_bytes(b"any")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    write_image_list(list_images([tmp_path]), tmp_path / "images.csv")
    assert [image.path.name for image in checked(read_image_list(tmp_path / "images.csv")).listing.images] == [name]


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_list_of_paths_is_read_as_a_command_line(
    is_absolute: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = folder if is_absolute else Path("images")
    lines = "".join(f"{start / name}\n" for name in reversed(NAMES))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode()), encoding="ascii"))
    assert identify(checked(read_image_list(STDIN)).listing) == identify(list_images([folder]))
    (tmp_path / "paths.txt").write_bytes(lines.replace("\n", "\r\n").encode())
    by_root = checked(read_image_list(Path("paths.txt"), root=tmp_path)).listing
    assert identify(by_root) == identify(list_images([folder], root=tmp_path))


@pytest.mark.parametrize(
    ("content", "line", "named"),
    [
        ("image,root\na.jpg,.\n../a.jpg,.\n", 3, "leaves the root"),
        ("image,root\n/a.jpg,.\n", 2, "leaves the root"),
        ("image,root\nP/../../a.jpg,.\n", 2, "leaves the root"),
        ("image,root\na.jpg,.\nb.jpg,.\n./a.jpg,.\n", 4, "line 2"),
        ("image,root\na.jpg,.\n,.\n", 3, "no path"),
        ("image,root\na.jpg,.\n\nb.jpg,.\n", 3, "0 fields"),
        ("image,root\na.jpg,.\nb.jpg,..\n", 3, "root"),
        ("image,root\na.jpg\n", 2, "1 fields"),
        ("image,bytes,root\na.jpg,many,.\n", 2, "bytes"),
        ("image,image_crc32,root\na.jpg,xyz,.\n", 2, "image_crc32"),
        ("a.jpg\n\nb.jpg\n", 2, "no path"),
        ("a.jpg\nb.jpg\na.jpg\n", 3, "line 1"),
    ],
)
def test_a_wrong_line_is_named(content: str, line: int, named: str, tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text(content)
    with pytest.raises(InputError, match=rf"images\.csv, line {line}: .*{named}"):
        read_image_list(tmp_path / "images.csv")


@pytest.mark.parametrize("content", ["", "image,root\n", "image,bytes\na.jpg,3\n", "image,root\na.jpg,.\nA.png,.\n"])
def test_a_list_that_cannot_be_used(content: str, tmp_path: Path) -> None:
    """It is empty, names no root, or has two images with one mask."""
    (tmp_path / "images.csv").write_text(content)
    with pytest.raises(InputError, match=r"images\.csv|mask name"):
        read_image_list(tmp_path / "images.csv")
    with pytest.raises(InputError, match=r"none\.csv"):
        read_image_list(tmp_path / "none.csv")


def test_paths_outside_the_root_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "paths.txt").write_text(f"{folder / 'P01/a.PNG'}\n{folder / 'b.jpg'}\n")
    with pytest.raises(InputError, match=r"paths\.txt, line 2: .*b\.jpg.*--root"):
        read_image_list(tmp_path / "paths.txt", root=folder / "P01")


def test_files_that_are_missing_or_have_changed_are_named(folder: Path, tmp_path: Path) -> None:
    write_image_list(list_images([folder]), tmp_path / "images.csv", with_crc32=True)
    read = read_image_list(tmp_path / "images.csv")
    (folder / "P01/a.PNG").write_bytes(b"ANY")
    checked(read)
    with pytest.raises(InputError, match=r"line 2: .*a\.PNG.*content"):
        checked(read, check_content=True)
    (folder / "P01/x.y.tiff").write_bytes(b"more bytes")
    (folder / "b.jpg").unlink()
    with pytest.raises(InputError, match=r"line 3: .*x\.y\.tiff has 10 bytes.*line 6: .*b\.jpg does not exist"):
        checked(read)
    with pytest.raises(InputError, match=r"output folder"):
        read.check(read.listing.images, folder / "P02")


def test_an_image_that_could_not_be_read_when_it_was_listed_stays_a_row(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    assert write_image_list(list_images([tmp_path]), tmp_path / "images.csv").unreadable
    assert checked(read_image_list(tmp_path / "images.csv")).entries["broken.jpg"].may_be_missing


def test_a_listed_file_must_be_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("any")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "paths.txt").write_text(f"{tmp_path / 'a.txt'}\n{tmp_path / 'folder.jpg'}\n")
    with pytest.raises(InputError, match=r"line 1: .*not a supported image.*line 2: .*not a file"):
        checked(read_image_list(tmp_path / "paths.txt"))


def test_commands_list_and_segment_from(
    tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_many(tmp_path / "images/sub", 3)
    (tmp_path / "images/broken.jpg").write_bytes(b"")
    engine = ("--engine", tiny_manifest(1))
    listed = call("list", "images", "--out", "images.csv", "--hash")
    assert listed.exit_code == ExitCode.OK, listed.output
    assert re.search(r"images\.csv: 4 images", listed.stdout)
    assert call("segment", "images", "--out", "one", *engine).exit_code == ExitCode.SOME_FAILED
    again = call("segment", "--from", "images.csv", "--check-inputs", "--out", "two", *engine)
    assert again.exit_code == ExitCode.SOME_FAILED, again.output
    assert list(rows_of(tmp_path / "two")) == ["broken.jpg", "sub/000.jpg", "sub/001.jpg", "sub/002.jpg"]
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")
    assert record_of(tmp_path / "two")["roots"] == record_of(tmp_path / "one")["roots"]
    for words in (("images", "--from", "images.csv"), ()):
        assert call("segment", *words, "--out", "three", *engine).exit_code == ExitCode.USAGE
    (tmp_path / "images.csv").write_text("image,root\nnone.jpg,images\n")
    assert call("segment", "--from", "images.csv", "--out", "three", *engine).exit_code == ExitCode.INPUT
    assert not (tmp_path / "three").exists()
