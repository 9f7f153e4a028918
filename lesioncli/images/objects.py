"""Images in object stores and on web servers: S3 and what speaks its protocol, GCS, Azure, HTTP."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lesioncli.errors import ImageError, InputError
from lesioncli.images.pixels import MAX_BYTES
from lesioncli.images.stored import Content, Contents, FileStatus, StoredFile, UnavailableError
from lesioncli.options import FailureStage
from lesioncli.stores import (
    CONNECTIONS,
    PROBE_RETRIES,
    RETRIES,
    StoreError,
    ask_object,
    in_words,
    open_object,
    open_store,
)
from lesioncli.urls import WEB, Url

if TYPE_CHECKING:
    from obstore import ObjectMeta

MAX_OBJECT_BYTES = 2 * MAX_BYTES
NOT_FOUND = "no longer in the store"


@dataclass(frozen=True)
class StoredObject(StoredFile):
    """An object; listed: its status when the store was asked, or the error that it answered."""

    url: Url
    listed: FileStatus | OSError | None = None

    @property
    def name(self) -> str:
        return self.url.name

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def store(self) -> str:
        return self.url.store

    def __str__(self) -> str:
        return str(self.url)

    def status(self) -> FileStatus:
        if isinstance(self.listed, OSError):
            raise self.listed
        return self.listed or self._head()

    def read(self) -> Content:
        """Read the object as it is now, which is what the returned status describes."""
        listed = self.listed if isinstance(self.listed, FileStatus) else None
        _check_size(listed, listed)
        try:
            with in_words():
                store, key = open_object(self.url, RETRIES)
                result = store.get(key)
                status = status_of_object(result.meta)
                _check_size(status, listed)
                data = result.bytes().to_bytes()
        except FileNotFoundError as error:
            raise ImageError(FailureStage.DECODE, f"cannot be read: {NOT_FOUND}") from error
        except StoreError as error:
            raise UnavailableError(FailureStage.DECODE, f"cannot be read: {error.strerror}") from error
        if len(data) != status.size_bytes:
            raise UnavailableError(FailureStage.DECODE, "cannot be read: the connection was cut")
        return Content(data, status)

    def ask(self) -> None:
        self._head()

    def _head(self) -> FileStatus:
        return status_of_object(ask_object(self.url, RETRIES))


def _check_size(status: FileStatus | None, listed: FileStatus | None) -> None:
    """Refuse an object before its body is read; memory was reserved for the size that was listed."""
    if status and status.size_bytes > MAX_OBJECT_BYTES:
        size = f"{status.size_bytes / 2**30:.1f} GiB"
        raise ImageError(FailureStage.DECODE, f"file of {size}, too large for an image")
    if status and listed and status.size_bytes > listed.size_bytes:
        raise ImageError(FailureStage.DECODE, "has grown since it was listed; run the same command again")


def list_objects(url: Url) -> Contents:
    """List the objects below a URL; that of an object is listed by its own name.

    Raises InputError if the store does not answer or cannot be listed. The first request is retried for seconds only.
    """
    with as_input_errors(url):
        if url.key and not url.key.endswith("/") and (file := _find_object(url)):
            contents = Contents(url.parent)
            contents.add(url.name, file)
            return contents
        if url.scheme in WEB:
            raise InputError(f"{url}: no such file, and a web server lists no folders; name the files, as with --from")
        return _list_folder(url)


def _find_object(url: Url) -> StoredObject | None:
    try:
        return StoredObject(url, status_of_object(ask_object(url, PROBE_RETRIES)))
    except FileNotFoundError:
        return None


def _list_folder(url: Url) -> Contents:
    contents = Contents(url)
    prefix = url.key.rstrip("/")
    with in_words():
        next(iter(open_store(url.store, PROBE_RETRIES).list(prefix, chunk_size=1)), None)
        for page in open_store(url.store, RETRIES).list(prefix):
            for meta in page:
                inside = meta["path"][len(prefix) :].lstrip("/")
                if inside and (meta["size"] or StoredObject(Url("", inside)).suffix):  # not the mark of a folder
                    contents.add(inside, StoredObject(Url(url.store, meta["path"]), status_of_object(meta)))
    return contents


def locate_object(folder: Url, inside: str) -> StoredFile:
    """Return the object of a name below a URL; no request is made."""
    return StoredObject(folder / inside)


def look_up(files: Sequence[StoredObject]) -> Iterator[StoredObject]:
    """Ask for the status of objects, several at a time; yield each with the answer.

    Raises InputError if the first is not answered, for a reason other than that it does not exist.
    """
    for file in files[:1]:
        with as_input_errors(file.url):
            _find_object(file.url)

    def find(file: StoredObject) -> StoredObject:
        try:
            return StoredObject(file.url, file.status())
        except OSError as error:
            return StoredObject(file.url, error)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from pool.map(find, files)


@contextmanager
def as_input_errors(url: Url) -> Iterator[None]:
    """Turn the errors of a store into InputErrors."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such bucket; check the URL, and the region") from error
    except StoreError as error:
        raise InputError(f"{url}: {error.strerror}") from error


def status_of_object(meta: "ObjectMeta") -> FileStatus:
    """Return size and time of an object."""
    modified = meta["last_modified"]
    return FileStatus(meta["size"], round(modified.timestamp()) * 10**9 + modified.microsecond * 1000)
