"""Processes of one run that are killed or told to stop: nothing is lost, and nothing is left running."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import save_many
from helpers.processes import is_running, list_children, start_processes
from helpers.runs import files_of, record_of

from lesioncli.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

IMAGES = 150
Words = tuple[str | Path, ...]


@pytest.fixture
def words(tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> Words:
    """A command without --out; the folder `one` has what one process leaves."""
    monkeypatch.chdir(tmp_path)
    save_many(tmp_path / "images", IMAGES)
    command = ("segment", "images", "--engine", tiny_manifest(1))
    assert call(*command, "--out", "one").exit_code == ExitCode.OK
    return command


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def count_rows(out: Path) -> int:
    part = out / "scores.csv.part"
    return part.read_bytes().count(b"\n") - 1 if part.exists() else 0


def time_of_start(out: Path) -> int:
    """Return when run.json was written: a run does so before its first image."""
    return (out / "run.json").stat().st_mtime_ns if (out / "run.json").exists() else 0


def test_the_images_of_a_killed_process_are_done_by_others(words: Words, tmp_path: Path) -> None:
    out = tmp_path / "two"
    with start_processes(tmp_path, *words, "--out", "two", "--processes", "2", "--workers", "1", delay=0.05) as program:
        wait_until(lambda: count_rows(out) > 20)
        first, second = list_children(program.pid)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(list_children(program.pid)) == 2 and first not in list_children(program.pid))
        output, _ = program.communicate(timeout=100)
    assert program.returncode == ExitCode.OK, output.decode()
    assert "ended by signal 9 (SIGKILL)" in output.decode()
    assert files_of(out) == files_of(tmp_path / "one")
    record = record_of(out)
    assert (record["ok"], record["failed"], len(record["lost"])) == (IMAGES, 0, 1)
    assert not is_running(second)


@pytest.mark.parametrize(("number", "code", "to_all"), [(signal.SIGTERM, 143, False), (signal.SIGINT, 130, True)])
def test_a_signal_ends_all_processes_in_order(
    words: Words, tmp_path: Path, number: signal.Signals, code: int, to_all: bool
) -> None:
    """A terminal sends Ctrl-C to all of them, `kill` to the first only."""
    out = tmp_path / "two"
    with start_processes(tmp_path, *words, "--out", "two", "--processes", "2", "--workers", "1", delay=0.05) as program:
        wait_until(lambda: count_rows(out) > 10)
        children = list_children(program.pid)
        (os.killpg if to_all else os.kill)(program.pid, number)
        output, _ = program.communicate(timeout=100)
    assert program.returncode == code, output.decode()
    assert "Traceback" not in output.decode()
    assert len(children) == 2
    assert not any(map(is_running, children))
    record = record_of(out)
    assert (record["status"], record["failed"], "lost" in record) == ("interrupted", 0, False)
    assert 10 < record["ok"] < IMAGES
    assert len(list(out.glob("*.png"))) == record["ok"], "images in work must be finished"
    done = call(*words, "--out", "two")
    assert (done.exit_code, f"{record['ok']} skipped" in done.stdout) == (ExitCode.OK, True), done.output
    assert files_of(out) == files_of(tmp_path / "one")


def test_nothing_runs_on_when_the_run_is_killed(words: Words, tmp_path: Path) -> None:
    """Another number of processes continues; so does one with a second signal, which ends a run at once."""
    out = tmp_path / "two"
    for number, processes in ((signal.SIGKILL, "3"), (signal.SIGTERM, "2")):
        command = (*words, "--out", "two", "--processes", processes, "--workers", "1")
        before = time_of_start(out)
        with start_processes(tmp_path, *command, "--grace", "0.2", delay=0.5) as program:
            wait_until(lambda: time_of_start(out) != before and count_rows(out) > 1)  # noqa: B023 - called at once
            children = list_children(program.pid)
            program.send_signal(number)
            program.communicate(timeout=100)
        assert len(children) == int(processes)
        wait_until(lambda: not any(map(is_running, children)))  # noqa: B023 - called at once
    done = call(*words, "--out", "two")
    assert (done.exit_code, " 0 skipped" in done.stdout) == (ExitCode.OK, False), done.output
    assert files_of(out) == files_of(tmp_path / "one")


def test_an_image_that_kills_every_process_ends_the_run(words: Words, tmp_path: Path) -> None:
    """As an engine that fails: exit code 4, and what is done is kept."""
    out = tmp_path / "two"
    with start_processes(tmp_path, *words, "--out", "two", "--processes", "1", "--devices", "all", delay=0) as program:
        output, _ = program.communicate(timeout=100)
    assert program.returncode == ExitCode.ENGINE, output.decode()
    killed = set[int]()
    command = (*words, "--out", "two", "--processes", "2", "--workers", "1")
    with start_processes(tmp_path, *command, delay=0.2) as program:
        while program.poll() is None:
            for child in set(list_children(program.pid)) - killed if count_rows(out) > 5 else ():
                os.kill(child, signal.SIGKILL)
                killed.add(child)
            time.sleep(0.05)
        output, _ = program.communicate()
    assert program.returncode == ExitCode.ENGINE, output.decode()
    assert "all processes are lost" in output.decode()
    assert len(killed) == 6
    assert record_of(out)["status"] == "interrupted"
    assert call(*words, "--out", "two").exit_code == ExitCode.OK
    assert files_of(out) == files_of(tmp_path / "one")
