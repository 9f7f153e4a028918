"""Pictures of the gallery: downsampled images and outlines."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.drawn_run import fill_outline
from helpers.pictures import jaccard
from PIL import Image

from lesioncli.demo.draw import draw_case
from lesioncli.images.geometry import from_upright, to_upright
from lesioncli.inference.pictures import write_mask
from lesioncli.report import pictures
from lesioncli.report.cases import Case, CaseState
from lesioncli.report.pictures import GRID, MAX_OUTLINES, MAX_SIDE_PX, Picture, draw, draw_all

Array = np.ndarray[Any, Any]


def make_case(**paths: Path | None) -> Case:
    return Case("x", "x.jpg", CaseState.EVALUATED, **paths)  # type: ignore[arg-type]  # only paths are given


def draw_saved(folder: Path, image: Image.Image, mask: Array, **options: Any) -> Picture:
    image.save(folder / "image.jpg", **options)
    write_mask(folder / "mask.png", mask.astype(np.uint8) * 255)
    return draw(make_case(image_path=folder / "image.jpg", prediction_path=folder / "mask.png"))


def decode_webp(webp: bytes) -> Array:
    with Image.open(BytesIO(webp)) as picture:
        assert picture.format == "WEBP"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("height", "width"), [(90, 120), (300, 400), (1000, 800)])
def test_outline_encloses_the_mask(tmp_path: Path, height: int, width: int) -> None:
    drawn = draw_case(4, height, width)
    picture = draw_saved(tmp_path, Image.fromarray(drawn.image), drawn.mask)
    inside = fill_outline(picture.prediction, picture.width, picture.height)
    assert max(picture.width, picture.height) == GRID
    mask = np.asarray(Image.fromarray(drawn.mask).resize((picture.width, picture.height), Image.Resampling.NEAREST))
    assert jaccard(inside, mask) > (0.95 if width > 120 else 0.9)
    assert len(picture.prediction) < 1500
    assert picture.problems == ()


@pytest.mark.parametrize(
    ("size_hw", "expected_hw"),
    [((600, 1600), (192, MAX_SIDE_PX)), ((40, 60), (40, 60)), ((3000, 2), (MAX_SIDE_PX, 1))],
)
def test_images_are_downsampled_and_never_upsampled(
    size_hw: tuple[int, int], expected_hw: tuple[int, int], tmp_path: Path
) -> None:
    image = Image.fromarray(draw_case(1, 64, 64).image).resize(size_hw[::-1])
    picture = draw_saved(tmp_path, image, np.zeros(size_hw))
    assert decode_webp(picture.webp).shape[:2] == expected_hw
    assert picture.prediction == ""


def test_image_and_outline_are_upright(tmp_path: Path) -> None:
    drawn = draw_case(2, 200, 300)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored_image, stored_mask = from_upright(drawn.image, 6), from_upright(drawn.mask, 6)
    assert (to_upright(stored_mask, 6) == drawn.mask).all()
    picture = draw_saved(tmp_path, Image.fromarray(stored_image), stored_mask, exif=exif, quality=95)
    decoded = decode_webp(picture.webp)
    assert decoded.shape == (200, 300, 3)
    assert np.abs(decoded.astype(int) - drawn.image).mean() < 8
    inside = fill_outline(picture.prediction, picture.width, picture.height)
    assert jaccard(inside[::10, ::10], np.asarray(Image.fromarray(drawn.mask).resize((100, 67)))) > 0.9


def test_mask_of_another_size_is_not_drawn_over_the_image(tmp_path: Path) -> None:
    picture = draw_saved(tmp_path, Image.fromarray(draw_case(2, 60, 80).image), np.ones((30, 40)))
    assert picture.prediction == ""
    (problem,) = picture.problems
    assert "40x30" in problem
    assert "80x60" in problem
    assert picture.webp


def test_unreadable_file_is_a_problem_and_the_rest_is_drawn(tmp_path: Path) -> None:
    mask = draw_case(2, 60, 80).mask
    write_mask(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    (tmp_path / "bad.png").write_bytes(b"no image")
    picture = draw(make_case(image_path=tmp_path / "bad.png", prediction_path=tmp_path / "mask.png"))
    assert (picture.webp, picture.height) == (b"", 750)
    assert picture.prediction.startswith("M")
    assert len(picture.problems) == 1
    assert len(draw(make_case()).problems) == 1
    assert draw(make_case(truth_path=tmp_path / "bad.png")).problems[1].startswith("ground truth")


def test_mask_of_noise_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((300, 300)) < 0.2
    picture = draw_saved(tmp_path, Image.fromarray(draw_case(0, 300, 300).image), noise)
    assert picture.prediction.count("M") == MAX_OUTLINES
    assert re.match(rf"prediction: .* {MAX_OUTLINES} ", picture.problems[0])


def test_pictures_are_drawn_at_most_two_per_thread_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "draw", lambda case: case.name)
    started: list[Case] = []

    def cases() -> Iterator[Case]:
        for number in range(100):
            started.append(Case(str(number), "", CaseState.SEGMENTED))
            yield started[-1]

    drawn: Iterator[Any] = draw_all(cases(), workers=2)
    assert next(drawn) == "0"
    assert len(started) == 5, "two per thread, and the one that was returned"
    assert [*drawn] == [str(number) for number in range(1, 100)]
