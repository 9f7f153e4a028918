"""Ground truth and predictions for tests of evaluate: masks with known lesions, tables, and a data set of 60 images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lesioncli.evaluation.cases import CaseResult
from lesioncli.evaluation.metrics.pixels import AREA_LOG_RATIO, PIXEL_METRICS
from lesioncli.evaluation.result import Evaluation

UInt8 = NDArray[np.uint8]

PERFECT = {**dict.fromkeys(PIXEL_METRICS, 1.0), AREA_LOG_RATIO: 0.0}  # metrics of a mask that equals the ground truth
IMAGES = 60
SCORES_HEADER = (
    "image,mask,width,height,status,reason,melanoma,seborrheic_keratosis,nevus,lesion_area_fraction,confidence"
)


def block(rows: int, columns: int, shape: tuple[int, int] = (8, 10)) -> UInt8:
    """Return a 0/255 mask with a lesion of rows x columns in its upper left corner."""
    mask = np.zeros(shape, np.uint8)
    mask[:rows, :columns] = 255
    return mask


def save_mask(path: Path, pixels: UInt8 | Image.Image | None = None, **options: Any) -> Path:
    """Write a mask, block(4, 5) by default, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(block(4, 5) if pixels is None else pixels)
    image.save(path, **options)
    return path


def write_lines(path: Path, *lines: str) -> Path:
    """Write a text file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def segment_scores(scores: Mapping[str, tuple[object, ...]]) -> list[str]:
    """Return the lines of segment's scores.csv from the melanoma, keratosis and nevus scores of each image file."""
    rows = [f"{name},x.png,10,8,ok,,{mel},{sk},{nv},.3,.9" for name, (mel, sk, nv) in scores.items()]
    return [SCORES_HEADER, *rows]


def only_case(evaluation: Evaluation) -> CaseResult:
    """Return the only case of an evaluation."""
    (case,) = evaluation.masks.cases
    return case


def problems(evaluation: Evaluation) -> dict[str, str]:
    """Return the problem of each case, "" where there is none."""
    return {case.name: case.problem for case in evaluation.masks.cases}


def jaccards(evaluation: Evaluation) -> dict[str, float]:
    """Return the Jaccard index of each case."""
    return {case.name: case.metrics["jaccard"] for case in evaluation.masks.cases}


# A data set of 60 images: 20 melanomas, 20 seborrheic keratoses and 20 nevi


def image_name(number: int) -> str:
    """Return the name of an image of the data set."""
    return f"ISIC_{number:07}"


def is_class(number: int) -> tuple[int, int]:
    """Return the labels melanoma and seborrheic keratosis of an image."""
    return int(number % 3 == 0), int(number % 3 == 1)


def class_scores(number: int, noise: float) -> tuple[float, float, float]:
    """Return the scores of an image for melanoma, seborrheic keratosis and nevus."""
    rng = np.random.default_rng(number)
    mel, sk = is_class(number)
    logits = 2 * (np.array([mel, sk, 1 - mel - sk]) + rng.normal(0, noise, 3))
    scores = np.exp(logits) / np.exp(logits).sum()
    return float(scores[0]), float(scores[1]), float(scores[2])


def write_predictions(folder: Path, error_px: int, noise: float, images: range = range(IMAGES)) -> None:
    """Write masks that miss up to `error_px` columns, 4 more for men, and scores."""
    folder.mkdir()
    rows = ["image,status,reason,melanoma,seborrheic_keratosis,nevus"]
    for number in images:
        missed = np.random.default_rng(number + error_px).integers(error_px) + 4 * (number % 2)
        save_mask(folder / f"{image_name(number)}.png", block(4 + number % 4, 12 - int(missed), (20, 20)))
        rows.append(f"{image_name(number)}.jpg,ok,,{','.join(map(repr, class_scores(number, noise)))}")
    write_lines(folder / "scores.csv", *rows)


def write_data_set(folder: Path) -> None:
    """Write labels/, metadata.csv and two sets of predictions, masks/ and other/.

    There are 30 women, 29 men with worse masks, and one image of unknown sex.
    """
    labels, metadata = ["image_id,melanoma,seborrheic_keratosis,site"], ["image_id,age_approximate,sex"]
    for number in range(IMAGES):
        mel, sk = is_class(number)
        save_mask(folder / "labels" / f"{image_name(number)}_segmentation.png", block(4 + number % 4, 12, (20, 20)))
        labels.append(f"{image_name(number)},{mel}.0,{sk}.0,{('arm', 'leg')[number % 2]}")
        sex = "unknown" if number == IMAGES - 1 else ("female", "male")[number % 2]
        metadata.append(f"{image_name(number)},{number + 20},{sex}")
    write_lines(folder / "labels" / "labels.csv", *labels)
    write_lines(folder / "metadata.csv", *metadata)
    write_predictions(folder / "masks", 3, 0.5)
    write_predictions(folder / "other", 5, 0.7)
