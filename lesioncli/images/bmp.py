"""Reader for BMP."""

import struct
from io import BytesIO
from typing import BinaryIO

from PIL.BmpImagePlugin import BmpImageFile

from lesioncli.images.pillow import to_upright_srgb
from lesioncli.images.pixels import DecodedImage, check_size, describe_zeros, peak_bytes, to_rgb

UNCOMPRESSED = 0
BIT_COUNT = 28  # offset of biBitCount in a file with a BITMAPINFOHEADER or a later one


def read_bmp(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a BMP at full size."""
    image = BmpImageFile(BytesIO(data))
    check_size((image.height, image.width), len(image.getbands()))
    is_raw = image.info.get("compression") == UNCOMPRESSED
    zeros = describe_zeros(data, _row_bytes(data, image.width)) if is_raw else ""
    return to_upright_srgb(image, to_rgb(image, 8), zeros)


def measure_bmp(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_bmp() from the header."""
    image = BmpImageFile(file)
    return peak_bytes((image.height, image.width), len(image.getbands()))


def _row_bytes(data: bytes, width: int) -> int:
    (bits,) = struct.unpack_from("<H", data, BIT_COUNT)
    return int((width * bits + 31) // 32 * 4)
