"""Where the results of a run are kept: a folder on a disk. For one in a bucket, see bucket.py."""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from lesioncli.errors import InputError
from lesioncli.files import sync_files
from lesioncli.images.mask_archives import list_archives
from lesioncli.inference.durability import GroupSync
from lesioncli.inference.journal import Journal
from lesioncli.inference.pictures import PictureFolder, is_whole
from lesioncli.options import RAY_LOCAL, SegmentOptions
from lesioncli.urls import Place, Url


class Sync(Protocol):
    """Makes the pictures of new rows safe, and then the rows; see GroupSync."""

    synced_bytes: int

    def add(self, paths: Iterable[Path]) -> None: ...

    def finish(self) -> None: ...

    def stop(self) -> None: ...


class Destination:
    """A folder on a disk.

    place: what the user named. folder: where a run writes its files. keeps_files: those of earlier runs are there, too;
    if not, ask has() for pictures.
    """

    keeps_files = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place: Place = folder

    def check_names(self, names: Iterable[str]) -> None:
        """Raise InputError if a picture cannot have one of these names."""

    def start_sync(self, journal: Journal) -> Sync:
        """Return what makes the results of a run safe."""
        return GroupSync(journal, self.folder)

    def learn(self, paths: Iterable[Path]) -> None:
        """Find out which pictures of earlier runs are there; has() knows no others."""

    def has(self, path: Path) -> bool:
        """Return whether a picture is there and whole."""
        return is_whole(path)

    def has_archive(self, name: str) -> bool:
        """Return whether an archive of masks is there that is not in the folder."""
        return False

    def list_archives(self) -> Iterable[str]:
        """Return the names of the archives of masks of earlier runs."""
        return list_archives(self.folder)

    def has_folder(self, name: str) -> bool:
        """Return whether there may be pictures below a folder."""
        return (self.folder / name).is_dir()

    def remove(self, names: Iterable[str]) -> None:
        """Remove pictures so that a power cut does not bring them back, without a row that names them."""
        sync_files(PictureFolder(self.folder).remove(names), self.folder)

    def publish_rows(self) -> None:
        """The tables of the rows are written, and the journal has nothing to add."""

    def publish_record(self) -> None:
        """The record of the run is written."""

    def name_source(self, source: Place) -> str:
        """Return a source relative to the folder, so that both can be moved; absolute if it is on another drive."""
        if isinstance(source, Url):
            return str(source)
        # Resolved first: ".." of a linked folder is not the parent of its name.
        real_source, real_folder = os.path.realpath(source), os.path.realpath(self.folder)
        try:
            return Path(os.path.relpath(real_source, real_folder)).as_posix()
        except ValueError:
            return Path(real_source).as_posix()


def open_destination(
    out: Place, options: SegmentOptions, note: Callable[[str], None], *, to_write: bool = True
) -> AbstractContextManager[Destination]:
    """Open the place of the results of a run, which is kept from other runs if it is in a bucket."""
    if isinstance(out, Path):
        return nullcontext(Destination(out))
    from lesioncli.inference.bucket import open_bucket

    if options.processes and options.processes.ray not in (None, RAY_LOCAL):
        raise InputError(f"{out}: the workers of a Ray cluster need a folder that all of them see; use --shard instead")
    return open_bucket(out, options, note, to_write=to_write)
