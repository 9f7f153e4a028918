"""Grey PNGs with any filters, and PNGs that are not ordinary, against Pillow."""

import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import deflate
import numpy as np
import pytest
from helpers.encoded_images import chunk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from lesioncli.evaluation.reading import masks, png
from lesioncli.evaluation.reading.png import GreyPng, read_grey_png
from lesioncli.images.png import SIGNATURE

UInt8 = NDArray[np.uint8]


def write(
    rows: UInt8, width: int, bits: int = 8, before: bytes = b"", kind: tuple[int, ...] = (0, 0, 0, 0), pieces: int = 1
) -> bytes:
    """Return a PNG of rows that begin with their filter; `kind` is colour, compression, filtering, interlace."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, *kind))
    compressed = zlib.compress(rows.tobytes())
    cuts = np.linspace(0, len(compressed), pieces + 1).astype(int)
    data = b"".join(chunk(b"IDAT", compressed[a:b]) for a, b in itertools.pairwise(cuts))
    return SIGNATURE + header + before + data + chunk(b"IEND", b"")


def filtered(filters: list[int], row_bytes: int, seed: int, dense: float = 1) -> UInt8:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (len(filters), row_bytes + 1), np.uint8)
    rows[rng.random(rows.shape) >= dense] = 0
    rows[:, 0] = filters
    return rows


def decode_with_pillow(data: bytes) -> UInt8:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("L"))


def levels(decoded: GreyPng | None) -> UInt8:
    assert decoded
    return decoded.levels * np.uint8(255 // decoded.white)


@settings(deadline=None)
@given(
    filters=st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=40),
    few=st.lists(st.sampled_from([3, 4]), max_size=3),
    width=st.integers(1, 40),
    bits=st.sampled_from([1, 8]),
    seed=st.integers(0, 99),
    dense=st.sampled_from([1, 0.5, 0.05]),
    pieces=st.integers(1, 3),
)
@example(filters=[2, 1, 0, 2, 2, 1, 1, 2], few=[4, 3], width=9, bits=1, seed=0, dense=0.5, pieces=2)
def test_any_filters_are_undone_as_by_pillow(
    filters: list[int], few: list[int], width: int, bits: int, seed: int, dense: float, pieces: int
) -> None:
    order = np.random.default_rng(seed).permutation([*filters, *few[: len(filters) // 3]]).tolist()
    data = write(filtered(order, (width * bits + 7) // 8, seed, dense), width, bits, pieces=pieces)
    assert np.array_equal(levels(read_grey_png(data)), decode_with_pillow(data))


def test_many_slow_filters_are_left_to_opencv() -> None:
    assert read_grey_png(write(filtered([4, 3, 4, 2], 9, 0), 9)) is None


def test_rows_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(filtered([1] * 10, 30, 3, 0.2), 30)
    whole = levels(read_grey_png(data))
    monkeypatch.setattr(png, "BLOCK_ROWS", 3)
    assert np.array_equal(levels(read_grey_png(data)), whole)


ROWS = filtered([0, 1, 2, 2], 6, 1)
ORDINARY = write(ROWS, 6)
NOT_ORDINARY: dict[str, bytes] = {
    "another format": b"BM" + ORDINARY,
    "16 bits": write(filtered([0, 1], 12, 1), 6, 16),
    "2 bits": write(filtered([0, 1], 2, 1), 6, 2),
    "colour": write(filtered([0, 1], 18, 1), 6, 8, kind=(2, 0, 0, 0)),
    "alpha": write(filtered([0, 1], 12, 1), 6, 8, kind=(4, 0, 0, 0)),
    "interlaced": write(ROWS, 6, kind=(0, 0, 0, 1)),
    "transparent": write(ROWS, 6, before=chunk(b"tRNS", b"\0\0")),
    "animated": write(ROWS, 6, before=chunk(b"acTL", bytes(8))),
    "no such filter": write(filtered([0, 7], 6, 1), 6),
    "too few rows": write(filtered([0] * 5, 6, 1), 6)[:33] + ORDINARY[33:],
    "too many rows": write(filtered([0] * 3, 6, 1), 6)[:33] + ORDINARY[33:],
    "empty": b"",
    "header alone": ORDINARY[:33],
    "no header": SIGNATURE + chunk(b"IDAT", zlib.compress(ROWS.tobytes())) + chunk(b"IEND", b""),
    "no pixels": SIGNATURE + ORDINARY[8:33] + chunk(b"IEND", b""),
    "two headers": ORDINARY[:33] + ORDINARY[8:],
    "no rows": write(np.zeros((0, 7), np.uint8), 6),
}


@pytest.mark.parametrize("data", NOT_ORDINARY.values(), ids=NOT_ORDINARY)
def test_png_files_that_are_not_ordinary_are_left_to_other_decoders(data: bytes) -> None:
    assert read_grey_png(data) is None


def test_harmless_chunks_change_nothing() -> None:
    data = write(ROWS, 6, before=chunk(b"tEXt", b"Author\0nobody") + chunk(b"pHYs", bytes(9)))
    assert np.array_equal(levels(read_grey_png(data)), decode_with_pillow(data))


def test_an_image_larger_than_pillow_accepts_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(deflate, "zlib_decompress", lambda *arguments: calls.append(arguments))
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    data = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    assert read_grey_png(data) is None
    assert calls == []


def test_any_wrong_or_missing_byte_is_detected() -> None:
    wrong = [ORDINARY[:at] + bytes([ORDINARY[at] ^ 1 << at % 8]) + ORDINARY[at + 1 :] for at in range(len(ORDINARY))]
    cut = [ORDINARY[:length] for length in range(len(ORDINARY))]
    assert [data for data in (*wrong, *cut) if read_grey_png(data) is not None] == []
    assert read_grey_png(ORDINARY) is not None


@pytest.mark.parametrize("bits", [1, 8])
def test_ordinary_masks_do_not_need_another_decoder(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: bytes) -> Image.Image:
        raise AssertionError

    lesion = np.arange(120).reshape(10, 12) % 7 > 3
    picture = Image.fromarray(lesion.astype(np.uint8) * 255)
    (picture.convert("1") if bits == 1 else picture).save(tmp_path / "x.png")
    monkeypatch.setattr(masks, "_open_with_pillow", refuse)
    assert np.array_equal(masks.read_mask(tmp_path / "x.png", masks.MaskRole.GROUND_TRUTH).lesion, lesion)
