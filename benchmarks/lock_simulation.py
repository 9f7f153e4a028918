"""Estimate how many images per second one process can segment before the interpreter's lock is the limit.

    python benchmarks/lock_simulation.py

1. The stages run for real, with a network that waits and computes nothing. lock_time.c tells for how much of their CPU
   time they hold the lock.
2. 16 and 32 cores are **simulated**: the real pipeline, results and rows, but stages that hold the lock for the
   measured time and sleep for the rest, as if each had its own core. The images per second of CPU time are the rate
   of one core that always holds the lock.
3. The CPU time of the process that hands out images and writes rows, per image, with two processes.

It needs Linux, a C compiler, and a Python that has its library as a shared one.
"""

import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Engine, Layout
from lesioncli.backends.manifest import StoredEngine
from lesioncli.demo.folder import write_demo
from lesioncli.engines import build_engine
from lesioncli.images.find import ImageFile, ImageListing, list_images
from lesioncli.inference import pipeline
from lesioncli.inference.destination import Destination
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.pools import open_processes
from lesioncli.inference.run import run_images, segment_images
from lesioncli.options import ProcessOptions, SegmentOptions, Status
from lesioncli.process import opencv_on_one_thread, quiet_decoders

SIZES_HW = ((450, 600), (768, 1024))
DRAWN, IMAGES = 40, 400
CORES = (2, 16, 32)
NETWORK_S = 0.012  # of the default model on one core, about
PRELOADED = "LESIONCLI_LOCK_TIME"


@dataclass
class Times:
    """Sums over images: CPU seconds with and without the lock in the threads that decode and write, and releases."""

    held_s: float = 0.0
    free_s: float = 0.0
    releases: int = 0
    images: int = 0


class WaitingEngine(Engine):
    """Each of `depth` slots takes NETWORK_S and no CPU time; its outputs are always the same disc."""

    def __init__(self, stored: StoredEngine, cores: int) -> None:
        manifest = stored.manifest
        layout = Layout.for_batches(manifest.spec, 1)
        super().__init__(manifest, layout, layout.allocate(3 * cores + 2), cores + 1, ["mask", "scores", "agreement"])
        y, x = np.mgrid[: manifest.spec.height, : manifest.spec.width]
        disc = (x - x.mean()) ** 2 + (y - y.mean()) ** 2 < (x.max() / 4) ** 2
        self._outputs = {
            "mask": (disc * np.uint8(230))[None],
            "scores": np.full((1, len(manifest.spec.classes)), 0.3, np.float32),
            "agreement": np.full(1, 0.9, np.float32),
        }
        self._ends = [0.0] * len(self._slots)

    @property
    def device(self) -> str:
        return "nothing"

    def _start(self, number: int) -> None:
        self._ends[number] = time.monotonic() + NETWORK_S

    def _finish(self, number: int) -> dict[str, NDArray[Any]]:
        time.sleep(max(0.0, self._ends[number] - time.monotonic()))
        return self._outputs

    def close(self) -> None:
        pass


def main() -> None:
    if PRELOADED not in os.environ:
        _restart_with_counter()
    quiet_decoders()
    with tempfile.TemporaryDirectory() as name, opencv_on_one_thread():
        work = Path(name)
        stored = StoredEngine(*_engine(work))
        for height, width in SIZES_HW:
            write_demo(work / f"{width}", count=DRAWN, height=height, width=width)
            listing = _repeat(list_images([work / f"{width}/images"]))
            times, rest_s = _measure(listing, stored, work / f"{width}-real")
            _print_times(f"{width}x{height}", times, rest_s)
            for cores in CORES:
                wall, cpu = _simulate(listing, stored, times, cores, work / f"{width}-{cores}")
                print(f"  {cores} cores, simulated: {wall:.0f} images/s, {cpu:.0f} per second of CPU time")
            print(f"  process that writes the rows: {_row_ms(listing, stored, work / f'{width}-two'):.2f} ms per image")


def _restart_with_counter() -> None:
    folder = Path(tempfile.mkdtemp())
    library = folder / "lock_time.so"
    source = Path(__file__).with_name("lock_time.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), PRELOADED: str(library)}
    sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)


def _engine(work: Path) -> tuple[Path, Any]:
    built = build_engine(None, work / "engine")
    return built.path, built.manifest


