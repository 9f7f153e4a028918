"""Augmentation: what is drawn for the image is drawn for the mask, and each setting does what it is named for."""

from dataclasses import asdict, replace
from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lesioncli.demo.draw import draw_case
from lesioncli.images.geometry import UInt8
from lesioncli.training.augment import OVERSAMPLING, augment, choose_geometry
from lesioncli.training.recipe import AugmentSettings

# Framing as in training, and pixels left as they are.
FRAMED = AugmentSettings(
    brightness=0, contrast=0, saturation=0, colour_cast=0, blur=0, sharpen=0, jpeg=0, hair=0, reflect=0.5
)
STILL = replace(FRAMED, zoom=(1.0, 1.0), aspect=1.0, shift=0.0)

drawn = settings(deadline=None, database=None, derandomize=True, max_examples=50)
seeds = st.integers(0, 2**32)
smaller_and_larger = st.sampled_from([(48, 80), (96, 96), (90, 160), (300, 200)])


def still_but(name: str, value: float) -> AugmentSettings:
    """One setting alone, on images that continue as their reflection."""
    return AugmentSettings(**{**asdict(STILL), "reflect": 1.0, name: value})


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@cache
def lesion(height: int, width: int, seed: int = 0) -> UInt8:
    """A drawn lesion's mask (H, W), 0 or 255, which no flip or turn maps onto itself."""
    return np.where(draw_case(seed, height, width).mask, np.uint8(255), np.uint8(0))


