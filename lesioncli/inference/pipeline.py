"""An image's journey: decoded into its rows, through the engine, merged, grown back, cut once, written.

One thread drives the engine; a pool decodes ahead of it and writes behind it. Everything in the pool releases the
interpreter's lock, so threads suffice. What is held at any time is bounded by the engine's slots.

The unit of work is a cycle of slots. It holds a batch of images of one row each or, where a test procedure shows many
views of a picture, one image (views.py).
"""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from math import ceil

import cv2
import numpy as np

from lesioncli.backends.base import Batch, Engine, Prediction, UInt8
from lesioncli.errors import EngineError, ImageError
from lesioncli.images.files import Decoded, ImageFile, decode, file_bytes
from lesioncli.images.geometry import to_full_size
from lesioncli.inference.postprocess import cut_at, expected_jaccard, largest_region
from lesioncli.inference.results import (
    FAILED,
    OK,
    SKIPPED,
    Outcome,
    RunFolder,
    mask_path,
    overlay_path,
    write_mask,
    write_picture,
)
from lesioncli.inference.trace import Trace
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import FailureStage
from lesioncli.process import count_cores

OVERLAY_SIDE_PX = 1024
OVERLAY_COLOUR = (255, 230, 0)
NOTHING = np.empty((0, 0, 3), np.uint8)
REGIONS = ("largest", "all")  # of the lesion: what of it the mask keeps


@dataclass(frozen=True)
class Options:
    """How to run, whatever the engine. workers 0 means one a core; tta names one of PROCEDURES, regions one of REGIONS;
    a trace is told all.
    """

    threshold: float = 0.5
    workers: int = 0
    overlay: bool = False
    tta: str = "none"
    regions: str = "largest"
    trace: Trace | None = None

    def timed(self, what: str, image: ImageFile) -> AbstractContextManager[None]:
        """What is done inside goes into the trace, if there is one."""
        return self.trace.timed(what, image.path.name) if self.trace else nullcontext()


@dataclass(frozen=True)
class Filled:
    """An image on its way: decoded into its rows, or the reason why not; and the size of its file before that."""

    image: ImageFile
    decoded: Decoded | ImageError
    file_bytes: int | None
    seconds: float


def segment(
    images: Sequence[ImageFile], engine: Engine, out: RunFolder, options: Options
) -> Generator[Outcome, None, None]:
    """Yield exactly one Outcome per image, in order; the masks are written when it comes, the row is the caller's.

    The engine's layout must be that of the procedure that the options name, else ValueError. EngineError ends the run,
    after the outcomes of the images that were on their way; whatever is wrong with one image is that image's outcome.
    """
    if engine.layout != PROCEDURES[options.tta].layout(engine.spec, engine.batch_size):
        raise ValueError(f"the engine's slots are not those of test procedure {options.tta!r}")
    cv2.setNumThreads(1)  # the pool below is the parallelism
    done = [
        out.is_done(image) and (not options.overlay or overlay_path(out.folder, image).is_file()) for image in images
    ]
    todo = [image for image, is_done in zip(images, done, strict=True) if not is_done]
    with closing(_Run(todo, engine, out, options).outcomes()) as outcomes:
        for image, is_done in zip(images, done, strict=True):
            yield Outcome(image, SKIPPED) if is_done else next(outcomes)


