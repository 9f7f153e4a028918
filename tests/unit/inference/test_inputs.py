"""Images beside their rows: the same, changed, or gone; a file that cannot be read counts as before."""

import errno
import os
from pathlib import Path

import pytest
from helpers.runs import rows_of, statuses

from lesioncli.backends.base import Engine
from lesioncli.files import crc32_of
from lesioncli.inference import inputs
from lesioncli.inference.inputs import ImageState, compare_status
from lesioncli.inference.rows import UNKNOWN, Checks, Row

IMAGE = b"an image"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.jpg"
    path.write_bytes(IMAGE)
    return path


def row_for(path: Path, checks: Checks | None = None) -> Row:
    """Return the row of a file as it is now."""
    return Row(
        "", "x.jpg", "x.png", True, len(IMAGE), 0.5, checks or Checks(path.stat().st_mtime_ns, crc32_of(path), 1)
    )


def test_a_file_as_before_is_compared_by_content_on_request_only(path: Path) -> None:
    row = row_for(path)
    assert compare_status(path, row, check_content=False) == ImageState.SAME
    assert compare_status(path, row, check_content=True) == ImageState.UNSURE
    os.utime(path, (1, 1))
    assert compare_status(path, row, check_content=False) == ImageState.UNSURE


def test_rows_of_early_versions_know_the_size_only(path: Path) -> None:
    row = row_for(path, checks=UNKNOWN)
    os.utime(path, (1, 1))
    assert compare_status(path, row, check_content=True) == ImageState.SAME
    path.write_bytes(IMAGE + b"!")
    assert compare_status(path, row, check_content=False) == ImageState.CHANGED


def test_a_file_that_is_gone_or_a_folder(path: Path) -> None:
    row = row_for(path)
    path.unlink()
    assert compare_status(path, row, check_content=False) == ImageState.GONE
    assert compare_status(path / "below", row, check_content=False) == ImageState.GONE


def test_a_file_that_cannot_be_looked_at_or_read_counts_as_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_for(path)

    def refuse(*given: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(inputs, "status_of", refuse)
        assert compare_status(path, row, check_content=True) == ImageState.SAME
    monkeypatch.setattr(inputs, "crc32_of_image", refuse)
    os.utime(path, (1, 1))
    assert list(inputs.compare_images([(path, row)], True)) == [(ImageState.SAME, row)]


def test_a_row_whose_name_no_file_can_have_is_gone(engine: Engine, images: Path, out: Path) -> None:
    statuses(images, engine, out)
    table = out / "scores.csv"
    table.write_bytes(table.read_bytes().replace(b"002.jpg", b"00\x002.jpg"))
    statuses(images, engine, out)
    (note,) = (row["note"] for name, row in rows_of(out).items() if "\0" in name)
    assert note.endswith("image is gone")
