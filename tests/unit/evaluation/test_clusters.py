"""`evaluate --cluster`: images of one patient or lesion are drawn together.

What is drawn three at a time is what one of each was: the same draws give the same means, AUCs and p-values, to the
last resample. Drawn one by one, the same images look like three times as many, and intervals are too narrow.
"""

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
from lesioncli.evaluation.cases import Masks, Scored
from lesioncli.evaluation.evaluate import Evaluation, evaluate
from lesioncli.evaluation.metrics.scores import bootstrap_metrics
from lesioncli.evaluation.reading.metadata import Column
from lesioncli.evaluation.statistics.bootstrap import (
    Drawing,
    Draws,
    bootstrap_aucs,
    bootstrap_means,
    percentile_interval,
    resamples,
)
from lesioncli.evaluation.statistics.comparison import compare, flip_signs
from lesioncli.evaluation.statistics.groups import LEAST_IMAGES, split

ENVIRONMENT = {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
PATIENTS, EACH = 40, 3
IN_THREES = Draws(3, np.repeat(np.arange(PATIENTS), EACH))
NOBODY = Scored((), (), (), np.zeros((0, 0), bool), np.zeros((0, 0)), np.ones((0, 2)), (), (), np.zeros(0))


def made_up() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(1)
    labels = rng.random((PATIENTS, 2)) < 0.4
    return labels, rng.normal(labels, 1.0).round(1)


def tripled(table: Any) -> Any:
    return np.repeat(table, EACH, axis=0)


def name_of(number: int) -> str:
    return f"ISIC_{number:07}"


def test_a_cluster_is_drawn_whole_and_as_often_as_any_other() -> None:
    clusters = np.array([0, 1, 0, 2, 1, 0])
    (drawn,) = resamples(6, Draws(0, clusters))
    assert drawn.shape == (2000, 6)
    for cluster in range(3):
        assert (drawn[:, clusters == cluster] == drawn[:, [list(clusters).index(cluster)]]).all()
    counts = drawn[:, [0, 1, 3]]
    assert (counts.sum(axis=1) == 3).all()
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.06)


def test_clusters_of_one_image_are_images() -> None:
    values = np.random.default_rng(0).random((50, 2))
    alone = bootstrap_means(values, Draws(4))
    assert (bootstrap_means(values, Draws(4, np.arange(50))) == alone).all()
    assert (bootstrap_means(values, Drawing(4, "patient").of([str(number) for number in range(50)])) == alone).all()


def test_three_images_that_are_alike_tell_no_more_than_one() -> None:
    labels, scores = made_up()
    means, means_of_three = bootstrap_means(scores, Draws(3)), bootstrap_means(tripled(scores), IN_THREES)
    assert means_of_three == pytest.approx(means, abs=1e-12)
    aucs_of_three = bootstrap_aucs(tripled(labels), tripled(scores), IN_THREES)
    assert aucs_of_three == pytest.approx(bootstrap_aucs(labels, scores, Draws(3)), abs=1e-12)
    even = np.ones(PATIENTS)
    metrics = bootstrap_metrics(labels, scores, even, Draws(3))[0]
    for name, values in bootstrap_metrics(tripled(labels), tripled(scores), tripled(even), IN_THREES)[0].items():
        assert values == pytest.approx(metrics[name], abs=1e-9, nan_ok=True), name


def test_signs_of_a_cluster_flip_together() -> None:
    paired = np.random.default_rng(2).normal(0.3, 1, (PATIENTS, 1))
    assert flip_signs(tripled(paired), IN_THREES) == flip_signs(paired, Draws(3))
    assert flip_signs(tripled(paired), Draws(3))[0] < flip_signs(paired, Draws(3))[0]


def test_names_decide_and_an_image_without_a_cluster_is_drawn_alone() -> None:
    drawing = Drawing(5, "patient", {"a": "x", "b": "y", "c": "x", "x": "y"})
    draws = drawing.of(["c", "y", "a", "b", "x", "z"])  # "y" and "z" are of nobody, though a patient is called y
    assert draws.seed == 5
    assert draws.clusters is not None
    assert draws.clusters.tolist() == [0, 1, 0, 2, 2, 3]
    assert draws.count(np.array([0, 2])) == 1
    assert draws.count(np.arange(6)) == 4
    assert Draws(5).count(np.array([0, 2, 5])) == 3


def test_differences_are_those_of_clusters() -> None:
    names = tuple(f"{patient}-{image}" for patient in range(PATIENTS) for image in range(EACH))
    labels, scores = made_up()
    rng = np.random.default_rng(8)
    worse = scores + rng.normal(0, 1, scores.shape)

    def table(images: tuple[str, ...], labels: Any, scores: Any) -> tuple[Masks, Scored]:
        masks = Masks(images, ("jaccard", "dice"), scores)
        count = len(images)
        return masks, Scored(
            ("a", "b"), images, images, labels, scores, np.ones((count, 2)), (), (), np.full(count, math.nan)
        )

    drawing = Drawing(3, "patient", {name: name.split("-")[0] for name in names})
    ours, other = (table(names, tripled(labels), tripled(each)) for each in (scores, worse))
    one, another = (table(names[::EACH], labels, each) for each in (scores, worse))
    of_three = compare(ours, other, "other", drawing).differences
    for name, single in compare(one, another, "other", Drawing(3)).differences.items():
        assert of_three[name][:6] == pytest.approx(single[:6], abs=1e-9), name
        assert (of_three[name].images, of_three[name].clusters) == (PATIENTS * EACH, PATIENTS)


