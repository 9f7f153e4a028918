"""Noise fields, shapes and layers from which a demo image is drawn."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Field = NDArray[np.float32]  # (H, W), or (H, W, 3) for colours
Mask = NDArray[np.bool_]  # (H, W)
Points = NDArray[np.float64]  # (N, 2), x and y in pixels
Range = tuple[float, float]  # lowest and highest value

SUBPIXEL_BITS = 4  # OpenCV draws at sixteenths of a pixel


@dataclass(frozen=True)
class Canvas:
    """Random numbers, size in pixels and scale of one demo image."""

    rng: np.random.Generator
    height: int
    width: int
    px_per_mm: float

    def noise(self, cell_px: float) -> Field:
        """Return smooth noise (H, W) of zero mean and unit variance; its bumps are about `cell_px` wide."""
        cell = max(1.0, cell_px)
        grid = self.rng.standard_normal((int(self.height / cell) + 5, int(self.width / cell) + 5), np.float32)
        # Cubic interpolation is slow, so it runs at a quarter of a cell; a linear resize does the rest. The random
        # offset keeps the bumps of different layers off one common lattice.
        step = max(1.0, cell / 4)
        coarse_wh = (math.ceil(self.width / step) + 1, math.ceil(self.height / step) + 1)
        left, top = self.rng.uniform(1, 2, 2)
        to_grid = np.array([[step / cell, 0, left], [0, step / cell, top]])
        coarse = cv2.warpAffine(grid, to_grid, coarse_wh, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        coarse = (coarse - coarse.mean()) / (coarse.std() + 1e-6)
        return np.asarray(cv2.resize(coarse, (self.width, self.height)), np.float32)

    def fractal(self, cell_px: float, octaves: int) -> Field:
        """Return noise (H, W) with `octaves` scales of detail, zero mean and unit variance."""
        layers = [self.noise(cell_px / 2**octave) / 2**octave for octave in range(octaves)]
        return np.asarray(sum(layers) / math.sqrt(sum(4.0**-octave for octave in range(octaves))), np.float32)

    def patches(self, cell_px: float, share: float) -> Field:
        """Return soft-edged patches (H, W) in 0..1 that cover about `share` of the image."""
        field = self.fractal(cell_px, 3)
        return sigmoid(2.5 * (field - np.quantile(field[::4, ::4], 1 - share)))

    def honeycomb(self, cell_px: float) -> Field:
        """Return the cell borders (H, W) in 0..1 of a jittered hexagonal lattice."""
        cell = max(3.0, cell_px)
        row, column = np.mgrid[-1 : self.height / cell / 0.87 + 1, -1 : self.width / cell + 1]
        jitter_y, jitter_x = self.rng.uniform(-0.5, 0.5, (2, *row.shape))
        y = ((row + jitter_y) * cell * 0.87).astype(int).clip(0, self.height - 1)
        x = ((column + row % 2 / 2 + jitter_x) * cell).astype(int).clip(0, self.width - 1)
        seeds = np.ones((self.height, self.width), np.uint8)
        seeds[y, x] = 0
        _, nearest = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        border = (nearest != np.roll(nearest, 1, 0)) | (nearest != np.roll(nearest, 1, 1))
        sigma = 0.13 * cell
        blurred = cv2.GaussianBlur(border.astype(np.float32), (0, 0), sigma)
        return np.asarray(np.minimum(1, 2.2 * sigma * blurred), np.float32)  # a line's peak is 1 / (2.5 sigma)

    def spots(self, where: Mask, per_mm2: float, radius_mm: Range, blur_mm: float) -> Field:
        """Return round spots (H, W) in 0..1, centred on pixels of `where`; most of them are small."""
        layer, candidates = self.blank(), np.flatnonzero(where)
        for centre in self.rng.choice(candidates, self.rng.poisson(per_mm2 * len(candidates) / self.px_per_mm**2)):
            y, x = divmod(int(centre), self.width)
            smallest, largest = radius_mm
            radius = (smallest + (largest - smallest) * self.rng.beta(1, 3)) * self.px_per_mm
            draw_ellipse(layer, (x, y), (radius, radius * self.rng.uniform(0.6, 1)), self.rng.uniform(0, 180))
        return soften(layer, blur_mm * self.px_per_mm)

    def blank(self) -> UInt8:
        """Return an empty layer (H, W) to draw on."""
        return np.zeros((self.height, self.width), np.uint8)


def colour(red: float, green: float, blue: float) -> Field:
    """Return three channel values (3,): reflectances, or optical densities of a pigment."""
    return np.array([red, green, blue], np.float32)


def sigmoid(field: Field) -> Field:
    """Return the logistic function of each value."""
    return np.asarray(1 / (1 + np.exp(-np.clip(field, -30, 30))), np.float32)


def draw_polygon(layer: UInt8, corners: Points, opacity: float = 1) -> None:
    """Fill a polygon on a layer (H, W)."""
    fixed_point = np.round(corners * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(layer, [fixed_point], 255 * opacity, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_ellipse(
    layer: UInt8,
    centre_xy: tuple[float, float],
    semi_axes_px: tuple[float, float],
    degrees: float = 0,
    thickness_px: int = cv2.FILLED,
) -> None:
    """Draw an ellipse on a layer (H, W)."""
    fixed_point = [max(0, round(value * 2**SUBPIXEL_BITS)) for value in (*centre_xy, *semi_axes_px)]
    centre, semi_axes = fixed_point[:2], fixed_point[2:]
    cv2.ellipse(layer, centre, semi_axes, degrees, 0, 360, 255, thickness_px, cv2.LINE_AA, SUBPIXEL_BITS)


def soften(layer: UInt8, sigma_px: float) -> Field:
    """Return a drawn layer (H, W) as a blurred opacity in 0..1."""
    return np.asarray(cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), max(0.3, sigma_px)), np.float32)


def absorb(rgb: Field, amount: Field, density: Field) -> Field:
    """Return the light left of `rgb` (H, W, 3) after an `amount` (H, W) of a pigment of optical `density` (3,)."""
    return np.asarray(rgb * np.exp(amount[..., None] * -density), np.float32)


def cover(rgb: Field, paint: Field, opacity: Field) -> Field:
    """Lay the colour `paint` (3,) over `rgb` (H, W, 3) with `opacity` (H, W)."""
    return np.asarray(rgb + opacity[..., None] * (paint - rgb), np.float32)
