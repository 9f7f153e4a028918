"""evaluate.py and its command: intervals of everything, confusion, --by, --compare, and what they say of bad input."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from lesioncli.cli.app import app
from lesioncli.errors import InputError
from lesioncli.evaluation.evaluate import Evaluation, evaluate
from lesioncli.evaluation.metrics.scores import class_metrics
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN, percentile_interval

IMAGES = 60
ENVIRONMENT = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}


def block(rows: int, columns: int) -> NDArray[np.uint8]:
    mask = np.zeros((20, 20), np.uint8)
    mask[:rows, :columns] = 255
    return mask


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def name_of(number: int) -> str:
    return f"ISIC_{number:07}"


def is_kind(number: int) -> tuple[int, int]:
    """Melanoma, seborrheic keratosis: 20 of each, and 20 nevi."""
    return int(number % 3 == 0), int(number % 3 == 1)


def scores_of(number: int, noise: float) -> tuple[float, float, float]:
    rng = np.random.default_rng(number)
    mel, sk = is_kind(number)
    raw = np.array([mel, sk, 1 - mel - sk]) + rng.normal(0, noise, 3)
    shares = np.exp(2 * raw) / np.exp(2 * raw).sum()
    return float(shares[0]), float(shares[1]), float(shares[2])


def predict(folder: Path, rough: int, noise: float, images: range = range(IMAGES)) -> None:
    """Masks that miss up to `rough` columns, worse for men, and scores."""
    folder.mkdir()
    rows = ["image,status,reason,melanoma,seborrheic_keratosis,nevus"]
    for number in images:
        missed = np.random.default_rng(number + rough).integers(rough) + 4 * (number % 2)
        Image.fromarray(block(4 + number % 4, 12 - int(missed))).save(folder / f"{name_of(number)}.png")
        rows.append(f"{name_of(number)}.jpg,ok,,{','.join(map(repr, scores_of(number, noise)))}")
    write(folder / "scores.csv", *rows)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Truth, two sets of predictions and metadata: 30 women, 29 men of whom the masks are worse, one unknown."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").mkdir()
    labels, metadata = ["image_id,melanoma,seborrheic_keratosis,site"], ["image_id,age_approximate,sex"]
    for number in range(IMAGES):
        Image.fromarray(block(4 + number % 4, 12)).save(tmp_path / "labels" / f"{name_of(number)}_segmentation.png")
        labels.append(f"{name_of(number)},{is_kind(number)[0]}.0,{is_kind(number)[1]}.0,{('arm', 'leg')[number % 2]}")
        sex = "unknown" if number == 59 else ("female", "male")[number % 2]
        metadata.append(f"{name_of(number)},{number + 20},{sex}")
    write(tmp_path / "labels" / "labels.csv", *labels)
    write(tmp_path / "metadata.csv", *metadata)
    predict(tmp_path / "masks", 3, 0.5)
    predict(tmp_path / "other", 5, 0.7)
    return tmp_path


def judged(here: Path, **options: Any) -> Evaluation:
    return evaluate(here / "labels", here / "masks", **options)


def call(*words: str) -> Result:
    return CliRunner(env=ENVIRONMENT).invoke(app, ["evaluate", "--gt", "labels", *words])


# Intervals and confusion


def test_every_figure_has_an_interval_that_holds_it(here: Path) -> None:
    found = judged(here, distances=True)
    assert set(found.intervals) == {*found.means, *found.auc, AUC_MEAN}
    for name, values in found.per_class.items():
        assert set(found.per_class_intervals[name]) == set(values)
        for metric in set(values) - {"calibration_error"}:  # resampling adds to it
            low, high = found.per_class_intervals[name][metric]
            assert low <= values[metric] <= high


def test_intervals_of_a_class_are_those_of_the_images_drawn(here: Path) -> None:
    found = judged(here, seed=4)
    table = found.scored
    assert table
    drawn = np.random.default_rng(4).integers(IMAGES, size=(2000, IMAGES))
    every = [class_metrics(table.labels[rows, 1], table.scores[rows, 1], np.ones(IMAGES)) for rows in drawn]
    for metric, interval in found.per_class_intervals["seborrheic_keratosis"].items():
        by_hand = percentile_interval(np.array([each[metric] for each in every]))
        assert interval == pytest.approx(by_hand, abs=1e-9), metric


def test_official_figures_have_intervals_by_their_path(here: Path) -> None:
    found = judged(here, protocol="isic2018")
    masks, scores = found.official_intervals["masks"], found.official_intervals["scores"]
    assert masks["overall"] == masks["validation"] == found.intervals["threshold_jaccard"]
    assert masks["macro_average.jaccard"] == found.intervals["jaccard"]
    assert scores["macro_average.auc"] == pytest.approx(found.intervals[AUC_MEAN])
    assert scores["per_category.ap.melanoma"] == pytest.approx(found.per_class_intervals["melanoma"]["ap"])
    assert scores["overall"] == scores["validation"] == scores["aggregate.balanced_accuracy"]
    low, high = scores["aggregate.balanced_accuracy"]
    assert low <= found.score_document["aggregate"]["balanced_accuracy"] <= high
    paths = {f"macro_average.{name}" for name in found.score_document["macro_average"]}
    assert paths <= set(scores)


def test_weights_have_their_part_in_intervals(here: Path) -> None:
    rows = [f"{name_of(number)},{is_kind(number)[0]},{1 + number % 3},{number % 2}" for number in range(IMAGES)]
    labels = write(here / "weighted.csv", "image,melanoma,score_weight,validation_weight", *rows)
    plain = write(here / "plain.csv", "image,melanoma", *(row.rsplit(",", 2)[0] for row in rows))
    weighted, even = (judged(here, protocol="isic2017", labels=each).official_intervals for each in (labels, plain))
    assert weighted["scores"]["overall"] != weighted["scores"]["validation"]
    assert even["scores"]["overall"] == even["scores"]["validation"]


@pytest.mark.parametrize("protocol", ["plain", "isic2017"])
def test_weights_count_in_the_documents_of_a_challenge_alone(protocol: str, here: Path) -> None:
    rows = [f"{name_of(number)},{is_kind(number)[0]},{number % 4},{number % 2}" for number in range(IMAGES)]
    labels = write(here / "weighted.csv", "image,melanoma,score_weight,validation_weight", *rows)
    without = write(here / "plain.csv", "image,melanoma", *(row.rsplit(",", 2)[0] for row in rows))
    weighted, even = (judged(here, protocol=protocol, labels=each, by=["lesion_size"]) for each in (labels, without))
    same = ("auc", "intervals", "per_class", "per_class_intervals", "confusion", "groups")
    assert all(getattr(weighted, name) == getattr(even, name) for name in same)
    assert weighted.per_class["melanoma"]["auc"] == pytest.approx(weighted.auc["melanoma"])
    alike = protocol == "plain"
    assert (weighted.score_document == even.score_document) is alike
    assert (weighted.official_intervals == even.official_intervals) is alike
    assert bool(weighted.notes) is not alike


def test_without_official_figures_there_are_no_intervals_of_them(here: Path) -> None:
    (here / "masks" / f"{name_of(0)}.png").unlink()
    assert set(judged(here, protocol="isic2018").official_intervals) == {"scores"}


def test_confusion_is_counted_above_the_threshold(here: Path) -> None:
    for above in (0.5, 0.2):
        found = judged(here, positive_above=above)
        called = np.array([scores_of(number, 0.5)[0] > above for number in range(IMAGES)])
        truly = np.array([is_kind(number)[0] == 1 for number in range(IMAGES)])
        by_hand = (called & truly).sum(), (called & ~truly).sum(), (~called & truly).sum(), (~called & ~truly).sum()
        assert found.confusion["melanoma"] == by_hand
        assert found.per_class["melanoma"]["sensitivity"] == by_hand[0] / 20
        drawn = np.random.default_rng(0).integers(IMAGES, size=(2000, IMAGES))
        resampled = (called & truly)[drawn].sum(axis=1) / truly[drawn].sum(axis=1)
        interval = found.per_class_intervals["melanoma"]["sensitivity"]
        assert interval == pytest.approx(percentile_interval(resampled))
        assert (
            found.score_document["per_category"]["sensitivity"]["melanoma"]
            == (judged(here).per_class["melanoma"]["sensitivity"])
        )


def test_matrix_of_the_highest_score_has_the_class_without_a_column(here: Path) -> None:
    matrix = judged(here).matrix
    assert matrix
    assert matrix.classes == ("melanoma", "seborrheic_keratosis", "nevus")
    by_hand = np.zeros((3, 4), int)
    for number in range(IMAGES):
        by_hand[number % 3, int(np.argmax(scores_of(number, 0.5)))] += 1
    assert matrix.counts == tuple(map(tuple, by_hand.tolist()))


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ("image,A,B", "image,A,B", ((2, 0, 1), (1, 1, 0))),
        ("image,melanoma,seborrheic_keratosis", "image,melanoma,seborrheic_keratosis", ((2, 0, 1), (1, 1, 0))),
        ("image,melanoma", "image,melanoma,B", None),
    ],
)
def test_matrix_of_other_classes(labels: str, scores: str, expected: Any, tmp_path: Path) -> None:
    one_class = labels.count(",") == 1
    truly = ["1,0", "1,0", "1,0", "0,1", "0,1"]
    rows = [f"{number},{row[:1] if one_class else row}" for number, row in enumerate(truly)]
    called = ["0.9,0.2", "0.3,0.2", "0.5,0.5", "0.4,0.3", "0.1,0.2"]
    table = write(tmp_path / "s.csv", scores, *(f"{number},{row}" for number, row in enumerate(called)))
    matrix = evaluate(write(tmp_path / "gt.csv", labels, *rows), tmp_path, scores=table).matrix
    assert (matrix and matrix.counts) == expected


def test_an_image_of_no_class_or_two_has_no_matrix(tmp_path: Path) -> None:
    scores = write(tmp_path / "s.csv", "image,A,B", "0,.1,.2", "1,.3,.2")
    for row in ("1,0,0", "1,1,1"):
        labels = write(tmp_path / "gt.csv", "image,A,B", "0,0,1", row)
        assert evaluate(labels, tmp_path, scores=scores).matrix is None


def test_where_no_scores_were_judged_no_class_has_figures(here: Path) -> None:
    write(here / "masks" / "scores.csv", "image,status,reason,melanoma,seborrheic_keratosis,nevus")
    found = judged(here)
    assert (len(found.score_problems), found.auc_count) == (IMAGES, 0)
    assert (found.per_class, found.per_class_intervals, found.confusion) == ({}, {}, {})
    done = call("--protocol", "isic2017")
    assert done.exit_code == 5
    assert "ppv" not in done.stdout


# Groups


def test_a_group_that_is_worse_is_flagged_and_the_unknown_is_shown(here: Path) -> None:
    found = judged(here, by=["sex"], metadata=here / "metadata.csv")
    groups = {group.group: group for group in found.groups}
    assert {name: group.images for name, group in groups.items()} == {"female": 30, "male": 29, "unknown": 1}
    assert [name for name, group in groups.items() if "jaccard" in group.behind] == ["male"]
    jaccards = {case.name: case.metrics["jaccard"] for case in found.cases}
    men = [jaccards[name_of(number)] for number in range(1, 59, 2)]
    assert groups["male"].figures["jaccard"].value == pytest.approx(np.mean(men))
    assert groups["unknown"].figures["jaccard"].value == jaccards[name_of(59)]


def test_columns_of_labels_metadata_and_the_masks_themselves(here: Path) -> None:
    columns = ["site", "melanoma", "lesion_size", "age_approximate"]
    found = judged(here, by=columns, metadata=here / "metadata.csv")
    assert list(dict.fromkeys(group.column for group in found.groups)) == columns
    assert [group.group for group in found.groups] == [
        *("arm", "leg"),
        *("0", "1"),
        *("12", "15", "18", "21"),
        *("20 to 39", "40 to 59", "60 to 79"),
    ]  # a lesion of 4 x 12 pixels of 20 x 20 is 12 %
    assert sum(group.images for group in found.groups) == 4 * IMAGES


def test_lesion_size_splits_scores_by_their_masks(here: Path) -> None:
    found = judged(here, by=["lesion_size"])
    assert [group.figures["melanoma"].images for group in found.groups] == [15] * 4


def test_images_without_metadata_are_said_and_unknown(here: Path) -> None:
    few = write(here / "few.csv", *(here / "metadata.csv").read_text().splitlines()[:51])
    found = judged(here, by=["sex"], metadata=few)
    assert [(group.group, group.images) for group in found.groups] == [("female", 25), ("male", 25), ("unknown", 10)]
    assert f"sex: no row for 10 images, so unknown: {name_of(50)}, {name_of(51)}, {name_of(52)}, ..." in found.notes


def test_an_image_that_was_not_judged_is_in_no_group(here: Path) -> None:
    (here / "masks" / f"{name_of(59)}.png").unlink()
    found = judged(here, by=["sex"], metadata=here / "metadata.csv")
    assert [(group.group, group.images) for group in found.groups][-1] == ("unknown", 0)
    write(here / "labels" / "labels.csv", "image,melanoma", f"{name_of(0)},1")
    assert [group.group for group in judged(here, by=["sex"], metadata=here / "metadata.csv").groups] == [
        "female",
        "male",
    ]


# Comparison


def test_comparison_is_of_the_same_images(here: Path) -> None:
    (here / "other" / f"{name_of(3)}.png").unlink()
    Image.fromarray(block(3, 3)[:9]).save(here / "masks" / f"{name_of(5)}.png")
    found = judged(here, other=here / "other").comparison
    assert found
    assert (found.only_ours, found.only_other) == ((name_of(3),), (name_of(5),))
    assert len(found.per_image) == IMAGES - 2
    alone = evaluate(here / "labels", here / "other")
    jaccards = {case.name: case.metrics.get("jaccard", math.nan) for case in alone.cases}
    theirs = np.mean([jaccards[name] for name in found.per_image])
    assert found.differences["jaccard"].other == pytest.approx(theirs)
    assert found.differences["melanoma"].other == pytest.approx(alone.auc["melanoma"])
    assert found.differences["melanoma"].images == IMAGES


def test_compared_with_itself_nothing_differs(here: Path) -> None:
    found = judged(here, other=here / "masks").comparison
    assert found
    assert {each[2:6] for each in found.differences.values()} == {(0, 0, 0, 1)}
    assert found.only_ours == found.only_other == ()


def test_scores_alone_are_compared_with_a_table(here: Path) -> None:
    labels = write(here / "gt.csv", "image,melanoma", *(f"{name_of(n)},{is_kind(n)[0]}" for n in range(IMAGES)))
    found = evaluate(labels, here / "masks", other=here / "other" / "scores.csv")
    assert found.comparison
    assert set(found.comparison.differences) == {"melanoma"}


@pytest.mark.parametrize("protocol", ["plain", "isic2017"])
def test_where_there_are_masks_too_a_table_is_compared_by_scores(protocol: str, here: Path) -> None:
    table = here / "other" / "scores.csv"
    write(table, *table.read_text().splitlines()[:-1])
    found = judged(here, protocol=protocol, other=table)
    assert found.comparison
    assert (found.comparison.only_ours, found.comparison.only_other) == ((name_of(IMAGES - 1),), ())
    assert found.comparison.per_image == {}
    folder = judged(here, protocol=protocol, other=here / "other").comparison
    assert folder
    aucs = {name: each for name, each in folder.differences.items() if name not in found.means}
    assert found.comparison.differences == aucs
    assert found.cases == judged(here).cases


def test_a_table_without_labels_to_judge_it_by_is_refused(here: Path) -> None:
    (here / "labels" / "labels.csv").unlink()
    done = call("--compare", "other/scores.csv")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "other/scores.csv: scores are judged by labels, and there are none; give them with --labels" in done.stderr


def test_a_table_of_pairs_is_compared_with_a_folder(here: Path) -> None:
    rows = [f"labels/{name_of(n)}_segmentation.png,masks/{name_of(n)}.png" for n in range(IMAGES)]
    found = evaluate(write(here / "pairs.csv", "truth,prediction", *rows), here / "nowhere", other=here / "other")
    assert found.comparison
    assert found.comparison.differences["jaccard"].images == IMAGES
    alone = evaluate(here / "labels", here / "other").means["jaccard"]
    assert found.comparison.differences["jaccard"].other == pytest.approx(alone) != found.means["jaccard"]


# The command


def test_the_command_shows_groups_and_differences_in_80_columns(here: Path) -> None:
    words = ("--by", "sex", "--by", "lesion_size", "--metadata", "metadata.csv", "--compare", "other")
    done = call(*words, "--protocol", "isic2017")
    assert done.exit_code == 0, done.output
    assert "clearly behind the others: sex male: jaccard -0." in done.stdout
    tables = [line for line in done.stdout.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(tables) > 40
    assert all(len(line) <= 80 and "…" not in line for line in tables)
    with (here / "masks" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == IMAGES
    assert list(rows[0]) == ["image", *judged(here).means]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("--csv", "labels/labels.csv"), "labels/labels.csv"),
        (("--csv", "masks/scores.csv"), "masks/scores.csv"),
        (("--csv", "link.csv"), "link.csv"),
        (("--csv", "masks"), "masks"),
        (("--csv", "theirs/cases.csv", "--compare", "other"), "theirs/comparison.csv"),
        (("--csv", "old/comparison.csv"), "old/comparison.csv"),
    ],
)
def test_what_evaluate_did_not_write_is_not_replaced(words: tuple[str, ...], kept: str, here: Path) -> None:
    (here / "link.csv").symlink_to("/dev/null")
    write(here / "theirs" / "comparison.csv", "image,model,jaccard")
    write(here / "old" / "comparison.csv", "image,jaccard,dice,accuracy,sensitivity,specificity,threshold_jaccard")
    before = (here / kept).read_text() if (here / kept).is_file() else ""
    done = call(*words)
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"{kept}: not a table that evaluate wrote, so not replaced; name another" in " ".join(done.stderr.split())
    assert ((here / kept).read_text() if (here / kept).is_file() else "") == before


def test_tables_of_evaluate_itself_are_replaced(here: Path) -> None:
    (here / "masks" / "evaluation.csv").touch()  # as mktemp leaves a file
    for words in (("--compare", "other"), ("--compare", "other", "--distances"), ("--compare", "other")):
        assert call(*words).exit_code == 0


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_table_that_cannot_be_written_takes_no_figure_with_it(words: tuple[str, ...], here: Path) -> None:
    done = call("--csv", "metadata.csv/cases.csv", *words)
    assert done.exit_code == 3
    assert "threshold_jaccard" in done.stdout
    assert "per image" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: metadata.csv/cases.csv: cannot be written (")
    assert done.stderr.endswith("); name another with --csv\n")


def test_the_files_written_are_said(here: Path) -> None:
    done = call("--csv", "sub/cases.csv", "--compare", "other")
    assert done.stdout.splitlines()[-2:] == ["per image: sub/cases.csv", "per image: sub/comparison.csv"]


def test_where_nothing_was_judged_nothing_is_written(here: Path) -> None:
    for path in (here / "masks").glob("*.png"):
        path.write_bytes(b"")
    done = call()
    assert done.exit_code == 5
    assert "per image" not in done.stdout
    assert not (here / "masks" / "evaluation.csv").exists()


def test_cases_and_differences_are_two_files(here: Path) -> None:
    done = call("--csv", "comparison.csv", "--compare", "other")
    assert done.exit_code == 3
    assert "comparison.csv: that is where the differences go; name another file with --csv" in done.stderr


def test_the_default_output_stays_calm(here: Path) -> None:
    done = call()
    assert len(done.stdout.splitlines()) == 15
    assert not (here / "masks" / "comparison.csv").exists()


def test_json_has_all_of_it(here: Path) -> None:
    done = call("--by", "sex", "--metadata", "metadata.csv", "--compare", "other", "--json")
    ours = json.loads(done.stdout)["lesioncli"]
    assert ours["confusion_matrix"]["classes"] == ["melanoma", "seborrheic_keratosis", "nevus"]
    assert set(ours["confusion"]["melanoma"]) == {"true_positive", "false_positive", "false_negative", "true_negative"}
    assert ours["per_class_intervals"]["melanoma"]["auc"] == pytest.approx(ours["intervals"]["melanoma"])
    assert [group["group"] for group in ours["groups"]] == ["female", "male", "unknown"]
    assert ours["groups"][1]["behind"] == ["jaccard"]
    assert ours["groups"][2]["figures"]["jaccard"]["interval"] is None
    assert ours["groups"][2]["figures"]["melanoma"]["value"] is None
    jaccard = ours["comparison"]["differences"]["jaccard"]
    assert set(jaccard) == {"ours", "other", "difference", "interval", "p", "images"}
    assert ours["comparison"]["other"] == "other"
    assert "NaN" not in done.stdout


def test_json_says_how_intervals_were_made(here: Path) -> None:
    ours = json.loads(call("--seed", "7", "--json").stdout)["lesioncli"]
    assert ours["interval_method"] == {
        "method": "percentile bootstrap over images",
        "cluster": None,
        "level": 0.95,
        "resamples": {"masks": 2000, "scores": 2000},
        "seed": 7,
    }


def test_intervals_of_few_images_are_said_to_be_too_narrow(here: Path) -> None:
    assert judged(here, other=here / "other").notes == (f"{here}/labels/labels.csv: not read as classes: site",)
    for number in range(19, IMAGES):
        (here / "masks" / f"{name_of(number)}.png").unlink()
    few = "intervals of fewer than 20 images are narrower than they should be: masks (19)"
    assert judged(here).notes[-1] == few
    assert judged(here, other=here / "other").notes[-1] == f"{few}, differences (19)"
    labels = write(here / "gt.csv", "image,melanoma", f"{name_of(0)},1", f"{name_of(1)},0")
    assert evaluate(labels, here / "masks").notes == (few.replace("masks (19", "scores (2"),)


def test_what_is_not_compared_is_named(here: Path) -> None:
    (here / "other" / f"{name_of(3)}.png").unlink()
    (here / "masks" / f"{name_of(5)}.png").unlink()
    done = call("--compare", "other")
    assert f"not compared, the other lacks: {name_of(3)}" in done.stderr
    assert f"not compared, only the other has: {name_of(5)}" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--by", "eyes", "--metadata", "metadata.csv"), "no column eyes in metadata.csv or labels/labels.csv; there"),
        (("--by", "eyes"), "no column eyes in labels/labels.csv; there are: melanoma, seborrheic_keratosis, site, les"),
        (("--by", "sex", "--metadata", "gone.csv"), "gone.csv: cannot be read as CSV"),
        (("--by", "sex", "--metadata", "twice.csv"), "twice.csv, line 3: image 'a' is there twice"),
        (("--by", "sex", "--metadata", "others.csv"), "sex: its table has no row for any of the 60 images"),
        (("--by", "sex", "--metadata", "empty.csv"), "sex: its table has no row for any of the 60 images"),
        (("--compare", "nowhere"), "nowhere: no such folder"),
        (("--compare", "strangers"), f"strangers/{name_of(100)}.png: neither this nor any other mask has the name"),
        (("--compare", "narrower"), "narrower: no image of it could be judged that could be judged in the other"),
    ],
)
def test_bad_input_of_the_options_is_named(words: tuple[str, ...], said: str, here: Path) -> None:
    write(here / "twice.csv", "image,sex", "a,f", "a,m")
    write(here / "others.csv", "image,sex", "a,f")
    write(here / "empty.csv", "image,sex")
    predict(here / "strangers", 3, 0.5, range(100, 103))
    (here / "narrower").mkdir()
    Image.fromarray(block(3, 3)[:9]).save(here / "narrower" / f"{name_of(1)}.png")
    done = call(*words)
    assert (done.exit_code, done.stdout) == (3, "")
    assert said in " ".join(done.stderr.split())


def test_lesion_size_needs_true_masks(here: Path) -> None:
    with pytest.raises(InputError, match="lesion_size: only true masks have one"):
        evaluate(write(here / "gt.csv", "image,melanoma", f"{name_of(0)},1"), here / "masks", by=["lesion_size"])


# What failed in a run


@pytest.mark.parametrize("folder", ["", "sub/"])
@pytest.mark.parametrize("protocol", ["plain", "isic2017"])
def test_a_failed_image_of_segment_isic_says_why_it_has_no_mask(tmp_path: Path, folder: str, protocol: str) -> None:
    """Its row has no mask, whose name would have been that of the true one; with another mask, a truth is judged."""
    for name in ("labels/ISIC_0000001", "masks/ISIC_0000001", f"labels/{folder}ISIC_0000002"):
        path = tmp_path / f"{name}_segmentation.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(block(4, 4)).save(path)
    rows = (f"{folder}ISIC_0000002_downsampled.jpg,failed,decode: cut short", "ISIC_0000001_b.jpg,failed,another")
    write(tmp_path / "masks" / "scores.csv", "image,status,reason", *rows)
    found = evaluate(tmp_path / "labels", tmp_path / "masks", protocol=protocol)
    assert [case.problem for case in found.cases] == ["", "no prediction: decode: cut short"]


def test_a_failure_is_of_the_image_that_it_names(tmp_path: Path) -> None:
    """By its number it would be another's, too; and where several failures have the number, it is nobody's."""
    for name in ("ISIC_0000001", "ISIC_0000001_b", "ISIC_0000002"):
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(block(4, 4)).save(tmp_path / "labels" / f"{name}_segmentation.png")
    rows = [f"{name}.jpg,failed,decode: {name}" for name in ("ISIC_0000001_b", "ISIC_0000002_c", "ISIC_0000002_d")]
    (tmp_path / "masks").mkdir()
    Image.fromarray(block(4, 4)).save(tmp_path / "masks" / "ISIC_0000003.png")
    write(tmp_path / "masks" / "scores.csv", "image,status,reason", *rows)
    found = evaluate(tmp_path / "labels", tmp_path / "masks")
    assert [case.problem for case in found.cases] == [
        "no prediction",
        "no prediction: decode: ISIC_0000001_b",
        "several predictions: ISIC_0000002_c, ISIC_0000002_d",
    ]
