"""A journal belongs to one run at a time, and is removed when it is empty."""

import errno
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from lesioncli.errors import InputError
from lesioncli.inference.journal import Journal


def test_lines_stay_until_they_are_cleared_and_a_second_owner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    path.write_text("earlier\n")
    with closing(Journal(path)) as first:
        with pytest.raises(InputError, match="--out"):
            Journal(path)
        first.append("new\n")
        assert path.read_text() == "earlier\nnew\n"
        first.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_with_lines_is_kept_without_its_lock(tmp_path: Path) -> None:
    with closing(Journal(tmp_path / "a.part")) as journal:
        journal.append("new\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]
    Journal(tmp_path / "a.part").close()


@pytest.mark.parametrize("method", ["stat", "unlink"])
def test_a_folder_whose_permissions_are_lost_hides_no_error_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """close() is called while the error that ended the run is on its way."""
    journal = Journal(tmp_path / "a.part")

    def refuse(path: Path, *given: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, refuse)
        journal.close()
    Journal(tmp_path / "a.part").close()
    assert not (tmp_path / "a.part").exists()


def test_a_journal_that_cannot_be_opened_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "a.part").mkdir()
    for _ in range(2):
        with pytest.raises(OSError, match=r"a\.part"):
            Journal(tmp_path / "a.part")
    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]


def test_owners_that_come_and_go_never_overlap(tmp_path: Path) -> None:
    """The lock file is removed by each owner, while others try to lock it."""
    owners, overlaps, turns = [0], [0], [0]

    def compete() -> None:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            try:
                journal = Journal(tmp_path / "a.part")
            except InputError:
                continue
            owners[0] += 1
            overlaps[0] += owners[0] != 1
            turns[0] += 1
            time.sleep(0.0005)
            owners[0] -= 1
            journal.close()

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turns[0] > 10
    assert overlaps[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="file locks are part of Windows")
@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_written_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with closing(Journal(tmp_path / "a.part")) as journal:
        journal.append("new\n")
    assert (tmp_path / "a.part").read_text() == "new\n"
    assert len(list(tmp_path.iterdir())) == 1
