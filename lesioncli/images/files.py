"""Find the images of a run, and decode one.

Pillow decodes everything but 16-bit TIFF. Three roads, chosen by the file's content and never by its suffix:

    JPEG          Pillow, scaled while decoding: 2.4 times faster on the 2.6 to 12 megapixel originals of ISIC.
                  opencv's reduced modes are 2 % faster still, but give a truncated file a grey tail and no error.
    16-bit TIFF   tifffile, where it can unpack the file without its optional codecs. Pillow misreads uncompressed
                  16-bit planes, silently and by up to 230 of 255, and refuses grey with alpha.
    the rest      Pillow, at full size.
"""

import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as Tag
from PIL.ImageFile import ImageFile as PillowFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from tifffile import TiffFile, TiffPage

from lesioncli import isic
from lesioncli.errors import ImageError, InputError
from lesioncli.files import printable, walk
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.options import FailureStage

SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"})
NOT_PHOTOGRAPHS = ("_superpixels.png", f"{isic.MASK_ENDING}.png")  # as ISIC's folders have them, in either case
OUTPUT = "output folder(s) of segment"
IN_OUTPUT = "in the output folder"  # of this run
RUN = "run.json"  # what tells an output folder, with the hash of an engine in it
SHOWN_KINDS = 10  # of files that are passed over
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs; the largest ISIC images have 30 million
_TOO_LARGE = f"more than {MAX_PIXELS / 1e6:.0f} megapixels"

# Reducing by less than 2 after the scaled decoding would let its cruder kernel show in what the network sees.
SPARE_REDUCTION = 2

