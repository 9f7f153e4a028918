"""Images in tar and zip archives, read in place: one read per image.

An archive is like a folder whose name is the file name of the archive.
"""

import errno
import os
import stat
import struct
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import deflate

from lesioncli.errors import ImageError
from lesioncli.images.pixels import MAX_BYTES
from lesioncli.images.stored import Content, Contents, FileStatus, StoredFile, UnavailableError
from lesioncli.options import FailureStage
from lesioncli.stores import StoreError
from lesioncli.urls import Place

CHANGED = "the archive has changed since it was listed; run the same command again"
CUT_SHORT = "cut short or damaged: its end is missing, and images behind it; restore the file"
LINKS = "link(s) in archives"
BLOCK_BYTES = 512
MAX_MEMBER_BYTES = 2 * MAX_BYTES
SHORT_NAME_BYTES = 512  # of the name and the extra field of a member of a zip archive, nearly always
_LOCAL_HEADER = struct.Struct("<26xHH")  # of zip: behind its signature, the lengths of the name and the extra field
_ENCRYPTED = 1


class Archive(ABC):
    """An archive as it was when it was listed. Its time is that of its members: theirs are often all the same.

    is_remote: as of StoredFile. store: as of StoredFile.
    """

    is_remote = False
    store = ""
    place: Place
    status: FileStatus

    @abstractmethod
    def open(self) -> BinaryIO:
        """Open the archive to list its members. Raises OSError or InputError."""

    @abstractmethod
    def read(self, offset: int, size: int) -> bytes:
        """Read bytes of the archive. Raises OSError, also if it is not the one that was listed."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raise OSError if the archive cannot be read, or is not the one that was listed."""

    def name_of(self, inside: str) -> str:
        """Return what messages call a member."""
        return f"{self.place}/{inside}"


class ArchiveFile(Archive):
    """An archive on a disk."""

    def __init__(self, path: Path) -> None:
        self.place = self.path = path
        self._stat = path.stat()
        self.status = FileStatus(self._stat.st_size, self._stat.st_mtime_ns)

    def open(self) -> BinaryIO:
        return self.path.open("rb")

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            self._compare(os.fstat(file.fileno()))
            file.seek(offset)
            data = file.read(size)
        if data is None or len(data) != size:
            raise OSError(errno.EIO, f"the archive is {CUT_SHORT}")
        return data

    def check_unchanged(self) -> None:
        self._compare(self.path.stat())

    def _compare(self, status: os.stat_result) -> None:
        own = self._stat
        if (status.st_size, status.st_mtime_ns, status.st_ino) != (own.st_size, own.st_mtime_ns, own.st_ino):
            raise OSError(errno.ESTALE, CHANGED)


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

    @property
    def is_remote(self) -> bool:
        return self.archive.is_remote

    @property
    def store(self) -> str:
        return self.archive.store

    def __str__(self) -> str:
        return self.archive.name_of(self.inside)

    def status(self) -> FileStatus:
        if not self.is_remote:  # of a remote one, that takes a request; it is compared when it is read
            self.archive.check_unchanged()
        return FileStatus(self.size, self.archive.status.modified_ns)

    def ask(self) -> None:
        self.archive.check_unchanged()

    def read(self) -> Content:
        if self.size > MAX_MEMBER_BYTES:
            raise _failure(f"file of {self.size / 2**30:.1f} GiB, too large for an image")
        try:
            return Content(self.unpack(self), FileStatus(self.size, self.archive.status.modified_ns))
        except MemoryError as error:
            raise _failure("not enough memory for this image") from error
        except StoreError as error:
            raise UnavailableError(FailureStage.DECODE, f"cannot be read: {error.strerror}") from error
        except OSError as error:
            raise _failure(f"cannot be read: {error.strerror}") from error


def _failure(reason: str) -> ImageError:
    return ImageError(FailureStage.DECODE, reason)


def list_tar(archive: Archive) -> Contents:
    """List the regular files of a tar archive. Raises what Archive.open() does."""
    contents = Contents(archive.place)
    with archive.open() as file:
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
        contents.problems[str(archive.place)] = CUT_SHORT
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


def list_zip(archive: Archive) -> Contents:
    """List the regular files of a zip archive. Raises what Archive.open() does."""
    contents = Contents(archive.place)
    try:
        with archive.open() as opened, zipfile.ZipFile(opened) as file:
            for info in file.infolist():
                _add_zip_member(contents, archive, info)
    # A directory that is damaged, or of a version that zipfile does not know.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        contents.problems[str(archive.place)] = CUT_SHORT
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
    data = _read_packed(member)
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            data = bytes(deflate.deflate_decompress(data, member.size))
        except (deflate.DeflateError, ValueError) as error:
            raise OSError(errno.EIO, "damaged in the archive") from error
    if len(data) != member.size or deflate.crc32(data) != member.crc32:
        raise OSError(errno.EIO, "damaged in the archive")
    return data


def _read_packed(member: Member) -> bytes:
    """Read the compressed bytes of a member of a zip archive; if the header before them is short, in one piece."""
    archive, size = member.archive, _LOCAL_HEADER.size + SHORT_NAME_BYTES + member.packed_size
    data = archive.read(member.offset, min(size, archive.status.size_bytes - member.offset))
    if not data.startswith(b"PK\3\4") or len(data) < _LOCAL_HEADER.size:
        raise OSError(errno.EIO, "damaged in the archive")
    start = _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(data))
    packed = data[start : start + member.packed_size]
    return packed if len(packed) == member.packed_size else archive.read(member.offset + start, member.packed_size)
