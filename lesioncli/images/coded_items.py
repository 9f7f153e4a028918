"""Look for overwritten data in HEIF and AVIF files: their decoders fill the gap with guessed pixels and say nothing.

Both keep their coded pictures as items of an ISO base media file (ISO/IEC 14496-12 and 23008-12).
"""

import re
import struct
from collections.abc import Iterator

from lesioncli.errors import ImageError
from lesioncli.options import FailureStage

# What cannot be in the data of an item. HEVC never has these three bytes (ITU-T H.265, 7.4.2.3); a length of 4 bytes
# precedes each unit. AV1 has no such rule, but its arithmetic coder writes no long runs of zeros.
_HEVC, _AV1 = b"hvc1", b"av01"
_FORBIDDEN = {_HEVC: re.compile(rb"\0\0[\0-\2]"), _AV1: re.compile(rb"\0{256,}")}
_LENGTH_BYTES = 4


def refuse_overwritten(data: bytes) -> None:
    """Raise ImageError if bytes in a coded picture cannot be those of its encoder."""
    try:
        damaged = any(_is_overwritten(kind, content) for kind, content in _coded_items(data))
    except (struct.error, ValueError, LookupError):  # boxes that this module does not know; the decoder judges them
        return
    if damaged:
        raise ImageError(FailureStage.DECODE, "damaged: data of the picture are overwritten; get the file again")


def _is_overwritten(kind: bytes, content: bytes) -> bool:
    pattern = _FORBIDDEN[kind]
    if kind == _AV1:
        return pattern.search(content) is not None
    at = 0
    while at + _LENGTH_BYTES <= len(content):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(content[at:start], "big")
        if pattern.search(content, start, at):
            return True
    return at != len(content)


def _coded_items(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the data of each coded picture: the main one, its tiles, thumbnails."""
    start, end = dict(_boxes(data, 0, len(data)))[b"meta"]
    boxes = dict(_boxes(data, start + 4, end))
    kinds = _item_kinds(data, *boxes[b"iinf"])
    inside = boxes.get(b"idat", (0, 0))[0]
    for item, method, extents in _item_extents(data, *boxes[b"iloc"]):
        if kinds.get(item) in _FORBIDDEN and method in (0, 1):
            base = inside if method else 0
            yield kinds[item], b"".join(data[base + start : base + start + size] for start, size in extents)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield the kind of each box between two positions, and where its content starts and ends."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        at = at + size if size else end
        if at < start:
            raise ValueError(f"box {kind!r} of {size} bytes")
        yield kind, (start, min(at, end))


def _item_kinds(data: bytes, start: int, end: int) -> dict[int, bytes]:
    """Return the kind of each item by its number, from the box iinf."""
    at = start + (6 if data[start] == 0 else 8)
    kinds: dict[int, bytes] = {}
    for _, (entry, _) in _boxes(data, at, end):
        number = ">H" if data[entry] == 2 else ">I"
        (item,) = struct.unpack_from(number, data, entry + 4)
        kind_at = entry + 4 + struct.calcsize(number) + 2
        kinds[item] = data[kind_at : kind_at + 4]
    return kinds


def _item_extents(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield number, construction method, and the (start, size) of the extents of each item, from the box iloc."""
    version, sizes = data[start], data[start + 4 : start + 6]
    offset_bytes, length_bytes, base_bytes = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_bytes = sizes[1] & 15 if version else 0
    at = start + 6

    def read(count: int) -> int:
        nonlocal at
        if at + count > end:
            raise ValueError("item locations end too early")
        at += count
        return int.from_bytes(data[at - count : at], "big")

    wide = 4 if version == 2 else 2
    for _ in range(read(wide)):
        item = read(wide)
        method = read(2) & 15 if version else 0
        read(2)  # data reference
        base, extents = read(base_bytes), []
        for _ in range(read(2)):
            read(index_bytes)
            extents.append((base + read(offset_bytes), read(length_bytes)))
        yield item, method, extents
