"""Reader for GIF."""

import struct
from io import BytesIO
from typing import BinaryIO

from PIL.GifImagePlugin import GifImageFile

from lesioncli.images.pillow import to_upright_srgb
from lesioncli.images.pixels import DecodedImage, check_size, peak_bytes, to_rgb

HEADER_BYTES = 10
DECODER_CHANNELS = 4  # a frame with transparency becomes RGBA


def read_gif(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode the first frame of a GIF at full size."""
    _check_header(data)
    image = GifImageFile(BytesIO(data))
    check_size((image.height, image.width), DECODER_CHANNELS)  # a frame may be larger than the header says
    return to_upright_srgb(image, to_rgb(image, 8))


def measure_gif(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_gif() from the header."""
    return peak_bytes(_check_header(file.read(HEADER_BYTES)), DECODER_CHANNELS)


def _check_header(header: bytes) -> tuple[int, int]:
    """Return (height, width) of the header; ImageError if they are too large."""
    width, height = struct.unpack_from("<HH", header, 6)
    check_size((height, width), DECODER_CHANNELS)
    return height, width
