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
class SplitPaths:
    """Paths of the images, masks and labels of one split of a data set. `masks` and `labels` may not exist."""

    images: Path
    masks: Path
    labels: Path


def find_isic_split(folder: Path, split: str) -> SplitPaths | None:
    """Return split "Training", "Validation" or "Test_v2" of ISIC-2017; None if `folder` has no images of it."""
    images = folder / f"ISIC-2017_{split}_Data"
    if not images.is_dir():
        return None
    masks = folder / f"ISIC-2017_{split}_Part1_GroundTruth"
    return SplitPaths(images, masks, labels_beside(masks))


def list_mask_folders(folder: Path) -> list[Path]:
    """Return the folders of masks of any challenge that are in `folder`, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and _MASK_FOLDER.search(path.name))


def labels_beside(masks: Path) -> Path:
    """Return the CSV of labels that belongs to a folder of masks; it may not exist."""
    return masks.with_name(masks.name.replace("Part1", "Part3") + ".csv")
