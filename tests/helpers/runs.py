"""Runs of `segment`: called in this process, or started as a program, and the files that they leave."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lesioncli.backends.base import Engine
from lesioncli.errors import InputError
from lesioncli.images.find import list_images
from lesioncli.inference.packing import MASKS_PER_ARCHIVE
from lesioncli.inference.record import RunSummary
from lesioncli.inference.rows import RowTables
from lesioncli.inference.run import segment_images
from lesioncli.options import SegmentOptions


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """Return the rows of scores.csv by image."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def record_of(folder: Path) -> dict[str, Any]:
    """Return the content of run.json."""
    return dict(json.loads((folder / "run.json").read_text()))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files by relative path, except run.json, which holds times."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def journal_of(folder: Path, synced: int) -> bytes:
    """Return the journal that a run had before it wrote scores.csv; `synced` bytes of it were on the disk."""
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        tables = RowTables(folder, next(csv.reader(file)))
    lines = (tables.journal_line(row, synced) for row in tables.read_scores())
    return "".join([tables.journal_header(), *lines]).encode()


def segment_folder(images: Path, engine: Engine, out: Path, **options: Any) -> RunSummary:
    """Segment a folder of images."""
    return segment_images(list_images([images]), engine, out, SegmentOptions(**options))


def statuses(images: Path, engine: Engine, out: Path, **options: Any) -> str:
    """Segment a folder; return one letter per image: o for ok, f for failed, s for skipped."""
    letters: list[str] = []
    listing = list_images([images])
    segment_images(
        listing, engine, out, SegmentOptions(**options), on_outcome=lambda outcome: letters.append(outcome.status[0])
    )
    return "".join(letters)


def assert_refused(out: Path, engine: Engine, images: Path, *named: str, **options: Any) -> None:
    """Check that a run is refused, names some values and the ways out, and changes nothing."""
    files, record = files_of(out), record_of(out)
    with pytest.raises(InputError, match=".*".join(re.escape(value) for value in (str(out), *named))) as caught:
        statuses(images, engine, out, **options)
    assert "--out" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert files_of(out) == files
    assert record_of(out) == record


_PROGRAM = """
import sys, time
from lesioncli.inference import packing, pipeline
endless, delay = sys.argv.pop(1), float(sys.argv.pop(1))
packing.MASKS_PER_ARCHIVE = int(sys.argv.pop(1))

class SlowImage(pipeline.OpenedImage):
    def __init__(self, path):
        super().__init__(path)
        self.name = path.name

    def decode(self, at_least_hw):
        time.sleep(delay)
        while self.name == endless:
            time.sleep(1)
        return super().decode(at_least_hw)

pipeline.OpenedImage = SlowImage
from lesioncli.__main__ import main
main()
"""


def start_program(
    *arguments: str | Path, endless: str = "", delay: float = 0, masks_per_archive: int = MASKS_PER_ARCHIVE
) -> subprocess.Popen[bytes]:
    """Start lesioncli in a process of its own.

    Decoding an image takes at least `delay` seconds; that of the image called `endless` never ends.
    """
    command = [sys.executable, "-c", _PROGRAM, endless, str(delay), str(masks_per_archive), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


_INTO_BUCKET = """
from lesioncli.inference import lease, upload
lease.RENEW_S, lease.EXPIRY_S, lease.POLL_S, upload.ROWS_INTERVAL_S = 0.1, 0.5, 0.05, 0.1
"""


def start_bucket_program(
    *arguments: str | Path,
    delay: float = 0,
    temporary: Path | None = None,
    masks_per_archive: int = MASKS_PER_ARCHIVE,
) -> subprocess.Popen[bytes]:
    """Start lesioncli as start_program() does, with locks that expire soon; its temporary folder is in `temporary`.

    The time of an object has whole seconds, so locks that were just renewed may seem to be a second old.
    """
    values = ("", str(delay), str(masks_per_archive))
    command = [sys.executable, "-c", _INTO_BUCKET + _PROGRAM, *values, *map(str, arguments)]
    environment = {**os.environ, **({"TMPDIR": str(temporary)} if temporary else {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


_LIMITED = """
import resource, sys
from lesioncli.__main__ import main

if __name__ == "__main__":  # not in the processes that it spawns
    limit = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # Python ignores SIGXFSZ
    main()
"""


def run_on_full_disk(
    *arguments: str | Path, max_file_bytes: int, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run lesioncli in a process of its own that cannot write larger files, as on a full disk."""
    program = cwd / "limited.py"  # a file, so that spawned processes can import it
    program.write_text(_LIMITED)
    return subprocess.run(
        [sys.executable, program.name, str(max_file_bytes), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
