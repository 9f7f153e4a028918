"""Random changes of training samples: crop, resampling kernel, sharpness, colour, hairs.

One geometry is chosen per sample and applied to image and mask; all other changes are for the image only.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lesioncli.images.geometry import KERNELS, UInt8, to_network
from lesioncli.training.recipe import AugmentSettings

Rng = np.random.Generator
Float32 = NDArray[np.float32]

CENTRED_SHARES = (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # of both sides, or of the shorter side for a square
CENTRED_CHANCES = (1 / 15, *[2 / 15] * 7)
OVERSAMPLING = 2  # the crop has up to this many times the network's size before a random kernel downsamples it


def augment(
    rgb: UInt8, mask: UInt8, size_hw: tuple[int, int], settings: AugmentSettings, rng: Rng
) -> tuple[UInt8, UInt8]:
    """Image (H, W, 3) and mask (H, W) in 0..255 -> both at size_hw; the mask has values between at the outline."""
    matrix, canvas_wh = choose_geometry(rgb.shape[:2], size_hw, settings, rng)
    border = cv2.BORDER_REFLECT_101 if rng.random() < settings.reflect else cv2.BORDER_CONSTANT
    canvas = cv2.warpAffine(rgb, matrix, canvas_wh, flags=cv2.INTER_LINEAR, borderMode=border)
    mask_canvas = cv2.warpAffine(mask, matrix, canvas_wh, flags=cv2.INTER_LINEAR, borderMode=border)
    image = _downsample(np.asarray(canvas, np.uint8), size_hw, rng)
    image = _degrade(_recolour(image, settings, rng), settings, rng)
    if rng.random() < settings.hair:
        image = _add_hairs(image, rng)
    return image, to_network(np.asarray(mask_canvas, np.uint8), *size_hw, kernel="box")


def choose_geometry(
    source_hw: tuple[int, ...], size_hw: tuple[int, int], settings: AugmentSettings, rng: Rng
) -> tuple[Float32, tuple[int, int]]:
    """Choose rotation, flip, zoom, aspect and shift; returns the matrix source -> canvas (2, 3), and (W, H)."""
    height, width = source_hw[:2]
    zoom, stretch, shift = _choose_centred(height, width, rng) if settings.centred else _choose_free(settings, rng)
    cut_w, cut_h = width * zoom * stretch, height * zoom / stretch
    canvas_w = int(np.clip(cut_w, size_hw[1], OVERSAMPLING * size_hw[1]))
    canvas_h = int(np.clip(cut_h, size_hw[0], OVERSAMPLING * size_hw[0]))
    angle = rng.uniform(0, 2 * np.pi)
    flip = rng.choice((-1.0, 1.0))
    cosine, sine = np.cos(angle), np.sin(angle)
    # Rotate in units of the image's sides, so that the network's aspect ratio applies to all rotations alike.
    turn = np.array([[cosine, -sine], [flip * sine, flip * cosine]])
    scale_in = np.diag([1 / width, 1 / height])
    scale_out = np.diag([canvas_w / (zoom * stretch), canvas_h / (zoom / stretch)])
    linear = scale_out @ turn @ scale_in
    centre = np.array([width, height]) * (0.5 + rng.uniform(-shift, shift, 2))
    offset = np.array([canvas_w, canvas_h]) / 2 - linear @ centre
    return np.column_stack([linear, offset]).astype(np.float32), (canvas_w, canvas_h)


def _choose_free(settings: AugmentSettings, rng: Rng) -> tuple[float, float, float]:
    """Zoom, stretch and greatest shift of a crop within the settings."""
    zoom = np.exp(rng.uniform(*np.log(settings.zoom)))
    return zoom, np.sqrt(settings.aspect) ** rng.uniform(-1, 1), settings.shift


def _choose_centred(height: int, width: int, rng: Rng) -> tuple[float, float, float]:
    """One of the 15 crops that MB-DCNN trains mask-CN on: the image, a part of both sides, or a square."""
    share = rng.choice(CENTRED_SHARES, p=CENTRED_CHANCES)
    if share == 1 or rng.random() < 0.5:
        return share, 1.0, 0.0
    return share * min(height, width) / np.sqrt(height * width), np.sqrt(height / width), 0.0


def _downsample(canvas: UInt8, size_hw: tuple[int, int], rng: Rng) -> UInt8:
    """Downsample with a random kernel: the one that a user's images were downsampled with is not known."""
    height, width = size_hw
    kernel = rng.choice([*KERNELS, "bilinear", "opencv area", "opencv linear"])
    if kernel in KERNELS:
        return to_network(canvas, height, width, str(kernel))
    flag = cv2.INTER_AREA if kernel == "opencv area" else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=flag), np.uint8)


def _recolour(image: UInt8, settings: AugmentSettings, rng: Rng) -> UInt8:
    """Brightness, contrast, saturation and a colour cast, as one affine map of RGB."""
    contrast = 1 + rng.uniform(-settings.contrast, settings.contrast)
    saturation = 1 + rng.uniform(-settings.saturation, settings.saturation)
    gains = 1 + rng.uniform(-settings.colour_cast, settings.colour_cast, 3)
    gain = (1 + rng.uniform(-settings.brightness, settings.brightness)) * gains
    grey = np.full((3, 3), 1 / 3)
    colour = np.diag(gain) @ (saturation * np.eye(3) + (1 - saturation) * grey)
    mean = np.array(cv2.mean(image)[:3]) * gain
    matrix = np.column_stack([contrast * colour, (1 - contrast) * mean])
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def _degrade(image: UInt8, settings: AugmentSettings, rng: Rng) -> UInt8:
    if rng.random() < settings.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.1)), np.uint8)
    if rng.random() < settings.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), 1.0)
        amount = rng.uniform(0.2, 1.0)
        image = np.asarray(cv2.addWeighted(image, 1 + amount, soft, -amount, 0), np.uint8)
    if rng.random() < settings.jpeg:
        quality = int(rng.integers(45, 95))
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return image


def _add_hairs(image: UInt8, rng: Rng) -> UInt8:
    """A few dark, curved, antialiased strokes across the image."""
    height, width = image.shape[:2]
    hairy = image.copy()
    for _ in range(int(rng.integers(2, 16))):
        ends = rng.uniform(-0.1, 1.1, (3, 2))
        ends[1] = ends[[0, 2]].mean(0) + rng.normal(0, 0.08, 2)  # hairs bend little
        ends *= (width, height)
        along = np.linspace(0, 1, 12)[:, None]
        curve = (1 - along) ** 2 * ends[0] + 2 * along * (1 - along) * ends[1] + along**2 * ends[2]
        colour = [int(value) for value in rng.integers(10, 80) * np.array([1.0, 0.85, 0.75])]
        points = [np.round(curve * 8).astype(np.int32)]
        cv2.polylines(hairy, points, False, colour, 1 + int(rng.random() < 0.2), cv2.LINE_AA, 3)
    return hairy
