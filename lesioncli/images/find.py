"""Find the images of a run in files and folders."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath

from lesioncli import isic
from lesioncli.errors import InputError
from lesioncli.files import walk
from lesioncli.images.formats import (
    has_supported_suffix,
    is_supported_suffix,
    supported_suffixes,
)
from lesioncli.images.ignored import (
    PH2_MASKS,
    format_by_content,
    is_ph2_mask_folder,
    isic_ending,
    kind_if_ignored,
    kind_of_folder,
    kind_of_name,
    name_of_file,
    split_suffix,
)
from lesioncli.images.mask_like import find_masks_beside
from lesioncli.images.sources import SOURCES, source_kind
from lesioncli.images.stored import Contents, ImagePath
from lesioncli.urls import Place, Url, common_url

# Folders of an output folder: probability maps, and JPEGs.
PROBABILITIES = "probabilities"
OVERLAYS, CROPS = "overlays", "crops"

MASKS_BESIDE = "mask(s) beside the image"
IN_OUTPUT_FOLDER = "in the output folder"

MAX_KINDS_SHOWN = 10
MAX_CLASHES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to segment: a file, or one in an archive or a store.

    name: path relative to the root of its run, without suffix, with "/". mask: name of its mask if that differs, else
    "". own_name: path relative to its own source, which versions before 0.2.0 took for the name.
    """

    path: ImagePath
    name: str
    mask: str = ""
    own_name: str = field(default="", compare=False)

    @property
    def mask_name(self) -> str:
        """Path of the mask's file, relative to the output folder."""
        return f"{self.mask or self.name}.png"

    @property
    def local_path(self) -> Path:
        """The path of an image that is a file of its own. Raises InputError for another."""
        if isinstance(self.path, Path):
            return self.path
        raise InputError(f"{self.path}: is not a file on a disk; copy the images to a folder for this")

    @property
    def suffix(self) -> str:
        """What the name leaves out of the file name; "" for a file that is an image by its content."""
        return suffix if is_supported_suffix(suffix := self.path.suffix) else ""


@dataclass(frozen=True)
class WholeListing:
    """Number of the images of all shards, and the SHA-256 of their names."""

    images: int
    names_sha256: str


@dataclass(frozen=True)
class ImageListing:
    """The images of a run, sorted by name, and the number of ignored files for each kind (a suffix or a reason).

    sources: the files, folders, archives and URLs in which they were found. root: that which the names are relative to.
    unreadable: folders and archives that could not be listed, with the reason. whole: of the images of a shard, those
    of all shards.
    """

    images: list[ImageFile]
    ignored: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[Place, ...] = ()
    root: Place | None = None
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


def find_images(sources: Sequence[Place], exclude: Place | None = None, root: Place | None = None) -> list[ImageFile]:
    """Find the images of files and folders, as list_images() does."""
    return list_images(sources, exclude, root).images


def list_images(sources: Sequence[Place], exclude: Place | None = None, root: Place | None = None) -> ImageListing:
    """List the images of files and folders, with sub-folders, of archives and URLs, and count the ignored files.

    A path given twice is one image; a link to a file is an image of its own. Names are relative to `root`, or else to
    the deepest folder that holds all sources. An archive that is a source is a folder, too; in folders, it is ignored.

    In folders, these are ignored: hidden entries, unsupported suffixes, ISIC's superpixels and ground-truth masks, the
    masks of PH2, masks beside the image of the same name, and output folders of earlier runs. A source itself is
    ignored only as a mask or superpixels beside their image, as a shell lists them for `images/*`, or if it lies in
    `exclude`, the output folder of this run: masks are often written inside the image folder, and could overwrite an
    image there. Hidden entries and the files of `exclude` that are not sources are not counted.

    Raises InputError if a source does not exist, is not in `root` or, as a file, has an unsupported suffix, if no image
    is found, or if two images would write the same mask, also on file systems that ignore case.
    """
    base = root or _common_folder(sources)
    excluded = real_path_of(exclude) if exclude else None
    images: dict[str, ImageFile] = {}
    ignored_as: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    for entry in (entry for source in sources for entry in _entries_of(source, base, unreadable, kinds)):
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
    names = {path: image.name for path, image in images.items() if path not in beside}
    masks = find_masks_beside(names, lambda path: images[path].path)
    for path, kind in (beside | dict.fromkeys(masks, MASKS_BESIDE)).items():
        ignored_as[path] = kind
        del images[path]
    kinds.update(kind for path, kind in ignored_as.items() if path not in images)
    ignored = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    if not images:
        raise InputError(_no_images(sources, exclude, ignored, unreadable))
    in_order = sorted(images.values(), key=lambda image: (image.name, str(image.path)))
    check_unique_masks(in_order)
    return ImageListing(in_order, ignored, tuple(sources), base, unreadable)


