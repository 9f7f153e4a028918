"""What is to be seen of a case: the photograph, reduced, and the outlines of its masks as SVG paths over it."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.errors import ImageError
from lesioncli.evaluation.reading.masks import MaskRole, read_mask
from lesioncli.images.decode import DecodedImage, decode
from lesioncli.images.geometry import to_upright
from lesioncli.inference.results import FAILED
from lesioncli.process import count_cores
from lesioncli.report.cases import Case

SIDE_PX = 512  # longer side. A WebP of it has 10 KB on average, a JPEG that looks the same 18
QUALITY, EFFORT = 80, 2  # of WebP; from effort 4 on it takes twice the time for 3 % less

GRID = 1000  # units along the longer side, in which outlines are drawn
TOLERANCE = 1.0  # grid units that an outline may be off
TOLERANCE_PX = 0.75  # or pixels of the mask, where these are larger: it takes the steps out of a slanting line
MOST_PARTS = 200  # of one mask; a mask of noise has thousands

Mask = NDArray[np.bool_]  # (H, W)


@dataclass(frozen=True)
class Picture:
    """The photograph of a case as WebP, and its outlines as SVG paths, on a grid of `width` x `height` units.

    Everything is upright. What is not there is empty, and `problems` says why.
    """

    webp: bytes
    width: int
    height: int
    truth: str
    prediction: str
    problems: tuple[str, ...]


def draw_all(cases: Iterable[Case], workers: int = 0) -> Iterator[Picture]:
    """The picture of each case, in order; a few are drawn ahead, so that memory stays flat."""
    workers = workers or count_cores()
    waiting: deque[Future[Picture]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for case in cases:
            waiting.append(pool.submit(draw, case))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def draw(case: Case) -> Picture:
    """Draw what there is of a case. A file that cannot be read is one of the `problems`, and the rest is drawn."""
    problems: list[str] = []
    photograph = _decode(case, problems)
    masks = {
        "prediction": _read(case.prediction, MaskRole.PREDICTION, photograph, problems),
        "truth": _read(case.truth, MaskRole.GROUND_TRUTH, photograph, problems),
    }
    shapes = [mask.shape for mask in masks.values() if mask is not None]
    height, width = photograph.rgb.shape[:2] if photograph else next(iter(shapes), (3, 4))
    if photograph is None and masks["truth"] is not None and masks["truth"].shape != (height, width):
        masks["truth"] = None  # of another size than the prediction, which the case's reason says
    return Picture(
        webp=_reduce(photograph.rgb) if photograph else b"",
        width=max(1, round(GRID * width / max(height, width))),
        height=max(1, round(GRID * height / max(height, width))),
        truth=_outline(masks["truth"], MaskRole.GROUND_TRUTH, problems),
        prediction=_outline(masks["prediction"], MaskRole.PREDICTION, problems),
        problems=tuple(problems),
    )


def _decode(case: Case, problems: list[str]) -> DecodedImage | None:
    if case.photograph is None:
        problems.append("no photograph found")
        return None
    try:
        # decode() keeps twice of what it is asked for, for the networks' sake. Here its own reduction will do.
        return decode(case.photograph, (SIDE_PX // 2, SIDE_PX // 2))
    except ImageError as error:
        if case.state != FAILED:  # or it would be said twice
            problems.append(f"photograph: {error.reason}")
        return None


def _read(path: Path | None, role: MaskRole, photograph: DecodedImage | None, problems: list[str]) -> Mask | None:
    """A mask, turned as the photograph is; None where there is none, or it is not of this photograph."""
    if path is None:
        return None
    try:
        lesion = read_mask(path, role).lesion
    except ImageError as error:
        problems.append(error.reason)
        return None
    if photograph is None:
        return lesion
    if lesion.shape != photograph.stored_hw:
        sizes = "{} is {}x{}, photograph {}x{}".format(role, *lesion.shape[::-1], *photograph.stored_hw[::-1])
        problems.append(f"{sizes}: no outline drawn")
        return None
    return to_upright(lesion, photograph.orientation)


def _reduce(rgb: NDArray[np.uint8]) -> bytes:
    """The picture at most SIDE_PX on its longer side, and never enlarged."""
    scale = min(1.0, SIDE_PX / max(rgb.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    reduced = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    file = BytesIO()
    Image.fromarray(reduced).save(file, "WEBP", quality=QUALITY, method=EFFORT)
    return file.getvalue()


def _outline(mask: Mask | None, role: MaskRole, problems: list[str]) -> str:
    """The borders of a mask as one SVG path, on the grid; the centres of its border pixels, simplified."""
    if mask is None:
        return ""
    found, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    if len(found) > MOST_PARTS:
        problems.append(f"{role}: the largest {MOST_PARTS} of {len(found)} outlines drawn")
    scale = GRID / max(mask.shape)
    off_px = max(TOLERANCE / scale, TOLERANCE_PX)
    parts = sorted(found, key=len, reverse=True)[:MOST_PARTS]
    return "".join(_path((cv2.approxPolyDP(part, off_px, True)[:, 0] + 0.5) * scale) for part in parts)


def _path(points: NDArray[np.float64]) -> str:
    """A closed polygon of points (N, 2), in whole units from each to the next, which is the shortest to write."""
    start, *steps = np.diff(np.rint(points).astype(int), axis=0, prepend=[[0, 0]]).tolist()
    way = " ".join(f"{right} {down}" for right, down in steps)
    return f"M{start[0]} {start[1]}{'l' if steps else ''}{way}z".replace(" -", "-")
