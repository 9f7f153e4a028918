"""Decode grey PNGs of 1 or 8 bits, as nearly all masks are, with libdeflate.

Masks are long runs of one value, which zlib copies byte by byte: of the 30 ms that opencv takes for 12 megapixels,
zlib takes 24, libdeflate less than one. Any other PNG, and any damaged one, is left to other decoders.
"""

import struct
from dataclasses import dataclass

import cv2
import deflate
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.images.png import SIGNATURE, Header

UInt8 = NDArray[np.uint8]

# Chunks that do not change the value of any pixel, https://www.w3.org/TR/png-3/#11Ancillary-chunks
HARMLESS = {b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP"}
BLOCK_ROWS = 256  # bounds memory: summing a noisy row takes 8 more bytes per byte
NONE, SUB, UP, AVERAGE, PAETH = range(5)  # https://www.w3.org/TR/png-3/#9Filter-types


@dataclass(frozen=True)
class GreyPng:
    """Levels (H, W) of a grey PNG, and the level that is white: 255, or 1 for a PNG of 1 bit."""

    levels: UInt8
    white: int


def _is_ordinary(header: Header) -> bool:
    """Whether the image is grey, not interlaced, and no larger than Pillow accepts."""
    is_grey = header.bits in (1, 8) and header.color_type == 0
    is_plain = header.compression == header.filtering == header.interlace == 0
    return is_grey and is_plain and 0 < header.width * header.height <= (Image.MAX_IMAGE_PIXELS or 0)


def read_grey_png(data: bytes) -> GreyPng | None:
    """Decode an ordinary grey PNG; None if it is anything else, or damaged."""
    if (chunks := _read_chunks(data)) is None:
        return None
    header, compressed = chunks
    row_bytes = (header.width * header.bits + 7) // 8
    size = header.height * (row_bytes + 1)
    try:
        raw = deflate.zlib_decompress(compressed, size)
    except deflate.DeflateError:
        return None
    if len(raw) != size:
        return None
    rows = _unfilter(np.frombuffer(raw, np.uint8).reshape(header.height, row_bytes + 1))
    if rows is None:
        return None
    if header.bits == 8:
        return GreyPng(rows, 255)
    return GreyPng(np.unpackbits(rows, axis=1, count=header.width), 1)


def _read_chunks(data: bytes) -> tuple[Header, bytes] | None:
    """Return header and compressed pixels; None unless every chunk is harmless and its checksum is right."""
    if not data.startswith(SIGNATURE):
        return None
    header: Header | None = None
    pixels: list[bytes] = []
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or struct.unpack_from(">I", data, end - 4)[0] != deflate.crc32(data[at + 4 : end - 4]):
            return None
        content = data[at + 8 : end - 4]
        if kind == b"IHDR" and header is None and length == 13:
            header = Header(*struct.unpack(">IIBBBBB", content))
        elif header is None or not _is_ordinary(header):
            return None
        elif kind == b"IDAT":
            pixels.append(content)
        elif kind == b"IEND":
            return header, b"".join(pixels)
        elif kind not in HARMLESS:
            return None
        at = end
    return None


def _unfilter(filtered: UInt8) -> UInt8 | None:
    """Undo the filters of rows (H, 1 + B), whose first byte names the filter; None if libpng is as fast.

    Returns (H, B), a view of the same memory.
    """
    filters, rows = filtered[:, 0], filtered[:, 1:]
    if filters.max() > PAETH or np.count_nonzero(filters >= AVERAGE) > len(rows) // 4:
        return None
    for block in _blocks(np.flatnonzero(filters == SUB)):
        rows[block] = _running_sums(rows[block])
    for at in np.flatnonzero(filters > SUB).tolist():
        above = rows[at - 1] if at else np.zeros_like(rows[0])
        if filters[at] == UP:
            np.add(rows[at], above, out=rows[at])
        else:
            rows[at] = _unfilter_row(above, filtered[at])
    return rows


def _blocks(indices: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return [indices[start : start + BLOCK_ROWS] for start in range(0, indices.size, BLOCK_ROWS)]


def _running_sums(differences: UInt8) -> UInt8:
    """Return running sums (R, B) of each row, modulo 256.

    The same as np.add.accumulate, and 5 times as fast if most differences are 0.
    """
    flat, width = differences.ravel(), differences.shape[1]
    starts = np.arange(0, flat.size, width)
    changes = flat != 0
    changes[starts] = True
    at = np.flatnonzero(changes)
    sums = np.add.accumulate(flat[at], dtype=np.uint8)
    first = np.searchsorted(at, starts)
    sums -= np.repeat(sums[first] - flat[starts], np.diff(first, append=at.size))
    return np.repeat(sums, np.diff(at, append=flat.size)).reshape(-1, width)


def _unfilter_row(above: UInt8, filtered: UInt8) -> UInt8:
    """Undo AVERAGE or PAETH, which depend on the pixel before, with libpng: as an image of two rows."""
    rows = np.concatenate([[np.uint8(NONE)], above, filtered]).tobytes()
    header = struct.pack(">IIBBBBB", above.size, 2, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", deflate.zlib_compress(rows, 0)), (b"IEND", b"")
    png = SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)
    decoded = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)
    return np.asarray(decoded[1])


def _chunk(kind: bytes, content: bytes | bytearray) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", deflate.crc32(kind + content))
