"""Find the images of a run in files and folders."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.files import printable, walk
from lesioncli.images.formats import (
    SIGNATURE_BYTES,
    ImageFormat,
    format_without_suffix,
    has_supported_suffix,
    is_supported_suffix,
    supported_suffixes,
)
from lesioncli.images.mask_like import find_masks_beside
from lesioncli.sharding import find_shards, shard_folder

# Folders of an output folder: probability maps, and JPEGs.
PROBABILITIES = "probabilities"
OVERLAYS, CROPS = "overlays", "crops"
RUN_RECORD = "run.json"  # identifies an output folder of `segment`, if it holds the hash of an engine

# Kinds of ignored files beside unsupported suffixes; these words are values of run.json.
ISIC_ENDINGS = ("_superpixels.png", f"{isic.MASK_ENDING}.png")  # in ISIC's folders, in either case
OUTPUT_FOLDER = "output folder(s) of segment"
# Endings of the folders of a PH2 case: IMD003_Dermoscopic_Image, IMD003_lesion and IMD003_roi are in IMD003.
PH2_PHOTOGRAPH, PH2_MASK, PH2_REGIONS = "_Dermoscopic_Image", "_lesion", "_roi"
PH2_MASKS = "folder(s) of masks of PH2"
MASKS_BESIDE = "mask(s) beside the image"
IN_OUTPUT_FOLDER = "in the output folder"
NO_SUFFIX = "without suffix"
DIRECTORY_OF_DICOM = "DICOMDIR"  # name of the file that lists those of a disc, by the standard

MAX_KINDS_SHOWN = 10
MAX_CLASHES_SHOWN = 3


@dataclass(frozen=True)
class ImageFile:
    """An image to segment.

    name: path relative to the root of its run, without suffix, with "/". mask: name of its mask if that differs, else
    "". own_name: path relative to its own source, which versions before 0.2.0 took for the name.
    """

    path: Path
    name: str
    mask: str = ""
    own_name: str = field(default="", compare=False)

    @property
    def mask_name(self) -> str:
        """Path of the mask's file, relative to the output folder."""
        return f"{self.mask or self.name}.png"

    @property
    def suffix(self) -> str:
        """What the name leaves out of the file name; "" for a file that is an image by its content."""
        return self.path.suffix if has_supported_suffix(self.path) else ""


@dataclass(frozen=True)
class WholeListing:
    """Number of the images of all shards, and the SHA-256 of their names."""

    images: int
    names_sha256: str


@dataclass(frozen=True)
class ImageListing:
    """The images of a run, sorted by name, and the number of ignored files for each kind (a suffix or a reason).

    sources: the files and folders in which they were found. root: folder that the names are relative to. unreadable:
    folders that could not be listed, with the reason. whole: of the images of a shard, those of all shards.
    """

    images: list[ImageFile]
    ignored: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[Path, ...] = ()
    root: Path | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    whole: WholeListing | None = None


@dataclass(frozen=True)
class _Entry:
    """A file or folder that a source holds; `ignored_as` is the kind of an ignored one, "" for an image.

    absolute: path without "..", which identifies an image. real_path: without links. is_source: named by the user.
    """

    image: ImageFile
    absolute: str
    real_path: str
    ignored_as: str = ""
    is_source: bool = False


def find_images(sources: Sequence[Path], exclude: Path | None = None, root: Path | None = None) -> list[ImageFile]:
    """Find the images of files and folders, as list_images() does."""
    return list_images(sources, exclude, root).images


