"""Masks as PNG files: every decoder reads the pixels that were encoded."""

import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lesioncli.images.geometry import UInt8
from lesioncli.images.mask_png import encode_runs
from lesioncli.images.mask_runs import find_runs
from lesioncli.images.png import check_rows


@st.composite
def masks(draw: st.DrawFn) -> UInt8:
    """Masks of rectangles, also at the borders, or of single pixels; rows may be longer than the longest copy."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 800))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(0, 3))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
        mask[top:bottom, left:right] = draw(st.sampled_from([0, 255]))
    if draw(st.booleans()):
        noise = np.random.default_rng(draw(st.integers(0, 99))).random(mask.shape) < draw(st.sampled_from([0.01, 0.5]))
        mask[noise] ^= 255
    return mask


def check(mask: UInt8) -> None:
    content = encode_runs(find_runs(mask))
    with Image.open(BytesIO(content)) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), mask)
    assert np.array_equal(np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)), mask)
    check_rows(content)
    (size,) = struct.unpack_from(">I", content, 33)
    raw = zlib.decompress(content[41 : 41 + size])  # compares the checksum; decoders may ignore it
    assert np.array_equal(np.frombuffer(raw, np.uint8).reshape(len(mask), -1)[:, 1:], mask)


@given(masks())
def test_decoders_read_the_mask(mask: UInt8) -> None:
    check(mask)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (1, 259), (7, 258), (5, 40_000), (2000, 3000)])
def test_uniform_masks(shape: tuple[int, int], value: int) -> None:
    check(np.full(shape, value, np.uint8))


@pytest.mark.parametrize("length", range(1, 530))
def test_runs_of_any_length(length: int) -> None:
    mask = np.zeros((3, 600), np.uint8)
    mask[1, 7 : 7 + length] = 255
    check(mask)


def test_a_large_mask_is_no_larger_than_that_of_opencv() -> None:
    mask = np.zeros((3000, 4000), np.uint8)
    cv2.ellipse(mask, (2000, 1500), (1200, 900), 20, 0, 360, 255, -1)
    options = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
    assert len(encode_runs(find_runs(mask))) < len(cv2.imencode(".png", mask, options)[1])
    check(mask)
