"""build(): what it writes is what its manifest says, and what disagrees with its graph is not written."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import openvino
import pytest
from helpers.graphs import (
    TINY_CONSTANTS,
    TINY_NODES,
    TINY_OUTPUTS,
    MakeEngine,
    tiny_answers,
    write_graph,
    write_touchy_graph,
)
from helpers.pictures import SIDE, UInt8, draw
from helpers.shipped import shipped_onnx
from onnx import TensorProto, helper

from lesioncli.backends import openvino as openvino_backend
from lesioncli.backends.base import Batch, Manifest
from lesioncli.backends.build import Answers, Built, Reference, build
from lesioncli.backends.openvino import CONVOLUTIONS, EXACT_CONVOLUTIONS, choose_precision, compile_to_files
from lesioncli.backends.registry import choose_backend, find_engine, manifest_path, open_engine
from lesioncli.errors import EngineError, InputError
from lesioncli.shipped import SHIPPED_MODEL
from lesioncli.spec import METADATA_KEY, ModelSpec

PICTURES = [draw(seed, 50, 70) for seed in range(4)]
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16 arithmetic")
SHIPPED = f"{SHIPPED_MODEL}.openvino"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def numpy_reference(pixels: Sequence[UInt8]) -> Answers:
    answers = [tiny_answers(each) for each in pixels]
    return np.stack([mask for mask, _, _ in answers]), np.stack([scores for _, scores, _ in answers]).astype(np.float32)


def changed(change: Callable[[UInt8, Answers], None]) -> Reference:
    """A reference that disagrees: `change` is given masks, and answers to change in place."""

    def reference(pixels: Sequence[UInt8]) -> Answers:
        answers = numpy_reference(pixels)
        change(answers[0], answers)
        return answers

    return reference


@pytest.fixture(scope="module")
def shipped_auto(tmp_path_factory: pytest.TempPathFactory, parity_images: list[UInt8]) -> Built:
    return build(shipped_onnx(), tmp_path_factory.mktemp("auto"), parity_images)


@pytest.fixture(params=["fp32", "auto"])
def shipped(request: pytest.FixtureRequest) -> tuple[str, Path, Manifest]:
    """(precision asked, manifest's path, manifest as returned) of the shipped model."""
    built = request.getfixturevalue(f"shipped_{request.param}")
    return request.param, built.path, built.manifest


def test_the_shipped_model_builds_and_its_manifest_is_true(shipped: tuple[str, Path, Manifest]) -> None:
    asked, path, manifest = shipped
    assert Manifest.read(path) == manifest
    assert names(path.parent) == sorted([path.name, *manifest.files])
    assert {path.suffix for path in map(Path, manifest.files)} == {".xml", ".bin"}
    assert manifest.files == {name: sha256(path.parent / name) for name in manifest.files}
    assert manifest.source_sha256 == sha256(shipped_onnx())
    assert (manifest.backend, manifest.backend_version) == ("openvino", openvino.__version__)
    assert (manifest.precision_asked, manifest.batch) == (asked, 1)
    assert manifest.device.startswith("CPU: ")
    assert datetime.now(UTC) - datetime.fromisoformat(manifest.created) < timedelta(hours=1)


def test_the_shipped_models_parity_is_within_the_gate(shipped: tuple[str, Path, Manifest]) -> None:
    asked, _, manifest = shipped
    assert manifest.precision in (("fp32",) if asked == "fp32" else ("fp32", "bf16"))
    assert manifest.parity["images"] == 4
    assert manifest.parity["mask_jaccard"] >= 0.99
    assert manifest.parity["worst_mask_jaccard"] <= manifest.parity["mask_jaccard"]
    assert manifest.parity["score_difference"] <= 0.02
    if manifest.precision == "fp32":
        assert manifest.parity["mask_jaccard"] == 1


def test_the_shipped_models_spec_is_that_of_its_graph(shipped: tuple[str, Path, Manifest]) -> None:
    metadata = {each.key: each.value for each in onnx.load(shipped_onnx()).metadata_props}
    assert shipped[2].spec == ModelSpec.from_json(metadata[METADATA_KEY], "the graph")


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_an_engine_is_gated_against_the_reference_in_any_batch(tiny_onnx: Path, tmp_path: Path, batch: int) -> None:
    built = build(tiny_onnx, tmp_path, PICTURES, precision="fp32", batch=batch, reference=numpy_reference)
    assert built.manifest.parity == {
        "images": 4,
        "mask_jaccard": 1,
        "worst_mask_jaccard": 1,
        "score_difference": 0,
    }
    assert built.manifest.batch == batch
    with open_engine(built.path) as engine:
        assert {slot.shape for slot in engine.slots} == {(batch, SIDE, SIDE, 3)}


def flip_masks(masks: UInt8, answers: Answers) -> None:
    masks[1] = 255 - masks[1]


def move_scores(masks: UInt8, answers: Answers) -> None:
    answers[1][2, 0] += 0.03


def spoil_scores(masks: UInt8, answers: Answers) -> None:
    answers[1][3, 2] = np.nan


def move_scores_a_little(masks: UInt8, answers: Answers) -> None:
    answers[1][2, 0] += 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_masks, r"in fp32, masks agree with the graph at 0\.\d+, below 0\.99"),
        (move_scores, r"in fp32, scores are off by 0\.0300, more than 0\.02"),
        (spoil_scores, r"in fp32, scores are off by nan"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_an_engine_that_disagrees_is_not_written(
    tiny_onnx: Path, tmp_path: Path, change: Callable[[UInt8, Answers], None], message: str, precision: str
) -> None:
    folder = tmp_path / "engines"
    with pytest.raises(EngineError, match=f"tiny: no engine written: {message}"):
        build(tiny_onnx, folder, PICTURES, precision=precision, reference=changed(change))
    assert names(folder) == []


def test_a_difference_within_the_gate_is_written_down(tiny_onnx: Path, tmp_path: Path) -> None:
    built = build(tiny_onnx, tmp_path, PICTURES, precision="fp32", reference=changed(move_scores_a_little))
    assert built.manifest.parity["score_difference"] == pytest.approx(0.01, abs=1e-5)


def test_a_refused_build_leaves_the_engine_that_was_there(tiny_onnx: Path, tmp_path: Path) -> None:
    built = build(tiny_onnx, tmp_path, PICTURES, precision="fp32")
    before = {name: sha256(tmp_path / name) for name in names(tmp_path)}
    with pytest.raises(EngineError):
        build(tiny_onnx, tmp_path, PICTURES, precision="fp32", reference=changed(flip_masks))
    assert {name: sha256(tmp_path / name) for name in names(tmp_path)} == before
    assert Manifest.read(built.path) == built.manifest


# The cascade has three encoders, and a convolution of two decoders reads the early map of theirs.
@pytest.mark.parametrize(
    ("model", "convolutions"), [("multitask-lite", EXACT_CONVOLUTIONS), ("mbdcnn-lite", 3 * EXACT_CONVOLUTIONS + 2)]
)
def test_the_first_convolutions_of_each_encoder_stay_exact(model: str, convolutions: int, tmp_path: Path) -> None:
    xml = tmp_path / "graph.xml"
    compile_to_files(shipped_onnx(model), xml)
    layers = list(ElementTree.parse(xml).iterfind("layers/layer"))  # noqa: S314 - OpenVINO wrote it
    exact = [each.get("type") for each in layers if each.find("rt_info/attribute[@name='precise']") is not None]
    assert sum(kind in CONVOLUTIONS for kind in exact) == convolutions
    # OpenVINO rewrites these two, and what is written in their place is no longer marked.
    assert "Multiply" in exact
    assert not {"Divide", "Subtract"} & set(exact)


@needs_bf16
def test_what_is_exact_runs_in_fp32_and_the_rest_in_bf16(tmp_path: Path) -> None:
    xml = tmp_path / "graph.xml"
    compile_to_files(shipped_onnx(), xml)
    compiled = openvino.Core().compile_model(xml, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    rows = [each.get_rt_info() for each in compiled.get_runtime_model().get_ordered_ops()]
    layers = [row["runtimePrecision"].astype(str) for row in rows if row["layerType"].astype(str) == "Convolution"]
    assert layers.count("f32") == EXACT_CONVOLUTIONS
    assert layers.count("bf16") == len(layers) - EXACT_CONVOLUTIONS > EXACT_CONVOLUTIONS


def test_a_graph_that_would_be_exact_as_a_whole_is_so_nowhere(tiny_onnx: Path, tmp_path: Path) -> None:
    """Its engine would be called bf16 and be fp32."""
    compile_to_files(tiny_onnx, tmp_path / "graph.xml")
    assert "precise" not in (tmp_path / "graph.xml").read_text()


@needs_bf16
@pytest.mark.parametrize("model", ["multitask-lite", "mbdcnn-lite"])
def test_a_shipped_model_passes_the_gate_in_bf16_for_its_exact_part(
    model: str, parity_images: list[UInt8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(shipped_onnx(model), tmp_path / "engines", parity_images)
    assert built.manifest.precision == "bf16"
    monkeypatch.setattr(openvino_backend, "EXACT_CONVOLUTIONS", -1)
    with pytest.raises(EngineError, match="in bf16, "):
        build(shipped_onnx(model), tmp_path / "none", parity_images, precision="bf16")


@pytest.fixture
def touchy_onnx(tmp_path: Path) -> Path:
    """In bf16 100.2 and 99.8 are both 100."""
    return write_touchy_graph(tmp_path / "touchy.onnx", 100)


GREY = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (128, 200, 255)]


@needs_bf16
def test_auto_falls_back_to_fp32_and_says_why(touchy_onnx: Path, tmp_path: Path) -> None:
    built = build(touchy_onnx, tmp_path / "engines", GREY, precision="auto")
    assert (built.manifest.precision_asked, built.manifest.precision) == ("auto", "fp32")
    assert built.reason.startswith("bf16 was tried and scores are off by 0.")
    assert Manifest.read(built.path) == built.manifest
    with open_engine(built.path) as engine:
        engine.slots[0][:] = 255
        (prediction,) = engine.stream([Batch(0, 1)])
    np.testing.assert_allclose(prediction.scores, 0.4 * 255 / 256, atol=1e-3)


@needs_bf16
def test_bf16_as_asked_does_not_fall_back(touchy_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="in bf16, scores are off by"):
        build(touchy_onnx, tmp_path / "engines", GREY, precision="bf16")
    assert names(tmp_path / "engines") == []


@pytest.mark.parametrize(
    ("capabilities", "asked", "expected"),
    [
        (["FP32", "BF16"], "auto", "bf16"),
        (["FP32"], "auto", "fp32"),
        (["FP32", "BF16"], "fp32", "fp32"),
        (["FP32"], "fp32", "fp32"),
        (["FP32", "BF16"], "bf16", "bf16"),
    ],
)
def test_precision_by_what_the_processor_can_do(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[str], asked: str, expected: str
) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, name: capabilities)
    precision, reason = choose_precision(asked)
    assert precision == expected
    assert (reason == "as asked") == (asked != "auto")


def test_bf16_without_bf16_arithmetic_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda core, device, name: ["FP32"])
    with pytest.raises(EngineError, match="no bf16 arithmetic; build with --precision fp32"):
        choose_precision("bf16")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not a readable ONNX graph"), (b"", "not a readable"), (b"no graph at all", "not a readable ONNX graph")],
)
def test_an_unreadable_graph_is_bad_input(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.onnx: {message}"):
        build(path, tmp_path / "engines", PICTURES)
    assert not (tmp_path / "engines").exists()


def test_a_graph_without_a_spec_is_bad_input(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "bare.onnx", spec=None)
    with pytest.raises(InputError, match=r"bare\.onnx: carries no ModelSpec"):
        build(path, tmp_path / "engines", PICTURES)


def test_a_graph_for_another_size_than_its_spec_is_an_error(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "wide.onnx", spec=ModelSpec("wide", "drawn", SIDE, 2 * SIDE))
    with pytest.raises(EngineError, match=r"takes no images of \(1, 32, 64, 3\)"):
        build(path, tmp_path / "engines", PICTURES)
    assert names(tmp_path / "engines") == []


def test_a_graph_of_one_fixed_shape_cannot_be_batched(tmp_path: Path) -> None:
    """A constant of the shape of a batch of 2 cannot be added to a batch of 3."""
    nodes = {**TINY_NODES, "agreement": helper.make_node("Add", ["brightness", "two_rows"], ["agreement"])}
    constants = {**TINY_CONSTANTS, "two_rows": np.zeros((2, 1), np.float32)}
    outputs = {**TINY_OUTPUTS, "agreement": (TensorProto.FLOAT, (2, 1))}
    path = write_graph(tmp_path / "fixed.onnx", nodes, outputs, constants)
    with pytest.raises(EngineError, match=r"takes no images of \(3, 32, 32, 3\)"):
        build(path, tmp_path / "engines", PICTURES, batch=3)
    assert names(tmp_path / "engines") == []


@pytest.mark.parametrize("batch", [1, 3])
def test_an_engines_files_are_not_bound_to_a_batch_or_size(free_manifest: MakeEngine, batch: int) -> None:
    """Only so can a test procedure show views of other sizes, in other numbers."""
    graph = openvino.Core().read_model(free_manifest(batch).with_suffix(".xml"))
    assert [each.is_dynamic for each in graph.input("image").partial_shape] == [True, True, True, False]


def test_the_shipped_engines_files_take_any_batch_and_size(shipped_fp32: Built) -> None:
    graph = openvino.Core().read_model(shipped_fp32.path.with_suffix(".xml"))
    assert [each.is_dynamic for each in graph.input("image").partial_shape] == [True, True, True, False]


def test_without_pictures_there_is_no_gate(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        build(tiny_onnx, tmp_path / "engines", [])


def test_a_folder_that_cannot_be_made_is_bad_input(tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/engines: cannot be made or written \(Not a directory\)"):
        build(tiny_onnx, tmp_path / "file" / "engines", PICTURES)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="wants a folder that nobody may write into, root neither")
def test_a_folder_that_cannot_be_written_is_bad_input(tiny_onnx: Path) -> None:
    with pytest.raises(InputError, match=r"/proc: cannot be made or written \(.*\); choose another --out"):
        build(tiny_onnx, Path("/proc"), PICTURES)


@pytest.mark.parametrize(("asked", "reason"), [("auto", "the CPU engine"), ("openvino", "as asked")])
def test_choose_backend(asked: str, reason: str) -> None:
    backend, why = choose_backend(asked)
    assert backend == "openvino"
    assert why.startswith(reason)


def test_choose_backend_refuses_what_it_has_not() -> None:
    with pytest.raises(EngineError, match="no backend 'abacus' in this version; it has openvino"):
        choose_backend("abacus")


@pytest.mark.parametrize(
    ("there", "asked", "expected", "reason"),
    [
        ([], None, None, "none in"),
        ([SHIPPED], None, SHIPPED, "the shipped model's"),
        (["a.openvino", SHIPPED], None, SHIPPED, "the shipped model's"),
        (["a.openvino"], None, "a.openvino", "the only one in"),
        (["a.openvino", "b.tensorrt"], None, "a.openvino", "the only one in"),
        (["b.tensorrt"], None, None, "none in"),
        (["a.openvino", "b.openvino"], "b", "b.openvino", "as asked"),
        (["a.openvino", SHIPPED], "a", "a.openvino", "as asked"),
    ],
)
def test_find_engine_by_name_or_default(
    tmp_path: Path, there: list[str], asked: str | None, expected: str | None, reason: str, engine_manifest: Path
) -> None:
    for name in there:
        (tmp_path / f"{name}.json").touch()
        if engine_manifest.stem == name:  # it is looked into: another model may have its name
            shutil.copytree(engine_manifest.parent, tmp_path, dirs_exist_ok=True)
    path, why = find_engine(asked, "openvino", tmp_path)
    assert path == (expected and tmp_path / f"{expected}.json")
    assert why.startswith(reason)


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_find_engine_by_path(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "elsewhere" / "mine.openvino.json"
    path.parent.mkdir()
    path.touch()
    assert find_engine(str(path.with_suffix(suffix)), "openvino", tmp_path) == (path, "as asked")


@pytest.mark.parametrize("asked", ["b", "a.openvino.xml", "engines", ""])
def test_find_engine_that_names_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.openvino.json").touch()
    Path("a.openvino.xml").touch()
    Path("engines").mkdir()
    command = "lesioncli build-engine b" if asked == "b" else "lesioncli build-engine"
    with pytest.raises(EngineError, match=rf"no engine '{asked}' here or in .*/; run: {command}"):
        find_engine(asked, "openvino", tmp_path / "engines")
    with pytest.raises(EngineError, match=rf"in .*/, which has a; choose one of them with --engine, or run: {command}"):
        find_engine(asked, "openvino", tmp_path)


def test_a_manifest_that_is_not_there_is_no_model_to_build(tmp_path: Path) -> None:
    for asked in ("engines/foo", "foo.json"):
        with pytest.raises(EngineError, match=r"run: lesioncli build-engine$"):
            find_engine(asked, "openvino", tmp_path)


def test_find_engine_does_not_choose_among_several(tmp_path: Path) -> None:
    for name in ("b", "a"):
        manifest_path(tmp_path, name, "openvino").touch()
    with pytest.raises(EngineError, match=r"several engines \(a\.openvino\.json, b\.openvino\.json\); .*--engine"):
        find_engine(None, "openvino", tmp_path)
