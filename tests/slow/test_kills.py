"""SIGKILL at random moments: the run that is started again and again ends as an undisturbed one does."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import draw, save
from helpers.runs import files_of, record_of, segment_folder, start_program

from lesioncli.backends.registry import open_engine
from lesioncli.errors import ExitCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot kill with a signal"),
]

KILLS = int(os.environ.get("LESIONCLI_TEST_KILLS", "40"))
IMAGES = 80 * KILLS  # more than a fast machine does between all kills


def time_of_start(out: Path) -> int:
    """Return when run.json was written: a run does so before its first image."""
    return (out / "run.json").stat().st_mtime_ns if (out / "run.json").exists() else 0


def test_a_run_that_is_killed_again_and_again(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    contents = [save(tmp_path / "drawn" / f"{seed}.jpg", draw(seed, 40, 60)).read_bytes() for seed in range(50)]
    for number in range(IMAGES):
        path = images / f"{number % 7}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % 50] if number % 40 else b"")
    words = ("segment", images, "--out", out, "--engine", tiny_manifest(2), "--workers", "2", "--overlay")
    moments = random.Random(16)  # noqa: S311 - not for cryptography
    killed = 0
    for number in range(KILLS):
        before = time_of_start(out)
        with start_program(*words, delay=0.002) as process:
            while number % 8 and time_of_start(out) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.5 if number % 8 else 1.5))  # each eighth, in its start
            process.send_signal(signal.SIGKILL)
            process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in (-signal.SIGKILL, ExitCode.SOME_FAILED)
        for mask in out.glob("*/*.png"):
            assert mask.read_bytes().endswith(b"IEND\xae\x42\x60\x82"), f"{mask} is half written"
    assert killed >= KILLS * 3 / 4
    with open_engine(tiny_manifest(2)) as engine:
        summary = segment_folder(images, engine, out, overlay=True)
        assert segment_folder(images, engine, whole, overlay=True).failed == summary.failed == IMAGES / 40
    assert summary.skipped > 0
    assert files_of(out) == files_of(whole)
    assert record_of(out)["status"] == "finished"
