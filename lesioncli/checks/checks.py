"""The checks. To add one, write a function that finds something and add it to CHECKS."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lesioncli.checks.data import CheckedSample, Side
from lesioncli.checks.measure import HASH_SIDE, HASHES, MeasuredData
from lesioncli.checks.similar import find_similar
from lesioncli.images.formats import Extra
from lesioncli.training.overlap import file_sizes, find_overlaps, hash_files
from lesioncli.training.samples import size_fault

MIN_SIDE_PX = 128  # half of what the networks see
# An inverted mask is lesion at the border, and less so in the middle. Of 4,000 masks of ISIC-2017 and HAM10000, these
# limits find none, and of the same masks inverted 98 %.
_MIN_BORDER, _MAX_LESION = 0.6, 0.995


@dataclass(frozen=True)
class Finding:
    """Something found in one file or in several that belong together, and what; `files` are shown in this order."""

    files: tuple[Path, ...]
    detail: str


@dataclass(frozen=True)
class Check:
    """A check. name: in JSON. title: what it finds, in the plural. extra: what it needs; without it, it is not run."""

    name: str
    title: str
    find: Callable[[MeasuredData], Iterable[Finding]]
    extra: Extra | None = None


def find_unreadable(measured: MeasuredData) -> Iterator[Finding]:
    """Find images that `segment` and `train` cannot decode."""
    return (Finding((path,), facts.reason) for path, facts in measured.images.items() if facts.reason)


def find_tiny(measured: MeasuredData) -> Iterator[Finding]:
    """Find images whose shorter side is below MIN_SIDE_PX."""
    for path, facts in measured.images.items():
        height, width = facts.stored_hw
        if 0 < min(height, width) < MIN_SIDE_PX:
            yield Finding((path,), f"{width} x {height} pixels")


def find_pictures_of_masks(measured: MeasuredData) -> Iterator[Finding]:
    """Find images that have as few colours as a mask."""
    return (Finding((path,), "few colours") for path, facts in measured.images.items() if facts.looks_like_mask)


def find_duplicates(measured: MeasuredData) -> Iterator[Finding]:
    """Find files of the same content."""
    for paths in _group_by_content(measured):
        yield Finding(tuple(paths), f"{len(paths)} files of the same content")


def find_near_duplicates(measured: MeasuredData) -> Iterator[Finding]:
    """Find pairs of images that look alike; renderings of one image on the same side of the split are none."""
    copies = {path for paths in _group_by_content(measured) for path in paths[1:]}
    by_path = {checked.sample.image: checked for checked in measured.data.samples}
    paths = [path for path, facts in measured.images.items() if facts.perceptual_hash and path not in copies]
    for distance, first, second in find_similar([measured.images[path].perceptual_hash for path in paths]):
        pair = by_path[paths[first]], by_path[paths[second]]
        is_one_image = pair[0].sample.image_id == pair[1].sample.image_id
        if not (is_one_image and pair[0].side == pair[1].side):
            yield Finding((paths[first], paths[second]), _describe_pair(distance, *pair))


def _describe_pair(distance: int, first: CheckedSample, second: CheckedSample) -> str:
    one, other = first.sample, second.sample
    facts = {
        "in training and validation": first.side != second.side,
        "the same lesion_id": one.lesion and one.lesion == other.lesion,
        "different lesion_id": one.lesion and other.lesion and one.lesion != other.lesion,
        "different labels": one.is_labelled and other.is_labelled and one.labels != other.labels,
    }
    return "; ".join([f"{distance} of {HASH_SIDE**2} bits differ", *(words for words, holds in facts.items() if holds)])


def _group_by_content(measured: MeasuredData) -> list[list[Path]]:
    """Return the files of the same content, for each content that several files have."""
    samples = [checked.sample for checked in measured.data.samples if checked.sample.image in measured.images]
    sizes = file_sizes(samples)
    repeated = {size for size, count in Counter(sizes.values()).items() if count > 1}
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path, digest in hash_files(sizes, repeated).items():
        groups[digest].append(path)
    return [paths for paths in groups.values() if len(paths) > 1]


def find_shared(measured: MeasuredData) -> Iterator[Finding]:
    """Find images, files, lesions and patients that are on both sides of the split, as `train` refuses them."""
    for overlap in find_overlaps(measured.data.on(Side.TRAINING), measured.data.on(Side.VALIDATION)):
        for first, second in overlap.pairs:
            yield Finding((first.image, second.image), overlap.kind)


def find_bad_masks(measured: MeasuredData) -> Iterator[Finding]:
    """Find masks that are not readable, or not 0 and 255."""
    for image, mask in _pairs(measured):
        if reason := measured.masks[mask].reason:
            yield Finding((image, mask), reason)


def find_wrong_sizes(measured: MeasuredData) -> Iterator[Finding]:
    """Find masks of another size than their image is stored at."""
    for image, mask in _pairs(measured):
        size_hw, image_hw = measured.masks[mask].size_hw, measured.images[image].stored_hw
        if 0 not in (*size_hw, *image_hw) and size_hw != image_hw:
            yield Finding((image, mask), size_fault(mask, size_hw, image_hw).removeprefix(f"{mask}: "))


def find_empty_masks(measured: MeasuredData) -> Iterator[Finding]:
    """Find masks without a lesion, and masks that are all lesion."""
    for image, mask in _pairs(measured):
        facts = measured.masks[mask]
        if not facts.reason and facts.lesion in (0, 1):
            yield Finding((image, mask), "all lesion" if facts.lesion else "no lesion")


def find_inverted_masks(measured: MeasuredData) -> Iterator[Finding]:
    """Find masks that are lesion all around and less so in the middle."""
    for image, mask in _pairs(measured):
        facts = measured.masks[mask]
        if facts.border >= _MIN_BORDER and facts.middle < facts.lesion < _MAX_LESION:
            where = f"lesion at {facts.border:.0%} of the border and {facts.middle:.0%} of the middle"
            yield Finding((image, mask), where)


def _pairs(measured: MeasuredData) -> Iterator[tuple[Path, Path]]:
    """Yield each image that has a mask, with it."""
    for checked in measured.data.samples:
        if checked.sample.mask:
            yield checked.sample.image, checked.sample.mask


def find_refused_tables(measured: MeasuredData) -> Iterator[Finding]:
    """Find what `train` refuses of the names of masks and the tables of labels."""
    return (Finding((), reason) for reason in dict.fromkeys(measured.data.refused))


# In the order in which they are shown.
CHECKS: tuple[Check, ...] = (
    Check("unreadable", "unreadable images", find_unreadable),
    Check("tiny", f"images with a side below {MIN_SIDE_PX} pixels", find_tiny),
    Check("not_photographs", "images that look like masks", find_pictures_of_masks),
    Check("duplicates", "files of the same content", find_duplicates),
    Check("near_duplicates", "near duplicates", find_near_duplicates, HASHES),
    Check("split", "in training and validation", find_shared),
    Check("bad_masks", "unreadable masks", find_bad_masks),
    Check("mask_sizes", "masks of another size than their image", find_wrong_sizes),
    Check("empty_masks", "empty or full masks", find_empty_masks),
    Check("inverted_masks", "inverted masks", find_inverted_masks),
    Check("tables", "masks and labels that do not match", find_refused_tables),
)
