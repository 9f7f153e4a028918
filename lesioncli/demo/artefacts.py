"""Artefacts on the skin (hairs, ruler, gel bubbles, glints) and the camera that takes the demo image."""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.demo.canvas import (
    Canvas,
    Field,
    Points,
    UInt8,
    colour,
    cover,
    draw_ellipse,
    draw_polygon,
    sigmoid,
    soften,
)

DARK_HAIR, LIGHT_HAIR = colour(0.20, 0.14, 0.11), colour(0.72, 0.60, 0.46)
INK = colour(0.10, 0.10, 0.12)
WHITE = colour(1.0, 1.0, 1.0)


def add_hairs(canvas: Canvas, rgb: Field) -> Field:
    """Draw thin tapering curves, mostly in one direction."""
    rng, layer = canvas.rng, canvas.blank()
    direction, spread, width_mm = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.9), rng.uniform(0.03, 0.09)
    for _ in range(rng.integers(2, 25)):
        root = rng.uniform(-0.2, 1.1, 2) * (canvas.width, canvas.height)
        angle, length = rng.normal(direction, spread), rng.uniform(0.2, 1.5) * canvas.width
        width = width_mm * canvas.px_per_mm * rng.uniform(0.5, 1.2)
        hair = _stroke(root, angle, length, width, bend=rng.normal(0, 0.9), taper=0.8)
        draw_polygon(layer, hair, opacity=rng.uniform(0.35, 1))
    hair_colour = LIGHT_HAIR if rng.random() < 0.15 else DARK_HAIR * rng.uniform(0.7, 2)
    return cover(rgb, hair_colour, 0.9 * soften(layer, 0.6))


def add_ruler(canvas: Canvas, rgb: Field) -> Field:
    """Draw one centimetre with millimetre ticks near the lower edge."""
    rng, layer, mm = canvas.rng, canvas.blank(), canvas.px_per_mm
    angle, thickness = rng.normal(0, 0.12), max(1.0, rng.uniform(0.02, 0.04) * mm)
    zero = rng.uniform((0.02, 0.86), (0.4, 0.97)) * (canvas.width, canvas.height)
    draw_polygon(layer, _stroke(zero, angle, 10 * mm, thickness))
    for tick in range(11):
        foot = zero + tick * mm * np.array([math.cos(angle), math.sin(angle)])
        draw_polygon(layer, _stroke(foot, angle - math.pi / 2, (0.35 if tick % 5 else 0.6) * mm, thickness))
    return cover(rgb, INK, rng.uniform(0.5, 0.9) * soften(layer, 0.6))


def _stroke(
    start: NDArray[np.float64], angle: float, length: float, width: float, bend: float = 0, taper: float = 0
) -> Points:
    """Return the outline of a stroke, sizes in pixels; it turns by `bend` radians and loses `taper` of its width."""
    t = np.linspace(0, 1, 40)
    heading = angle + bend * t**1.5
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * length / (len(t) - 1)
    middle = start + np.cumsum(steps, 0) - steps[0]
    side = np.stack([-np.sin(heading), np.cos(heading)], 1) * (width / 2 * (1 - taper * t**2))[:, None]
    return np.concatenate([middle + side, (middle - side)[::-1]])


def add_bubbles(canvas: Canvas, rgb: Field) -> Field:
    """Draw air bubbles in the gel: rings, dark outside and bright inside, with a highlight."""
    rng, mm, bright, dark = canvas.rng, canvas.px_per_mm, canvas.blank(), canvas.blank()
    line_px = max(1, round(0.025 * mm))
    for _ in range(rng.integers(1, 12)):
        x, y = rng.uniform(0, 1, 2) * (canvas.width, canvas.height)
        radius = mm * min(1.0, 0.12 * rng.lognormal(0, 0.7))
        draw_ellipse(dark, (x, y), (radius, radius), thickness_px=line_px)
        draw_ellipse(bright, (x, y), (radius - line_px, radius - line_px), thickness_px=line_px)
        draw_ellipse(bright, (x - 0.45 * radius, y - 0.45 * radius), (0.22 * radius, 0.1 * radius), degrees=-45)
    rgb = cover(rgb, DARK_HAIR, 0.3 * soften(dark, 0.7))
    return cover(rgb, WHITE, 0.5 * soften(bright, 0.7))


def add_glints(canvas: Canvas, rgb: Field) -> Field:
    """Draw groups of bright specks, the reflections of dry skin."""
    rng, mm = canvas.rng, canvas.px_per_mm
    peaks = np.clip(canvas.noise(0.07 * mm) - rng.uniform(1.8, 2.6), 0, 1)
    return cover(rgb, WHITE, rng.uniform(0.3, 1) * peaks * canvas.patches(2 * mm, rng.uniform(0.03, 0.3)))


# The share of images that have each artefact.
ARTEFACTS: tuple[tuple[float, Callable[[Canvas, Field], Field]], ...] = (
    (0.4, add_hairs),
    (0.35, add_ruler),
    (0.3, add_bubbles),
    (0.4, add_glints),
)


def light(canvas: Canvas) -> Field:
    """Return brightness (H, W, 3): exposure, unevenness, vignetting and an uncalibrated white balance."""
    rng = canvas.rng
    y, x = np.mgrid[-1 : 1 : canvas.height * 1j, -1 : 1 : canvas.width * 1j].astype(np.float32)
    uneven = 1 + 0.03 * canvas.noise(canvas.width / 1.5) + rng.normal(0, 0.03) * x + rng.normal(0, 0.03) * y
    vignetting = 1 - rng.uniform(0.0, 0.25) * ((x**2 + y**2) / 2) ** 1.5
    white_balance = rng.normal((1.0, 0.98, 0.97), (0.04, 0.02, 0.07))
    return np.asarray((rng.uniform(0.75, 1.05) * uneven * vignetting)[..., None] * white_balance, np.float32)


def aperture(canvas: Canvas) -> Field:
    """Return the transmission (H, W) in 0..1 of the dermatoscope's tube: all light, or all but dark corners."""
    rng, half_diagonal = canvas.rng, math.hypot(canvas.height, canvas.width) / 2
    radius = half_diagonal * (rng.uniform(0.84, 1.0) if rng.random() < 0.35 else 2)
    y, x = np.mgrid[: canvas.height, : canvas.width].astype(np.float32)
    centre_y, centre_x = rng.normal(0.5, 0.015, 2) * (canvas.height, canvas.width)
    edge_px = rng.uniform(0.002, 0.012) * canvas.width
    return np.asarray(0.06 + 0.94 * sigmoid((radius - np.hypot(y - centre_y, x - centre_x)) / edge_px), np.float32)


def expose(canvas: Canvas, rgb: Field) -> UInt8:
    """Return the photograph (H, W, 3) of reflectances `rgb`: a little out of focus, with sensor noise."""
    rng = canvas.rng
    focused = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.5, 1.1) * max(0.6, canvas.width / 640))
    grain = cv2.GaussianBlur(rng.standard_normal(rgb.shape, np.float32), (0, 0), 0.6)
    return np.asarray(np.clip(focused * 255 + rng.uniform(1.5, 4) * grain, 0, 255), np.uint8)
