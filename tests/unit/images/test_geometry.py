"""Geometry, compared with Pillow and with arithmetic by hand."""

import cv2
import numpy as np
import pytest
from helpers.pictures import UInt8, draw, jaccard
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lesioncli.images.geometry import KERNELS, from_upright, to_full_size, to_network, to_upright

SIZES_HW = [(480, 640), (97, 301), (767, 1022), (64, 64), (40, 30)]
ORIENTATIONS = range(1, 9)


def turn_upright(stored: UInt8, orientation: int) -> UInt8:
    """Turn stored pixels upright with Pillow."""
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def draw_probability(height: int, width: int) -> NDArray[np.float64]:
    """Return the probability map (height, width) of an off-centre lesion, longer than wide, with a soft border."""
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width]).reshape(2, 1, 1)
    distance = np.hypot((y - 0.4) / 0.25, (x - 0.6) / 0.33 + 0.3 * (y - 0.4))
    return np.asarray(1 / (1 + np.exp((distance - 1) / 0.06)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_a_smooth_mask_survives_downsampling_and_upsampling(size_hw: tuple[int, int], orientation: int) -> None:
    stored = np.round(255 * draw_probability(*size_hw)).astype(np.uint8)
    downsampled = to_network(np.stack([turn_upright(stored, orientation)] * 3, -1), 64, 64)[..., 0]
    upsampled = to_full_size(downsampled, size_hw, orientation)
    assert upsampled.shape == size_hw
    assert jaccard(upsampled >= 128, stored >= 128) > 0.95


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientations_are_those_of_pillow(orientation: int) -> None:
    stored = draw(1, 5, 7)
    upright = turn_upright(stored, orientation)
    assert np.array_equal(to_upright(stored, orientation), upright)
    assert np.array_equal(from_upright(upright, orientation), stored)
    assert np.array_equal(from_upright(upright[..., 0], orientation), stored[..., 0])


def test_the_threshold_after_upsampling_keeps_thin_shapes() -> None:
    picture = np.zeros((512, 640, 3), np.uint8)
    cv2.line(picture, (40, 60), (600, 460), (255, 255, 255), 11, cv2.LINE_AA)
    cv2.circle(picture, (330, 250), 200, (255, 255, 255), 13, cv2.LINE_AA)
    truth = picture[..., 0] >= 128
    small = to_network(picture, 64, 64)[..., 0]
    threshold_last = to_full_size(small, truth.shape) >= 128
    threshold_first = to_full_size(np.where(small >= 128, 255, 0).astype(np.uint8), truth.shape) >= 128
    assert jaccard(threshold_last, truth) > jaccard(threshold_first, truth) + 0.05


def test_a_constant_probability_stays_constant_up_to_the_border() -> None:
    assert np.array_equal(to_full_size(np.full((32, 32), 77, np.uint8), (45, 100)), np.full((45, 100), 77))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size_hw", [(96, 64), (480, 640), (20, 30)])
def test_to_network_is_the_resize_of_pillow(kernel: str, size_hw: tuple[int, int]) -> None:
    picture = draw(2, *size_hw)
    small = to_network(picture, 32, 64, kernel)
    assert small.shape == (32, 64, 3)
    expected = Image.fromarray(picture).resize((64, 32), Image.Resampling[kernel.upper()])
    assert np.array_equal(small, np.asarray(expected))


def test_bilinear_downsampling_uses_a_widened_triangle() -> None:
    """By a factor of 2, a triangle of twice the width weights four neighbours by 1, 3, 3 and 1."""
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    weights = np.array([1, 3, 3, 1]) / 8
    rows = np.tensordot(weights, [noise[1 + k : 61 + k : 2] for k in range(4)], 1)
    both = np.tensordot(weights, [rows[:, 1 + k : 61 + k : 2] for k in range(4)], 1)
    assert np.abs(to_network(noise, 32, 32)[1:31, 1:31] - both).max() <= 1


def test_box_downsampling_is_the_mean_of_blocks() -> None:
    noise = np.random.default_rng(4).integers(0, 256, (64, 96, 3), np.uint8)
    means = noise.reshape(32, 2, 32, 3, 3).mean((1, 3))
    assert np.abs(to_network(noise, 32, 32, "box") - means).max() <= 1


def test_an_image_of_the_size_of_the_network_is_unchanged() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (64, 32, 3), np.uint8)
    assert np.array_equal(to_network(noise, 64, 32), noise)
    assert np.array_equal(to_full_size(noise[..., 0], (64, 32)), noise[..., 0])