def list_images(sources: Sequence[Path], exclude: Path | None = None, root: Path | None = None) -> ImageListing:
    """List the images of files and folders, with sub-folders, and count the ignored files.

    A path given twice is one image; a link to a file is an image of its own. Names are relative to `root`, or else to
    the deepest folder that holds all sources.

    In folders, these are ignored: hidden entries, unsupported suffixes, ISIC's superpixels and ground-truth masks, the
    masks of PH2, masks beside the image of the same name, and output folders of earlier runs. A source itself is
    ignored only as a mask or superpixels beside their image, as a shell lists them for `images/*`, or if it lies in
    `exclude`, the output folder of this run: masks are often written inside the image folder, and could overwrite an
    image there. Hidden entries and the files of `exclude` that are not sources are not counted.

    Raises InputError if a source does not exist, is not in `root` or, as a file, has an unsupported suffix, if no image
    is found, or if two images would write the same mask, also on file systems that ignore case.
    """
    base = _absolute(root) if root else _common_folder(sources)
    excluded = str(os.path.realpath(exclude)) if exclude else None
    images: dict[str, ImageFile] = {}
    ignored_as: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for entry in (entry for source in sources for entry in _entries_of(source, base, unreadable)):
        kind = entry.ignored_as
        if excluded and f"{entry.real_path}{os.sep}".startswith(f"{excluded}{os.sep}"):
            if not entry.is_source:
                continue
            kind = IN_OUTPUT_FOLDER
        if kind:
            ignored_as[entry.absolute] = kind
        else:
            images.setdefault(entry.absolute, entry.image)
    beside = _find_isic_files_beside(images.keys() & set(map(_absolute, sources)), images)
    stems = {path: image.name.rpartition("/")[2] for path, image in images.items() if path not in beside}
    for path, kind in (beside | dict.fromkeys(find_masks_beside(stems), MASKS_BESIDE)).items():
        ignored_as[path] = kind
        del images[path]
    kinds = Counter(kind for path, kind in ignored_as.items() if path not in images)
    ignored = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    if not images:
        raise InputError(_no_images(sources, exclude, ignored, unreadable))
    in_order = sorted(images.values(), key=lambda image: (image.name, str(image.path)))
    check_unique_masks(in_order)
    return ImageListing(in_order, ignored, tuple(sources), Path(base), unreadable)


def _find_isic_files_beside(sources: Collection[str], images: Collection[str]) -> dict[str, str]:
    """Return the kind of each source that has an ending of ISIC's other files and lies beside its image."""
    endings = {path: ending for path in sources if (ending := _isic_ending(path))}
    stems = {split_suffix(path)[0] for path in images} if endings else ()
    return {path: f"*{ending}" for path, ending in endings.items() if path[: -len(ending)] in stems}


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolve() follows links


def _common_folder(sources: Sequence[Path]) -> str:
    """Return the deepest folder that holds all sources: a single folder itself, or the folder of a single file."""
    folders = [_absolute(source if is_folder(source) else source.parent) for source in sources]
    try:
        return os.path.commonpath(folders)
    except ValueError as error:  # on several drives of Windows, or no sources
        raise InputError(f"{', '.join(map(str, sources))}: no common folder; give sources of one drive") from error


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """Return the counts of ignored files, as in "ignored files: 3 .gif, 2 without suffix"; "" if there are none."""
    if not ignored:
        return ""
    kinds = [f"{count} {kind}" for kind, count in ignored.items()]
    hidden = len(kinds) - MAX_KINDS_SHOWN
    return f"ignored files: {', '.join(kinds[:MAX_KINDS_SHOWN])}{f', and {hidden} more kinds' * (hidden > 0)}"


def describe_unreadable(unreadable: Mapping[str, str]) -> list[str]:
    """Return a line for each folder that could not be listed."""
    return [f"{path}: cannot be listed ({reason}); check its permissions" for path, reason in unreadable.items()]


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


def _entries_of(source: Path, base: str, unreadable: dict[str, str]) -> Iterator[_Entry]:
    absolute = _absolute(source)
    inside = os.path.relpath(absolute, base)
    if os.pardir in PurePath(inside).parts:
        raise InputError(f"{source}: is not in {base}; choose another folder with --root")
    if is_folder(source):
        yield from _entries_in(source, "" if inside == os.curdir else f"{PurePath(inside).as_posix()}/", unreadable)
    elif not is_reachable_file(source):
        raise InputError(f"{source}: no such file or folder; check the path")
    elif not has_supported_suffix(source) and not format_by_content(source):
        raise InputError(f"{source}: not a supported image file; supported suffixes: {' '.join(supported_suffixes())}")
    else:
        own_name = name_of_file(source.name)
        name = PurePath(inside).with_name(own_name).as_posix()
        yield _Entry(ImageFile(source, name, own_name=own_name), absolute, os.path.realpath(source), is_source=True)


def _entries_in(folder: Path, prefix: str, unreadable: dict[str, str]) -> Iterator[_Entry]:
    """Yield the entries of a folder; `prefix` is put before their names. Collect the folders that cannot be listed."""

    def skip(error: OSError) -> None:
        unreadable[str(error.filename)] = error.strerror or str(error)

    for directory, subfolders, files in walk(folder, skip):
        start, real_start = _absolute(directory) + os.sep, os.path.realpath(directory) + os.sep
        kinds = {name: _kind_of_folder(directory, name, subfolders) for name in subfolders}
        for name, kind in ((name, kind) for name, kind in kinds.items() if kind):
            subfolders.remove(name)  # walk() does not enter it then
            yield _Entry(ImageFile(directory / name, name), start + name, real_start + name, kind)
        inside = directory.relative_to(folder).as_posix()
        own_prefix = "" if inside == "." else f"{inside}/"
        for name in files:
            path, own_name = directory / name, own_prefix + name_of_file(name)
            is_link = os.path.islink(start + name)  # noqa: PTH114 - twice as fast
            real_path = os.path.realpath(path) if is_link else real_start + name
            image = ImageFile(path, prefix + own_name, own_name=own_name)
            yield _Entry(image, start + name, real_path, _kind_if_ignored(path))


