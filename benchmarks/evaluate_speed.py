"""Compare the speed of `evaluate` with the official ISIC scorer on the same masks: `make bench-evaluate`.

    python benchmarks/evaluate_speed.py OFFICIAL_PYTHON [PAIRS]

Pairs of 12-megapixel masks are drawn, as 8-bit and as 1-bit PNG. Both tools run alternately as whole commands, start-up
included, and must print the same figures. Wall time is the median on an idle machine. CPU seconds are more stable on a
busy machine, but hide that the official scorer uses one core.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.process import count_cores

HEIGHT, WIDTH = 3000, 4000
PAIRS = 40
ROUNDS = 3
NAMES = ("truth", "prediction")


def main() -> None:
    official = Path(sys.argv[1]).with_name("isic-challenge-scoring")
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else PAIRS
    for bits in (8, 1):
        with TemporaryDirectory() as work:
            folders = [Path(work, name) for name in NAMES]
            _draw(folders, pairs, one_bit=bits == 1)
            _compare(official, folders, f"{pairs} pairs of {HEIGHT * WIDTH / 1e6:.0f} megapixels, {bits} bits")


def _draw(folders: list[Path], pairs: int, one_bit: bool) -> None:
    rng = np.random.default_rng(0)
    for folder in folders:
        folder.mkdir()
        for number in range(pairs):
            picture = Image.fromarray(_lesion(rng).astype(np.uint8) * 255)
            (picture.convert("1") if one_bit else picture).save(folder / f"ISIC_{number:07}_segmentation.png")


def _lesion(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw an ellipse with a rough outline, like a hand-drawn one."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    y, x = HEIGHT * rng.uniform(0.4, 0.6), WIDTH * rng.uniform(0.4, 0.6)
    radius = HEIGHT * rng.uniform(0.2, 0.4) * (1 + np.repeat(rng.normal(0, 0.02, HEIGHT // 5), 5))[:, None]
    return np.asarray(((rows - y) ** 2 + (columns - x) ** 2 / 1.5) < radius**2)


class Timed(NamedTuple):
    """Wall seconds, CPU seconds of all cores, and the printed JSON document."""

    wall_s: float
    cpu_s: float
    document: dict[str, Any]


def _compare(official: Path, folders: list[Path], title: str) -> None:
    theirs = [str(official), "-o", "json", "segmentation", *map(str, folders)]
    lesioncli = [sys.executable, "-c", "from lesioncli.__main__ import main; main()"]
    ours = [
        *lesioncli,
        "evaluate",
        "--gt",
        str(folders[0]),
        "--pred",
        str(folders[1]),
        "--protocol",
        "isic2018",
        "--json",
    ]
    runs: dict[str, list[Timed]] = {name: [] for name in ("official", "lesioncli")}
    for _ in range(ROUNDS):
        runs["official"].append(_run(theirs))
        runs["lesioncli"].append(_run(ours))
    figures = [timed[0].document["macro_average"] for timed in runs.values()]
    apart = max(abs(figures[0][name] - figures[1][name]) for name in figures[0])
    print(f"{title}, {count_cores()} cores, load {os.getloadavg()[0]:.1f}; largest difference of a figure {apart:.0e}")
    walls = [statistics.median(run.wall_s for run in timed) for timed in runs.values()]
    cpus = [statistics.median(run.cpu_s for run in timed) for timed in runs.values()]
    for kind, (slow, fast) in (("wall time", walls), ("CPU", cpus)):
        print(f"  {kind}: official {slow:.1f} s, lesioncli {fast:.1f} s, {slow / fast:.1f} times faster")


def _run(command: list[str]) -> Timed:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(time.perf_counter() - start, cpu, json.loads(done.stdout))


if __name__ == "__main__":
    main()
