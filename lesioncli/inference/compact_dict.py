"""A dict of a million rows in memory: sorted blocks of neighbours, which are kept compressed while nobody uses them."""

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import Generic, TypeVar

import deflate
import msgspec

T = TypeVar("T")

MAX_BLOCK_VALUES = 128  # half as many after a split; twice as many save 2 % of memory, and one is read half as fast
OPEN_BLOCKS = 16  # nearly all uses are in the order of keys, at one or two places at a time
LEVEL = 5  # of libdeflate; 6 saves a thousandth of memory and takes a fifth longer, 1 takes 8 % more

_encode = msgspec.json.Encoder().encode
_decode_block = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Block = dict[str, msgspec.Raw]


class CompactDict(Generic[T]):
    """Values by key, for keys that come and are looked up nearly in order.

    A block has the values from its first key to the first one of the next block. Several threads may use it; a loop
    over it yields each pair that is there all the time, whatever is added or removed meanwhile.

    kind: type of the values, which msgspec must be able to write as JSON and to read back.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decode = msgspec.json.Decoder(kind).decode
        self._starts = [""]  # first keys of the blocks
        self._packed = {"": _pack({})}
        self._open: OrderedDict[str, _Block] = OrderedDict()  # the latest used last
        self._changed: set[str] = set()  # blocks that are open and differ from what is packed
        self._length = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return self._length

    def get(self, key: str) -> T | None:
        """Return the value of a key, None if it has none."""
        with self._lock:
            value = self._find(key)[1].get(key)
        return None if value is None else self._decode(value)

    def __getitem__(self, key: str) -> T:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: T) -> None:
        encoded = msgspec.Raw(_encode(value))
        with self._lock:
            start, block = self._find(key)
            self._length += key not in block
            block[key] = encoded
            self._changed.add(start)
            if len(block) > MAX_BLOCK_VALUES:
                self._split(block)

    def pop(self, key: str) -> T | None:
        """Remove a key and return its value, None if it had none."""
        with self._lock:
            start, block = self._find(key)
            value = block.pop(key, None)
            if value is None:
                return None
            self._length -= 1
            self._changed.add(start)
        return self._decode(value)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield keys and values in the order of keys."""
        start: str | None = ""
        while start is not None:
            with self._lock:
                block = self._open[start] if start in self._open else _unpack(self._packed[start])
                pairs = sorted(block.items(), key=_first)
                following = bisect_right(self._starts, start)
                start = self._starts[following] if following < len(self._starts) else None
            for key, value in pairs:
                yield key, self._decode(value)

    def values(self) -> Iterator[T]:
        """Yield values in the order of their keys."""
        return (value for _, value in self.items())

    def pack(self) -> None:
        """Pack the blocks that are open, of a dict that is not used for a while."""
        with self._lock:
            while self._open:
                self._pack_oldest()

    def _find(self, key: str) -> tuple[str, _Block]:
        """Return the block that has a key or would have it, and its first key."""
        start = self._starts[bisect_right(self._starts, key) - 1]
        block = self._open.get(start)
        if block is None:
            block = self._put(start, _unpack(self._packed[start]))
        else:
            self._open.move_to_end(start)
        return start, block

    def _split(self, block: _Block) -> None:
        """Move the larger half of the keys of a block to a new one."""
        moved = sorted(block)[len(block) // 2 :]
        insort(self._starts, moved[0])
        self._changed.add(moved[0])
        self._put(moved[0], {key: block.pop(key) for key in moved})

    def _put(self, start: str, block: _Block) -> _Block:
        """Keep a block open, and pack the one that was not used for longest."""
        self._open[start] = block
        if len(self._open) > OPEN_BLOCKS:
            self._pack_oldest()
        return block

    def _pack_oldest(self) -> None:
        start, block = next(iter(self._open.items()))
        if start in self._changed:
            self._packed[start] = _pack(block)  # first: where memory is short, this fails, and the block has to stay
            self._changed.remove(start)
        del self._open[start]


def _first(pair: tuple[str, msgspec.Raw]) -> str:
    return pair[0]


def _pack(block: _Block) -> bytes:
    return bytes(deflate.gzip_compress(_encode(block), LEVEL))


def _unpack(packed: bytes) -> _Block:
    return _decode_block(deflate.gzip_decompress(packed))
