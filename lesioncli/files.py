"""Files: atomic writes, folder walks, hashes, printable names, and the folders of engines and shipped models."""

import errno
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import deflate

from lesioncli.errors import InputError, LesionError

MAX_NAME_BYTES = 255  # of a file name, on all common file systems
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: a limit on the size of files, as by `ulimit -f`
TRIAL_BYTES = 2**24
BLOCK_BYTES = 2**20
HERE = "./"  # before a relative path, which stays the same
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # https://owasp.org/www-community/attacks/CSV_Injection
TEMPORARY_ENDING = ".part"  # of the names of files that are being written, which start with a dot
PRETRAINED = Path(__file__).parent / "pretrained"
ENGINES = Path("engines")  # the default folder of engines; a user's recipes and checkpoints may lie there, too

StrPath = str | os.PathLike[str]


@contextmanager
def atomic_write(path: Path, top: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end, remove it on an error.

    Nobody ever reads half a file under its final name, whatever stops the program, also a power cut. Missing folders
    are made, with `top` only those below it.

    Raises OSError, with `path` as its file name, if it cannot be written, or if it exists and is not a regular file:
    renaming would replace even a device.
    """
    with _replacing(path) as temporary:
        _write_new(temporary, b"", top)
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:  # safetensors makes files that only their owner can read
            temporary.chmod(mode)
        sync_content(temporary)
    sync_folder(path.parent)


def write_whole(path: Path, content: bytes, top: Path | None = None) -> None:
    """Write a file as atomic_write() does, with one call each to open, write and rename it.

    A new file is not synced, which takes longer than all the rest: a power cut may leave it incomplete. One that
    replaces another is: the rows of earlier runs may name it. Missing folders are made, with `top` only those below it.
    """
    with _replacing(path, sync_replaced=True) as temporary:
        _write_new(temporary, content, top)


@contextmanager
def _replacing(path: Path, sync_replaced: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write; rename it to `path` at the end, remove it on an error."""
    is_replaced = path.exists()
    if is_replaced and not path.is_file():
        raise OSError(errno.EEXIST, "exists and is not a regular file", str(path))
    temporary = path.with_name(_temporary_name(path.name))
    try:
        with naming_os_errors(path, temporary):
            yield temporary
            if is_replaced and sync_replaced:
                sync_content(temporary)
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _write_new(path: Path, content: bytes, top: Path | None) -> None:
    """Write a file, and make its folders; FileNotFoundError if `top` is given and does not exist."""
    try:
        path.write_bytes(content)
    except FileNotFoundError:
        if top and not top.is_dir():
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def ends_with(path: Path, ending: bytes) -> bool:
    """Return whether a regular file can be read and ends with these bytes."""
    try:
        if not path.is_file():
            return False
        with path.open("rb", buffering=0) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(ending)))
            return file.read() == ending
    except OSError:
        return False


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; their names survive a power cut. Raises OSError."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_files(paths: Iterable[Path], top: Path) -> None:
    """Wait until files, their names, and the names of their folders below `top` are on the disk, or their removal.

    Raises OSError.
    """
    folders: set[Path] = set()
    for path in paths:
        folders.add(path.parent)
        with suppress(FileNotFoundError, NotADirectoryError):
            sync_content(path)
    parents = {parent for folder in folders for parent in folder.parents if parent.is_relative_to(top)}
    for folder in folders | parents:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; not every system lets a program do so. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        sync_content(folder)


