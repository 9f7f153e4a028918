"""Skin and lesions of the demo images.

Light enters the skin and pigments absorb it (Beer-Lambert: optical densities add up). The ranges below give the colours
of ISIC 2017: a median of about (190, 160, 153) of 255 for skin, a mean of about (160, 105, 86) for lesions.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from lesioncli.demo.canvas import Canvas, Field, Mask, Range, absorb, colour, cover, sigmoid

# Optical density per unit of pigment.
MELANIN = colour(0.30, 0.74, 1.02)
BLOOD = colour(0.10, 0.52, 0.44)
BLACK = colour(0.95, 1.10, 1.10)  # melanin in the upper layers, too dense to look brown

# Reflectances of structures that hide the pigment below them.
BLUE_GREY_VEIL = colour(0.42, 0.42, 0.49)
REGRESSION = colour(0.90, 0.79, 0.76)
CYST = colour(0.95, 0.88, 0.76)


@dataclass(frozen=True)
class Appearance:
    """Typical look of the lesions of one class; from a range, one value is drawn per image."""

    irregularity: float  # of the outline's low harmonics, relative to the radius
    raggedness: float  # of the outline's fine detail, relative to the radius
    softness_mm: Range  # of the border
    pigment: tuple[float, float, float]  # optical density per unit in R, G, B
    amount: Range  # of pigment, in units
    variegation: float  # standard deviation of the pigment, relative to its mean
    asymmetry: float  # 1: the palest side holds no pigment
    network: Range  # strength of the pigment network; in a seborrheic keratosis, of its furrows
    network_cell_mm: Range
    globules_per_mm2: Range
    cysts_per_mm2: Range = (0.0, 0.0)
    openings_per_mm2: Range = (0.0, 0.0)
    multicoloured: bool = False


APPEARANCES = {
    "melanoma": Appearance(
        irregularity=0.24,
        raggedness=0.14,
        softness_mm=(0.05, 0.15),
        pigment=(0.28, 0.58, 0.76),
        amount=(0.5, 1.7),
        variegation=0.40,
        asymmetry=0.6,
        network=(0.1, 0.7),
        network_cell_mm=(0.16, 0.28),
        globules_per_mm2=(0.2, 1.5),
        multicoloured=True,
    ),
    "seborrheic_keratosis": Appearance(
        irregularity=0.12,
        raggedness=0.09,
        softness_mm=(0.02, 0.06),
        pigment=(0.28, 0.52, 0.66),
        amount=(0.5, 1.4),
        variegation=0.20,
        asymmetry=0.3,
        network=(0.0, 0.35),
        network_cell_mm=(0.4, 0.9),
        globules_per_mm2=(0.0, 0.2),
        cysts_per_mm2=(0.05, 0.7),
        openings_per_mm2=(0.05, 0.5),
    ),
    "nevus": Appearance(
        irregularity=0.07,
        raggedness=0.05,
        softness_mm=(0.08, 0.28),
        pigment=(0.25, 0.60, 0.83),
        amount=(0.45, 1.7),
        variegation=0.22,
        asymmetry=0.1,
        network=(0.1, 0.7),
        network_cell_mm=(0.16, 0.28),
        globules_per_mm2=(0.1, 1.0),
    ),
}


def skin_density(canvas: Canvas) -> Field:
    """Return the optical density (H, W, 3) of healthy skin: tone, blotches, freckles, vessels and furrows."""
    rng, mm = canvas.rng, canvas.px_per_mm
    tone, redness = 0.1 + 0.4 * rng.beta(1.5, 3), rng.uniform(0.08, 0.4)
    freckles = canvas.patches(0.8 * mm, 0.02) * canvas.patches(3 * mm, 0.5)
    furrows = canvas.honeycomb(rng.uniform(0.3, 0.6) * mm) * canvas.patches(2 * mm, 0.5)
    vessels = np.exp(-((canvas.fractal(1.6 * mm, 2) / 0.12) ** 2)) * canvas.patches(3 * mm, 0.25)
    melanin = tone * (1 + 0.12 * canvas.fractal(2 * mm, 4)) + rng.uniform(0, 0.5) * freckles
    melanin += rng.uniform(0, 0.05) * furrows
    blood = redness * (1 + rng.uniform(0.05, 0.3) * canvas.fractal(3.5 * mm, 4)) + rng.uniform(0, 0.15) * vessels
    grain = rng.uniform(0.005, 0.014) * canvas.fractal(0.12 * mm, 3)
    return np.asarray(melanin[..., None] * MELANIN + blood[..., None] * BLOOD + grain[..., None], np.float32)


def draw_outline(canvas: Canvas, appearance: Appearance, visible: Mask) -> Mask:
    """Return the lesion mask (H, W): a warped circle with harmonics, one region without holes.

    It covers 5 to 45 % of the image and lies inside `visible` (H, W).
    """
    rng = canvas.rng
    share = math.exp(rng.uniform(math.log(0.06), math.log(0.42)))
    radius = math.sqrt(share * canvas.height * canvas.width / math.pi)
    # One in ten is far off the centre; the large ones of these touch the border.
    offset_y, offset_x = rng.normal(0, 0.16 if rng.random() < 0.1 else 0.05, 2) * (canvas.height, canvas.width)
    y, x = np.mgrid[: canvas.height, : canvas.width].astype(np.float32)
    warp = 0.7 * appearance.irregularity * radius
    distance, angle = cv2.cartToPolar(
        x - canvas.width / 2 - offset_x + warp * canvas.noise(radius),
        y - canvas.height / 2 - offset_y + warp * canvas.noise(radius),
    )
    directions = np.linspace(0, 2 * math.pi, 4096)
    rim = 1 + rng.uniform(0, 0.2) * np.cos(2 * (directions + rng.uniform(0, math.pi)))
    for k in range(2, 8):
        rim += appearance.irregularity * rng.normal() / k * np.cos(k * directions + rng.uniform(0, 2 * math.pi))
    rim_px = radius * np.maximum(0.3, rim)[(angle * (4095 / 2 / math.pi)).astype(int) % 4096]
    depth = appearance.raggedness * canvas.fractal(radius / 2, 5) - distance / rim_px
    depth[~visible] = -np.inf
    return _largest_region(depth > np.quantile(depth, 1 - share), max(1.0, 0.05 * radius))


def _largest_region(mask: Mask, smoothing_px: float) -> Mask:
    """Return the largest connected region of a mask (H, W), without holes and threads thinner than `smoothing_px`."""
    smooth = (cv2.GaussianBlur(mask.astype(np.float32), (0, 0), smoothing_px) > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    region = np.zeros_like(smooth)
    cv2.drawContours(region, [max(contours, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return region > 0


def add_lesion(canvas: Canvas, appearance: Appearance, mask: Mask, rgb: Field) -> Field:
    """Return skin `rgb` (H, W, 3) with a lesion inside `mask` (H, W)."""
    rng = canvas.rng
    inside = mask.astype(np.uint8)
    depth_px = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    softness_px = (
        rng.uniform(*appearance.softness_mm) * canvas.px_per_mm * np.exp(0.4 * canvas.noise(canvas.height / 6))
    )
    coverage = sigmoid(depth_px / softness_px)  # 1/2 on the mask's contour
    rim = np.clip(depth_px / (0.25 * math.sqrt(mask.sum())), 0, 1)
    amount = coverage * (0.6 + 0.4 * rim) * _pigment(canvas, appearance, mask)
    hue = rng.normal(1, (0.1, 0.05, 0.1)).astype(np.float32)
    rgb = absorb(rgb, amount, hue * appearance.pigment)
    if appearance.multicoloured:
        rgb = _add_melanoma_colours(canvas, rgb, coverage, math.sqrt(mask.sum()))
    openings = canvas.spots(mask, rng.uniform(*appearance.openings_per_mm2), (0.03, 0.2), 0.04)
    cysts = canvas.spots(mask, rng.uniform(*appearance.cysts_per_mm2), (0.03, 0.2), 0.05)
    return cover(absorb(rgb, rng.uniform(0.4, 1.0) * openings, BLACK), CYST, 0.5 * cysts)


def _pigment(canvas: Canvas, appearance: Appearance, mask: Mask) -> Field:
    """Return units of pigment (H, W), not yet cut at the border: uneven ground, pigment network and globules."""
    rng, mm, size_px = canvas.rng, canvas.px_per_mm, math.sqrt(mask.sum())
    ground = 1 + appearance.variegation * (0.8 * canvas.fractal(size_px / 3, 5) + 0.4 * canvas.fractal(0.25 * mm, 3))
    ground *= 1 - appearance.asymmetry * np.clip(0.5 + canvas.noise(1.5 * size_px), 0, 1)
    network = canvas.honeycomb(rng.uniform(*appearance.network_cell_mm) * mm) * canvas.patches(size_px / 4, 0.6)
    globules = canvas.spots(mask, rng.uniform(*appearance.globules_per_mm2), (0.02, 0.12), 0.03)
    amount = np.maximum(0.15, ground) * (0.85 + rng.uniform(*appearance.network) * network) + 0.4 * globules
    return np.asarray(rng.uniform(*appearance.amount) * amount, np.float32)


def _add_melanoma_colours(canvas: Canvas, rgb: Field, coverage: Field, size_px: float) -> Field:
    """Add some of red, black, blue-grey and white, each in its own part of the lesion."""
    rng = canvas.rng

    def part(share: float, strength: Range) -> Field:
        return rng.uniform(*strength) * coverage**2 * canvas.patches(size_px / 3, share)

    if rng.random() < 0.4:
        rgb = absorb(rgb, part(0.3, (0.2, 0.7)), BLOOD)
    if rng.random() < 0.6:
        rgb = absorb(rgb, part(0.3, (0.3, 1.0)), BLACK)
    if rng.random() < 0.5:
        rgb = cover(rgb, BLUE_GREY_VEIL * rng.uniform(0.7, 1.1), part(0.25, (0.25, 0.6)))
    if rng.random() < 0.4:
        rgb = cover(rgb, REGRESSION, part(0.15, (0.3, 0.6)))
    return rgb
