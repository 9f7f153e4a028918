"""Measurements on the GPU under test: copies, and whole runs by batch size, image size and number of threads."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu.cards import Card
from gpu.conftest import MakePlan
from gpu.figures import Figures
from gpu.runs import segment_traced

from lesioncli.images.find import ImageFile

pytestmark = pytest.mark.gpu

COPIES = 10  # of each size
IMAGES_PER_SIZE = 5


@pytest.fixture
def device(card: Card) -> Iterator[Any]:
    from lesioncli.backends.tensorrt import cuda  # needs pycuda

    opened = cuda.Device(0, traced=True)
    yield opened
    opened.close()


def test_copies_from_pinned_memory_are_not_slower(card: Card, device: Any, figures: Figures) -> None:
    pageable_s = pinned_s = 0.0
    for nbytes in card.amounts.copy_bytes:
        memory = device.allocate(nbytes)
        places = {"pinned": device.pinned((nbytes,), np.uint8), "pageable": np.ones(nbytes, np.uint8)}
        seconds = {name: copy_seconds(device, memory, array) for name, array in places.items()}
        figures.add(
            "copy rates in GB/s",
            KiB=nbytes >> 10,
            **{
                f"{name}_{direction}": nbytes / took / 1e9
                for name, pair in seconds.items()
                for direction, took in zip(("in", "out"), pair, strict=True)
            },
        )
        pinned_s, pageable_s = sum(seconds["pinned"]), sum(seconds["pageable"])
    if card.is_real:  # of the largest size
        assert pinned_s <= pageable_s


def copy_seconds(device: Any, memory: Any, host: Any) -> tuple[float, float]:
    """Return the time that a copy to the GPU takes, and one back, by the GPU's own clock."""
    import pycuda.driver as cuda  # the stand-in may be lent only now

    begin, middle, end = (device.event() for _ in range(3))
    cuda.memcpy_htod_async(memory, host, device.copy_in)  # the first copy of an array is slower
    begin.record(device.copy_in)
    for _ in range(COPIES):
        cuda.memcpy_htod_async(memory, host, device.copy_in)
    middle.record(device.copy_in)
    for _ in range(COPIES):
        cuda.memcpy_dtoh_async(host, memory, device.copy_in)
    end.record(device.copy_in)
    end.synchronize()
    return begin.time_till(middle) / 1000 / COPIES, middle.time_till(end) / 1000 / COPIES


def test_the_clock_of_copies_is_right(card: Card, device: Any) -> None:
    """The stand-in copies at a known rate; a GPU has none that is known."""
    if card.is_real:
        pytest.skip("only over the stand-in")
    card.driver.set_costs(in_rate=5e7, out_rate=25e6)  # type: ignore[attr-defined]
    nbytes = 1 << 20
    seconds_in, seconds_out = copy_seconds(device, device.allocate(nbytes), device.pinned((nbytes,), np.uint8))
    assert seconds_in == pytest.approx(nbytes / 5e7, rel=0.5)
    assert seconds_out == pytest.approx(nbytes / 25e6, rel=0.5)


def test_runs_by_batch_size(
    card: Card, make_plan: MakePlan, enlarged: Callable[[float], list[ImageFile]], figures: Figures, tmp_path: Path
) -> None:
    images, workers = enlarged(0.3), max(card.amounts.workers)
    for batch in card.amounts.batches:
        summary, busy = segment_traced(
            make_plan(batch), images, tmp_path / f"out{batch}", workers, card.amounts.images // IMAGES_PER_SIZE + 1
        )
        figures.add(
            f"by batch size: 0.3 megapixels, {workers} threads, torch in fp32",
            batch=batch,
            images_per_s=summary.images_per_second,
            gpu_computes=busy,
        )
        assert 0 < busy <= 1


def test_runs_by_image_size_and_threads(
    card: Card, make_plan: MakePlan, enlarged: Callable[[float], list[ImageFile]], figures: Figures, tmp_path: Path
) -> None:
    plan = make_plan(min(16, max(card.amounts.batches)))
    for megapixels in card.amounts.megapixels:
        images = enlarged(megapixels)
        for workers in card.amounts.workers:
            out = tmp_path / f"{megapixels}-{workers}"
            copies = card.amounts.images // IMAGES_PER_SIZE + 1
            summary, busy = segment_traced(plan, images, out, workers, copies)
            figures.add(
                "by image size and threads: torch in fp32",
                megapixels=megapixels,
                threads=workers,
                images_per_s=summary.images_per_second,
                cpu_ms_per_image=1000 * sum(summary.cpu_seconds.values()) / (copies * IMAGES_PER_SIZE),
                gpu_computes=busy,
            )
            assert 0 < busy <= 1
