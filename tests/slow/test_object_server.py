"""The run over S3 against a server that is not ours, moto's, with a proxy of faults before it."""

import http.client
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.object_server import BUCKET, URL, Fault, ObjectServer, use_server
from helpers.pictures import save_many
from helpers.runs import files_of, rows_of

from lesioncli import stores
from lesioncli.errors import ExitCode

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