class _Run:
    """What is on its way: images being decoded, images in the engine, masks being written; each in input order."""

    def __init__(self, images: Sequence[ImageFile], engine: Engine, out: RunFolder, options: Options) -> None:
        self._images, self._engine, self._out, self._options = images, engine, out, options
        self._pool = ThreadPoolExecutor(options.workers or count_cores())
        self._filling: deque[list[Future[Filled]]] = deque()
        self._in_engine: deque[list[Filled]] = deque()
        self._writing: deque[Future[Outcome]] = deque()
        self._size, self._length = engine.layout.images, len(engine.layout.shapes)
        slots, length = engine.slots, self._length
        self._cycles = [slots[first : first + length] for first in range(0, len(slots), length)]

    def outcomes(self) -> Generator[Outcome, None, None]:
        """All of them; where the engine fails, also those of the images that it had."""
        try:
            with closing(self._engine.stream(self._batches())) as predictions:
                for cycle in zip(*[predictions] * self._length, strict=True):
                    self._write(cycle)
                    yield from self._written(len(self._cycles) * self._size)
            yield from self._written(0)
        except EngineError as error:
            yield from self._written(0)
            for filled in chain(*self._in_engine):
                yield _fail(filled, ImageError(FailureStage.NETWORK, str(error)))
            raise
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _batches(self) -> Iterator[Batch]:
        count = ceil(len(self._images) / self._size)
        for number in range(count):
            self._decode_ahead(number, count)
            self._in_engine.append([each.result() for each in self._filling.popleft()])
            for place, shape in enumerate(self._engine.layout.shapes):
                slot = number % len(self._cycles) * self._length + place
                yield Batch(slot, shape[0] // self._size * len(self._in_engine[-1]))

    def _decode_ahead(self, number: int, count: int) -> None:
        """Fill cycles in turn, `ahead` of the slot handed over: by then the engine has done with theirs."""
        for coming in range(number + len(self._filling), min(number + (1 + self._engine.ahead) // self._length, count)):
            group = self._images[coming * self._size : (coming + 1) * self._size]
            slots = self._cycles[coming % len(self._cycles)]
            self._filling.append(
                [self._pool.submit(self._fill, image, slots, index) for index, image in enumerate(group)]
            )

    def _write(self, cycle: Sequence[Prediction]) -> None:
        group = self._in_engine.popleft()
        if trace := self._options.trace:
            for span in chain(*(each.spans for each in cycle)):
                trace.add(group[0].image.path.name, span)
        for index, filled in enumerate(group):
            self._writing.append(self._pool.submit(self._finish, filled, cycle, index))

    def _written(self, at_most: int) -> Iterator[Outcome]:
        """Outcomes of the oldest, until no more than `at_most` are still being written."""
        while len(self._writing) > at_most:
            yield self._writing.popleft().result()

    def _fill(self, image: ImageFile, slots: Sequence[UInt8], index: int) -> Filled:
        with self._options.timed("decode", image):
            return _fill(image, slots, index, self._engine, self._options)

    def _finish(self, filled: Filled, cycle: Sequence[Prediction], index: int) -> Outcome:
        with self._options.timed("write", filled.image):
            return _finish(filled, cycle, index, self._engine.spec.classes, self._out, self._options)


def _fill(image: ImageFile, slots: Sequence[UInt8], index: int, engine: Engine, options: Options) -> Filled:
    """Decode an image into its rows of a cycle; a broken one leaves them as they were, and their result is not used."""
    started = time.thread_time()
    procedure = PROCEDURES[options.tta]
    size = file_bytes(image.path)
    try:
        decoded = decode(image.path, procedure.at_least_hw(engine.spec))
    except ImageError as error:
        return Filled(image, error, size, time.thread_time() - started)
    procedure.fill(decoded.rgb, slots, index, engine.spec.reduction)
    if not options.overlay:
        decoded = replace(decoded, rgb=NOTHING)  # lets a large picture go while its batch is on the way
    return Filled(image, decoded, size, time.thread_time() - started)


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
        return _fail(filled, decoded)
    answer = PROCEDURES[options.tta].merge(cycle, index)
    if not answer.finite:
        return _fail(filled, ImageError(FailureStage.NETWORK, "a score is not a finite number"))
    cut = ceil(options.threshold * 255)
    lesion, left_out = answer.mask >= cut, 0
    if options.regions == "largest":
        lesion, left_out = largest_region(lesion)
    # What was left out is a shade too little to be lesion, as if the network had said so: nothing of it grows back.
    probability = np.where(lesion, answer.mask, np.minimum(answer.mask, cut - 1))
    mask = cut_at(to_full_size(probability, decoded.stored_hw, decoded.orientation), cut)
    try:
        out.remove_overlay(filled.image)  # of the picture before: this run may draw none
        write_mask(mask_path(out.folder, filled.image), mask)
        if options.overlay:
            _write_overlay(out, filled.image, decoded, probability, cut)
    except OSError as error:
        return _fail(filled, ImageError(FailureStage.WRITE, error.strerror or str(error)))
    values = {
        **dict(zip(classes, map(float, answer.scores), strict=True)),
        "lesion_area_fraction": cv2.countNonZero(mask) / mask.size,
        "confidence": expected_jaccard(answer.mask, lesion),
        **answer.extra,
    }
    seconds = {"decode": filled.seconds, "write": time.thread_time() - started}
    notes = (decoded.note, f"{left_out} smaller region{'s' * (left_out > 1)} left out" if left_out else "")
    note = "; ".join(filter(None, notes))
    return Outcome(filled.image, OK, decoded.stored_hw, filled.file_bytes, note=note, values=values, seconds=seconds)


def _fail(filled: Filled, error: ImageError) -> Outcome:
    """The outcome of an image that failed with `error`, or that could not be decoded before it came to that."""
    decoded = filled.decoded
    first, stored_hw = (decoded, (0, 0)) if isinstance(decoded, ImageError) else (error, decoded.stored_hw)
    return Outcome(filled.image, FAILED, stored_hw, filled.file_bytes, first.stage, first.reason)


def _write_overlay(out: RunFolder, image: ImageFile, decoded: Decoded, probability: UInt8, cut: int) -> None:
    """The outline drawn over the upright picture, reduced to at most OVERLAY_SIDE_PX, as a JPEG."""
    height, width = decoded.rgb.shape[:2]
    scale = min(1.0, OVERLAY_SIDE_PX / max(height, width))
    size_hw = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = np.asarray(cv2.resize(decoded.rgb, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    mask = cut_at(to_full_size(probability, size_hw), cut)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, OVERLAY_COLOUR, max(2, max(size_hw) // 300), cv2.LINE_AA)
    bgr = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
    write_picture(overlay_path(out.folder, image), bgr, (cv2.IMWRITE_JPEG_QUALITY, 88))
