"""Take a sample of images from a run, for a parity check of its engine."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise
from math import ceil

from lesioncli.errors import ImageError
from lesioncli.images.decode import decode
from lesioncli.images.find import ImageFile
from lesioncli.images.geometry import UInt8

MAX_TRIES = 8  # files per image of the sample


def sample_images(images: Sequence[ImageFile], count: int, at_least_hw: tuple[int, int]) -> list[UInt8]:
    """Decode up to `count` images, evenly spread over all, to RGB (h, w, 3) of `at_least_hw` or more.

    An image that cannot be decoded is replaced by another one; at most MAX_TRIES * `count` files are tried.
    """
    sample: list[UInt8] = []
    for image in islice(_spread(images, count), MAX_TRIES * count):
        if len(sample) == count:
            break
        with suppress(ImageError):  # any readable image will do; `segment` reports this one
            sample.append(decode(image.path, at_least_hw).rgb)
    return sample


def _spread(images: Sequence[ImageFile], count: int) -> Iterator[ImageFile]:
    """Yield all images: the first of each of `count` equal parts, then the second of each part, and so on."""
    parts = list(pairwise(index * len(images) // count for index in range(count + 1)))
    for offset in range(ceil(len(images) / count)):
        yield from (images[start + offset] for start, end in parts if start + offset < end)
