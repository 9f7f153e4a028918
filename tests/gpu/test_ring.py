"""The real pycuda, its copies, streams and events, with a network that torch computes on the memory of the GPU."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu.cards import Card, Delays
from gpu.conftest import MakePlan
from gpu.figures import Figures
from gpu.runs import read_outputs, segment_in_step, segment_with
from gpu.torch_vendor import HostEngine
from helpers.pictures import jaccard, read
from helpers.planted_bugs import RACES

from lesioncli.backends.manifest import read_manifest
from lesioncli.errors import EngineError
from lesioncli.images.find import ImageFile, ImageListing
from lesioncli.inference.run import segment_images

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_thread")]

# Long enough that a thread which is kept waiting by other programs does not hide a race.
DELAYS = (Delays(copy_in=0.02), Delays(compute=0.02), Delays(copy_out=0.02))
# After this one, no call of the process succeeds on a real GPU if a kernel still uses the memory.
HARMLESS_RACES = [name for name in RACES if name != "frees an input before its use"]


@pytest.fixture(scope="module")
def one_thread() -> Any:
    """torch on one thread of the CPU: sums on several are not bit for bit the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("batch", [1, 3])
def test_delays_and_threads_change_no_byte(
    card: Card, make_plan: MakePlan, images: list[ImageFile], tmp_path: Path, batch: int
) -> None:
    plan = make_plan(batch)
    expected = segment_in_step(plan, images, tmp_path / "in-step")
    assert len(expected) == len(images) + 2  # masks, scores.csv, checksums.csv
    for number, workers in enumerate(card.amounts.workers):
        assert segment_with(plan, images, tmp_path / f"out{number}", workers) == expected
    for number, delays in enumerate(DELAYS):
        with card.delays(delays):
            assert segment_with(plan, images, tmp_path / f"late{number}") == expected


def test_masks_agree_with_those_of_the_cpu(
    card: Card, make_plan: MakePlan, images: list[ImageFile], figures: Figures, tmp_path: Path
) -> None:
    plan = make_plan(4)
    with HostEngine(read_manifest(plan), 4) as engine:
        summary = segment_images(ImageListing(images), engine, tmp_path / "cpu")
    segment_with(plan, images, tmp_path / "gpu")
    names = [f"{image.name}.png" for image in images]
    agreement = [jaccard(read(tmp_path / "cpu" / name), read(tmp_path / "gpu" / name)) for name in names]
    figures.add(
        "masks by torch in fp32, on the GPU and on the CPU",
        images=len(images),
        mean_jaccard=float(np.mean(agreement)),
        worst=float(np.min(agreement)),
        cpu_images_per_s=summary.images_per_second,
    )
    assert summary.ok == len(images)
    assert np.mean(agreement) >= 0.999


@pytest.mark.parametrize("race", HARMLESS_RACES)
def test_a_planted_race_shows(
    card: Card,
    make_plan: MakePlan,
    images: list[ImageFile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    race: str,
) -> None:
    """It need not show on every stream that is late, but it must on one of them."""
    plan = make_plan(1)
    expected = segment_in_step(plan, images, tmp_path / "in-step")
    RACES[race].plant(monkeypatch, [])
    shown = []
    for number, delays in enumerate(DELAYS):
        out = tmp_path / f"out{number}"
        with card.delays(delays), suppress(EngineError):
            segment_with(plan, images, out)
        shown.append(read_outputs(out) != expected)
    card.mistakes()
    assert any(shown)


def test_short_memory_is_told_and_freed(
    card: Card, make_plan: MakePlan, images: list[ImageFile], tmp_path: Path
) -> None:
    big = make_plan(256)  # its three lanes need 150 MiB
    segment_with(make_plan(1), images[:2], tmp_path / "warm-up")  # the driver allocates when it is used first
    free_bytes = card.free_bytes()
    with card.short_memory(64 << 20), pytest.raises(EngineError, match=r"--batch \d+$") as caught:
        segment_with(big, images, tmp_path / "out")
    assert 1 <= int(str(caught.value).rpartition(" ")[2]) < 256
    assert abs(card.free_bytes() - free_bytes) < 8 << 20
    assert len(segment_with(make_plan(8), images, tmp_path / "smaller")) == len(images) + 2


def test_torch_works_before_during_and_after(
    card: Card, make_plan: MakePlan, images: list[ImageFile], tmp_path: Path
) -> None:
    square = torch.arange(64.0, device=card.torch_device).reshape(8, 8)
    before = (square @ square).cpu()
    for number in range(3):
        segment_with(make_plan(2), images[:4], tmp_path / str(number))
        assert torch.equal((square @ square).cpu(), before)


def test_no_context_is_current_after_close(card: Card) -> None:
    """In a thread of its own, where torch has made none current."""
    from lesioncli.backends.tensorrt import cuda  # needs pycuda

    found: list[int] = []

    def open_and_close() -> None:
        for _ in range(3):
            found.append(card.current_context())
            device = cuda.Device(0)
            found.append(card.current_context())
            device.close()
            del device
        found.append(card.current_context())

    thread = threading.Thread(target=open_and_close)
    thread.start()
    thread.join()
    assert [bool(context) for context in found] == [False, True] * 3 + [False]
