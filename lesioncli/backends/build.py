"""ONNX -> engine + manifest, through a parity gate: an engine that disagrees with its graph is not written."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lesioncli.backends import openvino
from lesioncli.backends.base import Batch, Engine, Manifest, UInt8
from lesioncli.backends.registry import manifest_path
from lesioncli.errors import EngineError, InputError
from lesioncli.evaluation.metrics import pixels as metrics
from lesioncli.files import sha256_of
from lesioncli.images.geometry import to_network

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


class Compiler(Protocol):
    """What a backend gives to build(): precisions to try, an engine to judge each by, and the files.

    `gated` says what is judged, the "engine" itself or only the "graph" it is compiled of (see Manifest).
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def gated(self) -> str: ...
    @property
    def dynamic(self) -> bool: ...

    def precisions(self, asked: str) -> Sequence[tuple[str, str]]:
        """(precision, reason) for what to try in turn; EngineError where it has not what is asked for."""
        ...

    def judged(self, onnx: Path, manifest: Manifest, work: Path) -> Engine:
        """What the gate asks, in the manifest's precision; the folder `work` holds its files."""
        ...

    def compile(self, onnx: Path, manifest: Manifest, work: Path) -> Sequence[Path]:
        """The engine's files, written to `work`; EngineError where the graph cannot be compiled so."""
        ...


def build(
    onnx: Path,
    folder: Path,
    pictures: Sequence[UInt8],
    *,
    compiler: Compiler | None = None,
    precision: str = "auto",
    batch: int = 1,
    reference: Reference | None = None,
    name: str | None = None,
) -> Built:
    """Build an engine of an ONNX graph into `folder` and gate it on `pictures`, RGB (H, W, 3).

    Without a compiler, OpenVINO's. The engine is called `name`, else as its model. `reference` gives the fp32 answers;
    without one the graph itself does, in fp32. Raises InputError for a graph that cannot be read and EngineError where
    the engine disagrees. "auto" tries the faster precision first, and says so where only fp32 passes.
    """
    if not pictures:
        raise InputError("the parity gate has no pictures")
    compiler = compiler or openvino.OpenVinoCompiler()
    manifest = _draft(onnx, compiler, precision, batch, name)
    spec = manifest.spec
    images = [to_network(each, spec.height, spec.width, spec.reduction) for each in pictures]
    tries = compiler.precisions(precision)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inside = tempfile.TemporaryDirectory(dir=folder, prefix=".building-")
    except OSError as error:
        raise InputError(f"{folder}: cannot be made or written ({error.strerror}); choose another --out") from error
    with inside as name_of_work:
        work = Path(name_of_work)
        expected = reference(images) if reference else run_all(openvino.run_graph(onnx, manifest, work), images)

        def judge(tried: Manifest) -> Answers:
            return run_all(compiler.judged(onnx, tried, work), images)

        manifest, reason = _first_that_agrees(manifest, tries, judge, expected)
        files = compiler.compile(onnx, manifest, work)
        manifest = replace(manifest, files={each.name: sha256_of(each) for each in files})
        for each in files:
            each.replace(folder / each.name)
    path = manifest_path(folder, spec.name, compiler.name)
    manifest.write(path)
    return Built(path, manifest, reason)


def _draft(onnx: Path, compiler: Compiler, precision: str, batch: int, name: str | None) -> Manifest:
    """The manifest as far as it is known before anything is compiled."""
    spec = openvino.read_spec(onnx)
    if name is not None:
        try:
            spec = replace(spec, name=name)
        except ValueError as error:
            raise InputError(f"no engine can be called so: {error}") from error
    return Manifest(
        spec=spec,
        backend=compiler.name,
        backend_version=compiler.version,
        precision_asked=precision,
        precision="fp32",
        batch=batch,
        device=compiler.device,
        files={},
        source_sha256=sha256_of(onnx),
        parity={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        targets=tuple(compiler.targets),
        gated=compiler.gated,
        dynamic=compiler.dynamic,
    )


def _first_that_agrees(
    manifest: Manifest,
    tries: Sequence[tuple[str, str]],
    judge: Callable[[Manifest], Answers],
    expected: Answers,
) -> tuple[Manifest, str]:
    """(manifest with precision and parity, reason for it); EngineError where no precision passes the gate."""
    problem = ""
    for precision, why in tries:
        reason = f"{manifest.precision} was tried and {problem}" if problem else why
        manifest = replace(manifest, precision=precision)
        figures, problem = compare(judge(manifest), expected)
        if not problem:
            return replace(manifest, parity=figures), reason
    raise EngineError(f"{manifest.spec.name}: no engine written: in {manifest.precision}, {problem}")


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


def compare(found: Answers, expected: Answers) -> tuple[dict[str, float], str]:
    """(parity figures, what is wrong with them or ""), by the gate's limits."""
    masks, scores = found
    agreement = [
        metrics.jaccard(metrics.count(a > GATE_THRESHOLD, b > GATE_THRESHOLD))
        for a, b in zip(expected[0], masks, strict=True)
    ]
    figures = {
        "images": float(len(masks)),
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
