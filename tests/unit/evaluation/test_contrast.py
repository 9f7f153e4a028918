"""`--by contrast`: colours of drawn lesions and skin, with scikit-image's conversion to Lab as the other road."""

from pathlib import Path

import numpy as np
import pytest
from helpers.command import call
from helpers.evaluation_data import save_mask
from helpers.pictures import save
from numpy.typing import NDArray
from skimage.color import rgb2lab

from lesioncli.errors import ExitCode, ImageError, InputError
from lesioncli.evaluation.contrast import lab_contrast, measure_contrast
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.images.geometry import to_upright
from lesioncli.options import EvaluationOptions

SKIN, LESION, FAR = (222, 170, 150), (120, 70, 60), (10, 10, 10)
SHAPE = (120, 160)
RADIUS = 30
Mask = NDArray[np.bool_]


def disc(radius: float = RADIUS, center: tuple[int, int] = (60, 80)) -> Mask:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(np.hypot(y - center[0], x - center[1]) < radius)


def draw(lesion: Mask, color: tuple[int, int, int] = LESION) -> NDArray[np.uint8]:
    return np.where(lesion[..., None], np.array(color, np.uint8), np.array(SKIN, np.uint8))


def difference(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    lab = [rgb2lab(np.array([[color]], np.float64) / 255)[0, 0] for color in (first, second)]
    return float(np.linalg.norm(lab[0] - lab[1]))


def test_flat_colours_differ_as_in_scikit_image() -> None:
    assert lab_contrast(draw(disc()), disc()) == pytest.approx(difference(LESION, SKIN), abs=0.1)


def test_only_a_ring_around_the_lesion_is_skin() -> None:
    image = draw(disc())
    image[disc(32) & ~disc()] = (255, 0, 0)  # within a tenth of the radius
    image[~disc(46)] = FAR  # beyond half of it
    assert lab_contrast(image, disc()) == pytest.approx(difference(LESION, SKIN), abs=0.1)
    image[~disc(42)] = FAR
    assert lab_contrast(image, disc()) != pytest.approx(difference(LESION, SKIN), abs=5)


@pytest.mark.parametrize("lesion", [np.zeros(SHAPE, np.bool_), np.ones(SHAPE, np.bool_)], ids=["none", "all"])
def test_without_lesion_or_skin_there_is_no_contrast(lesion: Mask) -> None:
    assert np.isnan(lab_contrast(draw(disc()), lesion))


def test_a_lesion_of_one_pixel_has_skin_around_it() -> None:
    lesion = np.zeros(SHAPE, np.bool_)
    lesion[50, 50] = True
    assert lab_contrast(draw(lesion), lesion) == pytest.approx(difference(LESION, SKIN), abs=0.1)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_file_is_measured_as_it_is_stored(orientation: int, tmp_path: Path) -> None:
    lesion = disc(20, (40, 110))
    path = save(tmp_path / "image.png", draw(lesion), orientation)
    assert measure_contrast(path, lesion) == pytest.approx(difference(LESION, SKIN), abs=0.1)
    assert to_upright(lesion, 6).shape != lesion.shape


def test_a_large_image_is_reduced(tmp_path: Path) -> None:
    lesion = disc().repeat(20, 0).repeat(20, 1)
    path = save(tmp_path / "image.jpg", draw(lesion))
    assert measure_contrast(path, lesion) == pytest.approx(difference(LESION, SKIN), abs=1)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", draw(disc())[:, 1:])
    with pytest.raises(ImageError, match="another size: 159 x 120"):
        measure_contrast(path, disc())


COUNT = 24


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    """A folder with images/, of lesions from dark to pale, labels/, and masks/ by `segment`."""
    for number in range(COUNT):
        color = tuple(np.linspace(LESION, SKIN, COUNT + 1)[number].round().astype(int).tolist())
        folder = "a" if number % 2 else "b"
        save(tmp_path / f"images/{folder}/{number:02}.png", draw(disc(), color))
        save_mask(tmp_path / f"labels/{folder}/{number:02}.png", (255 * disc()).astype(np.uint8))
    done = call("segment", tmp_path / "images", "--out", tmp_path / "masks")
    assert done.exit_code == ExitCode.OK, done.stderr
    return tmp_path


def by_contrast(folder: Path) -> dict[str, int]:
    evaluation = evaluate(folder / "labels", folder / "masks", EvaluationOptions(by=("contrast",)))
    return {group.group: group.images for group in evaluation.groups}


def test_images_are_grouped_by_their_contrast(segmented: Path, tmp_path: Path) -> None:
    groups = by_contrast(segmented)
    assert list(groups.values()) == [6, 6, 6, 6]
    limits = [float(name.split()[0]) for name in list(groups)[1:]]
    values = sorted(
        measure_contrast(path, disc()) for path in (segmented / "images").rglob("*.png")
    )  # of flat colours, as the tests above have it
    np.testing.assert_allclose(limits, np.quantile(values, (0.25, 0.5, 0.75)), rtol=0.02)
    printed = call("evaluate", segmented / "masks", "--gt", segmented / "labels", "--by", "contrast")
    assert printed.exit_code == ExitCode.OK
    assert f"below {next(iter(groups)).split()[1]}" in printed.stdout


def test_images_that_cannot_be_measured_are_unknown(segmented: Path) -> None:
    (segmented / "images/a/01.png").unlink()
    (segmented / "images/b/00.png").write_bytes(b"broken")
    assert by_contrast(segmented)["unknown"] == 2
    evaluation = evaluate(segmented / "labels", segmented / "masks", EvaluationOptions(by=("contrast",)))
    assert "contrast unknown: not a" in next(case.note for case in evaluation.masks.cases if case.name == "b/00")


def test_images_that_are_not_at_hand_are_an_error(segmented: Path) -> None:
    (segmented / "images").rename(segmented / "moved")
    with pytest.raises(InputError, match=r"--by contrast: .*none is in .*images"):
        by_contrast(segmented)
    (segmented / "masks/run.json").unlink()
    with pytest.raises(InputError, match=r"--by contrast: .*masks has no run.json"):
        by_contrast(segmented)


def test_contrast_does_not_define_clusters(segmented: Path) -> None:
    with pytest.raises(InputError, match="--cluster contrast"):
        evaluate(segmented / "labels", segmented / "masks", EvaluationOptions(cluster="contrast"))
