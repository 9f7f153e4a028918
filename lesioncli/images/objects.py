"""Images in object stores and on web servers, read by obstore: S3 and what speaks its protocol, GCS, Azure, HTTP.

Credentials, region and endpoint are those of the environment, as the store's own tools name them.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from lesioncli.errors import ImageError, InputError, MissingPackageError
from lesioncli.images.pixels import MAX_BYTES
from lesioncli.images.stored import Content, Contents, FileStatus, StoredFile
from lesioncli.options import FailureStage
from lesioncli.urls import WEB, Url

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECTIONS = 16  # requests at a time: one takes 20 to 100 ms, whatever the object's size
CONNECT_TIMEOUT = timedelta(seconds=10)
REQUEST_TIMEOUT = timedelta(seconds=60)  # of a request and its body
READ_RETRIES, READ_RETRY_TIMEOUT = 10, timedelta(seconds=180)
PROBE_RETRIES = 4  # of the first request: about 3 s
MAX_OBJECT_BYTES = 2 * MAX_BYTES
NOT_FOUND = "no longer in the store"
_DENIED_CODES = (  # the latter are those of S3, with status 400
    *("status code: 401", "status code: 403"),
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"),
)
_DENIED = "access denied; renew the credentials, or check that they may read this"


class StoreError(OSError):
    """A store does not answer, or not to these credentials; strerror says so in words."""


class UnavailableError(ImageError):
    """An image could not be read, by the fault of the store."""


@dataclass(frozen=True)
class StoredObject(StoredFile):
    """An object; listed: its status when the store was asked, or the error that it answered."""

    url: Url
    listed: FileStatus | OSError | None = None

    is_remote = True

    @property
    def name(self) -> str:
        return self.url.name

    def __str__(self) -> str:
        return str(self.url)

    def status(self) -> FileStatus:
        if isinstance(self.listed, OSError):
            raise self.listed
        return self.listed or self._head()

    def read(self) -> Content:
        """Read the object as it is now, which is what the returned status describes.

        Raises UnavailableError for a fault of the store that retries do not help against.
        """
        listed = self.listed if isinstance(self.listed, FileStatus) else None
        _check_size(listed, listed)
        try:
            with _in_words():
                result = _store(self.url.store, READ_RETRIES).get(self.url.key)
                status = _status(result.meta)
                _check_size(status, listed)
                data = result.bytes().to_bytes()
        except FileNotFoundError as error:
            raise ImageError(FailureStage.DECODE, f"cannot be read: {NOT_FOUND}") from error
        except StoreError as error:
            raise UnavailableError(FailureStage.DECODE, f"cannot be read: {error.strerror}") from error
        if len(data) != status.size_bytes:
            raise UnavailableError(FailureStage.DECODE, "cannot be read: the connection was cut")
        return Content(data, status)

    def _head(self) -> FileStatus:
        with _in_words():
            return _status(_store(self.url.store, READ_RETRIES).head(self.url.key))


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
    with _as_input_errors(url):
        if url.key and not url.key.endswith("/") and (file := _find_object(url)):
            contents = Contents(url.parent)
            contents.add(url.name, file)
            return contents
        if url.scheme in WEB:
            raise InputError(f"{url}: no such file, and a web server lists no folders; name the files, as with --from")
        return _list_folder(url)


def _find_object(url: Url) -> StoredObject | None:
    try:
        with _in_words():
            return StoredObject(url, _status(_store(url.store, PROBE_RETRIES).head(url.key)))
    except FileNotFoundError:
        return None


def _list_folder(url: Url) -> Contents:
    contents = Contents(url)
    prefix = url.key.rstrip("/")
    with _in_words():
        next(iter(_store(url.store, PROBE_RETRIES).list(prefix, chunk_size=1)), None)
        for page in _store(url.store, READ_RETRIES).list(prefix):
            for meta in page:
                inside = meta["path"][len(prefix) :].lstrip("/")
                if inside and (meta["size"] or StoredObject(Url("", inside)).suffix):  # not the mark of a folder
                    contents.add(inside, StoredObject(Url(url.store, meta["path"]), _status(meta)))
    return contents


def locate_object(folder: Url, inside: str) -> StoredFile:
    """Return the object of a name below a URL; no request is made."""
    return StoredObject(folder / inside)


def look_up(files: Sequence[StoredObject]) -> Iterator[StoredObject]:
    """Ask for the status of objects, several at a time; yield each with the answer.

    Raises InputError if the first is not answered, for a reason other than that it does not exist.
    """
    for file in files[:1]:
        with _as_input_errors(file.url):
            _find_object(file.url)

    def find(file: StoredObject) -> StoredObject:
        try:
            return StoredObject(file.url, file.status())
        except OSError as error:
            return StoredObject(file.url, error)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from pool.map(find, files)


@contextmanager
def _as_input_errors(url: Url) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such bucket; check the URL, and the region") from error
    except StoreError as error:
        raise InputError(f"{url}: {error.strerror}") from error


@cache
def _store(address: str, retries: int) -> "ObjectStore":
    """Return a connection pool to a bucket or host. Raises MissingPackageError or InputError."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise MissingPackageError("obstore", "remote") from error
    retry: RetryConfig = {
        "max_retries": retries,
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=15), "base": 2},
        "retry_timeout": READ_RETRY_TIMEOUT,
    }
    options: ClientConfig = {"connect_timeout": CONNECT_TIMEOUT, "timeout": REQUEST_TIMEOUT}
    endpoints = (value for name, value in os.environ.items() if "ENDPOINT" in name)
    if any(text.startswith("http://") for text in (address, *endpoints)):  # as the user wrote it
        options["allow_http"] = True
    try:
        return from_url(address, client_options=options, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise InputError(f"{address}: {_first_line(error)}; check the URL and the variables of the store") from error


def _status(meta: "ObjectMeta") -> FileStatus:
    modified = meta["last_modified"]
    return FileStatus(meta["size"], round(modified.timestamp()) * 10**9 + modified.microsecond * 1000)


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn the errors of obstore into StoreErrors; FileNotFoundError stays."""
    try:
        yield
    except (ImageError, InputError, MissingPackageError, FileNotFoundError):
        raise
    except Exception as error:  # of obstore, whose classes are not known before it is imported
        raise StoreError(errno.EIO, _describe(error)) from error


def _describe(error: Exception) -> str:
    text = str(error)
    if _has_any(text, _DENIED_CODES):
        return _DENIED
    if "status code: " in text:
        code = text.partition("status code: ")[2].partition(":")[0]
        return f"the store answers {code}; try again later, or check the URL and the credentials"
    if _has_any(text, ("error sending request", "response body error", "timed out")):
        return "no answer, or the connection was cut; check the network and the URL"
    return f"{_first_line(error)}; check the URL and the variables of the store"


def _has_any(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()
