"""The run over S3 against a server that is not ours, moto's, with a proxy of faults before it."""

import http.client
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.object_server import BUCKET, URL, Fault, ObjectServer, use_server
from helpers.pictures import save_many
from helpers.runs import files_of, rows_of, start_bucket_program

from lesioncli import stores
from lesioncli.errors import ExitCode
from lesioncli.urls import Url

MOTO = Path(__file__).parents[2] / ".venv/moto/bin/moto_server"
COUNT = 40

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MOTO.exists(), reason="needs moto's server; run make test-slow"),
]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Host and port of a server with an empty bucket."""
    log = tmp_path_factory.mktemp("moto") / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", "0"], stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while "Running on http://127.0.0.1:" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        port = int(log.read_text().partition("Running on http://127.0.0.1:")[2].split()[0])
        put(port, "", b"")
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait()


def put(port: int, key: str, content: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", f"/{BUCKET}/{key}", content)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def test_moto_behind_a_proxy_of_faults(
    moto: tuple[str, int], tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, engine = tmp_path / "images", tiny_manifest(4)
    save_many(images, COUNT)
    for path in images.iterdir():
        put(moto[1], f"set/{path.name}", path.read_bytes())
    assert call("segment", images, "--out", tmp_path / "folder", "--engine", engine).exit_code == ExitCode.OK
    expected = files_of(tmp_path / "folder")
    out = tmp_path / "out"
    stores.open_store.cache_clear()
    with ObjectServer(upstream=moto).running() as proxy:
        use_server(proxy, monkeypatch)
        transient = [Fault.ERROR, Fault.THROTTLED, Fault.CUT, Fault.SLOW]
        proxy.faults = {f"set/{number:03d}.jpg": [transient[number % 4]] * (1 + number % 3) for number in range(20)}
        proxy.faults["set/030.jpg"] = [Fault.DENIED]
        result = call("segment", f"{URL}/set", "--out", out, "--engine", engine)
        assert result.exit_code == ExitCode.SOME_FAILED, result.output
        assert [name for name, row in rows_of(out).items() if row["status"] == "failed"] == ["030.jpg"]
        result = call("segment", f"{URL}/set", "--out", out, "--engine", engine)
        assert result.exit_code == ExitCode.OK, result.output
        assert f"1 ok, 0 failed, {COUNT - 1} skipped" in result.output
        assert {name for name in expected if files_of(out)[name] != expected[name]} == {"checksums.csv"}
        assert proxy.gets("set/039.jpg") == 1
    stores.open_store.cache_clear()


def test_results_in_moto(
    moto: tuple[str, int], tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards, a run that is killed, faults, and a table that is put in several parts."""
    images, engine = tmp_path / "images", tiny_manifest(4)
    save_many(images, COUNT)
    assert call("segment", images, "--out", tmp_path / "folder", "--engine", engine).exit_code == ExitCode.OK
    expected = files_of(tmp_path / "folder")
    words = ("segment", images, "--out", f"{URL}/a b/out", "--engine", engine)
    stores.open_store.cache_clear()
    with ObjectServer(upstream=moto).running() as proxy:
        use_server(proxy, monkeypatch)
        with start_bucket_program(*words, delay=0.1) as process:
            while not any(".parts/" in key for _, key in list(proxy.requests)):
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        transient = [Fault.ERROR, Fault.THROTTLED, Fault.CUT, Fault.SLOW]
        proxy.put_faults = {f"a b/out/{number:03d}.png": [transient[number % 4]] for number in range(COUNT)}
        proxy.put_faults["a b/out/scores.csv"] = [Fault.CUT]
        with start_bucket_program(*words) as process:
            output, _ = process.communicate()
        assert process.returncode == ExitCode.OK, output
        assert b" 0 skipped" not in output
        assert get_below("a b/out") == expected
        for shard in ("1/2", "2/2"):
            assert call(*words, "--shard", shard, "--overwrite").exit_code == ExitCode.INPUT  # merged results
            result = call(*words[:3], f"{URL}/shards", *words[4:], "--shard", shard)
            assert result.exit_code == ExitCode.OK, result.output
        result = call("merge", f"{URL}/shards")
        assert result.exit_code == ExitCode.OK, result.output
        assert get_below("shards") == expected
        table = tmp_path / "large.csv"
        table.write_bytes(bytes(range(256)) * 50_000)
        objects = stores.ObjectFolder(Url.parse(f"{URL}/large"))
        objects.put("large.csv", table)
        objects.download("large.csv", tmp_path / "copy.csv")
        assert (tmp_path / "copy.csv").read_bytes() == table.read_bytes()
        objects.delete(["large.csv", "never was"])
        assert not objects.has("large.csv")
        result = call(*words, "--overwrite", "--threshold", "0.3")
        assert result.exit_code == ExitCode.OK, result.output
        assert get_below("a b/out").keys() == expected.keys()
    stores.open_store.cache_clear()


def get_below(folder: str) -> dict[str, bytes]:
    """Return the objects below a folder by name, without run.json, which holds times."""
    objects = stores.ObjectFolder(Url.parse(f"{URL}/{folder}"))
    found = {name: objects.read(name) for name, _ in objects.list_all() if not name.endswith("run.json")}
    return {name: stored.content for name, stored in found.items() if stored}
