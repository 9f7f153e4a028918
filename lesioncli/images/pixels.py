"""Decoded pixels, and the conversions and checks that readers of several formats share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.ImageFile import ImageFile as PillowFile

from lesioncli.errors import ImageError
from lesioncli.images.geometry import UInt8
from lesioncli.options import FailureStage

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs; the largest ISIC images have 30 million
TOO_LARGE = f"more than {MAX_PIXELS / 1e6:.0f} megapixels"


@dataclass(frozen=True)
class DecodedImage:
    """The pixels of an image file, and how the file stores them.

    rgb: uint8 (h, w, 3), upright, possibly downsampled. stored_hw: full size before `orientation` (EXIF, 1 to 8) is
    applied. note: what the reader dropped or converted, usually empty.
    """

    rgb: UInt8
    stored_hw: tuple[int, int]
    orientation: int
    note: str


def check_size(stored_hw: tuple[int, int]) -> None:
    """Raise ImageError if an image has more than MAX_PIXELS; call this before decoding its pixels."""
    if stored_hw[0] * stored_hw[1] > MAX_PIXELS:
        raise ImageError(FailureStage.DECODE, TOO_LARGE)


def valid_orientation(value: Any) -> int:
    """Return an EXIF orientation, or 1 for a value outside 1 to 8."""
    return int(value) if value in range(1, 9) else 1


def describe_conversion(count: int, unit: str, bits: int) -> str:
    """Return the note: the first of `count` pages or frames was read, samples of `bits` bits were scaled to 8."""
    parts = [f"first of {count} {unit}"] if count > 1 else []
    return "; ".join([*parts, f"{bits}-bit scaled to 8"] if bits > 8 else parts)


def to_rgb(image: PillowFile, bits: int, white_is_zero: bool = False) -> UInt8:
    """Decode a Pillow image to uint8 (h, w, 3); alpha is dropped. `bits` is the number of bits per stored sample."""
    image.load()
    if image.mode in ("I", "F"):
        raise ImageError(FailureStage.DECODE, "signed, 32-bit or floating-point pixels: save it as 8 or 16-bit first")
    if image.mode.startswith("I;16"):  # convert() would clip these at 255, and Pillow ignores their white-is-zero
        return to_8_bit_rgb(np.asarray(image)[..., None], bits, white_is_zero)
    image.info.pop("transparency", None)  # of a palette: convert() would drop it as well, but with a warning
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def to_8_bit_rgb(color: NDArray[np.uint16], bits: int, white_is_zero: bool) -> UInt8:
    """Scale (h, w, 1 or 3) from 0 .. 2**bits - 1 to uint8 with rounding, and repeat a single channel three times."""
    top = 2**bits - 1
    values = ((color.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    if white_is_zero:
        values = 255 - values
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))
