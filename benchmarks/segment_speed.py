"""Compare the speed of `segment` with its bound, and say what limits it: `make bench`, on an otherwise idle machine.

    python benchmarks/segment_speed.py [FOLDER_OF_IMAGES]

Whole runs are timed, ROUNDS times, after one that is not counted. Decoding and writing are timed inside of them, by
the CPU time of their threads; the network alone, before each run. The bound is cores / sum of the three.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lesioncli.backends.base import Engine, predict
from lesioncli.backends.manifest import StoredEngine
from lesioncli.backends.registry import open_engine
from lesioncli.demo.folder import write_demo
from lesioncli.engines import build_engine
from lesioncli.images.decode import decode
from lesioncli.images.find import ImageFile, ImageListing, find_images
from lesioncli.images.geometry import UInt8, to_network
from lesioncli.inference.run import segment_images
from lesioncli.options import Backend, BuildOptions
from lesioncli.process import count_cores, opencv_on_one_thread, quiet_decoders

ROUNDS = 5
MIN_IMAGES = 600  # smaller sets are repeated, so that start-up does not dominate
NETWORK_IMAGES = 32
MANY_CORES = 8  # docs/scale.md has what is known of more
MIN_BUSY = 0.85  # share of the cores that a run uses if nothing waits

ADVICE = {
    "network": "use a processor with VNNI, or a GPU, the smaller of the shipped models, and no --tta",
    "decode": "give JPEGs instead of PNG or TIFF: they are reduced while they are decoded",
    "write": "leave out --overlay, --save-probabilities and --crops",
    "rest": "give more images per run, and compare with an older version: make bench-check",
    "waiting": "copy images and --out to a local disk, raise --workers, stop other programs",
}


@dataclass(frozen=True)
class Round:
    """One run: CPU milliseconds per image by stage, images per second, and the share of the cores in use."""

    stages: Mapping[str, float]
    rate: float
    busy: float

    @property
    def bound(self) -> float:
        """The images per second that the cores allow if only the three stages take time."""
        return 1000 * count_cores() / sum(value for name, value in self.stages.items() if name != "rest")


def main() -> None:
    quiet_decoders()
    with TemporaryDirectory() as name, opencv_on_one_thread():
        work = Path(name)
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _drawn(work)
        found = find_images([folder])
        images = [
            ImageFile(image.path, f"{number}/{image.name}")
            for number in range(-(-MIN_IMAGES // len(found)))
            for image in found
        ]
        engine = build_engine(None, work / "engine", BuildOptions(backend=Backend.OPENVINO))
        inputs = _network_inputs(images[:NETWORK_IMAGES], engine)
        rounds = [_run(images, engine, inputs, work / f"masks{number}") for number in range(1 + ROUNDS)]
        print(f"{len(images)} images, {count_cores()} cores, {engine.manifest.precision}")
        report(rounds[1:])


def report(rounds: Sequence[Round]) -> None:
    """Print medians over the rounds, what limits them, and what to do about it."""
    stages = {name: statistics.median(each.stages[name] for each in rounds) for name in rounds[0].stages}
    total = sum(stages.values())
    shares = [f"{name} {value:.1f} ({value / total:.0%})" for name, value in stages.items()]
    rate = statistics.median(each.rate for each in rounds)
    bound = statistics.median(each.bound for each in rounds)
    busy = statistics.median(each.busy for each in rounds)
    limit = max(stages, key=lambda name: stages[name])
    print(f"CPU ms per image: {', '.join(shares)}")
    print(f"bound {bound:.0f} images/s; segment {rate:.0f} images/s, {rate / bound:.0%} of the bound")
    print(f"cores in use {busy:.0%}; with all of them, {1 - stages['rest'] / total:.0%} of the bound")
    if busy < MIN_BUSY:
        print(f"waiting limits: {ADVICE['waiting']}")
    print(f"{limit} takes most of the CPU time: {ADVICE[limit]}")
    if count_cores() > MANY_CORES:
        print(f"more than {MANY_CORES} cores: one process may not use all of them; compare with segment --processes")


def _network_inputs(images: Sequence[ImageFile], engine: StoredEngine) -> list[UInt8]:
    spec = engine.manifest.spec
    size_hw = (spec.height, spec.width)
    return [to_network(decode(image.path, size_hw).rgb, *size_hw, spec.reduction) for image in images]


def _run(images: Sequence[ImageFile], stored: StoredEngine, inputs: Sequence[UInt8], out: Path) -> Round:
    with open_engine(stored, 2 * count_cores()) as engine:
        network_s = _network_seconds(engine, inputs)
        started, wall = time.process_time(), time.monotonic()
        summary = segment_images(ImageListing(list(images)), engine, out)
        cpu_s, wall_s = time.process_time() - started, time.monotonic() - wall
    stages = {"network": 1000 * network_s / len(inputs)}
    stages |= {name: 1000 * seconds / len(images) for name, seconds in summary.cpu_seconds.items()}
    stages["rest"] = max(0.0, 1000 * cpu_s / len(images) - sum(stages.values()))
    return Round(stages, len(images) / wall_s, cpu_s / wall_s / count_cores())


def _network_seconds(engine: Engine, inputs: Sequence[UInt8]) -> float:
    """Return the CPU time of the network alone, the first images of an engine aside."""
    predict(engine, inputs)
    started = time.process_time()
    predict(engine, inputs)
    return time.process_time() - started


def _drawn(work: Path) -> Path:
    write_demo(work / "drawn", count=30, height=768, width=1024)
    return work / "drawn" / "images"


if __name__ == "__main__":
    main()
