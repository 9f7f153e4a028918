"""The losses against figures worked out by hand, a plain loop over pixels, and finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lesioncli.training.losses import (
    HARDEST,
    auxiliary_loss,
    dice_loss,
    mask_loss,
    rank_loss,
    soft_jaccard_loss,
    total_loss,
)
from lesioncli.training.recipe import LossWeights

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
LOG_2 = math.log(2)
MASK_ONLY = LossWeights(jaccard=0, cross_entropy=1, classes=0, mask_smoothing=0.1)
CLASSES_ONLY = LossWeights(jaccard=0, cross_entropy=0, classes=1, class_smoothing=0)


def image(*rows: list[float]) -> Tensor:
    return torch.tensor([[rows]])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(*shape: int, seed: int = 0) -> Tensor:
    return (draw(*shape, seed=seed) * 8 - 4).float()


@pytest.mark.parametrize(
    ("probability", "mask", "expected"),
    [
        pytest.param([1.0, 0.0], [1.0, 0.0], 0.0, id="equal"),
        pytest.param([0.0, 0.0], [0.0, 0.0], 0.0, id="both empty"),
        pytest.param([0.5, 0.5], [1.0, 0.0], 0.4, id="(0.5 + 1) of (1.5 + 1)"),
        pytest.param([1.0, 0.0], [0.0, 1.0], 2 / 3, id="(0 + 1) of (2 + 1)"),
        pytest.param([1.0, 1.0], [0.0, 0.0], 2 / 3, id="empty mask, (0 + 1) of (2 + 1)"),
        pytest.param([0.5, 0.0], [0.5, 0.0], 1 - 1.25 / 1.75, id="a half pixel shared: 0.25 of 0.75"),
    ],
)
def test_soft_jaccard_by_hand(probability: list[float], mask: list[float], expected: float) -> None:
    assert soft_jaccard_loss(image(probability), image(mask)).item() == pytest.approx(expected, abs=1e-6)


def test_soft_jaccard_is_taken_per_image_then_averaged() -> None:
    probability = torch.cat([image([1.0] * 100), image([1.0] + [0.0] * 99)])
    mask = torch.cat([image([1.0] * 100), image([0.0] * 99 + [1.0])])
    assert soft_jaccard_loss(probability, mask).item() == pytest.approx((0 + 2 / 3) / 2, abs=1e-6)


def test_soft_jaccard_against_a_loop_over_pixels() -> None:
    probability, mask = draw(3, 1, 4, 5), draw(3, 1, 4, 5, seed=1).round()
    losses = []
    for p_image, m_image in zip(probability.flatten(1).tolist(), mask.flatten(1).tolist(), strict=True):
        shared = sum(p * m for p, m in zip(p_image, m_image, strict=True))
        either = sum(p + m - p * m for p, m in zip(p_image, m_image, strict=True))
        losses.append(1 - (shared + 1) / (either + 1))
    assert soft_jaccard_loss(probability, mask).item() == pytest.approx(sum(losses) / 3)


def test_soft_jaccard_has_the_gradient_of_finite_differences() -> None:
    probability, mask = draw(2, 1, 3, 3).requires_grad_(), draw(2, 1, 3, 3, seed=1).round()
    assert torch.autograd.gradcheck(soft_jaccard_loss, (probability, mask))


def test_total_loss_of_a_network_that_knows_nothing() -> None:
    """Every logit 0, so every probability 1/2: each cross-entropy is log 2, whatever the labels are smoothed to."""
    mask = image([1.0, 1.0], [0.0, 0.0])
    weights = LossWeights(jaccard=1.0, cross_entropy=0.25, classes=3.0)
    loss = total_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2), mask, torch.tensor([[1.0, 0.0]]), weights)
    soft_jaccard = 1 - (1 + 1) / (3 + 1)
    assert loss.item() == pytest.approx(soft_jaccard + 0.25 * LOG_2 + 3 * (LOG_2 + LOG_2))


def binary_cross_entropy(logit: float, target: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -target * math.log(probability) - (1 - target) * math.log(1 - probability)


def test_total_loss_against_a_loop() -> None:
    weights = LossWeights(jaccard=0.7, cross_entropy=0.4, classes=1.3, mask_smoothing=0.1, class_smoothing=0.05)
    mask_logits, class_logits = logits(3, 1, 4, 4), logits(3, 2, seed=1)
    mask, labels = draw(3, 1, 4, 4, seed=2).round(), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    pixels = list(zip(mask_logits.flatten().tolist(), mask.flatten().tolist(), strict=True))
    by_pixel = sum(binary_cross_entropy(x, 0.9 if y else 0.1) for x, y in pixels) / len(pixels)
    answers = list(zip(class_logits.flatten().tolist(), labels.flatten().tolist(), strict=True))
    by_answer = sum(binary_cross_entropy(x, 0.95 if y else 0.05) for x, y in answers) / 3  # summed over the two heads
    outline = soft_jaccard_loss(mask_logits.sigmoid(), mask).item()

    loss = total_loss(mask_logits, class_logits, mask.float(), labels, weights)
    assert loss.item() == pytest.approx(0.7 * outline + 0.4 * by_pixel + 1.3 * by_answer, rel=1e-5)


def classes(class_logits: Tensor, labels: Tensor) -> Tensor:
    blank = torch.zeros(len(labels), 1, 2, 2)
    return total_loss(blank, class_logits, blank, labels, CLASSES_ONLY)


def test_unknown_labels_do_not_count() -> None:
    class_logits = torch.tensor([[2.0, 1.0], [-1.0, 3.0]])
    only_one = classes(class_logits, torch.tensor([[NAN, NAN], [NAN, 0.0]]))
    assert only_one.item() == pytest.approx(2 * binary_cross_entropy(3, 0))  # the mean of one, for two heads
    two = classes(class_logits, torch.tensor([[1.0, NAN], [NAN, 0.0]]))
    assert two.item() == pytest.approx(binary_cross_entropy(2, 1) + binary_cross_entropy(3, 0))


def test_unknown_labels_teach_nothing() -> None:
    class_logits = logits(2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(classes(class_logits, torch.tensor([[1.0, NAN], [NAN, NAN]])), class_logits)
    assert (gradient != 0).tolist() == [[True, False], [False, False]]


def test_without_any_label_the_classes_cost_nothing() -> None:
    class_logits = logits(2, 2).requires_grad_()
    loss = classes(class_logits, torch.full((2, 2), NAN))
    (gradient,) = torch.autograd.grad(loss, class_logits)
    assert loss.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("term", ["jaccard", "cross_entropy", "dice", "rank"])
def test_an_image_without_a_mask_does_not_count(term: str) -> None:
    weights = LossWeights(**{"jaccard": 0, "cross_entropy": 0, term: 1})
    mask_logits, masks = logits(3, 1, 8, 8), draw(3, 1, 8, 8, seed=1).round().float()
    known = mask_loss(mask_logits[::2], masks[::2], weights)
    masks[1] = NAN
    assert mask_loss(mask_logits, masks, weights).item() == pytest.approx(known.item())


def test_without_any_mask_the_masks_cost_nothing() -> None:
    mask_logits = logits(2, 1, 8, 8).requires_grad_()
    loss = mask_loss(mask_logits, torch.full((2, 1, 8, 8), NAN), LossWeights())
    (gradient,) = torch.autograd.grad(loss, mask_logits)
    assert loss.item() == 0
    assert (gradient == 0).all()


def test_auxiliary_loss_by_hand() -> None:
    """The mean over the known diagnoses; nothing without any."""
    weights, aux_logits = LossWeights(auxiliary=0.5), logits(3, 4).requires_grad_()
    expected = -aux_logits.log_softmax(1)[[0, 2], [3, 1]].mean() / 2
    torch.testing.assert_close(auxiliary_loss(aux_logits, torch.tensor([3, -1, 1]), weights), expected)
    loss = auxiliary_loss(aux_logits, torch.tensor([-1, -1, -1]), weights)
    (gradient,) = torch.autograd.grad(loss, aux_logits)
    assert loss.item() == 0
    assert (gradient == 0).all()


def test_an_image_without_a_lesion_has_a_finite_loss_that_falls_with_the_probability() -> None:
    weights, empty, labels = LossWeights(), torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)
    losses = [
        total_loss(torch.full((1, 1, 8, 8), logit), torch.zeros(1, 2), empty, labels, weights).item()
        for logit in (20.0, 0.0, -3.0)
    ]
    assert all(map(math.isfinite, losses))
    assert losses == sorted(losses, reverse=True)


def test_smoothing_puts_the_least_loss_at_the_smoothed_label() -> None:
    """With labels of 0.1 and 0.9, cross-entropy is least at a probability of 0.9, not 1."""
    least = math.log(0.9 / 0.1)
    mask, labels = torch.ones(1, 1, 1, 1), torch.zeros(1, 2)
    at, more, less = (
        total_loss(torch.full((1, 1, 1, 1), x), torch.zeros(1, 2), mask, labels, MASK_ONLY).item()
        for x in (least, least + 0.3, least - 0.3)
    )
    assert at < more
    assert at < less


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 0.02) -> Tensor:
    slopes = torch.zeros(at.numel())
    for index in range(at.numel()):
        nudge = torch.zeros(at.numel())
        nudge[index] = step
        nudge = nudge.view_as(at)
        slopes[index] = (function(at + nudge) - function(at - nudge)) / (2 * step)
    return slopes.view_as(at)


def test_total_loss_has_the_gradient_of_finite_differences() -> None:
    """In steps of .02, since the loss is float32 by design: both sides carry errors of about 1e-5."""
    mask_logits, class_logits = logits(2, 1, 2, 2).requires_grad_(), logits(2, 2, seed=1).requires_grad_()
    mask, labels = draw(2, 1, 2, 2, seed=2).round().float(), torch.tensor([[1.0, 0.0], [NAN, 1.0]])
    weights = LossWeights(jaccard=1, cross_entropy=0.5, classes=0.5)
    loss = total_loss(mask_logits, class_logits, mask, labels, weights)
    gradients = torch.autograd.grad(loss, (mask_logits, class_logits))
    by_mask = finite_differences(lambda x: total_loss(x, class_logits, mask, labels, weights), mask_logits.detach())
    by_class = finite_differences(lambda x: total_loss(mask_logits, x, mask, labels, weights), class_logits.detach())
    torch.testing.assert_close(gradients[0], by_mask, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(gradients[1], by_class, atol=1e-4, rtol=1e-3)


def test_half_precision_logits_are_summed_in_single() -> None:
    mask_logits, class_logits = logits(1, 1, 64, 64).bfloat16(), logits(1, 2, seed=1).bfloat16()
    mask, labels = draw(1, 1, 64, 64, seed=2).round().float(), torch.tensor([[1.0, 0.0]])
    half = total_loss(mask_logits, class_logits, mask, labels, LossWeights())
    single = total_loss(mask_logits.float(), class_logits.float(), mask, labels, LossWeights())
    assert half.dtype == torch.float32
    assert half.item() == single.item()


def test_dice_by_hand() -> None:
    """Lesion: p .5 and 0 on y 1 and 0, 1 - 2 * .5 / 1.5; background: .5 and 1 on 0 and 1, 1 - 2 * 1 / 2.5."""
    expected = ((1 - 1 / 1.5) + (1 - 2 / 2.5)) / 2
    assert dice_loss(image([0.5, 0.0]), image([1.0, 0.0])).item() == pytest.approx(expected, abs=1e-4)


def test_dice_of_an_empty_mask_is_what_the_paper_s_code_makes_it() -> None:
    """No small number stands above the fraction: the lesion's term is 1 though nothing was found, its other term 0."""
    assert dice_loss(image([0.0, 0.0]), image([0.0, 0.0])).item() == pytest.approx(0.5, abs=1e-4)


