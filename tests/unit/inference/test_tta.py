"""Test-time augmentation: views and crops by hand, and the mean of their outputs."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from helpers.graphs import FREE_SIDE, FREE_SPEC, tiny_outputs
from helpers.pictures import UInt8, draw
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lesioncli.backends.base import Batch, Cycle, Layout, Outputs, Prediction
from lesioncli.errors import EngineError
from lesioncli.images.geometry import from_upright, to_network, to_upright
from lesioncli.inference.tta import PROCEDURES, Crop, Procedure
from lesioncli.options import TTA
from lesioncli.spec import ModelSpec

Turn = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
# The views in numpy; rot90 turns anticlockwise.
TURNS: dict[TTA, list[Turn]] = {
    TTA.NONE: [lambda picture: picture],
    TTA.FLIPS: [
        lambda picture: picture,
        lambda picture: picture[:, ::-1],
        lambda picture: picture[::-1],
        lambda picture: picture[::-1, ::-1],
    ],
    TTA.FULL: [
        lambda picture: picture,
        lambda picture: np.rot90(picture, -1),
        lambda picture: np.rot90(picture, 2),
        lambda picture: np.rot90(picture, 1),
        lambda picture: picture[:, ::-1],
        lambda picture: picture[::-1],
    ],
}
FLAT = (0.2, 0.3, 0.5)


def spec_of(height: int, width: int) -> ModelSpec:
    return ModelSpec("drawn", "drawn", height, width)


def make_cycle(procedure: Procedure, spec: ModelSpec, batch: int) -> Cycle:
    return procedure.layout(spec, batch).allocate(1)[0]


def make_outputs(probability: UInt8, scores: Sequence[Sequence[float]], agreement: Sequence[float]) -> Outputs:
    """Return the outputs of one slot."""
    return Outputs(probability, np.array(scores, np.float32), {"agreement": np.array(agreement, np.float32)})


def predict(*slots: Outputs) -> Prediction:
    """Return a prediction with these outputs."""
    return Prediction(Batch(Cycle(0, ()), 1), slots)


def run_network(cycle: Cycle) -> Prediction:
    """Compute the free graph in numpy; its mask turns with the image."""
    slots = []
    for slot in cycle.slots:
        masks, scores, agreement = zip(*(tiny_outputs(row) for row in slot), strict=True)
        slots.append(make_outputs(np.stack(masks), [list(row) for row in scores], agreement))
    return predict(*slots)


@pytest.mark.parametrize("tta", TTA)
def test_a_view_is_right_and_its_inverse_is_exact(tta: TTA) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    views = PROCEDURES[tta].views
    assert len(set(views)) == len(views)
    for view, turn in zip(views, TURNS[tta], strict=True):
        turned = to_upright(picture, view)
        assert np.array_equal(turned, turn(picture))
        assert np.array_equal(from_upright(turned, view), picture)


@pytest.mark.parametrize(
    ("tta", "side", "batch", "shapes"),
    [
        (TTA.NONE, 256, 5, [(5, 256, 256)]),
        (TTA.FLIPS, 256, 4, [(4, 256, 256)]),
        (TTA.FLIPS, 256, 7, [(4, 256, 256)]),
        (TTA.FLIPS, 256, 8, [(8, 256, 256)]),
        (TTA.FLIPS, 256, 16, [(16, 256, 256)]),
        (TTA.FLIPS, 256, 18, [(16, 256, 256)]),
        (TTA.FLIPS, 256, 1, [(1, 256, 256)] * 4),
        (TTA.FLIPS, 256, 3, [(3, 256, 256), (1, 256, 256)]),
        (TTA.FULL, 256, 9, [(6, 224, 224), (6, 256, 256), (6, 288, 288), (9, 256, 256)]),
        (TTA.FULL, 256, 64, [(6, 224, 224), (6, 256, 256), (6, 288, 288), (9, 256, 256)]),
        (TTA.FULL, 512, 9, [(6, 448, 448), (6, 512, 512), (6, 576, 576), (9, 512, 512)]),
        (TTA.FULL, 96, 9, [(6, 64, 64), (6, 96, 96), (6, 128, 128), (9, 96, 96)]),
        (TTA.FULL, 32, 9, [(6, 32, 32), (6, 32, 32), (6, 64, 64), (9, 32, 32)]),
        (TTA.FULL, 256, 1, [(1, 224, 224)] * 6 + [(1, 256, 256)] * 6 + [(1, 288, 288)] * 6 + [(1, 256, 256)] * 9),
        (
            TTA.FULL,
            96,
            4,
            [
                *((rows, side, side) for side in (64, 96, 128) for rows in (4, 2)),
                *((rows, 96, 96) for rows in (4, 4, 1)),
            ],
        ),
    ],
)
def test_a_cycle_holds_all_views_in_slots_no_larger_than_a_batch(
    tta: TTA, side: int, batch: int, shapes: list[tuple[int, int, int]]
) -> None:
    layout = PROCEDURES[tta].layout(spec_of(side, side), batch)
    assert list(layout.shapes) == shapes
    assert layout.images == {TTA.NONE: batch, TTA.FLIPS: max(1, batch // 4), TTA.FULL: 1}[tta]


def test_quarter_turns_need_a_square_and_flips_do_not() -> None:
    with pytest.raises(EngineError, match=r"drawn has 64x96; use --tta flips"):
        PROCEDURES[TTA.FULL].layout(spec_of(64, 96), 1)
    assert PROCEDURES[TTA.FLIPS].layout(spec_of(64, 96), 4).shapes == ((4, 64, 96),)


@pytest.mark.parametrize(("tta", "times"), [(TTA.NONE, 1), (TTA.FLIPS, 1), (TTA.FULL, 5)])
def test_an_image_is_decoded_large_enough_for_its_smallest_crop(tta: TTA, times: int) -> None:
    assert PROCEDURES[tta].at_least_hw(spec_of(64, 96)) == (times * 64, times * 96)


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        (Crop(5), (0, 10), (0, 20)),
        (Crop(4), (1, 9), (2, 18)),
        (Crop(1), (4, 6), (8, 12)),
        (Crop(4, is_square=True), (1, 9), (6, 14)),
        (Crop(1, is_square=True), (4, 6), (9, 11)),
    ],
)
def test_a_crop_is_the_centre(crop: Crop, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    picture = draw(1, 10, 20)
    assert np.array_equal(crop.cut(picture), picture[slice(*rows), slice(*columns)])
    assert np.array_equal(crop.cut(picture.swapaxes(0, 1)), picture[slice(*rows), slice(*columns)].swapaxes(0, 1))


@given(height=st.integers(1, 30), width=st.integers(1, 30))
def test_a_crop_of_a_tiny_image_has_a_pixel_and_is_inside(height: int, width: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    for crop in PROCEDURES[TTA.FULL].crops:
        found_height, found_width, _ = crop.cut(picture).shape
        assert 1 <= found_height <= height
        assert 1 <= found_width <= width
        assert not crop.is_square or found_height == found_width


def test_the_nine_crops_are_those_of_mbdcnn() -> None:
    crops = PROCEDURES[TTA.FULL].crops
    assert len(crops) == len(set(crops)) == 9
    assert {crop.fifths for crop in crops if crop.is_square} == {1, 2, 3, 4}
    assert {crop.fifths for crop in crops if not crop.is_square} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("tta", TTA)
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_a_network_that_ignores_orientation_gives_its_mask_back(tta: TTA, batch: int) -> None:
    procedure, rgb = PROCEDURES[tta], draw(3, 200, 300)
    cycle = make_cycle(procedure, FREE_SPEC, batch)
    procedure.fill(rgb, cycle, 0, "bilinear")
    merged = procedure.merge(run_network(cycle), 0)
    red = to_network(rgb, *merged.probability.shape)[..., 0].astype(int)
    if tta is TTA.FULL:  # smaller sizes are upsampled
        assert merged.probability.shape == (96, 96)
        assert np.abs(merged.probability - red).max() <= 12
        assert np.abs(merged.probability - red).mean() < 1
        shares = [tiny_outputs(np.ascontiguousarray(crop.cut(rgb)))[1] for crop in procedure.crops]
        np.testing.assert_allclose(merged.scores, np.mean(shares, axis=0), atol=2e-3)
    else:
        assert np.array_equal(merged.probability, red)
        np.testing.assert_allclose(merged.scores, tiny_outputs(to_network(rgb, FREE_SIDE, FREE_SIDE))[1], atol=1e-6)
    assert merged.extra["agreement"] == pytest.approx(rgb.mean() / 255, abs=2e-3)
    assert merged.is_finite


def test_images_that_share_a_batch_are_told_apart() -> None:
    """The views of an image fill only its rows, and its mask comes only from them."""
    procedure = PROCEDURES[TTA.FLIPS]
    together, alone = make_cycle(procedure, FREE_SPEC, 16), make_cycle(procedure, FREE_SPEC, 4)
    images = [draw(seed, 100, 80) for seed in range(4)]
    for index, rgb in enumerate(images):
        procedure.fill(rgb, together, index, "bilinear")
    for index, rgb in enumerate(images):
        procedure.fill(rgb, alone, 0, "bilinear")
        assert np.array_equal(together.slots[0][4 * index : 4 * index + 4], alone.slots[0])
        expected = procedure.merge(run_network(alone), 0)
        merged = procedure.merge(run_network(together), index)
        assert np.array_equal(merged.probability, expected.probability)
        assert np.array_equal(merged.scores, expected.scores)
        assert merged.extra == expected.extra


@pytest.mark.parametrize("tta", [TTA.FLIPS, TTA.FULL])
def test_a_corner_of_each_view_returns_to_its_place(tta: TTA) -> None:
    """In one view the top left corner is lesion, in all others nothing is."""
    procedure = PROCEDURES[tta]
    cycle = make_cycle(procedure, FREE_SPEC, 9)
    for number, turn in enumerate(TURNS[tta]):
        for slot in cycle.slots:
            slot[:] = 0
        cycle.slots[-1 if tta is TTA.FLIPS else -2][number, :8, :8] = 255  # the views of the largest size
        slots = [make_outputs(slot[..., 0], [FLAT] * len(slot), [0] * len(slot)) for slot in cycle.slots]
        mask = procedure.merge(predict(*slots), 0).probability
        assert np.array_equal(turn(mask) > 0, np.pad(np.ones((8, 8), bool), (0, len(mask) - 8)))


def test_one_view_is_not_changed() -> None:
    """For each image of a batch, to the last bit."""
    generator = np.random.default_rng(1)
    masks = generator.integers(0, 256, (3, 8, 8), np.uint8)
    outputs = make_outputs(masks, generator.random((3, 3)).tolist(), [0.1, np.nan, 0.3])
    for index in range(3):
        merged = PROCEDURES[TTA.NONE].merge(predict(outputs), index)
        assert np.array_equal(merged.probability, masks[index])
        assert np.array_equal(merged.scores, outputs.scores[index])
        assert merged.scores.dtype == np.float32
        np.testing.assert_equal(merged.extra, {"agreement": float(outputs.extra["agreement"][index])})
        assert merged.is_finite == (index != 1)


def test_one_view_fills_only_its_row() -> None:
    cycle = make_cycle(PROCEDURES[TTA.NONE], FREE_SPEC, 3)
    PROCEDURES[TTA.NONE].fill(draw(1, 90, 70), cycle, 1, "box")
    (slot,) = cycle.slots
    assert np.array_equal(slot[1], to_network(draw(1, 90, 70), FREE_SIDE, FREE_SIDE, "box"))
    assert not slot[[0, 2]].any()


def test_masks_scores_and_further_outputs_are_means() -> None:
    values = np.array([10, 13, 14, 10], np.uint8)  # mean 11.75
    masks = np.broadcast_to(values[:, None, None], (4, 32, 32)).copy()
    scores = [[0.1, 0.2, 0.7], [0.3, 0.2, 0.5], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1]]
    merged = PROCEDURES[TTA.FLIPS].merge(predict(make_outputs(masks, scores, [0.0, 0.5, 0.5, 1.0])), 0)
    assert set(np.unique(merged.probability)) == {12}
    np.testing.assert_allclose(merged.scores, [0.4, 0.2, 0.4], atol=1e-6)
    assert merged.extra == {"agreement": 0.5}


def test_scores_come_from_the_crops_and_further_outputs_from_the_views() -> None:
    view, crop = [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]
    slots = [make_outputs(np.zeros((6, side, side), np.uint8), [view] * 6, [0.5] * 6) for side in (32, 64, 96)]
    slots.append(make_outputs(np.full((9, 64, 64), 255, np.uint8), [crop] * 9, [0.0] * 9))
    merged = PROCEDURES[TTA.FULL].merge(predict(*slots), 0)
    np.testing.assert_allclose(merged.scores, crop, atol=1e-6)
    assert merged.extra == {"agreement": 0.5}
    assert merged.probability.shape == (96, 96)
    assert not merged.probability.any()  # masks of crops are not used


def test_all_sizes_have_the_same_weight() -> None:
    masks = [np.full((6, side, side), value, np.uint8) for side, value in ((32, 0), (64, 90), (96, 240))]
    slots = [make_outputs(mask, [FLAT] * 6, [0] * 6) for mask in masks]
    slots.append(make_outputs(np.zeros((9, 64, 64), np.uint8), [FLAT] * 9, [0] * 9))
    assert set(np.unique(PROCEDURES[TTA.FULL].merge(predict(*slots), 0).probability)) == {110}


@pytest.mark.parametrize("values", [(np.nan, 0, 0, 0), (np.inf, -np.inf, 0, 0), (0, 0, 0, -np.inf)])
def test_a_number_of_any_view_that_is_not_finite_is_reported(values: Sequence[float]) -> None:
    slots = [make_outputs(np.zeros((1, 32, 32), np.uint8), [FLAT], [value]) for value in values]
    assert not PROCEDURES[TTA.FLIPS].merge(predict(*slots), 0).is_finite


def test_a_new_procedure_is_one_entry_of_views() -> None:
    half_turns = Procedure(views=(1, 3))
    assert half_turns.layout(FREE_SPEC, 5) == Layout(2, ((4, FREE_SIDE, FREE_SIDE),))
    cycle, rgb = make_cycle(half_turns, FREE_SPEC, 2), draw(5, 90, 70)
    half_turns.fill(rgb, cycle, 0, "bilinear")
    assert np.array_equal(cycle.slots[0][1], cycle.slots[0][0][::-1, ::-1])
    merged = half_turns.merge(run_network(cycle), 0)
    assert np.array_equal(merged.probability, to_network(rgb, FREE_SIDE, FREE_SIDE)[..., 0])
