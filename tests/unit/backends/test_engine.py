"""Engines: predictions come in order, belong to the caller and follow the graph contract."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from helpers.engines import CPU_FP32, fill_in_turn, next_batch, slots_of
from helpers.graphs import TINY_NODES, TINY_OUTPUTS, GraphOutputs, MakeEngine, OpenEngine, tiny_outputs, write_graph
from helpers.pictures import SIDE, UInt8, draw
from helpers.shipped import shipped_onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lesioncli.backends.base import Batch, Engine, Layout, Outputs, Prediction
from lesioncli.backends.build import build
from lesioncli.backends.registry import open_engine
from lesioncli.errors import EngineError
from lesioncli.files import FORMULA_STARTS

BATCHES = [1, 3, 4]
BLACK = np.zeros((SIDE, SIDE, 3), np.uint8)


def arrays_of(prediction: Prediction) -> list[NDArray[Any]]:
    """Return every array of a prediction."""
    arrays: list[NDArray[Any]] = []
    for slot in prediction.slots:
        arrays += [slot.probability, slot.scores, *slot.extra.values()]
    return arrays


def assert_right(outputs: Sequence[Outputs], images: Sequence[UInt8]) -> None:
    """Compare outputs with what numpy computes for each image."""
    expected = [tiny_outputs(image) for image in images]
    assert np.array_equal(np.concatenate([part.probability for part in outputs]), [mask for mask, _, _ in expected])
    scores = np.concatenate([part.scores for part in outputs])
    np.testing.assert_allclose(scores, [shares for _, shares, _ in expected], atol=1e-6)
    agreement = np.concatenate([part.extra["agreement"] for part in outputs])
    np.testing.assert_allclose(agreement, [brightness for _, _, brightness in expected], atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_predictions_are_right_and_in_order(tiny_engine: OpenEngine, batch: int, count: int) -> None:
    engine, images = tiny_engine(batch), [draw(seed) for seed in range(count)]
    predictions = list(engine.stream(fill_in_turn(engine, images)))
    assert [prediction.batch.images for prediction in predictions] == [
        min(batch, count - start) for start in range(0, count, batch)
    ]
    if count:
        assert_right([prediction.slots[0] for prediction in predictions], images)


@pytest.mark.parametrize("batch", BATCHES)
def test_predictions_belong_to_the_caller(tiny_engine: OpenEngine, batch: int) -> None:
    engine = tiny_engine(batch)
    arrays: list[NDArray[Any]] = []
    for prediction in engine.stream(fill_in_turn(engine, [draw(seed) for seed in range(40)])):
        new = arrays_of(prediction)
        assert all(array.flags.owndata and array.flags.writeable for array in new)
        assert not any(np.shares_memory(a, b) for a in new for b in [*arrays, *slots_of(engine.cycles)])
        arrays += new


@pytest.mark.parametrize("batch", BATCHES)
def test_a_cycle_is_free_after_its_prediction(tiny_engine: OpenEngine, batch: int) -> None:
    engine, images = tiny_engine(batch), [draw(seed) for seed in range(40)]
    outputs = []
    for number, prediction in enumerate(engine.stream(fill_in_turn(engine, images))):
        outputs.append(prediction.slots[0])
        if number >= len(images) / batch - len(engine.cycles):  # the cycle is not filled again
            prediction.batch.cycle.slots[0][:] = 255
    assert_right(outputs, images)


def test_cycles_have_the_shape_of_the_batch_and_as_many_as_asked_for(tiny_manifest: MakeEngine) -> None:
    with open_engine(tiny_manifest(3), images_ahead=12) as engine:
        assert len(engine.cycles) == engine.depth + 5
        assert engine.prefetch == 6
        assert {slot.shape for slot in slots_of(engine.cycles)} == {(3, SIDE, SIDE, 3)}
        assert engine.extra == ("agreement",)


def test_cycles_come_in_turn(tiny_engine: OpenEngine) -> None:
    engine = tiny_engine(1)
    first = [engine.next_cycle() for _ in engine.cycles]
    assert {cycle.number for cycle in first} == set(range(len(engine.cycles)))
    assert [engine.next_cycle() for _ in engine.cycles] == first


MIXED = Layout(1, ((2, 32, 64), (1, 64, 64), (3, 32, 32), (2, 32, 64), (1, 96, 32)))


@pytest.fixture(scope="module")
def mixed(free_manifest: MakeEngine) -> Iterator[Engine]:
    """An engine with slots of several shapes in each cycle."""
    with open_engine(free_manifest(1), 3, lambda spec, batch: MIXED) as engine:
        yield engine


def draw_rows(number: int, shape: tuple[int, ...]) -> UInt8:
    rows, height, width, _ = shape
    return np.stack([draw(10 * number + row, height, width) for row in range(rows)])


def test_memory_is_made_of_whole_cycles(mixed: Engine) -> None:
    assert mixed.layout == MIXED
    assert all([slot.shape[:3] for slot in cycle.slots] == list(MIXED.shapes) for cycle in mixed.cycles)
    assert len(slots_of(mixed.cycles)) >= mixed.depth + (3 + 1) * 5  # three images ahead and one more
    assert mixed.prefetch >= 4


def test_cycles_of_several_slots_come_out_whole_and_in_order(mixed: Engine) -> None:
    count = 3 * len(mixed.cycles) + 2
    drawn: list[list[UInt8]] = []

    def fill() -> Iterator[Batch]:
        for number in range(count):
            cycle = mixed.next_cycle()
            for place, slot in enumerate(cycle.slots):
                slot[:] = draw_rows(10 * number + place, slot.shape)
            drawn.append([slot.copy() for slot in cycle.slots])
            yield Batch(cycle, 1)

    predictions = list(mixed.stream(fill()))
    assert len(predictions) == count
    for prediction, slots in zip(predictions, drawn, strict=True):
        assert len(prediction.slots) == 5
        for outputs, slot in zip(prediction.slots, slots, strict=True):
            assert outputs.probability.shape == slot.shape[:3]
            assert_right([outputs], list(slot))
    arrays = [array for prediction in predictions for array in arrays_of(prediction)]
    assert all(array.flags.owndata and array.flags.writeable for array in arrays)


@pytest.fixture(scope="module")
def shipped(engine_manifest: Path) -> Iterator[Engine]:
    """The shipped model, open: slow enough to be stopped while it works."""
    with open_engine(engine_manifest) as engine:
        yield engine


def test_a_stream_that_is_closed_early_leaves_no_slot_in_use(shipped: Engine) -> None:
    batches = [next_batch(shipped) for _ in range(shipped.depth)]
    stream = shipped.stream(batches)
    next(stream)
    del stream
    assert len(list(shipped.stream(reversed(batches)))) == len(batches)


def test_an_error_of_the_caller_ends_the_stream(shipped: Engine) -> None:
    def broken() -> Iterator[Batch]:
        yield next_batch(shipped)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(shipped.stream(broken()))
    assert len(list(shipped.stream([next_batch(shipped)]))) == 1


def test_a_nan_marks_only_its_row(tiny_engine: OpenEngine) -> None:
    engine = tiny_engine(4)
    images = [draw(1), BLACK, draw(2), draw(3), BLACK, draw(4)]
    first, tail = (prediction.slots[0] for prediction in engine.stream(fill_in_turn(engine, images)))
    assert first.is_finite.tolist() == [True, False, True, True]
    assert tail.is_finite.tolist() == [False, True]
    assert_right([first, tail], images)


def test_an_infinite_further_output_marks_its_row(tmp_path: Path) -> None:
    nodes = {
        **TINY_NODES,
        "scores": helper.make_node("Div", ["sums", "all_light"], ["scores"]),
        "brightness": helper.make_node("Log", ["light"], ["brightness"]),
    }
    built = build(write_graph(tmp_path / "tiny.onnx", nodes), tmp_path, [draw(1)], replace(CPU_FP32, batch=2))
    with open_engine(built) as engine:
        (prediction,) = engine.stream(fill_in_turn(engine, [BLACK, draw(2)]))
    (outputs,) = prediction.slots
    assert outputs.extra["agreement"][0] == -np.inf
    assert np.isfinite(outputs.scores).all()
    assert outputs.is_finite.tolist() == [False, True]


def test_the_shipped_engine_gives_the_outputs_of_its_graph(shipped: Engine, parity_images: Sequence[UInt8]) -> None:
    inputs = [image[: shipped.spec.height, : shipped.spec.width] for image in parity_images]
    predictions = list(shipped.stream(fill_in_turn(shipped, inputs)))
    core = openvino.Core()
    graph = core.compile_model(core.read_model(shipped_onnx()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for pixels, prediction in zip(inputs, predictions, strict=True):
        expected = graph([np.ascontiguousarray(pixels[None])])
        assert np.abs(prediction.slots[0].probability.astype(int) - expected["mask"]).max() <= 1
        np.testing.assert_allclose(prediction.slots[0].scores, expected["scores"], atol=1e-4)


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
    ids=["mask int32", "mask with 4 axes", "1 score", "scores int32", "extra with 2 axes"],
)
def test_an_output_that_breaks_the_contract_is_an_error(
    tmp_path: Path, name: str, node: Any, kind: tuple[int, Sequence[int | str]]
) -> None:
    outputs: GraphOutputs = {**TINY_OUTPUTS, name: kind}
    onnx = write_graph(tmp_path / "tiny.onnx", {**TINY_NODES, name: node}, outputs)
    with pytest.raises(EngineError, match=f"output '{name}'"):
        build(onnx, tmp_path / "engines", [draw(1)], CPU_FP32)


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_an_output_named_like_a_formula_is_an_error(tmp_path: Path, start: str) -> None:
    name = f"{start}cmd()"
    nodes = {**TINY_NODES, "agreement": helper.make_node("Squeeze", ["brightness", "channels"], [name])}
    outputs = {**TINY_OUTPUTS, name: TINY_OUTPUTS["agreement"]}
    del outputs["agreement"]
    onnx = write_graph(tmp_path / "tiny.onnx", nodes, outputs)
    with pytest.raises(EngineError, match="formula"):
        build(onnx, tmp_path / "engines", [draw(1)], CPU_FP32)


@pytest.mark.parametrize("missing", ["mask", "scores"])
def test_a_missing_output_is_an_error(tmp_path: Path, missing: str) -> None:
    outputs = {name: kind for name, kind in TINY_OUTPUTS.items() if name != missing}
    onnx = write_graph(tmp_path / "tiny.onnx", outputs=outputs)
    with pytest.raises(EngineError, match=f"output '{missing}'"):
        build(onnx, tmp_path / "engines", [draw(1)], CPU_FP32)


def test_a_graph_of_fixed_size_does_not_accept_views_of_other_sizes(tiny_manifest: MakeEngine) -> None:
    with pytest.raises(EngineError, match=r"\(1, 64, 64, 3\)"):
        open_engine(tiny_manifest(1), make_layout=lambda spec, batch: Layout(1, ((1, SIDE, SIDE), (1, 64, 64))))


def test_a_graph_of_fixed_batch_does_not_accept_another(tmp_path: Path) -> None:
    outputs = {name: (kind, (2, *shape[1:])) for name, (kind, shape) in TINY_OUTPUTS.items()}
    onnx = write_graph(tmp_path / "tiny.onnx", outputs=outputs, image_shape=(2, SIDE, SIDE))
    built = build(onnx, tmp_path, [draw(1)], replace(CPU_FP32, batch=2))
    with pytest.raises(EngineError, match="--batch"):
        open_engine(built, make_layout=lambda spec, batch: Layout(1, ((1, SIDE, SIDE),) * 4))
