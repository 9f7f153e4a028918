"""Tests on a real NVIDIA GPU: `make test-gpu` runs them and prints its measurements.

Without a GPU they are skipped, unless only they were asked for.
"""

import importlib.util
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers.pictures import UInt8, jaccard, read, save
from helpers.shipped import shipped_onnx

from lesioncli.backends.build import BuiltEngine, build
from lesioncli.backends.registry import open_engine
from lesioncli.backends.tensorrt import vendors
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.demo.draw import draw_case
from lesioncli.images.find import ImageFile, ImageListing, find_images
from lesioncli.inference.run import segment_images
from lesioncli.inference.trace import Trace
from lesioncli.options import BuildOptions, Precision, SegmentOptions

pytestmark = pytest.mark.gpu

COPIES = 40  # of every drawn image, so that the run is long enough to be timed
BATCHES = (1, 4, 16, 64)


@pytest.fixture(scope="module", autouse=True)
def vendor(request: pytest.FixtureRequest) -> vendors.Vendor:
    """The installed library to test; without a GPU, skip, or fail if the tests were asked for."""
    listing = find_gpus()
    if not listing.gpus:
        stop = pytest.fail if request.config.getoption("-m") == "gpu" else pytest.skip
        stop(f"no GPU to test on: {listing.problem}")
    gpu = listing.gpus[0]
    for candidate in vendors.VENDORS.values():
        if any(map(importlib.util.find_spec, candidate.modules)) and candidate.supports(gpu):
            return candidate
    pytest.fail(f"neither TensorRT nor a TensorRT for RTX that supports {gpu} is installed")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(25):
        save(folder / f"{seed:02d}.jpg", draw_case(seed, 450, 600).image)
    return find_images([folder])


def build_here(
    vendor: vendors.Vendor, folder: Path, precision: Precision, batch: int, images: list[UInt8]
) -> BuiltEngine:
    targets = () if vendor.targets is None else (find_gpus().gpus[0].target,)
    options = BuildOptions(backend=vendor.backend, precision=precision, batch=batch, targets=targets)
    return build(shipped_onnx(), folder, images, options)


def segment_with(manifest: Path, images: list[ImageFile], out: Path, workers: int = 0) -> Mapping[str, UInt8]:
    with open_engine(manifest, 2 * (workers or 16)) as engine:
        summary = segment_images(ImageListing(images), engine, out, SegmentOptions(workers=workers))
    assert (summary.ok, summary.failed) == (len(images), 0)
    return {path.name: read(path) for path in sorted(out.glob("*.png"))}


@pytest.mark.parametrize(("precision", "min_jaccard"), [(Precision.FP32, 0.999), (Precision.FP16, 0.99)])
def test_masks_agree_with_those_of_the_cpu_engine(
    vendor: vendors.Vendor,
    engine_manifest: Path,
    parity_images: list[UInt8],
    images: list[ImageFile],
    tmp_path: Path,
    precision: Precision,
    min_jaccard: float,
) -> None:
    started = time.monotonic()
    built = build_here(vendor, tmp_path / "engines", precision, 4, parity_images)
    seconds = time.monotonic() - started
    expected = segment_with(engine_manifest, images, tmp_path / "cpu")
    masks = segment_with(built.path, images, tmp_path / "gpu")
    agreement = [jaccard(expected[name], masks[name]) for name in expected]
    plan = next(built.path.parent.glob("*.plan"))
    print(
        f"\n{precision}: built in {seconds:.1f} s, {plan.stat().st_size / 1e6:.1f} MB;"
        f" masks agree with the CPU's at {np.mean(agreement):.5f}, worst {np.min(agreement):.5f}"
    )
    assert np.mean(agreement) >= min_jaccard


def test_batches_workers_and_reruns_change_nothing(
    vendor: vendors.Vendor, parity_images: list[UInt8], images: list[ImageFile], tmp_path: Path
) -> None:
    """One engine writes the same bytes for any number of threads; a difference would be a race."""
    engine = build_here(vendor, tmp_path / "engines", Precision.FP16, 4, parity_images).path
    first = segment_with(engine, images, tmp_path / "first")
    for number, workers in enumerate((1, 2, 7, 16, 16, 16)):
        again = segment_with(engine, images, tmp_path / f"again{number}", workers)
        assert all(np.array_equal(first[name], again[name]) for name in first)


def test_sustained_throughput(
    vendor: vendors.Vendor, parity_images: list[UInt8], images: list[ImageFile], tmp_path: Path
) -> None:
    many = [
        ImageFile(image.local_path, f"{image.local_path.stem}-{copy}") for copy in range(COPIES) for image in images
    ]
    gpu = find_gpus().gpus[0]
    version = vendors.load(vendor).__version__
    print(f"\n{gpu}; {vendor.title} {version}; fp16; {len(many)} images of 600x450, from files to files")
    for batch in BATCHES:
        engine = build_here(vendor, tmp_path / f"engines{batch}", Precision.FP16, batch, parity_images).path
        with Trace.writing(tmp_path / f"{batch}.json") as trace, open_engine(engine, 64, traced=True) as opened:
            summary = segment_images(
                ImageListing(many), opened, tmp_path / f"out{batch}", SegmentOptions(), trace=trace
            )
        assert summary.ok == len(many)
        share = busy_share(tmp_path / f"{batch}.json")
        print(f"batch {batch}: {summary.images_per_second:.0f} images/s, the GPU computing {share:.0%} of the time")


def busy_share(path: Path) -> float:
    """Return the share of the time between the first and the last batch in which the GPU computed."""
    events = json.loads(path.read_text())
    (track,) = (event["tid"] for event in events if event["ph"] == "M" and event["args"]["name"] == "compute")
    bars = [(event["ts"], event["dur"]) for event in events if event["ph"] == "X" and event["tid"] == track]
    return float(sum(duration for _, duration in bars) / (bars[-1][0] + bars[-1][1] - bars[0][0]))
