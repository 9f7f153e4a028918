"""Drawn images, and commands of lesioncli whose time is measured, for the benchmarks of whole runs."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import cv2

from lesioncli.demo.draw import draw_case

DRAWN = 12  # different images


def draw_images(folder: Path, count: int, size_hw: tuple[int, int]) -> None:
    """Write JPEGs of drawn lesions: DRAWN of them, and copies of these."""
    folder.mkdir()
    drawn = [cv2.cvtColor(draw_case(seed, *size_hw).image, cv2.COLOR_RGB2BGR) for seed in range(min(count, DRAWN))]
    encoded = [bytes(cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 90))[1]) for image in drawn]
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(encoded[number % len(encoded)])
    size = sum(map(len, encoded)) / len(encoded) / 1e3
    print(f"{count} images of {size_hw[1]} x {size_hw[0]} pixels, {size:.0f} kB")


def run(work: Path, *words: str, environment: Mapping[str, str] | None = None) -> tuple[float, float]:
    """Run a command in a folder; return the CPU seconds of its process, and its seconds."""
    command = [sys.executable, "-m", "lesioncli", *words]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert not status, f"{words}: {status}"
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started
