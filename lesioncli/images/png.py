"""Reader for PNG, with the checks that Pillow leaves out."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import deflate
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from lesioncli.errors import ImageError
from lesioncli.images.color import from_gamma
from lesioncli.images.geometry import UInt8
from lesioncli.images.pillow import to_upright_srgb
from lesioncli.images.pixels import DecodedImage, check_size, peak_bytes, to_rgb
from lesioncli.options import FailureStage

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 33  # the signature and the first chunk
END = b"\0\0\0\0IEND\xae\x42\x60\x82"  # the last chunk of every PNG
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel by colour type, https://www.w3.org/TR/png-3/#11IHDR
# First row, first column, row step, column step of each pass, https://www.w3.org/TR/png-3/#8Interlace
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
BLOCK_BYTES = 2**20
NO_PIXEL = 119  # dark red or grey: a last row of this color may be missing, a black one is the edge of an image


@dataclass(frozen=True)
class Header:
    """Fields of the IHDR chunk in their order, https://www.w3.org/TR/png-3/#11IHDR."""

    width: int
    height: int
    bits: int
    color_type: int
    compression: int
    filtering: int
    interlace: int

    @property
    def samples(self) -> int:
        """Samples per pixel."""
        return SAMPLES.get(self.color_type, 4)

    def raw_bytes(self) -> int:
        """Return the size of all rows, or of the rows of seven passes, before compression; each has a filter byte."""
        passes = ADAM7 if self.interlace else ((0, 0, 1, 1),)
        sizes = [
            (-(-(self.height - top) // row_step), -(-(self.width - left) // column_step))
            for top, left, row_step, column_step in passes
        ]
        return sum(h * (1 + (w * self.samples * self.bits + 7) // 8) for h, w in sizes if h > 0 and w > 0)


@dataclass(frozen=True)
class Chunk:
    """A chunk whose checksum is right."""

    kind: bytes
    content: memoryview

    @property
    def is_critical(self) -> bool:
        """Whether the pixels depend on it, https://www.w3.org/TR/png-3/#5Chunk-naming-conventions."""
        return not self.kind[0] & 0x20


def read_png(data: bytes, at_least_hw: tuple[int, int]) -> DecodedImage:
    """Decode a PNG at full size."""
    header = read_header(data)
    check_size((header.height, header.width), header.samples, header.bits)
    for _ in chunks(data):  # checks them; Pillow does not compare the checksums of pixels
        pass
    image = PngImageFile(BytesIO(data))
    no_pixel = NO_PIXEL * 257 if image.mode.startswith("I") else NO_PIXEL
    image.im = Image.new(image.mode, image.size, no_pixel).im  # load() decodes into it
    rgb = to_rgb(image, header.bits)
    if header.interlace or image.mode == "P" or _is_uniform_and_not_black(rgb[-1]):
        check_rows(data)  # decompresses the pixels a second time
    if {"icc_profile", "srgb"} & image.info.keys():  # these matter more
        return to_upright_srgb(image, rgb, bits=header.bits)
    return to_upright_srgb(image, *from_gamma(rgb, image.info.get("gamma")), header.bits)


def measure_png(file: BinaryIO, at_least_hw: tuple[int, int]) -> int:
    """Estimate the memory of read_png() from the header."""
    header = read_header(file.read(HEADER_BYTES))
    return peak_bytes((header.height, header.width), header.samples, header.bits)


def _is_uniform_and_not_black(row: UInt8) -> bool:
    return bool(row[0].any() and (row == row[0]).all())


def read_header(data: bytes) -> Header:
    """Read the IHDR chunk, the first of every PNG."""
    return Header(*struct.unpack_from(">IIBBBBB", data, len(SIGNATURE) + 8))


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to IEND, or to the end of the data. Raises ImageError at a critical one that is damaged."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        chunk = Chunk(kind, view[at + 8 : end - 4])
        if deflate.crc32(view[at + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]:
            yield chunk
        elif chunk.is_critical:
            raise ImageError(FailureStage.DECODE, f"damaged: wrong checksum in the PNG data ({kind!r})")
        if kind == b"IEND":
            return
        at = end


def check_rows(data: bytes) -> None:
    """Raise ImageError if the compressed pixels of a PNG end before its last row: decoders leave the rest black."""
    header, decompressor = read_header(data), zlib.decompressobj()
    missing = header.raw_bytes()
    for chunk in chunks(data):
        content: bytes | memoryview = chunk.content if chunk.kind == b"IDAT" else b""
        while content and missing > 0 and not decompressor.eof:
            missing -= len(decompressor.decompress(content, BLOCK_BYTES))
            content = decompressor.unconsumed_tail
    missing -= len(decompressor.flush()) if missing > 0 else 0
    if missing > 0:
        raise ImageError(FailureStage.DECODE, f"truncated: the PNG has {missing} of {header.raw_bytes()} bytes too few")
