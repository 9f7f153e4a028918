"""Images that are not files of their own: members of archives, and objects of stores such as S3."""

import errno
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import deflate

from lesioncli.errors import ImageError
from lesioncli.files import crc32_of, printable
from lesioncli.urls import Place


class FileStatus(NamedTuple):
    """Size of an image, and time of its last change."""

    size_bytes: int
    modified_ns: int


class Content(NamedTuple):
    """The bytes of an image, and its status when they were read."""

    data: bytes
    status: FileStatus


class UnavailableError(ImageError):
    """An image could not be read, by the fault of the store."""


class StoredFile(ABC):
    """An image in an archive or a store; str() is what messages call it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the file, without folders."""

    @property
    def is_remote(self) -> bool:
        """Whether it is read over a network: worth reading ahead."""
        return False

    @property
    def store(self) -> str:
        """Scheme and bucket or host of a remote image."""
        return ""

    @property
    def suffix(self) -> str:
        """Suffix of the name, with the dot."""
        return PurePosixPath(self.name).suffix

    @abstractmethod
    def status(self) -> FileStatus:
        """Return size and time. Raises FileNotFoundError if the image is gone, OSError if that cannot be told."""

    @abstractmethod
    def read(self) -> Content:
        """Read the image. Raises ImageError; its reason does not contain the name.

        That is an UnavailableError for a fault of the store that retries do not help against.
        """

    def ask(self) -> None:
        """Ask the store of a remote image whether it can be read. Raises OSError."""
        self.status()


ImagePath = Path | StoredFile


def status_of(path: ImagePath) -> FileStatus:
    """Return size and time of an image. Raises OSError; IsADirectoryError if it is not a regular file."""
    if isinstance(path, StoredFile):
        return path.status()
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "not a regular file", str(path))
    return FileStatus(status.st_size, status.st_mtime_ns)


def crc32_of_image(path: ImagePath) -> int:
    """Return the CRC-32 of the content of an image. Raises OSError."""
    if not isinstance(path, StoredFile):
        return crc32_of(path)
    with reading_errors():
        return int(deflate.crc32(path.read().data))


@contextmanager
def reading_errors() -> Iterator[None]:
    """Turn an ImageError into an OSError, as reading a file raises it."""
    try:
        yield
    except ImageError as error:
        raise OSError(errno.EIO, error.reason) from error


@dataclass(frozen=True)
class Contents:
    """What an archive or a folder of a store holds.

    folder: place that names are relative to. files: by their name, with "/", relative to it. ignored: number of entries
    that are not files, by kind. problems: what cannot be read, with the reason.
    """

    folder: Place
    files: dict[str, StoredFile] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, file: StoredFile) -> None:
        """Add a file; a later one of the same name replaces it. One whose name leads out is a problem."""
        if is_safe_name(name):
            self.files[name] = file
        else:
            self.problems[printable(str(file))] = (
                "cannot be read: its name would leave the output folder, or is not a path; rename it"
            )


def is_safe_name(name: str) -> bool:
    """Return whether a name is a relative path in its normal form: no file below a folder leaves it by that name."""
    is_rooted = PureWindowsPath(name).drive or PureWindowsPath(name).root
    parts = name.replace("\\", "/").split("/")
    return not is_rooted and "\0" not in name and not {"", ".", ".."} & set(parts)
