"""The reference of the parity check: ONNX Runtime, where it is installed, or else OpenVINO."""

import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from helpers.command import call
from helpers.engines import CPU_FP32, make_manifest
from helpers.graphs import TINY_CONSTANTS, TINY_OUTPUTS, tiny_outputs, write_graph
from helpers.pictures import SIDE, UInt8, draw
from helpers.shipped import shipped_onnx

from lesioncli.backends import reference
from lesioncli.backends.build import build
from lesioncli.backends.manifest import read_manifest
from lesioncli.backends.reference import compute_reference
from lesioncli.errors import EngineError
from lesioncli.shipped import shipped_models

IMAGES = [draw(seed) for seed in range(5)]
ONNX_RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"


def test_onnx_runtime_computes_the_reference(tiny_onnx: Path, tmp_path: Path) -> None:
    library, outputs = compute_reference(tiny_onnx, make_manifest(), IMAGES, tmp_path)
    assert library == ONNX_RUNTIME
    masks, scores, _ = zip(*map(tiny_outputs, IMAGES), strict=True)
    np.testing.assert_array_equal(outputs.probability, np.stack(masks))
    np.testing.assert_allclose(outputs.scores, np.stack(scores), rtol=1e-6)


def test_a_graph_of_a_fixed_batch_is_run_in_whole_batches(tmp_path: Path) -> None:
    outputs = {name: (kind, (4, *shape[1:])) for name, (kind, shape) in TINY_OUTPUTS.items()}
    fixed = write_graph(tmp_path / "fixed.onnx", outputs=outputs, image_shape=(4, SIDE, SIDE))
    manifest = msgspec.structs.replace(make_manifest(), batch=4)
    library, found = compute_reference(fixed, manifest, IMAGES, tmp_path)
    assert library == ONNX_RUNTIME
    np.testing.assert_array_equal(found.probability, np.stack([image[..., 0] for image in IMAGES]))


def test_without_onnx_runtime_openvino_computes_it(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    library, outputs = compute_reference(tiny_onnx, make_manifest(), IMAGES, tmp_path)
    assert library == f"OpenVINO {openvino.__version__.split('-')[0]}"
    np.testing.assert_array_equal(outputs.probability, np.stack([image[..., 0] for image in IMAGES]))


def test_a_graph_that_onnx_runtime_cannot_run_is_run_by_openvino_with_the_reason(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    model = onnx.load(tiny_onnx)
    model.ir_version = 99  # of a later release
    onnx.save(model, tmp_path / "later.onnx")
    library, outputs = compute_reference(tmp_path / "later.onnx", make_manifest(), IMAGES, tmp_path)
    assert library.startswith(f"OpenVINO {openvino.__version__.split('-')[0]}; ONNX Runtime failed: ")
    assert "99" in library
    assert len(outputs.scores) == len(IMAGES)


def test_a_library_that_cannot_be_imported_is_named(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(reference, "find_spec", lambda name: True)
    assert (
        "ONNX Runtime failed: import of onnxruntime"
        in compute_reference(tiny_onnx, make_manifest(), IMAGES, tmp_path)[0]
    )


def test_an_engine_that_openvino_computes_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that OpenVINO makes in the engine and in the reference alike shows in ONNX Runtime only."""
    swapped = {**TINY_CONSTANTS, "first": np.array(1, np.int64)}
    faulty = write_graph(tmp_path / "faulty.onnx", constants=swapped)
    right = write_graph(tmp_path / "right.onnx")
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, *rest, **named: session(right, *rest, **named))
    with pytest.raises(EngineError, match="masks agree with the graph at Jaccard"):
        build(faulty, tmp_path / "engines", IMAGES, CPU_FP32)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("model", shipped_models())
def test_a_shipped_model_agrees_with_onnx_runtime(model: str, tmp_path: Path, parity_images: list[UInt8]) -> None:
    built = build(shipped_onnx(model), tmp_path, parity_images, CPU_FP32)
    assert built.manifest.reference == ONNX_RUNTIME
    assert read_manifest(built.path).reference == ONNX_RUNTIME
    assert built.manifest.parity is not None
    assert built.manifest.parity.worst_mask_jaccard > 0.999
    assert built.manifest.parity.score_difference < 1e-4


def test_the_command_names_the_library(tiny_onnx: Path, tmp_path: Path) -> None:
    done = call("build-engine", str(tiny_onnx), "--out", str(tmp_path), "--backend", "openvino")
    assert f"agrees with the graph in {ONNX_RUNTIME} on 32 images" in " ".join(done.stdout.split())
