"""The files of `segment --log` and `--metrics`: what other programs read while a run lasts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.command import call
from helpers.graphs import MakeEngine
from helpers.pictures import save_many
from helpers.runs import start_program
from prometheus_client.parser import text_string_to_metric_families

from lesioncli.errors import ExitCode
from lesioncli.images.decode import OpenedImage
from lesioncli.inference import monitoring, pipeline

FIGURES = {"images", "ok", "failed", "skipped", "left", "images_per_second"}
COMMON = {"time", "event", "shard"}
KEYS = {
    "start": COMMON | {"version", "engine", "device", "images"},
    "heartbeat": COMMON | FIGURES | {"seconds_left"},
    "failed": COMMON | {"image", "stage", "reason"},
    "end": COMMON | FIGURES | {"state", "error", "seconds"},
}


@pytest.fixture
def words(tmp_path: Path, tiny_manifest: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[str | Path, ...]:
    """A command on five images, one of them broken, all named by absolute paths."""
    monkeypatch.chdir(tmp_path)
    save_many(tmp_path / "images/P01", 4)
    (tmp_path / "images/P01/broken.jpg").write_bytes(b"")
    return ("segment", tmp_path / "images", "--out", tmp_path / "masks", "--engine", tiny_manifest(1))


def events_of(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log; each has the documented keys, and no other."""
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [event for event in events if set(event) != KEYS[event["event"]]] == []
    return events


def metrics_of(path: Path) -> dict[tuple[str, str], float]:
    """Return the samples of a metrics file by name and by status or state, as Prometheus' own parser reads them."""
    families = text_string_to_metric_families(path.read_text(encoding="utf-8"))
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["run"] for sample in samples} == {path.stem}
    return {
        (sample.name, sample.labels.get("status", sample.labels.get("state", ""))): sample.value for sample in samples
    }


def test_a_log_has_start_failed_images_and_end(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    log = tmp_path / "logs/run.jsonl"
    assert call(*words, "--log", log).exit_code == ExitCode.SOME_FAILED
    start, failed, end = events_of(log)
    assert (start["event"], start["images"], start["shard"]) == ("start", 5, None)
    assert (failed["image"], failed["stage"]) == ("P01/broken.jpg", "decode")
    assert [end[key] for key in ("state", "images", "ok", "failed", "skipped", "left")] == ["finished", 5, 4, 1, 0, 0]
    assert str(tmp_path) not in log.read_text(encoding="utf-8")
    call(*words, "--log", log)
    again = events_of(log)
    assert [event["event"] for event in again] == ["start", "failed", "end"] * 2  # appended
    assert again[-1]["skipped"] == 4


def test_a_shard_is_named_in_each_event_and_in_the_metrics(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    for index in (1, 2):
        call(*words, "--shard", f"{index}/2", "--log", "log", "--metrics", f"{index}.prom")
    events = events_of(tmp_path / "log")
    assert {event["shard"] for event in events} == {"1/2", "2/2"}
    assert sum(event["ok"] for event in events if event["event"] == "end") == 4
    assert 'shard="2/2"' in (tmp_path / "2.prom").read_text()


def test_metrics_are_those_of_the_run(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    call(*words, "--metrics", "segment.prom")
    metrics = metrics_of(tmp_path / "segment.prom")
    counts = {status: metrics["lesioncli_images", status] for status in ("ok", "failed", "skipped", "left")}
    assert counts == {"ok": 4, "failed": 1, "skipped": 0, "left": 0}
    assert metrics["lesioncli_state", "finished"] == 1
    assert metrics["lesioncli_images_per_second", ""] > 0
    assert abs(metrics["lesioncli_updated_timestamp_seconds", ""] - time.time()) < 60
    assert str(tmp_path) not in (tmp_path / "segment.prom").read_text()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_heartbeats_and_metrics_come_while_nothing_is_finished(
    words: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring._Log, "interval_s", 0.05)
    monkeypatch.setattr(monitoring._Metrics, "interval_s", 0.05)
    seen: list[float] = []

    def decode_slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        seen.append(metrics_of(tmp_path / "run.prom")["lesioncli_state", "running"])
        return decode(*arguments)

    decode = OpenedImage.decode
    monkeypatch.setattr(OpenedImage, "decode", decode_slowly)
    call(*words, "--workers", "1", "--log", "log", "--metrics", "run.prom")
    beats = [event for event in events_of(tmp_path / "log") if event["event"] == "heartbeat"]
    assert len(beats) >= 3
    assert (beats[0]["left"], beats[0]["seconds_left"]) == (5, None)
    assert seen
    assert set(seen) == {1.0}


def test_a_run_that_is_stopped_says_so(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    save_many(tmp_path / "images/more", 30)
    program = start_program(*words, "--workers", "1", "--log", "log", "--metrics", "run.prom", delay=0.1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run.prom").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    program.terminate()
    output = program.communicate(timeout=60)[0]
    assert program.returncode == ExitCode.TERMINATED, output
    end = events_of(tmp_path / "log")[-1]
    assert (end["event"], end["state"], end["error"]) == ("end", "interrupted", None)
    assert end["left"] > 0
    assert metrics_of(tmp_path / "run.prom")["lesioncli_state", "interrupted"] == 1


def test_an_error_is_named_by_its_kind(
    words: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(*words).exit_code == ExitCode.SOME_FAILED
    assert call(*words, "--threshold", "0.6", "--log", "log").exit_code == ExitCode.INPUT
    end = events_of(tmp_path / "log")[-1]
    assert (end["state"], end["error"]) == ("error", "InputError")


@pytest.mark.parametrize(("flag", "name"), [("--log", "file/run.jsonl"), ("--metrics", "file/run.prom")])
def test_a_file_that_cannot_be_written_is_an_error_before_any_work(
    flag: str, name: str, words: tuple[str | Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = call(*words, flag, name)
    assert (done.exit_code, flag in done.stderr, name in done.stderr) == (ExitCode.INPUT, True, True), done.output
    assert not list((tmp_path / "masks").rglob("*.png"))


@pytest.mark.parametrize(("flag", "name"), [("--log", "files/run.jsonl"), ("--metrics", "files/run.prom")])
def test_a_file_that_can_no_longer_be_written_does_not_end_the_run(
    flag: str, name: str, words: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_folder(*arguments: Any) -> Any:
        (tmp_path / "files").rename(tmp_path / "gone")
        (tmp_path / "files").touch()
        return segment(*arguments)

    segment = pipeline.segment
    monkeypatch.setattr("lesioncli.inference.run.segment", lose_folder)
    done = call(*words, flag, name)
    assert (done.exit_code, "4 ok, 1 failed" in done.stdout) == (ExitCode.SOME_FAILED, True), done.output
    assert done.stderr.count(f"{name}: cannot be written") == 1


def test_metrics_need_the_suffix_that_the_collector_reads(words: tuple[str | Path, ...]) -> None:
    assert call(*words, "--metrics", "run.txt").exit_code == ExitCode.USAGE


def test_a_dry_run_writes_neither(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    assert call(*words, "--dry-run", "--log", "log", "--metrics", "run.prom").exit_code == 0
    assert not list(tmp_path.glob("*log*"))
    assert not list(tmp_path.glob("*.prom"))
