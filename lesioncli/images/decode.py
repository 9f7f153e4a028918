"""Decode an image file to upright RGB."""

import re
import stat
from pathlib import Path

from PIL import Image

from lesioncli.errors import ImageError, install_command
from lesioncli.images.formats import SIGNATURE_BYTES, ImageFormat, format_names, format_of, unsupported_name
from lesioncli.images.pixels import MAX_BYTES, TOO_LARGE, DecodedImage
from lesioncli.options import FailureStage

__all__ = ["OUT_OF_MEMORY", "DecodedImage", "decode", "describe_damage", "peak_bytes"]

_DECODER_NUMBER = re.compile(r"decoder error -?\d+.*")  # of Pillow
MAX_FILE_BYTES = 2 * MAX_BYTES  # half of it may be metadata, or further pages
OUT_OF_MEMORY = "not enough memory for this image; give more with --max-memory, use fewer --workers, or downsample it"


def decode(path: Path, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a whole image to upright RGB.

    The file's content selects the reader, not its suffix. A large JPEG may come back downsampled, but never below
    `at_least_hw`, the (height, width) in upright orientation that the caller needs. Of several pages or frames the
    first is read. Alpha is dropped, not blended: scans are opaque, and no background colour would be right. 16-bit
    samples are scaled to 8 bits over their full range.

    Raises ImageError, whose reason does not repeat the path, if any part of the image cannot be decoded.
    """
    try:
        data = _read_bytes(path)
        image_format = format_of(data)
        if image_format is None:
            raise ImageError(FailureStage.DECODE, _not_supported(data))
        return _read(image_format, data, at_least_hw)
    except MemoryError as error:
        raise ImageError(FailureStage.DECODE, OUT_OF_MEMORY) from error


def peak_bytes(path: Path, at_least_hw: tuple[int, int]) -> int:
    """Return an estimate of the memory that decode() and a reduction of its result take, from the file's header.

    A file that decode() refuses may give 0.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            return 0
        with path.open("rb") as file:
            image_format = format_of(file.read(SIGNATURE_BYTES))
            file.seek(0)
            return status.st_size + (image_format.measure(file, at_least_hw) if image_format else 0)
    except Exception:  # as for _read(): decode() has the reason
        return 0


def _read(image_format: ImageFormat, data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    extra = image_format.extra
    if extra and not extra.is_installed:
        raise ImageError(
            FailureStage.DECODE, f"a {image_format.name} file; to read it, run {install_command(extra.name)}"
        )
    try:
        return image_format.read(data, at_least_hw)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow and tifffile document no set of exceptions for damaged files. Fuzzing produced OSError, SyntaxError,
        # ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError and struct.error, and one such file must
        # not end a run of a million images.
        raise ImageError(FailureStage.DECODE, describe_damage(image_format.name, error)) from error


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe may block, and a device may never end
            raise ImageError(FailureStage.DECODE, "cannot be read: not a regular file but a folder, pipe or device")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(FailureStage.DECODE, f"file of {status.st_size / 2**30:.1f} GiB, too large for an image")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(FailureStage.DECODE, f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError(FailureStage.DECODE, "file is empty")
    return data


def _not_supported(data: bytes) -> str:
    if name := unsupported_name(data):
        return f"a {name} file, which is not supported; convert it to PNG or JPEG"
    return f"not a {format_names()} image (or damaged header)"


def describe_damage(name: str, error: Exception) -> str:
    """Return in words why a decoder failed on a `name` file, and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):  # Pillow's WebP reader raises this before check_size() can
        return TOO_LARGE
    if "truncated" in text.lower():
        return f"truncated: the {name} data end too early"
    # The texts of a decoder are sentences; those of Python ("string index out of range") and numbers tell nothing.
    is_sentence = isinstance(error, (OSError, SyntaxError)) and " " in text and not _DECODER_NUMBER.fullmatch(text)
    detail = f" ({text})" if is_sentence else ""
    return f"damaged or unusual {name} file{detail}; if other programs open it, save it from there as 8-bit PNG"
