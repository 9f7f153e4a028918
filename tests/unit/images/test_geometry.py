"""There and back: against Pillow, against arithmetic by hand, and for what a mask is worth afterwards."""

import cv2
import numpy as np
import pytest
from helpers.pictures import UInt8, draw, jaccard
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lesioncli.images.geometry import KERNELS, from_upright, to_full_size, to_network, to_upright

SIZES_HW = [(480, 640), (97, 301), (767, 1022), (64, 64), (40, 30)]
ORIENTATIONS = range(1, 9)


def as_seen(stored: UInt8, orientation: int) -> UInt8:
    """Stored pixels turned upright by Pillow."""
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def blob(height: int, width: int) -> NDArray[np.float64]:
    """The probability (height, width) of a lesion off the centre, longer than wide, with a soft border."""
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width]).reshape(2, 1, 1)
    distance = np.hypot((y - 0.4) / 0.25, (x - 0.6) / 0.33 + 0.3 * (y - 0.4))
    return np.asarray(1 / (1 + np.exp((distance - 1) / 0.06)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_a_smooth_mask_survives_the_way_there_and_back(size_hw: tuple[int, int], orientation: int) -> None:
    stored = np.round(255 * blob(*size_hw)).astype(np.uint8)
    seen = to_network(np.stack([as_seen(stored, orientation)] * 3, -1), 64, 64)[..., 0]
    back = to_full_size(seen, size_hw, orientation)
    assert back.shape == size_hw
    assert jaccard(back >= 128, stored >= 128) > 0.95


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientations_are_pillows(orientation: int) -> None:
    stored = draw(1, 5, 7)
    upright = as_seen(stored, orientation)
    assert np.array_equal(to_upright(stored, orientation), upright)
    assert np.array_equal(from_upright(upright, orientation), stored)
    assert np.array_equal(from_upright(upright[..., 0], orientation), stored[..., 0])


def test_cutting_after_growing_keeps_thin_shapes() -> None:
    picture = np.zeros((512, 640, 3), np.uint8)
    cv2.line(picture, (40, 60), (600, 460), (255, 255, 255), 11, cv2.LINE_AA)
    cv2.circle(picture, (330, 250), 200, (255, 255, 255), 13, cv2.LINE_AA)
    truth = picture[..., 0] >= 128
    small = to_network(picture, 64, 64)[..., 0]
    cut_last = to_full_size(small, truth.shape) >= 128
    cut_first = to_full_size(np.where(small >= 128, 255, 0).astype(np.uint8), truth.shape) >= 128
    assert jaccard(cut_last, truth) > jaccard(cut_first, truth) + 0.05


def test_a_flat_probability_stays_what_it_is_up_to_the_border() -> None:
    assert np.array_equal(to_full_size(np.full((32, 32), 77, np.uint8), (45, 100)), np.full((45, 100), 77))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size_hw", [(96, 64), (480, 640), (20, 30)])
def test_to_network_is_pillows_resize(kernel: str, size_hw: tuple[int, int]) -> None:
    picture = draw(2, *size_hw)
    small = to_network(picture, 32, 64, kernel)
    assert small.shape == (32, 64, 3)
    expected = Image.fromarray(picture).resize((64, 32), Image.Resampling[kernel.upper()])
    assert np.array_equal(small, np.asarray(expected))


def test_bilinear_reduces_with_a_widened_triangle() -> None:
    """By 2, a triangle of twice the width weighs four neighbours 1 3 3 1, and none is passed over."""
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    weights = np.array([1, 3, 3, 1]) / 8
    rows = np.tensordot(weights, [noise[1 + k : 61 + k : 2] for k in range(4)], 1)
    both = np.tensordot(weights, [rows[:, 1 + k : 61 + k : 2] for k in range(4)], 1)
    assert np.abs(to_network(noise, 32, 32)[1:31, 1:31] - both).max() <= 1


def test_box_reduces_to_the_mean_of_blocks() -> None:
    noise = np.random.default_rng(4).integers(0, 256, (64, 96, 3), np.uint8)
    means = noise.reshape(32, 2, 32, 3, 3).mean((1, 3))
    assert np.abs(to_network(noise, 32, 32, "box") - means).max() <= 1


def test_a_picture_of_the_networks_size_passes_unchanged() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (64, 32, 3), np.uint8)
    assert np.array_equal(to_network(noise, 64, 32), noise)
    assert np.array_equal(to_full_size(noise[..., 0], (64, 32)), noise[..., 0])
