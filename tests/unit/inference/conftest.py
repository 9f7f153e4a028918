"""Fixtures of a small run: an engine for batches of two, six images, and an output folder."""

from pathlib import Path

import pytest
from helpers.graphs import OpenEngine
from helpers.pictures import save_many

from lesioncli.backends.base import Engine


@pytest.fixture
def engine(tiny_engine: OpenEngine) -> Engine:
    return tiny_engine(2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of six images, 000.jpg to 005.jpg."""
    save_many(tmp_path / "images", 6)
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
