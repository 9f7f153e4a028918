"""The pipeline: one outcome per image, in order, and the mask that simple steps give."""

import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import cv2
import numpy as np
import openvino
import pytest
from helpers.engines import next_batch
from helpers.graphs import FREE_SIDE, MakeEngine, OpenEngine, tiny_outputs
from helpers.pictures import SIDE, UInt8, draw, read, save, save_many
from helpers.shipped import shipped_onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from lesioncli.backends.base import Engine
from lesioncli.backends.registry import open_engine
from lesioncli.calibration import RAW_PREFIX
from lesioncli.demo.draw import draw_case
from lesioncli.errors import EngineError
from lesioncli.images.decode import DecodedImage, OpenedImage
from lesioncli.images.find import ImageFile, ImageListing
from lesioncli.images.mask_runs import find_runs
from lesioncli.inference.destination import Destination
from lesioncli.inference.outcome import Outcome, output_columns
from lesioncli.inference.pictures import mask_path
from lesioncli.inference.pipeline import segment
from lesioncli.inference.record import MaskNames, RunIdentity, RunRecord
from lesioncli.inference.results import ResultStore
from lesioncli.inference.run import segment_images
from lesioncli.inference.shape import measure_shape
from lesioncli.inference.tta import PROCEDURES
from lesioncli.options import TTA, FailureStage, Regions, SegmentOptions, Status
from lesioncli.spec import CLASSES

TURNED = Image.Transpose
# From upright to stored pixels by EXIF orientation: the inverse of Pillow's own table.
BACK = {
    2: TURNED.FLIP_LEFT_RIGHT,
    3: TURNED.ROTATE_180,
    4: TURNED.FLIP_TOP_BOTTOM,
    5: TURNED.TRANSPOSE,
    6: TURNED.ROTATE_90,
    7: TURNED.TRANSVERSE,
    8: TURNED.ROTATE_270,
}
IDENTITY: dict[str, Any] = {
    "engine_sha256": "0",
    "precision": "fp32",
    "threshold": 0.5,
    "tta": TTA.NONE,
    "regions": Regions.LARGEST,
    "names": MaskNames.IMAGES,
}
BAD = ["truncated.jpg", "text.jpg", "empty.png", "missing.png"]


@contextmanager
def open_store(folder: Path, images: Sequence[ImageFile] = ()) -> Iterator[ResultStore]:
    store = ResultStore(Destination(folder), RunIdentity(**IDENTITY), output_columns(CLASSES), images)
    try:
        yield store
    finally:
        store.finish(RunRecord(**IDENTITY))


def outcomes_of(
    images: Sequence[ImageFile], engine: Engine, folder: Path, options: SegmentOptions = SegmentOptions()
) -> list[Outcome]:
    with open_store(folder) as store:
        return list(segment(images, engine, store, options))


