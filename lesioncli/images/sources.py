"""Places of images beside files and folders: archives and object stores. To add a kind, add one entry to SOURCES."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from lesioncli.images.archives import Archive, ArchiveFile, list_tar, list_zip
from lesioncli.images.objects import list_objects, locate_object
from lesioncli.images.remote_archives import list_once, list_remote
from lesioncli.images.stored import Contents, ImagePath, StoredFile
from lesioncli.urls import SCHEMES, Place, Url

MAX_KEPT_INDEXES = 8  # indexes of archives in memory; each takes about 400 bytes per member


@dataclass(frozen=True)
class SourceKind:
    """A kind of place, recognised by the suffix of a file or the scheme of a URL.

    list_files: returns all files of a place; raises OSError or InputError. locate: returns the file of a name in it;
    raises FileNotFoundError if there is none, unless only its status() tells that.
    """

    name: str
    list_files: Callable[[Any], Contents]
    locate: Callable[[Any, str], StoredFile]
    suffixes: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()


def _list_archive(list_members: Callable[[Archive], Contents], place: Place) -> Contents:
    return list_remote(place, list_members) if isinstance(place, Url) else list_members(ArchiveFile(place))


def _find_member(list_members: Callable[[Archive], Contents], place: Place, inside: str) -> StoredFile:
    """Return a member by its name. Raises FileNotFoundError if the archive has none, OSError and InputError."""
    if isinstance(place, Url):
        contents = list_once(place, list_members)
        if contents is None:  # it is a folder with such a name
            return locate_object(place, inside)
        files = contents.files
    else:
        status = place.stat()
        files = _index(place, status.st_size, status.st_mtime_ns, list_members)
    if inside not in files:
        raise FileNotFoundError(errno.ENOENT, "no such member", f"{place}/{inside}")
    return files[inside]


@lru_cache(MAX_KEPT_INDEXES)
def _index(
    path: Path, size: int, modified_ns: int, list_members: Callable[[Archive], Contents]
) -> dict[str, StoredFile]:
    with suppress(FileNotFoundError):
        return list_members(ArchiveFile(path)).files
    return {}


def _archive_kind(name: str, list_members: Callable[[Archive], Contents], *suffixes: str) -> SourceKind:
    return SourceKind(name, partial(_list_archive, list_members), partial(_find_member, list_members), suffixes)


SOURCES: tuple[SourceKind, ...] = (
    _archive_kind("tar", list_tar, ".tar"),
    _archive_kind("zip", list_zip, ".zip"),
    SourceKind("object store", list_objects, locate_object, schemes=SCHEMES),
)


def source_kind(place: Place) -> SourceKind | None:
    """Return the kind of a place; None for a folder or an image file. A URL that ends with / is no archive."""
    suffix = f".{place.key.rpartition('.')[2]}" if isinstance(place, Url) else place.suffix
    kind = next((kind for kind in SOURCES if suffix.lower() in kind.suffixes), None)
    if isinstance(place, Url):
        return kind or next((kind for kind in SOURCES if place.scheme in kind.schemes), None)
    return kind if kind and os.path.isfile(place) else None  # noqa: PTH113 - pathlib raises on a folder of others


def locate_file(folder: Place, inside: str) -> ImagePath:
    """Return the image of a name below a folder, an archive or a URL; a part of the name may be that of an archive.

    Raises FileNotFoundError if it is in an archive that does not have it, OSError, and InputError if the archive is in
    a store and cannot be listed.
    """
    if isinstance(folder, Url):
        url = folder / inside
        place = _archive_at(url) or folder
        kind = source_kind(place)
        return kind.locate(place, url.relative_to(place) or "") if kind else Path(str(url))
    path = folder / inside
    archive = _archive_in(path) if _may_have_archive(f"{folder.as_posix()}/{inside}") else None
    if archive is None:
        return path
    kind = source_kind(archive)
    return kind.locate(archive, path.relative_to(archive).as_posix()) if kind else path


def _may_have_archive(text: str) -> bool:
    text = text.lower()
    return any(f"{suffix}/" in text for kind in SOURCES for suffix in kind.suffixes)


def _archive_at(url: Url) -> Url | None:
    """Return the first folder of a URL that has the name of an archive."""
    key = url.key.lower()
    names = (f"{suffix}/" for kind in SOURCES for suffix in kind.suffixes)
    ends = [key.index(name) + len(name) - 1 for name in names if name in key]
    return replace(url, key=url.key[: min(ends)]) if ends else None


def _archive_in(path: Path) -> Path | None:
    """Return the deepest folder of a path that is an archive."""
    return next((folder for folder in path.parents if source_kind(folder)), None)
