"""A network as one training stage sees it, and the weights that a stage starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.models.network import Network, Stage, StageOutput
from lesioncli.models.registry import find_network
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import open_checkpoint


class StageNetwork(nn.Module):
    """A network of which only the stage's part has gradients, dropout and running batch statistics."""

    def __init__(self, network: Network, stage: Stage) -> None:
        super().__init__()
        self.network = network
        self.auxiliary: nn.Module | None = None
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
        if self.auxiliary is None:
            return self.stage.run(self.network, images)
        encoded: list[Any] = []
        encoder = self.part.get_submodule("encoder")
        hook = encoder.register_forward_hook(lambda module, inputs, output: encoded.append(output))
        try:
            output = self.stage.run(self.network, images)
        finally:
            hook.remove()
        maps = encoded[-1]
        deepest: Tensor = maps[-1] if isinstance(maps, list | tuple) else maps
        return output._replace(auxiliary_logits=self.auxiliary(deepest.mean((2, 3))))

    def add_auxiliary_head(self, classes: int, height: int, width: int) -> None:
        """Add a linear classifier of the mean of the encoder's deepest maps; no checkpoint holds it."""
        self.auxiliary = nn.LazyLinear(classes)
        self.eval()
        with torch.no_grad():
            self(torch.zeros(1, 3, height, width))  # gives the layer its shape

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


@dataclass(frozen=True)
class LoadedParts:
    """Names of the stages whose parts were taken from a checkpoint, and a line that says so."""

    stages: tuple[str, ...]
    note: str


def load_parts(network: nn.Module, stage: Stage, spec: ModelSpec, path: Path) -> LoadedParts:
    """Give a network of this ModelSpec the parts of a checkpoint that have the same shape.

    Parts of stages before `stage` must fit, since it builds on them; InputError names one that does not.
    """
    checkpoint = open_checkpoint(path, spec)
    if checkpoint.spec.network != spec.network:
        raise InputError(f"{path}: holds network {checkpoint.spec.network}, the recipe needs {spec.network}")
    stages = find_network(spec.network).stages
    required = stages[: stages.index(stage)]
    loaded_stages = []
    for other in stages:
        own, weights = network.get_submodule(other.part), checkpoint.network.get_submodule(other.part).state_dict()
        shapes = {key: value.shape for key, value in own.state_dict().items()}
        if shapes == {key: value.shape for key, value in weights.items()}:
            own.load_state_dict(weights)
            loaded_stages.append(other.name)
        elif other in required:
            raise InputError(f"{path}: its {other.part} is not that of the recipe; see [model] there")
    source = f"{path} ({checkpoint.spec.name}, {checkpoint.spec.height}x{checkpoint.spec.width} pixels)"
    loaded = f"loaded {', '.join(loaded_stages) or 'nothing: all parts have other shapes'} from {source}"
    return LoadedParts(tuple(loaded_stages), "; ".join(filter(None, (loaded, checkpoint.note))))


def _shallow_copy(network: Network) -> Network:
    other = network.__class__.__new__(network.__class__)
    other.__dict__.update(network.__dict__)
    other._modules = dict(network._modules)
    return other
