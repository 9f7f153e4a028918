"""SIGKILL at random moments of a run into a bucket, continued by machines that know nothing of the earlier ones."""

import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.bucket_results import results_below, watch_promise
from helpers.graphs import MakeEngine
from helpers.object_server import URL, Fault, ObjectServer, use_server
from helpers.pictures import draw, save
from helpers.runs import files_of, segment_folder, start_bucket_program

from lesioncli import stores
from lesioncli.backends.registry import open_engine
from lesioncli.errors import ExitCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot kill with a signal"),
]

KILLS = 20
IMAGES = 1200


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    stores.open_store.cache_clear()
    with ObjectServer().running() as server:
        use_server(server, monkeypatch)
        yield server


def draw_images(folder: Path, count: int) -> Path:
    """Write copies of some drawn images, of which some are empty files."""
    contents = [save(folder / f"drawn/{seed}.jpg", draw(seed, 40, 60)).read_bytes() for seed in range(20)]
    for number in range(count):
        path = folder / "images" / f"{number % 7}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % 20] if number % 40 else b"")
    return folder / "images"


def test_a_run_that_is_killed_again_and_again(server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images, whole, work = draw_images(tmp_path, IMAGES), tmp_path / "whole", tmp_path / "work"
    work.mkdir()
    broken = watch_promise(server, "out/")
    words = ("segment", images, "--out", f"{URL}/out", "--engine", tiny_manifest(2), "--workers", "2", "--overlay")
    moments = random.Random(16)  # noqa: S311 - not for cryptography
    killed = 0
    for number in range(KILLS):
        server.requests.clear()
        server.put_faults = {f"out/{number % 7}/{moments.randrange(IMAGES):04d}.png": [Fault.ERROR, Fault.CUT]}
        # The temporary folders of killed runs stay where the next one makes its own.
        with start_bucket_program(*words, delay=0.02, temporary=work) as process:
            while number % 8 and server.requests["PUT", "out/run.json"] == 0 and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.7 if number % 8 else 1.5))  # each eighth, in its start
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in (-signal.SIGKILL, ExitCode.SOME_FAILED), output
    assert killed >= KILLS / 4  # the faster the machine, the more runs end before
    with start_bucket_program(*words, temporary=work) as process:
        output, _ = process.communicate()
    assert process.returncode == ExitCode.SOME_FAILED, output
    assert b" 0 skipped" not in output
    assert not broken
    with open_engine(tiny_manifest(2)) as engine:
        assert segment_folder(images, engine, whole, overlay=True).failed == IMAGES / 40
    assert results_below(server.objects, "out/") == files_of(whole)


def test_a_suspended_run_writes_no_more_once_another_has_taken_over(
    server: ObjectServer, tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    images, whole = draw_images(tmp_path, 400), tmp_path / "whole"
    broken = watch_promise(server, "out/")
    words = ("segment", images, "--out", f"{URL}/out", "--engine", tiny_manifest(2))
    with start_bucket_program(*words, delay=0.02) as first:
        while not any(".parts/" in key for key in list(server.objects)):
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        with start_bucket_program(*words) as second:
            output, _ = second.communicate()
        assert second.returncode == ExitCode.SOME_FAILED, output
        assert b"which has ended without a word" in output
        after = dict(server.objects)
        first.send_signal(signal.SIGCONT)
        output, _ = first.communicate()
    assert first.returncode == ExitCode.INPUT, output
    assert b"another run has taken over" in output
    assert not broken
    assert server.objects == after
    with open_engine(tiny_manifest(2)) as engine:
        segment_folder(images, engine, whole)
    assert results_below(server.objects, "out/") == files_of(whole)
