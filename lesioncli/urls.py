"""URLs of images and folders that are not on a disk: s3://bucket/folder/image.jpg."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from lesioncli.errors import InputError

WEB = ("https", "http")  # one file each: web servers do not list folders
SCHEMES = ("s3", "gs", "az", *WEB)
_MARK = "://"


@dataclass(frozen=True, order=True)
class Url:
    """The URL of an object, or of a folder of objects.

    store: scheme and bucket, container or host, as in s3://bucket. key: name of the object in the store, without
    escapes; of a folder it may end with "/", of the whole store it is empty. query: the part behind "?", a signature.
    It is a secret, so only requests have it: neither text nor comparisons do.
    """

    store: str
    key: str = ""
    query: str = field(default="", repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> "Url":
        """Read a URL. Raises InputError if its scheme is not supported, or if it holds a password."""
        scheme, _, rest = text.partition(_MARK)
        host, _, key = rest.partition("/")
        if scheme not in SCHEMES or not host or "?" in host:
            supported = ", ".join(f"{name}{_MARK}" for name in SCHEMES)
            raise InputError(f"{text.partition('?')[0]}: not a URL of images; supported: {supported}")
        if "@" in host:
            raise InputError(f"{scheme}{_MARK}{host.rpartition('@')[2]}: remove the user and password from the URL")
        query = ""
        if scheme in WEB:
            key, _, query = key.partition("?")
            if "#" in key + query:
                raise InputError(f"{scheme}{_MARK}{host}/{key.partition('#')[0]}: URLs with # are not supported")
            key = unquote(key)
        url = cls(f"{scheme}{_MARK}{host}", key, query)
        if {"", ".", ".."} & set(key.removesuffix("/").split("/")) and key:
            raise InputError(f"{url}: a part of the path is empty, . or ..; give the path without it")
        return url

    @property
    def scheme(self) -> str:
        """The part before ://."""
        return self.store.partition(_MARK)[0]

    @property
    def name(self) -> str:
        """Last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def parent(self) -> "Url":
        """The folder of an object; the signature of an object is not that of its folder."""
        folder = self.key.rstrip("/").rpartition("/")[0]
        return Url(self.store, folder)

    def __truediv__(self, inside: str) -> "Url":
        return replace(self, key=f"{self.key.rstrip('/')}/{inside}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.store}/{quote(self.key) if self.scheme in WEB else self.key}"

    def relative_to(self, folder: "Url") -> str | None:
        """Return the key relative to that of a folder, "" for the folder itself; None if it is not in it."""
        own, other = self.key.rstrip("/"), folder.key.rstrip("/")
        if self.store != folder.store or not (own == other or not other or own.startswith(f"{other}/")):
            return None
        return own[len(other) :].lstrip("/")


Place = Path | Url  # of an image, or of a folder
StrPlace = str | os.PathLike[str] | Url


def is_url(text: str) -> bool:
    """Return whether a text on a command line or in a list is a URL, not a path."""
    return _MARK in text


def parse_place(text: StrPlace) -> Place:
    """Return a path, or the URL that a text holds. Raises InputError as Url.parse()."""
    if isinstance(text, Url):
        return text
    return Url.parse(text) if isinstance(text, str) and is_url(text) else Path(text)


def join_place(folder: Path, text: str) -> Place:
    """Return a place that is named relative to a folder, as run.json and lists do; a URL is not relative."""
    return Url.parse(text) if is_url(text) else folder / text


def common_url(urls: Sequence[Url]) -> Url:
    """Return the deepest folder that holds all of these. Raises InputError if they are not in one store."""
    stores = sorted({url.store for url in urls})
    if len(stores) > 1:
        raise InputError(f"{stores[0]} and {stores[1]}: give images of one bucket or host, and others in another run")
    return Url(stores[0], os.path.commonpath([f"/{url.key}" for url in urls]).lstrip("/"))
