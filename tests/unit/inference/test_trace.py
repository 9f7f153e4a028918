"""A timeline of the CPU engine: one bar for each thing done to each image, and none over another on its track."""

import json
from itertools import pairwise
from pathlib import Path

from helpers.graphs import MakeEngine
from helpers.pictures import save_many

from lesioncli.backends.registry import open_engine
from lesioncli.inference.pipeline import Options
from lesioncli.inference.run import run
from lesioncli.inference.trace import Trace


def test_each_image_is_decoded_run_and_written_once(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images = save_many(tmp_path / "images", 9)
    with Trace.writing(tmp_path / "t.json") as trace, open_engine(tiny_manifest(1), traced=True) as engine:
        run(images, engine, tmp_path / "out", Options(trace=trace))
    events = json.loads((tmp_path / "t.json").read_text())
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    bars = [event for event in events if event["ph"] == "X"]
    names = [each.path.name for each in images]
    on_threads = [bar["name"] for bar in bars if tracks[bar["tid"]].startswith("thread ")]
    in_network = [bar["name"] for bar in bars if tracks[bar["tid"]].startswith("network, slot ")]
    assert sorted(on_threads) == sorted(f"{what} {name}" for what in ("decode", "write") for name in names)
    assert sorted(in_network) == names
    for track in tracks:
        spans = sorted((bar["ts"], bar["ts"] + bar["dur"]) for bar in bars if bar["tid"] == track)
        assert all(first[1] <= second[0] + 1 for first, second in pairwise(spans))


def test_an_engine_that_was_not_asked_tells_nothing(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images = save_many(tmp_path / "images", 3)
    with Trace.writing(tmp_path / "t.json") as trace, open_engine(tiny_manifest(1)) as engine:
        run(images, engine, tmp_path / "out", Options(trace=trace))
    assert "network" not in (tmp_path / "t.json").read_text()
