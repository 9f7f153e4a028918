"""Groups of one lesion per epoch, and folds that keep groups together."""

from collections import Counter
from dataclasses import replace
from math import nan
from pathlib import Path

import pytest

from lesioncli.errors import InputError
from lesioncli.models.network import Target
from lesioncli.models.registry import find_stage
from lesioncli.training.datasets import EpochSampler
from lesioncli.training.groups import Fold, SampleGroup, group_samples, split_fold
from lesioncli.training.samples import Sample
from lesioncli.training.summary import check_targets, describe_samples, note_undefined_aucs

EQUAL = (1.0, 1.0, 1.0)


def sample(name: str, folder: str = "a", **more: object) -> Sample:
    return replace(Sample(name, Path(folder, f"{name}.png"), None), **more)  # type: ignore[arg-type]  # by name


def drawn_indices(groups: list[SampleGroup], epoch: int) -> list[int]:
    sampler = EpochSampler(groups, 1, seed=3)
    sampler.epoch = epoch
    return [key.sample for batch in sampler for key in batch]


def test_renderings_belong_to_an_image_and_images_to_a_lesion() -> None:
    samples = [
        sample("x", lesion="L"),
        sample("ISIC_0000001", lesion="L"),
        sample("y", patient="P"),
        sample("ISIC_0000001_crop", "b", lesion="L"),
        sample("z"),
        sample("L"),  # an image may be named as a lesion is
        sample("w", patient="P"),
    ]
    images = [group.images for group in group_samples(samples, EQUAL)]
    assert images == [((0,), (1, 3)), ((2,), (6,)), ((4,),), ((5,),)]


def test_numbers_of_other_archives_are_no_isic_ids() -> None:
    samples = [sample("anna_0000001"), sample("bert_0000001")]
    assert len(group_samples(samples, EQUAL)) == 2


def test_a_group_has_one_sample_per_epoch_and_each_image_its_turn() -> None:
    groups = [SampleGroup(((0,), (1, 2))), SampleGroup(((3,),))]
    epochs = [drawn_indices(groups, epoch) for epoch in range(400)]
    assert all(len(drawn) == 2 and 3 in drawn for drawn in epochs)
    counts = Counter(index for drawn in epochs for index in drawn)
    assert counts[0] == pytest.approx(200, abs=40)  # one image of two, and the other in two renderings
    assert counts[1] == pytest.approx(100, abs=35)
    assert counts[2] == pytest.approx(100, abs=35)
    assert [drawn_indices(groups, epoch) for epoch in range(400)] == epochs


def test_a_group_is_balanced_by_the_mean_of_its_images() -> None:
    labels = [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (nan, nan)]
    samples = [sample(f"x{n}", labels=each) for n, each in enumerate(labels)]
    samples += [sample("y0", lesion="L", labels=(1.0, 0.0)), sample("y1", lesion="L", labels=(0.0, 0.0))]
    assert [group.weight for group in group_samples(samples, (5.0, 4.0, 1.0))] == [5, 4, 1, 1, 3]


def test_every_image_is_in_one_fold_and_stays_there() -> None:
    samples = [sample(f"x{n}", lesion=f"L{n // 3}") for n in range(300)]
    folds = [split_fold(samples, Fold(number, 5)) for number in range(1, 6)]
    names = [{one.name for one in fold.validation} for fold in folds]
    assert sum(map(len, names)) == len(set.union(*names)) == 300
    assert all(30 <= len(held_out) <= 90 for held_out in names)
    for fold in folds:
        assert len(fold.training) + len(fold.validation) == 300
        assert not {one.lesion for one in fold.training} & {one.lesion for one in fold.validation}
    more = split_fold([sample("new"), *reversed(samples)], Fold(2, 5))
    assert {one.name for one in more.validation} - {"new"} == names[1]


def test_a_fold_is_the_same_on_every_machine() -> None:
    """The first digits of the ids' SHA-256, modulo 5: `printf ISIC_0000000 | sha256sum`."""
    names = ["ISIC_0000000", "ISIC_0000001", "ISIC_0000002", "ISIC_0000003"]
    folds = [[number for number in range(1, 6) if Fold(number, 5).holds(name)] for name in names]
    assert folds == [[1], [3], [2], [1]]


def test_a_fold_keeps_the_lesions_of_a_patient_together() -> None:
    samples = [sample(f"x{n}", lesion=f"L{n}", patient=f"P{n // 10}" if n % 2 else "") for n in range(100)]
    samples += [sample(f"y{n}", lesion=f"L{n}") for n in range(100)]  # their patients are those of the same lesions
    for number in range(1, 4):
        fold = split_fold(samples, Fold(number, 3))
        held_out = {one.lesion for one in fold.validation}
        assert not held_out & {one.lesion for one in fold.training}


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "2", "a/b", "1/", "-1/5", "1/5/2", ""])
def test_what_is_no_fold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a fold"):
        Fold.parse(text)


def test_a_fold_is_read() -> None:
    assert Fold.parse("2/5") == Fold(2, 5)


def test_a_fold_without_images_is_refused() -> None:
    samples = [sample(f"x{n}", patient="P") for n in range(9)]
    for number in (1, 2):
        with pytest.raises(InputError, match=rf"--fold {number}/2"):
            split_fold(samples, Fold(number, 2))


def test_the_summary_counts_images_lesions_and_classes() -> None:
    mask = Path("mask.png")
    samples = [
        sample("ISIC_0000001", labels=(1.0, 0.0), lesion="L", mask=mask),
        sample("ISIC_0000001_crop", "b", labels=(1.0, 0.0), lesion="L"),
        sample("x", labels=(0.0, 1.0), lesion="L"),
        sample("y", labels=(0.0, 0.0)),
        sample("z", labels=(0.0, nan)),
    ]
    assert describe_samples(samples) == (
        "4 images in 5 files of 3 lesions: melanoma 1, seborrheic keratosis 1, neither 1, unknown 1; without mask 3"
    )


def test_a_class_with_one_label_is_named() -> None:
    notes = note_undefined_aucs([sample("x", labels=(0.0, nan)), sample("y", labels=(0.0, nan))])
    assert ["melanoma" in notes[0], "seborrheic_keratosis" in notes[1], len(notes)] == [True, True, 2]
    assert not note_undefined_aucs([sample("x", labels=(0.0, 1.0)), sample("y", labels=(1.0, 0.0))])


@pytest.mark.parametrize("side", ["training", "validation"])
def test_a_stage_without_anything_to_learn_or_to_choose_by_is_refused(side: str) -> None:
    whole, bare = [sample("x", labels=(0.0, 1.0), mask=Path("m.png"))], [sample("y", labels=(0.0, 1.0))]
    sides = (bare, whole) if side == "training" else (whole, bare)
    with pytest.raises(InputError, match=f"coarse-sn: no {side} image has masks"):
        check_targets(find_stage("mbdcnn", "coarse-sn"), *sides, has_teachers=False)
    assert not check_targets(find_stage("mbdcnn", "mask-cn"), *sides, has_teachers=False)
    (note,) = check_targets(find_stage("multitask", "joint"), *sides, has_teachers=False)
    assert side in note
    assert Target.MASKS in note


def test_teachers_give_the_masks_that_a_stage_learns() -> None:
    whole, bare = [sample("x", mask=Path("m.png"))], [sample("y", labels=(0.0, 1.0))]
    assert not check_targets(find_stage("mbdcnn", "coarse-sn"), bare, whole, has_teachers=True)
