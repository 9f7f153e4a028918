"""Reader for DICOM by pydicom (extra `dicom`): photographs, dermoscopic images and secondary captures.

Only the elements in ELEMENTS are read: what a file says about its patient never becomes part of this process. Messages
hold no value of a file but numbers and names of the standard, and none of pydicom's own texts.
"""

import math
import re
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import ImageError
from lesioncli.images.color import to_srgb
from lesioncli.images.geometry import UInt8
from lesioncli.images.jpeg import read_frame_size, read_jpeg
from lesioncli.images.jpeg2000 import CODESTREAM, read_codestream
from lesioncli.images.pixels import (
    DecodedImage,
    check_size,
    describe_conversion,
    describe_zeros,
    join_notes,
    peak_bytes,
    to_8_bit_rgb,
)
from lesioncli.options import FailureStage

if TYPE_CHECKING:
    from pydicom import Dataset

SIGNATURE, SIGNATURE_OFFSET = b"DICM", 128
ELEMENTS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "ICCProfile", "PixelSpacing", "PixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData"),
    *("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData"),
    *("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData"),
)
MAX_ASPECT_ERROR = 0.001  # of a square pixel, as decimal numbers are rounded
GREY = ("MONOCHROME1", "MONOCHROME2")  # in the first, 0 is white
PALETTE = "PALETTE COLOR"
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
DEFLATED = "1.2.840.10008.1.2.1.99"  # transfer syntax of a compressed data set, whose size no header tells
_UID = re.compile(rb"\x02\x00\x10\x00UI(..)([0-9.]{1,64})", re.DOTALL)  # the element of the transfer syntax


@dataclass(frozen=True)
class _Header:
    """What a file says about its pixels. syntax: UID of the transfer syntax."""

    height: int
    width: int
    samples: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    frames: int
    photometric: str
    syntax: str


