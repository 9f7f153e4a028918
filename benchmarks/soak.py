"""Segment many small images in one run, and print memory, handles and speed on the way: `make soak`.

    PYTHONPATH=tests python benchmarks/soak.py [IMAGES] [FOLDER]

The images are hard links to drawn JPEGs of 64 x 48 pixels, all in one folder. The engine is the tiny graph of the
tests, so nearly all time is that of the program. A folder that is given is kept; the same command then continues there,
which splits a long run into parts. At the end, the rows are compared with those of the drawn images. The exit status is
1 if rows are missing or wrong, if memory grows by more than MAX_BYTES_PER_IMAGE per image, if files are left open, or
if the last images take MAX_SLOWDOWN more CPU time than the first ones.
"""

import csv
import os
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.graphs import write_graph
from helpers.pictures import draw, save

from lesioncli.api import segment_folder
from lesioncli.backends.build import build
from lesioncli.counts import ImageCounts
from lesioncli.inference.outcome import Outcome
from lesioncli.options import Backend, BuildOptions, Precision
from lesioncli.progress import Reporter

IMAGES = 200_000
DRAWN = 1000  # rows of neighbours must not resemble each other more than those of real images: they are compressed
STEP = 10_000
MAX_BYTES_PER_IMAGE = 100  # a row takes about 90
MAX_MORE_HANDLES = 8  # files that are being read, written or synced
MAX_SLOWDOWN = 0.05


@dataclass(frozen=True)
class Sample:
    """The state of the process after so many images."""

    done: int
    rss_bytes: int
    handles: int
    seconds: float
    cpu_seconds: float

    @classmethod
    def take(cls, done: int) -> "Sample":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        handles = len(list(Path("/proc/self/fd").iterdir()))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        return cls(done, pages * resource.getpagesize(), handles, time.monotonic(), cpu)


class Sampler(Reporter):
    """Takes a sample every STEP images, and prints it."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def start_images(self, counts: ImageCounts) -> None:
        print(f"{'images':>8}{'MiB':>9}{'handles':>9}{'images/s':>10}{'CPU ms/image':>14}")
        self.samples.append(Sample.take(0))
        print(f"{0:8}{self.samples[0].rss_bytes / 2**20:9.1f}{self.samples[0].handles:9}", flush=True)

    def image(self, outcome: Outcome, counts: ImageCounts) -> None:
        done = counts.done
        if done % STEP == 0:
            self.samples.append(Sample.take(done))
            before, now = self.samples[-2:]
            speed = STEP / (now.seconds - before.seconds)
            cpu_ms = 1000 * (now.cpu_seconds - before.cpu_seconds) / STEP
            print(f"{done:8}{now.rss_bytes / 2**20:9.1f}{now.handles:9}{speed:10.0f}{cpu_ms:14.3f}", flush=True)


def make_images(folder: Path, count: int) -> None:
    """Link `count` images to DRAWN files."""
    drawn = [save(folder.parent / "drawn" / f"{seed}.jpg", draw(seed, 48, 64)) for seed in range(DRAWN)]
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number:07d}.jpg"
        if not path.exists():
            os.link(drawn[number % DRAWN], path)


def check_rows(out: Path, count: int) -> list[str]:
    """Return what is wrong with the rows and masks: images of the same content must have the same rows and masks."""
    seen: dict[int, tuple[object, bytes]] = {}
    numbers: Counter[int] = Counter()
    problems: list[str] = []
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            number = int(Path(row.pop("image")).stem)
            numbers[number] += 1
            mask = (out / row.pop("mask")).read_bytes()
            if seen.setdefault(number % DRAWN, (row, mask)) != (row, mask):
                problems.append(f"{number}: its row or mask differs from those of the same image")
    if numbers != Counter(range(count)):
        problems.append(f"{len(numbers)} images have rows, of {count}; {numbers.total()} rows")
    return problems


def find_growth(samples: list[Sample]) -> list[str]:
    """Print how much memory and time changed between the first and the last STEP images; return what is too much."""
    first, second, *_ = samples[1:]
    before_last, last = samples[-2:]
    per_image = (last.rss_bytes - first.rss_bytes) / (last.done - first.done)
    slowdown = (last.cpu_seconds - before_last.cpu_seconds) / (second.cpu_seconds - first.cpu_seconds) - 1
    print(f"memory: {per_image:.0f} bytes per image; CPU time of the last {STEP} images: {slowdown:+.1%}")
    checks = {
        f"memory grows by {per_image:.0f} bytes per image": per_image > MAX_BYTES_PER_IMAGE,
        f"{last.handles - first.handles} more handles are open": last.handles > first.handles + MAX_MORE_HANDLES,
        f"the last images take {slowdown:+.1%} CPU time": slowdown > MAX_SLOWDOWN,
    }
    return [problem for problem, is_wrong in checks.items() if is_wrong]


def soak(work: Path, count: int) -> list[str]:
    """Segment `count` images in `work`; return what is wrong."""
    make_images(work / "images", count)
    engine = work / "engines" / "tiny.openvino.json"
    if not engine.exists():
        options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32)
        build(write_graph(work / "tiny.onnx"), engine.parent, [draw(seed) for seed in range(3)], options)
    with Sampler() as sampler:
        summary = segment_folder(work / "images", work / "masks", engine=engine, progress=sampler)
    print(f"{summary.ok} ok, {summary.failed} failed, {summary.skipped} skipped in {summary.seconds:.0f} s")
    return [*check_rows(work / "masks", count), *(find_growth(sampler.samples) if len(sampler.samples) > 3 else [])]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with TemporaryDirectory() as temporary:
        work = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        problems = soak(work, count)
    print(*problems[:20], sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
