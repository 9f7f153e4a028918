"""Files: atomic writes, folder walks, hashes, printable names, and the folders of engines and shipped models."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesioncli.errors import InputError

MAX_NAME_BYTES = 255  # of a file name, on all common file systems
PRETRAINED = Path(__file__).parent / "pretrained"
ENGINES = Path("engines")  # the default folder of engines; a user's recipes and checkpoints may lie there, too

StrPath = str | os.PathLike[str]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end, remove it on an error.

    Nobody ever reads half a file under its final name, whatever stops the program. Missing folders are made.

    Raises OSError if `path` exists and is not a regular file: renaming would replace even a device.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "exists and is not a regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path.name))
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _temporary_name(name: str) -> str:
    """Return the name of a file while it is written: a hash if the readable name is too long for the file system."""
    temporary = f".{name}.part"
    if len(os.fsencode(temporary)) <= MAX_NAME_BYTES:
        return temporary
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.part"


@contextmanager
def atomic_output(path: Path, flag: str) -> Iterator[Path]:
    """Like atomic_write(), for a path that the user chose with `flag`; InputError if it cannot be written."""
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); choose another path with {flag}") from error


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of folders, names of files) for a folder and all below it; sorted, without hidden entries.

    Links to folders are followed, except to a folder that the walk reaches by its own name anyway. The caller may
    remove names of folders that the walk should not enter.

    Raises OSError if a folder cannot be listed.
    """
    for directory, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        if _is_link_into_walk(Path(directory), folder):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(directory), folders, sorted(name for name in files if not name.startswith("."))


def _is_link_into_walk(directory: Path, top: Path) -> bool:
    """Return whether a folder is a link into the walk from `top`: its files would be found twice, or without end."""
    if directory == top or not directory.is_symlink():
        return False
    real, real_top = Path(os.path.realpath(directory)), os.path.realpath(top)
    if real.is_relative_to(real_top):  # hidden folders are found by the link only
        return not any(part.startswith(".") for part in real.relative_to(real_top).parts)
    return any(os.path.realpath(parent) == str(real) for parent in directory.parents if parent.is_relative_to(top))


def _raise(error: OSError) -> None:
    """Stop os.walk() at a folder that it cannot list; it would ignore the folder and all its files."""
    raise error


def printable(name: str) -> str:
    """Return a file name for a UTF-8 file: bytes that are not UTF-8 become escapes, as Python shows them."""
    return name.encode(errors="backslashreplace").decode()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
