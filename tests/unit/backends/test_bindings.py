"""Every name that the TensorRT backends use exists in the real bindings: TensorRT 10.16 and 11.4, and TensorRT for RTX.

The bindings load without TensorRT's own libraries if stubs replace the three that they are linked to. Nothing can be
called then, so this runs in a separate process.
"""

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.graphs import needs_rtx

from lesioncli.backends.tensorrt import compile as tensorrt

# Classes of the bindings by the variables of our code that hold their objects.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._runtime": "Runtime",
    "settings": "IRuntimeConfig",
    "self._contexts[-1]": "IExecutionContext",
    "self._contexts[number]": "IExecutionContext",
}
SOURCES = [Path(tensorrt.__file__).with_name(name) for name in ("vendors.py", "compile.py", "runtime.py")]
RTX_ONLY = {
    "ComputeCapability",
    "DynamicShapesKernelSpecializationStrategy",
    "create_runtime_config",
    "dynamic_shapes_kernel_specialization_strategy",
    "num_compute_capabilities",
    "set_compute_capability",
}
EXPORTED = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
LOOK_UP = """
import json, sys, warnings
warnings.simplefilter("ignore")
import {module} as value
trt, missing = value, []
for words in json.loads(sys.argv[1]):
    value = trt
    for word in words:
        value = getattr(value, word, None)
    if value is None:
        missing.append(words)
print(json.dumps([trt.__version__, missing]))
"""


def used_names() -> set[tuple[str, ...]]:
    """Return every chain of attributes in our code that begins at the module or at one of its objects."""
    found: set[tuple[str, ...]] = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner, *words = ast.unparse(node).removeprefix("self._").split(".")
            if owner == "trt" and words:
                found.add(tuple(words))
            elif kind := CLASSES.get(ast.unparse(node.value)):
                found.add((kind, node.attr))
    return found


def import_and_look_up(
    module: str, names: set[tuple[str, ...]], folder: Path | None
) -> tuple[str, Sequence[Sequence[str]]]:
    """Return the version of the bindings and the names they lack; `folder` holds bindings that are not installed."""
    environment = {**os.environ, "PYTHONPATH": str(folder or "")}
    words = [sys.executable, "-c", LOOK_UP.format(module=module), json.dumps(sorted(names))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    version, missing = json.loads(done.stdout)
    return version, missing


def link_to_stub(version: str, folder: Path) -> None:
    """Copy the bindings that `make` downloaded to `folder`, with libraries that do nothing."""
    home, compiler = Path(sys.prefix) / f"tensorrt-{version}", shutil.which("cc")
    assert home.is_dir(), f"no {home}; run make test"
    assert compiler, "no C compiler"
    shutil.copytree(home, folder)
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in EXPORTED))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = folder / "tensorrt_bindings" / f"lib{name}.so.{version.split('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)


def test_the_used_names_are_found_in_the_source() -> None:
    assert {
        ("Builder", "build_serialized_network"),
        ("BuilderFlag", "TF32"),
        ("IBuilderConfig", "progress_monitor"),
        ("IBuilderConfig", "set_timing_cache"),
        ("ILogger", "ERROR"),
        ("Runtime",),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("ICudaEngine", "get_tensor_shape"),
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "set_tensor_address"),
        ("IExecutionContext", "execute_async_v3"),
        ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
        ("DynamicShapesKernelSpecializationStrategy",),
    } <= used_names()


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="make sets the bindings up on Linux x86-64 only"
)
@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_tensorrts_bindings_have_every_used_name(tmp_path: Path, version: str) -> None:
    link_to_stub(version, tmp_path / "linked")
    names = {words for words in used_names() if not RTX_ONLY & set(words)}
    found, missing = import_and_look_up(
        "tensorrt_bindings", {*names, ("BuilderFlag", "NONE_SUCH")}, tmp_path / "linked"
    )
    assert found.startswith(f"{version}.")
    assert missing == [["BuilderFlag", "NONE_SUCH"]]


@needs_rtx
def test_tensorrt_for_rtxs_bindings_have_every_used_name() -> None:
    _, missing = import_and_look_up("tensorrt_rtx", {*used_names(), ("BuilderFlag", "NONE_SUCH")}, None)
    assert missing == [["BuilderFlag", "NONE_SUCH"]]
