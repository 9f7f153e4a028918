"""Reader for JPEG: simplejpeg decodes, Pillow reads the metadata.

libjpeg conceals damage, fills the gap with guessed pixels and only warns. Pillow and OpenCV drop these warnings, with
which most damaged files would pass; simplejpeg reports them. On whole files its pixels equal those of Pillow.

The image is downsampled while it is decoded: 2.4 times faster on the 2.6 to 12 megapixel originals of ISIC.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ExifTags import Base as Tag
from PIL.JpegImagePlugin import JpegImageFile

from lesioncli.errors import ImageError
from lesioncli.images.color import to_srgb
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.images.pixels import DecodedImage, check_size, join_notes, peak_bytes, to_rgb, valid_orientation
from lesioncli.options import FailureStage

# A decoded JPEG stays this many times larger than needed: the scaled decoder has a cruder kernel than to_network(),
# and a final downsampling by less than 2 would let the network see the difference.
MIN_FINAL_REDUCTION = 2
REDUCTIONS = (8, 4, 2, 1)
# Encoders write 1 to 64 scans. A file of half a megabyte can hold thousands, each as slow to decode as the first.
MAX_SCANS = 100

START, END, SCAN = 0xD8, 0xD9, 0xDA
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0 to RST7, SOI
JFIF, ADOBE, COMMENT, APPLICATION = 0xE0, 0xEE, 0xFE, range(0xE0, 0xF0)
SEQUENTIAL = {0xC0, 0xC1}  # SOF0 and SOF1
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, without DHT, JPG and DAC; JPEG-LS
_SCAN_MARKER, END_MARKER = bytes([0xFF, SCAN]), bytes([0xFF, END])
_SCAN_NUMBER = np.frombuffer(_SCAN_MARKER, np.uint16)[0]


@dataclass(frozen=True)
class Segment:
    """A marker and its bytes data[start:end], from its 0xFF to its last parameter; entropy-coded data are left out."""

    marker: int
    start: int
    end: int


def read_jpeg(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a JPEG, downsampled by 1, 2, 4 or 8 to MIN_FINAL_REDUCTION times `at_least_hw` or more."""
    header = JpegImageFile(BytesIO(data))
    stored_hw = (header.height, header.width)
    check_size(stored_hw, header.layers)
    _check_scans(data)
    orientation = valid_orientation(header.getexif().get(Tag.Orientation))
    needed_hw = at_least_hw if orientation < 5 else at_least_hw[::-1]
    rgb = _decode(data, header, needed_hw)
    rgb, color_note = to_srgb(rgb, header.info.get("icc_profile"), header.mode)
    note = join_notes("first of several pictures" if "mp" in header.info else "", color_note)
    return DecodedImage(to_upright(rgb, orientation), stored_hw, orientation, note)


