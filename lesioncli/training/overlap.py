"""Find what training and validation data have in common: images, files, lesions and patients."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lesioncli.errors import InputError
from lesioncli.files import sha256_of

if TYPE_CHECKING:
    from lesioncli.training.samples import Sample

MAX_SHOWN = 10


@dataclass(frozen=True)
class Overlap:
    """Validation images, each with a training image that has the same image, file, lesion or patient (`kind`)."""

    kind: str
    pairs: "list[tuple[Sample, Sample]]"


def find_overlaps(training: "Sequence[Sample]", validation: "Sequence[Sample]") -> list[Overlap]:
    """Find validation images that are trained on, by id or content, or are related to such by their tables."""
    overlaps = [
        Overlap("the same image", _pairs(training, validation, lambda sample: sample.image_id)),
        Overlap("files of the same content", _same_files(training, validation)),
        Overlap("the same lesion_id", _pairs(training, validation, lambda sample: sample.lesion)),
        Overlap("the same patient_id", _pairs(training, validation, lambda sample: sample.patient)),
    ]
    return [overlap for overlap in overlaps if overlap.pairs]


def refuse_overlap(training: "Sequence[Sample]", validation: "Sequence[Sample]") -> None:
    """Raise InputError, with a list, for the first of find_overlaps()."""
    for overlap in find_overlaps(training, validation):
        count = len(overlap.pairs)
        shown = "; ".join(f"{first.image} and {second.image}" for first, second in overlap.pairs[:MAX_SHOWN])
        more = f"; and {count - MAX_SHOWN} more" if count > MAX_SHOWN else ""
        raise InputError(
            f"{count} images are in both training and validation, {overlap.kind}: {shown}{more}; remove them from one"
            " of the two, or hold some out with --fold"
        )


def file_sizes(samples: "Sequence[Sample]") -> dict[Path, int]:
    """Return the size of each image file in bytes."""
    return {sample.image: sample.image.stat().st_size for sample in samples}


def hash_files(sizes: Mapping[Path, int], chosen: Collection[int]) -> dict[Path, str]:
    """Return the SHA-256 of the files of the chosen sizes: files of other sizes need not be read to tell them apart."""
    return {path: sha256_of(path) for path, size in sizes.items() if size in chosen}


def _pairs(
    training: "Sequence[Sample]", validation: "Sequence[Sample]", key: "Callable[[Sample], str]"
) -> "list[tuple[Sample, Sample]]":
    """Return each validation sample with a training sample of the same key; an empty key is unknown."""
    by_key = {key(sample): sample for sample in reversed(training)}
    return [(by_key[value], sample) for sample in validation if (value := key(sample)) and value in by_key]


def _same_files(training: "Sequence[Sample]", validation: "Sequence[Sample]") -> "list[tuple[Sample, Sample]]":
    """Compare contents; only files whose size occurs on both sides are read."""
    sizes = file_sizes([*training, *validation])
    common = {sizes[sample.image] for sample in training} & {sizes[sample.image] for sample in validation}
    hashes = hash_files(sizes, common)
    return _pairs(training, validation, lambda sample: hashes.get(sample.image, ""))
