"""Decoded pixels, and the conversions and checks that readers of several formats share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile as PillowFile

from lesioncli.errors import ImageError
from lesioncli.images.geometry import UInt8
from lesioncli.options import FailureStage

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs; the largest ISIC images have 30 million
TOO_LARGE = f"more than {MAX_PIXELS / 1e6:.0f} megapixels"
MAX_SIDE_PX = 1_000_000  # of a PNG, in which the mask is written
MAX_BYTES = 6 * MAX_PIXELS  # of the samples as stored: 16-bit RGB of MAX_PIXELS, 1 GiB
MIN_ZERO_BYTES = 512  # a block of a disk: the least that is missing from a file whose copy stopped
BLOCK_ROWS = 64
COPIES_BYTES_PER_PIXEL = 16


@dataclass(frozen=True)
class DecodedImage:
    """The pixels of an image file, and how the file stores them.

    rgb: uint8 (h, w, 3), upright, possibly downsampled. stored_hw: full size before `orientation` (EXIF, 1 to 8) is
    applied. note: what the reader dropped or converted, usually empty. crc32: that of the file, set by decode().
    mm_per_pixel: side of a pixel in millimetres, where the file tells it.
    """

    rgb: UInt8
    stored_hw: tuple[int, int]
    orientation: int
    note: str
    crc32: int | None = None
    mm_per_pixel: float | None = None


def check_size(stored_hw: tuple[int, int], channels: int = 3, bits: int = 8) -> None:
    """Raise ImageError if an image would take too much memory; call this before decoding its pixels."""
    height, width = stored_hw
    if height * width > MAX_PIXELS:
        raise ImageError(FailureStage.DECODE, f"{width} x {height} pixels: {TOO_LARGE}; downsample it or crop it")
    if max(stored_hw) > MAX_SIDE_PX:
        raise ImageError(
            FailureStage.DECODE, f"{width} x {height} pixels: a side is longer than {MAX_SIDE_PX:,} pixels; crop it"
        )
    size_bytes = height * width * channels * -(-bits // 8)
    if size_bytes > MAX_BYTES:
        raise ImageError(
            FailureStage.DECODE,
            f"{width} x {height} pixels of {channels} x {bits} bits take {size_bytes / 2**30:.1f} GiB, more than"
            f" {MAX_BYTES / 2**30:.1f} GiB; save it as 8-bit RGB",
        )


def peak_bytes(stored_hw: tuple[int, int], channels: int = 3, bits: int = 8) -> int:
    """Return an estimate of the memory that a reader takes for an image of full size, beside the file's content.

    That is the samples as stored, the image in the decoder, which takes 4 bytes per pixel for RGB, and the copies of
    the conversion to upright sRGB. Measured were 8 to 24 bytes per pixel.

    Raises ImageError where check_size() does.
    """
    check_size(stored_hw, channels, bits)
    height, width = stored_hw
    return height * width * (COPIES_BYTES_PER_PIXEL + channels * -(-bits // 8))


def valid_orientation(value: Any) -> int:
    """Return an EXIF orientation, or 1 for a value outside 1 to 8."""
    return int(value) if value in range(1, 9) else 1


def describe_conversion(count: int, unit: str, bits: int) -> str:
    """Return the note: the first of `count` pages or frames was read, samples of `bits` bits were scaled to 8."""
    first = f"first of {count} {unit}" if count > 1 else ""
    return join_notes(first, f"{bits}-bit scaled to 8" if bits > 8 else "")


def describe_zeros(data: bytes, row_bytes: int) -> str:
    """Return a note if uncompressed pixels, which end with the file, end in zeros: no format has a checksum for them.

    That is the case after a copy that stopped, but also in an image with a black edge.
    """
    size = max(row_bytes, MIN_ZERO_BYTES)
    if not data.endswith(bytes(size)):
        return ""
    zeros = len(data) - len(data.rstrip(b"\0"))
    return f"the last {zeros // row_bytes} stored rows are exactly zero: black, or missing"


def join_notes(*notes: str) -> str:
    """Join the notes that are not empty."""
    return "; ".join(filter(None, notes))


def to_rgb(image: PillowFile, bits: int, white_is_zero: bool = False) -> UInt8:
    """Decode a Pillow image to uint8 (h, w, 3); alpha is dropped. `bits` is the number of bits per stored sample."""
    image.load()
    if image.mode in ("I", "F"):
        raise ImageError(FailureStage.DECODE, "signed, 32-bit or floating-point pixels: save it as 8 or 16-bit first")
    if image.mode.startswith("I;16"):  # convert() would clip these at 255, and Pillow ignores their white-is-zero
        return to_8_bit_rgb(np.asarray(image)[..., None], bits, white_is_zero)
    image.info.pop("transparency", None)  # of a palette: convert() would drop it as well, but with a warning
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def to_8_bit_rgb(color: NDArray[np.uint8 | np.uint16], bits: int, white_is_zero: bool) -> UInt8:
    """Scale (h, w, 1 or 3) from 0 .. 2**bits - 1 to uint8 with rounding, and repeat a single channel three times."""
    rgb = np.empty((*color.shape[:2], 3), np.uint8)
    for start in range(0, len(color), BLOCK_ROWS):  # the products take 4 bytes per sample
        rgb[start : start + BLOCK_ROWS] = to_8_bit(color[start : start + BLOCK_ROWS], bits)
    return np.asarray(255 - rgb) if white_is_zero else rgb


def to_8_bit(samples: NDArray[np.uint8 | np.uint16], bits: int) -> UInt8:
    """Scale samples of any shape from 0 .. 2**bits - 1 to uint8 with rounding."""
    if bits == 8:
        return np.asarray(samples, np.uint8)
    top = 2**bits - 1
    return np.asarray((samples.astype(np.uint32) * 255 + top // 2) // top, np.uint8)
