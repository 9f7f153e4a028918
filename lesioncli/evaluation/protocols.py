"""Evaluation protocols: the rules of the ISIC challenges and of PH2, and how they name images."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from lesioncli.errors import InputError
from lesioncli.evaluation.reading.csv_table import column_key
from lesioncli.evaluation.reading.ph2 import IMAGES
from lesioncli.isic import find_id
from lesioncli.options import ProtocolName
from lesioncli.spec import CLASSES

ISIC2018_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")  # Task 3


@dataclass(frozen=True)
class DataSet:
    """The data set that a protocol is for: how its images are named, and the folders that it is published in."""

    image: str  # an example
    has_name: Callable[[str], object]
    layout: str


ISIC = DataSet("ISIC_0012345", find_id, "masks in a folder such as ISIC-2017_Test_v2_Part1_GroundTruth")
PH2 = DataSet(
    "IMD003", re.compile(r"IMD\d{3}").fullmatch, f"masks such as {IMAGES}/IMD003/IMD003_lesion/IMD003_lesion.bmp"
)


@dataclass(frozen=True)
class Protocol:
    """Rules of an evaluation.

    `mask_metric`: masks are ranked by the mean of this metric over images.
    `score_metric`: scores are ranked by the mean of this metric over classes, or by the balanced accuracy.
    `isic_names`: a file belongs to the image whose number of seven digits its name contains.
    `complete`: official figures need an evaluation of every image.
    `weighted`: official figures of scores use the weights in the labels, as the official scorer does.
    `data_set`: ground truth that has another image is refused; None if any images will do.
    `classes`: scores are ranked for exactly these classes; empty if any classes will do.
    """

    mask_metric: str
    score_metric: str
    isic_names: bool
    complete: bool
    weighted: bool
    data_set: DataSet | None = None
    classes: tuple[str, ...] = ()


# To add a protocol, add its name to ProtocolName and its rules here.
PROTOCOLS: dict[ProtocolName, Protocol] = {
    ProtocolName.PLAIN: Protocol(
        mask_metric="jaccard", score_metric="auc", isic_names=False, complete=False, weighted=False
    ),
    ProtocolName.ISIC2017: Protocol(
        mask_metric="jaccard",
        score_metric="auc",
        isic_names=True,
        complete=True,
        weighted=True,
        data_set=ISIC,
        classes=CLASSES[:2],
    ),
    ProtocolName.ISIC2018: Protocol(
        mask_metric="threshold_jaccard",
        score_metric="balanced_accuracy",
        isic_names=True,
        complete=True,
        weighted=True,
        data_set=ISIC,
        classes=ISIC2018_CLASSES,
    ),
    ProtocolName.PH2: Protocol(
        mask_metric="jaccard", score_metric="auc", isic_names=False, complete=True, weighted=False, data_set=PH2
    ),
}


def image_id(name: str, protocol: Protocol) -> str:
    """Return the image that a file or row belongs to: `ISIC_` and its number, or the last part of the name."""
    return (find_id(name) if protocol.isic_names else "") or name.rpartition("/")[2]


def require_data_set(path: Path, names: Iterable[str], protocol: ProtocolName) -> None:
    """Raise InputError if ground truth at `path` has the name of an image that is not of the protocol's data set."""
    data_set = PROTOCOLS[protocol].data_set
    if data_set is None:
        return
    if foreign := next((name for name in names if not data_set.has_name(name.rpartition("/")[2])), ""):
        raise InputError(
            f"{path}: not ground truth of {protocol}: it has {foreign}; looked for {data_set.layout}, or masks and"
            f" labels of images named as {data_set.image}; give such a data set, or use --protocol plain"
        )


def missing_classes(protocol: Protocol, classes: Collection[str]) -> tuple[str, ...]:
    """Return the protocol's classes that `classes` lacks, whatever their spelling."""
    keys = set(map(column_key, classes))
    return tuple(name for name in protocol.classes if column_key(name) not in keys)


def unknown_classes(protocol: Protocol, classes: Collection[str]) -> tuple[str, ...]:
    """Return the classes that the protocol does not have; none if it accepts any classes."""
    known = set(map(column_key, protocol.classes))
    return tuple(name for name in classes if known and column_key(name) not in known)
