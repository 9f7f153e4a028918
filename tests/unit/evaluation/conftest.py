"""Folders that the tests of this room fill."""

import shutil
from pathlib import Path

import pytest
from helpers.evaluation_data import write_data_set


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """An empty folder for ground truth."""
    folder = tmp_path / "labels"
    folder.mkdir()
    return folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """An empty folder for predictions."""
    folder = tmp_path / "masks"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def data_set_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data_set")
    write_data_set(folder)
    return folder


@pytest.fixture
def data_set(data_set_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of write_data_set()'s folder, which is also the working directory."""
    shutil.copytree(data_set_template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
