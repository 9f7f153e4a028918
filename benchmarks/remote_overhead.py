"""Overhead of images in a tar, a zip and a bucket on loopback, also in archives there, against those in a folder.

    python benchmarks/remote_overhead.py [IMAGES [ROUNDS]]

Prints, for each place, the median of CPU seconds of the process and of seconds over the rounds, and the ratios. The
server of the bucket is another process: its CPU time does not count, but on few cores its share of them does.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from timed_commands import draw_images, run

SIDES_HW = (768, 1024)
SERVER = """
import sys
from pathlib import Path
from helpers.object_server import ObjectServer
files = {f"set/{path.name}": path.read_bytes() for path in Path(sys.argv[1]).iterdir()}
files |= {Path(name).name: Path(name).read_bytes() for name in sys.argv[2:]}
with ObjectServer(files).running() as server:
    print(server.endpoint, flush=True)
    sys.stdin.read()
"""


def main() -> None:
    count, rounds = (int(word) for word in (*sys.argv[1:], "300", "5")[:2])
    with tempfile.TemporaryDirectory() as work:
        measure(Path(work), count, rounds)


def measure(work: Path, count: int, rounds: int) -> None:
    """Draw images, pack and serve them, and segment each place several times in turn."""
    folder = work / "images"
    draw_images(folder, count, SIDES_HW)
    tar, zipped = pack_tar(folder), pack_zip(folder)
    sources = {"folder": str(folder), "tar": tar, "zip": zipped, "s3": "s3://images/set"}
    sources |= {f"s3 {Path(path).suffix[1:]}": f"s3://images/{Path(path).name}" for path in (tar, zipped)}
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "any"}
    helpers = environment | {"PYTHONPATH": str(Path(__file__).parents[1] / "tests")}
    command = [sys.executable, "-c", SERVER, str(folder), tar, zipped]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=helpers, text=True) as server:
        assert server.stdout
        environment["AWS_ENDPOINT_URL"] = server.stdout.readline().strip()
        segment(work, sources["folder"], environment)  # builds the engine
        times = [{name: segment(work, source, environment) for name, source in sources.items()} for _ in range(rounds)]
        server.terminate()
    for name in sources:
        cpu, wall = (statistics.median(row[name][index] for row in times) for index in (0, 1))
        ratios = [statistics.median(row[name][index] / row["folder"][index] for row in times) for index in (0, 1)]
        print(f"{name:8} CPU {cpu:7.2f} s ({ratios[0]:.3f})   wall {wall:7.2f} s ({ratios[1]:.3f})")


def segment(work: Path, source: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """Segment a source; return the CPU seconds of the process, and seconds."""
    shutil.rmtree(work / "out", ignore_errors=True)
    return run(work, "segment", source, "--out", "out", environment=environment)


def pack_tar(folder: Path) -> str:
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
    return str(path)


def pack_zip(folder: Path) -> str:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as file:
        for inside in sorted(folder.iterdir()):
            file.write(inside, inside.name)
    return str(path)


if __name__ == "__main__":
    main()