def read_dicom(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode the first frame of a DICOM file at full size.

    Grey levels are those of the file's window, if it has one, else of the whole range.
    """
    try:
        return _read(data)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # pydicom and the decoders raise almost anything, with values of the file in the text
        raise _failure("damaged or unusual DICOM file; if a viewer opens it, save it from there as PNG") from error


def measure_dicom(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_dicom() from the header; pydicom holds a copy of all frames."""
    _refuse_deflated(file.read(2**16))
    file.seek(0)
    header = _read_header(_read_elements(file, stop_before_pixels=True))
    _check(header)
    return peak_bytes((header.height, header.width), header.samples, header.bits_allocated) + file.seek(0, 2)


def _failure(reason: str) -> ImageError:
    return ImageError(FailureStage.DECODE, reason)


def _read(data: bytes) -> DecodedImage:
    _refuse_deflated(data)
    dataset = _read_elements(BytesIO(data))
    header = _read_header(dataset)
    _check(header)
    samples = _decode_first_frame(dataset, header)
    if header.photometric in GREY:
        rgb, grey_note = _grey_to_rgb(samples, dataset, header)
    else:
        rgb, grey_note = _color_to_rgb(samples, dataset, header), ""
    profile = dataset.get("ICCProfile")
    rgb, color_note = to_srgb(rgb, profile, "L" if header.photometric in GREY else "RGB")
    conversion = describe_conversion(header.frames, "frames", header.bits_stored)
    note = join_notes(conversion, grey_note, color_note, _describe_zeros(dataset, header))
    return DecodedImage(rgb, (header.height, header.width), 1, note, mm_per_pixel=_read_scale(dataset))


def _read_scale(dataset: "Dataset") -> float | None:
    """Return the side of a pixel in millimetres; None if it is not known, or if pixels are not squares."""
    try:
        down, across = map(float, dataset.get("PixelSpacing") or (0, 0))
    except (TypeError, ValueError):
        return None
    is_square = 0 < down < math.inf and abs(across / down - 1) < MAX_ASPECT_ERROR
    return down if is_square else None


def _refuse_deflated(data: bytes) -> None:
    """Raise ImageError for a data set that is compressed as a whole: pydicom would inflate it without limit."""
    match = _UID.search(data, SIGNATURE_OFFSET)
    if match and match[2].decode() == DEFLATED:
        raise _failure("a deflated DICOM file, which is not supported; save it uncompressed, or as PNG")


def _read_elements(file: BinaryIO, stop_before_pixels: bool = False) -> "Dataset":
    from pydicom import dcmread  # of an extra

    return dcmread(file, stop_before_pixels=stop_before_pixels, specific_tags=list(ELEMENTS))


def _read_header(dataset: "Dataset") -> _Header:
    def number(name: str, default: int | None = None) -> int:
        value = default if dataset.get(name) is None else dataset.get(name)
        if value is None:
            raise _failure("a DICOM file without an image, such as a report or a directory")
        return int(value)

    allocated = number("BitsAllocated")
    return _Header(
        number("Rows"),
        number("Columns"),
        number("SamplesPerPixel", 1),
        allocated,
        number("BitsStored", allocated),
        number("PixelRepresentation", 0) == 1,
        max(1, number("NumberOfFrames", 1)),
        str(dataset.get("PhotometricInterpretation", "")).strip(),
        str(dataset.file_meta.get("TransferSyntaxUID", "")),
    )


def _check(header: _Header) -> None:
    """Raise ImageError for an image that is too large, or of a kind that is not supported."""
    if header.height < 1 or header.width < 1:
        raise _failure(f"damaged: {header.width} x {header.height} pixels")
    check_size((header.height, header.width), header.samples, header.bits_allocated)
    expected = 3 if header.photometric in COLOR else 1
    is_known = header.photometric in (*GREY, PALETTE, *COLOR) and header.samples == expected
    if not is_known or header.bits_allocated not in (8, 16) or not 1 <= header.bits_stored <= header.bits_allocated:
        raise _failure(
            f"DICOM pixels of {header.samples} x {header.bits_stored} of {header.bits_allocated} bits in a colour"
            " space that is not supported; save it as PNG"
        )


def _decode_first_frame(dataset: "Dataset", header: _Header) -> NDArray[Any]:
    """Return the samples (h, w) or (h, w, 3) of the first frame; colours are RGB."""
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import UID, AllTransferSyntaxes, JPEGTransferSyntaxes, UncompressedTransferSyntaxes

    if "PixelData" not in dataset:
        raise _failure("truncated: the DICOM data end before the pixels")
    syntax = UID(header.syntax)
    if syntax in UncompressedTransferSyntaxes:
        return np.asarray(pixel_array(dataset, index=0))
    # Of JPEG, Pillow decodes 8 bits; of the others, pylibjpeg's decoders keep all bits of colours.
    plugin = "pillow" if syntax in JPEGTransferSyntaxes[:2] and header.bits_stored == 8 else "pylibjpeg"
    try:
        plugins = get_decoder(syntax).available_plugins
    except NotImplementedError:  # a transfer syntax that pydicom does not know; refused below
        plugins = ()
    if plugin not in plugins:
        raise _failure(_describe_missing_decoder(syntax.name if syntax in AllTransferSyntaxes else ""))
    _check_frame(dataset.PixelData, header, is_ordinary_jpeg=plugin == "pillow")
    return np.asarray(pixel_array(dataset, index=0, decoding_plugin=plugin))


def _describe_zeros(dataset: "Dataset", header: _Header) -> str:
    """Return a note if uncompressed pixels of a single frame end in zeros."""
    from pydicom.uid import UncompressedTransferSyntaxes

    if header.frames > 1 or header.syntax not in UncompressedTransferSyntaxes:
        return ""
    planes = header.samples if dataset.get("PlanarConfiguration") else 1  # rows of one channel after another
    return describe_zeros(dataset.PixelData, header.width * header.samples // planes * header.bits_allocated // 8)


def _describe_missing_decoder(name: str) -> str:
    """Return why pixels with a transfer syntax of this name, "" for a private one, cannot be decoded."""
    if name.startswith("JPEG"):
        return f"DICOM pixels compressed as {name}: install pylibjpeg-libjpeg (GPLv3), or save it uncompressed"
    name = name or "a private codec"
    return f"DICOM pixels compressed with {name}, which is not supported; save it uncompressed or as PNG"


def _check_frame(pixels: bytes, header: _Header, is_ordinary_jpeg: bool) -> None:
    """Raise ImageError if the compressed image has another size than the header says: a decoder would believe it.

    Of an ordinary JPEG, damage is found, too: Pillow conceals it.
    """
    from pydicom.encaps import get_frame

    frame = get_frame(pixels, 0, number_of_frames=header.frames)
    if frame.startswith(CODESTREAM):
        stream = read_codestream(frame)
        size_hw = stream.height, stream.width
    elif frame.startswith(b"\xff\xd8"):
        size_hw = read_frame_size(frame)
    else:
        return  # run lengths, which have no header
    if size_hw != (header.height, header.width):
        raise _failure("damaged: the DICOM header and its compressed image differ in size")
    if is_ordinary_jpeg:
        read_jpeg(frame, (1, 1))


def _color_to_rgb(samples: NDArray[Any], dataset: "Dataset", header: _Header) -> UInt8:
    if header.photometric != PALETTE:
        return to_8_bit_rgb(samples, header.bits_stored, white_is_zero=False)
    from pydicom.pixels import apply_color_lut

    colors = apply_color_lut(samples, dataset)
    return to_8_bit_rgb(colors, 8 * colors.dtype.itemsize, white_is_zero=False)


def _grey_to_rgb(samples: NDArray[Any], dataset: "Dataset", header: _Header) -> tuple[UInt8, str]:
    """Return grey levels as RGB, and a note if the window of the file was applied."""
    from pydicom.pixels import apply_rescale, apply_windowing

    low = -(2 ** (header.bits_stored - 1)) if header.is_signed else 0
    range_of_file = np.array([low, low + 2**header.bits_stored - 1])
    has_window = bool(dataset.get("WindowWidth")) and dataset.get("WindowCenter") is not None
    if not has_window:
        levels = (samples.astype(np.int32) - low).astype(np.uint16)
        return to_8_bit_rgb(levels[..., None], header.bits_stored, header.photometric == GREY[0]), ""
    black, white = sorted(apply_rescale(range_of_file, dataset))
    shown = apply_windowing(apply_rescale(samples, dataset), dataset)
    levels = np.clip((shown - black) / max(white - black, 1e-9) * 255, 0, 255).round().astype(np.uint8)
    return to_8_bit_rgb(levels[..., None], 8, header.photometric == GREY[0]), "window of the file applied"
