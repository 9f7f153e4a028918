"""Engines: what goes in comes out in order and for good, and a tampered one is not loaded."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import openvino
import pytest
from helpers.graphs import TINY_NODES, TINY_OUTPUTS, MakeEngine, OpenEngine, Outputs, tiny_answers, write_graph
from helpers.pictures import SIDE, UInt8, draw
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lesioncli.backends.base import Batch, Engine, Layout, Prediction
from lesioncli.backends.build import build
from lesioncli.backends.registry import open_engine, shipped_onnx
from lesioncli.errors import EngineError
from lesioncli.files import sha256_of

BATCHES = [1, 3, 4]
MANIFEST = "tiny.openvino.json"
BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)


def groups(pictures: Sequence[UInt8], size: int) -> list[Sequence[UInt8]]:
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]


def fill(engine: Engine, pictures: Sequence[UInt8]) -> Iterator[Batch]:
    """Fill slots in turn, as far ahead as is allowed."""
    batches, filled = groups(pictures, engine.batch_size), 0
    for number, batch in enumerate(batches):
        for coming in range(filled, min(number + 1 + engine.ahead, len(batches))):
            slot = engine.slots[coming % len(engine.slots)]
            slot[: len(batches[coming])] = batches[coming]
            filled += 1
        yield Batch(number % len(engine.slots), len(batch))


def assert_right(predictions: Sequence[Prediction], pictures: Sequence[UInt8]) -> None:
    """Compare kept predictions with each picture's known answers."""
    masks = np.concatenate([each.mask for each in predictions])
    scores = np.concatenate([each.scores for each in predictions])
    agreement = np.concatenate([each.extra["agreement"] for each in predictions])
    expected = [tiny_answers(each) for each in pictures]
    assert np.array_equal(masks, [mask for mask, _, _ in expected])
    np.testing.assert_allclose(scores, [shares for _, shares, _ in expected], atol=1e-6)
    np.testing.assert_allclose(agreement, [brightness for _, _, brightness in expected], atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_all_predictions_kept_to_the_end_are_right_and_in_order(
    tiny_engine: OpenEngine, batch: int, count: int
) -> None:
    engine, pictures = tiny_engine(batch), [draw(seed) for seed in range(count)]
    predictions = list(engine.stream(fill(engine, pictures)))
    assert [each.batch.count for each in predictions] == [len(group) for group in groups(pictures, batch)]
    if count:
        assert_right(predictions, pictures)


@pytest.mark.parametrize("batch", BATCHES)
def test_predictions_belong_to_the_caller(tiny_engine: OpenEngine, batch: int) -> None:
    engine = tiny_engine(batch)
    arrays: list[NDArray[Any]] = []
    for prediction in engine.stream(fill(engine, [draw(seed) for seed in range(40)])):
        new: list[NDArray[Any]] = [prediction.mask, prediction.scores, *prediction.extra.values()]
        assert all(array.flags.owndata and array.flags.writeable for array in new)
        assert not any(np.shares_memory(a, b) for a in new for b in [*arrays, *engine.slots])
        arrays += new


@pytest.mark.parametrize("batch", BATCHES)
def test_a_slot_is_free_once_its_prediction_came(tiny_engine: OpenEngine, batch: int) -> None:
    engine, pictures = tiny_engine(batch), [draw(seed) for seed in range(40)]
    predictions = []
    for number, prediction in enumerate(engine.stream(fill(engine, pictures))):
        predictions.append(prediction)
        if number >= len(pictures) / batch - len(engine.slots):  # its slot is not filled again
            engine.slots[prediction.batch.slot][:] = 255
    assert_right(predictions, pictures)


def test_slots_are_of_the_batchs_shape_and_as_many_as_asked(tiny_manifest: MakeEngine) -> None:
    with open_engine(tiny_manifest(3), ahead_images=12) as engine:
        assert engine.ahead == 5
        assert len(engine.slots) == engine.depth + 5
        assert {slot.shape for slot in engine.slots} == {(3, SIDE, SIDE, 3)}
        assert engine.extra == ("agreement",)


MIXED = Layout(1, ((2, 32, 64), (1, 64, 64), (3, 32, 32), (2, 32, 64), (1, 96, 32)))


@pytest.fixture(scope="module")
def mixed(free_manifest: MakeEngine) -> Iterator[Engine]:
    """An engine whose slots are of several shapes."""
    with open_engine(free_manifest(1), 3, lambda spec, batch: MIXED) as engine:
        yield engine


def fill_mixed(engine: Engine, count: int) -> Iterator[Batch]:
    """Fill slots in turn, as far ahead as is allowed, each with drawn pictures of its shape."""
    filled = 0
    for number in range(count):
        for coming in range(filled, min(number + 1 + engine.ahead, count)):
            slot = engine.slots[coming % len(engine.slots)]
            slot[:] = drawn_for(coming, slot.shape)
            filled += 1
        yield Batch(number % len(engine.slots), len(engine.slots[number % len(engine.slots)]))


def drawn_for(number: int, shape: tuple[int, ...]) -> UInt8:
    rows, height, width, _ = shape
    return np.stack([draw(10 * number + row, height, width) for row in range(rows)])


def test_a_ring_of_several_shapes_holds_whole_cycles(mixed: Engine) -> None:
    assert mixed.layout == MIXED
    assert [slot.shape for slot in mixed.slots] == [(*shape, 3) for shape in MIXED.shapes] * (len(mixed.slots) // 5)
    assert len(mixed.slots) == mixed.depth + mixed.ahead
    assert mixed.ahead >= (3 + 1) * 5  # three images and one more, each a cycle


def test_slots_of_several_shapes_come_out_in_order_and_for_good(mixed: Engine) -> None:
    count = 3 * len(mixed.slots) + 2
    predictions = list(mixed.stream(fill_mixed(mixed, count)))
    assert len(predictions) == count
    arrays: list[NDArray[Any]] = []
    for number, prediction in enumerate(predictions):
        shape = mixed.slots[number % len(mixed.slots)].shape
        assert prediction.mask.shape == shape[:3]
        assert_right([prediction], list(drawn_for(number, shape)))
        arrays += [prediction.mask, prediction.scores, *prediction.extra.values()]
    assert all(array.flags.owndata and array.flags.writeable for array in arrays)


@pytest.fixture(scope="module")
def shipped(engine_manifest: Path) -> Iterator[Engine]:
    """The shipped network, open: slow enough to be met at work."""
    with open_engine(engine_manifest) as engine:
        yield engine


def test_a_stream_left_early_leaves_no_slot_in_use(shipped: Engine) -> None:
    batches = [Batch(slot, 1) for slot in range(shipped.depth)]
    stream = shipped.stream(batches)
    next(stream)
    del stream
    assert len(list(shipped.stream(reversed(batches)))) == len(batches)


def test_an_error_while_batches_are_on_their_way_is_the_callers(shipped: Engine) -> None:
    def broken() -> Iterator[Batch]:
        yield Batch(0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(shipped.stream(broken()))
    assert len(list(shipped.stream([Batch(0, 1)]))) == 1


def test_a_number_that_is_not_finite_marks_its_row_alone(tiny_engine: OpenEngine) -> None:
    engine = tiny_engine(4)
    pictures = [draw(1), BLACK, draw(2), draw(3), BLACK, draw(4)]
    first, tail = engine.stream(fill(engine, pictures))
    assert first.finite.tolist() == [True, False, True, True]
    assert tail.finite.tolist() == [False, True]
    assert_right([first, tail], pictures)


def test_an_extra_output_that_is_infinite_marks_its_row(tmp_path: Path) -> None:
    nodes = {
        **TINY_NODES,
        "scores": helper.make_node("Div", ["sums", "all_light"], ["scores"]),
        "brightness": helper.make_node("Log", ["light"], ["brightness"]),
    }
    built = build(write_graph(tmp_path / "tiny.onnx", nodes), tmp_path, [draw(1)], precision="fp32", batch=2)
    with open_engine(built.path) as engine:
        (prediction,) = engine.stream(fill(engine, [BLACK, draw(2)]))
    assert prediction.extra["agreement"][0] == -np.inf
    assert np.isfinite(prediction.scores).all()
    assert prediction.finite.tolist() == [False, True]


def test_the_shipped_engine_answers_as_its_graph_run_alone(shipped: Engine, gate_pictures: Sequence[UInt8]) -> None:
    inputs = [each[: shipped.spec.height, : shipped.spec.width] for each in gate_pictures]
    predictions = list(shipped.stream(fill(shipped, inputs)))
    core = openvino.Core()
    alone = core.compile_model(core.read_model(shipped_onnx()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for pixels, prediction in zip(inputs, predictions, strict=True):
        expected = alone([np.ascontiguousarray(pixels[None])])
        assert np.abs(prediction.mask.astype(int) - expected["mask"]).max() <= 1
        np.testing.assert_allclose(prediction.scores, expected["scores"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "node", "kind"),
    [
        (
            "mask",
            helper.make_node("Cast", ["red"], ["mask"], to=TensorProto.INT32),
            (TensorProto.INT32, ("n", SIDE, SIDE)),
        ),
        (
            "mask",
            helper.make_node("Cast", ["pixels"], ["mask"], to=TensorProto.UINT8),
            (TensorProto.UINT8, ("n", SIDE, SIDE, 3)),
        ),
        ("scores", helper.make_node("Identity", ["light"], ["scores"]), (TensorProto.FLOAT, ("n", 1))),
        (
            "scores",
            helper.make_node("Cast", ["sums"], ["scores"], to=TensorProto.INT32),
            (TensorProto.INT32, ("n", 3)),
        ),
        ("agreement", helper.make_node("Identity", ["light"], ["agreement"]), (TensorProto.FLOAT, ("n", 1))),
    ],
    ids=["mask int32", "mask of 4 axes", "1 score", "scores int32", "extra of 2 axes"],
)
def test_an_output_that_breaks_the_contract_is_an_error(
    tmp_path: Path, name: str, node: Any, kind: tuple[int, Sequence[int | str]]
) -> None:
    outputs: Outputs = {**TINY_OUTPUTS, name: kind}
    onnx = write_graph(tmp_path / "tiny.onnx", {**TINY_NODES, name: node}, outputs)
    with pytest.raises(EngineError, match=f"output '{name}' is"):
        build(onnx, tmp_path / "engines", [draw(1)], precision="fp32")


@pytest.mark.parametrize("missing", ["mask", "scores"])
def test_a_missing_output_is_an_error(tmp_path: Path, missing: str) -> None:
    outputs = {name: kind for name, kind in TINY_OUTPUTS.items() if name != missing}
    onnx = write_graph(tmp_path / "tiny.onnx", outputs=outputs)
    with pytest.raises(EngineError, match=f"output '{missing}' is missing"):
        build(onnx, tmp_path / "engines", [draw(1)], precision="fp32")


def flip_a_byte(name: str) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return tamper


def change(**fields: Any) -> Callable[[Path], None]:
    """Set fields of the manifest; a callable value is given the old one."""

    def tamper(folder: Path) -> None:
        values = json.loads((folder / MANIFEST).read_text())
        changed = {name: value(values[name]) if callable(value) else value for name, value in fields.items()}
        (folder / MANIFEST).write_text(json.dumps({**values, **changed}))

    return tamper


def put(text: bytes) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        (folder / MANIFEST).write_bytes(text)

    return tamper


def drop_field(folder: Path) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    del values["batch"]
    (folder / MANIFEST).write_text(json.dumps(values))


def escape(files: Mapping[str, str]) -> dict[str, str]:
    """The same hashes under names that lead out of the folder and back."""
    return {f"../engine/{name}": value for name, value in files.items()}


TAMPERINGS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "byte of .bin": (flip_a_byte("tiny.openvino.bin"), r"tiny\.openvino\.bin: does not match .* sha256"),
    "byte of .xml": (flip_a_byte("tiny.openvino.xml"), r"tiny\.openvino\.xml: does not match .* sha256"),
    "no .bin": (lambda folder: (folder / "tiny.openvino.bin").unlink(), r"tiny\.openvino\.bin is missing"),
    "no .xml": (lambda folder: (folder / "tiny.openvino.xml").unlink(), r"tiny\.openvino\.xml is missing"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "not a readable manifest"),
    "empty": (put(b""), "not a readable manifest"),
    "cut short": (put(b'{"format": 1, "spec"'), "not a readable manifest"),
    "no text": (put(b"\xff\xfe\x00"), "not a readable manifest"),
    "a list": (put(b"[1]"), "not a readable manifest"),
    "a field missing": (drop_field, "not a readable manifest .*batch"),
    "a field too many": (change(colour="red"), "not a readable manifest .*colour"),
    "format": (change(format=2), "manifest format 2, this version reads 1"),
    "backend": (change(backend="abacus"), "backend 'abacus'; this version has openvino, tensorrt"),
    "backend of a plan": (change(backend="tensorrt"), "its manifest does not name one .plan"),
    "OpenVINO version": (change(backend_version="2024.0"), r"built with OpenVINO 2024\.0"),
    "hash": (change(files=lambda files: dict.fromkeys(files, "0" * 64)), "does not match its manifest"),
    "hash of no text": (change(files=lambda files: dict.fromkeys(files, None)), "does not match its manifest"),
    "file outside": (change(files=escape), "names a file outside its folder"),
    "file at the root": (change(files={"/etc/passwd": "0"}), "names a file outside its folder"),
    "folder above": (change(files={"..": "0"}), "is missing"),
    "no files": (change(files={}), "does not name an .xml, a .bin"),
    "weights not named": (
        change(files=lambda files: {name: value for name, value in files.items() if name.endswith("xml")}),
        "does not name an .xml, a .bin",
    ),
    "files no table": (change(files=[]), "not a readable manifest"),
    "precision": (change(precision="fp64"), "a precision out of fp32, bf16"),
    "batch 0": (change(batch=0), "batch 0 is not a positive number"),
    "batch as text": (change(batch="1"), "batch '1' is not a positive number"),
    "spec": (change(spec={"name": "tiny"}), "ModelSpec cannot be read"),
    "spec of no table": (change(spec=3), "ModelSpec cannot be read"),
    "size": (change(spec=lambda spec: {**spec, "height": 33}), "not a positive multiple of 32"),
}


@pytest.fixture
def copied(tiny_manifest: MakeEngine, tmp_path: Path) -> Path:
    """A folder of its own with a tiny engine to tamper with."""
    return Path(shutil.copytree(tiny_manifest(1).parent, tmp_path / "engine"))


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampered_engine_is_refused_before_openvino_sees_it(
    copied: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> NoReturn:
        raise AssertionError("OpenVINO was called")

    tamper, message = TAMPERINGS[what]
    tamper(copied)
    monkeypatch.setattr("openvino.Core", explode)
    with pytest.raises(EngineError, match=message) as caught:
        open_engine(copied / MANIFEST)
    assert str(copied) in str(caught.value)


def test_a_manifest_of_another_size_than_its_graph_is_an_error(copied: Path) -> None:
    change(spec=lambda spec: {**spec, "width": 64})(copied)
    with pytest.raises(
        EngineError, match=r"tiny\.openvino\.xml: takes no images of \(1, 32, 64, 3\), only \[.*,32,32,3"
    ):
        open_engine(copied / MANIFEST)


def test_a_graph_of_fixed_size_takes_no_views_of_other_sizes(tiny_manifest: MakeEngine) -> None:
    with pytest.raises(
        EngineError, match=r"takes no images of \(1, 64, 64, 3\), only .*; build it again from its check"
    ):
        open_engine(tiny_manifest(1), lay_out=lambda spec, batch: Layout(1, ((1, SIDE, SIDE), (1, 64, 64))))


def test_a_graph_of_fixed_batch_takes_no_other(tmp_path: Path) -> None:
    outputs = {name: (kind, (2, *shape[1:])) for name, (kind, shape) in TINY_OUTPUTS.items()}
    onnx = write_graph(tmp_path / "tiny.onnx", outputs=outputs, takes=(2, SIDE, SIDE))
    path = build(onnx, tmp_path, [draw(1)], precision="fp32", batch=2).path
    with pytest.raises(EngineError, match=r"takes no images of \(1, 32, 32, 3\), only \[2,32,32,3\]; .* --batch"):
        open_engine(path, lay_out=lambda spec, batch: Layout(1, ((1, SIDE, SIDE),) * 4))


def test_a_file_openvino_cannot_read_is_an_error(copied: Path) -> None:
    """With its hash in the manifest, as after a build of a library that writes nonsense."""
    xml = copied / "tiny.openvino.xml"
    xml.write_text("<net/>")
    change(files=lambda files: {**files, xml.name: sha256_of(xml)})(copied)
    with pytest.raises(EngineError, match=r"tiny\.openvino\.xml: OpenVINO cannot load it"):
        open_engine(copied / MANIFEST)
