"""`segment --ray` on a real cluster of several nodes on this machine: one is killed in mid-run."""

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.object_server import URL, ObjectServer, use_server
from helpers.pictures import save_many
from helpers.processes import start_processes
from helpers.runs import files_of, record_of

from lesioncli.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="a Ray cluster of nodes on Linux")]

IMAGES, COUNT = 200, 20
STORE_BYTES = 80 * 2**20
CLUSTER = f"""
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0, "object_store_memory": {STORE_BYTES}}})
nodes = [cluster.add_node(num_cpus=1, object_store_memory={STORE_BYTES}) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


class Cluster:
    """A head without cores and two nodes with one core each, in a process of their own."""

    def __init__(self, folder: Path) -> None:
        program = folder / "cluster.py"
        program.write_text(CLUSTER)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        self.address = self._process.stdout.readline().strip()

    def kill_node(self) -> None:
        """Kill a node with all its processes."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("kill\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "removed\n"

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    assert made.address
    yield made
    made.close()


def count_rows(out: Path) -> int:
    part = out / "scores.csv.part"
    return part.read_bytes().count(b"\n") - 1 if part.exists() else 0


def test_a_node_is_lost_and_the_output_is_that_of_one_process(
    cluster: Cluster, tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_many(tmp_path / "images", IMAGES)
    (tmp_path / "images/broken.jpg").write_bytes(b"")
    words = ("segment", "images", "--engine", tiny_manifest(1), "--max-failures", "1")
    assert call(*words, "--out", "one").exit_code == ExitCode.OK
    # Actors import this module by the path of the cluster; it makes them slow.
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    out = tmp_path / "two"
    with start_processes(tmp_path, *words, "--out", "two", "--ray", cluster.address, delay=0) as program:
        deadline = time.monotonic() + 120
        while count_rows(out) < 20 and program.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster.kill_node()
        output, _ = program.communicate(timeout=200)
    assert program.returncode == ExitCode.OK, output.decode()
    assert "nodes 3, workers 2, cores per worker 1" in output.decode()
    assert " is lost: " in output.decode()
    assert files_of(out) == files_of(tmp_path / "one")
    record = record_of(out)
    assert (record["ok"], record["failed"], record["status"], record["processes"]) == (IMAGES, 1, "finished", 2)
    assert record["lost"]
    done = subprocess.run(
        [sys.executable, "-m", "lesioncli", *map(str, words), "--out", "two", "--ray", cluster.address],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, "0 ok, 1 failed, 200 skipped" in done.stdout) == (ExitCode.OK, True), done.stderr


@pytest.mark.parametrize("is_signed", [False, True])
def test_workers_fetch_images_of_a_store(
    is_signed: bool, tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_many(tmp_path / "images", COUNT)
    with tarfile.open(tmp_path / "images/more.tar", "w") as tar:
        for number in range(COUNT):
            tar.add(tmp_path / f"images/{number:03d}.jpg", f"{number:03d}.jpg")
    names = [f"{number:03d}.jpg" for number in range(COUNT)]
    names += [f"more.tar/{name}" for name in names if not is_signed]
    (tmp_path / "images.txt").write_text("".join(f"images/{name}\n" for name in names))
    words = ("segment", "--engine", tiny_manifest(1), "--from")
    assert call(*words, "images.txt", "--out", "one").exit_code == ExitCode.OK
    objects = {f"set/{path.name}": path.read_bytes() for path in (tmp_path / "images").iterdir()}
    with ObjectServer(objects).running() as server, monkeypatch.context() as environment:
        server.signature = "s" if is_signed else ""
        use_server(server, environment)
        store, query = (f"{server.endpoint}/images", "?X-Amz-Signature=s") if is_signed else (URL, "")
        (tmp_path / "urls.txt").write_text("".join(f"{store}/set/{name}{query}\n" for name in names))
        cluster = Cluster(tmp_path)  # its workers have the environment of now
        try:
            command = [sys.executable, "-m", "lesioncli", *map(str, words), "urls.txt"]
            command += ["--out", "two", "--ray", cluster.address]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        finally:
            cluster.close()
    assert done.returncode == ExitCode.OK, done.stderr
    assert files_of(tmp_path / "two")["scores.csv"] == files_of(tmp_path / "one")["scores.csv"]
    masks = {name: content for name, content in files_of(tmp_path / "one").items() if name.endswith(".png")}
    assert masks.items() <= files_of(tmp_path / "two").items()
    assert record_of(tmp_path / "two")["processes"] == 2
    asked = [server.gets(f"set/{number:03d}.jpg") for number in range(1, COUNT)]
    assert asked == [1 + is_signed] * (COUNT - 1)  # of a signed one, first one byte


SLOW = """
import importlib.abc, sys

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lesioncli.inference.worker":
            return None
        sys.meta_path.remove(self)
        import time
        from lesioncli.inference import pipeline

        class SlowImage(pipeline.OpenedImage):
            def decode(self, at_least_hw):
                time.sleep(0.05)
                return super().decode(at_least_hw)

        pipeline.OpenedImage = SlowImage
        return None

sys.meta_path.insert(0, Slow())
"""
