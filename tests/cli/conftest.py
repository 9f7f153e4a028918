"""Working folders with an engine, as a user has them after `build-engine`."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_manifest: Path) -> Path:
    """A working folder with the shipped model's engine."""
    shutil.copytree(engine_manifest.parent, tmp_path / "engines")
    monkeypatch.chdir(tmp_path)
    return tmp_path
