"""Images in tar and zip archives, read in place: one open and one read per image.

An archive is like a folder whose name is the file name of the archive.
"""

import errno
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import deflate

from lesioncli.errors import ImageError
from lesioncli.images.pixels import MAX_BYTES
from lesioncli.images.stored import Content, Contents, FileStatus, StoredFile
from lesioncli.options import FailureStage

CHANGED = "the archive has changed since it was listed; run the same command again"
CUT_SHORT = "cut short or damaged: its end is missing, and images behind it; restore the file"
LINKS = "link(s) in archives"
BLOCK_BYTES = 512
MAX_KEPT_INDEXES = 8  # of archives whose members are looked up by name
MAX_MEMBER_BYTES = 2 * MAX_BYTES
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of zip: signature, then the lengths of the name and the extra field
_ENCRYPTED = 1


class Archive:
    """An archive as it was when it was listed. Its time is that of its members: theirs are often all the same."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status = os.stat(path)  # noqa: PTH116 - as fstat() below

    def check_unchanged(self, status: os.stat_result) -> None:
        """Raise OSError if the file is not the one that was listed."""
        own = self.status
        if (status.st_size, status.st_mtime_ns, status.st_ino) != (own.st_size, own.st_mtime_ns, own.st_ino):
            raise OSError(errno.ESTALE, CHANGED)

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes of the file. Raises OSError."""
        with self.path.open("rb", buffering=0) as file:
            self.check_unchanged(os.fstat(file.fileno()))
            file.seek(offset)
            data = file.read(size)
        if data is None or len(data) != size:
            raise OSError(errno.EIO, f"the archive is {CUT_SHORT}")
        return data


@dataclass(frozen=True)
class Member(StoredFile):
    """A member of an archive. unpack: returns its content, given the archive and the member."""

    archive: Archive
    inside: str
    size: int
    offset: int
    unpack: Callable[["Member"], bytes]
    packed_size: int = 0
    method: int = 0
    flags: int = 0
    crc32: int = 0

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.inside}"

    def status(self) -> FileStatus:
        self.archive.check_unchanged(os.stat(self.archive.path))  # noqa: PTH116 - as fstat() in read()
        return FileStatus(self.size, self.archive.status.st_mtime_ns)

    def read(self) -> Content:
        if self.size > MAX_MEMBER_BYTES:
            raise _failure(f"file of {self.size / 2**30:.1f} GiB, too large for an image")
        try:
            return Content(self.unpack(self), FileStatus(self.size, self.archive.status.st_mtime_ns))
        except MemoryError as error:
            raise _failure("not enough memory for this image") from error
        except OSError as error:
            raise _failure(f"cannot be read: {error.strerror}") from error


def _failure(reason: str) -> ImageError:
    return ImageError(FailureStage.DECODE, reason)


def list_tar(path: Path) -> Contents:
    """List the regular files of a tar archive. Raises OSError if it cannot be opened."""
    contents, archive = Contents(path), Archive(path)
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                for info in tar:
                    _add_tar_member(contents, archive, info)
                    tar.members.clear()  # type: ignore[attr-defined]  # public, but not in typeshed; it keeps all of them
                end = tar.offset
            file.seek(end)
            is_whole = file.read(BLOCK_BYTES) == bytes(BLOCK_BYTES)  # tarfile takes any damaged header for the end
        except (tarfile.TarError, ValueError, EOFError):
            is_whole = False
    if not is_whole:
        contents.problems[str(path)] = CUT_SHORT
    return contents


def _add_tar_member(contents: Contents, archive: Archive, info: tarfile.TarInfo) -> None:
    name = info.name.removeprefix("./")
    member = Member(archive, name, info.size, info.offset_data, _unpack_tar)
    if info.issym() or info.islnk():
        contents.ignored[LINKS] += 1
    elif info.issparse():
        contents.problems[str(member)] = "cannot be read: a sparse file; pack it again without --sparse"
    elif info.isreg():
        contents.add(name, member)


def _unpack_tar(member: Member) -> bytes:
    return member.archive.read(member.offset, member.size)


def list_zip(path: Path) -> Contents:
    """List the regular files of a zip archive. Raises OSError if it cannot be opened."""
    contents, archive = Contents(path), Archive(path)
    try:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                _add_zip_member(contents, archive, info)
    # A directory that is damaged, or of a version that zipfile does not know.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        contents.problems[str(path)] = CUT_SHORT
    return contents


def _add_zip_member(contents: Contents, archive: Archive, info: zipfile.ZipInfo) -> None:
    if stat.S_ISLNK(info.external_attr >> 16):
        contents.ignored[LINKS] += 1
    elif not info.is_dir():
        member = Member(
            archive,
            info.filename,
            info.file_size,
            info.header_offset,
            _unpack_zip,
            packed_size=info.compress_size,
            method=info.compress_type,
            flags=info.flag_bits,
            crc32=info.CRC,
        )
        contents.add(info.filename, member)


def _unpack_zip(member: Member) -> bytes:
    if member.flags & _ENCRYPTED:
        raise OSError(errno.EACCES, "it is encrypted; pack it again without a password")
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise OSError(errno.EINVAL, "compressed in an unusual way; pack it again with deflate, or without compression")
    signature, *lengths = _LOCAL_HEADER.unpack(member.archive.read(member.offset, _LOCAL_HEADER.size))
    if signature != b"PK\3\4":
        raise OSError(errno.EIO, "damaged in the archive")
    data = member.archive.read(member.offset + _LOCAL_HEADER.size + sum(lengths), member.packed_size)
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            data = bytes(deflate.deflate_decompress(data, member.size))
        except (deflate.DeflateError, ValueError) as error:
            raise OSError(errno.EIO, "damaged in the archive") from error
    if len(data) != member.size or deflate.crc32(data) != member.crc32:
        raise OSError(errno.EIO, "damaged in the archive")
    return data


def find_member(archive: Path, inside: str, list_files: Callable[[Path], Contents]) -> StoredFile:
    """Return a member by its name. Raises FileNotFoundError if the archive has none, and OSError."""
    status = os.stat(archive)  # noqa: PTH116 - as in Archive
    file = _index(archive, status.st_size, status.st_mtime_ns, list_files).get(inside)
    if file is None:
        raise FileNotFoundError(errno.ENOENT, "no such member", f"{archive}/{inside}")
    return file


@lru_cache(MAX_KEPT_INDEXES)
def _index(archive: Path, size: int, modified_ns: int, list_files: Callable[[Path], Contents]) -> dict[str, StoredFile]:
    with suppress(FileNotFoundError):
        return list_files(archive).files
    return {}
