"""Find what training and validation data have in common: images, files, lesions and patients."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lesioncli.errors import InputError
from lesioncli.files import sha256_of

if TYPE_CHECKING:
    from lesioncli.training.samples import Sample

MAX_SHOWN = 10


def refuse_overlap(training: "Sequence[Sample]", validation: "Sequence[Sample]") -> None:
    """Raise InputError, with a list, if validation images are trained on, by id or content, or are related to such.

    Related images have the same lesion or patient in their tables.
    """
    for kind, shared in (
        ("the same image", _pairs(training, validation, lambda sample: sample.image_id)),
        ("files of the same content", _same_files(training, validation)),
        ("the same lesion_id", _pairs(training, validation, lambda sample: sample.lesion)),
        ("the same patient_id", _pairs(training, validation, lambda sample: sample.patient)),
    ):
        if shared:
            shown = "; ".join(f"{first.image} and {second.image}" for first, second in shared[:MAX_SHOWN])
            more = f"; and {len(shared) - MAX_SHOWN} more" if len(shared) > MAX_SHOWN else ""
            raise InputError(
                f"{len(shared)} images are in both training and validation, {kind}: {shown}{more}; remove them from one"
                " of the two, or hold some out with --fold"
            )


def _pairs(
    training: "Sequence[Sample]", validation: "Sequence[Sample]", key: "Callable[[Sample], str]"
) -> "list[tuple[Sample, Sample]]":
    """Return each validation sample with a training sample of the same key; an empty key is unknown."""
    by_key = {key(sample): sample for sample in reversed(training)}
    return [(by_key[value], sample) for sample in validation if (value := key(sample)) and value in by_key]


def _same_files(training: "Sequence[Sample]", validation: "Sequence[Sample]") -> "list[tuple[Sample, Sample]]":
    """Compare contents; only files whose size occurs on both sides are read."""
    sizes: dict[Path, int] = {sample.image: sample.image.stat().st_size for sample in (*training, *validation)}
    common = {sizes[sample.image] for sample in training} & {sizes[sample.image] for sample in validation}
    hashes = {path: sha256_of(path) for path, size in sizes.items() if size in common}
    return _pairs(training, validation, lambda sample: hashes.get(sample.image, ""))
