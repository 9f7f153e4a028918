"""Find the images of a run in files and folders."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.files import printable, walk
from lesioncli.images.formats import has_supported_suffix, supported_suffixes

PROBABILITIES = "probabilities"  # folder of probability maps in an output folder
RUN_RECORD = "run.json"  # identifies an output folder of `segment`, if it holds the hash of an engine

# Kinds of ignored files beside unsupported suffixes; these words are values of run.json.
ISIC_ENDINGS = ("_superpixels.png", f"{isic.MASK_ENDING}.png")  # in ISIC's folders, in either case
OUTPUT_FOLDER = "output folder(s) of segment"
# Endings of the folders of a PH2 case: IMD003_Dermoscopic_Image, IMD003_lesion and IMD003_roi are in IMD003.
PH2_PHOTOGRAPH, PH2_MASK, PH2_REGIONS = "_Dermoscopic_Image", "_lesion", "_roi"
IN_OUTPUT_FOLDER = "in the output folder"
NO_SUFFIX = "without suffix"

MAX_KINDS_SHOWN = 10
MAX_CLASHES_SHOWN = 3


@dataclass(frozen=True)
class ImageFile:
    """An image to segment.

    name: path relative to its source, without suffix, with "/". mask: name of its mask if that differs, else "".
    """

    path: Path
    name: str
    mask: str = ""

    @property
    def mask_name(self) -> str:
        """Path of the mask's file, relative to the output folder."""
        return f"{self.mask or self.name}.png"


@dataclass(frozen=True)
class ImageListing:
    """The images of a run, sorted by name, and the number of ignored files for each kind (a suffix or a reason).

    sources: the files and folders in which they were found.
    """

    images: list[ImageFile]
    ignored: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """A file or folder that a source holds; `ignored_as` is the kind of an ignored one, "" for an image."""

    image: ImageFile
    ignored_as: str = ""


def find_images(sources: Sequence[Path], exclude: Path | None = None) -> list[ImageFile]:
    """Find the images of files and folders, as list_images() does."""
    return list_images(sources, exclude).images


def list_images(sources: Sequence[Path], exclude: Path | None = None) -> ImageListing:
    """List the images of files and folders, with sub-folders, and count the ignored files.

    A path given twice is one image; a link to a file is an image of its own.

    In folders, these are ignored: hidden entries, unsupported suffixes, ISIC's superpixels and ground-truth masks, and
    output folders of earlier runs. A source itself is never ignored, unless it lies in `exclude`, the output folder of
    this run: masks are often written inside the image folder, and could overwrite an image there. Hidden entries and
    the files of `exclude` that are not sources are not counted.

    Raises InputError if a source does not exist or cannot be read, a file named as a source has an unsupported suffix,
    no image is found, or two images would write the same mask, also on file systems that ignore case.
    """
    excluded = exclude and Path(os.path.realpath(exclude))
    images: dict[str, ImageFile] = {}
    ignored_as: dict[str, str] = {}
    given = frozenset(sources)
    try:
        for entry in (entry for source in sources for entry in _entries_of(source)):
            path, kind = entry.image.path, entry.ignored_as
            if excluded and PurePath(os.path.realpath(path)).is_relative_to(excluded):
                if path not in given:
                    continue
                kind = IN_OUTPUT_FOLDER
            absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() follows links
            if kind:
                ignored_as[absolute] = kind
            else:
                images.setdefault(absolute, entry.image)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error
    ignored = dict(Counter(ignored_as[path] for path in sorted(ignored_as.keys() - images.keys())).most_common())
    if not images:
        raise InputError(_no_images(sources, exclude, ignored))
    in_order = sorted(images.values(), key=lambda image: (image.name, image.path))
    _check_unique_masks(in_order)
    return ImageListing(in_order, ignored, tuple(sources))


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """Return the counts of ignored files, as in "ignored files: 3 .gif, 2 without suffix"; "" if there are none."""
    if not ignored:
        return ""
    kinds = [f"{count} {kind}" for kind, count in ignored.items()]
    hidden = len(kinds) - MAX_KINDS_SHOWN
    return f"ignored files: {', '.join(kinds[:MAX_KINDS_SHOWN])}{f', and {hidden} more kinds' * (hidden > 0)}"


