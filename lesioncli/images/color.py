"""Convert pixels to sRGB, in which the training images are."""

from functools import lru_cache
from io import BytesIO
from itertools import product

import cv2
import numpy as np
from PIL import Image, ImageCms

from lesioncli.files import printable
from lesioncli.images.geometry import UInt8

# A profile that changes no test color by more levels is a variant of sRGB, of which there are dozens.
SRGB_TOLERANCE = 3
SRGB_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.02  # encoders write 1 / 2.2 for sRGB
_LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)
_TEST_COLORS = np.array(list(product(_LEVELS, repeat=3)), np.uint8)[None]
_PILLOW_MODES = {"RGB": "RGB", "GRAY": "L"}  # by colour space of a profile, as ICC writes it


@lru_cache(maxsize=64)  # all images of a camera have the same profile
def _conversion(profile: bytes) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """Return the transform from an embedded profile to sRGB, None if there is nothing to do, and a note."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space not in _PILLOW_MODES:
            return None, f"{space} colour profile ignored"
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            _PILLOW_MODES[space],
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        test_colors = _TEST_COLORS if space == "RGB" else np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
        change = np.abs(_apply(test_colors, transform).astype(int) - test_colors).max()
        if change <= SRGB_TOLERANCE:
            return None, ""
        name = printable(" ".join((source.profile.profile_description or "unnamed profile").split()))
        return transform, f"converted from {name} to sRGB"
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None, "broken colour profile ignored"


def from_gamma(rgb: UInt8, gamma: float | None) -> tuple[UInt8, str]:
    """Convert RGB (h, w, 3) from the gamma of a PNG (its gAMA chunk) to sRGB; return a note as well."""
    if not gamma or abs(gamma - SRGB_GAMMA) < GAMMA_TOLERANCE:
        return rgb, ""
    linear = (np.arange(256) / 255) ** (1 / gamma)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    levels = (255 * encoded).round().astype(np.uint8)
    return np.asarray(cv2.LUT(rgb, levels), np.uint8), f"converted from gamma {gamma:.3g} to sRGB"


def to_srgb(rgb: UInt8, profile: bytes | None, mode: str) -> tuple[UInt8, str]:
    """Convert RGB (h, w, 3) from its embedded ICC profile to sRGB; return a note as well, "" if nothing was done.

    mode: the Pillow mode in which the file stores the image. A profile that does not fit it is ignored.
    """
    if not profile:
        return rgb, ""
    transform, note = _conversion(profile)
    if transform is None:
        return rgb, note
    is_grey = mode in ("1", "L", "LA") or mode.startswith("I;16")
    if mode == "CMYK" or (transform.input_mode == "L") != is_grey:
        return rgb, "colour profile ignored: it is not for images of this kind"
    return _apply(rgb, transform), note


def _apply(rgb: UInt8, transform: ImageCms.ImageCmsTransform) -> UInt8:
    image = Image.fromarray(rgb if transform.input_mode == "RGB" else np.ascontiguousarray(rgb[..., 0]))
    return np.asarray(ImageCms.applyTransform(image, transform))
