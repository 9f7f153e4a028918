"""The dict that keeps the rows of a run compressed, beside a plain dict."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from threading import Thread

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lesioncli.inference import compact_dict
from lesioncli.inference.compact_dict import MAX_BLOCK_VALUES, OPEN_BLOCKS, CompactDict
from lesioncli.inference.rows import Checks, Row, csv_line

RANDOM = random.Random(0)  # noqa: S311 - not for cryptography
MAX_BYTES_PER_ROW = 100  # promised in docs/reliability.md
KEYS = st.text("aé\n,\U0001f600", max_size=3)
NUMBERS = st.integers(-(2**70), 2**70)  # a file system may have times after the year 2554


def make_row(key: str) -> Row:
    """Return a row like those of the default model, with random values; most class scores are near 0."""
    image, mask, file_bytes = f"{key}.jpg", f"{key}.png", RANDOM.randrange(10_000, 100_000)
    scores = [f"{RANDOM.random() ** 4:.5f}" for _ in range(6)]
    fraction, confidence, raw = (f"{RANDOM.random():.5f}" for _ in range(3))
    shape = [str(RANDOM.randrange(300_000)), *(f"{RANDOM.uniform(20, 500):.1f}" for _ in range(3)), "", "", "", ""]
    line = [
        image,
        mask,
        "640",
        "480",
        str(file_bytes),
        "ok",
        "",
        *scores[:3],
        fraction,
        *shape,
        confidence,
        *scores[3:],
    ]
    modified_ns = 1_796_052_495 * 10**9 + RANDOM.randrange(10**12)
    checks = Checks(modified_ns, RANDOM.randrange(2**32), RANDOM.randrange(2**32))
    return Row(csv_line([*line, raw, ""]), image, mask, True, file_bytes, float(confidence), checks)


class SameAsDict(RuleBasedStateMachine):
    """Does the same with a CompactDict of small blocks and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.model = CompactDict(Checks), dict[str, Checks]()
        self.loop: Iterator[tuple[str, Checks]] = iter(())
        self.seen: list[str] = []
        self.before: set[str] = set()  # keys that were there during the whole loop
        self.ever: set[str] = set()

    @rule(key=KEYS, number=NUMBERS)
    def put(self, key: str, number: int) -> None:
        self.ours[key] = self.model[key] = Checks(number)
        self.ever.add(key)

    @rule(keys=st.lists(KEYS, max_size=20), number=NUMBERS)
    def put_many(self, keys: list[str], number: int) -> None:
        for key in sorted(keys):
            self.put(key, number)

    @rule(key=KEYS)
    def look_up(self, key: str) -> None:
        assert self.ours.get(key) == self.model.get(key)

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        assert self.ours.pop(key) == self.model.pop(key, None)
        self.before.discard(key)

    @rule()
    def pack(self) -> None:
        self.ours.pack()

    @rule()
    def start_loop(self) -> None:
        self.loop, self.seen, self.before, self.ever = self.ours.items(), [], set(self.model), set(self.model)

    @rule(steps=st.integers(1, 9))
    def go_on_with_loop(self, steps: int) -> None:
        for _ in range(steps):
            pair = next(self.loop, None)
            if pair is None:
                assert self.before <= set(self.seen)
                self.start_loop()
                return
            self.seen.append(pair[0])
            assert self.seen == sorted(set(self.seen))
            assert pair[0] in self.ever

    @invariant()
    def has_the_same_pairs(self) -> None:
        assert len(self.ours) == len(self.model)
        assert list(self.ours.items()) == sorted(self.model.items())
        assert list(self.ours.values()) == [self.model[key] for key in sorted(self.model)]


@pytest.mark.parametrize(("block", "open_blocks"), [(1, 1), (2, 1), (3, 2), (4, 16)])
def test_it_does_what_a_dict_does(block: int, open_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_dict, "MAX_BLOCK_VALUES", block)
    monkeypatch.setattr(compact_dict, "OPEN_BLOCKS", open_blocks)
    run_state_machine_as_test(SameAsDict, settings=settings(max_examples=30, stateful_step_count=40, deadline=None))


def in_reverse(keys: list[str]) -> list[str]:
    return keys[::-1]


def shuffled(keys: list[str]) -> list[str]:
    return random.Random(1).sample(keys, len(keys))  # noqa: S311 - not for cryptography


@pytest.mark.parametrize("order", [sorted, in_reverse, shuffled])
@pytest.mark.parametrize("count", [0, 1, MAX_BLOCK_VALUES, MAX_BLOCK_VALUES + 1, 2 * MAX_BLOCK_VALUES + 1, 3000])
def test_rows_come_back_in_the_order_of_keys(count: int, order: Callable[[list[str]], list[str]]) -> None:
    """3,000 rows are in 24 to 47 blocks, of which 16 are not packed."""
    keys = [f"{number:05d}" for number in range(count)]
    rows, ours = {key: make_row(key) for key in keys}, CompactDict(Row)
    for key in order(keys):
        ours[key] = rows[key]
    assert len(ours) == count
    assert list(ours.items()) == list(rows.items())
    assert all(ours.get(key) == rows[key] for key in order(keys))
    assert [ours.pop(key) for key in order(keys)] == [rows[key] for key in order(keys)]
    assert (len(ours), list(ours.values())) == (0, [])


