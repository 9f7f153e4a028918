"""Results in a bucket: those of the same run into a folder, and what goes wrong on the way."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.bucket_results import results_below, rows_below, segment_into, watch_promise
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.object_server import URL, Fault, ObjectServer, use_server
from helpers.pictures import draw, save, save_many
from helpers.runs import files_of

import lesioncli
from lesioncli import stores
from lesioncli.counts import ImageCounts
from lesioncli.errors import ExitCode
from lesioncli.inference import bucket, lease, packing, upload
from lesioncli.inference.outcome import Outcome
from lesioncli.options import MaskStorage, SegmentOptions
from lesioncli.progress import Reporter
from lesioncli.signals import StopRequest

COUNT = 30
OUT = f"{URL}/runs/a b"
PREFIX = "runs/a b/"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images, some in a sub-folder with a name that must be escaped, and one that is broken."""
    folder = tmp_path / "images"
    save_many(folder, COUNT)
    (folder / "a+b %20").mkdir()
    for number in range(20, COUNT):
        (folder / f"{number:03d}.jpg").rename(folder / f"a+b %20/{number:03d}.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff none")
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A bucket with something of somebody else; the promise is checked after each change."""
    stores.open_store.cache_clear()
    with ObjectServer({"runs/other.txt": b"of somebody else"}).running() as server:
        use_server(server, monkeypatch)
        broken = watch_promise(server, PREFIX)
        yield server
        assert not broken
        assert server.objects["runs/other.txt"] == b"of somebody else"
    stores.open_store.cache_clear()


class Stopper(Reporter):
    """Stops a run after some images."""

    def __init__(self, images: int) -> None:
        self.request = self.stop = StopRequest()
        self._images = images

    def image(self, outcome: Outcome, counts: ImageCounts) -> None:
        if counts.done == self._images:
            self.request.set()


def test_a_bucket_gets_what_a_folder_gets(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "ROWS_INTERVAL_S", 0.01)
    options = ("--overlay", "--crops", "10", "--save-probabilities")
    engine = tiny_manifest(1)
    assert segment_into(images, tmp_path / "folder", engine, *options)[0] == ExitCode.SOME_FAILED
    code, output = segment_into(images, OUT, engine, *options)
    assert code == ExitCode.SOME_FAILED, output
    assert f"are in {OUT}/" in output
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")
    record = json.loads(server.objects[f"{PREFIX}run.json"])
    assert record["status"] == "finished"
    assert record["roots"] == [images.as_posix()]
    assert any("scores.csv.parts/" in key for _, key in server.requests)  # rows came during the run
    assert str(tmp_path) not in output.replace(str(images), "")


def test_an_empty_machine_continues(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, OUT, engine)[0] == ExitCode.SOME_FAILED
    before = dict(server.objects)
    server.on_change = lambda: None  # somebody else breaks the promise
    del server.objects[f"{PREFIX}003.png"]
    server.objects[f"{PREFIX}004.png"] = b""
    server.requests.clear()
    code, output = segment_into(images, OUT, engine)
    assert code == ExitCode.SOME_FAILED
    assert f"2 ok, 1 failed, {COUNT - 2} skipped" in output
    assert results_below(server.objects, PREFIX) == results_below(before, PREFIX)
    written = {key for method, key in server.requests if method == "PUT" and key.endswith(".png")}
    assert written == {f"{PREFIX}003.png", f"{PREFIX}004.png"}
    assert not any(key.endswith(".png") for method, key in server.requests if method in ("GET", "HEAD"))


def test_what_has_changed_is_done_again(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    """Changed images, images that are broken or gone, and a picture that is not asked for any more."""
    engine = tiny_manifest(4)
    for out in (OUT, tmp_path / "folder"):
        assert segment_into(images, out, engine, "--overlay")[0] == ExitCode.SOME_FAILED
    save(images / "001.jpg", draw(99, 50, 60))
    (images / "002.jpg").write_bytes(b"\xff\xd8\xff broken now, too")
    (images / "003.jpg").unlink()
    for out in (OUT, tmp_path / "folder"):
        code, output = segment_into(images, out, engine, "--prune")
        assert code == ExitCode.SOME_FAILED, output
        assert "1 ok, 2 failed" in output
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")
    assert f"{PREFIX}overlays/001.jpg" not in server.objects


def test_overwrite(server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, OUT, engine, "--overlay")[0] == ExitCode.SOME_FAILED
    code, output = segment_into(images, OUT, engine, "--threshold", "0.3")
    assert code == ExitCode.INPUT
    assert f"error: {OUT}: has masks made with threshold 0.5" in output
    (images / "000.jpg").unlink()
    assert segment_into(images, OUT, engine, "--threshold", "0.3", "--overwrite")[0] == ExitCode.SOME_FAILED
    assert segment_into(images, tmp_path / "folder", engine, "--threshold", "0.3")[0] == ExitCode.SOME_FAILED
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")


def test_a_dry_run_writes_nothing(server: ObjectServer, images: Path, tiny_manifest: MakeEngine) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, OUT, engine)[0] == ExitCode.SOME_FAILED
    before = dict(server.objects)
    save(images / "new.jpg", draw(99, 50, 60))
    code, output = segment_into(images, OUT, engine, "--dry-run")
    assert code == ExitCode.OK, output
    assert f"2 to segment (1 new, 1 failed before), {COUNT} done" in output
    assert server.objects == before


def test_faults_of_writing_are_retried(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    transient = [Fault.ERROR, Fault.THROTTLED, Fault.CUT, Fault.SLOW]
    names = [f"{number:03d}.png" for number in range(20)] + ["scores.csv", "checksums.csv", "run.json"]
    server.put_faults = {PREFIX + name: [transient[number % 4]] * (1 + number % 2) for number, name in enumerate(names)}
    server.put_faults[f"{PREFIX}run.lock"] = [Fault.CUT]
    engine = tiny_manifest(4)
    assert segment_into(images, tmp_path / "folder", engine)[0] == ExitCode.SOME_FAILED
    code, output = segment_into(images, OUT, engine)
    assert code == ExitCode.SOME_FAILED, output
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")


def test_credentials_that_expire_in_mid_run(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends and says so; with new credentials, the same command does the rest."""
    monkeypatch.setattr(upload, "ROWS_INTERVAL_S", 0.01)
    monkeypatch.setattr(lease, "EXPIRY_S", 1.0)  # the lock cannot be removed, either
    monkeypatch.setattr(lease, "POLL_S", 0.2)
    engine = tiny_manifest(1)
    assert segment_into(images, tmp_path / "folder", engine)[0] == ExitCode.SOME_FAILED

    def expire() -> None:
        if any(".parts/" in key for key in server.objects):
            server.every_put = Fault.EXPIRED

    check, server.on_change = server.on_change, expire
    code, output = segment_into(images, OUT, engine)
    assert code == ExitCode.INPUT, output
    assert f"error: {OUT}: access denied; renew the credentials" in output
    assert "run the same command again" in output
    server.every_put, server.on_change = None, check
    assert rows_below(server.objects, PREFIX)
    code, output = segment_into(images, OUT, engine)
    assert code == ExitCode.SOME_FAILED, output
    assert "0 skipped" not in output
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")


