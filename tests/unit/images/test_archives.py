"""Images in tar and zip archives: the masks of the folder that was packed, and damaged or hostile archives."""

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save, save_many
from helpers.runs import files_of, record_of, rows_of

from lesioncli.errors import ExitCode, ImageError, InputError
from lesioncli.images import sources
from lesioncli.images.find import find_images, list_images
from lesioncli.images.sources import SourceKind, source_kind
from lesioncli.images.stored import Content, Contents, FileStatus, StoredFile, is_safe_name

Pack = Callable[[Path, Path], Path]
MASKS = ("000.png", "001.png", "P01/002.png")


def pack_tar(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    return path


def pack_zip(folder: Path, path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for inside in sorted(path for path in folder.rglob("*") if path.is_file()):
            file.write(inside, inside.relative_to(folder).as_posix())
    return path


def tar_with(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    """Write a tar archive of members, or of regular files."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            info = tarfile.TarInfo(member[0]) if isinstance(member, tuple) else member
            data = member[1] if isinstance(member, tuple) else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def jpeg(seed: int) -> bytes:
    return save_bytes(draw(seed, 40, 60))


def save_bytes(picture: object) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG")  # type: ignore[arg-type]  # an array, as object
    return content.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of three images, one of them in a sub-folder, and files that are ignored."""
    folder = tmp_path / "images"
    save_many(folder, 3)
    (folder / "P01").mkdir()
    (folder / "002.jpg").rename(folder / "P01/002.jpg")
    (folder / "000.cls").write_text("1")
    (folder / ".hidden.jpg").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(("pack", "name"), [(pack_tar, "shard.tar"), (pack_zip, "shard.ZIP")])
def test_an_archive_is_segmented_as_its_folder_is(
    pack: Pack, name: str, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    archive = pack(images, tmp_path / name)
    for source, out in ((images, "folder"), (archive, "archive")):
        result = call("segment", source, "--out", tmp_path / out, "--engine", tiny_manifest(2), "--overlay")
        assert result.exit_code == ExitCode.OK, result.output
    folder, packed = files_of(tmp_path / "folder"), files_of(tmp_path / "archive")
    assert set(packed) == set(folder) >= set(MASKS)
    differ = {file for file in folder if folder[file] != packed[file]}
    assert differ == {"checksums.csv"}  # the times of the members are that of the archive
    assert record_of(tmp_path / "archive")["passed_over"] == {".cls": 1}


@pytest.mark.parametrize(("pack", "name"), [(pack_tar, "shard.tar"), (pack_zip, "shard.zip")])
def test_resume_verify_and_lists(
    pack: Pack, name: str, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    archive, out = pack(images, tmp_path / name), tmp_path / "out"
    words = ("segment", archive, "--out", out, "--engine", tiny_manifest(2))
    assert call(*words).exit_code == ExitCode.OK
    assert "3 skipped" in call(*words).output
    assert "3 images and 3 masks read; no problems" in call("verify", out).output
    before = files_of(out)

    save(images / "000.jpg", draw(9, 40, 60))
    (images / "001.jpg").unlink()
    pack(images, archive)  # all members have another time; the content tells which is changed
    result = call(*words, "--prune")
    assert "1 images had changed" in result.output
    assert "1 rows of images that are gone were removed" in result.output
    assert "1 ok, 0 failed, 1 skipped" in result.output
    after = files_of(out)
    assert after["P01/002.png"] == before["P01/002.png"]
    assert after["000.png"] != before["000.png"]
    assert "001.png" not in after

    assert call("list", archive, "--out", tmp_path / "images.csv", "--hash").exit_code == ExitCode.OK
    listed = call(
        "segment", "--from", tmp_path / "images.csv", "--out", tmp_path / "again", "--engine", tiny_manifest(2)
    )
    assert listed.exit_code == ExitCode.OK, listed.output
    assert files_of(tmp_path / "again")["scores.csv"] == after["scores.csv"]


def test_several_archives_are_folders_of_their_names(images: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    first, second = pack_tar(images, tmp_path / "shards/0.tar"), pack_zip(images, tmp_path / "shards/1.zip")
    names = [image.name for image in find_images([first, second])]
    assert names == ["0.tar/000", "0.tar/001", "0.tar/P01/002", "1.zip/000", "1.zip/001", "1.zip/P01/002"]
    assert find_images([first], root=tmp_path)[0].name == "shards/0.tar/000"
    with pytest.raises(InputError, match=r"archives are read if they are named"):
        list_images([tmp_path / "shards"])
    assert list_images([tmp_path]).ignored[".tar"] == 1


def test_webdataset_samples(tmp_path: Path) -> None:
    """A sample has one key and several suffixes; masks beside an image are told by their pixels."""
    mask = draw(0, 40, 60) * 0
    mask[10:20, 10:20] = 255
    archive = tar_with(
        tmp_path / "0.tar", ("a.jpg", jpeg(1)), ("a.json", b"{}"), ("a.seg.jpg", save_bytes(mask)), ("b.jpg", jpeg(2))
    )
    listing = list_images([archive])
    assert [image.name for image in listing.images] == ["a", "b"]
    assert listing.ignored == {".json": 1, "mask(s) beside the image": 1}


def test_the_last_member_of_a_name_counts(tmp_path: Path) -> None:
    archive = tar_with(tmp_path / "0.tar", ("a.jpg", b"old"), ("a.jpg", b"new"))
    (image,) = find_images([archive])
    assert not isinstance(image.path, Path)
    assert image.path.read().data == b"new"


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "a/../../b.jpg", "a//b.jpg", "C:\\a.jpg", "..\\a.jpg", "a\\..\\b"]
)
def test_a_name_that_leads_out_is_no_image(name: str, tmp_path: Path) -> None:
    assert not is_safe_name(name)
    listing = list_images([tar_with(tmp_path / "0.tar", (name, jpeg(1)), ("a.jpg", jpeg(2)))])
    assert [image.name for image in listing.images] == ["a"]
    assert list(listing.unreadable) == [f"{tmp_path}/0.tar/{name}"]


def test_links_and_devices_are_no_images(tmp_path: Path) -> None:
    link, hard, device = tarfile.TarInfo("link.jpg"), tarfile.TarInfo("hard.jpg"), tarfile.TarInfo("device.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.jpg"
    device.type = tarfile.CHRTYPE
    listing = list_images([tar_with(tmp_path / "0.tar", ("a.jpg", jpeg(1)), link, hard, device)])
    assert [image.name for image in listing.images] == ["a"]
    assert listing.ignored == {"link(s) in archives": 2}


@pytest.mark.parametrize(
    ("cut", "statuses"),
    [("end", "ok ok ok"), ("data", "ok ok failed"), ("header", "ok ok")],
)
def test_a_tar_that_is_cut_short(cut: str, statuses: str, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    """The members before are rows, the member that is cut is a failed row, and the archive is named."""
    archive = tar_with(tmp_path / "0.tar", *((f"{number}.jpg", jpeg(number)) for number in range(3)))
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[2]
        end = last.offset_data + 512 * -(-last.size // 512)
    os.truncate(archive, {"end": end, "data": last.offset_data + 100, "header": last.offset + 100}[cut])
    result = call("segment", archive, "--out", tmp_path / "out", "--engine", tiny_manifest(2))
    assert result.exit_code == ExitCode.SOME_FAILED
    assert f"{archive}: cut short" in result.output
    assert [row["status"] for row in rows_of(tmp_path / "out").values()] == statuses.split()
    assert record_of(tmp_path / "out")["unreadable"] == [str(archive)]


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    archive = tar_with(tmp_path / "0.tar", *((f"{number}.jpg", jpeg(number)) for number in range(3)))
    with tarfile.open(archive) as tar:
        offset = tar.getmembers()[1].offset
    content = bytearray(archive.read_bytes())
    content[offset + 148 : offset + 156] = b"99999999"  # the checksum
    archive.write_bytes(content)
    listing = list_images([archive])
    assert [image.name for image in listing.images] == ["0"]
    assert list(listing.unreadable) == [str(archive)]


@pytest.mark.parametrize("name", ["0.zip", "0.tar"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4" + bytes(600)])
def test_no_archive_at_all(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: cut short"):
        list_images([tmp_path / name])


def test_a_zip_with_damaged_members(tmp_path: Path) -> None:
    """One whose bytes changed, one that is encrypted, one compressed by LZMA: each is a reason in words."""
    path = tmp_path / "0.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.jpg", jpeg(1))
        file.writestr("b.jpg", jpeg(2), zipfile.ZIP_DEFLATED)
        file.writestr("c.jpg", jpeg(3), zipfile.ZIP_LZMA)
        file.writestr("d.jpg", jpeg(4))
        offsets = {info.filename: info.header_offset for info in file.infolist()}
    content = bytearray(path.read_bytes())
    for name in ("a.jpg", "b.jpg"):
        position = offsets[name] + 30 + len(name) + 40
        content[position] ^= 255
    entry = content.rindex(b"PK\1\2")  # the last one in the directory is that of d.jpg
    content[entry + 8] |= 1
    path.write_bytes(content)
    reasons = []
    for image in find_images([path]):
        assert not isinstance(image.path, Path)
        with pytest.raises(ImageError) as caught:
            image.path.read()
        reasons.append(caught.value.reason)
    assert [any(word in reason for word in ("damaged", "unusual", "encrypted")) for reason in reasons] == [True] * 4
    assert "encrypted" in reasons[3]


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "0.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", bytes(10_000_000))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")
    content[entry + 24 : entry + 28] = (100).to_bytes(4, "little")  # the unpacked size, as the directory has it
    path.write_bytes(content)
    (image,) = find_images([path])
    assert not isinstance(image.path, Path)
    with pytest.raises(ImageError, match="damaged"):
        image.path.read()


def test_an_archive_that_changes_after_it_was_listed(images: Path, tmp_path: Path) -> None:
    archive = pack_tar(images, tmp_path / "0.tar")
    image = find_images([archive])[0]
    assert not isinstance(image.path, Path)
    shutil.copyfile(archive, tmp_path / "1.tar")
    (tmp_path / "1.tar").replace(archive)
    with pytest.raises(ImageError, match="has changed since it was listed"):
        image.path.read()


def test_images_in_the_output_folder_are_not_read(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        list_images([pack_tar(images, tmp_path / "0.tar")], exclude=tmp_path)


def test_a_kind_of_source_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Line(StoredFile):
        name = "a.jpg"

        def status(self) -> FileStatus:
            return FileStatus(3, 0)

        def read(self) -> Content:
            raise NotImplementedError

    kind = SourceKind("text", lambda path: Contents(path, {"a.jpg": Line()}), lambda path, name: Line(), (".lines",))
    monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, kind))
    path = tmp_path / "all.lines"
    path.touch()
    assert source_kind(path) is kind
    assert [image.name for image in find_images([path])] == ["a"]
