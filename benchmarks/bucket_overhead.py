"""Overhead of results in a bucket on loopback, against results in a folder.

    python benchmarks/bucket_overhead.py [IMAGES [ROUNDS]]

Prints, for each kind of output, the median of CPU seconds of the process and of seconds over the rounds, and the
medians of their ratios to those of the folder. The server of the bucket is another process: its CPU time does not
count, but on few cores its share of them does.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from timed_commands import draw_images, run

SIDES_HW = (450, 600)
SERVER = """
import sys
from helpers.object_server import ObjectServer
with ObjectServer().running() as server:
    print(server.endpoint, flush=True)
    sys.stdin.read()
"""
OUTPUTS = {  # name: flags of `segment`
    "folder": ("--out", "out"),
    "bucket": ("--out", "s3://images/run{run}"),
    "bucket, tar": ("--out", "s3://images/run{run}", "--masks", "tar"),
}


def main() -> None:
    count, rounds = (int(word) for word in (*sys.argv[1:], "1000", "5")[:2])
    with tempfile.TemporaryDirectory() as work:
        measure(Path(work), count, rounds)


def measure(work: Path, count: int, rounds: int) -> None:
    """Draw and serve images, and write the results to each place several times in turn."""
    draw_images(work / "images", count, SIDES_HW)
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "any"}
    helpers = environment | {"PYTHONPATH": f"{Path(__file__).parents[1] / 'tests'}:{environment.get('PYTHONPATH', '')}"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=helpers, text=True
    ) as server:
        assert server.stdout
        environment["AWS_ENDPOINT_URL"] = server.stdout.readline().strip()
        segment(work, OUTPUTS["folder"], environment)  # builds the engine
        times = [
            {
                name: segment(work, [flag.format(run=f"{number}{name[6:7]}") for flag in flags], environment)
                for name, flags in OUTPUTS.items()
            }
            for number in range(rounds)
        ]
        server.terminate()
    for name in OUTPUTS:
        cpu, wall = (statistics.median(row[name][index] for row in times) for index in (0, 1))
        ratios = sorted(row[name][0] / row["folder"][0] for row in times)
        wall_ratio = statistics.median(row[name][1] / row["folder"][1] for row in times)
        print(
            f"{name:12} CPU {cpu:7.2f} s ({statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f})"
            f"   wall {wall:7.2f} s ({wall_ratio:.3f})"
        )


def segment(work: Path, flags: tuple[str, ...] | list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Segment the images; return the CPU seconds of the process, and seconds."""
    shutil.rmtree(work / "out", ignore_errors=True)
    return run(work, "segment", "images", *flags, environment=environment)


if __name__ == "__main__":
    main()
