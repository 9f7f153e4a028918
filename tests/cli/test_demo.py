"""Demo images: properties of image, mask and label, and the files that `write_demo` writes."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.command import call
from helpers.pictures import read
from numpy.typing import NDArray

from lesioncli.demo.canvas import Canvas
from lesioncli.demo.draw import DrawnCase, draw_case
from lesioncli.demo.folder import write_demo
from lesioncli.errors import ExitCode, InputError
from lesioncli.spec import CLASSES

HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def cases() -> list[DrawnCase]:
    return [draw_case(seed, HEIGHT, WIDTH) for seed in range(30)]


def test_same_seed_draws_the_same_case() -> None:
    first, second = draw_case(7, HEIGHT, WIDTH), draw_case(7, HEIGHT, WIDTH)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)
    assert first.label == second.label


def test_different_seeds_draw_different_cases(cases: list[DrawnCase]) -> None:
    assert len({case.image.tobytes() for case in cases}) == len(cases)
    assert len({case.mask.tobytes() for case in cases}) == len(cases)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (200, 120), (64, 64)])
def test_image_is_rgb_and_mask_has_its_size(height: int, width: int) -> None:
    case = draw_case(1, height, width)
    assert case.image.shape == (height, width, 3)
    assert case.image.dtype == np.uint8
    assert case.mask.shape == (height, width)
    assert case.mask.dtype == np.bool_


def test_default_size_is_480_by_640() -> None:
    assert draw_case(0).image.shape == (480, 640, 3)


def test_three_consecutive_seeds_give_the_three_classes(cases: list[DrawnCase]) -> None:
    assert [case.label for case in cases[3:6]] == list(CLASSES)


def test_lesions_cover_5_to_45_percent_and_vary_in_size(cases: list[DrawnCase]) -> None:
    shares = [case.mask.mean() for case in cases]
    assert min(shares) > 0.05
    assert max(shares) < 0.45
    assert max(shares) > 2 * min(shares)


def test_mask_is_one_region_without_holes(cases: list[DrawnCase]) -> None:
    for case in cases:  # a second region or a hole would be a second contour
        contours, _ = cv2.findContours(case.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        assert len(contours) == 1


def test_lesion_is_darker_than_the_skin_around_it(cases: list[DrawnCase]) -> None:
    for case in cases:
        grey = case.image.mean(-1)
        near = cv2.dilate(case.mask.astype(np.uint8), np.ones((21, 21), np.uint8)) > 0
        skin = near & ~case.mask & (grey > 60)  # below 60: the dark corners
        assert grey[case.mask].mean() < grey[skin].mean() - 5


def test_brightness_step_lies_on_the_contour_of_the_mask(cases: list[DrawnCase]) -> None:
    """Half of the fall from skin to lesion lies outside the contour, half inside.

    A mask 3 pixels too wide gives 0.87, one 3 pixels too narrow 0.23.
    """
    outside, on, inside = np.mean([grey_around_contour(case) for case in cases if case.label != "melanoma"], 0)
    assert 0.3 < (on - inside) / (outside - inside) < 0.7


def grey_around_contour(case: DrawnCase, distance_px: int = 8) -> tuple[float, float, float]:
    """Return the mean grey outside, on and inside the contour of a mask, `distance_px` away from it."""
    grey, mask = case.image.mean(-1), case.mask.astype(np.uint8)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    outside, on, inside = (float(grey[np.abs(depth - d) <= 1].mean()) for d in (-distance_px, 0, distance_px))
    return outside, on, inside


def test_skin_has_the_median_colour_of_isic_2017(cases: list[DrawnCase]) -> None:
    skin = np.median([np.median(case.image[~case.mask], 0) for case in cases], 0)
    assert np.abs(skin - (190, 160, 153)).max() < 25  # ISIC 2017: median over images of the median of the skin
    assert skin[0] > skin[1] > skin[2]


def test_a_new_artefact_is_one_function_and_one_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def add_black_corner(canvas: Canvas, rgb: NDArray[np.float32]) -> NDArray[np.float32]:
        rgb = rgb.copy()
        rgb[: canvas.height // 4, : canvas.width // 4] = 0
        return rgb

    before = draw_case(3, 64, 64).image
    monkeypatch.setattr("lesioncli.demo.draw.ARTEFACTS", [(1.0, add_black_corner)])
    assert draw_case(3, 64, 64).image[:12, :12].mean() < 20 < before[:12, :12].mean()


def test_written_folder_has_the_drawn_cases(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", count=4, seed=10, height=HEIGHT, width=WIDTH)
    stems = [f"demo_{number:04d}" for number in (11, 12, 13, 14)]
    images, labels = tmp_path / "demo" / "images", tmp_path / "demo" / "labels"
    assert sorted(path.name for path in images.iterdir()) == [f"{stem}.jpg" for stem in stems]
    masks = [f"{stem}_segmentation.png" for stem in stems]
    assert sorted(path.name for path in labels.iterdir()) == [*masks, "labels.csv"]

    for seed, stem in enumerate(stems, start=10):
        case = draw_case(seed, HEIGHT, WIDTH)
        assert np.array_equal(read(labels / f"{stem}_segmentation.png"), case.mask * np.uint8(255))
        error = read(images / f"{stem}.jpg").astype(float) - case.image
        assert np.abs(error).mean() < 4  # the loss of JPEG at quality 92


def test_label_table_has_one_row_per_image(tmp_path: Path) -> None:
    write_demo(tmp_path, count=3, height=HEIGHT, width=WIDTH)
    with (tmp_path / "labels" / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["image", "melanoma", "seborrheic_keratosis"],
        ["demo_0001", "1.0", "0.0"],
        ["demo_0002", "0.0", "1.0"],
        ["demo_0003", "0.0", "0.0"],
    ]


@pytest.mark.parametrize("occupied", ["images", "labels"])
def test_folder_with_files_is_an_error_and_stays_unchanged(tmp_path: Path, occupied: str) -> None:
    existing = tmp_path / occupied / "mine.txt"
    (tmp_path / "notes.txt").touch()
    existing.parent.mkdir()
    existing.write_text("keep")
    with pytest.raises(InputError, match=re.escape(str(existing.parent))):
        write_demo(tmp_path, count=1, height=HEIGHT, width=WIDTH)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {existing, tmp_path / "notes.txt"}


@pytest.mark.parametrize("existing", [["photo.JPG"], ["images", "notes.txt"], ["labels", "engines"]])
def test_folder_with_other_contents_is_an_error_and_stays_unchanged(tmp_path: Path, existing: list[str]) -> None:
    for name in existing:
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    done = call("demo", tmp_path, "--count", "1", "--size", "64", "64")
    assert done.exit_code == ExitCode.INPUT
    assert f"{tmp_path}: " in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(existing)


@pytest.mark.parametrize("existing", [["engines", "notes.txt", ".photo.jpg"], ["images", "labels"], ["images"]])
def test_working_folder_without_images_is_filled(tmp_path: Path, existing: list[str]) -> None:
    for name in existing:
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    assert call("demo", tmp_path, "--count", "1", "--size", "64", "64").exit_code == 0
    assert (tmp_path / "images" / "demo_0001.jpg").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {*existing, "images", "labels"}


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name / "images"))):
        write_demo(tmp_path / name, count=1, height=HEIGHT, width=WIDTH)
    assert (tmp_path / "file").read_text() == "keep"


def test_demo_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, lesioncli.demo.folder; sys.exit(bool({'torch', 'pandas', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