def sync_content(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk. Raises OSError, with `path` as its file name."""
    # Windows syncs only files that may be written; folders cannot be opened so.
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        sync_descriptor(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int) -> None:
    """Wait until an open file or folder is on the disk; some network file systems cannot tell. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


@contextmanager
def naming_os_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Name `path` in the OSErrors of code that writes to `temporary`, a file or folder.

    Libraries in C report a full disk in their own words ("unexpected pos 576 vs 534"). After any exception of theirs,
    some bytes are written on trial; if that fails, its OSError is raised instead.
    """
    try:
        yield
    except OSError as error:
        is_ours = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(temporary)
        if not (is_ours and error.errno):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except LesionError:
        raise
    except Exception as error:
        if (problem := _try_to_write(temporary if temporary.is_dir() else temporary.parent)) and problem.errno:
            raise OSError(problem.errno, problem.strerror, str(path)) from error
        raise


def _try_to_write(folder: Path) -> OSError | None:
    """Return the error of writing TRIAL_BYTES to a folder, which are removed again."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(TRIAL_BYTES))
    except OSError as error:
        return error
    return None


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """Make a temporary folder inside `folder`, so that finished files can be renamed into place.

    Folders that were made for it are removed at the end, if they are empty.

    Raises OSError, with `folder` as its file name, if it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with naming_os_errors(folder, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as work:
                yield Path(work)
    finally:
        for path in made:
            with suppress(OSError):  # it is in use
                path.rmdir()


@contextmanager
def os_errors_as_input_errors() -> Iterator[None]:
    """Turn an OSError into an InputError, at the edge of the Python API."""
    try:
        yield
    except OSError as error:
        raise as_input_error(error) from error


def as_input_error(error: OSError) -> InputError:
    """Return the error that a user sees: the path, the cause, and what to do."""
    cause = error.strerror or str(error)
    if cause.startswith("No usable temporary directory"):
        return InputError(f"{cause}; set TMPDIR to a folder that can be written")
    where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
    if error.errno in DISK_FULL:
        advice = "free disk space, or write to another place"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        advice = "allow more open files, as with `ulimit -n 4096`"
    else:
        advice = "check the path and its permissions, or choose another one"
    if error.filename and _is_temporary(Path(os.fsdecode(error.filename))):
        advice += ", or set TMPDIR to another folder for temporary files"
    return InputError(f"{where}{cause}; {advice}")


def _is_temporary(path: Path) -> bool:
    """Return whether a file lies in a folder that tempfile made in the system's folder for temporary files."""
    with suppress(OSError, ValueError):  # there is no such folder, or the file is elsewhere
        return path.relative_to(tempfile.gettempdir()).parts[0].startswith(tempfile.gettempprefix())
    return False


def _temporary_name(name: str) -> str:
    """Return the name of a file while it is written: a hash if the readable name is too long for the file system."""
    temporary = f".{name}{TEMPORARY_ENDING}"
    if len(os.fsencode(temporary)) <= MAX_NAME_BYTES:
        return temporary
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()}{TEMPORARY_ENDING}"


@contextmanager
def atomic_output(path: Path, flag: str) -> Iterator[Path]:
    """Like atomic_write(), for a path that the user chose with `flag`; InputError if it cannot be written."""
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); choose another path with {flag}") from error


def walk(
    folder: Path, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of folders, names of files) for a folder and all below it; sorted, without hidden entries.

    Links to folders are followed, except to a folder that the walk reaches by its own name anyway. The caller may
    remove names of folders that the walk should not enter.

    `on_error` is called with the error of a folder that cannot be listed, which is then left out; by default, it is
    raised.
    """
    for directory, folders, files in os.walk(folder, onerror=on_error or _raise, followlinks=True):
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


def from_printable(text: str) -> str:
    """Return the file name of a text by printable(); a name that holds such an escape itself is not told apart."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda match: chr(0xDC00 + int(match[1], 16)), text)


def as_cell(name: str) -> str:
    """Return a relative path as a cell of a CSV: ./ before a character at which spreadsheets see a formula."""
    return f"{HERE}{name}" if name.startswith(FORMULA_STARTS) else name


def from_cell(text: str) -> str:
    """Return the relative path of a cell by as_cell()."""
    return text.removeprefix(HERE)


def stat_file(path: Path) -> os.stat_result | None:
    """Return size and times of a file, or None if that cannot be told."""
    try:
        return path.stat()
    except OSError:
        return None


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file, as ZIP and PNG have it. Raises OSError."""
    crc = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            crc = deflate.crc32(block, crc)
    return crc


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
