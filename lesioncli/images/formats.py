"""Supported image formats: the only list of suffixes, signatures and readers.

To add a format, write a reader and add one line to FORMATS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import PurePath
from typing import BinaryIO

from lesioncli.images import dicom, heif, jpeg2000, png
from lesioncli.images.avif import measure_avif, read_avif
from lesioncli.images.bmp import measure_bmp, read_bmp
from lesioncli.images.gif import measure_gif, read_gif
from lesioncli.images.jpeg import measure_jpeg, read_jpeg
from lesioncli.images.pixels import DecodedImage
from lesioncli.images.tiff import measure_tiff, read_tiff
from lesioncli.images.webp import measure_webp, read_webp

SIGNATURE_BYTES = 132  # that of DICOM begins at 128


@dataclass(frozen=True)
class Extra:
    """An extra of pyproject.toml, and a module that is there if it is installed."""

    name: str
    module: str

    @property
    def is_installed(self) -> bool:
        return _has_module(self.module)


@cache
def _has_module(name: str) -> bool:
    return find_spec(name) is not None


@dataclass(frozen=True)
class ImageFormat:
    """An image format.

    suffixes: lower case, with the dot. signatures: the possible bytes of a file at `offset`. read: takes the file's
    bytes and the smallest (height, width) that the caller needs; returns the whole image, or raises any exception.
    measure: takes the open file instead; returns an estimate of the memory of read(), beside the file's content, or
    raises. for_masks: whether masks are read in this format, too; `name` is then that of Pillow. extra: what read() and
    measure() need. without_suffix: whether files often have no suffix and are recognised by content.
    """

    name: str
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...]
    read: Callable[[bytes, tuple[int, int]], DecodedImage]
    measure: Callable[[BinaryIO, tuple[int, int]], int]
    for_masks: bool = False
    offset: int = 0
    extra: Extra | None = None
    without_suffix: bool = False

    def has_content(self, data: bytes) -> bool:
        """Return whether a file that begins with `data` has this format."""
        return data.startswith(self.signatures, self.offset)


FORMATS: tuple[ImageFormat, ...] = (
    ImageFormat("JPEG", (".jpg", ".jpeg", ".jfif"), (b"\xff\xd8\xff",), read_jpeg, measure_jpeg),
    ImageFormat("PNG", (".png",), (png.SIGNATURE,), png.read_png, png.measure_png, for_masks=True),
    ImageFormat("BMP", (".bmp",), (b"BM",), read_bmp, measure_bmp, for_masks=True),
    ImageFormat("WebP", (".webp",), (b"RIFF",), read_webp, measure_webp),
    ImageFormat(  # before TIFF: some DICOM files begin as one, too
        "DICOM",
        (".dcm", ".dicom"),
        (dicom.SIGNATURE,),
        dicom.read_dicom,
        dicom.measure_dicom,
        offset=dicom.SIGNATURE_OFFSET,
        extra=Extra("dicom", "pydicom"),
        without_suffix=True,
    ),
    ImageFormat(  # "+": BigTIFF
        "TIFF",
        (".tif", ".tiff"),
        (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        read_tiff,
        measure_tiff,
        for_masks=True,
    ),
    ImageFormat("GIF", (".gif",), (b"GIF87a", b"GIF89a"), read_gif, measure_gif),
    ImageFormat(
        "JPEG 2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        (jpeg2000.FILE_SIGNATURE, jpeg2000.CODESTREAM),
        jpeg2000.read_jpeg2000,
        jpeg2000.measure_jpeg2000,
    ),
    ImageFormat("AVIF", (".avif",), (b"ftypavif", b"ftypavis"), read_avif, measure_avif, offset=4),
    ImageFormat(
        "HEIF",
        (".heic", ".heif", ".hif"),
        heif.SIGNATURES,
        heif.read_heif,
        heif.measure_heif,
        offset=4,
        extra=Extra("heif", "pillow_heif"),
    ),
)


@dataclass(frozen=True)
class UnsupportedFormat:
    """A format that files with a supported suffix are found to have. signatures: possible bytes at `offset`."""

    name: str
    signatures: tuple[bytes, ...]
    offset: int = 0


UNSUPPORTED_FORMATS: tuple[UnsupportedFormat, ...] = (
    UnsupportedFormat("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    UnsupportedFormat("JPEG XR", (b"II\xbc\x01",)),
    UnsupportedFormat("JPEG-LS", (b"\xff\xd8\xff\xf7",)),
    UnsupportedFormat("Photoshop", (b"8BPS",)),
    UnsupportedFormat("camera RAW", (b"ftypcrx ",), 4),
    UnsupportedFormat("camera RAW", (b"CR\x02",), 8),
    UnsupportedFormat("camera RAW", (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")),
    UnsupportedFormat("OpenEXR", (b"\x76\x2f\x31\x01",)),
    UnsupportedFormat("video", (b"ftypisom", b"ftypmp4", b"ftypqt", b"ftypM4V"), 4),
    UnsupportedFormat("PDF", (b"%PDF-",)),
    UnsupportedFormat("ZIP", (b"PK\x03\x04",)),
)


def supported_suffixes() -> list[str]:
    """Return the suffixes of all formats, sorted."""
    return sorted(suffix for image_format in FORMATS for suffix in image_format.suffixes)


def has_supported_suffix(path: PurePath) -> bool:
    """Return whether a file's suffix, in either case, is that of a supported format."""
    return is_supported_suffix(path.suffix)


def is_supported_suffix(suffix: str) -> bool:
    """Return whether a suffix, in either case, is that of a supported format."""
    return any(suffix.lower() in image_format.suffixes for image_format in FORMATS)


def format_of(data: bytes) -> ImageFormat | None:
    """Return the format of a file's content, whatever its suffix; None if it is not supported."""
    if unsupported_name(data):  # some camera RAW files start as a TIFF does
        return None
    return next((known for known in FORMATS if known.has_content(data)), None)


def format_without_suffix(data: bytes) -> ImageFormat | None:
    """Return the format of a file without suffix that begins with `data`, if such files are images, else None."""
    return next((known for known in FORMATS if known.without_suffix and known.has_content(data)), None)


def format_names() -> str:
    """Return the names of all formats, as in "A, B or C"."""
    *names, last = (image_format.name for image_format in FORMATS)
    return f"{', '.join(names)} or {last}"


def unsupported_name(data: bytes) -> str:
    """Return the name of the unsupported format that a file's content has, "" if it has none of them."""
    return next((known.name for known in UNSUPPORTED_FORMATS if data.startswith(known.signatures, known.offset)), "")
