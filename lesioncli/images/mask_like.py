"""Tell masks from photographs by their pixels."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import compress

import numpy as np

from lesioncli.errors import ImageError
from lesioncli.images.decode import decode
from lesioncli.images.geometry import UInt8
from lesioncli.images.stored import ImagePath

TWO_LEVELS = "almost all pixels have one of two grey levels: a mask?"

_MAX_SIDE_PX = 64  # of the grid of pixels that is looked at
_MAX_COLORS = 8  # of a map of classes
_TOLERANCE = 16  # grey levels, of masks that were saved as JPEG
_MIN_SHARE = 0.97  # of pixels of the two levels; the others are a soft outline
_SEPARATORS = "_-. "
_THREADS = 16  # images may have to be fetched


def has_two_levels(rgb: UInt8) -> bool:
    """Return whether an image (h, w, 3) without colours has two grey levels and little in between."""
    red, green, blue = np.moveaxis(_sample(rgb), -1, 0)
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    if (highest - lowest).max(initial=0) > _TOLERANCE:
        return False
    levels = red.astype(np.int16)
    low, high = int(levels.min()), int(levels.max())
    near = (levels <= low + _TOLERANCE) | (levels >= high - _TOLERANCE)
    return high - low > 4 * _TOLERANCE and float(near.mean()) >= _MIN_SHARE


def is_mask_like(rgb: UInt8) -> bool:
    """Return whether an image (h, w, 3) has two levels, or as few colours as a map of classes or an empty mask."""
    return len(np.unique(_sample(rgb).reshape(-1, 3), axis=0)) <= _MAX_COLORS or has_two_levels(rgb)


def _sample(rgb: UInt8) -> UInt8:
    """Return the pixels of a grid, as a view."""
    height, width = rgb.shape[:2]
    return rgb[:: max(1, height // _MAX_SIDE_PX), :: max(1, width // _MAX_SIDE_PX)]


def find_masks_beside(names: Mapping[str, str], path_of: Callable[[str], ImagePath]) -> list[str]:
    """Return those of images, given with their names without suffix, that are masks of another one in their folder.

    Such as x_mask.png or x.png beside x.jpg.

    Only files whose name, up to a separator, is that of another are decoded. A file that cannot be is no mask.
    """
    folders: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, name in names.items():
        folder, _, stem = name.rpartition("/")
        folders[folder][stem].append(path)
    groups = [
        (files, has_longer_name)
        for by_stem in folders.values()
        for stem, files in by_stem.items()
        if (has_longer_name := _extends_another(stem, by_stem)) or len(files) > 1
    ]
    candidates = [path for files, _ in groups for path in files]
    with ThreadPoolExecutor(_THREADS) as pool:
        masks = set(compress(candidates, pool.map(lambda path: _is_mask_file(path_of(path)), candidates)))
    return [
        path
        for files, has_longer_name in groups
        if has_longer_name or not masks.issuperset(files)
        for path in files
        if path in masks
    ]


def _extends_another(stem: str, stems: Collection[str]) -> bool:
    """Return whether a stem, up to a separator, is another one."""
    return any(character in _SEPARATORS and stem[:position] in stems for position, character in enumerate(stem))


def _is_mask_file(path: ImagePath) -> bool:
    try:
        return is_mask_like(decode(path, (_MAX_SIDE_PX, _MAX_SIDE_PX)).rgb)
    except ImageError:
        return False
