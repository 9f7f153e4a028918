"""Groups of samples: renderings of one image, images of one lesion, and the folds that keep them together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from lesioncli.errors import InputError
from lesioncli.training.samples import Sample, TrainingData


@dataclass(frozen=True)
class SampleGroup:
    """One lesion: the indices of the renderings of each of its images, and its relative frequency in an epoch."""

    images: tuple[tuple[int, ...], ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Fold:
    """The fold `number` of `count`, from 1: about 1/count of all lesions."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "2/5"; ValueError if it is not a fold."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) > 1):
            raise ValueError(f"{text!r} is not a fold such as 2/5, the second of five")
        return cls(int(number), int(count))

    def holds(self, key: str) -> bool:
        """Whether a patient, lesion or image belongs to this fold; it stays there when others are added."""
        digest = hashlib.sha256(key.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


def group_samples(samples: Sequence[Sample], balance: Sequence[float]) -> list[SampleGroup]:
    """One group per lesion, else per patient, else per image, in order of the first sample.

    `balance` is the relative frequency of melanoma, seborrheic keratosis and neither (also if unknown). A group whose
    images differ in their class has the mean.
    """
    groups: dict[tuple[str, str], dict[str, list[int]]] = {}
    for index, sample in enumerate(samples):
        images = groups.setdefault(_group_key(sample), {})
        images.setdefault(sample.image_id, []).append(index)
    return [
        SampleGroup(
            tuple(tuple(renderings) for renderings in images.values()),
            sum(_class_weight(samples[renderings[0]], balance) for renderings in images.values()) / len(images),
        )
        for images in groups.values()
    ]


def split_fold(samples: Sequence[Sample], fold: Fold) -> TrainingData:
    """The fold's images for validation, all others for training; images of a patient or lesion stay together.

    Raises InputError if no image is left on one of the sides.
    """
    keys = _fold_keys(samples)
    held_out = [fold.holds(key) for key in keys]
    validation = [sample for sample, is_held_out in zip(samples, held_out, strict=True) if is_held_out]
    training = [sample for sample, is_held_out in zip(samples, held_out, strict=True) if not is_held_out]
    if not (training and validation):
        raise InputError(
            f"--fold {fold.number}/{fold.count}: {len(validation)} of {len(samples)} images are in this fold, since it"
            f" holds whole patients or lesions ({len(set(keys))} here); use fewer folds, or give images with --val"
        )
    return TrainingData(training, validation)


def _group_key(sample: Sample) -> tuple[str, str]:
    """The kind of a group and its id: a lesion and an image may have the same id."""
    kinds = (("lesion", sample.lesion), ("patient", sample.patient), ("image", sample.image_id))
    return next((kind, name) for kind, name in kinds if name)


def _fold_keys(samples: Sequence[Sample]) -> list[str]:
    """The patient of each sample, else its lesion, else its image. A lesion has the patient of any of its images."""
    patients = {sample.lesion: sample.patient for sample in samples if sample.lesion and sample.patient}
    return [sample.patient or patients.get(sample.lesion) or sample.lesion or sample.image_id for sample in samples]


def _class_weight(sample: Sample, balance: Sequence[float]) -> float:
    return balance[sample.labels.index(1.0)] if 1.0 in sample.labels else balance[-1]