def ellipse(height: int, width: int, share: float) -> UInt8:
    """A centred ellipse whose axes are `share` of the image's sides: at any rotation it stays inside."""
    mask = np.zeros((height, width), np.uint8)
    axes = (round(width * share / 2), round(height * share / 2))
    return np.asarray(cv2.ellipse(mask, (width // 2, height // 2), axes, 0, 0, 360, 255, cv2.FILLED))


def in_colour(grey: UInt8) -> UInt8:
    return np.repeat(grey[..., None], 3, axis=2)


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@drawn
@given(seed=seeds, source_hw=smaller_and_larger, lesion_seed=st.integers(0, 2))
def test_image_and_mask_never_part(seed: int, source_hw: tuple[int, int], lesion_seed: int) -> None:
    """Augment an image of the mask with the mask. Their kernels differ, so only edges may differ."""
    mask = lesion(*source_hw, lesion_seed)
    image, bent = augment(in_colour(mask), mask, (96, 128), FRAMED, rng(seed))
    grey = image[..., 0].astype(int)
    outline = 2 * np.sqrt(np.pi * max((bent > 127).sum(), 1))  # of a disc of that area, in pixels
    assert np.abs(grey - bent).sum() / 255 < outline
    if (bent > 127).mean() > 0.15:
        assert overlap(grey > 127, bent > 127) > 0.97


@pytest.mark.parametrize("size_hw", [(64, 64), (64, 96), (224, 160)])
@pytest.mark.parametrize("source_hw", [(40, 60), (300, 200)])
def test_both_come_in_the_networks_size_as_bytes(size_hw: tuple[int, int], source_hw: tuple[int, int]) -> None:
    mask = lesion(*source_hw)
    image, bent = augment(in_colour(mask), mask, size_hw, AugmentSettings(), rng(0))
    assert image.shape == (*size_hw, 3)
    assert bent.shape == size_hw
    assert image.dtype == bent.dtype == np.uint8


def test_a_seed_gives_one_sample_and_another_seed_another() -> None:
    case = draw_case(2, 120, 160)
    mask = np.where(case.mask, np.uint8(255), np.uint8(0))
    samples = [augment(case.image, mask, (64, 64), AugmentSettings(), rng(seed)) for seed in (5, 5, 6)]
    assert np.array_equal(samples[0][0], samples[1][0])
    assert np.array_equal(samples[0][1], samples[1][1])
    assert not np.array_equal(samples[0][0], samples[2][0])
    assert not np.array_equal(samples[0][1], samples[2][1])


def test_neither_input_is_written_to() -> None:
    mask = lesion(64, 64)
    picture = in_colour(mask)
    kept = picture.copy(), mask.copy()
    augment(picture, mask, (64, 64), AugmentSettings(hair=1), rng(0))
    assert np.array_equal(picture, kept[0])
    assert np.array_equal(mask, kept[1])


@drawn
@given(seed=seeds)
def test_colour_sharpness_and_hairs_leave_the_mask_alone(seed: int) -> None:
    mask, strong = lesion(90, 160), AugmentSettings(blur=1, sharpen=1, jpeg=1, hair=1)
    _, plain = augment(in_colour(mask), mask, (64, 64), FRAMED, rng(seed))
    _, other = augment(in_colour(mask), mask, (64, 64), strong, rng(seed))
    assert np.array_equal(plain, other)


@drawn
@given(seed=seeds, source_hw=smaller_and_larger)
def test_the_centre_of_the_picture_stays_inside_the_canvas(seed: int, source_hw: tuple[int, int]) -> None:
    height, width = source_hw
    matrix, (canvas_w, canvas_h) = choose_geometry(source_hw, (64, 96), AugmentSettings(), rng(seed))
    x, y = matrix @ (width / 2, height / 2, 1)
    assert 0 < x < canvas_w
    assert 0 < y < canvas_h
    assert 96 <= canvas_w <= OVERSAMPLING * 96
    assert 64 <= canvas_h <= OVERSAMPLING * 64


@drawn
@given(seed=seeds, source_hw=smaller_and_larger, zoom=st.floats(0.5, 2))
def test_zoom_is_the_side_of_the_cut_out(seed: int, source_hw: tuple[int, int], zoom: float) -> None:
    """An image fills 1 / zoom^2 of its canvas at any rotation, flip, stretch and shift."""
    height, width = source_hw
    fixed = replace(AugmentSettings(), zoom=(zoom, zoom))
    matrix, (canvas_w, canvas_h) = choose_geometry(source_hw, (64, 96), fixed, rng(seed))
    growth = abs(np.linalg.det(matrix[:, :2]))
    assert growth * height * width == pytest.approx(canvas_h * canvas_w / zoom**2, rel=1e-4)


@drawn
@given(seed=seeds, source_hw=smaller_and_larger)
def test_without_zoom_and_shift_the_centre_stays_and_so_does_the_area(seed: int, source_hw: tuple[int, int]) -> None:
    matrix, canvas_wh = choose_geometry(source_hw, (96, 128), STILL, rng(seed))
    centre = matrix @ (source_hw[1] / 2, source_hw[0] / 2, 1)
    assert centre == pytest.approx(np.array(canvas_wh) / 2, abs=1e-3)
    mask, unreflected = ellipse(*source_hw, 0.8), replace(STILL, reflect=0)
    _, bent = augment(in_colour(mask), mask, (96, 128), unreflected, rng(seed))
    assert (bent / 255).mean() == pytest.approx((mask / 255).mean(), abs=0.006)


def test_rotations_flips_and_shifts_take_all_their_values() -> None:
    """300 draws: angles in every twelfth of a turn, both hands, zoom and shift up to their ends and not beyond."""
    draws = [choose_geometry((96, 96), (96, 96), replace(STILL, shift=0.1), rng(seed)) for seed in range(300)]
    turns = np.array([np.arctan2(matrix[0, 1], matrix[0, 0]) for matrix, _ in draws])
    hands = np.array([np.linalg.det(matrix[:, :2]) > 0 for matrix, _ in draws])
    centres = np.array([np.linalg.solve(matrix[:, :2], (48, 48) - matrix[:, 2]) / 96 - 0.5 for matrix, _ in draws])
    assert set(((turns + np.pi) // (np.pi / 6)).astype(int)) == set(range(12))
    assert 100 < hands.sum() < 200
    assert np.abs(centres).max() <= 0.1 + 1e-5
    assert centres.max() > 0.09
    assert centres.min() < -0.09


@pytest.mark.parametrize(("reflect", "least"), [(0.0, 0), (1.0, 255)])
def test_beyond_the_picture_lies_its_reflection_or_nothing(reflect: float, least: int) -> None:
    white, wide = np.full((64, 64), 255, np.uint8), replace(STILL, zoom=(2.0, 2.0), reflect=reflect)
    image, mask = augment(in_colour(white), white, (64, 64), wide, rng(3))
    assert image.min() == mask.min() == least
    assert image.max() == mask.max() == 255


def test_settings_at_zero_leave_the_pixels_as_they_are() -> None:
    even = np.full((80, 80, 3), (200, 120, 90), np.uint8)
    image, _ = augment(even, even[..., 0], (64, 64), replace(STILL, reflect=1), rng(4))
    assert np.array_equal(image, even[:64, :64])


@pytest.mark.parametrize("name", ["blur", "sharpen", "jpeg", "hair"])
def test_each_of_blur_sharpen_jpeg_and_hair_changes_the_picture_a_little(name: str) -> None:
    case = draw_case(0, 128, 128)
    mask = np.where(case.mask, np.uint8(255), np.uint8(0))
    plain, _ = augment(case.image, mask, (96, 96), replace(STILL, reflect=1), rng(1))
    other, _ = augment(case.image, mask, (96, 96), still_but(name, 1), rng(1))
    difference = np.abs(plain.astype(int) - other)
    assert 0 < difference.mean() < 25


def test_red_stays_red_through_jpeg() -> None:
    """opencv takes RGB for BGR: in and out again must be the same way."""
    red = np.full((64, 64, 3), (220, 40, 20), np.uint8)
    image, _ = augment(red, red[..., 0], (64, 64), still_but("jpeg", 1), rng(0))
    assert np.abs(image.astype(int) - red).max() < 8


def test_hairs_are_thin_and_dark() -> None:
    white = np.full((128, 128, 3), 255, np.uint8)
    pictures = [augment(white, white[..., 0], (128, 128), still_but("hair", 1), rng(seed))[0] for seed in range(20)]
    covered = [(picture < 128).any(2).mean() for picture in pictures]
    assert max(covered) > 0.01
    assert max(covered) < 0.2


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "colour_cast"])
def test_a_colour_setting_of_a_tenth_moves_colours_by_about_a_tenth(name: str) -> None:
    """Over 40 draws the largest change of a (200, 100, 60) pixel is near 10 % of what the setting scales."""
    grid = np.full((64, 64, 3), (200, 100, 60), np.uint8)
    grid[:32] = (100, 50, 30)
    scaled = {
        "brightness": 200.0,  # the value itself
        "colour_cast": 200.0,
        "contrast": 50.0,  # the distance from the mean, which is (150, 75, 45)
        "saturation": 80.0,  # the distance from grey, which is 120
    }
    changes = []
    for seed in range(40):
        image, _ = augment(grid, grid[..., 0], (64, 64), still_but(name, 0.1), rng(seed))
        plain, _ = augment(grid, grid[..., 0], (64, 64), replace(STILL, reflect=1), rng(seed))
        bright = plain[..., 0] == 200
        changes.append(np.abs(image[bright].astype(int) - (200, 100, 60)).max())
    assert max(changes) == pytest.approx(0.1 * scaled[name], rel=0.2)
    assert min(changes) < 0.5 * max(changes)


def test_centred_crops_are_the_fifteen_of_mb_dcnn() -> None:
    """Shares of width and height, read off the matrix: whole, or 4/5 to 1/5 of both sides, or that of the shorter."""
    height, width = 96, 160
    fifths = (4, 3.5, 3, 2.5, 2, 1.5, 1)
    expected = {(1.0, 1.0)} | {(n / 5, n / 5) for n in fifths}
    expected |= {(round(n / 5 * height / width, 3), n / 5) for n in fifths}
    counts: dict[tuple[float, float], int] = {}
    for seed in range(1500):
        matrix, (canvas_w, canvas_h) = choose_geometry(
            (height, width), (64, 64), replace(AugmentSettings(), centred=True), rng(seed)
        )
        assert matrix @ (width / 2, height / 2, 1) == pytest.approx([canvas_w / 2, canvas_h / 2], abs=1e-3)
        along_w, along_h = np.linalg.norm(matrix[:, :2] * (width, height), axis=1)
        shares = (round(float(canvas_w / along_w), 3), round(float(canvas_h / along_h), 3))
        counts[shares] = counts.get(shares, 0) + 1
    assert set(counts) == expected
    assert min(counts.values()) > 60  # 100 of each are expected
    assert max(counts.values()) < 150
