"""Reader for TIFF.

tifffile decodes what Pillow misreads or refuses, where it needs none of its optional codecs: 16-bit samples, planes,
extra samples, big-endian BigTIFF. Pillow decodes the rest; it misread uncompressed 16-bit planes by up to 230 of 255.
"""

from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base as Tag
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

from lesioncli.errors import ImageError
from lesioncli.images.color import to_srgb
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.images.pixels import (
    BLOCK_ROWS,
    DecodedImage,
    check_size,
    describe_conversion,
    describe_zeros,
    join_notes,
    peak_bytes,
    to_8_bit,
    to_8_bit_rgb,
    to_rgb,
    valid_orientation,
)
from lesioncli.options import FailureStage

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5  # values of PhotometricInterpretation
_SENSOR_DATA = (32803, 34892)  # values of PhotometricInterpretation in camera RAW: filter array, linear
_COLOR_SAMPLES = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}  # further samples are alpha or unspecified
_PILLOW_LAYOUTS = {(_WHITE_IS_ZERO, 1), (_BLACK_IS_ZERO, 1), (_BLACK_IS_ZERO, 2), (_RGB, 3), (_RGB, 4), (_CMYK, 4)}
_UNCOMPRESSED = 1
_TIFFFILE_COMPRESSIONS = (_UNCOMPRESSED, 8, 32946)  # values of Compression: none, and the two codes of deflate
_CHUNKY = 1  # value of PlanarConfiguration
_NO_PREDICTOR = 1  # value of Predictor
_PREMULTIPLIED = 1  # value of ExtraSamples
_DNG_VERSION, _ICC_PROFILE = 50706, 34675  # tags