def seen_by_network(path: Path) -> UInt8:
    """Return the input of the tiny engine, by Pillow alone."""
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    return np.asarray(upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def largest_region(red: UInt8, minimum: int) -> NDArray[np.bool_]:
    """Return the largest 8-connected region of values from `minimum` on, by scipy."""
    regions, count = ndimage.label(red >= minimum, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel(), minlength=2)[1:]
    return np.asarray(regions == 1 + sizes.argmax()) if count else np.zeros(red.shape, bool)


def expected_mask(path: Path, minimum: int) -> UInt8:
    """Return the mask of an image, step by step."""
    with Image.open(path) as picture:
        (width, height), orientation = picture.size, picture.getexif().get(0x0112, 1)
    seen = seen_by_network(path)[..., 0]
    red = Image.fromarray(np.where(largest_region(seen, minimum), seen, np.minimum(seen, minimum - 1)))
    stored = np.asarray(red.transpose(BACK[orientation]) if orientation in BACK else red)
    upsampled = cv2.resize(stored, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(upsampled >= minimum, 255, 0).astype(np.uint8)


def jaccard_by_hand(red: UInt8, minimum: int) -> float:
    """Return the expected intersection over the expected union, with Python's own numbers."""
    kept = largest_region(red, minimum)
    inside = [int(value) for value in red[kept]]
    if not inside:
        return 1 - int(red.max()) / 255
    outside = sum(int(value) for value in red[~kept])
    return float(Fraction(sum(inside), 255) / (len(inside) + Fraction(outside, 255)))


def assert_ok(outcome: Outcome, folder: Path, minimum: int = 128) -> None:
    assert (outcome.status, outcome.stage, outcome.reason) == (Status.OK, None, "")
    expected, seen = expected_mask(outcome.image.local_path, minimum), seen_by_network(outcome.image.local_path)
    assert np.array_equal(read(mask_path(folder, outcome.image)), expected)
    assert outcome.stored_hw == expected.shape
    shares = seen.sum((0, 1)) / seen.sum()
    assert outcome.values == pytest.approx(
        {
            "melanoma": shares[0],
            "seborrheic_keratosis": shares[1],
            "nevus": shares[2],
            "lesion_area_fraction": np.mean(expected == 255),
            **measure_shape(find_runs(expected)),
            "confidence": jaccard_by_hand(seen[..., 0], minimum),
            "agreement": seen.mean() / 255,
        },
        abs=1e-5,
    )
    assert set(outcome.seconds) == {"decode", "write"}


def assert_failed(outcome: Outcome, folder: Path, stage: FailureStage) -> None:
    assert (outcome.status, outcome.stage) == (Status.FAILED, stage)
    assert outcome.reason
    assert outcome.values == {}
    assert not mask_path(folder, outcome.image).is_file()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Valid and broken image files."""
    folder = tmp_path_factory.mktemp("pool")
    paths = [
        save(folder / "wide.png", draw(1, 41, 97)),
        save(folder / "tall.jpg", draw(2, 90, 33)),
        save(folder / "square.bmp", draw(3)),
        save(folder / "small.tif", draw(4, 7, 11)),
        *(save(folder / f"turned{orientation}.jpg", draw(orientation, 40, 63), orientation) for orientation in BACK),
        *(folder / name for name in BAD),
    ]
    (folder / "truncated.jpg").write_bytes((folder / "tall.jpg").read_bytes()[:-300])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.png").touch()
    return paths


@pytest.fixture(scope="module")
def viewing_engine(free_manifest: MakeEngine) -> Iterator[Callable[[TTA, int], Engine]]:
    """(TTA, batch) -> an open engine of 64x64 pixels that the tests share."""
    with ExitStack() as opened:
        yield cache(
            lambda tta, batch: opened.enter_context(
                open_engine(free_manifest(batch), make_layout=PROCEDURES[tta].layout)
            )
        )


Network = Callable[[UInt8], tuple[UInt8, NDArray[Any], float]]


def predict_views(rgb: UInt8, tta: TTA, side: int, network: Network) -> tuple[NDArray[np.float64], list[float], float]:
    """Return the mean of all views, computed one by one: probability in 1/255, scores, further output."""

    def resize(part: UInt8, size: int) -> UInt8:
        return np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BILINEAR))

    views: list[tuple[Callable[[UInt8], UInt8], Callable[[UInt8], UInt8]]] = [
        (lambda x: x, lambda x: x),
        (lambda x: x[:, ::-1], lambda x: x[:, ::-1]),
        (lambda x: x[::-1], lambda x: x[::-1]),
        (lambda x: np.rot90(x, 2), lambda x: np.rot90(x, 2)),
    ]
    if tta is TTA.FULL:
        views += [(lambda x: np.rot90(x, 1), lambda x: np.rot90(x, 3)), (lambda x: np.rot90(x, 3), np.rot90)]
    sides = [side - 32, side, side + 32] if tta is TTA.FULL else [side]
    maps, scores, extras = [], [], []
    for size in sides:
        for turn, turn_back in views:
            mask, classes, extra = network(np.ascontiguousarray(turn(resize(rgb, size))))
            upright = turn_back(mask).astype(np.float64)
            maps.append(cv2.resize(upright, (sides[-1], sides[-1]), interpolation=cv2.INTER_LINEAR))
            scores.append(classes)
            extras.append(extra)
    if tta is TTA.FULL:
        height, width, _ = rgb.shape
        crops = [(share * height, share * width) for share in (1, 0.8, 0.6, 0.4, 0.2)]
        crops += [(share * min(height, width),) * 2 for share in (0.8, 0.6, 0.4, 0.2)]
        scores = []
        for h, w in [(round(h), round(w)) for h, w in crops]:
            top, left = (height - h) // 2, (width - w) // 2
            scores.append(network(resize(rgb[top : top + h, left : left + w], side))[1])
    return np.mean(maps, axis=0), np.mean(scores, axis=0).tolist(), float(np.mean(extras))


def raw_scores(outcome: Outcome) -> list[float]:
    """The scores before the calibration that a shipped model has."""
    return [outcome.values.get(f"{RAW_PREFIX}{name}", outcome.values[name]) for name in CLASSES]


def assert_mean_of_views(outcome: Outcome, folder: Path, rgb: UInt8, tta: TTA, side: int, network: Network) -> None:
    probability, scores, _ = predict_views(rgb, tta, side, network)
    height, width, _ = rgb.shape
    upsampled = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
    mask = read(mask_path(folder, outcome.image))
    is_clear = np.abs(upsampled - 127.5) > 1.5  # probabilities are rounded before they are upsampled
    assert is_clear.mean() > 0.9
    assert np.array_equal(mask[is_clear] > 0, upsampled[is_clear] > 127.5)
    assert raw_scores(outcome) == pytest.approx(scores, abs=2e-4)


@pytest.mark.parametrize("tta", [TTA.FLIPS, TTA.FULL])
@pytest.mark.parametrize("batch", [1, 4])
def test_views_are_averaged_and_a_broken_image_is_one_row(
    viewing_engine: Callable[[TTA, int], Engine], tmp_path: Path, tta: TTA, batch: int
) -> None:
    """More images than the engine has cycles, so that cycles are filled again; some are broken, one is black."""
    pixels = {f"{number:02d}": draw(number, 130 + number, 90) for number in range(24)}
    pixels["05"][:] = 0
    images = [ImageFile(save(tmp_path / f"{name}.png", rgb), name) for name, rgb in pixels.items()]
    for number in (0, 7, 8, 23):
        images[number].local_path.write_bytes(b"\x89PNG\r\n\x1a\n")
    engine = viewing_engine(tta, batch)
    assert len(images) > 2 * len(engine.cycles)
    outcomes = outcomes_of(images, engine, tmp_path / "out", SegmentOptions(workers=3, tta=tta, regions=Regions.ALL))
    assert [outcome.image for outcome in outcomes] == images
    for number, outcome in enumerate(outcomes):
        if number in (0, 7, 8, 23):
            assert_failed(outcome, tmp_path / "out", FailureStage.DECODE)
        elif number == 5:
            assert_failed(outcome, tmp_path / "out", FailureStage.NETWORK)
        else:
            rgb = pixels[outcome.image.name]
            assert_mean_of_views(outcome, tmp_path / "out", rgb, tta, FREE_SIDE, tiny_outputs)
            agreement = predict_views(rgb, tta, FREE_SIDE, tiny_outputs)[2]
            assert outcome.values["agreement"] == pytest.approx(agreement)


@pytest.mark.parametrize("tta", [TTA.FLIPS, pytest.param(TTA.FULL, marks=pytest.mark.slow)])
def test_views_of_the_shipped_model_are_those_of_its_graph_one_by_one(
    engine_manifest: Path, tmp_path: Path, tta: TTA
) -> None:
    core = openvino.Core()
    graph = core.compile_model(core.read_model(shipped_onnx()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def network(pixels: UInt8) -> tuple[UInt8, NDArray[Any], float]:
        outputs = graph([pixels[None]])
        return outputs["mask"][0].copy(), outputs["scores"][0].copy(), 0.0

    pixels = [draw_case(71, 240, 320).image, draw_case(72, 400, 300).image]
    images = [ImageFile(save(tmp_path / f"{n}.png", rgb), f"{n}") for n, rgb in enumerate(pixels)]
    with open_engine(engine_manifest, make_layout=PROCEDURES[tta].layout) as engine:
        outcomes = outcomes_of(images, engine, tmp_path / "out", SegmentOptions(tta=tta, regions=Regions.ALL))
    for outcome, rgb in zip(outcomes, pixels, strict=True):
        assert_mean_of_views(outcome, tmp_path / "out", rgb, tta, engine.spec.height, network)


def test_one_view_gives_the_outputs_of_the_engine(engine_manifest: Path, tmp_path: Path) -> None:
    with open_engine(engine_manifest) as engine:
        spec = engine.spec
        pixels = [draw_case(seed, spec.height, spec.width).image for seed in range(80, 83)]
        images = [ImageFile(save(tmp_path / f"{n}.png", rgb), f"{n}") for n, rgb in enumerate(pixels)]
        outcomes = outcomes_of(images, engine, tmp_path / "out", SegmentOptions(regions=Regions.ALL))
        batches = [next_batch(engine) for _ in pixels]
        for batch, rgb in zip(batches, pixels, strict=True):
            batch.cycle.slots[0][0] = rgb
        predictions = list(engine.stream(batches))
    for outcome, prediction in zip(outcomes, predictions, strict=True):
        (outputs,) = prediction.slots
        assert np.array_equal(read(mask_path(tmp_path / "out", outcome.image)) > 0, outputs.probability[0] > 127)
        assert raw_scores(outcome) == outputs.scores[0].tolist()


@pytest.mark.parametrize(("tta", "times"), [(TTA.NONE, 1), (TTA.FLIPS, 1), (TTA.FULL, 5)])
def test_only_crops_need_larger_images(
    viewing_engine: Callable[[TTA, int], Engine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tta: TTA,
    times: int,
) -> None:
    asked: list[tuple[int, int]] = []

    def watched(opened: OpenedImage, at_least_hw: tuple[int, int]) -> DecodedImage:
        asked.append(at_least_hw)
        return real_decode(opened, at_least_hw)

    real_decode = OpenedImage.decode
    monkeypatch.setattr(OpenedImage, "decode", watched)
    outcomes_of(save_many(tmp_path / "images", 2), viewing_engine(tta, 1), tmp_path / "out", SegmentOptions(tta=tta))
    assert asked == [(times * FREE_SIDE, times * FREE_SIDE)] * 2


@pytest.mark.parametrize(("opened", "asked"), [(TTA.NONE, TTA.FLIPS), (TTA.FLIPS, TTA.NONE), (TTA.FLIPS, TTA.FULL)])
def test_an_engine_that_was_opened_for_another_tta_is_refused(
    viewing_engine: Callable[[TTA, int], Engine], tmp_path: Path, opened: TTA, asked: TTA
) -> None:
    with pytest.raises(ValueError, match=f"--tta {asked}"):
        outcomes_of(
            save_many(tmp_path / "images", 1), viewing_engine(opened, 1), tmp_path / "out", SegmentOptions(tta=asked)
        )


@given(
    chosen=st.lists(st.integers(0, 10 + len(BAD)), max_size=12),
    batch=st.sampled_from([1, 2, 3, 5]),
    workers=st.integers(1, 4),
    minimum=st.integers(2, 255),
)
@settings(
    deadline=None,
    database=None,
    derandomize=True,
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_one_outcome_for_every_image_in_order(
    tiny_engine: OpenEngine, pool: list[Path], chosen: list[int], batch: int, workers: int, minimum: int
) -> None:
    images = [ImageFile(pool[index], f"{number % 3}/{number:02d}") for number, index in enumerate(chosen)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        outcomes = outcomes_of(images, tiny_engine(batch), folder, SegmentOptions(minimum / 255, workers))
        assert [outcome.image for outcome in outcomes] == images
        for outcome in outcomes:
            if outcome.image.path.name in BAD:
                assert_failed(outcome, folder, FailureStage.DECODE)
                assert outcome.stored_hw == (0, 0)
            else:
                assert_ok(outcome, folder, minimum)
        assert not list(folder.rglob("*.part"))


def test_the_shipped_engine_writes_masks_and_scores(engine_manifest: Path, tmp_path: Path) -> None:
    images = save_many(tmp_path / "images", 3)
    with open_engine(engine_manifest) as engine:
        outcomes = outcomes_of(images, engine, tmp_path / "masks", SegmentOptions())
        names = engine.spec.classes
    for outcome in outcomes:
        assert outcome.status == Status.OK
        mask = read(mask_path(tmp_path / "masks", outcome.image))
        assert mask.shape == outcome.stored_hw == (40, 60)
        assert set(np.unique(mask)) <= {0, 255}
        assert all(0 <= outcome.values[name] <= 1 for name in names)


def test_a_note_of_the_decoder_is_kept(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    path = tmp_path / "two.tif"
    first, second = (Image.fromarray(draw(seed)) for seed in (1, 2))
    first.save(path, save_all=True, append_images=[second])
    (outcome,) = outcomes_of([ImageFile(path, "two")], tiny_engine(1), tmp_path / "out", SegmentOptions())
    assert_ok(outcome, tmp_path / "out")
    assert outcome.note.split("; ")[0] == "first of 2 pages"


@pytest.mark.parametrize(
    ("value", "threshold", "is_lesion"),
    [
        (128, 0.5, True),
        (127, 0.5, False),
        (255, 1.0, True),
        (254, 1.0, False),
        (2, 0.004, True),
        (1, 0.004, False),
        (51, 0.2, True),
        (50, 0.2, False),
        (153, 0.6, True),
        (152, 0.6, False),
    ],
)
def test_the_threshold_itself_is_lesion(
    tiny_engine: OpenEngine, tmp_path: Path, value: int, threshold: float, is_lesion: bool
) -> None:
    path = save(tmp_path / "flat.png", np.full((20, 30, 3), (value, 9, 9), np.uint8))
    (outcome,) = outcomes_of([ImageFile(path, "flat")], tiny_engine(1), tmp_path, SegmentOptions(threshold))
    assert outcome.values["lesion_area_fraction"] == is_lesion
    assert is_lesion == (Fraction(value, 255) >= Fraction(str(threshold)))


TWO_LESIONS = np.zeros((SIDE, SIDE), np.uint8)  # 8 x 10 pixels, two more that touch a corner, and 3 x 3 elsewhere
TWO_LESIONS[2:10, 5:15] = 200
TWO_LESIONS[10, 15:17] = 180
TWO_LESIONS[20:23, 25:28] = 255


@pytest.mark.parametrize("regions", Regions)
def test_the_largest_region_is_the_mask_and_the_row_counts_the_others(
    tiny_engine: OpenEngine, tmp_path: Path, regions: Regions
) -> None:
    picture = np.repeat(TWO_LESIONS[..., None], 3, axis=2)
    path = save(tmp_path / "two.png", picture)
    (outcome,) = outcomes_of(
        [ImageFile(path, "two")], tiny_engine(1), tmp_path / "out", SegmentOptions(regions=regions)
    )
    mask = read(mask_path(tmp_path / "out", outcome.image)) > 0
    smaller = ndimage.binary_dilation(TWO_LESIONS == 255, np.ones((3, 3)))
    assert np.array_equal(mask & ~smaller, (TWO_LESIONS > 0) & ~smaller)
    assert (mask & smaller).any() == (regions is Regions.ALL)
    assert outcome.note.startswith("1 ") == (regions is Regions.LARGEST)
    kept = TWO_LESIONS[mask].sum() / 255
    doubtful = TWO_LESIONS[~mask].sum() / 255  # a removed region keeps its probability
    assert outcome.values["confidence"] == pytest.approx(kept / (mask.sum() + doubtful), abs=1e-5)


def test_a_score_that_is_nan_fails_only_its_image(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    pictures = {"a": draw(1, 30, 40), "b": np.zeros((30, 40, 3), np.uint8), "c": draw(2, 30, 40)}
    images = [ImageFile(save(tmp_path / f"{name}.png", picture), name) for name, picture in pictures.items()]
    a, b, c = outcomes_of(images, tiny_engine(3), tmp_path / "out", SegmentOptions())
    assert_ok(a, tmp_path / "out")
    assert_failed(b, tmp_path / "out", FailureStage.NETWORK)
    assert b.stored_hw == (30, 40)
    assert_ok(c, tmp_path / "out")


def test_a_mask_that_cannot_be_written_fails_only_its_image(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    images = save_many(tmp_path / "images", 4)
    (tmp_path / "out" / "001.png").mkdir(parents=True)
    outcomes = outcomes_of(images, tiny_engine(3), tmp_path / "out", SegmentOptions())
    assert_failed(outcomes.pop(1), tmp_path / "out", FailureStage.WRITE)
    for outcome in outcomes:
        assert_ok(outcome, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_mask_too_large_for_png_fails_only_its_image(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    long = save(tmp_path / "long.bmp", np.full((1, 1_100_000, 3), 200, np.uint8))
    images = [ImageFile(long, "long"), *save_many(tmp_path / "images", 1)]
    failed, fine = outcomes_of(images, tiny_engine(1), tmp_path / "out", SegmentOptions())
    assert_failed(failed, tmp_path / "out", FailureStage.DECODE)
    assert "1100000" in failed.reason
    assert_ok(fine, tmp_path / "out")


OPENCV_ERROR = cv2.error("OpenCV: (-4:Insufficient memory) Failed to allocate 9 bytes")
OPENCV_ERROR.code = -4


@pytest.mark.parametrize(
    ("function", "error", "stage"),
    [
        ("inference.tta.to_network", MemoryError(), FailureStage.DECODE),
        ("inference.pipeline.make_mask", MemoryError(), FailureStage.WRITE),
        ("inference.pipeline.make_mask", OPENCV_ERROR, FailureStage.WRITE),
    ],
)
def test_an_image_without_memory_fails_only_itself(
    function: str,
    error: Exception,
    stage: FailureStage,
    tiny_engine: OpenEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = save_many(tmp_path / "images", 4)
    engine, calls = tiny_engine(1), count()
    module, name = function.rsplit(".", 1)
    real = getattr(import_module(f"lesioncli.{module}"), name)

    def fail_once(*arguments: Any) -> Any:
        if next(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(f"lesioncli.{function}", fail_once)
    outcomes = outcomes_of(images, engine, tmp_path / "out", SegmentOptions(workers=1))
    failed = [outcome for outcome in outcomes if outcome.status == Status.FAILED]
    assert [outcome.stage for outcome in failed] == [stage]
    assert "memory" in failed[0].reason
    assert_failed(failed[0], tmp_path / "out", stage)


def test_an_overlay_that_is_not_encoded_fails_its_image(
    tiny_engine: OpenEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = cv2.imencode

    def refuse_jpeg(suffix: str, *how: Any) -> Any:
        return (False, ()) if suffix == ".jpg" else encode(suffix, *how)

    images = save_many(tmp_path / "images", 1)
    monkeypatch.setattr(cv2, "imencode", refuse_jpeg)
    (outcome,) = outcomes_of(images, tiny_engine(1), tmp_path / "out", SegmentOptions(overlay=True))
    assert (outcome.status, outcome.stage) == (Status.FAILED, FailureStage.WRITE)
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_done_images_are_skipped_in_their_place(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    images = save_many(tmp_path / "images", 7)
    with open_store(tmp_path / "out") as store:
        for outcome in segment(images[1::2], tiny_engine(2), store, SegmentOptions()):
            store.add(outcome)
    with open_store(tmp_path / "out", images) as store:
        again = list(segment(images, tiny_engine(2), store, SegmentOptions()))
    assert [outcome.image for outcome in again] == images
    assert [outcome.status for outcome in again] == [Status.OK, Status.SKIPPED] * 3 + [Status.OK]
    assert "skipped" not in (tmp_path / "out" / "scores.csv").read_text()


@pytest.mark.parametrize(
    ("stored_hw", "orientation", "overlay_hw"),
    [((60, 90), 1, (60, 90)), ((60, 90), 6, (90, 60)), ((600, 1500), 1, (410, 1024)), ((2, 3000), 1, (1, 1024))],
)
def test_an_overlay_outlines_the_mask_on_the_upright_picture(
    tiny_engine: OpenEngine, tmp_path: Path, stored_hw: tuple[int, int], orientation: int, overlay_hw: tuple[int, int]
) -> None:
    height, width = stored_hw
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[:, width // 2 :] = (220, 40, 40)  # lesion: the right half as stored
    image = ImageFile(save(tmp_path / "half.png", picture, orientation), "sub/half")
    (outcome,) = outcomes_of([image], tiny_engine(1), tmp_path / "out", SegmentOptions(overlay=True))
    assert outcome.status == Status.OK
    overlay = read(tmp_path / "out" / "overlays" / "sub" / "half.jpg").astype(int)
    assert overlay.shape == (*overlay_hw, 3)
    if min(overlay_hw) < 10:
        return  # too thin for JPEG's colours
    stored = overlay if orientation == 1 else np.rot90(overlay)
    middle = stored[len(stored) // 2]
    assert np.abs(middle[: len(middle) // 2 - 12] - 40).max() < 30
    yellow = (middle[:, 0] > 150) & (middle[:, 1] > 110) & (middle[:, 2] < 110)
    assert abs(np.flatnonzero(yellow)[0] - len(middle) / 2) <= 0.03 * len(middle) + 2


def test_without_overlay_there_is_none(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    outcomes_of(save_many(tmp_path / "images", 1), tiny_engine(1), tmp_path / "out", SegmentOptions())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000.png", "run.json"]


def test_an_overlay_that_cannot_be_written_fails_its_image(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    (tmp_path / "out" / "overlays" / "000.jpg").mkdir(parents=True)
    with open_store(tmp_path / "out") as store:
        for outcome in segment(save_many(tmp_path / "images", 1), tiny_engine(1), store, SegmentOptions(overlay=True)):
            store.add(outcome)
    assert_failed(outcome, tmp_path / "out", FailureStage.WRITE)


class FileCalls:
    """Names of the files that are opened and renamed while it is used; an audit hook stays in its process."""

    def __init__(self) -> None:
        self._is_on = False
        self.opened: Counter[str] = Counter()
        self.renamed: Counter[str] = Counter()
        sys.addaudithook(self._note)

    def __enter__(self) -> Self:
        self._is_on = True
        return self

    def __exit__(self, *_: object) -> None:
        self._is_on = False

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_on and event == "open" and isinstance(arguments[0], str | Path):
            if arguments[1] is None:  # os.open() in an opener, after the event of open()
                return
            self.opened[Path(arguments[0]).name] += 1
        elif self._is_on and event == "os.rename":
            self.renamed[Path(arguments[1]).name] += 1


def test_each_image_and_each_mask_is_opened_once(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    images = save_many(tmp_path / "images", 3)
    with open_store(tmp_path / "out") as store, FileCalls() as calls:
        list(segment(images, tiny_engine(1), store, SegmentOptions()))
    for image in images:
        mask = mask_path(tmp_path / "out", image).name
        assert calls.opened[image.path.name] == calls.opened[f".{mask}.part"] == calls.renamed[mask] == 1


class DecodeCounter:
    """Counts the images that decode() returned, and those that are still held."""

    def __init__(self) -> None:
        self.decoded = 0
        self.held = 0
        self._lock = threading.Lock()
        self._real_decode = OpenedImage.decode

    def decode(self, opened: OpenedImage, at_least_hw: tuple[int, int]) -> DecodedImage:
        picture = self._real_decode(opened, at_least_hw)
        with self._lock:
            self.decoded += 1
            self.held += 1
        weakref.finalize(picture.rgb, self._let_go)
        return picture

    def _let_go(self) -> None:
        with self._lock:
            self.held -= 1

    def settle(self, held: int) -> None:
        """Wait until nothing more is decoded and at most `held` images are held, or for ten seconds."""
        before, deadline = -1, time.monotonic() + 10
        while (before != self.decoded or self.held > held) and time.monotonic() < deadline:
            before = self.decoded
            time.sleep(0.05)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> DecodeCounter:
    counted = DecodeCounter()
    monkeypatch.setattr(OpenedImage, "decode", lambda opened, at_least_hw: counted.decode(opened, at_least_hw))
    return counted


@pytest.mark.parametrize("overlay", [False, True])
def test_with_views_the_images_held_are_bounded_by_the_cycles(
    free_manifest: MakeEngine, tmp_path: Path, decoded: DecodeCounter, overlay: bool
) -> None:
    count = 60
    images = [ImageFile(image.path, f"{n:03d}") for n, image in enumerate(save_many(tmp_path / "images", 5) * 12)]
    with (
        open_engine(free_manifest(1), make_layout=PROCEDURES[TTA.FULL].layout) as engine,
        open_store(tmp_path / "out") as store,
    ):
        bound = 2 * (len(engine.cycles) + 1)
        for number, _ in enumerate(segment(images, engine, store, SegmentOptions(overlay=overlay, tta=TTA.FULL))):
            if number in (0, 1, count // 2):
                decoded.settle(bound if overlay else 0)
                assert decoded.decoded - number <= bound < count
                assert decoded.held <= (bound if overlay else 0)
        assert decoded.decoded == count
    assert decoded.held == 0


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("overlay", [False, True])
def test_the_images_held_are_bounded_by_the_cycles(
    tiny_manifest: MakeEngine, tmp_path: Path, decoded: DecodeCounter, batch: int, overlay: bool
) -> None:
    count = 150
    images = [ImageFile(image.path, f"{n:03d}") for n, image in enumerate(save_many(tmp_path / "images", 5) * 30)]
    with open_engine(tiny_manifest(batch)) as engine, open_store(tmp_path / "out") as store:
        # As many images as the cycles hold wait for the caller, and as many are decoded ahead or in the network.
        bound = 2 * (len(engine.cycles) + 1) * batch
        held = bound if overlay else 0
        for number, _ in enumerate(segment(images, engine, store, SegmentOptions(overlay=overlay))):
            if number in (0, 1, count // 2):
                decoded.settle(held)
                assert decoded.decoded - number <= bound < count
                assert decoded.held <= held
        assert decoded.decoded == count
    assert decoded.held == 0


@pytest.mark.parametrize("taken", [0, 1, 9])
def test_a_pipeline_that_is_closed_early_leaves_no_thread_and_no_partial_file(
    tiny_engine: OpenEngine, tmp_path: Path, taken: int
) -> None:
    images, engine = save_many(tmp_path / "images", 40), tiny_engine(2)
    threads = set(threading.enumerate())
    with open_store(tmp_path / "out") as store:
        outcomes = segment(images, engine, store, SegmentOptions(workers=3))
        finished = [next(outcomes) for _ in range(taken)]
        del outcomes
        assert set(threading.enumerate()) == threads
        assert not list((tmp_path / "out").rglob(".*.part"))
        for outcome in finished:
            assert_ok(outcome, tmp_path / "out")
        assert [outcome.status for outcome in segment(images, engine, store, SegmentOptions())] == [Status.OK] * 40


def test_an_engine_that_fails_ends_the_run(
    tiny_manifest: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set(threading.enumerate())
    with open_engine(tiny_manifest(1)) as engine, open_store(tmp_path / "out") as store:
        results = iter(range(5))
        finish = engine._finish

        def fail_in_the_end(slot: int) -> dict[str, NDArray[np.uint8]]:
            if next(results, None) is None:
                raise EngineError("the device is gone")
            return finish(slot)

        monkeypatch.setattr(engine, "_finish", fail_in_the_end)
        with pytest.raises(EngineError, match="the device is gone"):
            list(segment(save_many(tmp_path / "images", 30), engine, store, SegmentOptions()))
        assert set(threading.enumerate()) == threads


def test_a_run_names_its_least_confident_images(tiny_engine: OpenEngine, tmp_path: Path) -> None:
    """A red of 128 is doubtful, one of 255 is not; a broken image has no confidence."""
    images = []
    for number, red in enumerate((255, 140, 250, 200, 160, 240, 150, 230, 128)):
        rgb = np.zeros((32, 32, 3), np.uint8)
        rgb[..., 0] = red
        images.append(ImageFile(save(tmp_path / f"{number}.png", rgb), str(number)))
    (tmp_path / "broken.png").write_text("none")
    images.append(ImageFile(tmp_path / "broken.png", "broken"))
    summary = segment_images(ImageListing(images), tiny_engine(1), tmp_path / "out")
    assert [least.image for least in summary.least_confident] == ["8.png", "1.png", "6.png", "4.png", "3.png"]
    assert summary.least_confident[0].confidence == pytest.approx(128 / 255, abs=1e-5)