def test_a_group_is_judged_by_how_many_clusters_it_has() -> None:
    images = tuple(f"i{number}" for number in range(60))
    column = Column("sex", ("f", "m"), dict(zip(images, ["f"] * 30 + ["m"] * 30, strict=True)))
    values = np.concatenate([np.linspace(0.8, 0.9, 30), np.linspace(0.2, 0.3, 30)])[:, None]
    masks = Masks(images, ("jaccard",), values)
    alone = split(column, masks, NOBODY, ["jaccard"], Drawing())
    pairs = Drawing(0, "patient", {image: str(number // 2) for number, image in enumerate(images)})
    in_pairs = split(column, masks, NOBODY, ["jaccard"], pairs)
    assert 30 // 2 < LEAST_IMAGES <= 30
    assert [group.behind for group in alone] == [(), ("jaccard",)]
    assert [group.behind for group in in_pairs] == [(), ()]
    assert math.isnan(in_pairs[0].figures["jaccard"].low)
    assert in_pairs[0].figures["jaccard"].images == 30


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of each patient with the same mask and scores, but that whose the last is is not known."""
    monkeypatch.chdir(tmp_path)
    labels, scores, patients = ["image,melanoma"], ["image,melanoma"], ["image,patient_id"]
    (tmp_path / "labels").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(PATIENTS * EACH):
        patient = number // EACH
        truth, found = np.zeros((2, 16, 16), np.uint8)
        truth[:8], found[: 5 + patient % 7] = 255, 255
        Image.fromarray(truth).save(tmp_path / "labels" / f"{name_of(number)}_segmentation.png")
        Image.fromarray(found).save(tmp_path / "masks" / f"{name_of(number)}.png")
        labels.append(f"{name_of(number)},{patient % 3 == 0:d}.0")
        scores.append(f"{name_of(number)},{0.1 + 0.2 * (patient % 4)}")
        patients.append(f"{name_of(number)},{f'P{patient}' if number < PATIENTS * EACH - 1 else 'unknown'}")
    for path, lines in {"labels/l.csv": labels, "masks/scores.csv": scores, "patients.csv": patients}.items():
        (tmp_path / path).write_text("\n".join(lines) + "\n")
    return tmp_path


def judged(here: Path, **options: Any) -> Evaluation:
    return evaluate(here / "labels", here / "masks", metadata=here / "patients.csv", **options)


def call(command: str, *words: str) -> Result:
    return CliRunner(env=ENVIRONMENT).invoke(app, [command, *words])


def test_intervals_are_as_wide_as_the_patients_are_few(here: Path) -> None:
    alone, together = judged(here), judged(here, cluster="patient_id")
    assert (together.means, together.auc, together.confusion) == (alone.means, alone.auc, alone.confusion)
    values = np.array([case.metrics["jaccard"] for case in together.cases])
    numbers = np.array([number // EACH for number in range(PATIENTS * EACH - 1)] + [PATIENTS])
    by_hand = percentile_interval(bootstrap_means(values[:, None], Draws(0, numbers))[:, 0])
    assert together.intervals["jaccard"] == pytest.approx(by_hand)
    for name, (low, high) in together.intervals.items():
        wider = (high - low) / (alone.intervals[name][1] - alone.intervals[name][0])
        assert wider == pytest.approx(math.sqrt(EACH), rel=0.25), name
    assert together.notes == (
        "intervals: all images of one patient_id are drawn together, 40 of them;"
        " images of unknown patient_id, each drawn alone: 1",
    )


@pytest.mark.parametrize("protocol", ["isic2017", "isic2018"])
def test_official_figures_have_intervals_of_clusters_too(here: Path, protocol: str) -> None:
    alone, together = (judged(here, protocol=protocol, cluster=each) for each in ("", "patient_id"))
    assert together.mask_document == alone.mask_document
    for part, intervals in together.official_intervals.items():
        for name, (low, high) in intervals.items():
            lower, upper = alone.official_intervals[part][name]
            assert high - low > upper - lower or high == low, name
    assert {"masks"} <= set(together.official_intervals)


def test_the_command_says_what_it_drew(here: Path) -> None:
    words = ("--gt", "labels", "--metadata", "patients.csv", "--cluster", "patient_id")
    done = call("evaluate", *words, "--compare", "masks")
    assert done.exit_code == 0, done.output
    assert "intervals: all images of one patient_id are drawn together, 40 of them" in " ".join(done.stderr.split())
    method = json.loads(call("evaluate", *words, "--json").stdout)["lesioncli"]["interval_method"]
    assert (method["method"], method["cluster"]) == ("percentile bootstrap over clusters of images", "patient_id")


def test_few_clusters_are_said_to_be_few_however_many_images(here: Path) -> None:
    lines = (here / "patients.csv").read_text().splitlines()
    first = [f"{line.split(',')[0]},{'AB'[number % 2]}" for number, line in enumerate(lines[1:])]
    (here / "patients.csv").write_text("\n".join([lines[0], *first]) + "\n")
    found = judged(here, cluster="patient_id", other=here / "masks")
    assert found.notes[-1] == (
        "intervals of fewer than 20 clusters (patient_id) are narrower than they should be:"
        " masks (2), scores (2), differences (2)"
    )


def test_a_column_that_is_not_there_or_is_no_cluster_is_refused_at_once(here: Path) -> None:
    with pytest.raises(InputError, match=r"no column lesion_id in .*patients\.csv.*; there are: patient_id"):
        judged(here, cluster="lesion_id", on_progress=lambda done, total: pytest.fail("judged before"))
    with pytest.raises(InputError, match="lesion_size: images of one size do not belong together"):
        judged(here, cluster="lesion_size")
    refused = call("report", "--cluster", "patient_id")
    assert refused.exit_code == 2
    assert "goes with --gt" in refused.stderr