def test_dice_against_a_loop_over_images_and_channels() -> None:
    probability, mask = draw(3, 1, 6, 5), draw(3, 1, 6, 5, seed=1).round()
    terms = []
    for p_image, m_image in zip(probability.flatten(1).tolist(), mask.flatten(1).tolist(), strict=True):
        for p, y in ((p_image, m_image), ([1 - x for x in p_image], [1 - x for x in m_image])):
            terms.append(1 - 2 * sum(map(float.__mul__, p, y)) / (sum(p) + sum(y) + 1e-5))
    assert dice_loss(probability, mask).item() == pytest.approx(sum(terms) / 6, rel=1e-9)


def rank_by_loop(probability: Tensor, mask: Tensor) -> float:
    """Rank loss of MB-DCNN, pair by pair; fewer than 30 pixels of a kind are padded with zeros."""
    means: list[float] = []
    for p_image, m_image in zip(probability.flatten(1).tolist(), mask.flatten(1).tolist(), strict=True):
        background = sorted((p * (1 - y) for p, y in zip(p_image, m_image, strict=True)), reverse=True)[:30]
        missing = sorted(((1 - p) * y for p, y in zip(p_image, m_image, strict=True)), reverse=True)[:30]
        means.append(sum(max(0.0, n - (1.0 - q) + 0.3) for n in background for q in missing) / 900)
    return sum(means) / len(means)


