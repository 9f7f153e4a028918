"""Overhead of masks in tar archives against masks in files, for `segment` and for `evaluate`.

    python benchmarks/archive_overhead.py [IMAGES [ROUNDS]]

Prints for each command the median CPU seconds of the process and seconds over the rounds, in which both take turns, the
median of their ratios, and the number of files that are left.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lesioncli.demo.draw import draw_case

DRAWN = 12
SIDES_HW = (450, 600)
STORAGES = ("files", "tar")


def main() -> None:
    count, rounds = (int(word) for word in (*sys.argv[1:], "2000", "5")[:2])
    with tempfile.TemporaryDirectory() as work:
        measure(Path(work), count, rounds)


def measure(work: Path, count: int, rounds: int) -> None:
    """Draw images, then segment and evaluate them several times in turn."""
    draw_images(work / "images", count)
    segment(work, "files")  # builds the engine
    (work / "labels").mkdir()
    for mask in (work / "files").glob("*.png"):
        shutil.copy(mask, work / "labels")
    segments = [{name: segment(work, name) for name in STORAGES} for _ in range(rounds)]
    evaluate = [{name: run(work, "evaluate", name, "--gt", "labels") for name in STORAGES} for _ in range(rounds)]
    for command, times in {"segment": segments, "evaluate": evaluate}.items():
        for name in STORAGES:
            cpu, wall = (statistics.median(row[name][index] for row in times) for index in (0, 1))
            ratios = [statistics.median(row[name][index] / row["files"][index] for row in times) for index in (0, 1)]
            print(f"{command:8} {name:5} CPU {cpu:7.2f} s ({ratios[0]:.3f})   wall {wall:7.2f} s ({ratios[1]:.3f})")
    for name in STORAGES:
        print(f"{name:5} {sum(path.is_file() for path in (work / name).rglob('*'))} files")


def segment(work: Path, name: str) -> tuple[float, float]:
    """Segment the images into a new folder; return the CPU seconds of the process, and seconds."""
    shutil.rmtree(work / name, ignore_errors=True)
    return run(work, "segment", "images", "--out", name, "--masks", name)


def run(work: Path, *words: str) -> tuple[float, float]:
    """Run a command; return the CPU seconds of the process, and seconds."""
    command: Sequence[str] = [sys.executable, "-m", "lesioncli", *words]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert not status, f"{words}: {status}"
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started


def draw_images(folder: Path, count: int) -> None:
    """Draw some images, and write copies of them."""
    import cv2

    folder.mkdir()
    drawn = [cv2.cvtColor(draw_case(seed, *SIDES_HW).image, cv2.COLOR_RGB2BGR) for seed in range(min(count, DRAWN))]
    encoded = [bytes(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 90))[1]) for image in drawn]
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(encoded[number % len(encoded)])


if __name__ == "__main__":
    main()