def _repeat(listing: ImageListing) -> ImageListing:
    turns = range(IMAGES // DRAWN)
    return ImageListing([ImageFile(image.path, f"{turn}/{image.name}") for turn in turns for image in listing.images])


def _counter() -> Any:
    library = ctypes.PyDLL(os.environ[PRELOADED])  # PyDLL: these calls must not release the lock themselves
    library.lock_released_s.restype = ctypes.c_double
    library.lock_releases.restype = ctypes.c_long
    return library


def _measure(listing: ImageListing, stored: StoredEngine, out: Path) -> tuple[Times, float]:
    """Return the times of decoding and writing, and the CPU seconds per image of all the rest, in a real run."""
    counter, times = _counter(), Times()

    def timed(name: str) -> None:
        real = getattr(pipeline._Pipeline, name)

        def call(*arguments: Any) -> Any:
            cpu, released, count = time.thread_time(), counter.lock_released_s(), counter.lock_releases()
            try:
                return real(*arguments)
            finally:
                free_s = counter.lock_released_s() - released
                times.free_s += free_s
                times.held_s += time.thread_time() - cpu - free_s
                times.releases += counter.lock_releases() - count
                times.images += name == "_load"

        setattr(pipeline._Pipeline, name, call)

    originals = {name: getattr(pipeline._Pipeline, name) for name in ("_load", "_write")}
    for name in originals:
        timed(name)
    try:
        cpu = time.process_time()
        segment_images(listing, WaitingEngine(stored, 2), out, SegmentOptions(workers=1))
        cpu = time.process_time() - cpu
    finally:
        for name, original in originals.items():
            setattr(pipeline._Pipeline, name, original)
    return times, (cpu - times.held_s - times.free_s) / times.images


def _print_times(title: str, times: Times, rest_s: float) -> None:
    held_ms, free_ms = (1000 * seconds / times.images for seconds in (times.held_s, times.free_s))
    limit = 1 / (times.held_s / times.images + rest_s)
    print(
        f"{title}: decode and write {held_ms:.2f} ms with the lock, {free_ms:.2f} ms without, in"
        f" {times.releases / times.images:.0f} parts; one thread that drives and writes rows {1000 * rest_s:.2f} ms"
    )
    print(f"  no faster than {limit:.0f} images/s, if nothing else waits for the lock")


def _simulate(listing: ImageListing, stored: StoredEngine, times: Times, cores: int, out: Path) -> tuple[float, float]:
    """Return images per second by the clock and by CPU time, with stages that hold the lock and sleep in turn."""
    parts = max(1, round(times.releases / times.images / 2))
    held_s, free_s = (seconds / times.images / 2 / parts for seconds in (times.held_s, times.free_s))

    def work() -> None:
        for _ in range(parts):
            end = time.thread_time() + held_s
            while time.thread_time() < end:
                pass
            time.sleep(free_s)

    def load(self: Any, image: Any, cycle: Any, index: int) -> Any:
        work()
        return image

    def write(self: Any, image: Any, prediction: Any, index: int) -> Outcome:
        work()
        values = {"melanoma": 0.3, "lesion_area_fraction": 0.2, "confidence": 0.9}
        return Outcome(image, Status.OK, (450, 600), 100_000, values=values, modified_ns=1, image_crc32=1, mask_crc32=1)

    originals = {"_load": pipeline._Pipeline._load, "_write": pipeline._Pipeline._write}
    try:
        setattr(pipeline._Pipeline, "_load", load)  # noqa: B010 - mypy forbids the assignment
        setattr(pipeline._Pipeline, "_write", write)  # noqa: B010 - as above
        cpu, wall = time.process_time(), time.monotonic()
        segment_images(listing, WaitingEngine(stored, cores), out, SegmentOptions(workers=cores))
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    finally:
        for name, original in originals.items():
            setattr(pipeline._Pipeline, name, original)
    return len(listing.images) / wall, len(listing.images) / cpu


def _row_ms(listing: ImageListing, stored: StoredEngine, out: Path) -> float:
    """Return the CPU milliseconds per image of this process while two others segment the images."""
    options = SegmentOptions(processes=ProcessOptions(2))
    with open_processes([stored], options, len(listing.images), lambda text: None) as processes:
        _ = processes.engine  # waits until one is open
        before = _own_cpu_s()
        run_images(listing, processes, Destination(out), options, lambda outcome: None)
        return 1000 * (_own_cpu_s() - before) / len(listing.images)


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
