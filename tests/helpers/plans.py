"""Plans of TensorRT for RTX: options to build them, and a comparison of their manifest with their files."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from helpers.engines import list_names
from lesioncli.backends.build import BuiltEngine
from lesioncli.backends.manifest import ParityCheck, read_manifest
from lesioncli.files import sha256_of
from lesioncli.options import Backend, BuildOptions, Precision


def for_targets(*targets: str, **fields: Any) -> BuildOptions:
    """Return options of `build-engine --backend tensorrt-rtx`, in fp32 by default."""
    options = BuildOptions(backend=Backend.TENSORRT_RTX, precision=Precision.FP32, targets=targets)
    return replace(options, **fields)


def assert_plan_is_true(built: BuiltEngine, asked: str, precision: str, targets: Sequence[str]) -> None:
    """Compare the manifest of a plan with its files."""
    manifest, folder = built.manifest, built.path.parent
    graph, plan = sorted(manifest.files)
    assert read_manifest(built.path) == manifest
    assert list_names(folder) == [built.path.name, graph, plan]
    assert manifest.files[plan] == sha256_of(folder / plan)
    assert manifest.files[graph] == sha256_of(folder / graph) == manifest.source_sha256
    assert (manifest.backend, manifest.backend_version) == ("tensorrt-rtx", version("tensorrt-rtx"))
    assert (manifest.precision_asked, manifest.precision) == (asked, precision)
    assert (manifest.targets, manifest.parity_check, manifest.dynamic) == (tuple(targets), ParityCheck.GRAPH, False)
    header = (folder / plan).read_bytes()[:28]
    assert (header[:4], list(header[24:])) == (b"vtrt", [int(part) for part in manifest.backend_version.split(".")])


def assert_only_products_are_half(path: Path, fp32_operators: set[str]) -> None:
    """Check the types of a half-precision graph: it has these operators, and computes them in fp32."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    tensors = [*model.graph.value_info, *model.graph.output]
    types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in tensors}
    operations = {(node.op_type, types[node.output[0]]) for node in model.graph.node}
    assert {name for name, _ in operations} >= fp32_operators
    assert {kind for name, kind in operations if name in fp32_operators} == {onnx.TensorProto.FLOAT}
    assert {kind for name, kind in operations if name in {"Conv", "Gemm", "MatMul"}} == {onnx.TensorProto.FLOAT16}