@pytest.mark.parametrize(
    "row",
    [
        Row("a,b\r\n", "a", "", is_ok=False, file_bytes=None, confidence=None, checks=Checks()),
        Row('"x\r\n""y"",\U0001f600\\udcff"\r\n', 'x\r\n"y"', "", True, 0, 1e-05, Checks(-1, 0, 2**32 - 1)),
        Row("\0\x1f\u2028\ufffd\r\n", "\0", "\x7f", True, 10**18 - 1, 0.1 + 0.2, Checks(2**64 + 1, None, 7)),
    ],
)
def test_a_row_comes_back_as_it_was(row: Row) -> None:
    ours = CompactDict(Row)
    ours[row.image] = row
    for number in range(MAX_BLOCK_VALUES * (OPEN_BLOCKS + 2)):
        ours[f"z{number:05d}"] = make_row("")
    assert ours[row.image] == row
    assert type(ours[row.image]) is Row


def test_a_key_that_is_not_there_is_an_error() -> None:
    ours = CompactDict(Row)
    with pytest.raises(KeyError):
        ours["a"]
    assert ours.get("a") is None
    assert ours.pop("a") is None


def fill(ours: CompactDict[Row], count: int) -> None:
    for number in range(count):
        ours[f"ISIC_{number:07d}"] = make_row(f"ISIC_{number:07d}")


def test_a_row_takes_at_most_a_hundred_bytes() -> None:
    """Those that are replaced take no more, but for the blocks that are open."""
    count, at_start = 5000, 2 * OPEN_BLOCKS * MAX_BLOCK_VALUES
    tracemalloc.start()
    try:
        ours = CompactDict(Row)
        fill(ours, at_start)
        before, _ = tracemalloc.get_traced_memory()
        fill(ours, at_start + count)
        filled, _ = tracemalloc.get_traced_memory()
        fill(ours, at_start + count)
        replaced, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (filled - before) / count < MAX_BYTES_PER_ROW
    assert replaced - filled < OPEN_BLOCKS * MAX_BLOCK_VALUES * MAX_BYTES_PER_ROW


@pytest.mark.parametrize(("count", "sizes"), [(9, [9]), (10, [5, 5]), (14, [5, 9]), (15, [5, 5, 5])])
def test_a_full_block_is_split_in_halves(count: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact_dict, "MAX_BLOCK_VALUES", 9)
    ours, packed = CompactDict(Checks), list[int]()
    for number in range(count):
        ours[f"{number:02d}"] = Checks(number)

    def pack(block: dict[str, msgspec.Raw]) -> bytes:
        packed.append(len(block))
        return b""

    monkeypatch.setattr(compact_dict, "_pack", pack)
    ours.pack()
    assert packed == sizes


def test_reading_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take three times as long."""
    ours = CompactDict(Row)
    fill(ours, 5000)
    list(ours.items())  # packs the blocks that were open

    def pack(block: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(compact_dict, "_pack", pack)
    assert sum(1 for _ in ours.items()) == 5000


def test_a_lack_of_memory_loses_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is most likely where a block is packed."""
    ours, count, errors = CompactDict(Row), 5000, 0
    real_pack = compact_dict._pack

    def pack(block: dict[str, msgspec.Raw]) -> bytes:
        if RANDOM.random() < 0.5:
            raise MemoryError
        return real_pack(block)

    monkeypatch.setattr(compact_dict, "_pack", pack)
    for number in range(count):
        try:
            ours[f"{number:05d}"] = make_row("")
        except MemoryError:
            errors += 1
    assert errors > 10
    assert len(ours) == count
    assert [key for key, _ in ours.items()] == [f"{number:05d}" for number in range(count)]


def test_threads_lose_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two add neighbours, one replaces rows behind them, as the packing of masks does, and two read all."""
    monkeypatch.setattr(compact_dict, "MAX_BLOCK_VALUES", 3)
    monkeypatch.setattr(compact_dict, "OPEN_BLOCKS", 2)
    ours, count, problems = CompactDict(Checks), 3000, list[object]()
    for number in range(0, count, 3):
        ours[f"{number:05d}"] = Checks(0)

    def add(first: int) -> None:
        for number in range(first, count, 3):
            ours[f"{number:05d}"] = Checks(1)

    def replace() -> None:
        for number in range(0, count, 3):
            key = f"{number:05d}"
            ours[key] = ours[key]._replace(mask_crc32=2)

    def read() -> None:
        for _ in range(3):
            keys = [key for key, _ in ours.items()]
            problems.extend({f"{number:05d}" for number in range(0, count, 3)} - set(keys))
            problems.extend(["order"] if keys != sorted(set(keys)) else [])

    threads = [Thread(target=add, args=(1,)), Thread(target=add, args=(2,)), Thread(target=replace)]
    threads += [Thread(target=read), Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(ours) == count
    assert [key for key, _ in ours.items()] == [f"{number:05d}" for number in range(count)]
    assert [checks.mask_crc32 for checks in ours.values()] == [2, None, None] * (count // 3)
