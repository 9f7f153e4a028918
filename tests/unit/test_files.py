"""Atomic writes: the whole file or nothing, and only regular files are replaced."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from lesioncli.files import atomic_write


def put_folder(path: Path) -> None:
    path.mkdir()


def put_link_to_a_device(path: Path) -> None:
    path.symlink_to(os.devnull)


def put_pipe(path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(path)


ON_UNIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev and no named pipes in folders")


@pytest.mark.parametrize(
    "put", [put_folder, pytest.param(put_link_to_a_device, marks=ON_UNIX), pytest.param(put_pipe, marks=ON_UNIX)]
)
def test_what_is_no_regular_file_is_never_replaced(put: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    put(path)
    before = path.lstat().st_mode
    with pytest.raises(OSError, match="not a regular file") as raised, atomic_write(path):
        pytest.fail("it was to be written")
    assert (raised.value.filename, raised.value.strerror) == (str(path), "exists and is not a regular file")
    assert path.lstat().st_mode == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_and_a_link_to_one_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("old.csv")
    for name in ("old.csv", "link.csv", "new.csv"):
        with atomic_write(tmp_path / name) as aside:
            aside.write_text("new")
        assert (tmp_path / name).read_text() == "new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts characters of the whole path")
def test_names_may_be_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    names = [f"{'皮' * 83}{number}.png" for number in range(3)]  # 254 bytes each, the same but for the last letter
    with ExitStack() as open_at_once:
        for name in names:
            open_at_once.enter_context(atomic_write(tmp_path / name)).write_text(name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in names}
