"""A journal is one run's alone, and is gone when nothing is in it."""

import errno
import sys
from contextlib import closing
from pathlib import Path
from typing import TextIO

import pytest

from lesioncli.errors import InputError
from lesioncli.inference import journal
from lesioncli.inference.journal import Journal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked on Windows, see journal.py")


def test_what_was_left_stays_until_it_is_cleared_and_a_second_owner_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    path.write_text("of before\n")
    with closing(Journal(path)) as first:
        with pytest.raises(InputError, match=r"another run is writing into this folder; wait"):
            Journal(path)
        first.append("mine\n")
        assert path.read_text() == "of before\nmine\n"
        first.clear()
    assert not path.exists()


def test_a_journal_that_its_last_owner_has_just_removed_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, path = Journal(tmp_path / "a.part"), tmp_path / "a.part"

    def end_first(file: TextIO, at: Path) -> None:  # between the second one's opening and its locking
        monkeypatch.setattr(journal, "_lock", lock)
        first.close()
        lock(file, at)

    lock = journal._lock
    monkeypatch.setattr(journal, "_lock", end_first)
    second = Journal(path)
    second.append("mine\n")
    assert path.read_text() == "mine\n"
    second.clear()
    second.close()
    assert not path.exists()


def test_a_file_system_without_locks_is_written_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with closing(Journal(tmp_path / "a.part")) as opened:
        opened.append("mine\n")
    assert (tmp_path / "a.part").read_text() == "mine\n"
