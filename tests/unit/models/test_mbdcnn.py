"""MB-DCNN on small encoders: what each network passes to the next.

The paper's own sizes are proved in test_xception.py.
"""

from typing import Any

import numpy as np
import pytest
import torch
from helpers.networks import awake
from torch import Tensor, nn

from lesioncli.models.mbdcnn import MBDCNN, READS, MaskCN, activation_map
from lesioncli.models.region import DILATION, SMALLEST, Region, cut_out, put_back, region_of

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 64
LITE: dict[str, Any] = {"encoder": "efficientnet_lite0", "width": 16, "rates": (1, 2, 3)}


def make(**options: Any) -> MBDCNN:
    torch.manual_seed(0)
    return awake(MBDCNN(**{**LITE, **options}))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def disc(row: float, column: float, radius: float, side: int = 100) -> Tensor:
    """Probability 1 in a disc, in shares of the side."""
    rows, columns = np.mgrid[:side, :side] / side + 0.5 / side
    return torch.from_numpy(((rows - row) ** 2 + (columns - column) ** 2 < radius**2).astype(np.float32))[None, None]


@pytest.mark.parametrize("reads", READS)
def test_the_cascade_is_its_three_networks_in_a_row(reads: str) -> None:
    network, images = make(reads=reads), draw(2, 3, SIDE, SIDE)
    with torch.no_grad():
        out = network(images)
        coarse = network.coarse_sn(images)
        class_logits, activation = network.mask_cn(images, coarse)
        on_grid = nn.functional.interpolate(activation, size=(SIDE // 16, SIDE // 16), mode="bilinear")
        enhanced = network.enhanced_sn(images, on_grid)
    assert out.mask_logits.shape == out.coarse_logits.shape == (2, 1, SIDE, SIDE)
    assert out.class_logits.shape == (2, 3)
    for got, expected in zip(out, (enhanced, coarse, enhanced, class_logits, activation), strict=True):
        assert torch.equal(got, expected)


def test_a_fused_mask_is_the_mean_of_both_logits() -> None:
    images = draw(1, 3, SIDE, SIDE)
    with torch.no_grad():
        out, plain = make(fuse=True)(images), make()(images)
    assert torch.equal(out.mask_logits, (plain.coarse_logits + plain.enhanced_logits) / 2)
    assert torch.equal(out.enhanced_logits, plain.mask_logits)


@pytest.mark.parametrize("size", [(224, 224), (256, 288), (64, 96)])
def test_any_size_that_32_divides_will_do(size: tuple[int, int]) -> None:
    with torch.no_grad():
        out = make()(draw(1, 3, *size))
    assert out.mask_logits.shape == (1, 1, *size)
    assert out.activation.shape == (1, 1, size[0] // 32, size[1] // 32)


def test_class_probabilities_sum_to_one() -> None:
    probabilities = MBDCNN.class_probabilities(torch.tensor([[1.0, 2.0, 3.0]]))
    assert probabilities.sum().item() == pytest.approx(1)
    assert probabilities[0, 0] / probabilities[0, 1] == pytest.approx(np.exp(-1), rel=1e-5)


def test_a_segmenter_s_sigmoid_is_the_softmax_of_its_two_enlarged_logits() -> None:
    network, two = make().coarse_sn, []
    network.logits.register_forward_hook(lambda module, images, logits: two.append(logits))
    with torch.no_grad():
        lesion = network(draw(2, 3, SIDE, SIDE))
    assert two[0].shape == (2, 2, SIDE // 4, SIDE // 4)
    enlarged = nn.functional.interpolate(two[0], scale_factor=4, mode="bilinear", align_corners=True)
    torch.testing.assert_close(lesion.sigmoid(), enlarged.softmax(1)[:, 1:])
    assert lesion.std() > 0, "one value says nothing"


def test_what_mask_cn_is_not_told_it_does_not_know() -> None:
    """ "rgb" never sees the mask; "mask" sees it cut, "crop" where it is."""
    images, small, large = (
        draw(1, 3, SIDE, SIDE),
        disc(0.3, 0.3, 0.1, SIDE) * 20 - 10,
        disc(0.5, 0.5, 0.4, SIDE) * 20 - 10,
    )
    for reads, differs in (("rgb", False), ("mask", True), ("crop", True), ("pool", True)):
        network = make(reads=reads).mask_cn
        with torch.no_grad():
            assert torch.equal(network(images, small)[0], network(images, large)[0]) != differs
            if reads == "mask":
                assert torch.equal(network(images, small)[0], network(images, small * 0.1)[0])


def test_an_unknown_way_of_reading_is_refused() -> None:
    with pytest.raises(ValueError, match="rgb, mask, crop, pool"):
        make(reads="text")


def test_the_map_reaches_enhanced_sn_unless_it_is_switched_off() -> None:
    images, activation = draw(1, 3, SIDE, SIDE), draw(1, 1, 4, 4)
    for uses_map in (True, False):
        network = make(uses_map=uses_map)
        with torch.no_grad():
            same = torch.equal(network.enhance(images, activation), network.enhance(images, activation * 0))
        assert same != uses_map


def test_a_map_goes_to_the_network_that_takes_one_and_to_no_other() -> None:
    network, images, activation = make(), draw(1, 3, SIDE, SIDE), draw(1, 1, 4, 4)
    with pytest.raises(ValueError, match="activation map"):
        network.coarse_sn(images, activation)
    with pytest.raises(ValueError, match="activation map"):
        network.enhanced_sn(images)


def test_no_gradient_flows_into_mask_cn_from_the_map() -> None:
    network = make()
    _, activation = network.mask_cn(draw(1, 3, SIDE, SIDE), draw(1, 1, SIDE, SIDE))
    torch.autograd.backward(network.enhance(draw(1, 3, SIDE, SIDE), activation).sum())
    assert all(each.grad is None for each in network.mask_cn.parameters())
    assert any(each.grad is not None for each in network.enhanced_sn.parameters())


def test_activation_map_by_hand() -> None:
    """Class 1 wins both times; its weights are 1 and -2. Divided by the largest value, negative ones are kept."""
    maps = torch.tensor([[[[1.0, 4.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    weight = torch.tensor([[9.0, 9.0], [1.0, -2.0], [9.0, 9.0]])
    found = activation_map(maps, weight, torch.tensor([[0.0, 1.0, 0.5]]))
    assert found.tolist() == [[[[0.5, 1.0], [-1.0, 1.0]]]]


def test_activation_map_against_the_authors_loop() -> None:
    maps, weight, logits = draw(3, 5, 4, 4), draw(3, 5, seed=1) - 0.3, draw(3, 3, seed=2)
    for image, found in enumerate(activation_map(maps, weight, logits)):
        cam = np.zeros((4, 4))
        for channel in range(5):
            cam += weight[int(logits[image].argmax()), channel].item() * maps[image, channel].numpy()
        np.testing.assert_allclose(found[0], cam / np.maximum(cam, 0).max(), rtol=1e-5, atol=1e-6)


def test_a_map_with_nothing_positive_is_zero_and_not_infinite() -> None:
    found = activation_map(draw(1, 2, 3, 3), torch.full((3, 2), -1.0), torch.zeros(1, 3))
    assert torch.equal(found, torch.zeros(1, 1, 3, 3))


class ColumnTrunk(nn.Module):
    """An encoder whose only feature is the red channel."""

    channels = 1

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images[:, :1], 16)


def test_where_mask_cn_looked_in_the_cut_out_is_put_back_into_the_picture() -> None:
    network = MaskCN(ColumnTrunk(), 16, "crop", 0.0)
    with torch.no_grad():
        network.classifier.weight.fill_(1.0)
        images = torch.zeros(1, 3, 256, 256)
        images[:, 0, 32:64, 96:128] = 1.0  # red, inside the lesion
        _, activation = network(images, disc(0.25, 0.4, 0.15, 256) * 20 - 10)
    peak = divmod(int(activation[0, 0].argmax()), 16)
    assert peak[0] in (2, 3)
    assert peak[1] in (6, 7)
    assert activation[0, 0, 8:].abs().max() == 0  # below the cut-out


def test_pooling_over_the_lesion_is_the_mean_under_the_mask_beside_that_of_the_picture() -> None:
    """Red is 1 in the left half and 0 right of it; the lesion is the left half, or the right, or nowhere."""
    network = MaskCN(ColumnTrunk(), 16, "pool", 0.0)
    images = torch.zeros(1, 3, 64, 64)
    images[:, 0, :, :32] = 1.0
    left = torch.full((1, 1, 64, 64), -20.0)
    left[..., :32] = 20.0
    with torch.no_grad():
        network.classifier.bias.zero_()
        for column, lesion, expected in ((0, left, 0.5), (1, left, 1.0), (1, -left, 0.0), (1, left * 0 - 20, 0.5)):
            network.classifier.weight.zero_()
            network.classifier.weight[:, column] = 1.0
            assert network(images, lesion)[0][0, 0].item() == pytest.approx(expected, abs=0.002)
            assert network(images, lesion)[1].shape == (1, 1, 4, 4)


@pytest.mark.parametrize(("row", "column", "radius"), [(0.5, 0.5, 0.2), (0.4, 0.6, 0.25), (0.35, 0.5, 0.15)])
def test_the_region_is_the_dilated_extent_of_the_lesion(row: float, column: float, radius: float) -> None:
    region = region_of(disc(row, column, radius))
    side = DILATION * 2 * radius
    assert region.side.item() == pytest.approx(side, rel=0.03)
    assert region.top.item() == pytest.approx(row - side / 2, abs=0.01)
    assert region.left.item() == pytest.approx(column - side / 2, abs=0.01)


def test_a_region_stays_inside_the_picture_and_is_never_too_small() -> None:
    speck, corner, all_of_it = (
        region_of(disc(*where)) for where in ((0.5, 0.5, 0.03), (0.05, 0.95, 0.2), (0.5, 0.5, 0.9))
    )
    assert speck.side.item() == pytest.approx(SMALLEST)
    assert corner.top.item() == 0
    assert corner.left.item() + corner.side.item() == pytest.approx(1)
    assert (all_of_it.top.item(), all_of_it.left.item(), all_of_it.side.item()) == (0, 0, 1)


def test_without_a_lesion_the_region_is_the_whole_picture() -> None:
    assert [each.item() for each in region_of(torch.zeros(1, 1, 50, 50))] == [0, 0, 1]


def test_a_stray_pixel_hardly_moves_the_region() -> None:
    probability = disc(0.3, 0.3, 0.15)
    stray = probability.clone()
    stray[..., 97, 97] = 1
    for clean, disturbed in zip(region_of(probability), region_of(stray), strict=True):
        assert disturbed.item() == pytest.approx(clean.item(), abs=0.03)  # a bounding box would triple


def test_cutting_out_the_whole_picture_changes_nothing() -> None:
    images, whole = draw(2, 3, 40, 56), Region(torch.zeros(2), torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(cut_out(images, whole), images)
    torch.testing.assert_close(put_back(images, whole), images)


def test_a_cut_out_is_what_torch_s_own_resampling_makes_of_that_part() -> None:
    images, region = draw(1, 3, 64, 64), Region(torch.tensor([0.25]), torch.tensor([0.5]), torch.tensor([0.5]))
    rows = (0.25 + 0.5 * (torch.arange(64) + 0.5) / 64) * 2 - 1
    columns = (0.5 + 0.5 * (torch.arange(64) + 0.5) / 64) * 2 - 1
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1)[None]
    expected = nn.functional.grid_sample(images, grid, mode="bilinear", align_corners=False, padding_mode="border")
    torch.testing.assert_close(cut_out(images, region), expected)


def test_what_is_cut_out_and_put_back_lies_where_it_was() -> None:
    smooth = nn.functional.interpolate(draw(1, 1, 5, 5), size=(64, 64), mode="bicubic")
    region = Region(torch.tensor([0.25]), torch.tensor([0.125]), torch.tensor([0.5]))
    back = put_back(cut_out(smooth, region), region)
    inside = (slice(None), slice(None), slice(17, 47), slice(9, 39))
    torch.testing.assert_close(back[inside], smooth[inside], atol=0.02, rtol=0)
    outside = back.clone()
    outside[:, :, 16:48, 8:40] = 0
    assert outside.abs().max() == 0
