"""Build an engine from an ONNX graph. An engine that fails the parity check is not written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lesioncli.backends import openvino
from lesioncli.backends.base import Engine, Outputs, predict_all
from lesioncli.backends.interface import Compiler, OnProgress
from lesioncli.backends.manifest import Manifest, StoredEngine, manifest_path, write_manifest
from lesioncli.backends.parity import compare, describe_disagreement, parity_limits
from lesioncli.backends.reference import Reference, compute_reference
from lesioncli.backends.registry import open_compiler
from lesioncli.backends.speed import choose_fastest, measure_speeds
from lesioncli.errors import EngineError, InputError, UnsuitedPrecisionError
from lesioncli.files import os_errors_as_input_errors, sha256_of, work_folder
from lesioncli.images.geometry import UInt8, to_network
from lesioncli.options import BuildOptions, Decision, Precision
from lesioncli.spec import check_name


@dataclass(frozen=True)
class BuiltEngine(StoredEngine):
    """An engine that was just written, and the reason for its precision."""

    reason: str


@os_errors_as_input_errors()
def build(
    onnx: Path,
    folder: Path,
    images: Sequence[UInt8],
    options: BuildOptions = BuildOptions(),
    *,
    compiler: Compiler | None = None,
    reference: Reference | None = None,
    on_progress: OnProgress = lambda phase, step, steps: None,
) -> BuiltEngine:
    """Build an engine of an ONNX graph in `folder` and check its parity on `images`, RGB (H, W, 3).

    The engine has the name in the options, or that of its model. Precision `auto` takes the fastest one that passes.
    The compiler is that of the backend in the options. The engine is compared with `reference`, by default with the
    graph itself in fp32, in ONNX Runtime where that is installed.

    Raises InputError if the graph cannot be read, and EngineError if no precision passes the parity check.
    """
    check_output(folder, options.name)
    if not images:
        raise InputError("the parity check has no images")
    compiler = compiler or open_compiler(options, folder)
    draft = _draft_manifest(onnx, compiler, options)
    spec = draft.spec
    inputs = [to_network(image, spec.height, spec.width, spec.reduction) for image in images]
    candidates = compiler.list_precisions(draft.precision_asked)
    with work_folder(folder) as work:
        on_progress(f"reference outputs of {len(inputs)} images", 1, 3)
        library, expected = (
            (reference.library, reference.predict(inputs))
            if reference
            else compute_reference(onnx, draft, inputs, work)
        )
        draft = msgspec.structs.replace(draft, reference=library)

        def open_candidate(candidate: Manifest) -> Engine:
            return compiler.open_for_parity(onnx, candidate, inputs, work)

        def run(candidate: Manifest) -> Outputs:
            on_progress(f"compile and check {candidate.precision}", 2, 3)
            return predict_all(open_candidate(candidate), inputs)

        passing = _check_parity(draft, candidates, run, expected, is_first_enough=not compiler.is_measured)
        checked = passing[0] if len(passing) == 1 else _choose_fastest(passing, open_candidate, inputs)
        files = compiler.compile(onnx, checked.value, inputs, work)
        manifest = msgspec.structs.replace(checked.value, files={file.name: sha256_of(file) for file in files})
        for file in files:
            file.replace(folder / file.name)
    path = manifest_path(folder, spec.name, compiler.backend)
    write_manifest(path, manifest)
    return BuiltEngine(path, manifest, checked.reason)


def check_output(folder: Path, name: str | None) -> None:
    """Raise InputError if no engine of this name can be written to `folder`; make nothing."""
    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise InputError(f"--name {name!r}: {error}") from error
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{folder}: cannot be written ({existing} is not a folder); choose another --out")


def _draft_manifest(onnx: Path, compiler: Compiler, options: BuildOptions) -> Manifest:
    """Return the manifest as far as it is known before compilation."""
    spec = openvino.read_spec(onnx)
    if options.name is not None:
        spec = replace(spec, name=options.name)
    return Manifest(
        spec=spec,
        backend=compiler.backend,
        backend_version=compiler.version,
        precision_asked=options.precision or Precision.AUTO,
        precision=Precision.FP32,
        batch=options.batch or 1,
        device=compiler.device,
        files={},
        source_sha256=sha256_of(onnx),
        parity=None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        targets=tuple(compiler.targets),
        parity_check=compiler.parity_check,
        dynamic=compiler.dynamic,
    )


def _check_parity(
    draft: Manifest,
    candidates: Sequence[Decision[Precision]],
    run: Callable[[Manifest], Outputs],
    expected: Outputs,
    *,
    is_first_enough: bool,
) -> list[Decision[Manifest]]:
    """Return manifests with the precisions that pass the parity check, or with the first; EngineError if none does."""
    passing: list[Decision[Manifest]] = []
    manifest, problem = draft, ""
    for candidate in candidates:
        reason = f"{manifest.precision} was tried and {problem}" if problem else candidate.reason
        manifest = msgspec.structs.replace(draft, precision=candidate.value)
        try:
            figures = compare(run(manifest), expected)
        except UnsuitedPrecisionError as error:
            problem = str(error)
            continue
        problem = describe_disagreement(figures, parity_limits(manifest.precision))
        if not problem:
            passing.append(Decision(msgspec.structs.replace(manifest, parity=figures), reason))
            if is_first_enough:
                break
    if passing:
        return passing
    advice = "export the model again" if manifest.precision is Precision.FP32 else "build with --precision fp32"
    raise EngineError(f"{draft.spec.name}: no engine written: in {manifest.precision}, {problem}; {advice}")


def _choose_fastest(
    passing: Sequence[Decision[Manifest]], open_candidate: Callable[[Manifest], Engine], inputs: Sequence[UInt8]
) -> Decision[Manifest]:
    """Return the manifest with the precision that is the fastest on this machine."""
    manifests = {candidate.value.precision: candidate.value for candidate in passing}
    speeds = measure_speeds({name: open_candidate(manifest) for name, manifest in manifests.items()}, inputs)
    chosen = choose_fastest(speeds)
    return Decision(msgspec.structs.replace(manifests[chosen.value], measured_ms=speeds), chosen.reason)
