"""Writes image lists, which image_list.py reads."""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lesioncli.files import as_cell, atomic_output, printable
from lesioncli.images.find import ImageFile, ImageListing
from lesioncli.images.image_list import COLUMNS
from lesioncli.images.stored import crc32_of_image, status_of
from lesioncli.process import count_cores
from lesioncli.urls import Url


@dataclass(frozen=True)
class WrittenList:
    """Number and total size of the listed images; `unreadable` are those whose size or content could not be read."""

    images: int
    total_bytes: int
    unreadable: tuple[str, ...]


def write_image_list(listing: ImageListing, path: Path, with_crc32: bool = False) -> WrittenList:
    """Write the images of a listing as CSV; `with_crc32` also reads each file. The root is relative to `path`.

    Raises InputError if `path` cannot be written.
    """
    base = listing.root or Path()
    root = str(base) if isinstance(base, Url) else _relative(base, path.absolute().parent)
    unreadable: list[str] = []
    total_bytes = 0

    def measure(image: ImageFile) -> tuple[str, str]:
        try:
            size = status_of(image.path).size_bytes
            return str(size), f"{crc32_of_image(image.path):08x}" if with_crc32 else ""
        except OSError:
            return "", ""

    with (
        atomic_output(path, "--out") as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ThreadPoolExecutor(count_cores()) as pool,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for image, (size, crc32) in zip(listing.images, pool.map(measure, listing.images), strict=True):
            name = image.name + image.suffix
            writer.writerow((as_cell(name), as_cell(name.rpartition("/")[0]), size, crc32, as_cell(root)))
            total_bytes += int(size or 0)
            if not size:
                unreadable.append(printable(str(image.path)))
    return WrittenList(len(listing.images), total_bytes, tuple(unreadable))


def _relative(folder: Path, start: Path) -> str:
    """Return a folder relative to another one, so that both can be moved together; absolute if on another drive."""
    real = os.path.realpath(folder)
    try:
        return Path(os.path.relpath(real, os.path.realpath(start))).as_posix()
    except ValueError:
        return Path(real).as_posix()
