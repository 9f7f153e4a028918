"""groups.py: figures of a group are those of its images alone, and a flag is rarely raised by chance."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from lesioncli.evaluation.cases import Masks, Scored
from lesioncli.evaluation.reading.metadata import Column
from lesioncli.evaluation.statistics import bootstrap, groups
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN, Drawing
from lesioncli.evaluation.statistics.groups import Figure, Group, split

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
NO_MASKS = Masks((), (), np.zeros((0, 0)))


def ids(count: int) -> tuple[str, ...]:
    return tuple(f"i{number:04}" for number in range(count))


def scored(labels: Bools, scores: Floats, *classes: str) -> Scored:
    named = ids(len(labels))
    return Scored(
        classes, named, named, labels, scores, np.ones((len(labels), 2)), (), (), np.full(len(labels), np.nan)
    )


NO_SCORES = scored(np.zeros((0, 0), bool), np.zeros((0, 0)))


def masks(**values: Floats) -> Masks:
    table = np.stack(list(values.values()), 1)
    return Masks(ids(len(table)), tuple(values), table)


def column(*groups_of_images: str) -> Column:
    return Column("kind", tuple(dict.fromkeys(groups_of_images)), dict(zip(ids(9999), groups_of_images, strict=False)))


def by_name(found: list[Group]) -> dict[str, Group]:
    return {group.group: group for group in found}


def test_figures_of_a_group_are_those_of_its_images() -> None:
    values = np.arange(60.0)
    kinds = column(*(["a"] * 25 + ["b"] * 30 + ["few"] * 5))
    found = by_name(split(kinds, masks(jaccard=values), NO_SCORES, ["jaccard"], Drawing(3)))
    assert {name: group.images for name, group in found.items()} == {"a": 25, "b": 30, "few": 5}
    assert found["a"].figures["jaccard"].value == 12
    assert found["b"].figures["jaccard"].value == 39.5
    drawn = np.random.default_rng(3).integers(60, size=(2000, 60))
    means = [values[rows[rows < 25]].mean() for rows in drawn]
    assert found["a"].figures["jaccard"][1:] == pytest.approx((*np.percentile(means, (2.5, 97.5)), 25))
    assert found["few"].figures["jaccard"].value == 57
    assert all(math.isnan(end) for end in found["few"].figures["jaccard"][1:3])


def test_a_difference_is_group_minus_rest_in_an_interval_for_all_groups() -> None:
    values = np.random.default_rng(0).random(90)
    kinds = column(*(["a"] * 30 + ["b"] * 30 + ["c"] * 30))
    found = by_name(split(kinds, masks(jaccard=values), NO_SCORES, ["jaccard"], Drawing(3)))
    drawn = np.random.default_rng(3).integers(90, size=(2000, 90))
    apart = [values[rows[rows < 30]].mean() - values[rows[rows >= 30]].mean() for rows in drawn]
    wide = np.percentile(apart, (2.5 / 3, 100 - 2.5 / 3))
    assert found["a"].differences["jaccard"] == pytest.approx(
        (values[:30].mean() - values[30:].mean(), *wide, 30), abs=1e-9
    )


def test_an_interval_is_wider_where_more_figures_are_judged() -> None:
    values = np.random.default_rng(0).random((2, 90))
    kinds = column(*(["a"] * 30 + ["b"] * 30 + ["c"] * 30))
    two = masks(jaccard=values[0], dice=values[1])
    drawn = np.random.default_rng(3).integers(90, size=(2000, 90))
    apart = [values[0, rows[rows < 30]].mean() - values[0, rows[rows >= 30]].mean() for rows in drawn]
    found = by_name(split(kinds, two, NO_SCORES, ["jaccard", "dice"], Drawing(3)))
    assert found["a"].differences["jaccard"][1:3] == pytest.approx(np.percentile(apart, (2.5 / 6, 100 - 2.5 / 6)))


def test_aucs_of_a_group_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random((200, 2)) < 0.4
    scores = (0.3 * labels + 0.7 * rng.random((200, 2))).round(2)
    kinds = column(*(["a"] * 120 + ["b"] * 80))
    found = by_name(split(kinds, NO_MASKS, scored(labels, scores, "mel", "sk"), ["jaccard", "mel", "sk"], Drawing(0)))
    for name, rows in (("a", slice(120)), ("b", slice(120, 200))):
        theirs = [roc_auc_score(labels[rows, k], scores[rows, k]) for k in (0, 1)]
        figures = found[name].figures
        assert [figures["mel"].value, figures["sk"].value] == pytest.approx(theirs)
        assert figures[AUC_MEAN].value == pytest.approx(sum(theirs) / 2)
        assert figures["mel"].low < figures["mel"].value < figures["mel"].high
        assert figures["mel"].images == found[name].images
        assert set(found[name].differences) == {"mel", "sk"}


def test_an_auc_of_too_few_of_a_label_has_no_interval_and_is_not_judged() -> None:
    labels = np.zeros((100, 1), bool)
    labels[:30] = True
    kinds = column(*(["a"] * 15 + ["b"] * 6 + ["a"] * 20 + ["b"] * 59))  # b has 6 of the 30 positives, a has 24
    found = by_name(
        split(kinds, NO_MASKS, scored(labels, np.random.default_rng(0).random((100, 1)), "mel"), ["mel"], Drawing())
    )
    assert not math.isnan(found["a"].figures["mel"].low)
    assert not found["a"].differences
    assert not found["b"].differences


def test_groups_without_masks_or_without_scores_are_there_all_the_same() -> None:
    labels = np.array([[True], [False]] * 10)
    kinds = Column("kind", ("a", "b"), {**dict.fromkeys(ids(20), "a"), "only scores": "b"})
    table = scored(labels, np.linspace(0, 1, 20)[:, None], "mel")
    table = table._replace(ids=(*ids(19), "only scores"))
    found = by_name(split(kinds, NO_MASKS, table, ["mel"], Drawing()))
    assert (found["a"].images, found["b"].images) == (19, 1)
    assert math.isnan(found["b"].figures["mel"].value)
    masked = by_name(
        split(kinds, masks(jaccard=np.ones(20)), table._replace(ids=(*ids(19), "only scores")), ["mel"], Drawing())
    )
    assert (masked["a"].images, masked["b"].images) == (20, 0)
    assert math.isnan(masked["b"].figures["jaccard"].value)


def test_one_group_has_no_rest() -> None:
    (group,) = split(
        column(*["a"] * 40), masks(jaccard=np.random.default_rng(0).random(40)), NO_SCORES, ["jaccard"], Drawing()
    )
    assert group.differences == {}
    assert not group.behind


def test_a_value_that_is_not_there_is_left_out_and_counted() -> None:
    values = np.where(np.arange(50) % 2, np.arange(50.0), math.nan)
    (group,) = split(column(*["a"] * 50), masks(hausdorff95_px=values), NO_SCORES, ["jaccard"], Drawing())
    assert group.figures["hausdorff95_px"].value == 25
    assert group.figures["hausdorff95_px"].images == 25


@pytest.mark.parametrize(("high", "behind"), [(-0.001, ("jaccard",)), (0.0, ()), (0.001, ()), (math.nan, ())])
def test_behind_is_an_interval_wholly_below_zero(high: float, behind: tuple[str, ...]) -> None:
    group = Group("sex", "f", 30, {}, {"jaccard": Figure(-0.1, -0.2, high, 30)})
    assert group.behind == behind


def flags(shift: float, tries: int, figures: int = 1) -> list[tuple[str, ...]]:
    """The groups behind, in columns of four groups of skewed figures, the last `shift` below the others."""
    names = [f"figure_{number}" for number in range(figures)]
    found: list[tuple[str, ...]] = []
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        kinds = rng.permutation(["a"] * 20 + ["b"] * 40 + ["c"] * 60 + ["last"] * 80)
        values = {name: rng.beta(6, 1.5, 200) - shift * (kinds == "last") for name in names}
        some = split(column(*kinds), masks(**values), NO_SCORES, names, Drawing(seed))
        found.append(tuple(group.group for group in some if group.behind))
    return found


def test_chance_seldom_raises_a_flag_and_a_real_gap_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 800)
    assert sum(bool(each) for each in flags(0, 200)) <= 16  # 5 of 200 by the lower half of 5 %, and 20 images are few
    assert sum(each == ("last",) for each in flags(0.15, 40)) >= 36


@pytest.mark.parametrize("resamples", [800, 1400])  # tails of less than one resample, and of more
def test_chance_seldom_raises_a_flag_however_many_figures_are_judged(
    resamples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", resamples)
    assert sum(bool(each) for each in flags(0, 100, figures=8)) <= 8


def test_too_few_is_what_the_readme_says() -> None:
    assert (groups.LEAST_IMAGES, groups.LEAST_OF_A_LABEL) == (20, 10)
