"""Find the images of a run, and decode one.

Pillow decodes everything but 16-bit TIFF. Three roads, chosen by the file's content and never by its suffix:

    JPEG          Pillow, scaled while decoding: 2.4 times faster on the 2.6 to 12 megapixel originals of ISIC.
                  opencv's reduced modes are 2 % faster still, but give a truncated file a grey tail and no error.
    16-bit TIFF   tifffile, where it can unpack the file without its optional codecs. Pillow misreads uncompressed
                  16-bit planes, silently and by up to 230 of 255, and refuses grey with alpha.
    the rest      Pillow, at full size.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as Tag
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from lesioncli.errors import ImageError, InputError
from lesioncli.inference.geometry import UInt8, to_upright

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs; the largest ISIC images have 30 million

# Reducing by less than 2 after the scaled decoding would let its cruder kernel show in what the network sees.
SPARE_REDUCTION = 2

# The classes, not Image.open(): that one warns above 89 megapixels, and neither its global limit nor the warning
# filter can be changed without changing them for whoever imports this module, or from a thread at all.
_READERS = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,  # BigTIFF, as the next
    b"MM\0+": TiffImageFile,
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # values of TIFF's PhotometricInterpretation
_UNPACKED_BY_TIFFFILE = {1, 8, 32946}  # values of TIFF's Compression: none and the two codes of deflate


@dataclass(frozen=True)
class ImageFile:
    """An image to segment; `name` is its relative path without suffix, with "/": the mask is `<name>.png`."""

    path: Path
    name: str


@dataclass(frozen=True)
class Decoded:
    """One picture: `rgb` (h, w, 3), upright and maybe reduced, and how its file stores it.

    `stored_hw` is the full size of the stored pixels, before they are turned by `orientation` (EXIF, 1 to 8).
    `note` says what of the file was left out or changed, and is mostly empty.
    """

    rgb: UInt8
    stored_hw: tuple[int, int]
    orientation: int
    note: str


def find_images(sources: Sequence[Path], exclude: Path | None = None) -> list[ImageFile]:
    """List the images of files and folders (with their sub-folders), sorted by name; each file is listed once.

    In folders, hidden entries, other suffixes and ISIC's `*_superpixels.png` are passed over. Nothing that lies in
    `exclude`, the output folder, is an input: masks are often written inside the image folder.

    Raises InputError if a source does not exist or cannot be read, a file named directly has an unsupported suffix,
    nothing is found, or two inputs would share one mask, if only where file names ignore case.
    """
    excluded = exclude and Path(os.path.realpath(exclude))
    found: dict[str, ImageFile] = {}
    try:
        for image in (image for source in sources for image in _images_of(source)):
            real = os.path.realpath(image.path)
            if excluded is None or not PurePath(real).is_relative_to(excluded):
                found.setdefault(real, image)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not found:
        raise InputError(_nothing_found(sources, exclude))
    images = sorted(found.values(), key=lambda image: (image.name, image.path))
    _refuse_shared_names(images)
    return images


def _images_of(source: Path) -> Iterator[ImageFile]:
    if source.is_dir():
        yield from _images_in(source)
    elif not source.is_file():
        raise InputError(f"{source}: no such file or folder")
    elif source.suffix.lower() not in SUFFIXES:
        raise InputError(f"{source} is not an image lesioncli reads; it reads {_suffixes()}")
    else:
        yield ImageFile(source, source.stem)


def _images_in(folder: Path) -> Iterator[ImageFile]:
    seen: set[str] = set()  # a link to a folder above it would make the walk endless
    for directory, subfolders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(directory).relative_to(folder)
        for name in sorted(filter(_is_input, files)):
            yield ImageFile(Path(directory, name), (inside / PurePath(name).stem).as_posix())


def _is_input(name: str) -> bool:
    return (
        PurePath(name).suffix.lower() in SUFFIXES
        and not name.startswith(".")
        and not name.endswith("_superpixels.png")
    )


def _raise(error: OSError) -> None:
    raise error  # os.walk() passes over a folder it cannot open, and its images would vanish


def _suffixes() -> str:
    return " ".join(sorted(SUFFIXES))


def _nothing_found(sources: Sequence[Path], exclude: Path | None) -> str:
    message = f"no images in {', '.join(map(str, sources))}: looked for {_suffixes()}"
    return f"{message}, and not in the output folder {exclude}" if exclude else message


def _refuse_shared_names(images: list[ImageFile]) -> None:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[image.name.lower()].append(image.path)
    pairs = [f"{paths[0]} and {other}" for paths in by_name.values() for other in paths[1:]]
    if pairs:
        more = f"; and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        raise InputError(
            f"inputs that would share one mask: {'; '.join(pairs[:3])}{more}. "
            "Rename one of each, or run the folders one by one into different --out folders"
        )


def decode(path: Path, at_least_hw: tuple[int, int]) -> Decoded:
    """Decode an image to upright RGB: the whole picture or an error, never a part.

    A large JPEG comes back reduced by 2, 4 or 8, as far as it stays SPARE_REDUCTION times `at_least_hw`, the size
    (height, width) of the network's input. Of several pages the first is taken. Alpha is dropped, not blended:
    scans have it opaque, and no background would be right. 16 bits are scaled to 8 over their full range.

    Raises ImageError, whose reason does not repeat the path.
    """
    data = _read(path)
    reader = next((reader for magic, reader in _READERS.items() if data.startswith(magic)), None)
    if reader is None:
        raise ImageError("decode", "not a JPEG, PNG, BMP, WebP or TIFF image (or damaged header)")
    try:
        return _decode_tiff(data) or _decode_with_pillow(reader, data, at_least_hw)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow and tifffile name no set of errors for damaged files: fuzzing met OSError, SyntaxError, ValueError,
        # EOFError, KeyError, struct.error and more, and one such file must not end a run of a million.
        raise ImageError("decode", _reason(reader.format, error)) from error


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError("decode", f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError("decode", "file is empty")
    return data


def _reason(kind: str, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower():
        return f"truncated: the {kind} data end too early"
    return f"damaged or unusual {kind} file ({text}); if other programs open it, save it from there as 8-bit PNG"


def _check_size(stored_hw: tuple[int, int]) -> None:
    height, width = stored_hw
    if height * width > MAX_PIXELS:
        raise ImageError("decode", f"more than {MAX_PIXELS // 10**6} megapixels ({width} x {height})")
