"""Archives in object stores and on web servers: members are listed and read by range requests, one per image.

A zip archive has a directory at its end. In a tar archive, each member has its header before it: blocks are read that
hold many headers of small members, and what lies between the headers of large members is left out.
"""

import errno
import io
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

from lesioncli.errors import InputError
from lesioncli.images.archives import CHANGED, Archive
from lesioncli.images.objects import NOT_FOUND, as_input_errors, status_of_object
from lesioncli.images.stored import Contents
from lesioncli.stores import PROBE_RETRIES, RETRIES, StoreError, ask_object, in_words, open_object
from lesioncli.urls import Url

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import ObjectMeta

# A block takes as long as a request without content, at 30 ms and 70 MB/s. So listing takes at most twice as long as
# the better of reading all and one request per header, whatever the size of the members.
BLOCK_BYTES = 2**21
MAX_KEPT = 8  # listings
_KEPT: dict[Url, Contents | None] = {}
_LOCK = Lock()  # several threads look up members of one archive: only the first shall list it


class RemoteArchive(Archive):
    """An archive in a store. Raises FileNotFoundError if there is no such object, and StoreError."""

    is_remote = True

    def __init__(self, url: Url) -> None:
        self.place = self.url = url
        self.store = url.store
        meta = ask_object(url, PROBE_RETRIES)
        self.status, self._etag = status_of_object(meta), meta["e_tag"]

    def open(self) -> BinaryIO:
        return io.BufferedReader(_RangeReader(self), BLOCK_BYTES)

    def read(self, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        try:
            with in_words():
                store, key = open_object(self.url, RETRIES)
                result = store.get(key, options={"range": (offset, offset + size)})
            self._compare(result.meta)
            with in_words():
                data: bytes = result.bytes().to_bytes()
        except FileNotFoundError as error:
            raise OSError(errno.ENOENT, NOT_FOUND) from error
        if len(data) != size:
            raise StoreError(errno.EIO, "the connection was cut")
        return data

    def check_unchanged(self) -> None:
        self._compare(ask_object(self.url, RETRIES))

    def name_of(self, inside: str) -> str:
        return str(self.url / inside)

    def _compare(self, meta: "ObjectMeta") -> None:
        if (status_of_object(meta), meta["e_tag"]) != (self.status, self._etag):
            raise OSError(errno.ESTALE, CHANGED)


class _RangeReader(io.RawIOBase):
    """A remote archive as a file. Raises InputError: tarfile and zipfile take OSErrors for damage."""

    def __init__(self, archive: RemoteArchive) -> None:
        self._archive, self._position = archive, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._archive.status.size_bytes}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "before the start of the archive")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), BLOCK_BYTES, max(0, self._archive.status.size_bytes - self._position))
        try:
            view[:size] = self._archive.read(self._position, size)
        except OSError as error:
            raise InputError(f"{self._archive.url}: {error.strerror}") from error
        self._position += size
        return size


def list_remote(url: Url, list_members: Callable[[Archive], Contents]) -> Contents:
    """List the members of an archive at a URL. Raises InputError, also if there is no such object."""
    with _LOCK:
        contents = _list(url, list_members)
    if contents is None:
        raise InputError(f"{url}: no such file; of a folder with such a name, write {url}/")
    return contents


def list_once(url: Url, list_members: Callable[[Archive], Contents]) -> Contents | None:
    """Return the members of an archive as they were last listed; None if there is no such object. Raises InputError."""
    with _LOCK:
        return _KEPT[url] if url in _KEPT else _list(url, list_members)


def forget_listings() -> None:
    """Let list_once() list all archives again."""
    with _LOCK:
        _KEPT.clear()


def _list(url: Url, list_members: Callable[[Archive], Contents]) -> Contents | None:
    _KEPT.pop(url, None)
    with as_input_errors(url):
        try:
            contents = list_members(RemoteArchive(url))
        except FileNotFoundError:
            contents = None
    while len(_KEPT) >= MAX_KEPT:
        del _KEPT[next(iter(_KEPT))]
    _KEPT[url] = contents
    return contents
