"""Signals sent to the program: what it leaves, and its exit code."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.graphs import MakeEngine
from helpers.pictures import save_many
from helpers.runs import files_of, record_of, rows_of, segment_folder, start_program

from lesioncli.backends.registry import open_engine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send these signals")

COUNT = 150


def count_rows(out: Path) -> int:
    part = out / "scores.csv.part"
    return part.read_bytes().count(b"\n") - 1 if part.exists() else 0


def wait_for_rows(out: Path, rows: int) -> None:
    deadline = time.monotonic() + 60
    while count_rows(out) < rows and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_finishes_what_is_in_work_and_continues(
    tiny_manifest: MakeEngine, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    images, out, whole = tmp_path / "images", tmp_path / "out", tmp_path / "whole"
    save_many(images, COUNT)
    manifest = tiny_manifest(2)
    words = ("segment", images, "--out", out, "--engine", manifest, "--workers", "2")
    with start_program(*words, delay=0.04) as process:
        wait_for_rows(out, 10)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output.decode()
    assert "Traceback" not in output.decode()
    assert f"{COUNT} images" in output.decode()
    rows = rows_of(out)
    assert 10 <= len(rows) < COUNT
    assert {row["status"] for row in rows.values()} == {"ok"}
    masks = {path.name for path in out.glob("*.png")}
    assert masks == {row["mask"] for row in rows.values()}, "images in work must be finished"
    assert not [path for path in out.iterdir() if path.name.startswith(".") or path.name.endswith(".part")]
    record = record_of(out)
    assert (record["status"], record["images"], record["ok"]) == ("interrupted", COUNT, len(rows))
    with open_engine(manifest) as engine:
        assert segment_folder(images, engine, out).skipped == len(rows)
        segment_folder(images, engine, whole)
    assert files_of(out) == files_of(whole)


def test_a_second_signal_ends_at_once(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save_many(images, COUNT)
    words = ("segment", images, "--out", out, "--engine", tiny_manifest(1))
    with start_program(*words, endless="100.jpg") as process:
        wait_for_rows(out, 10)
        time.sleep(1)
        rows = count_rows(out)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):  # an image in work never ends
            process.wait(timeout=1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=5)
    assert process.returncode == 130, output.decode()
    assert "Traceback" not in output.decode()
    assert count_rows(out) == rows


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_cannot_finish_its_images_ends_after_the_grace_period(
    tiny_manifest: MakeEngine, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save_many(images, COUNT)
    words = ("segment", images, "--out", out, "--engine", tiny_manifest(1), "--grace", "2")
    with start_program(*words, endless="050.jpg") as process:
        wait_for_rows(out, 10)
        time.sleep(1)
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output.decode()
    assert "--grace" in output.decode()
    with open_engine(tiny_manifest(1)) as engine:
        assert segment_folder(images, engine, out).skipped >= 10


BLOCKED_IMPORT = """
import sys, time
from importlib.abc import MetaPathFinder

class Block(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == blocked:
            print("blocked", flush=True)
            time.sleep(60)

blocked = sys.argv.pop(1)
sys.meta_path.insert(0, Block())
from lesioncli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "openvino", "numpy", "cv2", "rich.table"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_imports_is_quiet(module: str, number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKED_IMPORT, module, "doctor"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "blocked\n"
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert output in ("", "interrupted\n")


def test_other_commands_end_in_order(tmp_path: Path) -> None:
    with start_program("demo", tmp_path / "many", "--count", "100000") as process:
        while not (tmp_path / "many" / "images" / "demo_0003.jpg").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output.decode()
    assert "Traceback" not in output.decode()
    assert not list(tmp_path.rglob(".*"))
