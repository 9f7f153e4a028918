"""build(): the engine is what its manifest says, and one that fails the parity check is not written."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import openvino
import pytest
from helpers.engines import CPU, CPU_FP32, list_names, next_batch, slots_of
from helpers.graphs import (
    GREY,
    TINY_CONSTANTS,
    TINY_NODES,
    TINY_OUTPUTS,
    MakeEngine,
    tiny_outputs,
    write_graph,
    write_precise_graph,
)
from helpers.pictures import SIDE, UInt8, draw
from helpers.shipped import shipped_onnx
from onnx import TensorProto, helper

from lesioncli.backends import mixed_precision
from lesioncli.backends.base import Outputs
from lesioncli.backends.build import BuiltEngine, build
from lesioncli.backends.manifest import ParityFigures, read_manifest
from lesioncli.backends.mixed_precision import CONVOLUTIONS, FP32_CONVOLUTIONS
from lesioncli.backends.openvino import OpenVinoCompiler, compile_to_files, read_spec
from lesioncli.backends.parity import parity_limits
from lesioncli.backends.reference import Reference
from lesioncli.backends.registry import open_engine
from lesioncli.errors import EngineError, InputError
from lesioncli.options import BuildOptions, Precision
from lesioncli.spec import METADATA_KEY, ModelSpec

IMAGES = [draw(seed, 50, 70) for seed in range(4)]
CPU_BF16 = replace(CPU, precision=Precision.BF16)
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16 arithmetic")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def numpy_reference(pixels: Sequence[UInt8]) -> Outputs:
    masks, scores, _ = zip(*(tiny_outputs(image) for image in pixels), strict=True)
    return Outputs(np.stack(masks), np.stack(scores).astype(np.float32))


def changed(change: Callable[[Outputs], None]) -> Reference:
    """Return a reference whose outputs `change` changes in place."""

    def reference(pixels: Sequence[UInt8]) -> Outputs:
        outputs = numpy_reference(pixels)
        change(outputs)
        return outputs

    return Reference("numpy", reference)


@pytest.fixture(scope="module")
def shipped_auto(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> BuiltEngine:
    return build(shipped_onnx(), tmp_path_factory.mktemp("auto"), parity_images, CPU)


@pytest.fixture(params=["fp32", "auto"])
def shipped(request: pytest.FixtureRequest) -> BuiltEngine:
    """The shipped model, in fp32 and in the precision that is chosen for this CPU."""
    built: BuiltEngine = request.getfixturevalue(f"shipped_{request.param}")
    return built


def test_the_manifest_of_the_shipped_model_is_true(shipped: BuiltEngine) -> None:
    path, manifest = shipped.path, shipped.manifest
    assert read_manifest(path) == manifest
    assert list_names(path.parent) == sorted([path.name, *manifest.files])
    assert {Path(name).suffix for name in manifest.files} == {".xml", ".bin"}
    assert manifest.files == {name: sha256(path.parent / name) for name in manifest.files}
    assert manifest.source_sha256 == sha256(shipped_onnx())
    assert (manifest.backend, manifest.backend_version) == ("openvino", openvino.__version__)
    assert manifest.batch == 1
    assert manifest.device.startswith("CPU: ")
    assert datetime.now(UTC) - datetime.fromisoformat(manifest.created) < timedelta(hours=1)


def test_the_shipped_model_passes_the_parity_check(shipped: BuiltEngine) -> None:
    asked, precision, parity = shipped.manifest.precision_asked, shipped.manifest.precision, shipped.manifest.parity
    assert parity is not None
    assert asked == Precision.AUTO or precision == asked
    assert parity.images == 4
    limits = parity_limits(precision)
    assert parity.mask_jaccard >= limits.mask_jaccard
    assert parity.worst_mask_jaccard <= parity.mask_jaccard
    assert parity.score_difference <= limits.score_difference
    if precision == Precision.FP32:
        assert parity.mask_jaccard == 1


def test_the_spec_of_the_shipped_model_is_that_of_its_graph(shipped: BuiltEngine) -> None:
    metadata = {prop.key: prop.value for prop in onnx.load(shipped_onnx()).metadata_props}
    assert shipped.manifest.spec.to_json() == ModelSpec.from_json(metadata[METADATA_KEY], "the graph").to_json()


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_an_engine_agrees_with_the_reference_in_any_batch(tiny_onnx: Path, tmp_path: Path, batch: int) -> None:
    built = build(
        tiny_onnx, tmp_path, IMAGES, replace(CPU_FP32, batch=batch), reference=Reference("numpy", numpy_reference)
    )
    assert built.manifest.parity == ParityFigures(4, 1.0, 1.0, 0.0)
    assert built.manifest.batch == batch
    with open_engine(built) as engine:
        assert {slot.shape for slot in slots_of(engine.cycles)} == {(batch, SIDE, SIDE, 3)}


def test_an_engine_has_the_name_asked_for(tiny_onnx: Path, tmp_path: Path) -> None:
    built = build(tiny_onnx, tmp_path, IMAGES, replace(CPU_FP32, name="other"))
    assert (built.path.name, built.manifest.spec.name) == ("other.openvino.json", "other")
    with pytest.raises(InputError, match="--name 'a/b'"):
        build(tiny_onnx, tmp_path, IMAGES, replace(CPU_FP32, name="a/b"))


def invert_a_mask(outputs: Outputs) -> None:
    outputs.probability[1] = 255 - outputs.probability[1]


def change_a_score(outputs: Outputs) -> None:
    outputs.scores[2, 0] += 0.03


def change_a_score_a_little(outputs: Outputs) -> None:
    outputs.scores[2, 0] += 0.01


def put_a_nan(outputs: Outputs) -> None:
    outputs.scores[3, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "named"), [(invert_a_mask, "masks .*0.99"), (change_a_score, "0.0300"), (put_a_nan, "nan")]
)
@pytest.mark.parametrize("options", [CPU_FP32, CPU], ids=["fp32", "auto"])
def test_an_engine_that_disagrees_is_not_written(
    tiny_onnx: Path, tmp_path: Path, change: Callable[[Outputs], None], named: str, options: BuildOptions
) -> None:
    folder = tmp_path / "engines"
    with pytest.raises(EngineError, match=f"tiny: .*fp32, .*{named}"):
        build(tiny_onnx, folder, IMAGES, options, reference=changed(change))
    assert not folder.exists()


def test_a_small_difference_is_written_to_the_manifest(tiny_onnx: Path, tmp_path: Path) -> None:
    built = build(tiny_onnx, tmp_path, IMAGES, CPU_FP32, reference=changed(change_a_score_a_little))
    assert built.manifest.parity is not None
    assert built.manifest.parity.score_difference == pytest.approx(0.01, abs=1e-5)


def test_a_failed_build_leaves_the_earlier_engine(tiny_onnx: Path, tmp_path: Path) -> None:
    built = build(tiny_onnx, tmp_path, IMAGES, CPU_FP32)
    before = {name: sha256(tmp_path / name) for name in list_names(tmp_path)}
    with pytest.raises(EngineError):
        build(tiny_onnx, tmp_path, IMAGES, CPU_FP32, reference=changed(invert_a_mask))
    assert {name: sha256(tmp_path / name) for name in list_names(tmp_path)} == before
    assert read_manifest(built.path) == built.manifest


# The cascade has three encoders; a convolution of two of its decoders reads an early feature map.
@pytest.mark.parametrize(
    ("model", "convolutions"), [("multitask-lite", FP32_CONVOLUTIONS), ("mbdcnn-lite", 3 * FP32_CONVOLUTIONS + 2)]
)
def test_the_first_convolutions_of_each_encoder_are_marked(model: str, convolutions: int, tmp_path: Path) -> None:
    xml = tmp_path / "graph.xml"
    compile_to_files(shipped_onnx(model), xml, Precision.BF16, ())
    layers = list(ElementTree.parse(xml).iterfind("layers/layer"))  # noqa: S314 - OpenVINO wrote it
    marked = [layer.get("type") for layer in layers if layer.find("rt_info/attribute[@name='precise']") is not None]
    assert sum(kind in CONVOLUTIONS for kind in marked) == convolutions
    # OpenVINO replaces these two, and the mark is lost.
    assert "Multiply" in marked
    assert not {"Divide", "Subtract"} & set(marked)


@needs_bf16
def test_marked_convolutions_run_in_fp32_and_the_others_in_bf16(tmp_path: Path) -> None:
    xml = tmp_path / "graph.xml"
    compile_to_files(shipped_onnx(), xml, Precision.BF16, ())
    compiled = openvino.Core().compile_model(xml, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    rows = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    layers = [row["runtimePrecision"].astype(str) for row in rows if row["layerType"].astype(str) == "Convolution"]
    assert layers.count("f32") == FP32_CONVOLUTIONS
    assert layers.count("bf16") == len(layers) - FP32_CONVOLUTIONS > FP32_CONVOLUTIONS


def test_a_graph_of_few_convolutions_is_not_marked(tiny_onnx: Path, tmp_path: Path) -> None:
    """Otherwise its engine would be called bf16 and be fp32."""
    compile_to_files(tiny_onnx, tmp_path / "graph.xml", Precision.BF16, ())
    assert "precise" not in (tmp_path / "graph.xml").read_text()


@needs_bf16
@pytest.mark.parametrize("model", ["multitask-lite", "mbdcnn-lite"])
def test_a_shipped_model_passes_the_parity_check_in_bf16_only_with_its_mark(
    model: str, parity_images: list[UInt8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(shipped_onnx(model), tmp_path / "engines", parity_images, CPU_BF16)
    monkeypatch.setattr(mixed_precision, "FP32_CONVOLUTIONS", -1)
    with pytest.raises(EngineError, match="bf16"):
        build(shipped_onnx(model), tmp_path / "none", parity_images, CPU_BF16)


@pytest.fixture
def precise_onnx(tmp_path: Path) -> Path:
    """A graph that bf16 cannot compute: 100.2 and 99.8 are both 100 in it."""
    return write_precise_graph(tmp_path / "precise.onnx", 100)


@needs_bf16
def test_auto_falls_back_to_fp32_with_a_reason(precise_onnx: Path, tmp_path: Path) -> None:
    built = build(precise_onnx, tmp_path / "engines", GREY, CPU)
    assert (built.manifest.precision_asked, built.manifest.precision) == ("auto", "fp32")
    assert re.match(r"bf16 was tried and .* 0\.", built.reason)
    assert read_manifest(built.path) == built.manifest
    with open_engine(built) as engine:
        batch = next_batch(engine)
        batch.cycle.slots[0][:] = 255
        (prediction,) = engine.stream([batch])
    np.testing.assert_allclose(prediction.slots[0].scores, 0.4 * 255 / 256, atol=1e-3)


@needs_bf16
def test_bf16_that_was_asked_for_does_not_fall_back(precise_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="bf16"):
        build(precise_onnx, tmp_path / "engines", GREY, CPU_BF16)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("capabilities", "asked", "expected"),
    [
        (["FP32", "BF16"], Precision.AUTO, [Precision.INT8, Precision.BF16, Precision.FP32]),
        (["FP32"], Precision.AUTO, [Precision.INT8, Precision.FP32]),
        (["FP32", "BF16"], Precision.FP32, [Precision.FP32]),
        (["FP32"], Precision.INT8, [Precision.INT8]),
        (["FP32", "BF16"], Precision.BF16, [Precision.BF16]),
    ],
)
def test_precisions_by_what_the_processor_can_do(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[str], asked: Precision, expected: list[Precision]
) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, name: capabilities)
    assert [candidate.value for candidate in OpenVinoCompiler().list_precisions(asked)] == expected


@pytest.mark.parametrize("asked", [Precision.BF16, Precision.FP16])
def test_a_precision_that_the_processor_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch, asked: Precision) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, name: ["FP32"])
    with pytest.raises(EngineError, match="fp32"):
        OpenVinoCompiler().list_precisions(asked)


@pytest.mark.parametrize("content", [None, b"", b"no graph at all"])
def test_an_unreadable_graph_is_bad_input(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.onnx"):
        build(path, tmp_path / "engines", IMAGES, CPU)
    assert not (tmp_path / "engines").exists()


def test_a_graph_without_a_spec_is_bad_input(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "bare.onnx", spec=None)
    with pytest.raises(InputError, match=r"bare\.onnx: .*ModelSpec"):
        build(path, tmp_path / "engines", IMAGES, CPU)


@pytest.mark.parametrize(
    ("value", "is_refused"), [((0.0, np.nan), True), ((np.inf, 1.0), True), ((np.nan,), True), (-np.inf, False)]
)
def test_weights_that_are_not_finite_are_bad_input(tmp_path: Path, value: Any, is_refused: bool) -> None:
    """OpenVINO computed finite numbers with a weight of NaN, and so agreed with itself."""
    nodes = {**TINY_NODES, "unused": helper.make_node("Max", ["brightness", "start"], ["unused"])}
    constants = {**TINY_CONSTANTS, "start": np.array(value, np.float32)}
    outputs = {**TINY_OUTPUTS, "unused": (TensorProto.FLOAT, ("N", np.size(value)))}
    path = write_graph(tmp_path / "broken.onnx", nodes, outputs, constants)
    if not is_refused:
        assert read_spec(path).name == "tiny"
        return
    with pytest.raises(InputError, match=r"broken\.onnx: .*start"):
        build(path, tmp_path / "engines", IMAGES, CPU)
    assert not (tmp_path / "engines").exists()


def test_a_graph_for_another_size_than_its_spec_is_an_error(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "wide.onnx", spec=ModelSpec("wide", "drawn", SIDE, 2 * SIDE))
    with pytest.raises(EngineError, match=r"\(1, 32, 64, 3\)"):
        build(path, tmp_path / "engines", IMAGES, CPU)
    assert not (tmp_path / "engines").exists()


def test_a_graph_of_one_fixed_shape_cannot_be_batched(tmp_path: Path) -> None:
    """A constant of the shape of a batch of 2 cannot be added to a batch of 3."""
    nodes = {**TINY_NODES, "agreement": helper.make_node("Add", ["brightness", "two_rows"], ["agreement"])}
    constants = {**TINY_CONSTANTS, "two_rows": np.zeros((2, 1), np.float32)}
    outputs = {**TINY_OUTPUTS, "agreement": (TensorProto.FLOAT, (2, 1))}
    path = write_graph(tmp_path / "fixed.onnx", nodes, outputs, constants)
    with pytest.raises(EngineError, match=r"\(3, 32, 32, 3\)"):
        build(path, tmp_path / "engines", IMAGES, replace(CPU, batch=3))
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("batch", [1, 3])
def test_an_engines_files_are_not_bound_to_a_batch_or_size(free_manifest: MakeEngine, batch: int) -> None:
    """Test-time augmentation has views of other sizes, in other numbers."""
    graph = openvino.Core().read_model(free_manifest(batch).with_suffix(".xml"))
    assert [side.is_dynamic for side in graph.input("image").partial_shape] == [True, True, True, False]


def test_the_shipped_engines_files_take_any_batch_and_size(shipped_fp32: BuiltEngine) -> None:
    graph = openvino.Core().read_model(shipped_fp32.path.with_suffix(".xml"))
    assert [side.is_dynamic for side in graph.input("image").partial_shape] == [True, True, True, False]


def test_without_images_there_is_no_parity_check(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        build(tiny_onnx, tmp_path / "engines", [], CPU)


def test_a_folder_that_cannot_be_made_is_bad_input(tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/engines: .*--out"):
        build(tiny_onnx, tmp_path / "file" / "engines", IMAGES, CPU)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_is_bad_input(tiny_onnx: Path) -> None:
    with pytest.raises(InputError, match=r"/proc: "):
        build(tiny_onnx, Path("/proc"), IMAGES, CPU)
