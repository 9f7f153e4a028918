"""An image's journey: decoded into its rows, through the engine, merged, grown back, cut once, written.

One thread drives the engine; a pool decodes ahead of it and writes behind it. Everything in the pool releases the
interpreter's lock, so threads suffice. What is held at any time is bounded by the engine's slots.

The unit of work is a cycle of slots. It holds a batch of images of one row each or, where a test procedure shows many
views of a picture, one image (views.py).
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Batch, Engine, Prediction, UInt8
from lesioncli.cores import count_cores
from lesioncli.errors import ImageError
from lesioncli.inference.geometry import to_full_size
from lesioncli.inference.images import Decoded, ImageFile, decode
from lesioncli.inference.outputs import (
    FAILED,
    OK,
    SKIPPED,
    Outcome,
    RunFolder,
    mask_path,
    overlay_path,
    write_mask,
    write_whole,
)
from lesioncli.inference.views import PROCEDURES

OVERLAY_SIDE_PX = 1024
OVERLAY_COLOUR = (255, 230, 0)
NOTHING = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Options:
    """How to run, whatever the engine. workers 0 means one a core; tta names one of PROCEDURES."""

    threshold: float = 0.5
    workers: int = 0
    overlay: bool = False
    tta: str = "none"


@dataclass(frozen=True)
class Filled:
    """An image on its way: decoded into its rows, or the reason why not."""

    image: ImageFile
    decoded: Decoded | ImageError
    seconds: float


def segment(images: Sequence[ImageFile], engine: Engine, out: RunFolder, options: Options) -> Iterator[Outcome]:
    """Yield exactly one Outcome per image, in order; the masks are written when it comes, the row is the caller's.

    The engine's layout must be that of the procedure that the options name, else ValueError. EngineError ends the run;
    whatever is wrong with one image is that image's outcome.
    """
    if engine.layout != PROCEDURES[options.tta].layout(engine.spec, engine.batch_size):
        raise ValueError(f"the engine's slots are not those of test procedure {options.tta!r}")
    cv2.setNumThreads(1)  # the pool below is the parallelism
    done = [
        out.is_done(image) and (not options.overlay or overlay_path(out.folder, image).is_file()) for image in images
    ]
    todo = [image for image, is_done in zip(images, done, strict=True) if not is_done]
    outcomes = _run(todo, engine, out, options)
    for image, is_done in zip(images, done, strict=True):
        yield Outcome(image, SKIPPED) if is_done else next(outcomes)


def _run(images: Sequence[ImageFile], engine: Engine, out: RunFolder, options: Options) -> Iterator[Outcome]:
    pool = ThreadPoolExecutor(options.workers or count_cores())
    filling: deque[list[Future[Filled]]] = deque()
    on_the_way: deque[list[Filled]] = deque()
    writing: deque[Future[Outcome]] = deque()
    size, length = engine.layout.images, len(engine.layout.shapes)
    cycles = [engine.slots[first : first + length] for first in range(0, len(engine.slots), length)]

    def batches() -> Iterator[Batch]:
        count = ceil(len(images) / size)
        for number in range(count):
            # Cycles are filled in turn, `ahead` of the slot handed over: by then the engine has done with theirs.
            for coming in range(number + len(filling), min(number + (1 + engine.ahead) // length, count)):
                group, slots = images[coming * size : (coming + 1) * size], cycles[coming % len(cycles)]
                rows = [pool.submit(_fill, image, slots, index, engine, options) for index, image in enumerate(group)]
                filling.append(rows)
            on_the_way.append([each.result() for each in filling.popleft()])
            for place, shape in enumerate(engine.layout.shapes):
                yield Batch(number % len(cycles) * length + place, shape[0] // size * len(on_the_way[-1]))

    try:
        predictions = engine.stream(batches())
        for cycle in zip(*[predictions] * length, strict=True):
            for index, filled in enumerate(on_the_way.popleft()):
                writing.append(pool.submit(_finish, filled, cycle, index, engine.spec.classes, out, options))
            while len(writing) > len(cycles) * size:
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fill(image: ImageFile, slots: Sequence[UInt8], index: int, engine: Engine, options: Options) -> Filled:
    """Decode an image into its rows of a cycle; a broken one leaves them as they were, and their result is not used."""
    started = time.thread_time()
    procedure = PROCEDURES[options.tta]
    try:
        decoded = decode(image.path, procedure.at_least_hw(engine.spec))
    except ImageError as error:
        return Filled(image, error, time.thread_time() - started)
    procedure.fill(decoded.rgb, slots, index, engine.spec.reduction)
    if not options.overlay:
        decoded = replace(decoded, rgb=NOTHING)  # lets a large picture go while its batch is on the way
    return Filled(image, decoded, time.thread_time() - started)


def _finish(
    filled: Filled,
    cycle: Sequence[Prediction],
    index: int,
    classes: tuple[str, ...],
    out: RunFolder,
    options: Options,
) -> Outcome:
    """Merge what came of an image's rows, grow its probability back, cut it, write the mask."""
    started = time.thread_time()
    decoded = filled.decoded
    if isinstance(decoded, ImageError):
        return Outcome(filled.image, FAILED, stage=decoded.stage, reason=decoded.reason)
    answer = PROCEDURES[options.tta].merge(cycle, index)
    if not answer.finite:
        return Outcome(filled.image, FAILED, decoded.stored_hw, "network", "a score is not a finite number")
    probability, cut = answer.mask, ceil(options.threshold * 255)
    full = to_full_size(probability, decoded.stored_hw, decoded.orientation)
    mask = _cut(full, cut)
    try:
        write_mask(mask_path(out.folder, filled.image), mask)
        if options.overlay:
            _write_overlay(out, filled.image, decoded, probability, cut)
    except OSError as error:
        return Outcome(filled.image, FAILED, decoded.stored_hw, "write", error.strerror or str(error))
    values = {
        **dict(zip(classes, map(float, answer.scores), strict=True)),
        "lesion_area_fraction": cv2.countNonZero(mask) / mask.size,
        "confidence": expected_jaccard(probability, cut),
        **answer.extra,
    }
    seconds = {"decode": filled.seconds, "write": time.thread_time() - started}
    return Outcome(filled.image, OK, decoded.stored_hw, note=decoded.note, values=values, seconds=seconds)


