"""Files found in folders, written whole or not at all, told apart by their hash, named in text; where ours lie."""

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesioncli.errors import InputError

MOST_BYTES = 255  # of a file's name, on all that is common
PRETRAINED = Path(__file__).parent / "pretrained"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a name to write under, in the same folder; renamed to `path` at the end, removed on an error.

    So nobody ever reads half a file under its final name, whatever stops the program. OSError where something is in its
    place that is no regular file: renaming would replace a device as well.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "it is there and no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(_aside_name(path.name))
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _aside_name(name: str) -> str:
    """What a file is called while it is written; short where the name is as long as a file system allows."""
    aside = f".{name}.part"
    if len(os.fsencode(aside)) <= MOST_BYTES:
        return aside
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.part"


@contextmanager
def written_as_asked(path: Path, flag: str) -> Iterator[Path]:
    """written_whole() for a place that the user chooses with `flag`; InputError where it cannot be written."""
    try:
        with written_whole(path) as aside:
            yield aside
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); name another with {flag}") from error


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`folder` and all folders in it, linked ones too: each with its folders and files, sorted and without hidden ones.

    What is taken out of the folders is not gone into, nor is a link to what the walk comes to by its own name. OSError
    where one cannot be listed.
    """
    for here, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        if _leads_back(Path(here), folder):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(here), folders, sorted(name for name in files if not name.startswith("."))


def _leads_back(directory: Path, folder: Path) -> bool:
    """Whether a folder is a link into the walk from `folder`: whose files would be there twice, or without an end."""
    if directory == folder or not directory.is_symlink():
        return False
    real, top = Path(os.path.realpath(directory)), os.path.realpath(folder)
    if real.is_relative_to(top):
        return not any(part.startswith(".") for part in real.relative_to(top).parts)  # what is hidden comes by the link
    return any(os.path.realpath(above) == str(real) for above in directory.parents if above.is_relative_to(folder))


def _raise(error: OSError) -> None:
    raise error  # os.walk() would pass over a folder it cannot open, and what is in it would vanish


def printable(name: str) -> str:
    """A file's name for a UTF-8 file: bytes that are no UTF-8 become escapes, as Python shows them."""
    return name.encode(errors="backslashreplace").decode()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process is in here with the same path; a killed one leaves no lock. On Windows, no lock."""
    with path.open("a") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
