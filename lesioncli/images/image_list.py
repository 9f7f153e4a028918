"""Image lists freeze the images of a run: `list` writes one (written_list.py), `segment --from` reads one.

A CSV has the path of each image relative to one root in the column `image`, and may have the columns `bytes`,
`image_crc32` and `root`. A file without the column `image` in its first line has one path per line, as on a command
line.
"""

import csv
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter, itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TextIO

from lesioncli.errors import InputError
from lesioncli.files import from_cell
from lesioncli.images.find import ImageFile, ImageListing, check_unique_masks, real_path_of
from lesioncli.images.formats import is_supported_suffix
from lesioncli.images.ignored import format_by_content, name_of_file
from lesioncli.images.objects import StoredObject, look_up
from lesioncli.images.remote_archives import forget_listings
from lesioncli.images.sources import locate_file
from lesioncli.images.stored import ImagePath, crc32_of_image, status_of
from lesioncli.process import count_cores
from lesioncli.urls import WEB, Place, Url, common_url, is_url, join_place

STDIN = Path("-")
IMAGE, FOLDER, BYTES, CRC32, ROOT = COLUMNS = ("image", "folder", "bytes", "image_crc32", "root")
MAX_PROBLEMS_SHOWN = 3
MAX_DIGITS = 18  # of a size in bytes; Python refuses to convert thousands of digits


class Entry(NamedTuple):
    """An image as its list describes it; None where the list does not say.

    line: number of its line. may_be_missing: its size is left empty, so it could not be read when it was listed. query:
    signature of its URL.
    """

    line: int
    file_bytes: int | None = None
    crc32: int | None = None
    may_be_missing: bool = False
    query: str = ""


@dataclass(frozen=True)
class ImageList:
    """The images of a list, sorted by name, and their entries by name with suffix."""

    path: Path
    listing: ImageListing
    entries: dict[str, Entry]

    def check(self, images: Sequence[ImageFile], exclude: Place, check_content: bool = False) -> Sequence[ImageFile]:
        """Compare images of the list with their files: size and, with `check_content`, CRC-32.

        Returns the images, those in a store with what it says of them. Raises InputError if a file is missing, has
        changed, is not an image, or lies in the folder `exclude`.
        """
        images = _look_up(images)
        excluded = real_path_of(exclude)
        folders = {_folder_of(image) for image in images}
        real_paths = {folder: folder if is_url(folder) else os.path.realpath(folder) for folder in folders}
        output = {folder for folder, path in real_paths.items() if f"{path}{os.sep}".startswith(excluded + os.sep)}
        problems = []
        for image in images:
            is_in_output = bool(output) and _folder_of(image) in output
            problem = f"is in the output folder {exclude}" if is_in_output else self._find_problem(image)
            if problem:
                problems.append((image, problem))
        if check_content and not problems:
            with ThreadPoolExecutor(count_cores()) as pool:
                found = zip(images, pool.map(self._compare_content, images), strict=True)
                problems = [(image, problem) for image, problem in found if problem]
        if problems:
            shown = "; ".join(
                f"line {self._entry(image).line}: {image.path} {problem}"
                for image, problem in problems[:MAX_PROBLEMS_SHOWN]
            )
            hidden = len(problems) - MAX_PROBLEMS_SHOWN
            more = f"; and {hidden} more" if hidden > 0 else ""
            raise InputError(f"{_title(self.path)}, {shown}{more}; restore the files, or write the list again")
        return images

    def _find_problem(self, image: ImageFile) -> str:
        entry, path = self._entry(image), image.path
        try:
            status = status_of(path)
        except IsADirectoryError:
            return "is not a file"
        except OSError as error:
            is_missing = isinstance(path, Path) or isinstance(error, FileNotFoundError)
            return "" if entry.may_be_missing else "does not exist" if is_missing else f"({error.strerror})"
        if entry.file_bytes not in (None, status.size_bytes):
            return f"has {status.size_bytes} bytes, the list {entry.file_bytes}"
        is_image = is_supported_suffix(path.suffix) or (isinstance(path, Path) and format_by_content(path))
        return "" if is_image else "is not a supported image file"

    def _entry(self, image: ImageFile) -> Entry:
        return self.entries[image.name + image.suffix]

    def _compare_content(self, image: ImageFile) -> str:
        expected = self._entry(image).crc32
        if expected is None:
            return ""
        try:
            return "" if crc32_of_image(image.path) == expected else "has another content than when it was listed"
        except OSError as error:
            return f"cannot be read ({error.strerror})"