# The classes, not Image.open(): that warns above 89 megapixels, and its limit and the warning filters are globals,
# which belong to the program that imports this module and cannot be changed for one thread.
_READERS: dict[bytes, type[PillowFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"BM": BmpImageFile,
    b"RIFF": WebPImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile,  # BigTIFF, as the next
    b"MM\0+": TiffImageFile,
}
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # values of TIFF's PhotometricInterpretation
_PLAIN_LAYOUTS = [(_WHITE_IS_ZERO, 1), (_BLACK_IS_ZERO, 1), (_BLACK_IS_ZERO, 2), (_RGB, 3), (_RGB, 4)]  # and samples
_UNPACKED_BY_TIFFFILE = (1, 8, 32946)  # values of TIFF's Compression: none, and the two codes of deflate


@dataclass(frozen=True)
class ImageFile:
    """An image to segment; `name` is its relative path without suffix, with "/".

    `mask` is that of its mask, where the two are not the same.
    """

    path: Path
    name: str
    mask: str = ""

    @property
    def mask_name(self) -> str:
        """Of the mask's file, below the folder of masks."""
        return f"{self.mask or self.name}.png"


@dataclass(frozen=True)
class Found:
    """The images of a run, sorted by name, and how many files of each kind were passed over in their folders."""

    images: list[ImageFile]
    passed_over: Mapping[str, int]


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
    """The images of search(), for whom these are enough."""
    return search(sources, exclude).images


def search(sources: Sequence[Path], exclude: Path | None = None) -> Found:
    """Find the images of files and folders (with their sub-folders).

    A path that is given twice is one image; a link to a file is an image of its own.

    In folders, hidden entries, other suffixes, ISIC's superpixels and true masks, and output folders of earlier runs
    are passed over; a folder or file that is itself a source is not. Nothing that lies in `exclude`, the output folder
    of this run, is an input: masks are often written inside the image folder, and one would take the place of a
    photograph there. Files that are sources there are counted among those passed over.

    Raises InputError if a source does not exist or cannot be read, a file named directly has an unsupported suffix,
    nothing is found, or two inputs would share one mask, if only where file names ignore case.
    """
    excluded = exclude and Path(os.path.realpath(exclude))
    found: dict[str, ImageFile] = {}
    kinds: dict[str, str] = {}
    named = frozenset(sources)
    try:
        for image, kind in (each for source in sources for each in _entries_of(source)):
            if excluded and PurePath(os.path.realpath(image.path)).is_relative_to(excluded):
                if image.path not in named:
                    continue
                kind = IN_OUTPUT
            path = os.path.abspath(image.path)  # noqa: PTH100 - resolve() follows links
            if kind:
                kinds[path] = kind
            else:
                found.setdefault(path, image)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    passed_over = dict(Counter(kinds[path] for path in sorted(kinds.keys() - found.keys())).most_common())
    if not found:
        raise InputError(_nothing_found(sources, exclude, passed_over))
    images = sorted(found.values(), key=lambda image: (image.name, image.path))
    _refuse_shared_names(images)
    return Found(images, passed_over)


def passed_over_in_words(passed_over: Mapping[str, int]) -> str:
    """As in "not read: 3 .gif, 2 without suffix"; "" where there is none."""
    if not passed_over:
        return ""
    kinds = [f"{count} {kind}" for kind, count in passed_over.items()]
    more = [f"and {len(kinds) - SHOWN_KINDS} more kinds"] if len(kinds) > SHOWN_KINDS else []
    listed = ", ".join([*kinds[:SHOWN_KINDS], *more])
    return f"not read: {listed}"


def file_bytes(path: Path) -> int | None:
    """How large a file is; None where that cannot be told."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def named_as_isic(images: Sequence[ImageFile]) -> list[ImageFile]:
    """The images with masks named as ISIC names them, `ISIC_0012345_segmentation`, in the same sub-folders.

    InputError where an image's name holds no ISIC number, or two images have the same.
    """
    named: dict[str, ImageFile] = {}
    for image in images:
        if not (number := isic.find_id(image.name)):
            problem = "not one ISIC number of seven digits in this name, as in ISIC_0012345"
            raise InputError(f"{image.path}: {problem}; leave out --isic")
        if number in named:
            raise InputError(f"two images are {number}: {named[number].path} and {image.path}; keep one of them")
        named[number] = replace(image, mask=isic.named_by_id(image.name) + isic.MASK_ENDING)
    return list(named.values())


def _entries_of(source: Path) -> Iterator[tuple[ImageFile, str]]:
    """What a source holds, each with the kind by which it is passed over, "" for an image."""
    if source.is_dir():
        yield from _entries_in(source)
    elif not source.is_file():
        raise InputError(f"{source}: no such file or folder")
    elif source.suffix.lower() not in SUFFIXES:
        raise InputError(f"{source} is not an image lesioncli reads; it reads {_suffixes()}")
    else:
        yield ImageFile(source, source.stem), ""


def _entries_in(folder: Path) -> Iterator[tuple[ImageFile, str]]:
    for directory, subfolders, files in walk(folder):
        for name in [name for name in subfolders if _is_output(directory / name)]:
            subfolders.remove(name)
            yield ImageFile(directory / name, name), OUTPUT
        inside = directory.relative_to(folder)
        for name in files:
            yield ImageFile(directory / name, (inside / PurePath(name).stem).as_posix()), _passed_over_as(name)


def _is_output(folder: Path) -> bool:
    try:
        return "engine_sha256" in json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # no such file, no JSON, a number
        return False


def _passed_over_as(name: str) -> str:
    """The kind of a file that is no image by its name; "" of one that is."""
    suffix = PurePath(name).suffix.lower()
    if suffix in SUFFIXES:
        return next((f"*{ending}" for ending in NOT_PHOTOGRAPHS if name.lower().endswith(ending)), "")
    return printable(suffix) or "without suffix"


def _suffixes() -> str:
    return " ".join(sorted(SUFFIXES))


def _nothing_found(sources: Sequence[Path], exclude: Path | None, passed_over: Mapping[str, int]) -> str:
    message = f"no images in {', '.join(map(str, sources))}: looked for {_suffixes()}"
    if exclude:
        message += f", and not in the output folder {exclude}"
    return "; ".join(filter(None, (message, passed_over_in_words(passed_over))))


def _refuse_shared_names(images: list[ImageFile]) -> None:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[image.name.lower()].append(image.path)
    pairs = [(paths[0], other) for paths in by_name.values() for other in paths[1:]]
    if pairs:
        shown = "; ".join(f"{one} and {other}" for one, other in pairs[:3])
        more = f"; and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        one_by_one = ", or run the folders one by one into different --out folders"
        are_apart = all(one.parent != other.parent for one, other in pairs)
        raise InputError(f"inputs that would share one mask: {shown}{more}. Rename one of each{one_by_one * are_apart}")


def decode(path: Path, at_least_hw: tuple[int, int]) -> Decoded:
    """Decode an image to upright RGB: the whole picture or an error, never a part.

    A large JPEG comes back reduced by 2, 4 or 8, as far as it stays SPARE_REDUCTION times `at_least_hw`, the (height,
    width) that the whole picture must have for what a network is to see of it. Of several pages the first is taken.
    Alpha is dropped, not blended: scans have it opaque, and no background would be right. 16 bits are scaled to 8 over
    their full range.

    Raises ImageError, whose reason does not repeat the path.
    """
    data = _read(path)
    reader = next((reader for magic, reader in _READERS.items() if data.startswith(magic)), None)
    if reader is None:
        raise ImageError(FailureStage.DECODE, "not a JPEG, PNG, BMP, WebP or TIFF image (or damaged header)")
    try:
        return _decode_tiff(data) if reader is TiffImageFile else _decode(reader, data, at_least_hw)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Pillow and tifffile name no set of errors for damaged files: fuzzing met OSError, SyntaxError, ValueError,
        # TypeError, IndexError, ZeroDivisionError, OverflowError and struct.error, and one such file must not end a
        # run of a million.
        raise ImageError(FailureStage.DECODE, _reason(str(reader.format), error)) from error


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, and a device may never end
            raise ImageError(FailureStage.DECODE, "cannot be read: not a regular file but a folder, pipe or device")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(FailureStage.DECODE, f"cannot be read: {error.strerror}") from error
    if not data:
        raise ImageError(FailureStage.DECODE, "file is empty")
    return data


def _reason(kind: str, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):  # from WebPImageFile(), before there is a size to check
        return _TOO_LARGE
    if "truncated" in text.lower():
        return f"truncated: the {kind} data end too early"
    return f"damaged or unusual {kind} file ({text}); if other programs open it, save it from there as 8-bit PNG"


def _decode(reader: type[PillowFile], data: bytes, at_least_hw: tuple[int, int]) -> Decoded:
    """Decode JPEG, PNG, BMP or WebP."""
    if reader is JpegImageFile:
        _check_end_of_jpeg(data)
    image = reader(BytesIO(data))
    stored_hw = (image.height, image.width)
    _check_size(stored_hw)
    orientation = _orientation(image.getexif().get(Tag.Orientation))
    height, width = (SPARE_REDUCTION * side for side in at_least_hw)
    # Only JPEG can be drafted: Pillow takes the largest reduction that leaves at least this size, as it is stored.
    image.draft(None, (height, width) if orientation >= 5 else (width, height))
    bits = data[24] if reader is PngImageFile else 8  # PNG begins with its signature and IHDR
    rgb = to_upright(_to_rgb(image, bits), orientation)
    return Decoded(rgb, stored_hw, orientation, _note(getattr(image, "n_frames", 1), "frames", bits))


def _check_end_of_jpeg(data: bytes) -> None:
    # A copy that stops after its space was reserved ends in zeros instead of the marker for the end of the image,
    # and zeros decode as pixels. Bytes after that marker are no fault: cameras append previews there.
    if data.endswith(bytes(16)) and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
        raise ImageError(FailureStage.DECODE, "truncated: the JPEG data end in zeros")


def _decode_tiff(data: bytes) -> Decoded:
    with TiffFile(BytesIO(data)) as tiff:
        if not len(tiff.pages):  # most programs write the directory last, so that a file cut short has none
            raise ImageError(FailureStage.DECODE, "truncated: the TIFF data end before their directory")
        page = tiff.pages.first
        stored_hw = (page.imagelength, page.imagewidth)
        _check_size(stored_hw)
        orientation = _orientation(page.tags.valueof(Tag.Orientation))
        rgb = to_upright(_unpack(page), orientation) if _is_for_tifffile(page) else _tiff_upright(data, page)
        return Decoded(rgb, stored_hw, orientation, _note(len(tiff.pages), "pages", page.bitspersample))


def _is_for_tifffile(page: TiffPage) -> bool:
    return (
        page.dtype == np.uint16
        and page.bitspersample == 16
        and page.compression in _UNPACKED_BY_TIFFFILE
        and (page.photometric, page.samplesperpixel) in _PLAIN_LAYOUTS
    )


def _unpack(page: TiffPage) -> UInt8:
    planes = page.asarray(squeeze=False)  # (samples, 1, h, w, 1) if stored in planes, else (1, 1, h, w, samples)
    samples = np.moveaxis(planes[:, 0], 0, -1).reshape(page.imagelength, page.imagewidth, -1)
    color = samples[..., :3] if page.photometric == _RGB else samples[..., :1]
    return _to_8_bit_rgb(color, 16, page.photometric == _WHITE_IS_ZERO)


def _tiff_upright(data: bytes, page: TiffPage) -> UInt8:
    image = TiffImageFile(BytesIO(data))
    # Pillow warns above 89 megapixels here too, but only where it makes the canvas itself. It turns TIFF upright.
    image.im = Image.new(image.mode, (page.imagewidth, page.imagelength)).im
    return _to_rgb(image, page.bitspersample, page.photometric == _WHITE_IS_ZERO)


def _to_rgb(image: PillowFile, bits: int, white_is_zero: bool = False) -> UInt8:
    image.load()
    if image.mode in ("I", "F"):
        raise ImageError(FailureStage.DECODE, "signed, 32-bit or floating-point pixels: save it as 8 or 16-bit first")
    if image.mode.startswith("I;16"):  # which convert() would clip at 255, and whose white-is-zero Pillow passes over
        return _to_8_bit_rgb(np.asarray(image)[..., None], bits, white_is_zero)
    image.info.pop("transparency", None)  # of a palette: convert() would drop it as well, but with a warning
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _to_8_bit_rgb(color: NDArray[np.uint16], bits: int, white_is_zero: bool) -> UInt8:
    """Scale (h, w, 1 or 3) from 0 .. 2**bits - 1 and round; one channel becomes three."""
    top = 2**bits - 1
    values = ((color.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    if white_is_zero:
        values = 255 - values
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _check_size(stored_hw: tuple[int, int]) -> None:
    if stored_hw[0] * stored_hw[1] > MAX_PIXELS:
        raise ImageError(FailureStage.DECODE, _TOO_LARGE)


def _orientation(value: Any) -> int:
    return int(value) if value in range(1, 9) else 1


def _note(count: int, unit: str, bits: int) -> str:
    parts = [f"first of {count} {unit}"] if count > 1 else []
    return "; ".join([*parts, f"{bits}-bit scaled to 8"] if bits > 8 else parts)
