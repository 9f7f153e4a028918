"""Runs of `segment` on the GPU under test."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lesioncli.backends.registry import open_engine
from lesioncli.images.find import ImageFile, ImageListing
from lesioncli.inference.record import RunSummary
from lesioncli.inference.run import segment_images
from lesioncli.inference.trace import Trace
from lesioncli.options import SegmentOptions

Files = dict[str, bytes]  # content by name


def segment_with(manifest: Path, images: list[ImageFile], out: Path, workers: int = 2) -> Files:
    """Run an engine on images; return what it writes."""
    with open_engine(manifest, 2 * workers) as engine:
        segment_images(ImageListing(images), engine, out, SegmentOptions(workers=workers))
    return read_outputs(out)


def segment_in_step(manifest: Path, images: list[ImageFile], out: Path) -> Files:
    """Run with one batch at a time, and wait after each copy and each computation: no race is possible."""
    import pycuda.driver as cuda  # the stand-in may be lent only now

    from lesioncli.backends.tensorrt import runtime

    def waiting(function: Any) -> Any:
        def call(*arguments: Any) -> None:
            cuda.Context.synchronize()
            function(*arguments)
            cuda.Context.synchronize()

        return call

    with (
        patch.object(runtime, "DEPTH", 1),
        patch.object(cuda, "memcpy_htod_async", waiting(cuda.memcpy_htod_async)),
        patch.object(cuda, "memcpy_dtoh_async", waiting(cuda.memcpy_dtoh_async)),
        patch.object(runtime._Plan, "execute", waiting(runtime._Plan.execute)),
    ):
        return segment_with(manifest, images, out)


def segment_traced(
    manifest: Path, images: list[ImageFile], out: Path, workers: int, copies: int
) -> tuple[RunSummary, float]:
    """Run on `copies` of the images; return the summary and the share of the time in which the GPU computed."""
    many = [
        ImageFile(image.local_path, f"{image.local_path.stem}-{copy}") for copy in range(copies) for image in images
    ]
    trace_path = out.with_suffix(".json")
    with Trace.writing(trace_path) as trace, open_engine(manifest, 2 * workers, traced=True) as engine:
        summary = segment_images(ImageListing(many), engine, out, SegmentOptions(workers=workers), trace=trace)
    assert summary.ok == len(many)
    return summary, busy_share(trace_path)


def read_outputs(out: Path) -> Files:
    """Return the masks and tables of an output folder; run.json holds times."""
    return {
        path.name: path.read_bytes()
        for path in sorted(out.iterdir())
        if path.name != "run.json" and not path.name.startswith(".")
    }


def busy_share(path: Path) -> float:
    """Return the share of the time between the first and the last batch of a trace in which the GPU computed."""
    events = json.loads(path.read_text())
    (track,) = (event["tid"] for event in events if event["ph"] == "M" and event["args"]["name"] == "compute")
    bars = [(event["ts"], event["dur"]) for event in events if event["ph"] == "X" and event["tid"] == track]
    return float(sum(duration for _, duration in bars) / (bars[-1][0] + bars[-1][1] - bars[0][0]))
