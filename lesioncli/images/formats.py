"""Supported image formats: the only list of suffixes, signatures and readers.

To add a format, write a reader and add one line to FORMATS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from lesioncli.images.pixels import DecodedImage
from lesioncli.images.raster import read_bmp, read_jpeg, read_png, read_webp
from lesioncli.images.tiff import read_tiff


@dataclass(frozen=True)
class ImageFormat:
    """An image format.

    suffixes: lower case, with the dot. signatures: the possible first bytes of a file. read: takes the file's bytes and
    the smallest (height, width) that the caller needs; returns the whole image, or raises any exception.
    """

    name: str
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...]
    read: Callable[[bytes, tuple[int, int]], DecodedImage]


FORMATS: tuple[ImageFormat, ...] = (
    ImageFormat("JPEG", (".jpg", ".jpeg", ".jfif"), (b"\xff\xd8\xff",), read_jpeg),
    ImageFormat("PNG", (".png",), (b"\x89PNG\r\n\x1a\n",), read_png),
    ImageFormat("BMP", (".bmp",), (b"BM",), read_bmp),
    ImageFormat("WebP", (".webp",), (b"RIFF",), read_webp),
    ImageFormat("TIFF", (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), read_tiff),  # "+": BigTIFF
)


def supported_suffixes() -> list[str]:
    """Return the suffixes of all formats, sorted."""
    return sorted(suffix for image_format in FORMATS for suffix in image_format.suffixes)


def has_supported_suffix(path: PurePath) -> bool:
    """Tell whether a file's suffix, in either case, is that of a supported format."""
    suffix = path.suffix.lower()
    return any(suffix in image_format.suffixes for image_format in FORMATS)


def format_of(data: bytes) -> ImageFormat | None:
    """Return the format of a file's content, whatever its suffix; None if it is not supported."""
    return next((known for known in FORMATS if data.startswith(known.signatures)), None)


def format_names() -> str:
    """Return the names of all formats, as in "A, B or C"."""
    *names, last = (image_format.name for image_format in FORMATS)
    return f"{', '.join(names)} or {last}"
