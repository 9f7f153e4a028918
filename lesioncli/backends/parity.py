"""The parity check: an engine must give nearly the masks and scores of its reference graph.

An engine that was compiled ahead of time cannot run where it is built. It is verified on each model of GPU, before that
runs it for the first time.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from lesioncli.backends import openvino
from lesioncli.backends.base import Outputs, predict_all
from lesioncli.backends.manifest import ParityCheck, ParityFigures, StoredEngine, write_manifest
from lesioncli.backends.registry import BACKENDS, choose_gpus, open_engine
from lesioncli.backends.watchdog import limited
from lesioncli.errors import EngineError
from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.images.geometry import UInt8, to_network
from lesioncli.options import Precision

MIN_LESION_PROBABILITY = 128  # in 1/255: the masks that `segment` writes by default
VERIFICATION_IMAGES = 8


@dataclass(frozen=True)
class ParityLimits:
    """Lowest mean Jaccard of the masks, and greatest difference of a score on any image."""

    mask_jaccard: float
    score_difference: float


def parity_limits(precision: Precision) -> ParityLimits:
    """Return the limits of a precision. Those of int8 are wider; docs/decisions/0080-int8-inside.md says why."""
    return ParityLimits(0.985, 0.1) if precision is Precision.INT8 else ParityLimits(0.99, 0.02)


def compare(outputs: Outputs, expected: Outputs) -> ParityFigures:
    """Return how well outputs agree with the expected outputs of the same images."""
    agreement = [
        metrics.jaccard(metrics.count_pixels(a >= MIN_LESION_PROBABILITY, b >= MIN_LESION_PROBABILITY))
        for a, b in zip(expected.probability, outputs.probability, strict=True)
    ]
    return ParityFigures(
        images=len(outputs.probability),
        mask_jaccard=round(float(np.mean(agreement)), 5),
        worst_mask_jaccard=round(float(np.min(agreement)), 5),
        score_difference=round(float(np.abs(expected.scores - outputs.scores).max()), 5),
    )


def describe_disagreement(figures: ParityFigures, limits: ParityLimits) -> str:
    """Return which limit of the parity check is not met, or ""; nan meets none."""
    if not figures.mask_jaccard >= limits.mask_jaccard:
        return f"masks agree with the graph at Jaccard {figures.mask_jaccard:.4f}, below {limits.mask_jaccard}"
    if not figures.score_difference <= limits.score_difference:
        return f"scores differ by {figures.score_difference:.4f}, more than {limits.score_difference}"
    return ""


@dataclass(frozen=True)
class Verification:
    """The parity of an engine on a GPU, and the engine with it in its manifest.

    problem: why the file of the manifest could not be updated, or "".
    """

    engine: StoredEngine
    figures: ParityFigures
    problem: str


def find_unverified_gpus(engine: StoredEngine, devices: Sequence[int] | None) -> dict[str, int]:
    """Return the GPUs of a run on which an engine was never checked: the first number of each model, by its name.

    devices: as in ProcessOptions. Raises EngineError if one of them does not run the engine.
    """
    manifest = engine.manifest
    if manifest.parity_check is ParityCheck.ENGINE:
        return {}
    if devices is None:
        gpus = list(BACKENDS[manifest.backend].load().find_gpus(manifest).items())[:1]
    else:
        gpus = list(choose_gpus([engine], devices).items())
    return {name: number for number, name in reversed(gpus) if name not in manifest.verified}


def verify(
    engine: StoredEngine, gpu: str, number: int, images: Sequence[UInt8], limit_s: float | None = None
) -> Verification:
    """Check the parity of an engine on a GPU with its graph on this CPU, and add the figures to its manifest.

    gpu, number: name and number of the GPU. limit_s: the process ends with exit code 4 if the GPU takes longer; None:
    there is no limit.

    Raises EngineError if they disagree, or if the manifest does not name the graph.
    """
    manifest, graph = engine.manifest, engine.find_file(".onnx")
    spec = manifest.spec
    inputs = [to_network(image, spec.height, spec.width, spec.reduction) for image in images]
    with tempfile.TemporaryDirectory() as work:
        expected = predict_all(openvino.open_graph(graph, manifest, Path(work)), inputs)
    with limited(f"first run of {engine.path} on {gpu}", limit_s):
        found = predict_all(open_engine(engine, gpu=number), inputs)
    figures = compare(found, expected)
    if problem := describe_disagreement(figures, parity_limits(manifest.precision)):
        raise EngineError(
            f"{engine.path}: fails the parity check on {gpu}: {problem}; build it again with --precision fp32, or skip"
            " the check with --no-verify"
        )
    updated = msgspec.structs.replace(manifest, verified={**manifest.verified, gpu: figures})
    problem = ""
    try:
        write_manifest(engine.path, updated)
    except OSError as error:
        problem = error.strerror or str(error)
    return Verification(replace(engine, manifest=updated), figures, problem)
