"""status: what a run, or each shard, says of itself while it runs."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.command import call
from helpers.pictures import save_many

from lesioncli.backends.base import Engine
from lesioncli.errors import ExitCode, InputError
from lesioncli.images.find import list_images
from lesioncli.inference.record import MaskNames
from lesioncli.inference.run import segment_images
from lesioncli.inference.shards import select_images
from lesioncli.inference.status import RunProgress, RunState, read_progress
from lesioncli.options import SegmentOptions, Shard
from lesioncli.sharding import contains


def test_a_run_from_start_to_end(engine: Engine, images: Path, out: Path) -> None:
    (images / "broken.jpg").write_bytes(b"")
    seen: list[RunProgress] = []
    listing = list_images([images])
    segment_images(listing, engine, out, on_outcome=lambda outcome: seen.extend(read_progress(out)))
    assert [(one.state, one.images, one.left) for one in seen] == [(RunState.RUNNING, 7, 7 - n) for n in range(1, 8)]
    assert [one.failed for one in seen] == [0] * 6 + [1]
    (end,) = read_progress(out)
    assert (end.state, end.ok, end.failed, end.skipped, end.left) == (RunState.FINISHED, 6, 1, 0, 0)
    assert end.images_per_second > 0
    assert end.last_sign is not None
    assert abs(datetime.now(UTC) - end.last_sign) < timedelta(minutes=5)
    seen.clear()
    save_many(images / "later", 1)
    listing = list_images([images])
    segment_images(listing, engine, out, on_outcome=lambda outcome: seen.extend(read_progress(out)))
    assert [(one.skipped, one.left) for one in seen][-1] == (6, 0)
    assert {one.skipped for one in seen} == {6}


def test_a_row_that_is_being_written_does_not_count(engine: Engine, images: Path, out: Path) -> None:
    seen: list[RunProgress] = []

    def add_half_a_row(outcome: object) -> None:
        with (out / "scores.csv.part").open("a") as journal:
            journal.write("004.jpg,004.png,40,30,17,ok")
        seen.extend(read_progress(out))

    with pytest.raises(InputError, match="scores"):
        segment_images(list_images([images]), engine, out, on_outcome=lambda outcome: _stop(add_half_a_row, outcome))
    assert [one.done for one in seen] == [1]


def _stop(function: Any, outcome: object) -> None:
    function(outcome)
    raise InputError("scores")


def test_shards(engine: Engine, images: Path, out: Path) -> None:
    shard = Shard(2, 3)
    listing = select_images(list_images([images]), shard, MaskNames.IMAGES)
    segment_images(listing, engine, out, SegmentOptions(shard=shard))
    expected = sum(contains(shard, f"{number:03}") for number in range(6))
    states = [(one.shard, one.state, one.images) for one in read_progress(out)]
    assert states == [
        (Shard(1, 3), RunState.NOT_STARTED, None),
        (shard, RunState.FINISHED, expected),
        (Shard(3, 3), RunState.NOT_STARTED, None),
    ]
    done = call("status", out)
    assert done.exit_code == ExitCode.OK, done.output
    assert re.findall(r"^shard (\d/3): (not started|finished)", done.stdout, re.M) == [
        ("1/3", "not started"), ("2/3", "finished"), ("3/3", "not started"),
    ]  # fmt: skip
    assert "1 of 3 shards" in done.stdout
    runs = json.loads(call("status", out, "--json").stdout)["runs"]
    assert [(run["shard"], run["left"]) for run in runs] == [("1/3", None), ("2/3", 0), ("3/3", None)]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    assert call("status", tmp_path).exit_code == ExitCode.INPUT
