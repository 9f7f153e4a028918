"""Connections to object stores, by obstore: S3 and what speaks its protocol, GCS, Azure, HTTP.

Credentials, region and endpoint are those of the environment, as the store's own tools name them.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from lesioncli.errors import InputError, LesionError, MissingPackageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECTIONS = 16  # requests at a time: one takes 20 to 100 ms, whatever the object's size
CONNECT_TIMEOUT = timedelta(seconds=10)
REQUEST_TIMEOUT = timedelta(seconds=60)  # of a request and its body
RETRIES, RETRY_TIMEOUT = 10, timedelta(seconds=180)
PROBE_RETRIES = 4  # of the first request: about 3 s
_DENIED_CODES = (  # the latter are those of S3, with status 400
    *("status code: 401", "status code: 403"),
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"),
)
_DENIED = "access denied; renew the credentials, or check that they may read this"


class StoreError(OSError):
    """A store does not answer, or not to these credentials; strerror says so in words."""


@cache
def open_store(address: str, retries: int) -> "ObjectStore":
    """Return a connection pool to a bucket or host. Raises MissingPackageError or InputError."""
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
        return from_url(address, client_options=options, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise InputError(f"{address}: {_first_line(error)}; check the URL and the variables of the store") from error


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
    if _has_any(text, ("error sending request", "response body error", "timed out")):
        return "no answer, or the connection was cut; check the network and the URL"
    return f"{_first_line(error)}; check the URL and the variables of the store"


def _has_any(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()
