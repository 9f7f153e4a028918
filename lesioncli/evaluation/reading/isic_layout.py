"""Folder layout of the ISIC challenges: the names of images, masks and labels of one split.

    DIR/ISIC-2017_Training_Data/ISIC_0000000.jpg
    DIR/ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png
    DIR/ISIC-2017_Training_Part3_GroundTruth.csv

ISIC-2016 has the same with `ISBI2016_ISIC_` and `_Segmentation.png`, ISIC-2018 with `Task1` and without labels.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_MASK_FOLDER = re.compile(r"(Part1|Task1)\w*_GroundTruth$")


@dataclass(frozen=True)
class IsicSplit:
    """Paths of one split of a challenge, such as ISIC-2017's Training. Any of them may not exist."""

    images: Path
    masks: Path
    labels: Path


def find_isic_split(folder: Path, split: str) -> IsicSplit | None:
    """Return split "Training", "Validation" or "Test_v2" of ISIC-2017; None if `folder` has no images of it."""
    images = folder / f"ISIC-2017_{split}_Data"
    return _split_of(folder / f"ISIC-2017_{split}_Part1_GroundTruth", images) if images.is_dir() else None


def list_isic_splits(folder: Path) -> list[IsicSplit]:
    """Return the splits of any challenge whose folder of masks is in `folder`, sorted by name."""
    folders = (path for path in folder.iterdir() if path.is_dir() and _MASK_FOLDER.search(path.name))
    return [_split_of(masks) for masks in sorted(folders)]


def _split_of(masks: Path, images: Path | None = None) -> IsicSplit:
    labels = masks.with_name(masks.name.replace("Part1", "Part3") + ".csv")
    return IsicSplit(images or masks.with_name(_MASK_FOLDER.sub("Data", masks.name)), masks, labels)
