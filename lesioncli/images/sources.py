"""Places of images beside files and folders: archives and object stores. To add a kind, add one entry to SOURCES."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesioncli.images.archives import find_member, list_tar, list_zip
from lesioncli.images.objects import list_objects, locate_object
from lesioncli.images.stored import Contents, ImagePath, StoredFile
from lesioncli.urls import SCHEMES, Place, Url


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


SOURCES: tuple[SourceKind, ...] = (
    SourceKind("tar", list_tar, lambda path, name: find_member(path, name, list_tar), suffixes=(".tar",)),
    SourceKind("zip", list_zip, lambda path, name: find_member(path, name, list_zip), suffixes=(".zip",)),
    SourceKind("object store", list_objects, locate_object, schemes=SCHEMES),
)


def source_kind(place: Place) -> SourceKind | None:
    """Return the kind of a place; None for a folder or an image file."""
    if isinstance(place, Url):
        return next((kind for kind in SOURCES if place.scheme in kind.schemes), None)
    suffix = place.suffix.lower()
    kind = next((kind for kind in SOURCES if suffix in kind.suffixes), None)
    return kind if kind and os.path.isfile(place) else None  # noqa: PTH113 - pathlib raises on a folder of others


def locate_file(folder: Place, inside: str) -> ImagePath:
    """Return the image of a name below a folder, an archive or a URL; a part of the name may be that of an archive.

    Raises FileNotFoundError if it is in an archive that does not have it, and OSError.
    """
    if isinstance(folder, Url):
        kind = source_kind(folder)
        return kind.locate(folder, inside) if kind else Path(str(folder))
    path = folder / inside
    archive = _archive_in(path)
    if archive is None:
        return path
    kind = source_kind(archive)
    return kind.locate(archive, path.relative_to(archive).as_posix()) if kind else path


def _archive_in(path: Path) -> Path | None:
    """Return the deepest folder of a path that is an archive."""
    text = path.as_posix().lower()
    if not any(f"{suffix}/" in text for kind in SOURCES for suffix in kind.suffixes):
        return None
    return next((folder for folder in path.parents if source_kind(folder)), None)
