"""The first run on a GPU of an engine that was compiled elsewhere: the parity gate that could not ask it then."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lesioncli.backends import openvino
from lesioncli.backends.base import Manifest, UInt8
from lesioncli.backends.build import compare, run_all
from lesioncli.backends.registry import open_engine
from lesioncli.backends.tensorrt.vendors import VENDORS, matching_gpus
from lesioncli.errors import EngineError
from lesioncli.images.geometry import to_network

PICTURES = 8


def unverified_on(manifest: Manifest) -> str:
    """The GPU here that would run an engine and never did, or "" where there is none or the engine passed the gate."""
    if manifest.backend not in VENDORS or manifest.gated == "engine":
        return ""
    return next((str(gpu) for _, gpu in matching_gpus(manifest)[:1] if str(gpu) not in manifest.verified), "")


def verify(path: Path, gpu: str, pictures: Sequence[UInt8]) -> str:
    """Compare an engine, run on `gpu`, with its graph, run on this CPU; its manifest then names the GPU.

    Returns what came of it in words. EngineError where they disagree: what such an engine writes is not to be used.
    """
    manifest = Manifest.read(path)
    spec = manifest.spec
    images = [to_network(each, spec.height, spec.width, spec.reduction) for each in pictures]
    graph = path.parent / f"{manifest.stem}.onnx"
    with tempfile.TemporaryDirectory() as work:
        expected = run_all(openvino.run_graph(graph, manifest, Path(work)), images)
    figures, problem = compare(run_all(open_engine(path), images), expected)
    if problem:
        raise EngineError(
            f"{path}: not to be trusted on {gpu}: {problem}; build it again with --precision fp32, or see --no-verify"
        )
    found = f"agrees with its graph on {len(images)} of these pictures: mask Jaccard {figures['mask_jaccard']:.4f}"
    try:
        replace(manifest, verified={**manifest.verified, gpu: figures}).write(path)
    except OSError as error:
        return f"{found}; the manifest cannot be written ({error.strerror}), so the next run asks again"
    return found
