"""Columns that define groups (`--by`) and clusters (`--cluster`): where they are read, and how images are resampled."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.evaluation_data import IMAGES, image_name, jaccards, save_mask, write_lines

from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.result import Evaluation
from lesioncli.evaluation.statistics.bootstrap import bootstrap_means
from lesioncli.evaluation.statistics.groups import GroupResult
from lesioncli.evaluation.statistics.resampling import Resampling, percentile_interval
from lesioncli.options import EvaluationOptions, ProtocolName


def evaluated(folder: Path, **options: Any) -> Evaluation:
    return evaluate(folder / "labels", folder / "masks", EvaluationOptions(**options))


def by_sex(folder: Path) -> dict[str, GroupResult]:
    evaluation = evaluated(folder, by=("sex",), metadata=folder / "metadata.csv")
    return {group.group: group for group in evaluation.groups}


# Groups


def test_a_worse_group_is_behind_and_unknown_is_a_group(data_set: Path) -> None:
    groups = by_sex(data_set)
    assert {name: group.images for name, group in groups.items()} == {"female": 30, "male": 29, "unknown": 1}
    assert [name for name, group in groups.items() if "jaccard" in group.behind] == ["male"]
    values = jaccards(evaluated(data_set))
    men = [values[image_name(number)] for number in range(1, 59, 2)]
    assert groups["male"].estimates["jaccard"].value == pytest.approx(np.mean(men))
    assert groups["unknown"].estimates["jaccard"].value == values[image_name(59)]


def test_columns_come_from_labels_metadata_and_the_masks(data_set: Path) -> None:
    columns = ("site", "melanoma", "lesion_size", "age_approximate")
    found = evaluated(data_set, by=columns, metadata=data_set / "metadata.csv").groups
    assert tuple(dict.fromkeys(group.column for group in found)) == columns
    assert [group.group for group in found] == [
        *("arm", "leg"),
        *("0", "1"),
        *("12", "15", "18", "21"),  # a lesion of 4 x 12 of 20 x 20 pixels is 12 %
        *("20 to 39", "40 to 59", "60 to 79"),
    ]
    assert sum(group.images for group in found) == 4 * IMAGES


def test_lesion_size_also_groups_scores(data_set: Path) -> None:
    groups = evaluated(data_set, by=("lesion_size",)).groups
    assert [group.estimates["melanoma"].images for group in groups] == [15] * 4


def test_images_without_metadata_are_unknown_and_noted(data_set: Path) -> None:
    few = write_lines(data_set / "few.csv", *(data_set / "metadata.csv").read_text().splitlines()[:51])
    found = evaluated(data_set, by=("sex",), metadata=few)
    assert [(group.group, group.images) for group in found.groups] == [("female", 25), ("male", 25), ("unknown", 10)]
    (note,) = [note for note in found.notes if note.startswith("sex: ")]
    assert "10 images" in note
    assert image_name(50) in note


def test_an_image_that_was_not_evaluated_is_in_no_group(data_set: Path) -> None:
    (data_set / "masks" / f"{image_name(59)}.png").unlink()
    assert by_sex(data_set)["unknown"].images == 1  # its scores were evaluated
    write_lines(data_set / "labels" / "labels.csv", "image,melanoma", f"{image_name(0)},1")
    assert list(by_sex(data_set)) == ["female", "male"]


def test_lesion_size_needs_masks(data_set: Path) -> None:
    labels = write_lines(data_set / "gt.csv", "image,melanoma", f"{image_name(0)},1")
    with pytest.raises(InputError, match="lesion_size"):
        evaluate(labels, data_set / "masks", EvaluationOptions(by=("lesion_size",)))


@pytest.mark.parametrize(
    ("by", "metadata", "named"),
    [
        ("eyes", "metadata.csv", "eyes .*metadata.csv .*labels.csv"),
        ("eyes", "", "eyes .*labels.csv.*melanoma, seborrheic_keratosis, site, lesion_size"),
        ("sex", "gone.csv", "gone.csv"),
        ("sex", "twice.csv", "twice.csv, line 3.*a"),
        ("sex", "others.csv", "sex.* 60 images"),
        ("sex", "empty.csv", "sex.* 60 images"),
    ],
)
def test_invalid_columns_are_refused(by: str, metadata: str, named: str, data_set: Path) -> None:
    write_lines(data_set / "twice.csv", "image,sex", "a,f", "a,m")
    write_lines(data_set / "others.csv", "image,sex", "a,f")
    write_lines(data_set / "empty.csv", "image,sex")
    with pytest.raises(InputError, match=named):
        evaluated(data_set, by=(by,), metadata=Path(metadata) if metadata else None)


# Clusters: 40 patients with 3 images each, which have the same mask and scores; the patient of the last is unknown

PATIENTS, IMAGES_PER_PATIENT = 40, 3
PATIENT_IMAGES = PATIENTS * IMAGES_PER_PATIENT


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    labels, scores, metadata = ["image,melanoma"], ["image,melanoma"], ["image,patient_id"]
    for number in range(PATIENT_IMAGES):
        patient, name = number // IMAGES_PER_PATIENT, image_name(number)
        truth, prediction = np.zeros((2, 16, 16), np.uint8)
        truth[:8], prediction[: 5 + patient % 7] = 255, 255
        save_mask(tmp_path / "labels" / f"{name}_segmentation.png", truth)
        save_mask(tmp_path / "masks" / f"{name}.png", prediction)
        labels.append(f"{name},{patient % 3 == 0:d}.0")
        scores.append(f"{name},{0.1 + 0.2 * (patient % 4)}")
        metadata.append(f"{name},{f'P{patient}' if number < PATIENT_IMAGES - 1 else 'unknown'}")
    write_lines(tmp_path / "labels" / "labels.csv", *labels)
    write_lines(tmp_path / "masks" / "scores.csv", *scores)
    write_lines(tmp_path / "metadata.csv", *metadata)
    return tmp_path


def clustered(folder: Path, cluster: str = "patient_id", **options: Any) -> Evaluation:
    return evaluated(folder, metadata=folder / "metadata.csv", cluster=cluster, **options)


def test_intervals_are_as_wide_as_the_number_of_patients_demands(patients: Path) -> None:
    alone, together = clustered(patients, ""), clustered(patients)
    assert together.masks.means == alone.masks.means
    assert (together.scores.auc, together.scores.confusion) == (alone.scores.auc, alone.scores.confusion)
    values = np.array(list(jaccards(together).values()))
    numbers = np.array([number // IMAGES_PER_PATIENT for number in range(PATIENT_IMAGES - 1)] + [PATIENTS])
    by_hand = percentile_interval(bootstrap_means(values[:, None], Resampling(0, numbers))[:, 0])
    assert together.masks.intervals["jaccard"] == pytest.approx(by_hand)
    pairs: list[tuple[Callable[[Evaluation], Any], str]] = []
    pairs += [(lambda evaluation: evaluation.masks.intervals, name) for name in together.masks.intervals]
    pairs += [(lambda evaluation: evaluation.scores.intervals, name) for name in together.scores.intervals]
    for intervals, name in pairs:
        (low, high), (alone_low, alone_high) = intervals(together)[name], intervals(alone)[name]
        assert (high - low) / (alone_high - alone_low) == pytest.approx(math.sqrt(IMAGES_PER_PATIENT), rel=0.25), name


def test_the_number_of_clusters_is_noted(patients: Path) -> None:
    (note,) = clustered(patients).notes
    assert all(word in note for word in ("patient_id", "40 clusters", "alone: 1"))


@pytest.mark.parametrize("protocol", [ProtocolName.ISIC2017, ProtocolName.ISIC2018])
def test_official_figures_have_wider_intervals_too(patients: Path, protocol: ProtocolName) -> None:
    alone, together = (clustered(patients, each, protocol=protocol).official for each in ("", "patient_id"))
    assert together.mask_document == alone.mask_document
    for part, intervals in together.intervals.items():
        for name, (low, high) in intervals.items():
            alone_low, alone_high = alone.intervals[part][name]
            assert high - low > alone_high - alone_low or high == low, name
    assert "masks" in together.intervals


def test_few_clusters_are_noted_even_with_many_images(patients: Path) -> None:
    names = [line.split(",")[0] for line in (patients / "metadata.csv").read_text().splitlines()[1:]]
    rows = [f"{name},{'AB'[number % 2]}" for number, name in enumerate(names)]
    write_lines(patients / "metadata.csv", "image,patient_id", *rows)
    note = clustered(patients, compare=patients / "masks").notes[-1]
    assert all(part in note for part in ("patient_id", "masks (2)", "scores (2)", "differences (2)"))


def test_few_images_are_noted(data_set: Path) -> None:
    enough = evaluated(data_set, compare=data_set / "other").notes
    assert not any(note.startswith("intervals") for note in enough)
    for number in range(19, IMAGES):
        (data_set / "masks" / f"{image_name(number)}.png").unlink()
    assert evaluated(data_set).notes[-1].endswith(": masks (19)")
    assert evaluated(data_set, compare=data_set / "other").notes[-1].endswith(": masks (19), differences (19)")
    labels = write_lines(data_set / "gt.csv", "image,melanoma", f"{image_name(0)},1", f"{image_name(1)},0")
    assert evaluate(labels, data_set / "masks").notes[-1].endswith(": scores (2)")


def test_a_missing_cluster_column_is_refused_before_masks_are_read(patients: Path) -> None:
    def no_progress(done: int, total: int) -> None:
        pytest.fail("a mask was evaluated")

    options = EvaluationOptions(cluster="lesion_id", metadata=patients / "metadata.csv")
    with pytest.raises(InputError, match=f"lesion_id .*{re.escape('metadata.csv')}.*patient_id"):
        evaluate(patients / "labels", patients / "masks", options, no_progress)


def test_lesion_size_does_not_define_clusters(patients: Path) -> None:
    with pytest.raises(InputError, match="lesion_size"):
        clustered(patients, "lesion_size")
