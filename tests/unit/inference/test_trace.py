"""The timeline of a run with the CPU engine."""

import json
from itertools import pairwise
from pathlib import Path

from helpers.graphs import MakeEngine
from helpers.pictures import save_many

from lesioncli.backends.registry import open_engine
from lesioncli.images.find import ImageListing
from lesioncli.inference.run import segment_images
from lesioncli.inference.trace import Trace


def test_every_image_has_one_event_per_stage_and_tracks_do_not_overlap(
    tiny_manifest: MakeEngine, tmp_path: Path
) -> None:
    images = save_many(tmp_path / "images", 9)
    with Trace.writing(tmp_path / "t.json") as trace, open_engine(tiny_manifest(1), traced=True) as engine:
        segment_images(ImageListing(images), engine, tmp_path / "out", trace=trace)
    events = json.loads((tmp_path / "t.json").read_text())
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    timed = [event for event in events if event["ph"] == "X"]
    names = [image.path.name for image in images]
    on_threads = [event["name"] for event in timed if tracks[event["tid"]].startswith("thread ")]
    in_network = [event["name"] for event in timed if tracks[event["tid"]].startswith("network, slot ")]
    assert sorted(on_threads) == sorted(f"{stage} {name}" for stage in ("decode", "write") for name in names)
    assert sorted(in_network) == names
    for track in tracks:
        spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in timed if event["tid"] == track)
        assert all(first[1] <= second[0] + 1 for first, second in pairwise(spans))


def test_an_engine_that_is_not_traced_adds_no_events(tiny_manifest: MakeEngine, tmp_path: Path) -> None:
    images = save_many(tmp_path / "images", 3)
    with Trace.writing(tmp_path / "t.json") as trace, open_engine(tiny_manifest(1)) as engine:
        segment_images(ImageListing(images), engine, tmp_path / "out", trace=trace)
    assert "network" not in (tmp_path / "t.json").read_text()