def _cut(probability: UInt8, cut: int) -> UInt8:
    return np.asarray(cv2.threshold(probability, cut - 1, 255, cv2.THRESH_BINARY)[1], np.uint8)


def expected_jaccard(probability: NDArray[np.uint8], cut: int) -> float:
    """The Jaccard that a mask would have if its probabilities (in 1/255) were true; near 1 where nothing is in doubt.

    Expected intersection over expected union of the mask cut at `cut`; an empty mask is as sure as its likeliest pixel
    is unlikely.
    """
    lesion = probability >= cut
    if not lesion.any():
        return 1 - float(probability.max()) / 255
    inside = float(probability[lesion].sum(dtype=np.int64)) / 255
    outside = float(probability[~lesion].sum(dtype=np.int64)) / 255
    return inside / (np.count_nonzero(lesion) + outside)


def _write_overlay(out: RunFolder, image: ImageFile, decoded: Decoded, probability: UInt8, cut: int) -> None:
    """The outline drawn over the upright picture, reduced to at most OVERLAY_SIDE_PX, as a JPEG."""
    height, width = decoded.rgb.shape[:2]
    scale = min(1.0, OVERLAY_SIDE_PX / max(height, width))
    size_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = np.asarray(cv2.resize(decoded.rgb, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    mask = _cut(to_full_size(probability, size_hw), cut)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, OVERLAY_COLOUR, max(2, max(size_hw) // 300), cv2.LINE_AA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_whole(overlay_path(out.folder, image), np.asarray(encoded).tobytes())
