"""Compare the speed of `segment` with its bound: `make bench`, on an otherwise idle machine.

    python benchmarks/segment_speed.py [FOLDER_OF_IMAGES]

Each stage is timed alone, in CPU seconds per image: decoding (with downsampling to the network's size), network, and
writing (upsampling, threshold, PNG). The bound is cores / sum of the stages. Whole runs are timed by the wall clock in
the same process, and their best and median are compared with the bound.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import cv2
import numpy as np

from lesioncli.backends.base import predict_all
from lesioncli.backends.build import build
from lesioncli.backends.registry import open_engine
from lesioncli.demo.draw import draw_case
from lesioncli.demo.folder import write_demo
from lesioncli.images.decode import decode
from lesioncli.images.find import ImageFile, ImageListing, find_images
from lesioncli.images.geometry import to_full_size, to_network
from lesioncli.inference.pictures import write_mask
from lesioncli.inference.run import segment_images
from lesioncli.options import Backend, BuildOptions, SegmentOptions
from lesioncli.process import count_cores
from lesioncli.shipped import SHIPPED_MODEL, assemble_graph

Result = TypeVar("Result")

ROUNDS = 5
MIN_IMAGES = 150  # smaller sets are repeated, so that start-up does not dominate


def main() -> None:
    with TemporaryDirectory() as work:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _drawn(Path(work))
        found = find_images([folder])
        images = [
            ImageFile(each.path, f"{number}/{each.name}")
            for number in range(-(-MIN_IMAGES // len(found)))
            for each in found
        ]
        pictures = [draw_case(seed, 256, 320).image for seed in range(32)]  # as build-engine does
        manifest = build(
            assemble_graph(SHIPPED_MODEL, Path(work)), Path(work), pictures, BuildOptions(backend=Backend.OPENVINO)
        ).path
        _report(images, manifest, Path(work))


def _report(images: list[ImageFile], manifest: Path, work: Path) -> None:
    cv2.setNumThreads(1)
    with open_engine(manifest) as engine:
        size_hw = (engine.spec.height, engine.spec.width)
        precision = engine.manifest.precision
    decode_s, decoded = _cpu_seconds(lambda: [decode(each.path, size_hw) for each in images[:MIN_IMAGES]])
    reduce_s, inputs = _cpu_seconds(lambda: [to_network(each.rgb, *size_hw) for each in decoded])
    network_s, outputs = _cpu_seconds(lambda: predict_all(open_engine(manifest, images_ahead=4), inputs))
    load_s, _ = _cpu_seconds(lambda: open_engine(manifest, images_ahead=4).close())

    def write() -> None:
        for mask, each in zip(outputs.probability, decoded, strict=True):
            full = to_full_size(mask, each.stored_hw, each.orientation)
            write_mask(work / "one.png", np.asarray(cv2.threshold(full, 127, 255, cv2.THRESH_BINARY)[1], np.uint8))

    write_s, _ = _cpu_seconds(write)
    stages = {"decode": decode_s + reduce_s, "network": network_s - load_s, "write": write_s}
    per_image = {name: seconds / len(inputs) for name, seconds in stages.items()}
    bound = count_cores() / sum(per_image.values())
    rates = [_rate(images, manifest, work / f"masks{number}") for number in range(ROUNDS)]
    best, median = max(rates), statistics.median(rates)
    print(f"{len(images)} images, {count_cores()} cores, {precision}")
    print("CPU ms per image: " + ", ".join(f"{name} {1000 * value:.1f}" for name, value in per_image.items()))
    print(f"bound {bound:.0f} images/s")
    print(f"segment {median:.0f} images/s, {median / bound:.0%} of the bound (median of {ROUNDS})")
    print(f"        {best:.0f} images/s, {best / bound:.0%} (best)")


def _rate(images: list[ImageFile], manifest: Path, out: Path) -> float:
    with open_engine(manifest, images_ahead=4) as engine:
        return segment_images(ImageListing(images), engine, out, SegmentOptions()).images_per_second


def _cpu_seconds(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _drawn(work: Path) -> Path:
    write_demo(work / "drawn", count=30, height=768, width=1024)
    return work / "drawn" / "images"


if __name__ == "__main__":
    main()
