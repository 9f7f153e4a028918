"""Dermoscopy-like pictures with known masks and labels, for people without data.

Skin is drawn the way it is seen: light goes in, pigments absorb (Beer-Lambert: their optical densities add up), the
rest comes back, and what lies on the skin (hairs, gel bubbles, a ruler) covers it. The pictures show that the program
works; how well a network does on them says nothing about skin.
"""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.errors import InputError
from lesioncli.files import written_whole
from lesioncli.spec import CLASSES

UInt8 = NDArray[np.uint8]
Field = NDArray[np.float32]  # (H, W), or (H, W, 3) for colours
Mask = NDArray[np.bool_]  # (H, W)
Points = NDArray[np.float64]  # (N, 2), x and y in pixels
Range = tuple[float, float]


def _rgb(red: float, green: float, blue: float) -> Field:
    return np.array([red, green, blue], np.float32)


# Optical density per unit of pigment. With the ranges below they give ISIC 2017's colours: a median of about
# (190, 160, 153) of 255 for skin, a mean of about (160, 105, 86) for lesions.
MELANIN = _rgb(0.30, 0.74, 1.02)
BLOOD = _rgb(0.10, 0.52, 0.44)
BLACK = _rgb(0.95, 1.10, 1.10)  # melanin in the upper layers, too dense to look brown

# Reflectances of what hides the pigment below it.
BLUE_GREY_VEIL = _rgb(0.42, 0.42, 0.49)
REGRESSION = _rgb(0.90, 0.79, 0.76)
CYST = _rgb(0.95, 0.88, 0.76)
DARK_HAIR, LIGHT_HAIR = _rgb(0.20, 0.14, 0.11), _rgb(0.72, 0.60, 0.46)
INK = _rgb(0.10, 0.10, 0.12)
WHITE = _rgb(1.0, 1.0, 1.0)

SUBPIXEL_BITS = 4  # OpenCV draws at sixteenths of a pixel


@dataclass(frozen=True)
class DrawnCase:
    """A picture `image` (H, W, 3) uint8 RGB, its lesion `mask` (H, W) bool and its `label`, one of spec.CLASSES."""

    image: UInt8
    mask: Mask
    label: str


@dataclass(frozen=True)
class Look:
    """How lesions of one class differ; from a range a value is drawn once per picture."""

    irregularity: float  # of the outline's low harmonics, relative to the radius
    raggedness: float  # of the outline's fine detail, relative to the radius
    softness_mm: Range  # of the border
    pigment: tuple[float, float, float]  # optical density per unit in R, G, B
    amount: Range  # of pigment, in units
    variegation: float  # standard deviation of the pigment, relative to its mean
    lopsidedness: float  # 1: the palest side holds no pigment
    network: Range  # strength of the honeycomb, which in a seborrheic keratosis is one of furrows
    network_mm: Range  # width of its cells
    globules_per_mm2: Range
    cysts_per_mm2: Range = (0.0, 0.0)
    openings_per_mm2: Range = (0.0, 0.0)
    multicoloured: bool = False


LOOKS = {
    "melanoma": Look(
        irregularity=0.24,
        raggedness=0.14,
        softness_mm=(0.05, 0.15),
        pigment=(0.28, 0.58, 0.76),
        amount=(0.5, 1.7),
        variegation=0.40,
        lopsidedness=0.6,
        network=(0.1, 0.7),
        network_mm=(0.16, 0.28),
        globules_per_mm2=(0.2, 1.5),
        multicoloured=True,
    ),
    "seborrheic_keratosis": Look(
        irregularity=0.12,
        raggedness=0.09,
        softness_mm=(0.02, 0.06),
        pigment=(0.28, 0.52, 0.66),
        amount=(0.5, 1.4),
        variegation=0.20,
        lopsidedness=0.3,
        network=(0.0, 0.35),
        network_mm=(0.4, 0.9),
        globules_per_mm2=(0.0, 0.2),
        cysts_per_mm2=(0.05, 0.7),
        openings_per_mm2=(0.05, 0.5),
    ),
    "nevus": Look(
        irregularity=0.07,
        raggedness=0.05,
        softness_mm=(0.08, 0.28),
        pigment=(0.25, 0.60, 0.83),
        amount=(0.45, 1.7),
        variegation=0.22,
        lopsidedness=0.1,
        network=(0.1, 0.7),
        network_mm=(0.16, 0.28),
        globules_per_mm2=(0.1, 1.0),
    ),
}


