"""Locks between processes, and the one for building an engine."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.graphs import MakeEngine

from lesioncli.engines import BUILD_LOCK, ensure_engine
from lesioncli.locks import ProcessLock
from lesioncli.progress import Reporter

_TRY = """
import sys
from pathlib import Path
from lesioncli.locks import ProcessLock
print(ProcessLock(Path(sys.argv[1])).acquire(0.2))
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    def can_another_lock() -> str:
        command = [sys.executable, "-c", _TRY, str(tmp_path / "lock")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    lock = ProcessLock(tmp_path / "lock")
    assert lock.acquire()
    assert can_another_lock() == "False"
    lock.release()
    assert not (tmp_path / "lock").exists()
    assert can_another_lock() == "True"
    assert lock.acquire()  # the other process has ended without releasing it
    lock.release()


def test_who_waits_for_the_build_of_an_engine_takes_that_engine(
    tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engines").mkdir()
    builder = ProcessLock(tmp_path / "engines" / BUILD_LOCK)
    assert builder.acquire()

    class BuildWhileWaiting(Reporter):
        """Ends the build of the other process when this one says that it waits."""

        def note(self, text: str) -> None:
            if "waiting" in text:
                shutil.copytree(tiny_manifest(1).parent, tmp_path / "engines", dirs_exist_ok=True)
                builder.release()

    assert ensure_engine(progress=BuildWhileWaiting()).path == Path("engines") / tiny_manifest(1).name
    assert not (tmp_path / "engines" / BUILD_LOCK).exists()
