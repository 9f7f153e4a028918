"""Masks, overlays, cut-outs and probability maps: their paths in an output folder, and how they are written."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import deflate
import numpy as np

from lesioncli.files import ends_with, from_printable, write_whole
from lesioncli.images import jpeg, png
from lesioncli.images.find import CROPS, OVERLAYS, PROBABILITIES, ImageFile
from lesioncli.images.geometry import UInt8
from lesioncli.images.mask_archives import split_path
from lesioncli.images.mask_png import encode_runs
from lesioncli.images.mask_runs import MaskRuns, find_runs
from lesioncli.options import SegmentOptions

PROBABILITY_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_ENDS = {".png": png.END, ".jpg": jpeg.END_MARKER}


@dataclass(frozen=True)
class PictureFolder:
    """The output folder of a run, as far as its pictures go.

    has_maps: this run or an earlier one writes probability maps. may_have_extras: pictures of earlier runs may lie
    beside the masks.
    """

    path: Path
    has_maps: bool = False
    may_have_extras: bool = False

    def remove_extras(self, image: ImageFile) -> None:
        """Remove an image's pictures beside its mask, if it has them. Raises OSError."""
        self.remove(extra_names(image.name, image.mask_name, self.has_maps))

    def remove(self, names: Iterable[str]) -> list[Path]:
        """Remove regular files below the folder; return their paths. Raises OSError."""
        paths = [path for name in names if (path := regular_file_below(self.path, name))]
        for path in paths:
            path.unlink()
        return paths


def overlay_name(name: str) -> str:
    """Return the path of an overlay, relative to the output folder, given the image's name without suffix."""
    return f"{OVERLAYS}/{name}.jpg"


def overlay_path(folder: Path, image: ImageFile) -> Path:
    """Return the path of an image's overlay."""
    return folder / overlay_name(image.name)


def crop_name(name: str) -> str:
    """Return the path of a lesion cut-out, relative to the output folder, given the image's name without suffix."""
    return f"{CROPS}/{name}.jpg"


def crop_path(folder: Path, image: ImageFile) -> Path:
    """Return the path of an image's lesion cut-out."""
    return folder / crop_name(image.name)


def probability_name(mask_name: str) -> str:
    """Return the path of a probability map, relative to the output folder, given that of its mask."""
    return f"{PROBABILITIES}/{mask_name}"


def probability_path(folder: Path, image: ImageFile) -> Path:
    """Return the path of an image's probability map."""
    return folder / probability_name(image.mask_name)


def extra_paths(folder: Path, image: ImageFile, options: SegmentOptions) -> list[Path]:
    """Return the paths of the pictures beside the mask that the options ask for."""
    asked = {
        overlay_path: options.overlay,
        probability_path: options.save_probabilities,
        crop_path: options.crops is not None,
    }
    return [path(folder, image) for path, is_asked in asked.items() if is_asked]


def mask_path(folder: Path, image: ImageFile) -> Path:
    """Return the path of an image's mask; sub-folders are mirrored, never flattened."""
    return folder / image.mask_name


def extra_names(name: str, mask_name: str, has_maps: bool) -> list[str]:
    """Return the paths that pictures beside a mask have, relative to the output folder; `name` is without suffix.

    `mask_name` may be the path of a mask in an archive.
    """
    maps = [probability_name(split_path(mask_name)[1])] if has_maps and mask_name else []
    return [overlay_name(name), crop_name(name), *maps]


def regular_file_below(folder: Path, name: str) -> Path | None:
    """Return the regular file `name`, as a table has it, below a folder; None if there is none or a link leads away.

    A table may come from anybody, and the files that it names may be removed.
    """
    for inside in dict.fromkeys((name, from_printable(name))):
        path = folder / inside
        if not os.path.isfile(path) or os.path.islink(path):  # noqa: PTH113, PTH114 - pathlib raises on an invalid name
            continue
        real_folder, real_path = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
        if real_path.is_relative_to(real_folder) and real_path == real_folder / inside:
            return path
    return None


def is_whole(path: Path) -> bool:
    """Return whether a picture exists and has an end; a power cut or another program may have cut it."""
    return ends_with(path, _ENDS[path.suffix])


def write_mask(path: Path, mask: UInt8, top: Path | None = None) -> int:
    """Write a mask (H, W) of 0 and 255 as PNG; return the CRC-32 of the file.

    Missing folders are made, but not `top`. Raises OSError.
    """
    return write_runs(path, find_runs(mask), top)


def write_runs(path: Path, runs: MaskRuns, top: Path | None = None) -> int:
    """Write a mask, given its runs, as write_mask() does. Raises OSError."""
    content = encode_runs(runs)
    write_whole(path, content, top)
    return int(deflate.crc32(content))


def write_probability(path: Path, probability: UInt8, top: Path) -> None:
    """Write lesion probabilities (H, W) in 1/255 as PNG, as write_picture() does. Raises OSError."""
    write_picture(path, probability, PROBABILITY_OPTIONS, top)


def write_picture(path: Path, pixels: UInt8, options: Sequence[int], top: Path | None = None) -> None:
    """Write grey (H, W) or BGR (H, W, 3) pixels in the format of the suffix, with OpenCV's `options`.

    Missing folders are made, but not `top`, the output folder: somebody removed it.

    Raises OSError if the disk is full or the format cannot hold the image: PNG takes 1,000,000 pixels per side.
    """
    is_encoded, content = cv2.imencode(path.suffix, pixels, options)
    if not is_encoded:
        height, width = pixels.shape[:2]
        raise OSError(f"{width} x {height} pixels cannot be written as {path.suffix}; use a smaller image")
    write_whole(path, np.asarray(content).tobytes(), top)
