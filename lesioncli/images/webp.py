"""Reader for WebP, with checks that libwebp leaves out: it decodes zeros, in place of lost data, to flat areas."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL.WebPImagePlugin import WebPImageFile

from lesioncli.errors import ImageError
from lesioncli.images.geometry import UInt8
from lesioncli.images.pillow import to_upright_srgb
from lesioncli.images.pixels import DecodedImage, check_size, peak_bytes, to_rgb
from lesioncli.options import FailureStage

# Zeros that store a flat macroblock of 16 x 16 pixels, at most: lossy ones take half a byte, lossless ones up to 5 bits
# per pixel if the encoder does not look for repetitions.
ZEROS_PER_MACROBLOCK = {b"VP8 ": 4, b"VP8L": 160}
HEADER_BYTES = 30
DECODER_CHANNELS = 8  # libwebp holds RGBA twice
FRAME = b"ANMF"
FRAME_HEADER_BYTES = 16
ZEROS = re.compile(rb"\0{256,}")
MACROBLOCK_PX = 16
MAX_FLAT_LEVELS = 4  # difference within a flat macroblock


@dataclass(frozen=True)
class Zeros:
    """Bytes in long runs of zeros, and the number of flat macroblocks, at least, that they can be."""

    size_bytes: int
    macroblocks: int


def read_webp(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a WebP, or its first frame, at full size."""
    zeros = _find_zeros(data)
    image = WebPImageFile(BytesIO(data))
    check_size((image.height, image.width), 4)
    rgb = to_rgb(image, 8)
    return to_upright_srgb(image, rgb, _describe_flat_areas(rgb, zeros))


def measure_webp(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_webp() from the header."""
    header = file.read(HEADER_BYTES)
    kind = header[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(header[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        sides = int.from_bytes(header[21:25], "little")
        width, height = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(header[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return peak_bytes((height, width), DECODER_CHANNELS)


def _find_zeros(data: bytes) -> Zeros:
    """Find long runs of zeros in the pixel data.

    Raises ImageError if a chunk of pixels does not end before the file does.
    """
    if 8 + struct.unpack_from("<I", data, 4)[0] > len(data) + 1:  # some encoders count a byte of padding
        raise ImageError(FailureStage.DECODE, "truncated: the WebP data end too early")
    size_bytes = macroblocks = 0
    for kind, start, end in _pixel_chunks(data, 12, len(data)):
        in_chunk = sum(len(run.group()) for run in ZEROS.finditer(data, start, end))
        size_bytes += in_chunk
        macroblocks += -(-in_chunk // ZEROS_PER_MACROBLOCK[kind])
    return Zeros(size_bytes, macroblocks)


def _describe_flat_areas(rgb: UInt8, zeros: Zeros) -> str:
    """Return a note if pixel data hold zeros; raise ImageError if the image (h, w, 3) has too few flat areas for it."""
    if not zeros.size_bytes:
        return ""
    height, width = (side // MACROBLOCK_PX * MACROBLOCK_PX for side in rgb.shape[:2])
    blocks = rgb[:height, :width].reshape(height // MACROBLOCK_PX, MACROBLOCK_PX, -1, MACROBLOCK_PX, 3)
    flat = np.count_nonzero(np.ptp(blocks, axis=(1, 3)).max(axis=-1) <= MAX_FLAT_LEVELS)
    if flat < zeros.macroblocks:
        raise ImageError(
            FailureStage.DECODE, f"damaged: {zeros.size_bytes} bytes of the WebP data are zeros; get the file again"
        )
    return f"{zeros.size_bytes} bytes of the WebP data are zeros: flat areas, or missing"


def _pixel_chunks(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the pixel data of an image, or of all frames."""
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        start, at = at + 8, at + 8 + size + size % 2
        if start + size > end:
            if kind in ZEROS_PER_MACROBLOCK:
                raise ImageError(FailureStage.DECODE, "truncated: the WebP data end too early")
            return
        if kind == FRAME:
            yield from _pixel_chunks(data, start + FRAME_HEADER_BYTES, start + size)
        elif kind in ZEROS_PER_MACROBLOCK:
            yield kind, start, start + size
