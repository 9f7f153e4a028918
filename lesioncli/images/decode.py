"""Decode an image file to upright RGB."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO, FileIO
from typing import BinaryIO, Self

import deflate
from PIL import Image

from lesioncli.errors import ImageError, install_command
from lesioncli.images.formats import SIGNATURE_BYTES, format_names, format_of, unsupported_name
from lesioncli.images.pixels import MAX_BYTES, TOO_LARGE, DecodedImage
from lesioncli.images.stored import FileStatus, ImagePath, StoredFile
from lesioncli.memory import SHARED
from lesioncli.options import FailureStage

__all__ = ["OUT_OF_MEMORY", "DecodedImage", "OpenedImage", "decode", "decode_content", "describe_damage", "peak_bytes"]

_DECODER_NUMBER = re.compile(r"decoder error -?\d+.*")  # of Pillow
MAX_FILE_BYTES = 2 * MAX_BYTES  # half of it may be metadata, or further pages
SMALL_FILE_BYTES = 2**20  # read at once; larger files wait until there is memory for them
CANNOT_BE_READ = "cannot be read: "  # a reason follows
NOT_REGULAR = f"{CANNOT_BE_READ}not a regular file but a folder, pipe or device"
OUT_OF_MEMORY = "not enough memory for this image; use fewer --workers, or downsample it"


class OpenedImage:
    """An image that is opened, looked at and read once; a context manager.

    status: size and time of the file when it was opened. One in an archive or a store is read at once.

    Raises ImageError, whose reason does not repeat the path, if the file cannot be read.
    """

    def __init__(self, path: ImagePath) -> None:
        self._data: bytes | None
        self._file: BinaryIO
        if isinstance(path, StoredFile):
            self._data, self.status = path.read()
            self._file, self._is_regular = BytesIO(), True
            return
        with _read_errors():
            file = open(path, "rb", opener=_open_without_blocking)  # noqa: SIM115 - __exit__() closes it
            self._file = file
            try:
                status = os.fstat(file.fileno())
                self.status = FileStatus(status.st_size, status.st_mtime_ns)
                self._is_regular = stat.S_ISREG(status.st_mode)
                self._data = self._read_small(file.raw)  # type: ignore[arg-type]  # a FileIO; typeshed has RawIOBase
            except BaseException:
                self._file.close()
                raise

    def peak_bytes(self, at_least_hw: tuple[int, int]) -> int:
        """Return an estimate of the memory that decode() and a reduction of its result take, from the file's header.

        A file that decode() refuses may give 0.
        """
        try:
            if self._find_problem():
                return 0
            content: BinaryIO = self._file if self._data is None else BytesIO(self._data)
            content.seek(0)
            image_format = format_of(content.read(SIGNATURE_BYTES))
            content.seek(0)
            return self.status.size_bytes + (image_format.measure(content, at_least_hw) if image_format else 0)
        except Exception:  # a damaged file may raise anything (see decode_content); decode() then reports the reason
            return 0

    def decode(self, at_least_hw: tuple[int, int]) -> DecodedImage:
        """Decode the whole image to upright RGB, as decode() of a path does; call this once."""
        return decode_content(self.read(), at_least_hw)

    def read(self) -> bytes:
        """Return the content of the file; call this once."""
        if problem := self._find_problem():
            raise ImageError(FailureStage.DECODE, problem)
        try:
            with _read_errors():
                data, self._data = self._read_all() if self._data is None else self._data, None
        except MemoryError as error:
            raise ImageError(FailureStage.DECODE, OUT_OF_MEMORY) from error
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_small(self, raw: FileIO) -> bytes | None:
        """Read the file in one call; None if it is large, has grown or is no regular one."""
        size = self.status.size_bytes
        if not self._is_regular or size > SMALL_FILE_BYTES:
            return None
        data = raw.read(size)
        return data if data is not None and len(data) == size else None

    def _read_all(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def _find_problem(self) -> str:
        """Return why the file is not to be read, or ""."""
        if not self._is_regular:
            return NOT_REGULAR
        if self.status.size_bytes > MAX_FILE_BYTES:
            return f"file of {self.status.size_bytes / 2**30:.1f} GiB, too large for an image"
        return ""


def decode(path: ImagePath, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a whole image to upright RGB, when there is memory for it.

    The file's content selects the reader, not its suffix. A large JPEG may come back downsampled, but never below
    `at_least_hw`, the (height, width) in upright orientation that the caller needs. Of several pages or frames the
    first is read. Alpha is dropped, not blended: scans are opaque, and no background colour would be right. 16-bit
    samples are scaled to 8 bits over their full range.

    Raises ImageError, whose reason does not repeat the path, if any part of the image cannot be decoded.
    """
    with OpenedImage(path) as image:
        try:
            with SHARED.reserve(image.peak_bytes(at_least_hw)):
                return image.decode(at_least_hw)
        except MemoryError as error:
            raise ImageError(FailureStage.DECODE, OUT_OF_MEMORY) from error


def peak_bytes(path: ImagePath, at_least_hw: tuple[int, int]) -> int:
    """Return the estimate of OpenedImage.peak_bytes() for a path; 0 if the file cannot be read."""
    try:
        with OpenedImage(path) as image:
            return image.peak_bytes(at_least_hw)
    except ImageError:
        return 0


def decode_content(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode the content of an image file, as decode() does."""
    if not data:
        raise ImageError(FailureStage.DECODE, "file is empty")
    image_format = format_of(data)
    if image_format is None:
        raise ImageError(FailureStage.DECODE, _not_supported(data))
    extra = image_format.extra
    if extra and not extra.is_installed:
        raise ImageError(
            FailureStage.DECODE, f"a {image_format.name} file; to read it, run {install_command(extra.name)}"
        )
    try:
        return replace(image_format.read(data, at_least_hw), crc32=deflate.crc32(data))
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(FailureStage.DECODE, OUT_OF_MEMORY) from error
    except Exception as error:
        # Pillow and tifffile document no set of exceptions for damaged files. Fuzzing produced OSError, SyntaxError,
        # ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError and struct.error, and one such file must
        # not end a run of a million images.
        raise ImageError(FailureStage.DECODE, describe_damage(image_format.name, error)) from error


def _open_without_blocking(path: str, flags: int) -> int:
    """Open a file; a pipe is opened at once, too, even if nobody writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def _read_errors() -> Iterator[None]:
    """Turn the errors of opening and reading a file into ImageErrors."""
    try:
        yield
    except IsADirectoryError as error:
        raise ImageError(FailureStage.DECODE, NOT_REGULAR) from error
    except OSError as error:
        raise ImageError(FailureStage.DECODE, f"{CANNOT_BE_READ}{error.strerror}") from error


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
