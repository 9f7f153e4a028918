"""Grey PNGs of 1 or 8 bits, as nearly all masks are, inflated by libdeflate.

Masks are long runs of one value, which zlib copies byte by byte: of the 30 ms that opencv takes for 12 megapixels,
24 are zlib's, where libdeflate takes less than one. What is out of the ordinary, damage included, is left to others.
"""

import struct
from typing import NamedTuple

import cv2
import deflate
import numpy as np
from numpy.typing import NDArray
from PIL import Image

UInt8 = NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that change no value of a pixel, https://www.w3.org/TR/png-3/#11Ancillary-chunks
HARMLESS = {b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP"}
ROWS_AT_ONCE = 256  # of noise, each byte takes 8 more while rows are summed
NONE, SUB, UP, AVERAGE, PAETH = range(5)  # https://www.w3.org/TR/png-3/#9Filter-types


class _Header(NamedTuple):
    width: int
    height: int
    bits: int
    colour: int
    compression: int
    filtering: int
    interlace: int


def read_grey(data: bytes) -> tuple[UInt8, int] | None:
    """Values (H, W) of a grey PNG and which of them is white, 255 or 1; None where it is not whole and ordinary."""
    if (found := _read_chunks(data)) is None:
        return None
    header, compressed = found
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
    return (rows, 255) if header.bits == 8 else (np.unpackbits(rows, axis=1, count=header.width), 1)


def _read_chunks(data: bytes) -> tuple[_Header, bytes] | None:
    """Header and compressed pixels, where every chunk is harmless and has its right checksum."""
    if not data.startswith(SIGNATURE):
        return None
    header: _Header | None = None
    pixels: list[bytes] = []
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or struct.unpack_from(">I", data, end - 4)[0] != deflate.crc32(data[at + 4 : end - 4]):
            return None
        content = data[at + 8 : end - 4]
        if kind == b"IHDR" and header is None and length == 13:
            header = _Header(*struct.unpack(">IIBBBBB", content))
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


def _is_ordinary(header: _Header) -> bool:
    """Grey, not interlaced, and no larger than Pillow takes for honest."""
    kind = header.bits in (1, 8), header.colour, header.compression, header.filtering, header.interlace
    return kind == (True, 0, 0, 0, 0) and 0 < header.width * header.height <= (Image.MAX_IMAGE_PIXELS or 0)


def _unfilter(filtered: UInt8) -> UInt8 | None:
    """Bytes (H, B) of rows (H, 1 + B) that begin with their filter, undone in place; None where libpng is as fast."""
    filters, rows = filtered[:, 0], filtered[:, 1:]
    if filters.max() > PAETH or np.count_nonzero(filters >= AVERAGE) > len(rows) // 4:
        return None
    for some in _in_blocks(np.flatnonzero(filters == SUB)):
        rows[some] = _running_sums(rows[some])
    for at in np.flatnonzero(filters > SUB).tolist():
        above = rows[at - 1] if at else np.zeros_like(rows[0])
        if filters[at] == UP:
            np.add(rows[at], above, out=rows[at])
        else:
            rows[at] = _unfilter_row(above, filtered[at])
    return rows


def _in_blocks(indices: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    return [indices[start : start + ROWS_AT_ONCE] for start in range(0, indices.size, ROWS_AT_ONCE)]


def _running_sums(differences: UInt8) -> UInt8:
    """Sums (R, B), modulo 256, from the left of each row: np.add.accumulate, 5 times as fast where few are not 0."""
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
    """A row under one of the two filters that go from pixel to pixel, by libpng: as a picture of two rows."""
    rows = np.concatenate([[np.uint8(NONE)], above, filtered]).tobytes()
    header = struct.pack(">IIBBBBB", above.size, 2, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", deflate.zlib_compress(rows, 0)), (b"IEND", b"")
    png = SIGNATURE + b"".join(_chunk(*each) for each in chunks)
    both = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)
    return np.asarray(both[1])


def _chunk(kind: bytes, content: bytes | bytearray) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", deflate.crc32(kind + content))
