"""Images in object stores: the masks of the same images on a disk, and what goes wrong on the way."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.object_server import URL, Fault, ObjectServer, use_server
from helpers.pictures import draw, save, save_many
from helpers.runs import files_of, record_of, rows_of

from lesioncli import stores
from lesioncli.errors import ExitCode
from lesioncli.images import objects
from lesioncli.images.stored import Content
from lesioncli.inference import fetch

COUNT = 30


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images, some in a sub-folder with a name that must be escaped in a URL."""
    folder = tmp_path / "images"
    save_many(folder, COUNT)
    (folder / "a+b %20").mkdir()
    for number in range(20, COUNT):
        (folder / f"{number:03d}.jpg").rename(folder / f"a+b %20/{number:03d}.jpg")
    return folder


@pytest.fixture
def server(images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A bucket with the images below set/."""
    files = {path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.jpg")}
    stores.open_store.cache_clear()
    with ObjectServer({f"set/{name}": content for name, content in files.items()}).running() as server:
        use_server(server, monkeypatch)
        yield server
    stores.open_store.cache_clear()


def run(source: str | Path, out: Path, engine: Path, *options: str | Path) -> tuple[int, str]:
    result = call("segment", source, "--out", out, "--engine", engine, *options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def reasons(out: Path) -> dict[str, str]:
    """Return the reasons of the failed rows."""
    return {name: row["reason"] for name, row in rows_of(out).items() if row["reason"]}


def test_a_bucket_is_segmented_as_its_folder_is(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    server.page_keys = 7
    server.objects["set/notes.txt"] = b"text"
    server.objects["settled/x.jpg"] = b"of another folder"
    slow = min(
        (key for key in server.objects if key.startswith("set/") and key.endswith(".jpg")),
        key=lambda key: len(server.objects[key]),
    )
    server.faults[slow] = [Fault.SLOW]  # others are read meanwhile
    engine = tiny_manifest(4)
    assert run(images, tmp_path / "folder", engine)[0] == ExitCode.OK
    code, output = run(f"{URL}/set", tmp_path / "bucket", engine)
    assert code == ExitCode.OK, output
    folder, bucket = files_of(tmp_path / "folder"), files_of(tmp_path / "bucket")
    assert set(folder) == set(bucket)
    assert {name for name in folder if folder[name] != bucket[name]} == {"checksums.csv"}  # the times of the images
    assert record_of(tmp_path / "bucket")["roots"] == [f"{URL}/set"]
    assert record_of(tmp_path / "bucket")["passed_over"] == {".txt": 1}
    assert all(server.gets(key) == 1 for key in server.objects if key.startswith("set/") and key.endswith(".jpg"))
    assert 1 < server.most_in_work <= stores.CONNECTIONS


def test_resume_reads_nothing_again(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    out, engine = tmp_path / "out", tiny_manifest(4)
    assert run(f"{URL}/set", out, engine)[0] == ExitCode.OK
    before = files_of(out)
    server.requests.clear()
    server.objects["set/003.jpg"] = save(tmp_path / "x.jpg", draw(99, 40, 61)).read_bytes()  # another size
    del server.objects["set/004.jpg"]
    code, output = run(f"{URL}/set", out, engine, "--prune")
    assert code == ExitCode.OK
    assert f"1 ok, 0 failed, {COUNT - 2} skipped" in output
    assert "1 rows of images that are gone were removed" in output
    assert [key for method, key in server.requests if method == "GET" and key] == ["set/003.jpg"]
    after = files_of(out)
    assert "004.png" not in after
    assert {name for name in after if after[name] != before[name]} == {"003.png", "scores.csv", "checksums.csv"}
    assert f"{COUNT - 1} skipped" in run(f"{URL}/set", out, engine, "--check-inputs")[1]


def test_an_object_with_another_time_is_compared_by_content(
    server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    out, engine = tmp_path / "out", tiny_manifest(4)
    assert run(f"{URL}/set", out, engine)[0] == ExitCode.OK
    server.modified = dict.fromkeys(server.objects, "Wed, 21 Oct 2026 07:28:01 GMT")
    assert f"{COUNT} skipped" in run(f"{URL}/set", out, engine)[1]
    assert server.gets("set/000.jpg") == 2
    assert f"{COUNT} skipped" in run(f"{URL}/set", out, engine)[1]
    assert server.gets("set/000.jpg") == 2


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.THROTTLED, Fault.CUT, Fault.SLOW])
def test_transient_faults_are_retried(
    fault: Fault, server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    server.faults = {f"set/{number:03d}.jpg": [fault] for number in range(5)}
    code, output = run(f"{URL}/set", tmp_path / "out", tiny_manifest(4))
    assert code == ExitCode.OK, output
    assert not reasons(tmp_path / "out")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault.ERROR, "the store answers 500"),
        (Fault.DENIED, "access denied"),
        (Fault.EXPIRED, "access denied"),
        (Fault.GONE, "no longer in the store"),
        (Fault.GROWN, "has grown since it was listed"),
        (Fault.CHANGED, "cannot be read"),
    ],
)
def test_a_failed_object_is_one_failed_row(
    fault: Fault,
    words: str,
    server: ObjectServer,
    tiny_manifest: MakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objects, "RETRIES", 1)
    server.faults = {"set/007.jpg": [fault] * (1 if fault == Fault.CHANGED else 3)}
    out = tmp_path / "out"
    code, output = run(f"{URL}/set", out, tiny_manifest(4))
    assert code == ExitCode.SOME_FAILED
    assert list(reasons(out)) == ["007.jpg"]
    assert words in reasons(out)["007.jpg"]
    assert f"{COUNT - 1} ok, 1 failed" in output
    server.faults.clear()
    code, output = run(f"{URL}/set", out, tiny_manifest(4))
    assert code == ExitCode.OK
    assert f"1 ok, 0 failed, {COUNT - 1} skipped" in output


@pytest.mark.parametrize(
    ("fault", "words"),
    [(Fault.DENIED, "access denied"), (Fault.EXPIRED, "access denied"), (Fault.ERROR, "answers 500")],
)
def test_a_store_that_refuses_at_the_start_ends_the_run(
    fault: Fault,
    words: str,
    server: ObjectServer,
    tiny_manifest: MakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objects, "PROBE_RETRIES", 1)
    server.every = fault
    for source in (("segment", f"{URL}/set/"), ("segment", f"{URL}/set/000.jpg")):
        result = call(*source, "--out", tmp_path / "out", "--engine", tiny_manifest(4))
        assert result.exit_code == ExitCode.INPUT
        assert f"error: {source[1]}: " in result.output
        assert words in result.output or "answers 400" in result.output  # a HEAD has no body that tells more
    assert not (tmp_path / "out").exists()


def test_nobody_listens(tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PROBE_RETRIES", 1)
    stores.open_store.cache_clear()
    server = ObjectServer()
    use_server(server, monkeypatch)
    server._server.server_close()
    code, output = run(f"{URL}/set/", tmp_path / "out", tiny_manifest(4))
    assert code == ExitCode.INPUT
    assert "no answer" in output
    stores.open_store.cache_clear()


def test_expired_credentials_in_mid_run_end_it(
    server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a million failed rows: a few, then an error; with new credentials the same command does the rest."""
    monkeypatch.setattr(fetch, "MAX_UNAVAILABLE", 5)
    monkeypatch.setattr(fetch, "MAX_AHEAD", 2)
    monkeypatch.setattr(objects, "CONNECTIONS", 2)
    monkeypatch.setattr(fetch, "CONNECTIONS", 2)
    out, engine = tmp_path / "out", tiny_manifest(1)
    read = objects.StoredObject.read

    def expire(file: objects.StoredObject) -> Content:
        if file.name >= "006.jpg":
            server.every = Fault.DENIED
        return read(file)

    monkeypatch.setattr(objects.StoredObject, "read", expire)
    code, output = run(f"{URL}/set", out, engine)
    assert code == ExitCode.INPUT
    assert f"error: {URL}: 5 images in a row" in output
    assert "access denied" in output
    assert "run the same command again" in output
    rows = rows_of(out)
    assert 0 < len(reasons(out)) < 20  # not of each image that the error found in work
    assert len(rows) < COUNT
    assert record_of(out)["status"] == "interrupted"
    monkeypatch.setattr(objects.StoredObject, "read", read)
    server.every = None
    assert run(f"{URL}/set", out, engine)[0] == ExitCode.OK
    assert [row["status"] for row in rows_of(out).values()] == ["ok"] * COUNT


def test_objects_that_may_not_be_read_do_not_end_the_run(
    server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_UNAVAILABLE", 5)
    server.faults = {f"set/{number:03d}.jpg": [Fault.DENIED] for number in range(5, 20)}
    out = tmp_path / "out"
    assert run(f"{URL}/set", out, tiny_manifest(1))[0] == ExitCode.SOME_FAILED
    assert len(reasons(out)) == 15
    assert len(rows_of(out)) == COUNT


def test_a_listing_that_lags(server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    """An object that is not listed yet is not gone; one that is listed, but was removed, is a failed row."""
    out, engine = tmp_path / "out", tiny_manifest(4)
    assert run(f"{URL}/set", out, engine)[0] == ExitCode.OK
    server.hidden = {"set/001.jpg"}
    code, output = run(f"{URL}/set", out, engine, "--prune")
    assert code == ExitCode.OK
    assert "were removed" not in output
    assert len(rows_of(out)) == COUNT


@pytest.mark.parametrize("name", ["set//x.jpg", "set/../x.jpg", "set/a\n.jpg"])
def test_a_name_that_cannot_be_listed_is_named(server: ObjectServer, tmp_path: Path, name: str) -> None:
    server.objects[name] = b"x"
    result = call("list", f"{URL}/set/", "--out", tmp_path / "list.csv")
    assert result.exit_code == ExitCode.INPUT
    assert f"an object is named {name!r}" in result.output
    assert "--from" in result.output


def test_lists_of_urls(server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    """CSV of `list`, lines of S3 URLs, and lines of web addresses give the same masks."""
    engine = tiny_manifest(4)
    assert run(images, tmp_path / "folder", engine)[0] == ExitCode.OK
    scores = files_of(tmp_path / "folder")["scores.csv"]
    result = call("list", f"{URL}/set", "--out", tmp_path / "images.csv", "--hash")
    assert result.exit_code == ExitCode.OK, result.output
    keys = sorted(server.objects)
    (tmp_path / "s3.txt").write_text("".join(f"{URL}/{key}\n" for key in keys))
    web = [f"{server.endpoint}/images/{key.replace('%', '%25').replace(' ', '%20')}" for key in keys]
    (tmp_path / "web.txt").write_text("".join(f"{url}\n" for url in web))
    for name in ("images.csv", "s3.txt", "web.txt"):
        out = tmp_path / name.partition(".")[0]
        result = call("segment", "--from", tmp_path / name, "--out", out, "--engine", engine)
        assert result.exit_code == ExitCode.OK, result.output
        assert files_of(out)["scores.csv"] == scores
    assert call("segment", "--from", tmp_path / "web.txt", "--out", out, "--engine", engine).exit_code == ExitCode.OK
    del server.objects[keys[3]]
    result = call("segment", "--from", tmp_path / "s3.txt", "--out", out, "--engine", engine)
    assert result.exit_code == ExitCode.INPUT
    assert f"line 4: {URL}/{keys[3]} does not exist" in result.output


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([f"{URL}/a.jpg", "b.jpg"], "line 2: b.jpg is not a URL"),
        ([f"{URL}/a.jpg", "s3://other/b.jpg"], "give images of one bucket"),
        ([f"{URL}/a.jpg", f"{URL}/../b.jpg"], "line 2:"),
        (["https://user:secret@host/a.jpg"], "remove the user and password"),
        (["https://host/a.jpg?signature=secret#top"], "are not supported"),
        ([f"https://host/a.jpg?signature=secret{number}" for number in (1, 2)], "is also in line 1"),
        (["ftp://host/a.jpg?signature=secret"], "line 1: ftp://host/a.jpg: not a URL of images"),
        (["ftp://host/a.jpg"], "line 1: ftp://host/a.jpg: not a URL of images"),
    ],
)
def test_lists_that_are_refused(lines: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(lines))
    result = call("segment", "--from", tmp_path / "list.txt", "--out", tmp_path / "out")
    assert result.exit_code == ExitCode.INPUT
    assert words in result.output
    assert "secret" not in result.output


SIGNATURE = "s3cr%2Ft"


def write_signed(path: Path, server: ObjectServer, secret: str, as_csv: bool) -> Path:
    """Write a list of signed URLs, as lines or as a CSV."""
    server.signature = secret.replace("%2F", "/")
    names = [key.replace("%", "%25").replace(" ", "%20") for key in sorted(server.objects)]
    lines = [f"{server.endpoint}/images/{name}?X-Amz-Date=1&X-Amz-Signature={secret}" for name in names]
    if as_csv:
        lines = ["image,root", *(f"{line},{server.endpoint}/images/set" for line in lines)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("as_csv", [False, True])
def test_signed_urls(
    as_csv: bool, server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    """The signature is in requests only; a run is continued with another one of the same images."""
    engine, out = tiny_manifest(4), tmp_path / "out"
    assert run(images, tmp_path / "folder", engine)[0] == ExitCode.OK
    words = ("--out", out, "--engine", engine, "--log", tmp_path / "log", "-v")
    kept = server.objects.pop("set/003.jpg")
    listed = write_signed(tmp_path / "images.list", server, SIGNATURE, as_csv)
    first = call("segment", "--from", listed, *words)
    assert first.exit_code == ExitCode.OK, first.output
    server.objects["set/003.jpg"] = kept
    listed = write_signed(tmp_path / "images.list", server, "renewed", as_csv)
    server.requests.clear()
    second = call("segment", "--from", listed, *words)
    assert f"1 ok, 0 failed, {COUNT - 1} skipped" in second.output
    assert server.gets("set/000.jpg") <= 2  # one byte of it
    assert files_of(out)["scores.csv"] == files_of(tmp_path / "folder")["scores.csv"]
    assert record_of(out)["roots"] == [f"{server.endpoint}/images/set"]

    server.signature = "expired"
    third = call("segment", "--from", listed, *words, "--check-inputs")
    assert third.exit_code == ExitCode.INPUT
    assert "access denied" in third.output
    texts = [first.output, second.output, third.output, (tmp_path / "log").read_text()]
    texts += [content.decode("latin1") for content in files_of(out).values()]
    texts.append((out / "run.json").read_text())
    assert not [text for text in texts if any(word in text for word in ("s3cr", "renewed", "X-Amz"))]


def test_one_signed_url(server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    server.signature = "s"
    url = f"{server.endpoint}/images/set/000.jpg"
    code, output = run(f"{url}?X-Amz-Signature=s", tmp_path / "out", tiny_manifest(4))
    assert code == ExitCode.OK, output
    assert list(rows_of(tmp_path / "out")) == ["000.jpg"]
    code, output = run(url, tmp_path / "other", tiny_manifest(4))
    assert code == ExitCode.INPUT
    (tmp_path / "images.csv").write_text("image\n000.jpg\n")  # a signature of a whole folder, as Azure has
    words = ("--root", f"{server.endpoint}/images/set?X-Amz-Signature=s", "--engine", tiny_manifest(4))
    result = call("segment", "--from", tmp_path / "images.csv", "--out", tmp_path / "folder", *words)
    assert result.exit_code == ExitCode.OK, result.output


@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_empty_signed_object_is_a_failed_row(
    has_ranges: bool, server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    server.has_ranges = has_ranges
    server.objects["set/000.jpg"] = b""
    listed = write_signed(tmp_path / "images.list", server, SIGNATURE, as_csv=False)
    result = call("segment", "--from", listed, "--out", tmp_path / "out", "--engine", tiny_manifest(4))
    assert result.exit_code == ExitCode.SOME_FAILED, result.output
    assert list(reasons(tmp_path / "out")) == ["000.jpg"]


def test_verify_makes_no_request(server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    """A run.json may come from anybody, and so may the URLs in it."""
    out = tmp_path / "out"
    assert run(f"{URL}/set", out, tiny_manifest(4))[0] == ExitCode.OK
    server.requests.clear()
    result = call("verify", out)
    assert result.exit_code == ExitCode.OK, result.output
    assert f"{URL}/set: images there were not compared" in result.output
    folder = tmp_path / "other"
    save_many(folder, 1)
    shutil.copytree(out, tmp_path / "copy")
    assert run(folder, tmp_path / "copy", tiny_manifest(4), "--prune")[0] == ExitCode.OK
    assert len(rows_of(tmp_path / "copy")) == COUNT  # those of the bucket are not taken for gone
    assert not server.requests


def test_few_bytes_of_memory(
    server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects for which there is no room are read one by one; all are read once."""
    monkeypatch.setattr(fetch, "MAX_BYTES", 2000)
    code, output = run(f"{URL}/set", tmp_path / "out", tiny_manifest(4), "--crops", "10")
    assert code == ExitCode.OK, output
    assert (tmp_path / "out/crops/000.jpg").exists()
    assert server.gets("set/000.jpg") == 2  # again for the cut-out, as files are


def test_several_processes(server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    assert run(images, tmp_path / "folder", tiny_manifest(4))[0] == ExitCode.OK
    code, output = run(f"{URL}/set", tmp_path / "out", tiny_manifest(4), "--processes", "2")
    assert code == ExitCode.OK, output
    assert files_of(tmp_path / "out")["scores.csv"] == files_of(tmp_path / "folder")["scores.csv"]
    assert all(server.gets(key) == 1 for key in server.objects)
    server.objects |= {f"set/more{number:02d}.jpg": b"any" for number in range(70)}
    server.faults = {key: [Fault.DENIED] * 99 for key in server.objects}
    code, output = run(f"{URL}/set", tmp_path / "denied", tiny_manifest(4), "--processes", "2")
    assert code == ExitCode.INPUT, output
    assert f"error: {URL}: 20 images in a row" in output


def test_the_extra_is_named(tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore.store", None)
    stores.open_store.cache_clear()
    code, output = run(f"{URL}/set", tmp_path / "out", tiny_manifest(4))
    assert code == ExitCode.ENGINE
    assert "[remote]" in output
