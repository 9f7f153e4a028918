"""Checks of a WebP file that libwebp leaves out: it decodes zeros, in place of lost data, to some pixels or other."""

import struct

from lesioncli.errors import ImageError
from lesioncli.options import FailureStage

PIXEL_CHUNKS = (b"VP8 ", b"VP8L", b"ALPH")
FRAME = b"ANMF"
FRAME_HEADER_BYTES = 16
# Pixels are stored by an arithmetic or a prefix code, whose output is as good as random: only an image of one color,
# of a hundred megapixels, could have so long a run of zeros.
ZEROS = bytes(256)


def check_webp(data: bytes) -> None:
    """Raise ImageError if a chunk does not end before the file does, or if its pixels are overwritten with zeros."""
    if 8 + struct.unpack_from("<I", data, 4)[0] > len(data) + 1:  # some encoders count a byte of padding
        raise ImageError(FailureStage.DECODE, "truncated: the WebP data end too early")
    _check_chunks(data, 12, len(data))


def _check_chunks(data: bytes, at: int, end: int) -> None:
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        start, at = at + 8, at + 8 + size + size % 2
        if start + size > end:
            if kind in PIXEL_CHUNKS:
                raise ImageError(FailureStage.DECODE, "truncated: the WebP data end too early")
            return
        if kind == FRAME:
            _check_chunks(data, start + FRAME_HEADER_BYTES, start + size)
        elif kind in PIXEL_CHUNKS and data.find(ZEROS, start, start + size) >= 0:
            raise ImageError(FailureStage.DECODE, "damaged: WebP data are overwritten with zeros; get the file again")