@pytest.mark.parametrize("lesion_pixels", [0, 1, 29, 30, 31, 100, 143, 144])
def test_rank_loss_against_a_loop_over_all_pairs(lesion_pixels: int) -> None:
    mask = torch.zeros(2, 1, 12, 12, dtype=torch.float64)
    mask.flatten(1)[:, :lesion_pixels] = 1
    probability = draw(2, 1, 12, 12, seed=lesion_pixels)
    assert rank_loss(probability, mask).item() == pytest.approx(rank_by_loop(probability, mask), rel=1e-9)


def test_rank_loss_of_a_network_that_knows_nothing_is_the_margin() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    assert rank_loss(torch.full_like(mask, 0.5), mask).item() == pytest.approx(0.3)


@pytest.mark.parametrize(("background", "expected"), [(0.7, 0.0), (0.9, 0.2)])
def test_without_a_lesion_only_background_above_seven_tenths_costs(background: float, expected: float) -> None:
    empty = torch.zeros(1, 1, 8, 8)
    assert rank_loss(torch.full_like(empty, background), empty).item() == pytest.approx(expected, abs=1e-6)


def test_rank_loss_takes_a_picture_smaller_than_the_number_of_hardest_pixels() -> None:
    """Three lesion pixels and six others, all at .5: of the 9 x 9 pairs, those of real pixels cost the margin."""
    assert HARDEST > 9
    loss = rank_loss(torch.full((1, 1, 3, 3), 0.5), torch.eye(3)[None, None])
    assert loss.item() == pytest.approx(0.3 * 3 * 6 / 81)