def _kind_of_folder(directory: Path, name: str, siblings: Collection[str]) -> str:
    """Return the kind under which a folder is ignored, "" for any other."""
    for ending in (PH2_MASK, PH2_REGIONS):
        if name.endswith(ending) and f"{name.removesuffix(ending)}{PH2_PHOTOGRAPH}" in siblings:
            return PH2_MASKS
    return OUTPUT_FOLDER if is_output_folder(directory / name) else ""


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False if that cannot be told."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises on a folder that may not be searched


def is_reachable_file(path: Path) -> bool:
    """Return whether a path is a file, or may be one in a folder that may not be searched: its row then says so."""
    try:
        return path.is_file()
    except OSError:
        return True


def is_output_folder(folder: Path) -> bool:
    """Tell whether `segment` wrote the folder: its run.json, or that of a shard, has the hash of an engine."""
    return _has_record(folder) or any(_has_record(shard_folder(folder, shard)) for shard in find_shards(folder))


def _has_record(folder: Path) -> bool:
    try:
        return "engine_sha256" in json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # no such file, not JSON, a number
        return False


def split_suffix(name: str) -> tuple[str, str]:
    """Return stem and suffix of a file name as pathlib does, in a tenth of its time."""
    position = name.rfind(".")
    return (name[:position], name[position:]) if 0 < position < len(name) - 1 else (name, "")


def name_of_file(file_name: str) -> str:
    """Return a file name without the suffix of an image: files with DICOM's ids for names have dots in them."""
    stem, suffix = split_suffix(file_name)
    return stem if is_supported_suffix(suffix) else file_name


def is_image_file(path: Path) -> bool:
    """Return whether a file in a folder is an image, as list_images() tells, but for masks beside it."""
    return not path.name.startswith(".") and not _kind_if_ignored(path)


def _kind_if_ignored(path: Path) -> str:
    """Return the kind under which a file is ignored, "" for an image."""
    suffix = split_suffix(path.name)[1]
    if is_supported_suffix(suffix):
        return f"*{ending}" if (ending := _isic_ending(path.name)) else ""
    if (not suffix or suffix[1:].isdecimal()) and (known := format_by_content(path)):
        is_missing = known.extra and not known.extra.is_installed
        return f"{known.name} {NO_SUFFIX} (needs the extra {known.extra.name})" if known.extra and is_missing else ""
    return printable(suffix.lower()) or NO_SUFFIX


def _isic_ending(name: str) -> str:
    return next((ending for ending in ISIC_ENDINGS if name.lower().endswith(ending)), "")


def format_by_content(path: Path) -> ImageFormat | None:
    """Return the format of a file that has no suffix, or a number for one, if its content is that of an image."""
    if path.name == DIRECTORY_OF_DICOM:
        return None
    try:
        if not path.is_file():  # a pipe would block
            return None
        with path.open("rb", buffering=0) as file:
            return format_without_suffix(file.read(SIGNATURE_BYTES))
    except OSError:
        return None


def _no_images(
    sources: Sequence[Path], exclude: Path | None, ignored: Mapping[str, int], unreadable: Mapping[str, str]
) -> str:
    parts = [
        f"no images in {', '.join(map(str, sources))}",
        f"supported suffixes: {' '.join(supported_suffixes())}",
        f"files in the output folder {exclude} are not read" if exclude else "",
        describe_ignored(ignored),
        *describe_unreadable(unreadable),
    ]
    return "; ".join(filter(None, parts))


def check_unique_masks(images: Sequence[ImageFile]) -> None:
    """Raise InputError if two images would write the same mask, also on file systems that ignore case."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_name[image.name.lower()].append(image.path)
    clashes = [(paths[0], other) for paths in by_name.values() for other in paths[1:]]
    if not clashes:
        return
    shown = "; ".join(f"{first} and {other}" for first, other in clashes[:MAX_CLASHES_SHOWN])
    hidden = len(clashes) - MAX_CLASHES_SHOWN
    more = f"; and {hidden} more pairs" if hidden > 0 else ""
    raise InputError(f"images with the same mask name: {shown}{more}; rename one image of each pair")