def _folder_of(image: ImageFile) -> str:
    """Return the folder of an image; of one in an archive or a store, a text that is not that of a folder."""
    return os.path.dirname(str(image.path))  # noqa: PTH120 - `parent` takes ten times as long


def _look_up(images: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """Return images, those in a store with the status that it tells; raises InputError if it does not answer."""
    objects = [image.path for image in images if isinstance(image.path, StoredObject)]
    found = look_up(objects) if objects else iter(())
    return [replace(image, path=next(found)) if isinstance(image.path, StoredObject) else image for image in images]


def read_image_list(path: Path, root: Place | None = None) -> ImageList:
    """Read a list; `-` is the standard input. Files are not looked at, see ImageList.check().

    The names of the images are those that list_images() gives to the files of the list.

    root: folder that the paths of a CSV are relative to, by default that of its column `root`, which is relative to the
    list. For a list of paths it is the folder that the names are relative to, as for list_images().

    Raises InputError, with the line, for a path that is missing, twice in the list or not below the root, or if two
    images would write the same mask.
    """
    forget_listings()
    with _open(path) as stream:
        first = next(stream, "")
        header = _parse_header(path, first)
        base, pairs = (
            _read_csv(path, header, stream, root) if IMAGE in header else _read_paths(path, first, stream, root)
        )
        entries: dict[str, Entry] = {}
        images = []
        for inside, entry in pairs:
            folder, slash, file_name = inside.rpartition("/")
            name = folder + slash + name_of_file(file_name)
            images.append(ImageFile(_locate(path, base, inside, entry), name))
            if (earlier := entries.setdefault(inside, entry)) is not entry:
                raise _error(path, entry.line, f"{inside} is also in line {earlier.line}; remove one of them")
    if not images:
        raise InputError(f"{_title(path)}: no images; write a list with lesioncli list")
    images.sort(key=attrgetter("name"))
    check_unique_masks(images)
    return ImageList(path, ImageListing(images, sources=(base,), root=base), entries)


_Pairs = tuple[Place, Iterable[tuple[str, Entry]]]  # the root; path relative to it, and entry


def _locate(path: Path, base: Place, inside: str, entry: Entry) -> ImagePath:
    try:
        file = locate_file(base, inside)
        if entry.query and isinstance(file, StoredObject):
            return StoredObject(replace(file.url, query=entry.query))
        return file
    except OSError as error:
        raise _error(
            path, entry.line, f"{base}/{inside} does not exist; restore it, or write the list again"
        ) from error


def _read_csv(path: Path, header: Sequence[str], stream: Iterator[str], root: Place | None) -> _Pairs:
    """Return the entries of a CSV whose header was read."""
    if root is None and ROOT not in header:
        raise InputError(f"{_title(path)}: has no column root; name the folder of the images with --root")
    rows = _parse_rows(path, header, csv.reader(stream, strict=True))
    first = next(rows, None)
    recorded = first[0] if first else ""
    base = root or join_place(Path() if path == STDIN else path.parent, recorded)

    def entries() -> Iterator[tuple[str, Entry]]:
        for own_root, text, entry in chain([first] if first else [], rows):
            if root is None and own_root != recorded:
                raise _error(path, entry.line, f"its root {own_root!r} is not that of the first line, {recorded!r}")
            if isinstance(base, Url):
                if base.scheme in WEB and "?" in text:
                    text, _, query = text.partition("?")
                    entry = entry._replace(query=query)
                if is_url(text):
                    text = _inside_url(path, entry.line, _parse_url(path, entry.line, text), base)
            yield _check_inside(path, entry.line, text), entry

    return base, entries()


def _parse_header(path: Path, text: str) -> list[str]:
    try:
        return [cell.strip().lower() for cell in next(csv.reader([text]), [])]
    except csv.Error as error:
        raise _error(path, 1, f"cannot be read as CSV ({error})") from error


def _parse_rows(path: Path, header: Sequence[str], reader: Iterator[list[str]]) -> Iterator[tuple[str, str, Entry]]:
    """Yield root, image and entry of each row."""
    wanted = (IMAGE, BYTES, CRC32, ROOT)
    pick = itemgetter(*(header.index(name) if name in header else len(header) for name in wanted))
    has_bytes = BYTES in header
    line = 1
    try:
        for fields in reader:
            line += 1  # paths with line breaks are refused below
            if len(fields) != len(header):
                raise _error(path, line, f"{len(fields)} fields, but the header has {len(header)}")
            fields.append("")  # the cell of the columns that are not there
            image, size, crc32, own_root = pick(fields)
            size = size.strip()
            if size and not (size.isascii() and size.isdecimal() and len(size) <= MAX_DIGITS):
                raise _error(path, line, f"bytes is {size!r}, not a whole number")
            file_bytes = int(size) if size else None
            yield (
                from_cell(own_root),
                image,
                Entry(line, file_bytes, _parse_crc32(path, line, crc32.strip()), has_bytes and not size),
            )
    except csv.Error as error:
        raise _error(path, line + 1, f"cannot be read as CSV ({error})") from error


def _parse_crc32(path: Path, line: int, text: str) -> int | None:
    try:
        return int(text, 16) if text else None
    except ValueError as error:
        raise _error(path, line, f"image_crc32 is {text!r}, not a hexadecimal number") from error


def _check_inside(path: Path, line: int, text: str) -> str:
    """Return a path below the root in its normal form; InputError if it is none."""
    if not text.strip() or "\n" in text or "\0" in text:
        raise _error(path, line, "no path in the column image")
    parts = text.split("/")
    if ".." in parts or not parts[0] or os.path.isabs(text):  # noqa: PTH117 - pathlib takes ten times as long
        raise _error(path, line, f"{text} leaves the root; give paths relative to it, without ..")
    return text if "" not in parts and "." not in parts else str(PurePosixPath(text))


def _read_paths(path: Path, first: str, stream: Iterator[str], root: Place | None) -> _Pairs:
    """Return the entries of a list of paths or URLs, as on a command line."""
    names: dict[int, str] = {}
    for line, text in enumerate(chain([first] if first else [], stream), 1):
        if not (name := text.rstrip("\r\n")).strip() or "\0" in name:
            raise _error(path, line, "no path; remove the empty line")
        names[line] = name
    if isinstance(root, Url) or any(map(is_url, names.values())):
        return _read_urls(path, names, root)
    absolute = {line: os.path.abspath(name) for line, name in names.items()}  # noqa: PTH100 - resolve() follows links
    base = os.path.abspath(root) if root else _common_folder(path, absolute.values())  # noqa: PTH100 - as above

    def entries() -> Iterator[tuple[str, Entry]]:
        for line, name in absolute.items():
            if not name.startswith(base.rstrip(os.sep) + os.sep):
                raise _error(path, line, f"{name} is not in {base}; choose another folder with --root")
            yield Path(os.path.relpath(name, base)).as_posix(), Entry(line)

    return Path(base), entries()


def _read_urls(path: Path, names: Mapping[int, str], root: Place | None) -> _Pairs:
    """Return the entries of a list of URLs."""
    if odd := next((line for line, name in names.items() if not is_url(name)), None):
        raise _error(path, odd, f"{names[odd]} is not a URL, others are; give paths in another list")
    if isinstance(root, Path):
        raise InputError(f"{_title(path)}: has URLs, and {root} is a path; give a URL with --root")
    urls = {line: _parse_url(path, line, name) for line, name in names.items()}
    base = root or common_url([url.parent for url in urls.values()])

    def entries() -> Iterator[tuple[str, Entry]]:
        for line, url in urls.items():
            yield _inside_url(path, line, url, base), Entry(line, query=url.query)

    return base, entries()


def _parse_url(path: Path, line: int, text: str) -> Url:
    try:
        return Url.parse(text)
    except InputError as error:
        raise _error(path, line, str(error)) from error


def _inside_url(path: Path, line: int, url: Url, base: Url) -> str:
    inside = url.relative_to(base)
    if not inside:
        raise _error(path, line, f"{url} is not in {base}; choose another folder with --root")
    return inside


def _common_folder(path: Path, names: Iterable[str]) -> str:
    folders = {os.path.dirname(name) for name in names}  # noqa: PTH120 - `parent` takes ten times as long
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError as error:
        raise InputError(f"{_title(path)}: the paths have no common folder; list images of one drive") from error


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """Open a list as text; names of files need not be UTF-8."""
    try:
        if path == STDIN:
            # sys.stdin is a TextIOWrapper, which alone has reconfigure(), though its type is TextIO | Any.
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="")  # type: ignore[union-attr]
            yield sys.stdin
        else:
            with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
                yield file
    except OSError as error:
        raise InputError(f"{_title(path)}: cannot be read ({error.strerror}); check the path") from error


def _title(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


def _error(path: Path, line: int, problem: str) -> InputError:
    return InputError(f"{_title(path)}, line {line}: {problem}")
