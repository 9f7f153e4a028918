"""Encode a mask as PNG from the runs of its rows, without reading most of its pixels again.

PNG rows begin with a filter byte, here 0 (none), so the data alternate between runs of 0 and of 255. In deflate
(RFC 1951), a run is its first byte and copies of the byte before. One block with a fixed set of Huffman codes holds all
runs. Its longest copy is two zero bits, so that writing many of them is leaving zeros between other tokens.
"""

import struct
from collections.abc import Sequence

import deflate
import numpy as np
from numpy.typing import NDArray

from lesioncli.images.mask_runs import Ints, MaskRuns

LESION = 255
END_OF_BLOCK, FIRST_COPY, LONGEST_COPY = 256, 257, 285  # symbols; the last 29 stand for lengths of copies
LONGEST_BYTES = 258
LONGEST_BITS = 2  # symbol and distance
WORD_BITS = 32
ADLER_MODULUS = 65521
# Bits of the code of each symbol in use; they form a complete code: 1/2 + 2/8 + 3/64 + 26/128 = 1.
SYMBOL_BITS = {
    0: 3,
    LESION: 3,
    **dict.fromkeys(range(END_OF_BLOCK, LONGEST_COPY), 7),
    **dict.fromkeys(range(FIRST_COPY, FIRST_COPY + 3), 6),
    LONGEST_COPY: 1,
}
# The order in which a block lists the bits of its code of code lengths.
TABLE_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
# Bits of the codes of code lengths: of those in SYMBOL_BITS, and of 11 to 138 symbols that are not in use (18).
LENGTH_BITS = {1: 3, 3: 3, 6: 3, 7: 1, 18: 3}
UNUSED_SYMBOLS = 18


def _assign_codes(bits: dict[int, int]) -> dict[int, int]:
    """Return the canonical Huffman codes of RFC 1951, 3.2.2, in the order in which they are written: reversed."""
    codes, code, previous = {}, 0, 0
    for symbol, length in sorted(bits.items(), key=lambda item: (item[1], item[0])):
        code <<= length - previous
        codes[symbol] = int(f"{code:0{length}b}"[::-1], 2)
        code, previous = code + 1, length
    return codes