def read_tiff(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode the first page of a TIFF at full size, whatever `at_least_hw` is."""
    from tifffile import TiffFile  # as long to load as Pillow, and most runs have no TIFF

    # Closed, since TiffFile is part of a reference cycle that would keep the data.
    with BytesIO(data) as stream, TiffFile(stream) as tiff:
        if not len(tiff.pages):  # most programs write the directory last, so a truncated file has no pages
            raise ImageError(FailureStage.DECODE, "truncated: the TIFF data end before their directory")
        page = tiff.pages.first
        _check(page)
        orientation = valid_orientation(page.tags.valueof(Tag.Orientation))
        if _is_for_tifffile(tiff, page):
            rgb = to_upright(_read_by_tifffile(page), orientation)
        elif _is_big_endian_bigtiff(tiff):
            raise ImageError(FailureStage.DECODE, "a big-endian BigTIFF with compression: save it without, or as PNG")
        else:
            rgb = _read_by_pillow(data, page)
        rgb, color_note = to_srgb(rgb, page.tags.valueof(_ICC_PROFILE), _pillow_mode(page))
        note = join_notes(
            describe_conversion(len(tiff.pages), "pages", page.bitspersample),
            "the first page is a thumbnail" if page.is_reduced else "",
            color_note,
            _describe_zeros(data, page),
        )
        return DecodedImage(rgb, (page.imagelength, page.imagewidth), orientation, note)


def measure_tiff(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_tiff() from the directory of the first page."""
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        page = tiff.pages.first
        _check(page)
        return peak_bytes((page.imagelength, page.imagewidth), page.samplesperpixel, page.bitspersample)


def _check(page: "TiffPage") -> None:
    """Raise ImageError if a page takes too much memory, or is of a kind that no reader here knows."""
    sizes = (page.imagelength, page.imagewidth, page.tilelength, page.tilewidth, page.samplesperpixel)
    if not all(isinstance(size, int) for size in (*sizes, page.bitspersample)):  # multiplied, tuples would fill memory
        raise ImageError(FailureStage.DECODE, "a TIFF with several sizes or bits per sample; save it as 8-bit PNG")
    check_size((page.imagelength, page.imagewidth), page.samplesperpixel, page.bitspersample)
    if page.is_tiled:  # a decoder holds a whole tile, however small the image is
        check_size((page.tilelength, page.tilewidth), page.samplesperpixel, page.bitspersample)
    if _DNG_VERSION in page.tags or page.photometric in _SENSOR_DATA:
        raise ImageError(FailureStage.DECODE, "a camera RAW file, which is not supported; convert it to PNG or JPEG")
    if page.compression not in COMPRESSION_INFO:
        from tifffile import COMPRESSION

        known = {member.value: member.name for member in COMPRESSION}
        name = known.get(page.compression, f"unknown ({page.compression})")
        raise ImageError(
            FailureStage.DECODE, f"TIFF with compression {name}, which is not supported; save it as 8-bit PNG"
        )


def _is_for_tifffile(tiff: "TiffFile", page: "TiffPage") -> bool:
    """Return whether tifffile can decode a page, and Pillow cannot or does not notice damage."""
    channels = _COLOR_SAMPLES.get(page.photometric)
    if (
        page.dtype not in (np.uint8, np.uint16)
        or page.bitspersample != 8 * page.dtype.itemsize
        or page.compression not in _TIFFFILE_COMPRESSIONS
        or channels is None
        or page.samplesperpixel < channels
    ):
        return False
    return page.dtype == np.uint16 or _is_big_endian_bigtiff(tiff) or not _is_for_pillow(page)


def _is_for_pillow(page: "TiffPage") -> bool:
    """Return whether Pillow reads an 8-bit page.

    It does not compare the checksum of deflate; with a predictor it is used nevertheless, since tifffile takes half as
    much time again.
    """
    is_checked = page.compression == _UNCOMPRESSED or page.predictor != _NO_PREDICTOR
    is_alpha_read = page.photometric == _RGB or not _is_premultiplied(page)
    is_layout_read = (page.photometric, page.samplesperpixel) in _PILLOW_LAYOUTS and page.planarconfig == _CHUNKY
    return is_checked and is_alpha_read and is_layout_read


def _is_big_endian_bigtiff(tiff: "TiffFile") -> bool:
    """Return whether Pillow cannot find the directory of a file."""
    return bool(tiff.is_bigtiff and tiff.byteorder == ">")


def _read_by_tifffile(page: "TiffPage") -> UInt8:
    # (samples, 1, h, w, 1) if stored in planes, else (1, 1, h, w, samples)
    planes = page.asarray(squeeze=False, maxworkers=1)
    samples = np.moveaxis(planes[:, 0], 0, -1).reshape(page.imagelength, page.imagewidth, -1)
    channels = _COLOR_SAMPLES[page.photometric]
    if _is_premultiplied(page) and (samples[..., channels] != np.iinfo(samples.dtype).max).any():
        raise ImageError(FailureStage.DECODE, "colours multiplied by transparency: save it without transparency")
    color = samples[..., :channels]
    if page.photometric == _CMYK:
        return _cmyk_to_rgb(color, page.bitspersample)
    return to_8_bit_rgb(color, page.bitspersample, page.photometric == _WHITE_IS_ZERO)


def _is_premultiplied(page: "TiffPage") -> bool:
    return bool(page.extrasamples) and page.extrasamples[0] == _PREMULTIPLIED


def _cmyk_to_rgb(inks: NDArray[np.uint8 | np.uint16], bits: int) -> UInt8:
    rgb = np.empty((*inks.shape[:2], 3), np.uint8)
    for start in range(0, len(inks), BLOCK_ROWS):
        rows = np.ascontiguousarray(to_8_bit(inks[start : start + BLOCK_ROWS], bits))
        rgb[start : start + BLOCK_ROWS] = Image.fromarray(rows, "CMYK").convert("RGB")
    return rgb


def _read_by_pillow(data: bytes, page: "TiffPage") -> UInt8:
    """Decode a page to upright RGB: Pillow applies the orientation of a TIFF by itself."""
    image = TiffImageFile(BytesIO(data))
    # Pillow warns above 89 megapixels when it creates the canvas, but not about a canvas that exists already.
    image.im = Image.new(image.mode, (page.imagewidth, page.imagelength)).im
    return to_rgb(image, page.bitspersample, page.photometric == _WHITE_IS_ZERO)


def _pillow_mode(page: "TiffPage") -> str:
    """Return the mode of the pixels for a colour profile."""
    if page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return "L"
    return "CMYK" if page.photometric == _CMYK else "RGB"


def _describe_zeros(data: bytes, page: "TiffPage") -> str:
    if page.compression != _UNCOMPRESSED or page.is_tiled:  # tiles are padded with zeros
        return ""
    samples = page.samplesperpixel if page.planarconfig == _CHUNKY else 1
    return describe_zeros(data, (page.imagewidth * samples * page.bitspersample + 7) // 8)