def draw_case(seed: int, height: int = 480, width: int = 640) -> DrawnCase:
    """Draw one picture; a seed always gives the same one, and three consecutive seeds give the three classes."""
    label = CLASSES[seed % len(CLASSES)]
    look = LOOKS[label]
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng, height, width, px_per_mm=width / rng.uniform(11, 20))
    aperture = _aperture(canvas)
    mask = _outline(canvas, look, visible=aperture > 0.5)
    rgb = _lesion(canvas, look, mask, np.exp(-_skin(canvas)))
    rgb *= _light(canvas)
    for chance, cover in ((0.4, _hairs), (0.35, _ruler), (0.3, _bubbles), (0.4, _glints)):
        if rng.random() < chance:
            rgb = cover(canvas, rgb)
    return DrawnCase(_photograph(canvas, rgb * aperture[..., None]), mask, label)


def write_demo(folder: Path, count: int = 12, seed: int = 0, height: int = 480, width: int = 640) -> None:
    """Write draw_case(seed), draw_case(seed + 1), ... as pictures, masks and a label table.

    Of seed 0 that is images/demo_0001.jpg, labels/demo_0001_segmentation.png (0 or 255) and labels/labels.csv (image,
    melanoma, seborrheic_keratosis; 0.0 or 1.0). Other seeds have other names: one folder can train, another validate.
    InputError where these folders cannot be made or are not empty.
    """
    images, labels = folder / "images", folder / "labels"
    for each in (images, labels):
        _make_empty_folder(each)
    rows: list[list[object]] = [["image", *CLASSES[:2]]]
    for number in range(seed, seed + count):
        case, stem = draw_case(number, height, width), f"demo_{number + 1:04d}"
        _write_whole(images / f"{stem}.jpg", _encode(case.image, "JPEG"))
        _write_whole(labels / f"{stem}_segmentation.png", _encode(case.mask.astype(np.uint8) * 255, "PNG"))
        rows.append([stem, *(float(case.label == name) for name in CLASSES[:2])])
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    _write_whole(labels / "labels.csv", table.getvalue().encode())


