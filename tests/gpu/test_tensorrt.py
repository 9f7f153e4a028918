"""Engines that NVIDIA's libraries compile, where one of them is installed."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gpu.cards import Card
from gpu.figures import Figures
from gpu.runs import segment_traced, segment_with
from helpers.pictures import jaccard, read
from helpers.shipped import shipped_onnx

from lesioncli.backends.build import build
from lesioncli.backends.tensorrt.vendors import Vendor
from lesioncli.demo.draw import draw_case
from lesioncli.images.find import ImageFile
from lesioncli.options import Backend, BuildOptions, Precision

pytestmark = pytest.mark.gpu

PARITY_IMAGES = [draw_case(seed, 256, 320).image for seed in range(4)]
COPIES = 200  # of five images, so that a run is long enough to be timed
BATCHES = (1, 4, 16, 64)


def build_here(card: Card, library: Vendor, folder: Path, precision: Precision, batch: int) -> Path:
    targets = () if library.targets is None else (card.gpu.target,)
    options = BuildOptions(backend=library.backend, precision=precision, batch=batch, targets=targets)
    return build(shipped_onnx(), folder, PARITY_IMAGES, options).path


@pytest.mark.parametrize(("precision", "min_jaccard"), [(Precision.FP32, 0.999), (Precision.FP16, 0.99)])
def test_masks_agree_with_those_of_the_cpu_engine(
    card: Card,
    library: Vendor,
    images: list[ImageFile],
    figures: Figures,
    tmp_path: Path,
    precision: Precision,
    min_jaccard: float,
) -> None:
    started = time.monotonic()
    plan = build_here(card, library, tmp_path / "engines", precision, 4)
    seconds = time.monotonic() - started
    options = BuildOptions(backend=Backend.OPENVINO, precision=Precision.FP32)
    segment_with(build(shipped_onnx(), tmp_path / "cpu-engine", PARITY_IMAGES, options).path, images, tmp_path / "cpu")
    segment_with(plan, images, tmp_path / "gpu")
    names = [f"{image.name}.png" for image in images]
    agreement = [jaccard(read(tmp_path / "cpu" / name), read(tmp_path / "gpu" / name)) for name in names]
    figures.add(
        f"{library.title} and OpenVINO",
        precision=str(precision),
        build_s=seconds,
        plan_mb=sum(path.stat().st_size for path in plan.parent.glob("*.plan")) / 1e6,
        mean_jaccard=float(np.mean(agreement)),
        worst=float(np.min(agreement)),
    )
    assert np.mean(agreement) >= min_jaccard


def test_threads_and_reruns_change_nothing(
    card: Card, library: Vendor, images: list[ImageFile], tmp_path: Path
) -> None:
    """One engine writes the same bytes for any number of threads; a difference would be a race."""
    engine = build_here(card, library, tmp_path / "engines", Precision.FP16, 4)
    first = segment_with(engine, images, tmp_path / "first")
    for number, workers in enumerate((1, 2, 7, 16, 16, 16)):
        assert segment_with(engine, images, tmp_path / f"again{number}", workers) == first


def test_throughput_by_batch_size(
    card: Card, library: Vendor, enlarged: Callable[[float], list[ImageFile]], figures: Figures, tmp_path: Path
) -> None:
    images, workers = enlarged(0.3), max(card.amounts.workers)
    for batch in BATCHES:
        engine = build_here(card, library, tmp_path / f"engines{batch}", Precision.FP16, batch)
        summary, busy = segment_traced(engine, images, tmp_path / f"out{batch}", workers, COPIES)
        figures.add(
            f"by batch size: 0.3 megapixels, {workers} threads, {library.title} in fp16",
            batch=batch,
            images_per_s=summary.images_per_second,
            gpu_computes=busy,
        )
        assert 0 < busy <= 1


def test_throughput_by_image_size_and_threads(
    card: Card, library: Vendor, enlarged: Callable[[float], list[ImageFile]], figures: Figures, tmp_path: Path
) -> None:
    engine = build_here(card, library, tmp_path / "engines", Precision.FP16, 16)
    for megapixels in card.amounts.megapixels:
        images = enlarged(megapixels)
        for workers in card.amounts.workers:
            out = tmp_path / f"{megapixels}-{workers}"
            summary, busy = segment_traced(engine, images, out, workers, COPIES // 4)
            figures.add(
                f"by image size and threads: {library.title} in fp16",
                megapixels=megapixels,
                threads=workers,
                images_per_s=summary.images_per_second,
                gpu_computes=busy,
            )
            assert 0 < busy <= 1
