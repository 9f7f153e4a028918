"""Reader for TIFF.

tifffile decodes 16-bit samples where it needs none of its optional codecs: Pillow misreads uncompressed 16-bit planes,
silently and by up to 230 of 255, and refuses grey with alpha. Pillow decodes the rest.
"""

from io import BytesIO

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import TiffImageFile
from tifffile import TiffFile, TiffPage

from lesioncli.errors import ImageError
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.images.pixels import (
    DecodedImage,
    check_size,
    describe_conversion,
    to_8_bit_rgb,
    to_rgb,
    valid_orientation,
)
from lesioncli.options import FailureStage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # values of PhotometricInterpretation
# Pairs of PhotometricInterpretation and SamplesPerPixel.
_TIFFFILE_LAYOUTS = [(_WHITE_IS_ZERO, 1), (_BLACK_IS_ZERO, 1), (_BLACK_IS_ZERO, 2), (_RGB, 3), (_RGB, 4)]
_TIFFFILE_COMPRESSIONS = (1, 8, 32946)  # values of Compression: none, and the two codes of deflate


def read_tiff(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode the first page of a TIFF at full size, whatever `at_least_hw` is."""
    with TiffFile(BytesIO(data)) as tiff:
        if not len(tiff.pages):  # most programs write the directory last, so a truncated file has no pages
            raise ImageError(FailureStage.DECODE, "truncated: the TIFF data end before their directory")
        page = tiff.pages.first
        stored_hw = (page.imagelength, page.imagewidth)
        check_size(stored_hw)
        orientation = valid_orientation(page.tags.valueof(Tag.Orientation))
        rgb = to_upright(_read_16_bit(page), orientation) if _is_for_tifffile(page) else _read_by_pillow(data, page)
        note = describe_conversion(len(tiff.pages), "pages", page.bitspersample)
        return DecodedImage(rgb, stored_hw, orientation, note)


def _is_for_tifffile(page: TiffPage) -> bool:
    return (
        page.dtype == np.uint16
        and page.bitspersample == 16
        and page.compression in _TIFFFILE_COMPRESSIONS
        and (page.photometric, page.samplesperpixel) in _TIFFFILE_LAYOUTS
    )


def _read_16_bit(page: TiffPage) -> UInt8:
    planes = page.asarray(squeeze=False)  # (samples, 1, h, w, 1) if stored in planes, else (1, 1, h, w, samples)
    samples = np.moveaxis(planes[:, 0], 0, -1).reshape(page.imagelength, page.imagewidth, -1)
    color = samples[..., :3] if page.photometric == _RGB else samples[..., :1]
    return to_8_bit_rgb(color, 16, page.photometric == _WHITE_IS_ZERO)


def _read_by_pillow(data: bytes, page: TiffPage) -> UInt8:
    """Decode a page to upright RGB: Pillow applies the orientation of a TIFF by itself."""
    image = TiffImageFile(BytesIO(data))
    # Pillow warns above 89 megapixels when it creates the canvas, but not about a canvas that exists already.
    image.im = Image.new(image.mode, (page.imagewidth, page.imagelength)).im
    return to_rgb(image, page.bitspersample, page.photometric == _WHITE_IS_ZERO)