def measure_jpeg(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_jpeg() from the headers: its pixels, and the coefficients of a progressive JPEG."""
    marker, header = _read_frame_header(file)
    height, width, channels = struct.unpack_from(">HHB", header, 1)
    check_size((height, width), channels)
    # A photograph may lie on its side; the smaller reduction takes more memory.
    reduction = min(_choose_reduction((height, width), needed) for needed in (at_least_hw, at_least_hw[::-1]))
    pixels = peak_bytes((-(-height // reduction), -(-width // reduction)), channels)
    return pixels + (0 if marker in SEQUENTIAL else 2 * channels * height * width)


def read_frame_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of the first frame."""
    _, header = _read_frame_header(BytesIO(data))
    height, width = struct.unpack_from(">HH", header, 1)
    return height, width


def _read_frame_header(file: BinaryIO) -> tuple[int, bytes]:
    """Return the marker and the parameters of the first frame. Raises struct.error at the end of the data."""
    file.seek(2)
    while True:
        (byte,) = struct.unpack("B", file.read(1))
        if byte != 0xFF:
            continue
        while byte == 0xFF:
            (byte,) = struct.unpack("B", file.read(1))
        if byte in WITHOUT_LENGTH or byte == 0:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if byte in FRAMES:
            return byte, file.read(length - 2)
        file.seek(length - 2, os.SEEK_CUR)


def _choose_reduction(size_hw: tuple[int, int], needed_hw: tuple[int, int]) -> int:
    scale = min(side // (MIN_FINAL_REDUCTION * needed) for side, needed in zip(size_hw, needed_hw, strict=True))
    return next((reduction for reduction in REDUCTIONS if reduction <= scale), 1)


def _check_scans(data: bytes) -> None:
    if _count_scan_markers(data) <= MAX_SCANS:  # a thumbnail or chance bytes may add some
        return
    scans = sum(segment.marker == SCAN for segment in segments(data))
    if scans > MAX_SCANS:
        raise ImageError(
            FailureStage.DECODE, f"{scans} scans, more than {MAX_SCANS}: decoding would take minutes; save it again"
        )


def _count_scan_markers(data: bytes) -> int:
    """Return data.count(_SCAN_MARKER), in a tenth of its time, which is 3 ms for a photograph of 12 megapixels."""
    pairs = (np.frombuffer(data, np.uint16, (len(data) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(numbers == _SCAN_NUMBER)) for numbers in pairs)


def _decode(data: bytes, header: JpegImageFile, needed_hw: tuple[int, int]) -> UInt8:
    """Decode to RGB (h, w, 3), downsampled; ImageError if libjpeg warns of damage."""
    try:
        return _decode_strictly(data, header, _choose_reduction((header.height, header.width), needed_hw))
    except ValueError as error:
        if "Could not determine subsampling" in str(error):  # legal, but no encoder in use writes it
            header.draft(None, (MIN_FINAL_REDUCTION * needed_hw[1], MIN_FINAL_REDUCTION * needed_hw[0]))
            return to_rgb(header, 8)
        first_error = error
    # Some cameras write headers that libjpeg warns of, or padding before the end marker. The pixels are whole.
    try:
        return _decode_strictly(
            _without_oddities(data), header, _choose_reduction((header.height, header.width), needed_hw)
        )
    except ValueError:
        raise ImageError(FailureStage.DECODE, _reason(str(first_error))) from first_error


def _decode_strictly(data: bytes, header: JpegImageFile, reduction: int) -> UInt8:
    height, width = (-(-side // reduction) for side in header.size[::-1])
    if header.mode != "CMYK":
        return np.asarray(simplejpeg.decode_jpeg(data, min_height=height, min_width=width), np.uint8)
    inks = simplejpeg.decode_jpeg(data, "CMYK", min_height=height, min_width=width)
    return np.asarray(Image.fromarray(255 - inks, "CMYK").convert("RGB"))  # stored inverted


def _reason(warning: str) -> str:
    if warning.startswith("Premature end"):
        return "truncated: the JPEG data end too early"
    detail = warning.removeprefix("Corrupt JPEG data: ")
    return f"damaged: JPEG data are missing or overwritten (libjpeg: {detail}); get the file again from its source"


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of a JPEG up to its end marker, or to the end of the data.

    Markers are followed, not searched for: thumbnails, and whatever follows the end marker, hold markers as well.
    """
    at = 2
    while (start := _next_marker(data, at)) >= 0:
        marker = data[start + 1]
        at = start + 2
        if marker not in WITHOUT_LENGTH and marker != END:
            if at + 2 > len(data):
                return
            at += struct.unpack_from(">H", data, at)[0]
        yield Segment(marker, start, at)
        if marker == END:
            return


def _next_marker(data: bytes, at: int) -> int:
    """Return the index of the next 0xFF that is not followed by 0x00 (a data byte) or 0xFF (padding), or -1."""
    while (at := data.find(b"\xff", at)) >= 0:
        if at + 1 < len(data) and data[at + 1] not in (0x00, 0xFF):
            return at
        at += 1 if data[at + 1 : at + 2] == b"\xff" else 2
    return -1


def _without_oddities(data: bytes) -> bytes:
    """Remove what makes libjpeg warn without harm to the pixels.

    That is: bytes between the segments of the header, unknown versions of JFIF and Adobe segments, broken ICC profiles,
    spectral selections of sequential scans that leave out coefficients, zeros before the end marker.
    """
    parts: list[bytes] = [data[:2]]
    is_sequential = False
    for segment in segments(data):
        content = bytearray(data[segment.start : segment.end])
        is_sequential |= segment.marker in SEQUENTIAL
        if segment.marker == SCAN:
            if is_sequential:
                content[-3:] = b"\x00\x3f\x00"
            return b"".join([*parts, content, _entropy_coded(data, segment.end)])
        if segment.marker == JFIF and content[4:9] == b"JFIF\0":
            content[9:11] = b"\x01\x01"
        elif segment.marker == ADOBE:
            if content[4:9] != b"Adobe" or content[-1] > 2:
                continue
        elif segment.marker in APPLICATION or segment.marker == COMMENT:
            continue
        parts.append(bytes(content))
    return data


def _entropy_coded(data: bytes, start: int) -> bytes:
    """Return all that follows the first scan's header, up to the end marker, without zeros before that marker."""
    end = next((segment for segment in segments(data) if segment.marker == END), None)
    if end is None:
        return data[start:]
    content = data[start : end.start].rstrip(b"\0")
    stuffed = b"\0" if content.endswith(b"\xff") else b""  # 0xFF 0x00 is a data byte
    return content + stuffed + END_MARKER