@pytest.mark.parametrize("loss", [dice_loss, rank_loss])
def test_dice_and_rank_have_the_gradient_of_finite_differences(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    probability, mask = draw(2, 1, 6, 7).requires_grad_(), draw(2, 1, 6, 7, seed=1).round()
    assert torch.autograd.gradcheck(loss, (probability, mask))


def test_each_weight_of_the_mask_s_loss_multiplies_its_own_term() -> None:
    mask_logits, mask, labels = logits(2, 1, 8, 8), draw(2, 1, 8, 8, seed=2).round().float(), torch.zeros(2, 2)
    probability = mask_logits.sigmoid()
    terms = {"dice": dice_loss(probability, mask), "rank": rank_loss(probability, mask)}
    for name, term in terms.items():
        weights = LossWeights(**{"jaccard": 0.0, "cross_entropy": 0.0, name: 0.25})
        assert total_loss(mask_logits, None, mask, labels, weights).item() == pytest.approx(0.25 * term.item())


def test_three_logits_are_one_answer_out_of_three() -> None:
    """Columns: melanoma, seborrheic keratosis, nevus. An image with an unknown label is ignored."""
    class_logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 1.0, 2.0], [9.0, 0.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [NAN, 0.0]])
    by_hand = []
    for row, target in zip(class_logits.tolist(), (0, 1, 2), strict=False):
        by_hand.append(math.log(sum(map(math.exp, row))) - row[target])
    weights = LossWeights(classes=2.0, class_smoothing=0.0)
    loss = total_loss(None, class_logits, torch.zeros(4, 1, 2, 2), labels, weights)
    assert loss.item() == pytest.approx(2 * sum(by_hand) / 3, rel=1e-5)


def test_a_batch_without_any_known_class_costs_nothing_and_teaches_nothing() -> None:
    class_logits = logits(2, 3).requires_grad_()
    loss = total_loss(None, class_logits, torch.zeros(2, 1, 2, 2), torch.full((2, 2), NAN), LossWeights())
    (gradient,) = torch.autograd.grad(loss, class_logits)
    assert loss.item() == 0
    assert (gradient == 0).all()
