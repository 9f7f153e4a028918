"""Shards of a run into a bucket, their merge, and what other commands say of a bucket."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.bucket_results import results_below, segment_into, watch_promise
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.object_server import URL, Fault, ObjectServer, use_server
from helpers.pictures import save_many
from helpers.runs import files_of

from lesioncli import stores
from lesioncli.errors import ExitCode
from lesioncli.inference.bucket import LOCK

COUNT = 24
OUT = f"{URL}/out"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    save_many(tmp_path / "images", COUNT)
    return tmp_path / "images"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """An empty bucket; the promise is checked after each change, for the merged rows and for those of each shard."""
    stores.open_store.cache_clear()
    with ObjectServer().running() as server:
        use_server(server, monkeypatch)
        broken = watch_promise(server, "out/")
        yield server
        assert not broken
    stores.open_store.cache_clear()


def test_shards_are_merged_to_one_run(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, tmp_path / "folder", engine)[0] == ExitCode.OK
    for shard in ("2/3", "1/3"):
        code, output = segment_into(images, OUT, engine, "--shard", shard)
        assert code == ExitCode.OK, output
        assert f"rows in {OUT}/shards/{shard.replace('/', '-of-')}/" in output
    status = call("status", OUT).output
    assert "shard 3/3: not started" in status
    assert "2 of 3 shards finished" in status
    result = call("merge", OUT)
    assert result.exit_code == ExitCode.INPUT
    assert f"error: {OUT}: shards missing: 3/3" in result.output
    assert segment_into(images, OUT, engine, "--shard", "3/3")[0] == ExitCode.OK
    assert segment_into(images, OUT, engine)[0] == ExitCode.INPUT  # a whole run
    result = call("merge", OUT)
    assert result.exit_code == ExitCode.OK, result.output
    assert f"3 shards merged; {COUNT} images: {COUNT} ok" in result.output
    assert results_below(server.objects, "out/") == files_of(tmp_path / "folder")
    assert "nothing to merge" in call("merge", OUT).output
    code, output = segment_into(images, OUT, engine, "--shard", "1/2")
    assert code == ExitCode.OK
    assert "0 ok" in output
    assert f"finished, {COUNT} of {COUNT} images" not in call("status", OUT).output


def test_a_shard_asks_only_for_its_own_masks(server: ObjectServer, images: Path, tiny_manifest: MakeEngine) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, OUT, engine, "--shard", "1/2")[0] == ExitCode.OK
    assert ("GET", "") in server.requests  # of shards/ and its own parts
    server.requests.clear()
    code, output = segment_into(images, OUT, engine, "--shard", "1/2")
    assert code == ExitCode.OK
    own = {key for key in server.objects if key.endswith(".png")}
    assert f"0 ok, 0 failed, {len(own)} skipped" in output
    assert {key for method, key in server.requests if method == "HEAD"} == own
    assert server.requests["GET", ""] <= 6


def test_shards_of_other_numbers_and_options_are_refused(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine
) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, OUT, engine, "--shard", "1/2")[0] == ExitCode.OK
    before = dict(server.objects)
    code, output = segment_into(images, OUT, engine, "--shard", "1/3")
    assert code == ExitCode.INPUT
    assert f"{OUT}/shards/1-of-2: shard 1/2 overlaps with 1/3" in output
    code, output = segment_into(images, OUT, engine, "--shard", "2/2", "--threshold", "0.3")
    assert code == ExitCode.INPUT
    assert "shard 1/2 has masks made with threshold 0.5, not 0.3" in output
    assert server.objects == before


@pytest.mark.parametrize("place", ["", "shards/1-of-1/"])
def test_a_merge_waits_for_nobody(place: str, server: ObjectServer, images: Path, tiny_manifest: MakeEngine) -> None:
    """A shard that is being written ends a merge, and a merge ends a shard."""
    engine = tiny_manifest(4)
    assert segment_into(images, OUT, engine, "--shard", "1/1")[0] == ExitCode.OK
    server.write(f"out/{place}{LOCK}", json.dumps({"host": "node7", "pid": 5}).encode())
    result = (
        call("merge", OUT) if place else call("segment", images, "--out", OUT, "--engine", engine, "--shard", "1/1")
    )
    assert result.exit_code == ExitCode.INPUT
    assert f"out/{place}{LOCK}: lock of process 5 on node7" in result.output


@pytest.mark.parametrize("name", ["checksums.csv", "run.json", "shards/merged", "?delete"])
def test_a_merge_that_is_stopped_continues(
    name: str, server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    engine = tiny_manifest(4)
    assert segment_into(images, tmp_path / "folder", engine)[0] == ExitCode.OK
    for shard in ("1/2", "2/2"):
        assert segment_into(images, OUT, engine, "--shard", shard)[0] == ExitCode.OK
    server.put_faults = {name if name == "?delete" else f"out/{name}": [Fault.DENIED]}
    assert call("merge", OUT).exit_code == ExitCode.INPUT
    server.objects.pop(f"out/{LOCK}", None)  # of a lock that could not be removed
    result = call("merge", OUT)
    assert result.exit_code == ExitCode.OK, result.output
    assert results_below(server.objects, "out/") == files_of(tmp_path / "folder")


def test_shards_that_continue_merged_rows_keep_their_checksums(
    server: ObjectServer, images: Path, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    """Also if the first of them is stopped between its two tables."""
    engine = tiny_manifest(4)
    for out in (OUT, tmp_path / "folder"):
        assert segment_into(images, out, engine)[0] == ExitCode.OK
    server.put_faults = {"out/shards/1-of-2/checksums.csv": [Fault.DENIED]}
    assert segment_into(images, OUT, engine, "--shard", "1/2")[0] == ExitCode.INPUT
    for shard in ("1/2", "2/2"):
        assert segment_into(images, OUT, engine, "--shard", shard)[0] == ExitCode.OK
    assert call("merge", OUT).exit_code == ExitCode.OK
    assert results_below(server.objects, "out/") == files_of(tmp_path / "folder")


def test_status_of_a_run(server: ObjectServer, images: Path, tiny_manifest: MakeEngine) -> None:
    result = call("status", OUT)
    assert result.exit_code == ExitCode.INPUT
    assert f"error: {OUT}: no run.json" in result.output
    assert segment_into(images, OUT, tiny_manifest(4))[0] == ExitCode.OK
    result = call("status", OUT, "--json")
    assert json.loads(result.output)["runs"][0]["ok"] == COUNT
    assert not server.objects.keys() & {f"out/{LOCK}"}


@pytest.mark.parametrize("command", ["evaluate", "verify", "report", "submission", "export", "calibrate"])
def test_other_commands_say_how_to_copy(command: str) -> None:
    result = call(command, OUT, *(["--gt", "labels"] if command in ("evaluate", "calibrate") else []))
    assert result.exit_code == ExitCode.USAGE
    assert f"aws s3 sync {OUT}/ masks/" in result.output