@dataclass(frozen=True)
class Canvas:
    """The picture being drawn: its random numbers, its size in pixels and its scale."""

    rng: np.random.Generator
    height: int
    width: int
    px_per_mm: float

    def noise(self, cell_px: float) -> Field:
        """Smooth noise (H, W) of zero mean and unit variance whose bumps are about `cell_px` wide."""
        cell = max(1.0, cell_px)
        grid = self.rng.standard_normal((int(self.height / cell) + 5, int(self.width / cell) + 5), np.float32)
        # Cubic interpolation is dear: do it at a quarter of a cell, and the rest linearly. The random offset keeps
        # the bumps of different layers from sharing one lattice.
        step = max(1.0, cell / 4)
        coarse_wh = (math.ceil(self.width / step) + 1, math.ceil(self.height / step) + 1)
        left, top = self.rng.uniform(1, 2, 2)
        to_grid = np.array([[step / cell, 0, left], [0, step / cell, top]])
        coarse = cv2.warpAffine(grid, to_grid, coarse_wh, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        coarse = (coarse - coarse.mean()) / (coarse.std() + 1e-6)
        return np.asarray(cv2.resize(coarse, (self.width, self.height)), np.float32)

    def fractal(self, cell_px: float, octaves: int) -> Field:
        """Noise (H, W) with `octaves` scales of detail, zero mean and unit variance."""
        layers = [self.noise(cell_px / 2**octave) / 2**octave for octave in range(octaves)]
        return np.asarray(sum(layers) / math.sqrt(sum(4.0**-octave for octave in range(octaves))), np.float32)

    def patches(self, cell_px: float, share: float) -> Field:
        """Soft-edged patches (H, W) in 0..1 that cover about `share` of the picture."""
        field = self.fractal(cell_px, 3)
        return _sigmoid(2.5 * (field - np.quantile(field[::4, ::4], 1 - share)))

    def mesh(self, cell_px: float) -> Field:
        """A honeycomb (H, W) in 0..1: the borders between the cells of a disturbed hexagonal lattice."""
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
        """Round spots (H, W) in 0..1, centred on pixels of `where`, most of them small."""
        layer, candidates = self.blank(), np.flatnonzero(where)
        for centre in self.rng.choice(candidates, self.rng.poisson(per_mm2 * len(candidates) / self.px_per_mm**2)):
            y, x = divmod(int(centre), self.width)
            smallest, largest = radius_mm
            radius = (smallest + (largest - smallest) * self.rng.beta(1, 3)) * self.px_per_mm
            _draw_ellipse(layer, x, y, radius, radius * self.rng.uniform(0.6, 1), self.rng.uniform(0, 180))
        return _soften(layer, blur_mm * self.px_per_mm)

    def blank(self) -> UInt8:
        """An empty layer (H, W) to draw on."""
        return np.zeros((self.height, self.width), np.uint8)


def _sigmoid(field: Field) -> Field:
    return np.asarray(1 / (1 + np.exp(-np.clip(field, -30, 30))), np.float32)


def _draw_polygon(layer: UInt8, corners: Points, opacity: float = 1) -> None:
    at = np.round(corners * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(layer, [at], 255 * opacity, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_ellipse(
    layer: UInt8, x: float, y: float, a: float, b: float, degrees: float = 0, thickness_px: int = cv2.FILLED
) -> None:
    at = [max(0, round(each * 2**SUBPIXEL_BITS)) for each in (x, y, a, b)]
    cv2.ellipse(layer, at[:2], at[2:], degrees, 0, 360, 255, thickness_px, cv2.LINE_AA, SUBPIXEL_BITS)


def _soften(layer: UInt8, sigma_px: float) -> Field:
    """A drawn layer (H, W) as a blurred opacity in 0..1."""
    return np.asarray(cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), max(0.3, sigma_px)), np.float32)


def _absorb(rgb: Field, amount: Field, density: Field) -> Field:
    """What comes back of `rgb` (H, W, 3) through an `amount` (H, W) of a pigment of optical `density` (3,)."""
    return np.asarray(rgb * np.exp(amount[..., None] * -density), np.float32)


def _cover(rgb: Field, colour: Field, opacity: Field) -> Field:
    """Lay `colour` (3,) over `rgb` (H, W, 3) with `opacity` (H, W)."""
    return np.asarray(rgb + opacity[..., None] * (colour - rgb), np.float32)


def _skin(canvas: Canvas) -> Field:
    """Optical density (H, W, 3) of healthy skin: tone, blotches, freckles, vessels and furrows."""
    rng, mm = canvas.rng, canvas.px_per_mm
    tone, redness = 0.1 + 0.4 * rng.beta(1.5, 3), rng.uniform(0.08, 0.4)
    freckles = canvas.patches(0.8 * mm, 0.02) * canvas.patches(3 * mm, 0.5)
    furrows = canvas.mesh(rng.uniform(0.3, 0.6) * mm) * canvas.patches(2 * mm, 0.5)
    vessels = np.exp(-((canvas.fractal(1.6 * mm, 2) / 0.12) ** 2)) * canvas.patches(3 * mm, 0.25)
    melanin = tone * (1 + 0.12 * canvas.fractal(2 * mm, 4)) + rng.uniform(0, 0.5) * freckles
    melanin += rng.uniform(0, 0.05) * furrows
    blood = redness * (1 + rng.uniform(0.05, 0.3) * canvas.fractal(3.5 * mm, 4)) + rng.uniform(0, 0.15) * vessels
    grain = rng.uniform(0.005, 0.014) * canvas.fractal(0.12 * mm, 3)
    return np.asarray(melanin[..., None] * MELANIN + blood[..., None] * BLOOD + grain[..., None], np.float32)


def _outline(canvas: Canvas, look: Look, visible: Mask) -> Mask:
    """The lesion (H, W): a warped circle with harmonics, 5 to 45 % of the picture, one region without holes."""
    rng = canvas.rng
    share = math.exp(rng.uniform(math.log(0.06), math.log(0.42)))
    radius = math.sqrt(share * canvas.height * canvas.width / math.pi)
    # One in ten is far off the centre; the large ones of these touch the border.
    offset_y, offset_x = rng.normal(0, 0.16 if rng.random() < 0.1 else 0.05, 2) * (canvas.height, canvas.width)
    y, x = np.mgrid[: canvas.height, : canvas.width].astype(np.float32)
    warp = 0.7 * look.irregularity * radius
    r, angle = cv2.cartToPolar(
        x - canvas.width / 2 - offset_x + warp * canvas.noise(radius),
        y - canvas.height / 2 - offset_y + warp * canvas.noise(radius),
    )
    turn = np.linspace(0, 2 * math.pi, 4096)
    rim = 1 + rng.uniform(0, 0.2) * np.cos(2 * (turn + rng.uniform(0, math.pi)))
    for k in range(2, 8):
        rim += look.irregularity * rng.normal() / k * np.cos(k * turn + rng.uniform(0, 2 * math.pi))
    rim_px = radius * np.maximum(0.3, rim)[(angle * (4095 / 2 / math.pi)).astype(int) % 4096]
    depth = look.raggedness * canvas.fractal(radius / 2, 5) - r / rim_px
    depth[~visible] = -np.inf
    return _largest_region(depth > np.quantile(depth, 1 - share), max(1.0, 0.05 * radius))


def _largest_region(mask: Mask, smoothing_px: float) -> Mask:
    """The largest connected region of `mask`, rid of holes and of threads thinner than `smoothing_px`."""
    smooth = (cv2.GaussianBlur(mask.astype(np.float32), (0, 0), smoothing_px) > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(smooth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    region = np.zeros_like(smooth)
    cv2.drawContours(region, [max(contours, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return region > 0


def _lesion(canvas: Canvas, look: Look, mask: Mask, rgb: Field) -> Field:
    """Lay a lesion into the skin `rgb` (H, W, 3)."""
    rng = canvas.rng
    inside = mask.astype(np.uint8)
    depth_px = cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    softness_px = rng.uniform(*look.softness_mm) * canvas.px_per_mm * np.exp(0.4 * canvas.noise(canvas.height / 6))
    coverage = _sigmoid(depth_px / softness_px)  # 1/2 on the mask's contour
    rim = np.clip(depth_px / (0.25 * math.sqrt(mask.sum())), 0, 1)
    amount = coverage * (0.6 + 0.4 * rim) * _pigment(canvas, look, mask)
    hue = rng.normal(1, (0.1, 0.05, 0.1)).astype(np.float32)
    rgb = _absorb(rgb, amount, hue * look.pigment)
    if look.multicoloured:
        rgb = _colours_of_melanoma(canvas, rgb, coverage, math.sqrt(mask.sum()))
    openings = canvas.spots(mask, rng.uniform(*look.openings_per_mm2), (0.03, 0.2), 0.04)
    cysts = canvas.spots(mask, rng.uniform(*look.cysts_per_mm2), (0.03, 0.2), 0.05)
    return _cover(_absorb(rgb, rng.uniform(0.4, 1.0) * openings, BLACK), CYST, 0.5 * cysts)


def _pigment(canvas: Canvas, look: Look, mask: Mask) -> Field:
    """Units of pigment (H, W) in a lesion without a border: a variegated ground, a network in it, globules on it."""
    rng, mm, size_px = canvas.rng, canvas.px_per_mm, math.sqrt(mask.sum())
    ground = 1 + look.variegation * (0.8 * canvas.fractal(size_px / 3, 5) + 0.4 * canvas.fractal(0.25 * mm, 3))
    ground *= 1 - look.lopsidedness * np.clip(0.5 + canvas.noise(1.5 * size_px), 0, 1)
    network = canvas.mesh(rng.uniform(*look.network_mm) * mm) * canvas.patches(size_px / 4, 0.6)
    globules = canvas.spots(mask, rng.uniform(*look.globules_per_mm2), (0.02, 0.12), 0.03)
    amount = np.maximum(0.15, ground) * (0.85 + rng.uniform(*look.network) * network) + 0.4 * globules
    return np.asarray(rng.uniform(*look.amount) * amount, np.float32)


def _colours_of_melanoma(canvas: Canvas, rgb: Field, coverage: Field, size_px: float) -> Field:
    """Some of red, black, blue-grey and white, each in its own part of the lesion."""
    rng = canvas.rng

    def part(share: float, strength: Range) -> Field:
        return rng.uniform(*strength) * coverage**2 * canvas.patches(size_px / 3, share)

    if rng.random() < 0.4:
        rgb = _absorb(rgb, part(0.3, (0.2, 0.7)), BLOOD)
    if rng.random() < 0.6:
        rgb = _absorb(rgb, part(0.3, (0.3, 1.0)), BLACK)
    if rng.random() < 0.5:
        rgb = _cover(rgb, BLUE_GREY_VEIL * rng.uniform(0.7, 1.1), part(0.25, (0.25, 0.6)))
    if rng.random() < 0.4:
        rgb = _cover(rgb, REGRESSION, part(0.15, (0.3, 0.6)))
    return rgb


def _light(canvas: Canvas) -> Field:
    """Brightness (H, W, 3): exposure, unevenness, vignetting and the white balance of a camera nobody calibrated."""
    rng = canvas.rng
    y, x = np.mgrid[-1 : 1 : canvas.height * 1j, -1 : 1 : canvas.width * 1j].astype(np.float32)
    uneven = 1 + 0.03 * canvas.noise(canvas.width / 1.5) + rng.normal(0, 0.03) * x + rng.normal(0, 0.03) * y
    vignetting = 1 - rng.uniform(0.0, 0.25) * ((x**2 + y**2) / 2) ** 1.5
    white_balance = rng.normal((1.0, 0.98, 0.97), (0.04, 0.02, 0.07))
    return np.asarray((rng.uniform(0.75, 1.05) * uneven * vignetting)[..., None] * white_balance, np.float32)


def _aperture(canvas: Canvas) -> Field:
    """What the dermatoscope's tube lets through (H, W) in 0..1: everything, or all but dark corners."""
    rng, half_diagonal = canvas.rng, math.hypot(canvas.height, canvas.width) / 2
    radius = half_diagonal * (rng.uniform(0.84, 1.0) if rng.random() < 0.35 else 2)
    y, x = np.mgrid[: canvas.height, : canvas.width].astype(np.float32)
    centre_y, centre_x = rng.normal(0.5, 0.015, 2) * (canvas.height, canvas.width)
    edge_px = rng.uniform(0.002, 0.012) * canvas.width
    return np.asarray(0.06 + 0.94 * _sigmoid((radius - np.hypot(y - centre_y, x - centre_x)) / edge_px), np.float32)


def _hairs(canvas: Canvas, rgb: Field) -> Field:
    """Thin tapering curves, mostly in one direction."""
    rng, layer = canvas.rng, canvas.blank()
    direction, spread, width_mm = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.9), rng.uniform(0.03, 0.09)
    for _ in range(rng.integers(2, 25)):
        root = rng.uniform(-0.2, 1.1, 2) * (canvas.width, canvas.height)
        angle, length = rng.normal(direction, spread), rng.uniform(0.2, 1.5) * canvas.width
        width = width_mm * canvas.px_per_mm * rng.uniform(0.5, 1.2)
        hair = _stroke(root, angle, length, width, bend=rng.normal(0, 0.9), taper=0.8)
        _draw_polygon(layer, hair, opacity=rng.uniform(0.35, 1))
    colour = LIGHT_HAIR if rng.random() < 0.15 else DARK_HAIR * rng.uniform(0.7, 2)
    return _cover(rgb, colour, 0.9 * _soften(layer, 0.6))


def _stroke(
    start: NDArray[np.float64], angle: float, length: float, width: float, bend: float = 0, taper: float = 0
) -> Points:
    """Outline of a stroke of `length` by `width` pixels that turns by `bend` radians and loses `taper` of its width."""
    t = np.linspace(0, 1, 40)
    heading = angle + bend * t**1.5
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * length / (len(t) - 1)
    middle = start + np.cumsum(steps, 0) - steps[0]
    side = np.stack([-np.sin(heading), np.cos(heading)], 1) * (width / 2 * (1 - taper * t**2))[:, None]
    return np.concatenate([middle + side, (middle - side)[::-1]])


def _ruler(canvas: Canvas, rgb: Field) -> Field:
    """A centimetre in millimetres near the lower edge."""
    rng, layer, mm = canvas.rng, canvas.blank(), canvas.px_per_mm
    angle, thickness = rng.normal(0, 0.12), max(1.0, rng.uniform(0.02, 0.04) * mm)
    zero = rng.uniform((0.02, 0.86), (0.4, 0.97)) * (canvas.width, canvas.height)
    _draw_polygon(layer, _stroke(zero, angle, 10 * mm, thickness))
    for tick in range(11):
        foot = zero + tick * mm * np.array([math.cos(angle), math.sin(angle)])
        _draw_polygon(layer, _stroke(foot, angle - math.pi / 2, (0.35 if tick % 5 else 0.6) * mm, thickness))
    return _cover(rgb, INK, rng.uniform(0.5, 0.9) * _soften(layer, 0.6))


def _bubbles(canvas: Canvas, rgb: Field) -> Field:
    """Air in the gel: rings, dark outside and bright inside, with a highlight."""
    rng, mm, bright, dark = canvas.rng, canvas.px_per_mm, canvas.blank(), canvas.blank()
    line_px = max(1, round(0.025 * mm))
    for _ in range(rng.integers(1, 12)):
        x, y = rng.uniform(0, 1, 2) * (canvas.width, canvas.height)
        radius = mm * min(1.0, 0.12 * rng.lognormal(0, 0.7))
        _draw_ellipse(dark, x, y, radius, radius, thickness_px=line_px)
        _draw_ellipse(bright, x, y, radius - line_px, radius - line_px, thickness_px=line_px)
        _draw_ellipse(bright, x - 0.45 * radius, y - 0.45 * radius, 0.22 * radius, 0.1 * radius, degrees=-45)
    rgb = _cover(rgb, DARK_HAIR, 0.3 * _soften(dark, 0.7))
    return _cover(rgb, WHITE, 0.5 * _soften(bright, 0.7))


def _glints(canvas: Canvas, rgb: Field) -> Field:
    """Specks of light that dry skin mirrors, in groups."""
    rng, mm = canvas.rng, canvas.px_per_mm
    peaks = np.clip(canvas.noise(0.07 * mm) - rng.uniform(1.8, 2.6), 0, 1)
    return _cover(rgb, WHITE, rng.uniform(0.3, 1) * peaks * canvas.patches(2 * mm, rng.uniform(0.03, 0.3)))


def _photograph(canvas: Canvas, rgb: Field) -> UInt8:
    """The picture (H, W, 3) of reflectances `rgb`: a little out of focus, with sensor noise."""
    rng = canvas.rng
    focused = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.5, 1.1) * max(0.6, canvas.width / 640))
    grain = cv2.GaussianBlur(rng.standard_normal(rgb.shape, np.float32), (0, 0), 0.6)
    return np.asarray(np.clip(focused * 255 + rng.uniform(1.5, 4) * grain, 0, 255), np.uint8)


def _make_empty_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); name another folder") from error
    if any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a new folder, or delete it first")


def _encode(pixels: UInt8, kind: str) -> bytes:
    """The bytes of a JPEG or PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=92)
    return file.getvalue()


def _write_whole(path: Path, content: bytes) -> None:
    with written_whole(path) as aside:
        aside.write_bytes(content)
