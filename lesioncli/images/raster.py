"""Readers for PNG, BMP and WebP, all by Pillow.

Pillow's classes are used directly, not Image.open(): that warns above 89 megapixels, and its limit and the warning
filters are process-wide settings, which belong to the program that imports this module.
"""

import struct
from io import BytesIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as Tag
from PIL.ImageFile import ImageFile as PillowFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lesioncli.images import png
from lesioncli.images.color import from_gamma, to_srgb
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.images.pixels import (
    DecodedImage,
    check_size,
    describe_conversion,
    describe_zeros,
    join_notes,
    to_rgb,
    valid_orientation,
)
from lesioncli.images.webp import describe_flat_areas, find_zeros

_NO_PIXEL = 119  # dark red or grey: a last row of this color may be missing, a black one is the edge of an image
_BMP_UNCOMPRESSED = 0
_BMP_BIT_COUNT = 28  # offset of biBitCount in a file with a BITMAPINFOHEADER or a later one


def read_png(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a PNG at full size."""
    header = png.read_header(data)
    check_size((header.height, header.width), header.samples, header.bits)
    for _ in png.chunks(data):  # checks them; Pillow does not compare the checksums of pixels
        pass
    image = PngImageFile(BytesIO(data))
    no_pixel = _NO_PIXEL * 257 if image.mode.startswith("I") else _NO_PIXEL
    image.im = Image.new(image.mode, image.size, no_pixel).im  # load() decodes into it
    rgb = to_rgb(image, header.bits)
    if header.interlace or image.mode == "P" or _is_uniform_and_not_black(rgb[-1]):
        png.check_rows(data)  # decompresses the pixels a second time
    if {"icc_profile", "srgb"} & image.info.keys():  # these matter more
        return _finish(image, rgb, bits=header.bits)
    return _finish(image, *from_gamma(rgb, image.info.get("gamma")), header.bits)


def read_bmp(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a BMP at full size."""
    image = BmpImageFile(BytesIO(data))
    check_size((image.height, image.width), len(image.getbands()))
    is_raw = image.info.get("compression") == _BMP_UNCOMPRESSED
    zeros = describe_zeros(data, _bmp_row_bytes(data, image.width)) if is_raw else ""
    return _finish(image, to_rgb(image, 8), zeros)


def _bmp_row_bytes(data: bytes, width: int) -> int:
    (bits,) = struct.unpack_from("<H", data, _BMP_BIT_COUNT)
    return int((width * bits + 31) // 32 * 4)


def read_webp(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a WebP, or its first frame, at full size."""
    zeros = find_zeros(data)
    image = WebPImageFile(BytesIO(data))
    check_size((image.height, image.width), 4)
    rgb = to_rgb(image, 8)
    return _finish(image, rgb, describe_flat_areas(rgb, zeros))


def _is_uniform_and_not_black(row: UInt8) -> bool:
    return bool(row[0].any() and (row == row[0]).all())


def _finish(image: PillowFile, rgb: UInt8, note: str = "", bits: int = 8) -> DecodedImage:
    """Convert the decoded pixels of an image to upright sRGB."""
    orientation = valid_orientation(image.getexif().get(Tag.Orientation))
    converted, color_note = to_srgb(rgb, image.info.get("icc_profile"), image.mode)
    conversion = describe_conversion(getattr(image, "n_frames", 1), "frames", bits)
    notes = join_notes(conversion, color_note, note)
    return DecodedImage(to_upright(converted, orientation), rgb.shape[:2], orientation, notes)
