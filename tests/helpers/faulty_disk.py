"""A file system that shows another folder and has faults, by FUSE: python faulty_disk.py FOLDER MOUNT_POINT.

The name of a file says what is wrong with it: reading `eio` fails behind the first block, reading `blocks` never ends,
`short` ends before its size, `gone` is listed but not there, and writing `full` fails.
"""

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy

BLOCK_BYTES = 512


class FaultyDisk(mfusepy.Operations):  # type: ignore[misc]  # has no types
    """Shows a folder."""

    use_ns = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, path: str) -> Path:
        return self._folder / path.removeprefix("/")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if "gone" in path:
            raise mfusepy.FuseOSError(errno.ENOENT)
        status = self._path(path).lstat()
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size")
        times = {name: getattr(status, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {**{name: getattr(status, name) for name in names}, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(entry.name for entry in self._path(path).iterdir())]

    def open(self, path: str, flags: int) -> int:
        return os.open(self._path(path), flags)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        while "blocks" in path:
            time.sleep(1)
        if "eio" in path and offset + size > BLOCK_BYTES:
            raise mfusepy.FuseOSError(errno.EIO)
        end = BLOCK_BYTES if "short" in path else offset + size
        return os.pread(fh, max(0, min(size, end - offset)), offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if "full" in path:
            raise mfusepy.FuseOSError(errno.ENOSPC)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._path(path), length)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def rename(self, old: str, new: str) -> int:
        self._path(old).replace(self._path(new))
        return 0

    def unlink(self, path: str) -> int:
        self._path(path).unlink()
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._path(path).mkdir(mode)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._path(path).chmod(mode)
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(FaultyDisk(Path(sys.argv[1])), sys.argv[2], foreground=True)
