"""compare.py: pairs by hand, scipy's permutation test and bootstrap, DeLong's variance."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap, permutation_test
from sklearn.metrics import roc_auc_score

from lesioncli.evaluation.cases import Masks, Scored
from lesioncli.evaluation.statistics import comparison as module
from lesioncli.evaluation.statistics.bootstrap import AUC_MEAN, Drawing, Draws
from lesioncli.evaluation.statistics.comparison import Comparison, compare, flip_signs

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def masks(names: str, values: Floats) -> Masks:
    columns = ("jaccard", "dice", "hausdorff95_px")[: values.shape[1]]
    return Masks(tuple(names.split()), columns, values)


def scored(names: tuple[str, ...], labels: Bools, scores: Floats) -> Scored:
    classes = ("mel", "sk")[: labels.shape[1]]
    nevus = np.full(len(labels), math.nan)
    return Scored(classes, names, names, labels, scores, np.ones((len(labels), 2)), (), (), nevus)


NO_MASKS = Masks((), (), np.zeros((0, 0)))
NO_SCORES = scored((), np.zeros((0, 0), bool), np.zeros((0, 0)))


def made_up(images: int, seed: int = 7) -> tuple[Bools, Floats, Floats]:
    """Labels (images, 2), and scores of a better and a worse classifier, that go together as two networks' do."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, 2)) < (0.3, 0.2)
    common = labels * 0.6 + rng.normal(0, 0.5, labels.shape)
    return labels, common + rng.normal(0, 0.2, labels.shape), common + rng.normal(0, 0.5, labels.shape)


def of_scores(labels: Bools, ours: Floats, other: Floats, seed: int = 0) -> Comparison:
    names = tuple(f"{number:04}" for number in range(len(labels)))
    return compare(
        (NO_MASKS, scored(names, labels, ours)), (NO_MASKS, scored(names, labels, other)), "x", Drawing(seed)
    )


def test_pairs_by_hand() -> None:
    ours = masks("a b c d", np.array([[0.9, 1], [0.5, 2], [0.1, 3], [0.7, math.nan]]))
    other = masks("c d b x", np.array([[0.4, 1], [0.8, 1], [0.3, math.nan], [0.9, 1]]))
    found = compare((ours, NO_SCORES), (other, NO_SCORES), "other", Drawing())
    jaccard = found.differences["jaccard"]
    assert jaccard[:3] == pytest.approx((1.3 / 3, 1.5 / 3, -0.2 / 3))  # b, c and d
    assert jaccard.images == 3
    assert found.differences["dice"][:3] == (3, 1, 2)  # c alone has both
    assert found.differences["dice"].images == 1
    assert found.per_image["b"]["jaccard"] == pytest.approx(0.2)
    assert list(found.per_image) == ["b", "c", "d"]
    assert (found.only_ours, found.only_other, found.other) == (("a",), ("x",), "other")


def test_scores_are_paired_by_image_too() -> None:
    labels, ours, other = made_up(60)
    names = tuple(f"{number:04}" for number in range(60))
    order = np.random.default_rng(0).permutation(60)[:50]
    shuffled = scored(tuple(names[row] for row in order), labels[order], other[order])
    found = compare((NO_MASKS, scored(names, labels, ours)), (NO_MASKS, shuffled), "x", Drawing())
    rows = np.sort(order)
    theirs = [[roc_auc_score(labels[rows, k], each[rows, k]) for k in (0, 1)] for each in (ours, other)]
    for k, name in enumerate(("mel", "sk")):
        assert found.differences[name][:3] == pytest.approx((theirs[0][k], theirs[1][k], theirs[0][k] - theirs[1][k]))
    assert found.differences[AUC_MEAN].difference == pytest.approx(sum(theirs[0]) / 2 - sum(theirs[1]) / 2)
    assert (found.differences["mel"].images, len(found.only_ours), found.only_other) == (50, 10, ())


def test_the_same_predictions_differ_by_nothing() -> None:
    labels, scores, _ = made_up(40)
    values = np.random.default_rng(0).random((40, 2))
    both = (
        Masks(tuple(f"{number}" for number in range(40)), ("jaccard", "dice"), values),
        scored(tuple(f"{number}" for number in range(40)), labels, scores),
    )
    found = compare(both, both, "x", Drawing())
    assert set(found.differences) == {"jaccard", "dice", "mel", "sk", AUC_MEAN}
    assert {each[2:6] for each in found.differences.values()} == {(0, 0, 0, 1)}


