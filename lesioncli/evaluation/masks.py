"""Masks as people have them: found in a folder by name, read strictly."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lesioncli.errors import ImageError, InputError
from lesioncli.evaluation.metrics import THRESHOLD

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
MASK_FORMATS = ("PNG", "BMP", "TIFF")  # by content: left to choose, Pillow runs Ghostscript on an EPS named x.png

Role = Literal["truth", "prediction"]


def find_masks(folder: Path, skip: str = "") -> dict[str, Path]:
    """Masks by name: the posix path below `folder`, without suffix and `_segmentation`; sub-folder `skip` is left."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in _walk(folder, skip):
        if path.suffix.lower() not in MASK_SUFFIXES or path.stem.endswith("_superpixels"):
            continue
        name = path.relative_to(folder).with_name(path.stem.removesuffix("_segmentation")).as_posix()
        if name in found:
            raise InputError(f"two masks for {name}: {found[name]} and {path}; keep one of them")
        found[name] = path
    return found


def _walk(folder: Path, skip: str) -> Iterator[Path]:
    """Every file below `folder` except hidden ones and what lies in its sub-folder `skip`, in sorted order."""
    for here, folders, files in os.walk(folder, onerror=_refuse):
        at_top = Path(here) == folder
        folders[:] = sorted(each for each in folders if not each.startswith(".") and not (at_top and each == skip))
        yield from (Path(here, file) for file in sorted(files) if not file.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    """os.walk() would go on without the folder, and its masks with it."""
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def read_mask(path: Path, role: Role) -> NDArray[np.bool_]:
    """Where the mask (H, W) is lesion; ImageError, its reason beginning with `role`, where that cannot be told."""
    grey, white = _grey(_decode(path, role), role)
    # A 0/1 mask would be all background. A prediction above that may be a probability map that never reached 1/2.
    too_dark = THRESHOLD if role == "truth" else 1
    if 0 < (brightest := int(grey.max())) <= too_dark * white // 255:
        raise ImageError("decode", f"{role} is a 0/{brightest} mask, not 0/{white}")
    return np.asarray(grey > THRESHOLD * white // 255)


def _decode(path: Path, role: Role) -> Image.Image:
    try:
        data = path.read_bytes()
        # Decoding stops once it has its pixels; verify() goes through all of a PNG's chunks and their checksums. It
        # leaves the picture unusable, hence the second open().
        Image.open(io.BytesIO(data), formats=MASK_FORMATS).verify()
        image = Image.open(io.BytesIO(data), formats=MASK_FORMATS)
        image.load()
    except UnidentifiedImageError as error:
        raise ImageError("decode", f"{role} unreadable: not a PNG, BMP or TIFF picture, or cut short") from error
    except Exception as error:  # damaged bytes make Pillow raise OSError, SyntaxError, struct.error and more
        raise ImageError("decode", f"{role} unreadable: {str(error) or type(error).__name__}") from error
    return image


def _grey(image: Image.Image, role: Role) -> tuple[NDArray[np.integer[Any]], int]:
    """Values (H, W) of a picture that is grey in effect, and which value is white; ImageError for any other picture."""
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise ImageError("decode", f"{role} has {pages} pages, not one")
    if image.mode.startswith("I;16"):
        return np.asarray(image), 65535
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L")), 255
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError("decode", f"{role} is not a single-channel mask: its mode is {image.mode}")
    rgba = np.asarray(image.convert("RGBA"))
    if (rgba[..., 3] != 255).any():
        raise ImageError("decode", f"{role} is not a single-channel mask: it is transparent in places")
    if (rgba[..., :3] != rgba[..., :1]).any():
        raise ImageError("decode", f"{role} is not a single-channel mask: it has colours")
    return rgba[..., 0], 255
