"""Readers for JPEG, PNG, BMP and WebP, all by Pillow.

JPEG is downsampled while it is decoded: 2.4 times faster on the 2.6 to 12 megapixel originals of ISIC. OpenCV's reduced
modes are 2 % faster still, but give a truncated file a grey tail and no error.

Pillow's classes are used directly, not Image.open(): that warns above 89 megapixels, and its limit and the warning
filters are process-wide settings, which belong to the program that imports this module.
"""

from io import BytesIO

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as Tag
from PIL.ImageFile import ImageFile as PillowFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lesioncli.errors import ImageError
from lesioncli.images.geometry import to_upright
from lesioncli.images.pixels import DecodedImage, check_size, describe_conversion, to_rgb, valid_orientation
from lesioncli.options import FailureStage

# A decoded JPEG stays this many times larger than needed: the scaled decoder has a cruder kernel than to_network(),
# and a final downsampling by less than 2 would let the network see the difference.
MIN_FINAL_REDUCTION = 2

_SCAN_MARKER, _END_MARKER = b"\xff\xda", b"\xff\xd9"
_PNG_BIT_DEPTH = 24  # offset: a PNG file starts with its signature and the IHDR chunk


def read_jpeg(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a JPEG, downsampled by 1, 2, 4 or 8 to MIN_FINAL_REDUCTION times `at_least_hw` or more."""
    # A file truncated after its space was reserved ends in zeros instead of the end marker, and zeros decode
    # as pixels. Bytes after the end marker are fine: cameras append previews there.
    if data.endswith(bytes(16)) and data.rfind(_END_MARKER) < data.rfind(_SCAN_MARKER):
        raise ImageError(FailureStage.DECODE, "truncated: the JPEG data end in zeros")
    return _read(JpegImageFile(BytesIO(data)), at_least_hw)


def read_png(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a PNG at full size."""
    return _read(PngImageFile(BytesIO(data)), at_least_hw, bits=data[_PNG_BIT_DEPTH])


def read_bmp(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a BMP at full size."""
    return _read(BmpImageFile(BytesIO(data)), at_least_hw)


def read_webp(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a WebP, or its first frame, at full size."""
    return _read(WebPImageFile(BytesIO(data)), at_least_hw)


def _read(image: PillowFile, at_least_hw: tuple[int, int], bits: int = 8) -> DecodedImage:
    stored_hw = (image.height, image.width)
    check_size(stored_hw)
    orientation = valid_orientation(image.getexif().get(Tag.Orientation))
    height, width = (MIN_FINAL_REDUCTION * side for side in at_least_hw)
    # draft() changes JPEG only: it selects the largest reduction that leaves this size, in stored orientation.
    image.draft(None, (height, width) if orientation >= 5 else (width, height))
    rgb = to_upright(to_rgb(image, bits), orientation)
    note = describe_conversion(getattr(image, "n_frames", 1), "frames", bits)
    return DecodedImage(rgb, stored_hw, orientation, note)
