"""What a run learns from and is validated on: counts for the user, and the targets that are missing."""

from collections.abc import Sequence
from math import isnan

from lesioncli.errors import InputError
from lesioncli.models.network import Stage, Target
from lesioncli.training.groups import group_samples
from lesioncli.training.samples import LABEL_COLUMNS, Sample

_ONE_EACH = (1.0,) * (len(LABEL_COLUMNS) + 1)


def describe_samples(samples: Sequence[Sample]) -> str:
    """The number of files, images and lesions, and of images per class and without a mask."""
    images: dict[str, list[Sample]] = {}
    for sample in samples:
        images.setdefault(sample.image_id, []).append(sample)
    classes = [_class_of(renderings[0]) for renderings in images.values()]
    parts = [f"{name} {classes.count(name)}" for name in ("melanoma", "seborrheic keratosis", "neither", "unknown")]
    without_mask = sum(all(sample.mask is None for sample in renderings) for renderings in images.values())
    counts = f"{len(images)} images"
    if len(images) < len(samples):
        counts += f" in {len(samples)} files"
    if any(sample.lesion or sample.patient for sample in samples):
        groups = len(group_samples(samples, _ONE_EACH))
        counts += f" of {groups} {'lesions' if any(sample.lesion for sample in samples) else 'patients'}"
    return f"{counts}: {', '.join(parts)}; without mask {without_mask}"


def note_undefined_aucs(validation: Sequence[Sample]) -> list[str]:
    """A line for each class whose AUC the labels of the validation images leave undefined."""
    notes = []
    for index, name in enumerate(LABEL_COLUMNS):
        known = {sample.labels[index] for sample in validation if not isnan(sample.labels[index])}
        if len(known) == 1:
            notes.append(
                f"validation: {name} is {known.pop():.0f} for every image, so its AUC is undefined and does not count"
            )
        elif not known:
            notes.append(f"validation: {name} is unknown for every image, so it has no AUC")
    return notes


def check_targets(
    stage: Stage, training: Sequence[Sample], validation: Sequence[Sample], has_teachers: bool
) -> list[str]:
    """Lines about what the stage cannot learn or be validated by.

    Raises InputError if nothing is left. Teachers predict the masks that are missing.
    """
    learnt = {*_targets_of(training), *([Target.MASKS] if has_teachers else [])}
    notes = []
    for side, present in (("training", learnt), ("validation", _targets_of(validation))):
        missing = [target for target in stage.targets if target not in present]
        if len(missing) == len(stage.targets):
            raise InputError(f"{stage.name}: no {side} image has {' or '.join(missing)}, which this stage needs")
        notes += [f"{stage.name}: no {side} image has {target}" for target in missing]
    return notes


def _targets_of(samples: Sequence[Sample]) -> set[Target]:
    has_masks, has_labels = any(sample.mask for sample in samples), any(sample.is_labelled for sample in samples)
    return {target for target, is_there in ((Target.MASKS, has_masks), (Target.LABELS, has_labels)) if is_there}


def _class_of(sample: Sample) -> str:
    if 1.0 in sample.labels:
        return LABEL_COLUMNS[sample.labels.index(1.0)].replace("_", " ")
    return "unknown" if any(map(isnan, sample.labels)) else "neither"
