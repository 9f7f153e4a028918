"""Reader for AVIF."""

from io import BytesIO
from typing import BinaryIO

from PIL import features
from PIL.AvifImagePlugin import AvifImageFile

from lesioncli.errors import ImageError
from lesioncli.images.coded_items import refuse_overwritten
from lesioncli.images.pillow import to_upright_srgb
from lesioncli.images.pixels import DecodedImage, check_size, peak_bytes, to_rgb
from lesioncli.options import FailureStage

DECODER_CHANNELS = 8  # planes of luminance and colour, then RGB or RGBA


def read_avif(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode an AVIF, or its first frame, at full size."""
    image = _open(BytesIO(data))
    refuse_overwritten(data)
    return to_upright_srgb(image, to_rgb(image, 8))


def measure_avif(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_avif() from the header."""
    image = _open(file)
    return peak_bytes((image.height, image.width), DECODER_CHANNELS)


def _open(file: BinaryIO) -> AvifImageFile:
    """Read the header; ImageError if the image is too large, or this Pillow cannot decode it."""
    if not features.check("avif"):
        raise ImageError(
            FailureStage.DECODE, "an AVIF file, which the installed Pillow does not read; convert it to PNG or JPEG"
        )
    image = AvifImageFile(file)
    check_size((image.height, image.width), DECODER_CHANNELS)
    return image