@pytest.mark.parametrize("name", ["029.png", "scores.csv", "checksums.csv", "run.json"])
def test_a_fault_at_the_end(
    name: str,
    server: ObjectServer,
    images: Path,
    tiny_manifest: MakeEngine,
    tmp_path: Path,
) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, tmp_path / "folder", engine)[0] == ExitCode.SOME_FAILED
    first = [] if name.endswith(".png") else [Fault.SLOW] * (name == "run.json")  # the record of the start
    key = f"{PREFIX}a+b %20/{name}" if name.endswith(".png") else PREFIX + name
    server.put_faults = {key: [*first, Fault.DENIED]}
    code, output = segment_into(images, OUT, engine)
    assert code == ExitCode.INPUT
    assert f"error: {OUT}: access denied" in output
    code, output = segment_into(images, OUT, engine)
    assert code == ExitCode.SOME_FAILED, output
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")


def test_archives_of_masks(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of a folder; no mask is an object of its own, and changed images go to further archives."""
    monkeypatch.setattr(upload, "ROWS_INTERVAL_S", 0.01)
    monkeypatch.setattr(packing, "MASKS_PER_ARCHIVE", 7)
    monkeypatch.setattr(bucket, "LARGE_BYTES", 10)
    engine, options = tiny_manifest(1), ("--masks", "tar", "--overlay")
    for step in range(3):
        for out in (OUT, tmp_path / "folder"):
            code, output = segment_into(images, out, engine, *options)
            assert code == ExitCode.SOME_FAILED, output
        assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")
        assert f"{[COUNT, 1, 2][step]} ok" in output
        save(images / "001.jpg", draw(98 + step, 50, 60))
        if step == 1:
            del server.objects[f"{PREFIX}overlays/005.jpg"]
            (tmp_path / "folder/overlays/005.jpg").unlink()
    assert not any(key.endswith(".png") for _, key in server.requests)
    assert any(".parts/" in key for _, key in server.requests)
    server.on_change = lambda: None
    for out in (OUT, tmp_path / "folder"):
        assert segment_into(images, out, engine, *options, "--overwrite")[0] == ExitCode.SOME_FAILED
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")


def test_an_interrupted_run_with_archives(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks that are in no archive yet are done again, and go to the archives of an undisturbed run."""
    monkeypatch.setattr(packing, "MASKS_PER_ARCHIVE", 7)
    engine = tiny_manifest(1)
    stopper = Stopper(10)
    summary = lesioncli.segment_folder(
        images, OUT, SegmentOptions(masks=MaskStorage.TAR), engine=engine, progress=stopper
    )
    assert summary.remaining
    assert 7 <= len(rows_below(server.objects, PREFIX)) < summary.ok
    for out in (OUT, tmp_path / "folder"):
        assert segment_into(images, out, engine, "--masks", "tar")[0] == ExitCode.SOME_FAILED
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")


def test_a_listing_that_lags(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and masks that are not listed yet are made again; what is listed, but was removed, is no row."""
    monkeypatch.setattr(upload, "ROWS_INTERVAL_S", 0.01)
    engine = tiny_manifest(1)
    assert segment_into(images, tmp_path / "folder", engine)[0] == ExitCode.SOME_FAILED
    server.put_faults = {f"{PREFIX}scores.csv": [Fault.DENIED]}  # the rows of the run stay in parts
    assert segment_into(images, OUT, engine)[0] == ExitCode.INPUT
    parts = sorted(key for key in server.objects if ".parts/" in key)
    assert parts
    server.hidden = {parts[-1], f"{PREFIX}001.png", f"{PREFIX}a+b %20/025.png"}
    server.faults = {parts[0]: [Fault.GONE]}

    def catch_up() -> None:
        if f"{PREFIX}scores.csv" in server.objects and rows_below(server.objects, PREFIX):
            server.hidden = set()

    check, server.on_change = server.on_change, catch_up
    code, output = segment_into(images, OUT, engine)
    assert code == ExitCode.SOME_FAILED, output
    server.on_change = check
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")


def test_several_processes(server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, tmp_path / "folder", engine)[0] == ExitCode.SOME_FAILED
    code, output = segment_into(images, OUT, engine, "--processes", "2")
    assert code == ExitCode.SOME_FAILED, output
    assert results_below(server.objects, PREFIX) == files_of(tmp_path / "folder")
    code, output = segment_into(images, OUT, engine, "--ray", "10.0.0.1:6379")
    assert code == ExitCode.INPUT
    assert f"error: {OUT}: the workers of a Ray cluster need a folder" in output


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_a_name_that_no_object_can_have(server: ObjectServer, images: Path, tiny_manifest: MakeEngine) -> None:
    save(images / "line\nbreak.jpg", draw(1, 40, 60))
    code, output = segment_into(images, OUT, tiny_manifest(4))
    assert code == ExitCode.INPUT
    assert "rename the image" in output
    assert list(server.objects) == ["runs/other.txt"]


@pytest.mark.parametrize("out", ["https://host/masks", "http://host/masks"])
def test_a_web_server_is_no_place_for_results(
    out: str, images: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = segment_into(images, out, tiny_manifest(4))
    assert code == ExitCode.INPUT
    assert f"error: {out}: results cannot be written to a web server" in output


def test_a_store_that_refuses_at_the_start(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    server.every_put = Fault.DENIED
    code, output = segment_into(images, OUT, tiny_manifest(4))
    assert code == ExitCode.INPUT
    assert f"error: {OUT}: access denied" in output


def test_results_among_the_images_are_no_images(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    for path in images.rglob("*.jpg"):
        server.objects[f"set/{path.relative_to(images).as_posix()}"] = path.read_bytes()
    for _ in range(2):
        result = call("segment", f"{URL}/set", "--out", f"{URL}/set/masks/", "--engine", tiny_manifest(4))
        assert result.exit_code == ExitCode.SOME_FAILED
        assert f"{COUNT + 1} images" in result.output
