"""Build an engine from an ONNX graph. An engine that fails the parity check is not written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lesioncli.backends import openvino
from lesioncli.backends.base import Outputs, predict_all
from lesioncli.backends.interface import Compiler, OnProgress
from lesioncli.backends.manifest import Manifest, StoredEngine, manifest_path, write_manifest
from lesioncli.backends.parity import compare, describe_disagreement
from lesioncli.backends.registry import open_compiler
from lesioncli.errors import EngineError, InputError
from lesioncli.files import os_errors_as_input_errors, sha256_of, work_folder
from lesioncli.images.geometry import UInt8, to_network
from lesioncli.options import BuildOptions, Decision, Precision
from lesioncli.spec import check_name

Reference = Callable[[Sequence[UInt8]], Outputs]  # fp32 outputs for network-sized images (H, W, 3)


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

    The engine has the name in the options, or that of its model. Precision `auto` tries the fastest precision first.
    The compiler is that of the backend in the options. The engine is compared with `reference`, by default with the
    graph itself in fp32.

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
        expected = reference(inputs) if reference else predict_all(openvino.open_graph(onnx, draft, work), inputs)

        def run(candidate: Manifest) -> Outputs:
            on_progress(f"compile and check {candidate.precision}", 2, 3)
            return predict_all(compiler.open_for_parity(onnx, candidate, work), inputs)

        checked = _choose_precision(draft, candidates, run, expected)
        files = compiler.compile(onnx, checked.value, work)
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


def _choose_precision(
    draft: Manifest,
    candidates: Sequence[Decision[Precision]],
    run: Callable[[Manifest], Outputs],
    expected: Outputs,
) -> Decision[Manifest]:
    """Return the manifest with the first precision that passes the parity check; EngineError if none does."""
    manifest, problem = draft, ""
    for candidate in candidates:
        reason = f"{manifest.precision} was tried and {problem}" if problem else candidate.reason
        manifest = msgspec.structs.replace(draft, precision=candidate.value)
        figures = compare(run(manifest), expected)
        problem = describe_disagreement(figures)
        if not problem:
            return Decision(msgspec.structs.replace(manifest, parity=figures), reason)
    advice = "export the model again" if manifest.precision is Precision.FP32 else "build with --precision fp32"
    raise EngineError(f"{draft.spec.name}: no engine written: in {manifest.precision}, {problem}; {advice}")
