"""Test procedures: what each view and crop is, and how answers of many views become one."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from helpers.graphs import FREE_SIDE, FREE_SPEC, tiny_answers
from helpers.pictures import UInt8, draw
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lesioncli.backends.base import Batch, Prediction
from lesioncli.errors import EngineError
from lesioncli.images.geometry import from_upright, to_network, to_upright
from lesioncli.inference.tta import PROCEDURES, Crop, Procedure
from lesioncli.spec import ModelSpec

Turn = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
# Each procedure's views in numpy's words; rot90 turns anticlockwise.
TURNS: dict[str, list[Turn]] = {
    "none": [lambda picture: picture],
    "flips": [
        lambda picture: picture,
        lambda picture: picture[:, ::-1],
        lambda picture: picture[::-1],
        lambda picture: picture[::-1, ::-1],
    ],
    "full": [
        lambda picture: picture,
        lambda picture: np.rot90(picture, -1),
        lambda picture: np.rot90(picture, 2),
        lambda picture: np.rot90(picture, 1),
        lambda picture: picture[:, ::-1],
        lambda picture: picture[::-1],
    ],
}
TTA = list(PROCEDURES)
FLAT = (0.2, 0.3, 0.5)


def spec_of(height: int, width: int) -> ModelSpec:
    return ModelSpec("drawn", "drawn", height, width)


def slots_for(procedure: Procedure, spec: ModelSpec, batch: int) -> list[UInt8]:
    return procedure.layout(spec, batch).make_ring(1)


def answered(masks: UInt8, scores: Sequence[Sequence[float]], light: Sequence[float]) -> Prediction:
    """A prediction of these rows."""
    finite = np.isfinite(np.column_stack([scores, light])).all(1)
    extra = {"agreement": np.array(light, np.float32)}
    return Prediction(Batch(0, len(masks)), masks, np.array(scores, np.float32), extra, finite)


def run_network(slots: Sequence[UInt8]) -> list[Prediction]:
    """The free graph in numpy: it does not care how a picture is turned."""
    answers = [[tiny_answers(row) for row in slot] for slot in slots]
    return [
        answered(np.stack([mask for mask, _, _ in rows]), [list(s) for _, s, _ in rows], [light for *_, light in rows])
        for rows in answers
    ]


@pytest.mark.parametrize("tta", TTA)
def test_a_view_is_what_it_is_called_and_its_inverse_is_exact(tta: str) -> None:
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
        ("none", 256, 5, [(5, 256, 256)]),
        ("flips", 256, 4, [(4, 256, 256)]),
        ("flips", 256, 1, [(1, 256, 256)] * 4),
        ("flips", 256, 3, [(3, 256, 256), (1, 256, 256)]),
        ("full", 256, 9, [(6, 224, 224), (6, 256, 256), (6, 288, 288), (9, 256, 256)]),
        ("full", 256, 64, [(6, 224, 224), (6, 256, 256), (6, 288, 288), (9, 256, 256)]),
        ("full", 512, 9, [(6, 448, 448), (6, 512, 512), (6, 576, 576), (9, 512, 512)]),
        ("full", 96, 9, [(6, 64, 64), (6, 96, 96), (6, 128, 128), (9, 96, 96)]),
        ("full", 32, 9, [(6, 32, 32), (6, 32, 32), (6, 64, 64), (9, 32, 32)]),
        ("full", 256, 1, [(1, 224, 224)] * 6 + [(1, 256, 256)] * 6 + [(1, 288, 288)] * 6 + [(1, 256, 256)] * 9),
        (
            "full",
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
    tta: str, side: int, batch: int, shapes: list[tuple[int, int, int]]
) -> None:
    layout = PROCEDURES[tta].layout(spec_of(side, side), batch)
    assert list(layout.shapes) == shapes
    assert layout.images == (batch if tta == "none" else 1)


def test_quarter_turns_need_a_square_and_flips_do_not() -> None:
    with pytest.raises(EngineError, match=r"drawn takes 64x96 pixels, and turning by 90 degrees .* --tta flips"):
        PROCEDURES["full"].layout(spec_of(64, 96), 1)
    assert PROCEDURES["flips"].layout(spec_of(64, 96), 4).shapes == ((4, 64, 96),)


@pytest.mark.parametrize(("tta", "times"), [("none", 1), ("flips", 1), ("full", 5)])
def test_pictures_are_decoded_so_large_that_the_smallest_crop_fills_the_network(tta: str, times: int) -> None:
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
    assert np.array_equal(crop.of(picture), picture[slice(*rows), slice(*columns)])
    assert np.array_equal(crop.of(picture.swapaxes(0, 1)), picture[slice(*rows), slice(*columns)].swapaxes(0, 1))


@given(height=st.integers(1, 30), width=st.integers(1, 30))
def test_a_crop_of_the_smallest_picture_has_a_pixel_and_is_inside(height: int, width: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    for crop in PROCEDURES["full"].crops:
        found_height, found_width, _ = crop.of(picture).shape
        assert 1 <= found_height <= height
        assert 1 <= found_width <= width
        assert not crop.is_square or found_height == found_width


def test_the_nine_crops_are_those_of_the_paper() -> None:
    crops = PROCEDURES["full"].crops
    assert len(crops) == len(set(crops)) == 9
    assert {crop.fifths for crop in crops if crop.is_square} == {1, 2, 3, 4}
    assert {crop.fifths for crop in crops if not crop.is_square} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("tta", TTA)
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_a_network_that_does_not_care_how_a_picture_lies_gives_its_mask_back(tta: str, batch: int) -> None:
    procedure, picture = PROCEDURES[tta], draw(3, 200, 300)
    slots = slots_for(procedure, FREE_SPEC, batch)
    procedure.fill(picture, slots, 0, "bilinear")
    answer = procedure.merge(run_network(slots), 0)
    red = to_network(picture, *answer.mask.shape)[..., 0].astype(int)
    if tta == "full":  # also seen smaller, and grown
        assert answer.mask.shape == (96, 96)
        assert np.abs(answer.mask - red).max() <= 12
        assert np.abs(answer.mask - red).mean() < 1
        shares = [tiny_answers(np.ascontiguousarray(crop.of(picture)))[1] for crop in procedure.crops]
        np.testing.assert_allclose(answer.scores, np.mean(shares, axis=0), atol=2e-3)
    else:
        assert np.array_equal(answer.mask, red)
        np.testing.assert_allclose(answer.scores, tiny_answers(to_network(picture, FREE_SIDE, FREE_SIDE))[1], atol=1e-6)
    assert answer.extra["agreement"] == pytest.approx(picture.mean() / 255, abs=2e-3)
    assert answer.finite


@pytest.mark.parametrize("tta", ["flips", "full"])
def test_what_a_network_sees_in_a_corner_of_each_view_is_put_back_where_it_was(tta: str) -> None:
    """One view answers, all the others are dark: its corner must be lit, the one that was turned to the top left."""
    procedure = PROCEDURES[tta]
    slots = slots_for(procedure, FREE_SPEC, 9)
    for number, turn in enumerate(TURNS[tta]):
        for slot in slots:
            slot[:] = 0
        slots[-1 if tta == "flips" else -2][number, :8, :8] = 255  # the views of the largest size
        mask = procedure.merge([answered(slot[..., 0], [FLAT] * len(slot), [0] * len(slot)) for slot in slots], 0).mask
        assert np.array_equal(turn(mask) > 0, np.pad(np.ones((8, 8), bool), (0, len(mask) - 8)))


def test_one_look_is_passed_on_as_it_is() -> None:
    """Of each image in a batch, to the last bit."""
    generator = np.random.default_rng(1)
    masks = generator.integers(0, 256, (3, 8, 8), np.uint8)
    prediction = answered(masks, generator.random((3, 3)).tolist(), [0.1, np.nan, 0.3])
    for index in range(3):
        answer = PROCEDURES["none"].merge([prediction], index)
        assert np.array_equal(answer.mask, masks[index])
        assert np.array_equal(answer.scores, prediction.scores[index])
        assert answer.scores.dtype == np.float32
        np.testing.assert_equal(answer.extra, {"agreement": float(prediction.extra["agreement"][index])})
        assert answer.finite == (index != 1)


def test_one_look_fills_its_own_row_alone() -> None:
    (slot,) = slots_for(PROCEDURES["none"], FREE_SPEC, 3)
    PROCEDURES["none"].fill(draw(1, 90, 70), [slot], 1, "box")
    assert np.array_equal(slot[1], to_network(draw(1, 90, 70), FREE_SIDE, FREE_SIDE, "box"))
    assert not slot[[0, 2]].any()


def test_masks_scores_and_further_outputs_are_averaged() -> None:
    values = np.array([10, 13, 14, 10], np.uint8)  # 11.75 on average
    masks = np.broadcast_to(values[:, None, None], (4, 32, 32)).copy()
    scores = [[0.1, 0.2, 0.7], [0.3, 0.2, 0.5], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1]]
    answer = PROCEDURES["flips"].merge([answered(masks, scores, [0.0, 0.5, 0.5, 1.0])], 0)
    assert set(np.unique(answer.mask)) == {12}
    np.testing.assert_allclose(answer.scores, [0.4, 0.2, 0.4], atol=1e-6)
    assert answer.extra == {"agreement": 0.5}


def test_scores_come_from_the_crops_and_further_outputs_from_the_views() -> None:
    view, crop = [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]
    sides = (32, 64, 96)
    cycle = [answered(np.zeros((6, side, side), np.uint8), [view] * 6, [0.5] * 6) for side in sides]
    cycle.append(answered(np.full((9, 64, 64), 255, np.uint8), [crop] * 9, [0.0] * 9))
    answer = PROCEDURES["full"].merge(cycle, 0)
    np.testing.assert_allclose(answer.scores, crop, atol=1e-6)
    assert answer.extra == {"agreement": 0.5}
    assert answer.mask.shape == (96, 96)
    assert not answer.mask.any()  # the masks of crops are of parts, and are not used


def test_sizes_weigh_the_same() -> None:
    masks = [np.full((6, side, side), value, np.uint8) for side, value in ((32, 0), (64, 90), (96, 240))]
    cycle = [answered(mask, [FLAT] * 6, [0] * 6) for mask in masks]
    cycle.append(answered(np.zeros((9, 64, 64), np.uint8), [FLAT] * 9, [0] * 9))
    assert set(np.unique(PROCEDURES["full"].merge(cycle, 0).mask)) == {110}


@pytest.mark.parametrize("lights", [(np.nan, 0, 0, 0), (np.inf, -np.inf, 0, 0), (0, 0, 0, -np.inf)])
def test_a_number_of_any_view_that_is_not_finite_tells(lights: Sequence[float]) -> None:
    cycle = [answered(np.zeros((1, 32, 32), np.uint8), [FLAT], [light]) for light in lights]
    assert not PROCEDURES["flips"].merge(cycle, 0).finite
