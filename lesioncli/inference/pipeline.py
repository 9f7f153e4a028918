"""The pipeline of a run: decode ahead, run the network, postprocess, write.

One thread drives the engine; a pool of threads decodes ahead of it and writes behind it. Threads suffice because
decoding, resizing and writing release the interpreter lock. The memory of the engine bounds how many images are held.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import cv2
import numpy as np

from lesioncli.backends.base import Cycle, Engine, Prediction
from lesioncli.errors import EngineError, ImageError
from lesioncli.files import stat_file
from lesioncli.images.decode import DecodedImage, OpenedImage
from lesioncli.images.find import ImageFile
from lesioncli.images.geometry import UInt8, to_full_size
from lesioncli.images.mask_like import TWO_LEVELS, has_two_levels
from lesioncli.images.mask_runs import find_runs
from lesioncli.images.pixels import join_notes
from lesioncli.images.stored import FileStatus, ImagePath, StoredFile
from lesioncli.inference.crops import crop_bytes, write_crop
from lesioncli.inference.earlier import ToDo
from lesioncli.inference.fetch import FetchedFile, Fetcher, stored_image
from lesioncli.inference.outcome import Outcome
from lesioncli.inference.pictures import (
    PictureFolder,
    crop_path,
    mask_path,
    overlay_path,
    probability_path,
    write_picture,
    write_probability,
    write_runs,
)
from lesioncli.inference.postprocess import LesionMask, apply_threshold, make_mask
from lesioncli.inference.prefetch import fill_cycles
from lesioncli.inference.results import ResultStore
from lesioncli.inference.shape import measure_shape
from lesioncli.inference.trace import Trace
from lesioncli.inference.values import image_values
from lesioncli.inference.views import ImageViews
from lesioncli.memory import MemoryBudget, opencv_memory_errors
from lesioncli.options import FailureStage, SegmentOptions, Status
from lesioncli.process import count_cores, run_as_batch
from lesioncli.signals import StopRequest

OVERLAY_SIDE_PX = 1024
OVERLAY_RGB = (255, 230, 0)
OVERLAY_JPEG_QUALITY = 88
WRITE_BYTES_PER_PIXEL = 4  # the upsampled probability map, the mask, and the files that are made of them
NO_PIXELS = np.empty((0, 0, 3), np.uint8)
OVER_BUDGET = "not enough memory for this image; give more with --max-memory, use fewer --workers, or downsample it"


@dataclass(frozen=True)
class LoadedImage:
    """An image that was written into rows of a cycle, or the reason why it could not be.

    file_bytes, modified_ns: size and time of the last change of its file, before it was read.
    """

    image: ImageFile
    decoded: DecodedImage | ImageError
    file_bytes: int | None
    modified_ns: int | None
    cpu_seconds: float


def segment(
    images: Sequence[ImageFile],
    engine: Engine,
    store: ResultStore,
    options: SegmentOptions,
    trace: Trace | None = None,
    stop: StopRequest | None = None,
    to_do: Sequence[ToDo | None] | None = None,
) -> Generator[Outcome, None, None]:
    """Yield one Outcome per image, in order; its mask is written by then, its row is up to the caller.

    `to_do` is that of find_to_do(), if it is known already.

    After a request to `stop`, only the images that are in work follow.

    Whatever is wrong with one image is that image's outcome. Raises EngineError if the engine fails, after the outcomes
    of the images that were in the engine, and ValueError if the engine was opened for another TTA.
    """
    views = ImageViews(engine, options)
    if to_do is None:
        to_do = store.find_to_do(images)
    remaining = (image for image, reason in zip(images, to_do, strict=True) if reason)
    pipeline = _Pipeline(remaining, engine, views, store.pictures, options, trace)
    with closing(pipeline.all_outcomes(stop or StopRequest())) as outcomes:
        for image, reason in zip(images, to_do, strict=True):
            outcome = next(outcomes, None) if reason else Outcome(image, Status.SKIPPED)
            if outcome is None:
                return
            yield outcome
        next(outcomes, None)  # raises the error of an engine that failed on the last images


def segment_arriving(
    images: Iterable[ImageFile],
    engine: Engine,
    pictures: PictureFolder,
    options: SegmentOptions,
    processes: int,
    stop: StopRequest,
) -> Generator[Outcome, None, None]:
    """Yield one Outcome per image, in order, as segment() does for images that are all to be segmented.

    They are taken from `images` as the pipeline has room for them. `processes` of this machine share its memory.

    Raises EngineError if the engine fails; the images that it had then have no outcome.
    """
    return _Pipeline(images, engine, ImageViews(engine, options), pictures, options, None, processes).outcomes(stop)


class _Pipeline:
    """The images of a run on their way: in the engine, then being written; both queues are in input order."""

    def __init__(
        self,
        images: Iterable[ImageFile],
        engine: Engine,
        views: ImageViews,
        pictures: PictureFolder,
        options: SegmentOptions,
        trace: Trace | None,
        processes: int = 1,
    ) -> None:
        self._images, self._engine, self._views = images, engine, views
        self._pictures, self._options, self._trace = pictures, options, trace
        self._pool = ThreadPoolExecutor(options.workers or count_cores(), initializer=run_as_batch)
        self._memory = MemoryBudget.choose(options.max_memory_bytes, processes)
        self._fetcher = Fetcher(self._memory)
        self._in_engine: deque[LoadedImage] = deque()
        self._writing: deque[Future[Outcome]] = deque()

    def all_outcomes(self, stop: StopRequest) -> Generator[Outcome, None, None]:
        """Yield the outcomes of all images; if the engine fails, also those of the images that it had."""
        try:
            yield from self.outcomes(stop)
        except EngineError as error:
            for loaded in self._in_engine:
                yield _failed(loaded, ImageError(FailureStage.NETWORK, str(error)))
            raise

    def outcomes(self, stop: StopRequest) -> Generator[Outcome, None, None]:
        """Yield the outcomes of all images; if the engine fails, of those that it finished; if `stop` is set, had.

        If a store becomes unavailable, InputError follows the outcomes of the images that were in work.
        """
        images = takewhile(lambda _: not stop.is_set, self._fetcher.ahead(self._images))
        max_writing = len(self._engine.cycles) * self._engine.layout.images
        try:
            batches = fill_cycles(self._engine, images, self._load, self._pool, self._in_engine)
            with closing(self._engine.stream(batches)) as predictions:
                for prediction in predictions:
                    self._start_writing(prediction)
                    yield from self._written(max_writing)
            yield from self._written(0)
            self._fetcher.raise_problem()
        except EngineError:
            yield from self._written(0)
            raise
        finally:
            self._fetcher.close()
            self._pool.shutdown(cancel_futures=True)

    def _start_writing(self, prediction: Prediction) -> None:
        if self._trace:
            for span in prediction.spans:
                self._trace.add(self._in_engine[0].image.path.name, span)
        for index in range(prediction.batch.images):
            loaded = self._in_engine.popleft()
            self._writing.append(self._pool.submit(self._write, loaded, prediction, index))

    def _written(self, max_writing: int) -> Iterator[Outcome]:
        """Yield the oldest outcomes until at most `max_writing` images are still being written."""
        while len(self._writing) > max_writing:
            yield self._writing.popleft().result()

    def _load(self, image: ImageFile, cycle: Cycle, index: int) -> LoadedImage:
        """Decode an image into its rows of a cycle; a broken one leaves the rows as they are."""
        with self._traced("decode", image):
            started, status = time.thread_time(), None
            path, image = image.path, stored_image(image)
            decoded: DecodedImage | ImageError
            try:
                with self._open(path) as opened:
                    status = opened.status
                    decoded = self._decode_and_fill(opened, cycle, index)
            except ImageError as error:
                decoded = error
            except MemoryError:
                decoded = ImageError(FailureStage.DECODE, OVER_BUDGET)
            if status is None:  # a file that may not be opened has a size nevertheless
                status = _status_if_known(image.path)
            size_bytes, modified_ns = status or (None, None)
            return LoadedImage(image, decoded, size_bytes, modified_ns, time.thread_time() - started)

    def _open(self, path: ImagePath) -> OpenedImage:
        """Open an image; one that is read as a whole, and was not yet, when there is memory for it."""
        if isinstance(path, Path) or (isinstance(path, FetchedFile) and path.is_fetched):
            return OpenedImage(path)
        status = _status_if_known(path)
        with self._memory.reserve(status.size_bytes if status else 0):
            return OpenedImage(path)

    def _decode_and_fill(self, opened: OpenedImage, cycle: Cycle, index: int) -> DecodedImage:
        """Decode an image into its rows of a cycle; return it with the pixels of its overlay, or with none."""
        at_least_hw = self._views.at_least_hw
        with self._memory.reserve(opened.peak_bytes(at_least_hw)):
            decoded = opened.decode(at_least_hw)
            self._views.fill(decoded.rgb, cycle, index)
            note = join_notes(decoded.note, TWO_LEVELS if has_two_levels(decoded.rgb) else "")
            # A large image is freed while its batch is in the engine.
            return replace(
                decoded, note=note, rgb=_reduce_for_overlay(decoded.rgb) if self._options.overlay else NO_PIXELS
            )

    def _write(self, loaded: LoadedImage, prediction: Prediction, index: int) -> Outcome:
        """Return the outcome of an image; its mask is written, unless it failed."""
        try:
            with self._memory.reserve(self._write_bytes(loaded)), opencv_memory_errors():
                return self._write_mask(loaded, prediction, index)
        except MemoryError:
            return _failed(loaded, ImageError(FailureStage.WRITE, OVER_BUDGET))

    def _write_bytes(self, loaded: LoadedImage) -> int:
        """Return an estimate of the memory that writing the pictures of an image takes."""
        if isinstance(loaded.decoded, ImageError):
            return 0
        height, width = loaded.decoded.stored_hw
        of_crop = 0 if self._options.crops is None else crop_bytes(loaded.image.path, loaded.decoded)
        return WRITE_BYTES_PER_PIXEL * height * width + of_crop

    def _write_mask(self, loaded: LoadedImage, prediction: Prediction, index: int) -> Outcome:
        """Merge the views of an image, postprocess its probability map and write its mask."""
        with self._traced("write", loaded.image):
            started = time.thread_time()
            if isinstance(loaded.decoded, ImageError):
                return _failed(loaded, loaded.decoded)
            merged = self._views.merge(prediction, index)
            if not merged.is_finite:
                return _failed(loaded, ImageError(FailureStage.NETWORK, "a score is not a finite number"))
            decoded, options = loaded.decoded, self._options
            lesion = make_mask(
                merged.probability, decoded.stored_hw, decoded.orientation, options.threshold, options.regions
            )
            runs = find_runs(lesion.mask)
            try:
                folder = self._pictures.path
                if self._pictures.may_have_extras:
                    self._pictures.remove_extras(loaded.image)
                mask_crc32 = write_runs(mask_path(folder, loaded.image), runs, folder)
                self._write_extras(loaded.image, decoded, lesion, merged.probability)
            except ImageError as error:  # the file was decoded again for a cut-out
                return _failed(loaded, error)
            except OSError as error:
                return _failed(loaded, ImageError(FailureStage.WRITE, error.strerror or str(error)))
            values = {
                "lesion_area_fraction": runs.area_px / lesion.mask.size,
                **measure_shape(runs, options.mm_per_pixel or decoded.mm_per_pixel),
                **image_values(merged, lesion.confidence, self._engine.spec),
            }
            seconds = {"decode": loaded.cpu_seconds, "write": time.thread_time() - started}
            note = "; ".join(filter(None, (decoded.note, _describe_removed(lesion.removed_regions))))
            return Outcome(
                loaded.image,
                Status.OK,
                decoded.stored_hw,
                loaded.file_bytes,
                note=note,
                values=values,
                seconds=seconds,
                modified_ns=loaded.modified_ns,
                image_crc32=decoded.crc32,
                mask_crc32=mask_crc32,
            )

    def _write_extras(self, image: ImageFile, decoded: DecodedImage, lesion: LesionMask, probability: UInt8) -> None:
        """Write the pictures beside the mask that the options ask for; the probability map is (h, w)."""
        if self._options.overlay:
            _write_overlay(self._pictures.path, image, decoded, lesion)
        if self._options.save_probabilities:
            full_size = to_full_size(probability, decoded.stored_hw, decoded.orientation)
            write_probability(probability_path(self._pictures.path, image), full_size, self._pictures.path)
        if self._options.crops is not None:
            folder = self._pictures.path
            write_crop(crop_path(folder, image), image.path, decoded, lesion.mask, self._options.crops, folder)

    def _traced(self, stage: str, image: ImageFile) -> AbstractContextManager[None]:
        return self._trace.timed(stage, image.path.name) if self._trace else nullcontext()


def _status_if_known(path: ImagePath) -> FileStatus | None:
    if isinstance(path, StoredFile):
        with suppress(OSError):
            return path.status()
        return None
    status = stat_file(path)
    return FileStatus(status.st_size, status.st_mtime_ns) if status else None


def _describe_removed(regions: int) -> str:
    return f"{regions} smaller region{'s' * (regions > 1)} left out" if regions else ""


def _failed(loaded: LoadedImage, error: ImageError) -> Outcome:
    """Return the outcome of an image that failed with `error`, or with its decoding error if it has one."""
    decoded = loaded.decoded
    first, stored_hw = (decoded, (0, 0)) if isinstance(decoded, ImageError) else (error, decoded.stored_hw)
    return Outcome(loaded.image, Status.FAILED, stored_hw, loaded.file_bytes, first.stage, first.reason)


def _reduce_for_overlay(rgb: UInt8) -> UInt8:
    """Downsample an image (h, w, 3) to at most OVERLAY_SIDE_PX."""
    height, width = rgb.shape[:2]
    scale = min(1.0, OVERLAY_SIDE_PX / max(height, width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _write_overlay(folder: Path, image: ImageFile, decoded: DecodedImage, lesion: LesionMask) -> None:
    """Write the reduced upright image with the outline of its mask as a JPEG."""
    rgb = decoded.rgb
    size_hw = (rgb.shape[0], rgb.shape[1])
    mask = apply_threshold(to_full_size(lesion.probability, size_hw), lesion.min_probability)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(rgb, outlines, -1, OVERLAY_RGB, max(2, max(size_hw) // 300), cv2.LINE_AA)
    bgr = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
    options = (cv2.IMWRITE_JPEG_QUALITY, OVERLAY_JPEG_QUALITY)
    write_picture(overlay_path(folder, image), bgr, options, folder)
