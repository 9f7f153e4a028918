"""Pictures of the gallery: the downsampled image, and the outlines of its masks as SVG paths over it."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.errors import ImageError
from lesioncli.evaluation.reading.masks import MaskRole, read_mask
from lesioncli.images.decode import OUT_OF_MEMORY, DecodedImage, decode
from lesioncli.images.geometry import to_upright
from lesioncli.images.stored import ImagePath
from lesioncli.memory import opencv_memory_errors
from lesioncli.process import count_cores
from lesioncli.report.cases import Case, CaseState

MAX_SIDE_PX = 512  # longer side; as WebP this takes 10 KB on average, as a JPEG of the same quality 18 KB
WEBP_QUALITY = 80
WEBP_EFFORT = 2  # from effort 4 on, encoding takes twice the time for 3 % less

GRID = 1000  # units along the longer side, in which outlines are drawn
TOLERANCE = 1.0  # largest error of an outline, in grid units
TOLERANCE_PX = 0.75  # the same in pixels of the mask; where larger, it removes the steps of a slanting border
MAX_OUTLINES = 200  # per mask: a mask of noise has thousands

Mask = NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True)
class Picture:
    """The image of a case as WebP, and its outlines as SVG paths on a grid of `width` x `height` units.

    Everything is upright. Parts that cannot be drawn are empty, and `problems` says why.
    """

    webp: bytes
    width: int
    height: int
    truth: str
    prediction: str
    problems: tuple[str, ...]


def draw_all(cases: Iterable[Case], workers: int = 0) -> Iterator[Picture]:
    """Yield the picture of each case, in order, drawn on `workers` threads (0: one per core).

    At most two per thread are drawn ahead, so memory does not grow with the number of cases.
    """
    workers = workers or count_cores()
    pending: deque[Future[Picture]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for case in cases:
            pending.append(pool.submit(draw, case))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def draw(case: Case) -> Picture:
    """Draw the picture of a case; a file that cannot be read becomes one of its problems."""
    try:
        with opencv_memory_errors():
            return _draw(case)
    except MemoryError:
        return Picture(b"", GRID, 3 * GRID // 4, "", "", (OUT_OF_MEMORY,))


def _draw(case: Case) -> Picture:
    problems: list[str] = []
    image = _decode(case, problems)
    prediction = _read(case.prediction_path, MaskRole.PREDICTION, image, problems)
    truth = _read(case.truth_path, MaskRole.GROUND_TRUTH, image, problems)
    height, width = _size_hw(image, prediction, truth)
    if image is None and truth is not None and truth.shape != (height, width):
        truth = None  # its size differs from the prediction's, which is the problem of the case already
    return Picture(
        webp=encode_picture(image.rgb) if image else b"",
        width=max(1, round(GRID * width / max(height, width))),
        height=max(1, round(GRID * height / max(height, width))),
        truth=_outline(truth, MaskRole.GROUND_TRUTH, problems),
        prediction=_outline(prediction, MaskRole.PREDICTION, problems),
        problems=tuple(problems),
    )


def _size_hw(image: DecodedImage | None, *masks: Mask | None) -> tuple[int, int]:
    """Return the size of the image, else of the first mask, else the shape of an empty card."""
    if image:
        return image.rgb.shape[0], image.rgb.shape[1]
    sizes = ((mask.shape[0], mask.shape[1]) for mask in masks if mask is not None)
    return next(sizes, (3, 4))


def _decode(case: Case, problems: list[str]) -> DecodedImage | None:
    if case.image_path is None:
        problems.append("image file not found")
        return None
    try:
        # decode() keeps twice the requested size for the networks; half of it is enough here.
        return decode(case.image_path, (MAX_SIDE_PX // 2, MAX_SIDE_PX // 2))
    except ImageError as error:
        if case.state != CaseState.FAILED:  # a failed case has this reason already
            problems.append(f"image: {error.reason}")
        return None


def _read(path: ImagePath | None, role: MaskRole, image: DecodedImage | None, problems: list[str]) -> Mask | None:
    """Read a mask and turn it upright like its image; None if there is none, or if it does not fit the image."""
    if path is None:
        return None
    try:
        mask = read_mask(path, role).lesion
    except ImageError as error:
        problems.append(error.reason)
        return None
    if image is None:
        return mask
    if mask.shape != image.stored_hw:
        height, width = image.stored_hw
        problems.append(f"{role} is {mask.shape[1]}x{mask.shape[0]}, image is {width}x{height}; outline not drawn")
        return None
    return to_upright(mask, image.orientation)


def encode_picture(rgb: NDArray[np.uint8], max_side_px: int = MAX_SIDE_PX) -> bytes:
    """Return the image as WebP, downsampled to `max_side_px` on its longer side; smaller images keep their size."""
    scale = min(1.0, max_side_px / max(rgb.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    downsampled = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    file = BytesIO()
    Image.fromarray(downsampled).save(file, "WEBP", quality=WEBP_QUALITY, method=WEBP_EFFORT)
    return file.getvalue()


def _outline(mask: Mask | None, role: MaskRole, problems: list[str]) -> str:
    """Return the outlines of a mask as one SVG path on the grid: centres of border pixels, simplified."""
    if mask is None:
        return ""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    if len(contours) > MAX_OUTLINES:
        problems.append(f"{role}: only the {MAX_OUTLINES} largest of {len(contours)} outlines are drawn")
    scale = GRID / max(mask.shape)
    tolerance_px = max(TOLERANCE / scale, TOLERANCE_PX)
    largest = sorted(contours, key=len, reverse=True)[:MAX_OUTLINES]
    return "".join(
        _svg_path((cv2.approxPolyDP(contour, tolerance_px, True)[:, 0] + 0.5) * scale) for contour in largest
    )


def _svg_path(points: NDArray[np.float64]) -> str:
    """Return a closed polygon of points (N, 2) in whole units, each relative to the one before: the shortest form."""
    start, *steps = np.diff(np.rint(points).astype(int), axis=0, prepend=[[0, 0]]).tolist()
    lines = " ".join(f"{dx} {dy}" for dx, dy in steps)
    return f"M{start[0]} {start[1]}{'l' if steps else ''}{lines}z".replace(" -", "-")
