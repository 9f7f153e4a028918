"""Archives of masks in an output folder, such as masks-00000.tar, in place of a file for each mask.

In scores.csv, the path of a mask in an archive is `masks-00000.tar/x.png`; `x.png` is then its name.
"""

import io
import os
import re
import tarfile
import threading
from collections.abc import Iterable
from pathlib import Path

from lesioncli.files import atomic_write, from_printable, printable, sync_folder
from lesioncli.images.archives import ArchiveFile, Member, list_tar
from lesioncli.images.stored import Contents, ImagePath, reading_errors
from lesioncli.options import Shard

_PATH = re.compile(r"(masks-(?:[0-9]+-of-[0-9]+-)?[0-9]{5,}\.tar)/(.+)", re.DOTALL)


def split_path(path: str) -> tuple[str, str]:
    """Return the archive and the name of a mask, given its path in scores.csv; the archive of a file is ""."""
    match = _PATH.fullmatch(path)
    return (match[1], match[2]) if match else ("", path)


def is_archived(path: str) -> bool:
    """Return whether a mask is in an archive, given its path in scores.csv."""
    return _PATH.fullmatch(path) is not None


def archive_name(shard: Shard | None, number: int) -> str:
    """Return the name of an archive of a run or of one of its shards."""
    return f"{_prefix(shard)}{number:05d}.tar"


def _prefix(shard: Shard | None) -> str:
    return f"masks-{shard.index}-of-{shard.count}-" if shard else "masks-"


def of_shard(shard: Shard | None, archives: Iterable[str]) -> dict[str, int]:
    """Return the numbers of those archives that are of a shard or, without one, of a whole run."""
    parts = {name: name.removeprefix(_prefix(shard)).removesuffix(".tar") for name in archives}
    return {name: int(part) for name, part in parts.items() if part.isdecimal()}


def next_number(shard: Shard | None, archives: Iterable[str]) -> int:
    """Return the number of the archive of a run or of one of its shards that follows those it has."""
    return max(of_shard(shard, archives).values(), default=-1) + 1


def list_archives(folder: Path) -> list[str]:
    """Return the names of all archives of masks in an output folder, in order."""
    names = (name for name in os.listdir(folder) if is_archived(f"{name}/x"))  # noqa: PTH208 - no million paths
    return sorted(name for name in names if (folder / name).is_file())


class MaskArchives:
    """Where the masks of an output folder are. Each archive is listed once, when it is first asked for.

    Several threads may use it at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._contents: dict[str, Contents] = {}

    def contents(self, archive: str) -> Contents:
        """Return what an archive holds: of one that is cut short, the members before that; nothing if it is gone."""
        with self._lock:
            if archive not in self._contents:
                path = self._folder / archive
                try:
                    self._contents[archive] = _list(path)
                except OSError as error:
                    reason = f"cannot be read ({error.strerror})"
                    self._contents[archive] = Contents(path, problems={str(path): reason})
            return self._contents[archive]

    def find(self, path: str) -> Member | None:
        """Return the member that a path in scores.csv names, None if it is not in an archive, or gone."""
        archive, name = split_path(path)
        files = self.contents(archive).files if archive else {}
        found = files.get(name) or files.get(from_printable(name))
        return found if isinstance(found, Member) else None

    def locate(self, path: str) -> ImagePath:
        """Return the file or member that a path in scores.csv names; it may not exist."""
        return self.find(path) or self._folder / path

    def clear(self) -> None:
        """Forget what the archives hold: 400 bytes for each mask."""
        with self._lock:
            self._contents.clear()


def _list(path: Path) -> Contents:
    """Return what an archive holds, see MaskArchives.contents(). Raises OSError if it cannot be read."""
    if not path.is_file():
        return Contents(path)
    contents, size = list_tar(ArchiveFile(path)), path.stat().st_size
    if contents.problems:
        members = ((name, file) for name, file in contents.files.items() if isinstance(file, Member))
        whole = {name: member for name, member in members if member.offset + member.size <= size}
        return Contents(path, dict(whole), contents.ignored, contents.problems)
    return contents


def write_archive(path: Path, masks: Iterable[tuple[str, bytes]], top: Path) -> None:
    """Write an archive of masks by name, as atomic_write() does; `top`, its folder, is not made. Raises OSError."""
    with (
        atomic_write(path, top) as temporary,
        tarfile.open(temporary, "w", encoding="utf-8", errors="surrogateescape") as tar,
    ):
        for name, content in masks:
            add_member(tar, name, content)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without time and owner, so that the same results are the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def remove_archived(folder: Path, paths: Iterable[str], also: Iterable[str] = ()) -> None:
    """Remove masks from their archives, given their paths in scores.csv: the archives are written again without them.

    What an archive lacks because it is cut short is lost, and an archive without masks is removed. The archives `also`
    are written again, too. Raises OSError, also if an archive cannot be read.
    """
    removed: dict[str, set[str]] = {archive: set() for archive in also}
    for archive, name in map(split_path, paths):
        if archive:
            removed.setdefault(archive, set()).add(name)
    for archive, names in removed.items():
        files = _list(folder / archive).files
        kept = {name: file for name, file in files.items() if name not in names and printable(name) not in names}
        if not kept:
            (folder / archive).unlink(missing_ok=True)
            sync_folder(folder)
        else:
            with reading_errors():
                write_archive(folder / archive, ((name, file.read().data) for name, file in kept.items()), folder)
