"""ONNX -> engine + manifest, through a parity gate: an engine that disagrees with its graph is not written."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends import openvino
from lesioncli.backends.base import Batch, Engine, Manifest, UInt8
from lesioncli.backends.choose import manifest_path
from lesioncli.errors import EngineError, InputError
from lesioncli.evaluation import metrics
from lesioncli.files import sha256_of
from lesioncli.inference.geometry import to_network

MIN_MASK_JACCARD = 0.99
MAX_SCORE_DIFFERENCE = 0.02
GATE_THRESHOLD = 127  # of a probability in 1/255: the masks that a run would write

Answers = tuple[UInt8, NDArray[np.float32]]  # probability (N, H, W) in 1/255, scores (N, K)
Reference = Callable[[Sequence[UInt8]], Answers]


@dataclass(frozen=True)
class Built:
    """What build() wrote, and why it is as it is."""

    path: Path
    manifest: Manifest
    reason: str


def build(
    onnx: Path,
    folder: Path,
    pictures: Sequence[UInt8],
    *,
    precision: str = "auto",
    batch: int = 1,
    reference: Reference | None = None,
    name: str | None = None,
) -> Built:
    """Build an OpenVINO engine of an ONNX graph into `folder` and gate it on `pictures`, RGB (H, W, 3).

    The engine is called `name`, else as its model. `reference` gives the fp32 answers; without one the graph itself
    does, in fp32. Raises InputError for a graph that
    cannot be read and EngineError where the engine disagrees. "auto" tries the faster precision first, and says so
    where only fp32 passes.
    """
    if not pictures:
        raise InputError("the parity gate has no pictures")
    spec = openvino.read_spec(onnx)
    if name is not None:
        try:
            spec = replace(spec, name=name)
        except ValueError as error:
            raise InputError(f"no engine can be called so: {error}") from error
    images = [to_network(each, spec.height, spec.width, spec.reduction) for each in pictures]
    chosen, reason = openvino.choose_precision(precision)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as work:
        stem = manifest_path(folder, spec.name, openvino.NAME).stem
        xml = Path(work) / f"{stem}.xml"
        openvino.compile_to_files(onnx, xml)
        files = [xml, xml.with_suffix(".bin")]
        manifest = Manifest(
            spec=spec,
            backend=openvino.NAME,
            backend_version=openvino.VERSION,
            precision_asked=precision,
            precision=chosen,
            batch=batch,
            device=f"CPU: {openvino.processor()}",
            files={each.name: sha256_of(each) for each in files},
            source_sha256=sha256_of(onnx),
            parity={},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        exact = replace(manifest, precision="fp32")
        expected = reference(images) if reference else run_all(openvino.OpenVinoEngine(exact, xml.parent, 2), images)
        parity, problem = _compare(manifest, xml.parent, images, expected)
        if problem and precision == "auto" and chosen != "fp32":
            manifest, reason = exact, f"{chosen} was tried and {problem}"
            parity, problem = _compare(manifest, xml.parent, images, expected)
        if problem:
            raise EngineError(f"{spec.name}: no engine written: in {manifest.precision}, {problem}")
        for each in files:
            each.replace(folder / each.name)
    manifest = replace(manifest, parity=parity)
    path = manifest_path(folder, spec.name, openvino.NAME)
    manifest.write(path)
    return Built(path, manifest, reason)


def run_all(engine: Engine, images: Sequence[UInt8]) -> Answers:
    """Network-sized images through an engine: probability and scores of all, in order. Closes the engine."""
    size = engine.batch_size

    def filled() -> Iterator[Batch]:
        for number, start in enumerate(range(0, len(images), size)):
            slot, rows = number % len(engine.slots), images[start : start + size]
            for row, image in enumerate(rows):
                engine.slots[slot][row] = image
            yield Batch(slot, len(rows))

    with engine:
        predictions = list(engine.stream(filled()))
    return np.concatenate([each.mask for each in predictions]), np.concatenate([each.scores for each in predictions])


def _compare(
    manifest: Manifest, folder: Path, images: Sequence[UInt8], expected: Answers
) -> tuple[dict[str, float], str]:
    """(parity figures, what is wrong with them or "")."""
    masks, scores = run_all(openvino.OpenVinoEngine(manifest, folder, 2), images)
    agreement = [
        metrics.jaccard(metrics.count(a > GATE_THRESHOLD, b > GATE_THRESHOLD))
        for a, b in zip(expected[0], masks, strict=True)
    ]
    figures = {
        "images": float(len(images)),
        "mask_jaccard": round(float(np.mean(agreement)), 5),
        "worst_mask_jaccard": round(float(np.min(agreement)), 5),
        "score_difference": round(float(np.abs(expected[1] - scores).max()), 5),
    }
    # Written so that a nan fails, too.
    if not figures["mask_jaccard"] >= MIN_MASK_JACCARD:
        return figures, f"masks agree with the graph at {figures['mask_jaccard']:.4f}, below {MIN_MASK_JACCARD}"
    if not figures["score_difference"] <= MAX_SCORE_DIFFERENCE:
        return figures, f"scores are off by {figures['score_difference']:.4f}, more than {MAX_SCORE_DIFFERENCE}"
    return figures, ""
