"""SIGKILL at random moments: the run that is started again and again ends as an undisturbed one does."""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save
from helpers.runs import files_of, record_of, segment_folder, start_program

from lesioncli.backends.registry import open_engine
from lesioncli.errors import ExitCode
from lesioncli.inference import packing
from lesioncli.options import MaskStorage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot kill with a signal"),
]

KILLS = int(os.environ.get("LESIONCLI_TEST_KILLS", "40"))
IMAGES_PER_KILL = 80  # more than a fast machine does between two kills
MASKS_PER_ARCHIVE = 30
IN_WORK = 90  # further masks that are files: of two archives that are being written, and of images that are in work


def time_of_start(out: Path) -> int:
    """Return when run.json was written: a run does so before its first image."""
    return (out / "run.json").stat().st_mtime_ns if (out / "run.json").exists() else 0


@pytest.mark.parametrize(
    ("kills", "options"),
    [(KILLS, {"overlay": True}), (max(10, KILLS // 2), {"masks": MaskStorage.TAR})],
    ids=["overlays", "archives"],
)
def test_a_run_that_is_killed_again_and_again(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(packing, "MASKS_PER_ARCHIVE", MASKS_PER_ARCHIVE)
    count = IMAGES_PER_KILL * kills
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    contents = [save(tmp_path / "drawn" / f"{seed}.jpg", draw(seed, 40, 60)).read_bytes() for seed in range(50)]
    for number in range(count):
        path = images / f"{number % 7}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % 50] if number % 40 else b"")
    words = ("segment", images, "--out", out, "--engine", tiny_manifest(2), "--workers", "2")
    words += tuple(word for name, value in options.items() for word in (f"--{name}", value) if word is not True)
    moments = random.Random(16)  # noqa: S311 - not for cryptography
    killed = 0
    most_files = MASKS_PER_ARCHIVE + IN_WORK if "masks" in options else count
    for number in range(kills):
        before = time_of_start(out)
        with start_program(*words, delay=0.002, masks_per_archive=MASKS_PER_ARCHIVE) as process:
            while number % 8 and time_of_start(out) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.5 if number % 8 else 1.5))  # each eighth, in its start
            process.send_signal(signal.SIGKILL)
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in (-signal.SIGKILL, ExitCode.SOME_FAILED)
        for mask in out.glob("*/*.png"):
            assert mask.read_bytes().endswith(b"IEND\xae\x42\x60\x82"), f"{mask} is half written"
        assert len(list(out.glob("*/*.png"))) <= most_files
    assert killed >= kills * 3 / 4
    with open_engine(tiny_manifest(2)) as engine:
        summary = segment_folder(images, engine, out, **options)
        assert segment_folder(images, engine, whole, **options).failed == summary.failed == count / 40
    assert summary.skipped > 0
    assert files_of(out) == files_of(whole)
    assert record_of(out)["status"] == "finished"
