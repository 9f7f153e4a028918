"""Files: atomic writes, and folder walks."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from lesioncli.errors import InputError
from lesioncli.files import atomic_output, atomic_write, walk


def put_folder(path: Path) -> None:
    path.mkdir()


def put_link_to_device(path: Path) -> None:
    path.symlink_to(os.devnull)


def put_pipe(path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(path)


ON_UNIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no /dev and no named pipes in folders")


@pytest.mark.parametrize(
    "put", [put_folder, pytest.param(put_link_to_device, marks=ON_UNIX), pytest.param(put_pipe, marks=ON_UNIX)]
)
def test_only_regular_files_are_replaced(put: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    put(path)
    mode = path.lstat().st_mode
    with pytest.raises(OSError, match=r"table\.csv") as raised, atomic_write(path):
        pytest.fail("the body must not run")
    assert (raised.value.errno, raised.value.filename) == (errno.EEXIST, str(path))
    assert path.lstat().st_mode == mode
    assert list(tmp_path.iterdir()) == [path]


def test_files_and_links_to_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("old.csv")
    for name in ("old.csv", "link.csv", "new.csv"):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).read_text() == "new"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:  # noqa: PT012 - the interrupt comes midway
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits the whole path")
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    names = [f"{'皮' * 83}{number}.png" for number in range(3)]  # 254 bytes; the names differ in one byte
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(atomic_write(tmp_path / name)).write_text(name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in names}


def test_an_output_that_cannot_be_written_is_named_with_its_flag(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file.table\.csv.*--csv"),
        atomic_output(tmp_path / "file/table.csv", "--csv"),
    ):
        pytest.fail("the body must not run")


def test_a_walk_is_sorted_ends_and_omits_hidden_entries(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/3.png", ".hidden/4.png", "b/.5.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / ".hidden")
    found = [(folder.relative_to(tmp_path).as_posix(), files) for folder, _, files in walk(tmp_path)]
    assert [entry for entry in found if entry[1]] == [("a", ["3.png"]), ("b", ["1.png", "2.png"]), ("c", ["4.png"])]
