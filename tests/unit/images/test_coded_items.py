"""Overwritten data in HEIF and AVIF files, which their decoders conceal."""

import struct
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from helpers.encoded_images import CASES, PICTURE, Array, by_pillow, draw
from helpers.heif_files import heif

from lesioncli.errors import ImageError
from lesioncli.images.coded_items import _coded_items, refuse_overwritten
from lesioncli.images.decode import decode_content

FULL_HW = (10**6, 10**6)
NOISY = np.asarray((draw(300, 420) + np.random.default_rng(0).normal(0, 20, (300, 420, 3))).clip(0, 255), np.uint8)
BLACK, WHITE = np.zeros_like(NOISY), np.full_like(NOISY, 255)


def avif(picture: Array) -> bytes:
    return by_pillow(picture, "AVIF", quality=90)


def overwritten(data: bytes, start: int, size: int) -> bytes:
    return data[:start] + bytes(size) + data[start + size :]


@pytest.mark.parametrize("encode", [heif, avif])
@pytest.mark.parametrize("size", [600, 4096])
def test_zeros_in_place_of_data_are_damage(encode: Callable[[Array], bytes], size: int) -> None:
    data = encode(NOISY)
    assert len(data) > 3 * size
    for start in (len(data) // 2, len(data) - size):
        with pytest.raises(ImageError, match="overwritten"):
            decode_content(overwritten(data, start, size), FULL_HW)


def test_a_few_zeros_in_hevc_are_damage() -> None:
    data = heif(NOISY)
    with pytest.raises(ImageError, match="overwritten"):
        decode_content(overwritten(data, len(data) // 2, 3), FULL_HW)


@pytest.mark.parametrize("picture", [NOISY, BLACK, WHITE, PICTURE], ids=["noise", "black", "white", "smooth"])
@pytest.mark.parametrize("encode", [heif, avif])
def test_whole_files_pass(encode: Callable[[Array], bytes], picture: Array) -> None:
    data = encode(picture)
    assert [len(content) > 0 for _, content in _coded_items(data)] == [True]
    decode_content(data, FULL_HW)


def test_files_with_further_pictures_and_zeros_in_metadata_pass() -> None:
    data = heif(NOISY, 255 - NOISY, exif=b"Exif\0\0" + bytes(999))
    assert bytes(900) in data
    assert [kind for kind, _ in _coded_items(data)] == [b"hvc1", b"hvc1"]
    refuse_overwritten(data)
    for name in ("avif", "avif rgba", "avif opencv"):
        refuse_overwritten(CASES[name][0])


def test_boxes_that_are_damaged_are_left_to_the_decoder() -> None:
    data = heif(NOISY)
    end = data.index(b"mdat")
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data[: end + 100])
        for at in rng.integers(0, end, 3):
            changed[at] = rng.integers(256)
        with suppress(ImageError):
            refuse_overwritten(bytes(changed))
    refuse_overwritten(b"")
    refuse_overwritten(struct.pack(">I4s", 8, b"meta"))
