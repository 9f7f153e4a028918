"""Archives in object stores and on web servers: the masks of the same archives on a disk, few requests, and faults."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.object_server import URL, Fault, ObjectServer, use_server
from helpers.pictures import draw, save, save_many
from helpers.runs import files_of, record_of, rows_of

from lesioncli import stores
from lesioncli.errors import ExitCode, ImageError, InputError
from lesioncli.images import objects, remote_archives
from lesioncli.images.archives import CHANGED
from lesioncli.images.find import list_images
from lesioncli.images.stored import Content, StoredFile, UnavailableError
from lesioncli.inference import fetch
from lesioncli.urls import Url

COUNT = 12
NAMES = ("shards/0.tar", "shards/1.zip")


def tar_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


PACK = {".tar": tar_of, ".zip": zip_of}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Images by their names in the archives, and a file that is none."""
    folder = tmp_path / "images"
    save_many(folder, COUNT)
    images = {f"{'P 1%/' if number % 3 else ''}{number:03d}.jpg": number for number in range(COUNT)}
    return {**{name: (folder / f"{number:03d}.jpg").read_bytes() for name, number in images.items()}, "a.cls": b"1"}


@pytest.fixture
def server(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A bucket with both archives."""
    stores.open_store.cache_clear()
    remote_archives.forget_listings()
    with ObjectServer({name: PACK[name[-4:]](files) for name in NAMES}).running() as server:
        use_server(server, monkeypatch)
        yield server
    stores.open_store.cache_clear()


@pytest.fixture
def local(server: ObjectServer, tmp_path: Path) -> Path:
    """The folder of the same archives."""
    folder = tmp_path / "local/shards"
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder.parent / name).write_bytes(server.objects[name])
    return folder


def segment(out: Path, engine: Path, *words: str | Path) -> str:
    result = call("segment", *words, "--out", out, "--engine", engine)
    assert result.exit_code == ExitCode.OK, result.output
    return result.output


@pytest.mark.parametrize("processes", ["1", "2"])
def test_archives_are_segmented_as_on_a_disk(
    server: ObjectServer, local: Path, tiny_manifest: MakeEngine, tmp_path: Path, processes: str
) -> None:
    engine = tiny_manifest(4)
    for name in NAMES:
        server.requests.clear()
        segment(tmp_path / "disk", engine, local.parent / name, "--overlay", "--overwrite")
        segment(tmp_path / "s3", engine, f"{URL}/{name}", "--overlay", "--overwrite", "--processes", processes)
        # HEAD; a block of the tar, or the directory at the end of the zip; images.
        assert server.requests["HEAD", name] == 1
        assert COUNT < server.gets(name) <= COUNT + 6
        segment(tmp_path / "web", engine, f"{server.endpoint}/images/{name}", "--overlay", "--overwrite")
        disk = files_of(tmp_path / "disk")
        assert len(disk) == 2 * COUNT + 2
        for out in ("s3", "web"):
            found = files_of(tmp_path / out)
            assert {file for file in found if found[file] != disk.get(file)} == {"checksums.csv"}  # times
            assert record_of(tmp_path / out)["passed_over"] == {".cls": 1}
        assert record_of(tmp_path / "s3")["roots"] == [f"{URL}/{name}"]


def test_resume_prune_and_lists(
    server: ObjectServer, local: Path, files: dict[str, bytes], tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    engine, urls, out = tiny_manifest(4), [f"{URL}/{name}" for name in NAMES], tmp_path / "out"
    segment(out, engine, *urls)
    assert sorted(rows_of(out)) == sorted(f"{name[7:]}/{file}" for name in NAMES for file in files if file != "a.cls")
    segment(tmp_path / "disk", engine, *(local.parent / name for name in NAMES))
    assert files_of(out)["scores.csv"] == files_of(tmp_path / "disk")["scores.csv"]
    sent = server.sent_bytes
    assert f"{2 * COUNT} skipped" in segment(out, engine, *urls)
    assert server.sent_bytes - sent < 1.2 * len(server.objects[NAMES[0]])  # headers of the tar; no image
    assert f"{2 * COUNT} skipped" in segment(out, engine, *urls, "--check-inputs")

    result = call("list", *urls, "--out", tmp_path / "images.csv", "--hash")
    assert result.exit_code == ExitCode.OK, result.output
    lines = [f"{url}/{name}\n" for url in urls for name in files if name != "a.cls"]
    (tmp_path / "images.txt").write_text("".join(lines))
    for name in ("images.csv", "images.txt"):
        server.requests.clear()
        segment(tmp_path / "listed", engine, "--from", tmp_path / name, "--overwrite")
        assert files_of(tmp_path / "listed")["scores.csv"] == files_of(out)["scores.csv"]
        assert sum(count for (method, _), count in server.requests.items() if method == "HEAD") == 2
    with (tmp_path / "images.txt").open("a") as file:
        file.write(f"{URL}/{NAMES[0]}/other.jpg\n")
    result = call("segment", "--from", tmp_path / "images.txt", "--out", tmp_path / "more", "--engine", engine)
    assert result.exit_code == ExitCode.INPUT
    assert f"line {2 * COUNT + 1}: {URL}/{NAMES[0]}/other.jpg does not exist" in result.output

    changed = {**files, "000.jpg": save(tmp_path / "x.jpg", draw(99, 40, 61)).read_bytes()}
    del changed["003.jpg"]
    server.objects[NAMES[1]] = zip_of(changed)
    server.modified[NAMES[1]] = "Thu, 22 Oct 2026 07:28:00 GMT"
    output = segment(out, engine, *urls, "--prune")
    assert "1 rows of images that are gone were removed" in output
    assert f"1 ok, 0 failed, {2 * COUNT - 2} skipped" in output


def read_all(url: str) -> dict[str, bytes]:
    found = {image.path.name: image.path for image in list_images([Url.parse(url)]).images}
    return {name: file.read().data for name, file in found.items() if isinstance(file, StoredFile)}


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_that_is_cut_short(
    server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path, name: str
) -> None:
    whole = server.objects[name]
    server.objects[name] = whole[: len(whole) // 2]
    out = tmp_path / "out"
    result = call("segment", f"{URL}/{name}", "--out", out, "--engine", tiny_manifest(4))
    assert "cut short" in result.output
    if name.endswith(".tar"):
        assert result.exit_code == ExitCode.SOME_FAILED, result.output
        assert 0 < sum(row["status"] == "ok" for row in rows_of(out).values()) < COUNT
    else:
        assert result.exit_code == ExitCode.INPUT, result.output


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_same_size", [True, False])
def test_an_archive_that_changes_after_it_was_listed(server: ObjectServer, name: str, is_same_size: bool) -> None:
    """The ETag tells, also if size and time are the same."""
    image = list_images([Url.parse(f"{URL}/{name}")]).images[0].path
    assert isinstance(image, StoredFile)
    server.objects[name] = server.objects[name][is_same_size:] + b"x"
    with pytest.raises(ImageError, match=CHANGED):
        image.read()
    del server.objects[name]
    with pytest.raises(ImageError, match="no longer in the store"):
        image.read()


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_that_changes_while_it_is_listed(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = remote_archives.RemoteArchive.open

    def change(archive: remote_archives.RemoteArchive) -> object:
        server.objects[name] += b"x"
        return real(archive)

    monkeypatch.setattr(remote_archives.RemoteArchive, "open", change)
    with pytest.raises(InputError, match=f"{URL}/{name}: {CHANGED}"):
        list_images([Url.parse(f"{URL}/{name}")])


@pytest.mark.parametrize("name", NAMES)
def test_a_server_without_ranges_is_named(server: ObjectServer, tmp_path: Path, name: str) -> None:
    server.has_ranges = False
    for store in (URL, f"{server.endpoint}/images"):
        result = call("segment", f"{store}/{name}", "--out", tmp_path / "out")
        assert result.exit_code == ExitCode.INPUT
        assert f"error: {store}/{name}: the server sends whole files only" in result.output


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.THROTTLED, Fault.CUT])
def test_transient_faults_are_retried(server: ObjectServer, files: dict[str, bytes], name: str, fault: Fault) -> None:
    for number in range(4):
        server.faults[name] = [Fault.SLOW] * number + [fault]
        found = read_all(f"{URL}/{name}")
        assert found == {file.rpartition("/")[2]: files[file] for file in files if file != "a.cls"}


@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_fails(
    server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At the start: no run. Later: failed rows until there are too many of them in a row; the next run does them."""
    for module in (objects, remote_archives):
        monkeypatch.setattr(module, "RETRIES", 1)
        monkeypatch.setattr(module, "PROBE_RETRIES", 1)
    monkeypatch.setattr(fetch, "MAX_UNAVAILABLE", 3)
    out, words = tmp_path / "out", ("segment", f"{URL}/{name}", "--engine", tiny_manifest(1))
    for faults in ([Fault.DENIED], [Fault.SLOW, *[Fault.ERROR] * 2]):  # of HEAD, of the first block
        server.faults[name] = faults
        result = call(*words, "--out", out)
        assert result.exit_code == ExitCode.INPUT, result.output
        assert f"error: {URL}/{name}: " in result.output
        assert not out.exists()

    file = list_images([Url.parse(f"{URL}/{name}")]).images[0].path
    assert isinstance(file, StoredFile)
    server.every = Fault.DENIED
    with pytest.raises(UnavailableError, match="access denied"):
        file.read()
    server.every = None

    real, count = fetch.StoreWatch.read, iter(range(10**6))

    def read(watch: fetch.StoreWatch, image: StoredFile) -> Content:
        if next(count) == 4:
            server.every = Fault.DENIED
        return real(watch, image)

    monkeypatch.setattr(fetch.StoreWatch, "read", read)
    result = call(*words, "--out", out)
    assert result.exit_code == ExitCode.INPUT
    assert f"error: {URL}: 3 images in a row" in result.output
    server.every = None
    monkeypatch.undo()
    use_server(server, monkeypatch)
    assert call(*words, "--out", out).exit_code == ExitCode.OK
    assert {row["status"] for row in rows_of(out).values()} == {"ok"}


def test_a_folder_may_have_the_name_of_an_archive(server: ObjectServer, files: dict[str, bytes]) -> None:
    server.objects = {"x.tar/000.jpg": files["000.jpg"]}
    assert [image.name for image in list_images([Url.parse(f"{URL}/x.tar/")]).images] == ["000"]
    with pytest.raises(InputError, match=r"no such file; of a folder with such a name, write .*x\.tar/"):
        list_images([Url.parse(f"{URL}/x.tar")])


def test_a_listing_reads_blocks_of_headers(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    """Of large members, only blocks with their headers are read; several small ones share a block."""
    monkeypatch.setattr(remote_archives, "BLOCK_BYTES", 2**14)
    small = {f"s{number:02d}.jpg": bytes(1000) for number in range(40)}
    large = {f"t{number}.jpg": bytes(10**6) for number in range(5)}
    server.objects = {"x.tar": tar_of({**small, **large})}
    assert len(list_images([Url.parse(f"{URL}/x.tar")]).images) == 45
    assert 40 * 1536 / 2**14 + 5 <= server.gets("x.tar") <= 12
    assert server.sent_bytes <= 12 * 2**14