def _find_isic_files_beside(sources: Collection[str], images: Collection[str]) -> dict[str, str]:
    """Return the kind of each source that has an ending of ISIC's other files and lies beside its image."""
    endings = {path: ending for path in sources if (ending := isic_ending(path))}
    stems = {split_suffix(path)[0] for path in images} if endings else ()
    return {path: f"*{ending}" for path, ending in endings.items() if path[: -len(ending)] in stems}


def _absolute(place: Place) -> str:
    return str(place) if isinstance(place, Url) else os.path.abspath(place)  # noqa: PTH100 - resolve() follows links


def real_path_of(place: Place) -> str:
    """Return the path of a place without links, as far as it is one on a disk, and without "/" at its end."""
    return str(place).rstrip("/") if isinstance(place, Url) else os.path.realpath(place)


def _common_folder(sources: Sequence[Place]) -> Place:
    """Return the deepest folder that holds all sources: a single folder itself, or the folder of a single file."""
    urls = [source for source in sources if isinstance(source, Url)]
    paths = [source for source in sources if isinstance(source, Path)]
    if urls and paths:
        raise InputError(f"{urls[0]} and {paths[0]}: give either URLs or paths, and the others in another run")
    if urls:
        return common_url([url.parent if is_supported_suffix(PurePath(url.key).suffix) else url for url in urls])
    folders = [_absolute(path if is_folder(path) or source_kind(path) else path.parent) for path in paths]
    try:
        return Path(os.path.commonpath(folders))
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
    """Return a line for each folder or archive that could not be listed."""
    return [f"{path}: {reason}" for path, reason in unreadable.items()]


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


def _entries_of(source: Place, base: Place, unreadable: dict[str, str], ignored: Counter[str]) -> Iterator[_Entry]:
    """Yield the entries of a source; count those in archives and stores that are not listed by name."""
    if kind := source_kind(source):
        contents = kind.list_files(source)
        unreadable.update(contents.problems)
        ignored.update(contents.ignored)
        yield from _entries_stored(contents, _folder_prefix(contents.folder, base))
    elif isinstance(source, Path):
        yield from _entries_on_disk(source, base, unreadable)


def _inside(place: Place, base: Place) -> str:
    """Return a place relative to the root of the run, with "/"; "" for the root itself."""
    if isinstance(place, Url) and isinstance(base, Url):
        inside = place.relative_to(base)
    elif isinstance(place, Path) and isinstance(base, Path):
        relative = PurePath(os.path.relpath(_absolute(place), _absolute(base)))
        inside = None if os.pardir in relative.parts else relative.as_posix().removeprefix(os.curdir)
    else:
        inside = None
    if inside is None:
        raise InputError(f"{place}: is not in {base}; choose another folder with --root")
    return inside


def _folder_prefix(folder: Place, base: Place) -> str:
    inside = _inside(folder, base)
    return f"{inside}/" if inside else ""