def test_nothing_in_common_is_no_difference() -> None:
    a, b = (masks(name, np.ones((1, 2))) for name in "ab")
    assert compare((a, NO_SCORES), (b, NO_SCORES), "x", Drawing()).differences == {}


@pytest.mark.parametrize("shift", [0, 0.02, 0.05])
def test_sign_flips_are_scipys(shift: float) -> None:
    paired = np.random.default_rng(4).normal(shift, 0.2, 150)
    theirs = permutation_test(
        (paired, np.zeros(150)), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=9999, rng=0
    )
    assert flip_signs(paired[:, None], Draws(0))[0] == pytest.approx(theirs.pvalue, abs=0.015)


def test_sign_flips_by_hand() -> None:
    # Of 8 ways to give signs to 1, 2 and 4, two are as far from zero as 7; of 4 with 3 and 1, four as far as 2.
    chances = flip_signs(np.array([[1.0, 3, 0, math.nan], [2, -1, 0, 2], [4, math.nan, 0, math.nan]]), Draws(0))
    assert chances == pytest.approx([1 / 4, 1, 1, 1], abs=0.015)


def test_no_p_value_is_zero() -> None:
    assert flip_signs(np.ones((200, 1)), Draws(0)) == [1 / (module.FLIPS + 1)]
    labels = np.array([[True]] * 40 + [[False]] * 40)
    found = of_scores(labels, labels.astype(float), 1 - labels.astype(float))
    assert found.differences["mel"].p == pytest.approx(2 / 2001)


def test_the_size_of_a_block_of_flips_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    paired = np.random.default_rng(4).normal(0.02, 0.2, (50, 2))
    at_once = flip_signs(paired, Draws(0))
    monkeypatch.setattr(module, "DRAWS_AT_ONCE", 1200)
    assert flip_signs(paired, Draws(0)) == pytest.approx(at_once, abs=0.01)


def test_interval_of_a_paired_mean_is_scipys() -> None:
    rng = np.random.default_rng(2)
    ours, other = rng.beta(8, 2, (200, 1)), rng.beta(7, 2, (200, 1))
    names = " ".join(map(str, range(200)))
    found = compare((masks(names, ours), NO_SCORES), (masks(names, other), NO_SCORES), "x", Drawing()).differences[
        "jaccard"
    ]
    theirs = bootstrap(((ours - other)[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=0)
    error = theirs.standard_error / 4
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=error)


def placements(labels: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """DeLong et al. 1988: of each positive the share of negatives below, of each negative that of positives above."""
    won = (scores[labels][:, None] > scores[~labels]) + (scores[labels][:, None] == scores[~labels]) / 2
    return won.mean(axis=1), won.mean(axis=0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_interval_and_p_of_an_auc_difference_are_those_of_delong(seed: int) -> None:
    labels, ours, other = made_up(400, seed)
    found = of_scores(labels[:, :1], ours[:, :1], other[:, :1]).differences["mel"]
    (a, b), (c, d) = (placements(labels[:, 0], each[:, 0]) for each in (ours, other))
    error = math.sqrt((a - c).var(ddof=1) / a.size + (b - d).var(ddof=1) / b.size)
    assert (found.low, found.high) == pytest.approx(
        (found.difference - 1.96 * error, found.difference + 1.96 * error), abs=error / 3
    )
    chance = 2 * NormalDist().cdf(-abs(found.difference) / error)
    assert found.p == pytest.approx(chance, abs=0.05)


def test_interval_and_p_say_the_same_of_an_auc() -> None:
    for seed in range(12):
        found = of_scores(*made_up(80, seed), seed=seed).differences[AUC_MEAN]
        if abs(found.p - 0.05) > 0.005:
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_an_auc_that_is_undefined_has_no_difference_to_speak_of() -> None:
    labels = np.array([[True], [True]])
    found = of_scores(labels, np.array([[0.1], [0.2]]), np.array([[0.3], [0.1]])).differences["mel"]
    assert all(math.isnan(value) for value in found[:6])


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Of 300 samples of 150 pairs whose true mean difference is known, 95 % of the intervals should hold it."""
    truth = 8 / 10 - 7 / 10
    names = " ".join(map(str, range(150)))
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ours, other = rng.beta(8, 2, (150, 1)), rng.beta(7, 3, (150, 1))
        found = module._of_means(masks(names, ours), masks(names, other), (list(range(150)),) * 2, Drawing(seed))[
            "jaccard"
        ]
        held += found.low <= truth <= found.high
    assert 276 <= held <= 296  # 285 in the mean, 3.8 its standard deviation
