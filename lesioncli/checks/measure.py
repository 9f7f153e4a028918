"""Read every image and mask once, and keep what the checks need."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lesioncli.checks.data import CheckedData
from lesioncli.errors import ImageError
from lesioncli.evaluation.reading.masks import MaskRole, read_mask
from lesioncli.images.decode import decode
from lesioncli.images.formats import Extra
from lesioncli.images.geometry import UInt8
from lesioncli.images.mask_like import is_mask_like
from lesioncli.process import count_cores

HASHES = Extra("check", "imagehash")
HASH_SIDE = 16  # frequencies per axis: hashes of 256 bits; those of 64 are alike for different lesions
_PIXELS_PER_FREQUENCY = 4  # of imagehash
_MIN_CONTRAST = 2.0  # grey levels, standard deviation; the hash of an even picture is that of its noise


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image file. reason: why it cannot be read, else "". stored_hw: its size as stored.

    perceptual_hash: 32 bytes, nearly the same for images that look alike; empty if it was not computed.
    """

    reason: str = ""
    stored_hw: tuple[int, int] = (0, 0)
    looks_like_mask: bool = False
    perceptual_hash: bytes = b""


@dataclass(frozen=True)
class MaskFacts:
    """What is known of a mask file: its size, and the share of lesion in all of it, at its border, in its middle."""

    reason: str = ""
    size_hw: tuple[int, int] = (0, 0)
    lesion: float = 0.0
    border: float = 0.0
    middle: float = 0.0


@dataclass(frozen=True)
class MeasuredData:
    """The data, and the facts of each image and each mask."""

    data: CheckedData
    images: Mapping[Path, ImageFacts] = field(default_factory=dict)
    masks: Mapping[Path, MaskFacts] = field(default_factory=dict)


def measure(data: CheckedData, workers: int = 0, on_progress: Callable[[int, int], None] | None = None) -> MeasuredData:
    """Read all images and masks on `workers` threads (0: one per core); `on_progress` receives (done, total)."""
    images = list(dict.fromkeys(checked.sample.image for checked in data.samples))
    masks = list(dict.fromkeys(checked.sample.mask for checked in data.samples if checked.sample.mask))
    total = len(images) + len(masks)
    jobs: list[Callable[[], ImageFacts | MaskFacts]] = [
        *(partial(measure_image, path) for path in images),
        *(partial(measure_mask, path) for path in masks),
    ]
    with ThreadPoolExecutor(workers or count_cores()) as pool:
        facts: Iterable[ImageFacts | MaskFacts] = pool.map(lambda job: job(), jobs)
        done = []
        for fact in facts:
            done.append(fact)
            if on_progress:
                on_progress(len(done), total)
    by_image = {path: fact for path, fact in zip(images, done, strict=False) if isinstance(fact, ImageFacts)}
    by_mask = {path: fact for path, fact in zip(masks, done[len(images) :], strict=True) if isinstance(fact, MaskFacts)}
    return MeasuredData(data, by_image, by_mask)


def measure_image(path: Path) -> ImageFacts:
    """Decode an image and compute its perceptual hash, if the extra for it is installed."""
    side = HASH_SIDE * _PIXELS_PER_FREQUENCY
    try:
        decoded = decode(path, (side, side))
    except ImageError as error:
        return ImageFacts(error.reason)
    rgb = decoded.rgb
    perceptual_hash = hash_picture(rgb) if HASHES.is_installed else b""
    return ImageFacts("", decoded.stored_hw, is_mask_like(rgb), perceptual_hash)


def hash_picture(rgb: UInt8) -> bytes:
    """Return the perceptual hash of an image (h, w, 3), the signs of its lowest frequencies; empty for an even one."""
    import imagehash  # of an extra; it loads scipy

    grey = Image.fromarray(rgb).convert("L")
    if np.asarray(grey).std() < _MIN_CONTRAST:
        return b""
    return np.packbits(imagehash.phash(grey, hash_size=HASH_SIDE).hash).tobytes()


def measure_mask(path: Path) -> MaskFacts:
    """Read a mask as strictly as `train` and `evaluate` do."""
    try:
        lesion = read_mask(path, MaskRole.GROUND_TRUTH).lesion
    except ImageError as error:
        return MaskFacts(error.reason)
    height, width = lesion.shape
    border = np.concatenate([lesion[0], lesion[-1], lesion[:, 0], lesion[:, -1]])
    middle = lesion[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return MaskFacts("", (height, width), float(lesion.mean()), float(border.mean()), float(middle.mean()))
