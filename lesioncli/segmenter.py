"""Segment single images from Python: an open engine that is called with one image after another."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends.base import Cycle, Prediction
from lesioncli.backends.ensemble import open_engines
from lesioncli.engines import ensure_engines, verify_on_gpus
from lesioncli.errors import ImageError, InputError
from lesioncli.files import StrPath
from lesioncli.images.decode import decode
from lesioncli.images.geometry import UInt8, to_full_size
from lesioncli.images.pixels import DecodedImage
from lesioncli.inference.postprocess import make_mask
from lesioncli.inference.prefetch import fill_cycles
from lesioncli.inference.tta import PROCEDURES
from lesioncli.inference.values import CONFIDENCE, image_values
from lesioncli.inference.views import ImageViews
from lesioncli.options import TTA, Backend, FailureStage, Regions, SegmentOptions
from lesioncli.process import count_cores, quiet_decoders
from lesioncli.progress import ReportTo, reporting

Image = NDArray[Any] | StrPath


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for one image of H x W pixels, in the orientation in which its file stores them.

    mask: uint8 (H, W), 0 or 255. probability: uint8 (H, W), lesion probability in 1/255 of every pixel, also of the
    regions that the mask leaves out. scores: score of each class; a probability if the engine is calibrated.
    confidence: expected Jaccard of the mask, 0 to 1. extra: further outputs of the model by name; if the engine is
    calibrated, also the raw values as `raw_melanoma`, ..., `raw_confidence`.
    """

    mask: UInt8
    probability: UInt8
    scores: Mapping[str, float]
    confidence: float
    extra: Mapping[str, float]


class Segmenter:
    """An open engine, as a context manager. Used by one thread, and for one stream at a time.

        with Segmenter() as segmenter:
            result = segmenter(rgb)

    `engine` and `backend` are those of ensure_engine(), which builds the shipped model's engine if there is none;
    several engines are an ensemble.
    `threshold`, `tta`, `regions` and `verify` are those of SegmentOptions.
    """

    def __init__(
        self,
        engine: StrPath | Sequence[StrPath] | None = None,
        *,
        backend: Backend = Backend.AUTO,
        threshold: float = 0.5,
        tta: TTA = TTA.NONE,
        regions: Regions = Regions.LARGEST,
        verify: bool = True,
        progress: ReportTo = False,
    ) -> None:
        quiet_decoders()
        self._options = SegmentOptions(threshold=threshold, tta=tta, regions=regions)
        with reporting(progress) as reporter:
            stored = ensure_engines(engine, backend=backend, progress=reporter)
            for one in stored if verify else ():
                verify_on_gpus(one, [], reporter)
        self._engine = open_engines(stored, count_cores(), PROCEDURES[self._options.tta].layout)
        self._views = ImageViews(self._engine, self._options)
        self._is_streaming = False

    def __call__(self, image: Image) -> Segmentation:
        """Segment one image: RGB uint8 (H, W, 3), or the path of a file.

        The mask of a file is the one that `segment` writes. Raises ImageError if the file cannot be read, and
        InputError if the array is not an RGB image.
        """
        (result,) = self.stream([image])
        return result

    def stream(self, images: Iterable[Image]) -> Generator[Segmentation, None, None]:
        """Yield one result per image, in order. Images are taken from the iterable before earlier results are yielded.

        Raises what a call raises; the stream then ends.
        """
        if self._is_streaming:
            raise RuntimeError("a stream of this Segmenter is still open; finish or close it first")
        self._is_streaming = True
        in_engine: deque[DecodedImage] = deque()
        try:
            with ThreadPoolExecutor(count_cores()) as pool:
                batches = fill_cycles(self._engine, images, self._fill, pool, in_engine)
                with closing(self._engine.stream(batches)) as predictions:
                    for prediction in predictions:
                        for index in range(prediction.batch.images):
                            yield self._finish(in_engine.popleft(), prediction, index)
        finally:
            self._is_streaming = False

    def _fill(self, image: Image, cycle: Cycle, index: int) -> DecodedImage:
        decoded = _decode(image, self._views.at_least_hw)
        self._views.fill(decoded.rgb, cycle, index)
        return decoded

    def _finish(self, decoded: DecodedImage, prediction: Prediction, index: int) -> Segmentation:
        merged = self._views.merge(prediction, index)
        if not merged.is_finite:
            raise ImageError(FailureStage.NETWORK, "a score is not a finite number")
        size_hw, orientation, options = decoded.stored_hw, decoded.orientation, self._options
        lesion = make_mask(merged.probability, size_hw, orientation, options.threshold, options.regions)
        values = image_values(merged, lesion.confidence, self._engine.spec)
        return Segmentation(
            mask=lesion.mask,
            probability=to_full_size(merged.probability, size_hw, orientation),
            scores={name: values.pop(name) for name in self._engine.spec.classes},
            confidence=values.pop(CONFIDENCE),
            extra=values,
        )

    def close(self) -> None:
        """Release the engine."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _decode(image: Image, at_least_hw: tuple[int, int]) -> DecodedImage:
    if isinstance(image, str | os.PathLike):
        try:
            return decode(Path(image), at_least_hw)
        except ImageError as error:
            raise ImageError(error.stage, f"{os.fspath(image)}: {error.reason}") from error
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image: {kind} is not an RGB image; pass a numpy array uint8 (H, W, 3) or a path")
    if not image.size:
        raise InputError(f"image: {image.shape} has no pixels")
    return DecodedImage(np.ascontiguousarray(image), image.shape[:2], 1, "")
