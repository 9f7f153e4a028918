"""What is trained after what: one table of stages, whatever the network.

A stage trains one part of a network. The parts before it are frozen and run on the fly; those after it wait.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.training.checkpoint import load_checkpoint


class Outputs(NamedTuple):
    """What a stage's part says of a batch: lesion logits (N, 1, H, W), class logits (N, K); None where it is silent."""

    mask_logits: Tensor | None
    class_logits: Tensor | None


@dataclass(frozen=True)
class Stage:
    """`part` is the submodule that is trained, "" the whole network; `follows` the one whose weights it starts from.

    `run` is the network's way to this stage's outputs, for RGB in [0, 1] (N, 3, H, W).
    """

    name: str
    part: str
    run: Callable[[Any, Tensor], Outputs]
    follows: str = ""


def _joint(network: Any, images: Tensor) -> Outputs:
    return Outputs(*network(images))


def _coarse(network: Any, images: Tensor) -> Outputs:
    return Outputs(network.coarse_sn(images), None)


def _classes(network: Any, images: Tensor) -> Outputs:
    with torch.no_grad():
        coarse = network.coarse_sn(images)
    return Outputs(None, network.mask_cn(images, coarse)[0])


def _enhanced(network: Any, images: Tensor) -> Outputs:
    with torch.no_grad():
        coarse = network.coarse_sn(images)
        _, activation = network.mask_cn(images, coarse)
    return Outputs(network.enhance(images, activation), None)


# By ModelSpec.network, in the order in which they are trained.
STAGES: dict[str, tuple[Stage, ...]] = {
    "multitask": (Stage("joint", "", _joint),),
    "mbdcnn": (
        Stage("coarse-sn", "coarse_sn", _coarse),
        Stage("mask-cn", "mask_cn", _classes),
        Stage("enhanced-sn", "enhanced_sn", _enhanced, follows="coarse_sn"),
    ),
}


def find_stage(network: str, name: str) -> Stage:
    """A network's stage of that name; InputError names those it has."""
    for stage in STAGES[network]:
        if stage.name == name:
            return stage
    raise InputError(f"{network} has no stage {name!r}; it has {', '.join(each.name for each in STAGES[network])}")


class StageNetwork(nn.Module):
    """A network as one stage sees it: only the stage's part learns, drops out and counts its batches."""

    def __init__(self, network: nn.Module, stage: Stage) -> None:
        super().__init__()
        self.network = network
        self.stage = stage
        network.requires_grad_(False)
        self.part.requires_grad_(True)

    @property
    def part(self) -> nn.Module:
        return self.network.get_submodule(self.stage.part)

    def train(self, mode: bool = True) -> Self:
        super().train(False)
        self.part.train(mode)
        return self

    def forward(self, images: Tensor) -> Outputs:
        return self.stage.run(self.network, images)

    def class_probabilities(self, class_logits: Tensor) -> Tensor:
        return cast(Tensor, cast(Any, self.network).class_probabilities(class_logits))

    def with_part(self, part: nn.Module) -> "StageNetwork":
        """The same, with another module in the part's place, in eval mode; the frozen parts are shared."""
        if not self.stage.part:
            return StageNetwork(part, self.stage).eval()
        other = _shallow_copy(self.network)
        setattr(other, self.stage.part, part)
        return StageNetwork(other, self.stage).eval()


def take_over(network: nn.Module, stage: Stage) -> list[str]:
    """Give the stage's part the weights of the part it follows; returns the names that start fresh.

    They must be the layers that only this part has: anything else would be a mistake that training could hide.
    """
    if not stage.follows:
        return []
    source, part = network.get_submodule(stage.follows), network.get_submodule(stage.part)
    result = part.load_state_dict(source.state_dict(), strict=False)
    fresh = cast(list[str], result.missing_keys)
    if result.unexpected_keys or not all(key.startswith("map_merge.") for key in fresh):
        raise InputError(f"{stage.name} cannot start from {stage.follows}: the networks differ by more than the map")
    return fresh


def take_parts(network: nn.Module, stage: Stage, kind: str, path: Path) -> set[str]:
    """Give a network the parts of a checkpoint that are like its own; those that the stage builds on must be.

    Returns the stages whose parts were taken.

    So an experiment with one part can start from where the others have come to. InputError names the part.
    """
    found, spec = load_checkpoint(path)
    if spec.network != kind:
        raise InputError(f"{path}: holds a {spec.network}, not a {kind}")
    before, taken = True, set()
    for each in STAGES[kind]:
        before = before and each != stage
        own, weights = network.get_submodule(each.part), found.get_submodule(each.part).state_dict()
        if {key: value.shape for key, value in own.state_dict().items()} == {k: v.shape for k, v in weights.items()}:
            own.load_state_dict(weights)
            taken.add(each.name)
        elif before:
            raise InputError(f"{path}: its {each.part} is another network than the recipe's; see [model] there")
    return taken


def _shallow_copy(network: nn.Module) -> nn.Module:
    other = network.__class__.__new__(network.__class__)
    other.__dict__.update(network.__dict__)
    other._modules = dict(network._modules)
    return other
