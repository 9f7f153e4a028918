"""Reader for HEIF and HEIC, the photographs of phones, by pillow-heif (extra `heif`)."""

from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from lesioncli.images.avif import measure_avif, read_avif
from lesioncli.images.coded_items import refuse_overwritten
from lesioncli.images.color import to_srgb
from lesioncli.images.pixels import DecodedImage, check_size, describe_conversion, join_notes, peak_bytes

if TYPE_CHECKING:
    from pillow_heif import HeifImage

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SIGNATURES = tuple(b"ftyp" + brand for brand in BRANDS)
DECODER_CHANNELS = 8  # planes of luminance and colour, then RGB or RGBA
AVIF = b"avif"  # among the compatible brands of a file whose own brand is the general one


def read_heif(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode the main image of a HEIF file at full size. libheif has turned it upright and cropped it already."""
    if _is_avif(data):
        return read_avif(data, at_least_hw)
    image, count = _open(BytesIO(data))
    refuse_overwritten(data)
    rgb = np.ascontiguousarray(np.asarray(image.to_pillow().convert("RGB")))
    rgb, color_note = to_srgb(rgb, image.info.get("icc_profile"), image.mode)
    note = join_notes(describe_conversion(count, "pictures", image.info.get("bit_depth", 8)), color_note)
    return DecodedImage(rgb, rgb.shape[:2], 1, note)


def measure_heif(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_heif() from the header."""
    if _is_avif(file.read(64)):
        file.seek(0)
        return measure_avif(file, at_least_hw)
    file.seek(0)
    image, _ = _open(file)
    return peak_bytes((image.size[1], image.size[0]), DECODER_CHANNELS)


def _is_avif(data: bytes) -> bool:
    """Return whether the file type box, which begins a file, names AVIF among its brands."""
    return AVIF in data[8 : min(int.from_bytes(data[:4], "big"), 64)]


def _open(file: BinaryIO) -> tuple["HeifImage", int]:
    """Return the main image, which is not yet decoded, and the number of images; ImageError if it is too large."""
    from pillow_heif import open_heif  # of an extra

    images = open_heif(file)
    image = images[images.primary_index]
    check_size((image.size[1], image.size[0]), DECODER_CHANNELS)
    return image, len(images)
