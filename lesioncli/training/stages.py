"""A network as one training stage sees it, and the weights that a stage starts from."""

from pathlib import Path
from typing import Self, cast

from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.models.network import Network, Stage, StageOutput
from lesioncli.models.registry import find_network
from lesioncli.training.checkpoint import load_checkpoint


class StageNetwork(nn.Module):
    """A network of which only the stage's part has gradients, dropout and running batch statistics."""

    def __init__(self, network: Network, stage: Stage) -> None:
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

    def forward(self, images: Tensor) -> StageOutput:
        """RGB in [0, 1], (N, 3, H, W)."""
        return self.stage.run(self.network, images)

    def class_probabilities(self, class_logits: Tensor) -> Tensor:
        """Class logits (N, K) -> probabilities (N, 3)."""
        return self.network.class_probabilities(class_logits)

    def with_part(self, part: nn.Module) -> "StageNetwork":
        """The same network with another module as the stage's part, in eval mode; frozen parts are shared."""
        if not self.stage.part:
            return StageNetwork(cast(Network, part), self.stage).eval()
        other = _shallow_copy(self.network)
        setattr(other, self.stage.part, part)
        return StageNetwork(other, self.stage).eval()


def copy_earlier_part(network: nn.Module, stage: Stage) -> list[str]:
    """Give the stage's part the weights of the part that it starts from; returns the names of its new tensors.

    Raises InputError if the parts differ by more than the stage's new layers.
    """
    source, part = network.get_submodule(stage.starts_from), network.get_submodule(stage.part)
    result = part.load_state_dict(source.state_dict(), strict=False)
    new_names = cast(list[str], result.missing_keys)
    if result.unexpected_keys or not all(name.startswith(stage.new_layers) for name in new_names):
        raise InputError(
            f"{stage.name} cannot start from {stage.starts_from}: they differ by more than {stage.new_layers}"
        )
    return new_names


def load_parts(network: nn.Module, stage: Stage, kind: str, path: Path) -> set[str]:
    """Give a network the parts of a checkpoint that have the same shape; returns the names of their stages.

    Parts of stages before `stage` must fit, since it builds on them; InputError names one that does not.
    """
    loaded, spec = load_checkpoint(path)
    if spec.network != kind:
        raise InputError(f"{path}: holds network {spec.network}, the recipe needs {kind}")
    stages = find_network(kind).stages
    required = stages[: stages.index(stage)]
    loaded_stages = set()
    for other in stages:
        own, weights = network.get_submodule(other.part), loaded.get_submodule(other.part).state_dict()
        shapes = {key: value.shape for key, value in own.state_dict().items()}
        if shapes == {key: value.shape for key, value in weights.items()}:
            own.load_state_dict(weights)
            loaded_stages.add(other.name)
        elif other in required:
            raise InputError(f"{path}: its {other.part} is not that of the recipe; see [model] there")
    return loaded_stages


def _shallow_copy(network: Network) -> Network:
    other = network.__class__.__new__(network.__class__)
    other.__dict__.update(network.__dict__)
    other._modules = dict(network._modules)
    return other
