"""What a power cut can leave of a run, from the system calls that strace recorded.

Writes and changes of names reach the disk when the file or the folder is synced; until then, each of them may have
reached it or not. That is stricter than most file systems. After Pillai et al., "All File Systems Are Not Created
Equal", OSDI 2014.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lesioncli.errors import ExitCode

_LINE = re.compile(r"(?P<pid>\d+) +(?:(?P<name>\w+)\(|<\.\.\. \w+ resumed>)(?P<rest>.*)")
_RESULT = re.compile(r"(?P<arguments>.*)\) += (?P<result>\d+)(?!\S).*")  # -1: the call failed
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """A system call: its name, its arguments as text, its result, and the number of the call before which it began."""

    name: str
    arguments: str
    result: int
    began: int

    @property
    def texts(self) -> list[bytes]:
        """The strings among the arguments."""
        return [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(self.arguments)]

    @property
    def descriptor(self) -> int:
        """The first argument."""
        return int(re.split(r"\D", self.arguments, maxsplit=1)[0])


class Loss(StrEnum):
    """What is lost of everything that was not synced."""

    ALL = "all"
    NAMES = "names"
    CONTENT = "content"
    CONTENT_BUT_SIZE = "content becomes zeros"
    NOTHING = "nothing"


class _File:
    """A file: its content after each call that changed it, and the content that was synced."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = self.synced = content
        self._versions = [(-1, content)]

    def change(self, index: int, content: bytes) -> None:
        self.content = content
        self._versions.append((index, content))

    def sync(self, began: int) -> None:
        """Take what was written before call `began`."""
        self.synced = next(content for index, content in reversed(self._versions) if index < began)


def record(command: Sequence[str], log: Path) -> list[Call]:
    """Run a command, in which images may fail; return the calls that change files."""
    strace = ["strace", "-f", "-qq", "-xx", "-s", "10000000", "-e", f"trace={','.join(_EFFECTS)}", "-e", "signal=none"]
    done = subprocess.run([*strace, "-o", str(log), *command], capture_output=True, check=False)
    assert done.returncode in (ExitCode.OK, ExitCode.SOME_FAILED), done.stderr.decode()
    return list(_parse(log.read_text()))


def can_record(folder: Path) -> bool:
    """Return whether strace is installed and may trace."""
    if not shutil.which("strace"):
        return False
    done = subprocess.run(["strace", "-o", str(folder / "log"), "true"], capture_output=True, check=False)
    return done.returncode == 0


def _parse(log: str) -> Iterator[Call]:
    begun: dict[str, tuple[str, str, int]] = {}
    count = 0
    for match in filter(None, map(_LINE.fullmatch, log.splitlines())):
        pid, name, rest = match["pid"], match["name"], match["rest"]
        began = count
        if not name:
            if pid not in begun:
                continue
            name, start, began = begun.pop(pid)
            rest = start + rest
        if rest.endswith("<unfinished ...>"):
            begun[pid] = (name, rest.removesuffix("<unfinished ...>"), count)
            continue
        if done := _RESULT.fullmatch(rest):
            yield Call(name, done["arguments"], int(done["result"]), began)
            count += 1


Names = dict[str, _File | None]  # by path relative to the top; None: a folder


class Disk:
    """The files of one folder, as programs see them and as they were synced."""

    def __init__(self, top: Path) -> None:
        paths = list(top.rglob("*")) if top.exists() else []
        self._top = str(top)
        self._names: Names = {
            path.relative_to(top).as_posix(): None if path.is_dir() else _File(path.read_bytes()) for path in paths
        }
        self._synced = dict(self._names)
        self._history = [(-1, dict(self._names))]
        self._open: dict[int, str | _File] = {}  # a text: a folder

    def apply(self, index: int, call: Call) -> bool:
        """Apply the call of this index; return whether it changed anything."""
        names = dict(self._names)
        is_change = _EFFECTS[call.name](self, index, call)
        if self._names != names:
            self._history.append((index, dict(self._names)))
            return True
        return is_change

    def states(self) -> Iterator[tuple[Loss, dict[str, bytes | None]]]:
        """Yield what a power cut can leave: contents by relative path, None for a folder."""
        for loss in Loss:
            names = self._synced if loss in (Loss.ALL, Loss.NAMES) else self._names
            yield loss, {name: _content(file, loss) for name, file in names.items()}

    def _inside(self, path: bytes) -> str | None:
        text = path.decode()
        if text == self._top:
            return ""
        return text.removeprefix(f"{self._top}/") if text.startswith(f"{self._top}/") else None

    def _opened(self, index: int, call: Call) -> bool:
        self._open.pop(call.result, None)
        name = self._inside(call.texts[0])
        if name is None:
            return False
        if name not in self._names and "O_CREAT" in call.arguments:
            self._names[name] = _File()
        file = self._names.get(name) or name
        self._open[call.result] = file
        if isinstance(file, str) or "O_TRUNC" not in call.arguments or not file.content:
            return False
        file.change(index, b"")
        return True

    def _written(self, index: int, call: Call) -> bool:
        """Append: files here are only appended to, or written once from their start."""
        file = self._open.get(call.descriptor)
        if not isinstance(file, _File):
            return False
        file.change(index, file.content + call.texts[0][: call.result])
        return True

    def _cut(self, index: int, call: Call) -> bool:
        file = self._open.get(call.descriptor)
        if not isinstance(file, _File):
            return False
        file.change(index, file.content[: int(call.arguments.split(", ")[1])])
        return True

    def _synchronized(self, index: int, call: Call) -> bool:
        target = self._open.get(call.descriptor)
        if isinstance(target, _File):
            target.sync(call.began)
        elif target is not None:
            prefix = f"{target}/" if target else ""
            names = next(names for index, names in reversed(self._history) if index < call.began)
            others = {name: file for name, file in self._synced.items() if not _is_child(name, prefix)}
            self._synced = others | {name: file for name, file in names.items() if _is_child(name, prefix)}
        return target is not None

    def _renamed(self, index: int, call: Call) -> bool:
        source, target = map(self._inside, call.texts[:2])
        if source is not None and target is not None:
            self._names[target] = self._names.pop(source)
        return False

    def _removed(self, index: int, call: Call) -> bool:
        self._names.pop(self._inside(call.texts[0]) or "", None)
        return False

    def _made(self, index: int, call: Call) -> bool:
        if name := self._inside(call.texts[0]):
            self._names[name] = None
        return False

    def _closed(self, index: int, call: Call) -> bool:
        self._open.pop(call.descriptor, None)
        return False


_EFFECTS = {
    "openat": Disk._opened,
    "write": Disk._written,
    "fsync": Disk._synchronized,
    "fdatasync": Disk._synchronized,
    "ftruncate": Disk._cut,
    "rename": Disk._renamed,
    "unlink": Disk._removed,
    "mkdir": Disk._made,
    "rmdir": Disk._removed,
    "close": Disk._closed,
}


def _is_child(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and "/" not in name[len(prefix) :]


def _content(file: _File | None, loss: Loss) -> bytes | None:
    if file is None:
        return None
    if loss in (Loss.NOTHING, Loss.NAMES):
        return file.content
    missing = len(file.content) - len(file.synced) if loss == Loss.CONTENT_BUT_SIZE else 0
    return file.synced + bytes(max(0, missing))


def write_state(folder: Path, state: dict[str, bytes | None]) -> None:
    """Write files and folders; those whose folder is lost are lost, too."""
    folder.mkdir()
    for name in sorted(state):
        content = state[name]
        path = folder / name
        if not path.parent.is_dir():
            continue
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
