"""Reader for JPEG 2000: files (JP2, JPX) and bare codestreams."""

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from lesioncli.errors import ImageError
from lesioncli.images.pillow import to_upright_srgb
from lesioncli.images.pixels import DecodedImage, check_size, peak_bytes, to_rgb
from lesioncli.options import FailureStage

FILE_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"  # the markers SOC and SIZ, which begin every codestream
END = b"\xff\xd9"  # the marker EOC, which ends it
HEADER_BYTES = 2**16  # of a file: the codestream begins there, unless it has a very long colour profile
DECODER_CHANNELS = 12  # openjpeg holds each sample as an integer of 4 bytes


@dataclass(frozen=True)
class Codestream:
    """Fields of the SIZ segment, ISO/IEC 15444-1 A.5.1. bits: per sample, of the first component."""

    height: int
    width: int
    components: int
    bits: int


def read_jpeg2000(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a JPEG 2000 image at full size."""
    stream = read_codestream(data)
    check_size((stream.height, stream.width), stream.components, stream.bits)
    image = Jpeg2KImageFile(BytesIO(data))
    if image.size != (stream.width, stream.height):
        raise ImageError(FailureStage.DECODE, "damaged: the JPEG 2000 header and its codestream differ in size")
    if END not in data[-1024:]:  # openjpeg returns what it has; bytes may follow the codestream
        raise ImageError(FailureStage.DECODE, "truncated: the JPEG 2000 data end too early")
    # Pillow scales grey samples of any depth to 16 bits, and colours to 8.
    return to_upright_srgb(image, to_rgb(image, 16 if image.mode.startswith("I;16") else 8), bits=stream.bits)


def measure_jpeg2000(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_jpeg2000() from the header."""
    stream = read_codestream(file.read(HEADER_BYTES))
    return peak_bytes((stream.height, stream.width), max(stream.components * 4, DECODER_CHANNELS))


def read_codestream(data: bytes) -> Codestream:
    """Read the header of the codestream in a file, or of a bare one. Raises ValueError if there is none."""
    at = data.index(CODESTREAM)
    _, _, width, height, left, top, _, _, _, _, components, bits = struct.unpack_from(">HHIIIIIIIIHB", data, at + 4)
    return Codestream(height - top, width - left, components, (bits & 0x7F) + 1)
