"""Connections to object stores, by obstore: S3 and what speaks its protocol, GCS, Azure, HTTP.

Credentials, region and endpoint are those of the environment, as the store's own tools name them.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lesioncli.errors import InputError, LesionError, MissingPackageError
from lesioncli.urls import Url

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECTIONS = 16  # requests at a time: one takes 20 to 100 ms, whatever the object's size
CONNECT_TIMEOUT = timedelta(seconds=10)
REQUEST_TIMEOUT = timedelta(seconds=60)  # of a request and its body
RETRIES, RETRY_TIMEOUT = 10, timedelta(seconds=180)
PROBE_RETRIES = 4  # of the first request: about 3 s
BATCH_KEYS = 1000  # deleted by one request
MAX_SIGNED = 4 * CONNECTIONS  # kept pools of one signature each; making one takes 5 ms of CPU time
# https://github.com/developmentseed/obstore/issues/429: a page of a listing is read as a whole, or not at all.
_ODD_NAME = re.compile(r'object with invalid path: (?:Error parsing )?Path "(.*?)"(?: contained|: )', re.DOTALL)
_WITHOUT_RANGES = ("non-partial response", "Range request not supported")
_DENIED_CODES = (  # the latter are those of S3, with status 400
    *("status code: 401", "status code: 403"),
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"),
)
_DENIED = "access denied; renew the credentials or signatures, or check their permissions"


class StoreError(OSError):
    """A store does not answer, or not to these credentials; strerror says so in words."""


class ConflictError(Exception):
    """Another process has written or removed an object."""


class StoredBytes(NamedTuple):
    """The content of an object, its version for ObjectFolder.replace(), and its time."""

    content: bytes
    version: "Version"
    modified_s: float


Version = Mapping[str, str]


@cache
def open_store(address: str, retries: int) -> "ObjectStore":
    """Return a connection pool to a bucket or host. Raises MissingPackageError or InputError."""
    return _open(address, retries)


def _open(address: str, retries: int, query: str = "") -> "ObjectStore":
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise MissingPackageError("obstore", "remote") from error
    retry: RetryConfig = {
        "max_retries": retries,
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=15), "base": 2},
        "retry_timeout": RETRY_TIMEOUT,
    }
    options: ClientConfig = {"connect_timeout": CONNECT_TIMEOUT, "timeout": REQUEST_TIMEOUT}
    endpoints = (value for name, value in os.environ.items() if "ENDPOINT" in name)
    if any(text.startswith("http://") for text in (address, *endpoints)):  # as the user wrote it
        options["allow_http"] = True
    try:
        return from_url(f"{address}?{query}" if query else address, client_options=options, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise InputError(f"{address}: {_first_line(error)}; check the URL and the variables of the store") from error


@lru_cache(MAX_SIGNED)
def _open_signed(address: str, query: str, retries: int) -> "ObjectStore":
    return _open(address, retries, query)


def open_object(url: Url, retries: int) -> tuple["ObjectStore", str]:
    """Return the store of an object, and its name there. Raises what open_store() does."""
    store = _open_signed(url.store, url.query, retries) if url.query else open_store(url.store, retries)
    return store, url.key


def ask_object(url: Url, retries: int) -> "ObjectMeta":
    """Ask for size and time of an object. Raises FileNotFoundError and StoreError."""
    store, key = open_object(url, retries)
    with in_words():
        if not url.query:
            return store.head(key)
        try:
            return store.get(key, options={"range": (0, 1)}).meta  # a signature of GET is not one of HEAD
        except Exception as error:  # of obstore, as in in_words()
            if not _has_any(str(error), (*_WITHOUT_RANGES, "status code: 416")):  # the latter of an empty object
                raise
        return store.get(key).meta


@contextmanager
def in_words() -> Iterator[None]:
    """Turn the errors of obstore into StoreErrors; FileNotFoundError stays."""
    try:
        yield
    except (LesionError, FileNotFoundError):
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
    if odd := _ODD_NAME.search(text):
        return (
            f"an object is named {odd[1]!r}, and no store with such a name can be listed: a part is empty, . or .., or"
            " has a control character; rename or remove the object, or name the images with --from"
        )
    if _has_any(text, _WITHOUT_RANGES):
        return "the server sends whole files only (no range requests); copy the archive to a disk"
    if _has_any(text, ("error sending request", "response body error", "timed out")):
        return "no answer, or the connection was cut; check the network and the URL"
    return f"{_first_line(error)}; check the URL and the variables of the store"


def _has_any(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _first_line(error: Exception) -> str:
    """Return the first line of a message, without the signatures of URLs."""
    return re.sub(r"\?[^\s\"')]*", "", str(error).partition("\n")[0]).strip()


class ObjectFolder:
    """The objects below a URL of a bucket, by their names relative to it; put, replace and delete change them.

    All raise StoreError if the store does not answer, or not to these credentials.
    """

    def __init__(self, url: Url, retries: int = RETRIES) -> None:
        self.url = url
        self._retries = retries

    @property
    def _store(self) -> "ObjectStore":
        return open_store(self.url.store, self._retries)

    def _key(self, name: str) -> str:
        return (self.url / name).key

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, or replace it; others see all of it or nothing. A file is read in parts."""
        import obstore

        with in_words():
            obstore.put(self._store, self._key(name), content)

    def create(self, name: str, content: bytes) -> Version:
        """Write an object that does not exist; return its version. Raises ConflictError if it does."""
        return self._put_if(name, content, "create")

    def replace(self, name: str, content: bytes, version: Version) -> Version:
        """Replace an object of this version; return the new one. Raises ConflictError if it has another, or is gone."""
        return self._put_if(name, content, dict(version))

    def _put_if(self, name: str, content: bytes, mode: Any) -> Version:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with in_words():
                return _version(obstore.put(self._store, self._key(name), content, mode=mode))
        except FileNotFoundError as error:
            if mode == "create":  # no such bucket
                raise
            raise ConflictError from error
        except StoreError as error:
            if isinstance(error.__cause__, AlreadyExistsError | PreconditionError):
                raise ConflictError from error
            raise

    def read(self, name: str) -> StoredBytes | None:
        """Return the content of an object; None if there is none."""
        try:
            with in_words():
                result = self._store.get(self._key(name))
                return StoredBytes(
                    result.bytes().to_bytes(), _version(result.meta), result.meta["last_modified"].timestamp()
                )
        except FileNotFoundError:
            return None

    def download(self, name: str, path: Path) -> bool:
        """Write an object to a file with its time; return whether there is one. Raises OSError."""
        try:
            with in_words():
                result = self._store.get(self._key(name))
        except FileNotFoundError:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            chunks = iter(result.stream())
            while True:
                with in_words():
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                file.write(chunk)
        modified_s = result.meta["last_modified"].timestamp()
        os.utime(path, (modified_s, modified_s))
        return True

    def has(self, name: str) -> bool:
        """Return whether there is an object that is not empty."""
        try:
            with in_words():
                return bool(self._store.head(self._key(name))["size"])
        except FileNotFoundError:
            return False

    def list_all(self, folder: str = "") -> "Iterator[tuple[str, ObjectMeta]]":
        """Yield the names and facts of all objects below a folder."""
        prefix = self._key(folder).rstrip("/")
        with in_words():
            for page in self._store.list(prefix or None):
                yield from ((self._name(meta["path"]), meta) for meta in page)

    def list_folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        with in_words():
            found = self._store.list_with_delimiter(self._key(folder).rstrip("/"))
            return [self._name(path) for path in found["common_prefixes"]]

    def _name(self, key: str) -> str:
        return key[len(self.url.key.rstrip("/")) :].lstrip("/")

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; it does not matter if some do not exist."""
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), BATCH_KEYS):
            batch = keys[start : start + BATCH_KEYS]
            try:
                with in_words():
                    self._store.delete(batch)
            except FileNotFoundError:  # of stores that look; which one it was, is not told
                for key in batch:
                    with suppress(FileNotFoundError), in_words():
                        self._store.delete(key)


def _version(facts: Mapping[str, Any]) -> Version:
    return {name: facts[name] for name in ("e_tag", "version") if facts.get(name)}
