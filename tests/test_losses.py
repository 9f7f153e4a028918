"""The losses against figures worked out by hand, a plain loop over pixels, and finite differences."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from lesioncli.training.losses import joint_loss, soft_jaccard_loss
from lesioncli.training.recipe import LossWeights

NAN = float("nan")
LOG_2 = math.log(2)
MASK_ONLY = LossWeights(jaccard=0, cross_entropy=1, classes=0, mask_smoothing=0.1)
CLASSES_ONLY = LossWeights(jaccard=0, cross_entropy=0, classes=1, class_smoothing=0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def test_joint_loss_of_a_network_that_knows_nothing() -> None:
    """Every logit 0, so every probability 1/2: each cross-entropy is log 2, whatever the labels are smoothed to."""
    mask = image([1.0, 1.0], [0.0, 0.0])
    weights = LossWeights(jaccard=1.0, cross_entropy=0.25, classes=3.0)
    loss = joint_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2), mask, torch.tensor([[1.0, 0.0]]), weights)
    soft_jaccard = 1 - (1 + 1) / (3 + 1)
    assert loss.item() == pytest.approx(soft_jaccard + 0.25 * LOG_2 + 3 * (LOG_2 + LOG_2))


def binary_cross_entropy(logit: float, target: float) -> float:
    probability = 1 / (1 + math.exp(-logit))
    return -target * math.log(probability) - (1 - target) * math.log(1 - probability)


def test_joint_loss_against_a_loop() -> None:
    weights = LossWeights(jaccard=0.7, cross_entropy=0.4, classes=1.3, mask_smoothing=0.1, class_smoothing=0.05)
    mask_logits, class_logits = logits(3, 1, 4, 4), logits(3, 2, seed=1)
    mask, labels = draw(3, 1, 4, 4, seed=2).round(), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])

    pixels = list(zip(mask_logits.flatten().tolist(), mask.flatten().tolist(), strict=True))
    by_pixel = sum(binary_cross_entropy(x, 0.9 if y else 0.1) for x, y in pixels) / len(pixels)
    answers = list(zip(class_logits.flatten().tolist(), labels.flatten().tolist(), strict=True))
    by_answer = sum(binary_cross_entropy(x, 0.95 if y else 0.05) for x, y in answers) / 3  # summed over the two heads
    outline = soft_jaccard_loss(mask_logits.sigmoid(), mask).item()

    loss = joint_loss(mask_logits, class_logits, mask.float(), labels, weights)
    assert loss.item() == pytest.approx(0.7 * outline + 0.4 * by_pixel + 1.3 * by_answer, rel=1e-5)


def classes(class_logits: Tensor, labels: Tensor) -> Tensor:
    blank = torch.zeros(len(labels), 1, 2, 2)
    return joint_loss(blank, class_logits, blank, labels, CLASSES_ONLY)


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


def test_an_image_without_a_lesion_has_a_finite_loss_that_falls_with_the_probability() -> None:
    weights, empty, labels = LossWeights(), torch.zeros(1, 1, 8, 8), torch.zeros(1, 2)
    losses = [
        joint_loss(torch.full((1, 1, 8, 8), logit), torch.zeros(1, 2), empty, labels, weights).item()
        for logit in (20.0, 0.0, -3.0)
    ]
    assert all(map(math.isfinite, losses))
    assert losses == sorted(losses, reverse=True)


def test_smoothing_puts_the_least_loss_at_the_smoothed_label() -> None:
    """With labels of .1 and .9, cross-entropy is least where the network says .9 and not where it says 1."""
    least = math.log(0.9 / 0.1)
    mask, labels = torch.ones(1, 1, 1, 1), torch.zeros(1, 2)
    at, more, less = (
        joint_loss(torch.full((1, 1, 1, 1), x), torch.zeros(1, 2), mask, labels, MASK_ONLY).item()
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


def test_joint_loss_has_the_gradient_of_finite_differences() -> None:
    """In steps of .02, since the loss is float32 by design: both sides carry errors of about 1e-5."""
    mask_logits, class_logits = logits(2, 1, 2, 2).requires_grad_(), logits(2, 2, seed=1).requires_grad_()
    mask, labels = draw(2, 1, 2, 2, seed=2).round().float(), torch.tensor([[1.0, 0.0], [NAN, 1.0]])
    weights = LossWeights(jaccard=1, cross_entropy=0.5, classes=0.5)
    loss = joint_loss(mask_logits, class_logits, mask, labels, weights)
    gradients = torch.autograd.grad(loss, (mask_logits, class_logits))
    by_mask = finite_differences(lambda x: joint_loss(x, class_logits, mask, labels, weights), mask_logits.detach())
    by_class = finite_differences(lambda x: joint_loss(mask_logits, x, mask, labels, weights), class_logits.detach())
    torch.testing.assert_close(gradients[0], by_mask, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(gradients[1], by_class, atol=1e-4, rtol=1e-3)


def test_half_precision_logits_are_summed_in_single() -> None:
    mask_logits, class_logits = logits(1, 1, 64, 64).bfloat16(), logits(1, 2, seed=1).bfloat16()
    mask, labels = draw(1, 1, 64, 64, seed=2).round().float(), torch.tensor([[1.0, 0.0]])
    half = joint_loss(mask_logits, class_logits, mask, labels, LossWeights())
    single = joint_loss(mask_logits.float(), class_logits.float(), mask, labels, LossWeights())
    assert half.dtype == torch.float32
    assert half.item() == single.item()