def _entries_stored(contents: Contents, prefix: str) -> Iterator[_Entry]:
    """Yield the files of an archive or a store; `prefix` is put before their names."""
    names = [name for name in contents.files if not f"/{name}".count("/.")]
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    of_masks = {folder for folder in folders if is_ph2_mask_folder(folder, folders)}
    for name in names:
        file = contents.files[name]
        folder, slash, file_name = name.rpartition("/")
        kind = PH2_MASKS if folder in of_masks else kind_of_name(file_name)
        own_name = folder + slash + name_of_file(file_name)
        real_path = f"{real_path_of(contents.folder)}{os.sep}{name}"
        yield _Entry(ImageFile(file, prefix + own_name), str(file), real_path, kind)


def _entries_on_disk(source: Path, base: Place, unreadable: dict[str, str]) -> Iterator[_Entry]:
    absolute, inside = _absolute(source), _inside(source, base)
    if is_folder(source):
        yield from _entries_in(source, f"{inside}/" if inside else "", unreadable)
    elif not is_reachable_file(source):
        raise InputError(f"{source}: no such file or folder; check the path")
    elif not has_supported_suffix(source) and not format_by_content(source):
        raise InputError(f"{source}: not a supported image file; supported suffixes: {' '.join(supported_suffixes())}")
    else:
        own_name = name_of_file(source.name)
        name = PurePosixPath(inside).with_name(own_name).as_posix()
        yield _Entry(ImageFile(source, name, own_name=own_name), absolute, os.path.realpath(source), is_source=True)


def _entries_in(folder: Path, prefix: str, unreadable: dict[str, str]) -> Iterator[_Entry]:
    """Yield the entries of a folder; `prefix` is put before their names. Collect the folders that cannot be listed."""

    def skip(error: OSError) -> None:
        unreadable[str(error.filename)] = f"cannot be listed ({error.strerror or error}); check its permissions"

    for directory, subfolders, files in walk(folder, skip):
        start, real_start = _absolute(directory) + os.sep, os.path.realpath(directory) + os.sep
        kinds = {name: kind_of_folder(directory, name, subfolders) for name in subfolders}
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
            yield _Entry(image, start + name, real_path, kind_if_ignored(path))


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False if that cannot be told."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises on a folder that may not be searched


def is_reachable_file(path: Path) -> bool:
    """Return whether a path is a file, or may be one in a folder that may not be searched: its row then says so."""
    try:
        return path.is_file()
    except OSError:
        return True


def _no_images(
    sources: Sequence[Place], exclude: Place | None, ignored: Mapping[str, int], unreadable: Mapping[str, str]
) -> str:
    has_archives = any(kind in ignored for known in SOURCES for kind in known.suffixes)
    parts = [
        f"no images in {', '.join(map(str, sources))}",
        f"supported suffixes: {' '.join(supported_suffixes())}",
        f"files in the output folder {exclude} are not read" if exclude else "",
        describe_ignored(ignored),
        "archives are read if they are named, as in images/*.tar" if has_archives else "",
        *describe_unreadable(unreadable),
    ]
    return "; ".join(filter(None, parts))


def check_unique_masks(images: Sequence[ImageFile]) -> None:
    """Raise InputError if two images would write the same mask, also on file systems that ignore case."""
    if len({image.name.lower() for image in images}) == len(images):  # of a million, lists would take 0.2 GB
        return
    by_name: dict[str, list[ImagePath]] = defaultdict(list)
    for image in images:
        by_name[image.name.lower()].append(image.path)
    clashes = [(paths[0], other) for paths in by_name.values() for other in paths[1:]]
    shown = "; ".join(f"{first} and {other}" for first, other in clashes[:MAX_CLASHES_SHOWN])
    hidden = len(clashes) - MAX_CLASHES_SHOWN
    more = f"; and {hidden} more pairs" if hidden > 0 else ""
    raise InputError(f"images with the same mask name: {shown}{more}; rename one image of each pair")