def _to_bits(fields: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return fields of (value, number of bits) as bits, the lowest first."""
    return np.array([value >> place & 1 for value, length in fields for place in range(length)], bool)


def _make_header() -> NDArray[np.bool_]:
    """Return the bits before the first token: a last block with its own codes, and the table of their lengths."""
    codes = _assign_codes(LENGTH_BITS)
    fields = [(1, 1), (2, 2), (LONGEST_COPY - FIRST_COPY + 1, 5), (0, 5), (len(TABLE_ORDER) - 1 - 4, 4)]
    fields += [(LENGTH_BITS.get(length, 0), 3) for length in TABLE_ORDER[:-1]]
    previous = -1
    for symbol in [*sorted(SYMBOL_BITS), LONGEST_COPY + 1]:  # the last one is the only distance
        unused = symbol - previous - 1
        while unused:
            count = min(unused, 138)
            fields += [(codes[UNUSED_SYMBOLS], LENGTH_BITS[UNUSED_SYMBOLS]), (count - 11, 7)]
            unused -= count
        length = SYMBOL_BITS.get(symbol, 1)
        fields.append((codes[length], LENGTH_BITS[length]))
        previous = symbol
    return _to_bits(fields)


def _make_copies() -> tuple[Ints, Ints]:
    """Return tokens and their numbers of bits for all lengths of copies below the longest (RFC 1951, 3.2.5)."""
    tokens, sizes = np.zeros(LONGEST_BYTES, np.int64), np.zeros(LONGEST_BYTES, np.int64)
    codes, length = _assign_codes(SYMBOL_BITS), 3
    for symbol in range(FIRST_COPY, LONGEST_COPY):
        extra_bits = max(0, (symbol - FIRST_COPY) // 4 - 1)
        for extra in range(1 << extra_bits):
            if length < LONGEST_BYTES:
                tokens[length] = codes[symbol] | extra << SYMBOL_BITS[symbol]
                sizes[length] = SYMBOL_BITS[symbol] + extra_bits + 1  # one zero bit for the distance
            length += 1
    return tokens, sizes


CODES = _assign_codes(SYMBOL_BITS)
HEADER = _make_header()
HEADER_BYTES = np.packbits(HEADER, bitorder="little")
COPIES, COPY_BITS = _make_copies()


def encode_runs(runs: MaskRuns) -> bytes:
    """Return a mask, given its runs, as a grey PNG of 8 bits: 0 and 255."""
    starts, ends, size = runs.starts, runs.ends, runs.height * runs.stride
    data = b"\x78\x01" + _deflate(starts, ends, size) + struct.pack(">I", _adler32(starts, ends, size))
    header = struct.pack(">IIBBBBB", runs.width, runs.height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(*part) for part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", deflate.crc32(kind + content))


def _deflate(starts: Ints, ends: Ints, size: int) -> bytes:
    """Return one deflate block of `size` bytes: 255 in the runs, 0 between them."""
    bounds = np.concatenate([[0], np.stack([starts, ends], axis=1).reshape(-1), [size]])
    lengths = np.diff(bounds)
    lengths = lengths[lengths > 0]  # the last one is empty if the last pixel is lesion
    literals = np.where(np.arange(len(lengths)) % 2, CODES[LESION], CODES[0])
    longest, rest = np.divmod(lengths - 1, LONGEST_BYTES)
    is_short = (rest == 1) | (rest == 2)  # too short for a copy: one or two literals more
    literal_bits = SYMBOL_BITS[0]
    rest_tokens = np.where(is_short, literals, COPIES[rest])
    rest_tokens = np.where(rest == 2, literals << literal_bits | literals, rest_tokens)
    rest_bits = np.where(is_short, literal_bits * rest, COPY_BITS[rest])
    run_bits = literal_bits + LONGEST_BITS * longest + rest_bits
    run_ends = len(HEADER) + np.cumsum(run_bits)
    header_places = 8 * np.arange(len(HEADER_BYTES))
    places = np.concatenate([header_places, run_ends - run_bits, run_ends - rest_bits, run_ends[-1:]])
    tokens = np.concatenate([HEADER_BYTES, literals, rest_tokens, [CODES[END_OF_BLOCK]]])
    return _join(places, tokens, int(run_ends[-1]) + SYMBOL_BITS[END_OF_BLOCK])


def _join(places: Ints, tokens: Ints, size_bits: int) -> bytes:
    """Return tokens of up to WORD_BITS bits at their places among `size_bits` bits, the lowest first; the rest is 0."""
    words, shifts = np.divmod(places, WORD_BITS)
    shifted = tokens << shifts  # may reach into the next word
    # Tokens do not overlap, so that the sum of those in a word is their union. float64 holds it exactly.
    count = size_bits // WORD_BITS + 2
    low = np.bincount(words, shifted & (1 << WORD_BITS) - 1, count)
    high = np.bincount(words + 1, shifted >> WORD_BITS, count)
    return (low + high).astype("<u4").tobytes()[: -(-size_bits // 8)]


def _adler32(starts: Ints, ends: Ints, size: int) -> int:
    """Return the checksum of zlib (RFC 1950, 8.2) over `size` bytes: 255 in the runs, 0 between them."""
    lengths = ends - starts
    # Each byte is added once to the first sum, and to the second as often as there are bytes from it to the end.
    weights = lengths * (size - starts) - lengths * (lengths - 1) // 2
    first = 1 + LESION * int(lengths.sum())
    second = size + LESION * int((weights % ADLER_MODULUS).sum())
    return second % ADLER_MODULUS << 16 | first % ADLER_MODULUS