def file_bytes(path: Path) -> int | None:
    """Return the size of a file, or None if it cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def name_masks_by_isic(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Name masks in the ISIC style, `ISIC_0012345_segmentation`, in the sub-folders of their images.

    Raises InputError if an image's name has no ISIC number, or two images have the same one.
    """
    by_id: dict[str, ImageFile] = {}
    for image in images:
        image_id = isic.find_id(image.name)
        if not image_id:
            raise InputError(
                f"{image.path}: the name has no single ISIC number of seven digits, as in ISIC_0012345;"
                " rename the image or run without --isic"
            )
        if image_id in by_id:
            raise InputError(f"{by_id[image_id].path} and {image.path}: both are {image_id}; keep one of them")
        by_id[image_id] = replace(image, mask=isic.name_by_id(image.name) + isic.MASK_ENDING)
    return list(by_id.values())


def _entries_of(source: Path) -> Iterator[_Entry]:
    if source.is_dir():
        yield from _entries_in(source)
    elif not source.is_file():
        raise InputError(f"{source}: no such file or folder; check the path")
    elif not has_supported_suffix(source):
        raise InputError(f"{source}: not a supported image file; supported suffixes: {' '.join(supported_suffixes())}")
    else:
        yield _Entry(ImageFile(source, source.stem))


def _entries_in(folder: Path) -> Iterator[_Entry]:
    for directory, subfolders, files in walk(folder):
        for name in [name for name in subfolders if is_output_folder(directory / name)]:
            subfolders.remove(name)  # walk() does not enter it then
            yield _Entry(ImageFile(directory / name, name), OUTPUT_FOLDER)
        inside = directory.relative_to(folder)
        for name in files:
            image = ImageFile(directory / name, (inside / PurePath(name).stem).as_posix())
            yield _Entry(image, _kind_if_ignored(name))


def is_output_folder(folder: Path) -> bool:
    """Tell whether `segment` wrote the folder: its run.json has the hash of an engine."""
    try:
        return "engine_sha256" in json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # no such file, not JSON, a number
        return False


def _kind_if_ignored(name: str) -> str:
    """Return the kind under which a file is ignored, "" for the name of an image."""
    path = PurePath(name)
    if has_supported_suffix(path):
        return next((f"*{ending}" for ending in ISIC_ENDINGS if name.lower().endswith(ending)), "")
    return printable(path.suffix.lower()) or NO_SUFFIX


def _no_images(sources: Sequence[Path], exclude: Path | None, ignored: Mapping[str, int]) -> str:
    parts = [
        f"no images in {', '.join(map(str, sources))}",
        f"supported suffixes: {' '.join(supported_suffixes())}",
        f"files in the output folder {exclude} are not read" if exclude else "",
        describe_ignored(ignored),
    ]
    return "; ".join(filter(None, parts))


def _check_unique_masks(images: list[ImageFile]) -> None:
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[image.name.lower()].append(image.path)
    clashes = [(paths[0], other) for paths in by_name.values() for other in paths[1:]]
    if not clashes:
        return
    shown = "; ".join(f"{first} and {other}" for first, other in clashes[:MAX_CLASHES_SHOWN])
    hidden = len(clashes) - MAX_CLASHES_SHOWN
    more = f"; and {hidden} more pairs" if hidden > 0 else ""
    are_in_different_folders = all(first.parent != other.parent for first, other in clashes)
    advice = ", or segment the folders separately, with a different --out for each" if are_in_different_folders else ""
    raise InputError(f"images with the same mask name: {shown}{more}; rename one image of each pair{advice}")
