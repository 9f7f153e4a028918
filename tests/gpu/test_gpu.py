"""On a real NVIDIA GPU: `make test-gpu` runs these and prints what it measured, to paste.

Without a GPU they are skipped, unless they were asked for.
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

from lesioncli.backends.build import Built, build
from lesioncli.backends.registry import open_engine
from lesioncli.backends.tensorrt import compile as tensorrt
from lesioncli.backends.tensorrt import vendors
from lesioncli.backends.tensorrt.driver import find_gpus
from lesioncli.demo.draw import draw_case
from lesioncli.images.find import ImageFile, ImageListing, find_images
from lesioncli.inference.run import segment_images
from lesioncli.inference.trace import Trace
from lesioncli.options import SegmentOptions

pytestmark = pytest.mark.gpu

COPIES = 40  # of each drawn picture, for a run long enough to be timed
BATCHES = (1, 4, 16, 64)


@pytest.fixture(scope="module", autouse=True)
def vendor(request: pytest.FixtureRequest) -> vendors.Vendor:
    """The compiler to test, of those that are installed; without a GPU a skip or, where it was asked for, a failure."""
    gpus, problem = find_gpus()
    if not gpus:
        (pytest.fail if request.config.getoption("-m") == "gpu" else pytest.skip)(f"no GPU to test on: {problem}")
    for each in vendors.VENDORS.values():
        if any(map(importlib.util.find_spec, each.modules)) and (
            each is vendors.TENSORRT or gpus[0].target in vendors.RTX_TARGETS
        ):
            return each
    pytest.fail(f"neither TensorRT nor a TensorRT for RTX that takes {gpus[0]} is installed")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFile]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(25):
        save(folder / f"{seed:02d}.jpg", draw_case(seed, 450, 600).image)
    return find_images([folder])


def compiled(vendor: vendors.Vendor, folder: Path, precision: str, batch: int, pictures: list[UInt8]) -> Built:
    target = (find_gpus()[0][0].target,) if vendor is vendors.RTX else ()
    compiler = tensorrt.open_compiler(vendor, tensorrt.Settings(target))
    return build(shipped_onnx(), folder, pictures, compiler=compiler, precision=precision, batch=batch)


def segmented(manifest: Path, images: list[ImageFile], out: Path, workers: int = 0) -> Mapping[str, UInt8]:
    with open_engine(manifest, 2 * (workers or 16)) as engine:
        summary = segment_images(ImageListing(images), engine, out, SegmentOptions(workers=workers))
    assert (summary.ok, summary.failed) == (len(images), 0)
    return {path.name: read(path) for path in sorted(out.glob("*.png"))}


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999), ("fp16", 0.99)])
def test_masks_agree_with_the_cpu_engine_s(
    vendor: vendors.Vendor,
    engine_manifest: Path,
    parity_images: list[UInt8],
    images: list[ImageFile],
    tmp_path: Path,
    precision: str,
    least: float,
) -> None:
    started = time.monotonic()
    built = compiled(vendor, tmp_path / "engines", precision, 4, parity_images)
    seconds = time.monotonic() - started
    expected = segmented(engine_manifest, images, tmp_path / "cpu")
    found = segmented(built.path, images, tmp_path / "gpu")
    agreement = [jaccard(expected[name], found[name]) for name in expected]
    plan = next(each for each in built.path.parent.glob("*.plan"))
    print(
        f"\n{precision}: built in {seconds:.1f} s, {plan.stat().st_size / 1e6:.1f} MB;"
        f" masks agree with the CPU's at {np.mean(agreement):.5f}, worst {np.min(agreement):.5f}"
    )
    assert np.mean(agreement) >= least


def test_batches_workers_and_reruns_change_nothing(
    vendor: vendors.Vendor, parity_images: list[UInt8], images: list[ImageFile], tmp_path: Path
) -> None:
    """One engine, driven in different ways, writes the same bytes: what differs would be a race."""
    engine = compiled(vendor, tmp_path / "engines", "fp16", 4, parity_images).path
    first = segmented(engine, images, tmp_path / "first")
    for number, workers in enumerate((1, 2, 7, 16, 16, 16)):
        again = segmented(engine, images, tmp_path / f"again{number}", workers)
        assert all(np.array_equal(first[name], again[name]) for name in first)


def test_sustained_throughput(
    vendor: vendors.Vendor, parity_images: list[UInt8], images: list[ImageFile], tmp_path: Path
) -> None:
    many = [ImageFile(each.path, f"{each.path.stem}-{copy}") for copy in range(COPIES) for each in images]
    gpu = find_gpus()[0][0]
    version = vendors.load(vendor).__version__
    print(f"\n{gpu}; {vendor.title} {version}; fp16; {len(many)} pictures of 600x450, files to files")
    for batch in BATCHES:
        engine = compiled(vendor, tmp_path / f"engines{batch}", "fp16", batch, parity_images).path
        with Trace.writing(tmp_path / f"{batch}.json") as trace, open_engine(engine, 64, traced=True) as opened:
            summary = segment_images(
                ImageListing(many), opened, tmp_path / f"out{batch}", SegmentOptions(), trace=trace
            )
        assert summary.ok == len(many)
        share = busy_share(tmp_path / f"{batch}.json")
        print(f"batch {batch}: {summary.images_per_second:.0f} images/s, the GPU computing {share:.0%} of the time")


def busy_share(path: Path) -> float:
    """Of the time between the first and the last batch, the part in which the GPU computed."""
    events = json.loads(path.read_text())
    (track,) = (event["tid"] for event in events if event["ph"] == "M" and event["args"]["name"] == "compute")
    bars = [(event["ts"], event["dur"]) for event in events if event["ph"] == "X" and event["tid"] == track]
    return float(sum(duration for _, duration in bars) / (bars[-1][0] + bars[-1][1] - bars[0][0]))
