"""Networks with random weights whose outputs vary: with initial weights, signals fade to a constant in deep layers."""

from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from lesioncli.models import encoders, mbdcnn

Network = TypeVar("Network", bound=nn.Module)


def lively(
    network: Network, variance: tuple[float, float] = (0.5, 2.0), gain: tuple[float, float] = (0.5, 1.5)
) -> Network:
    """Set weights that keep the variance of the signal, and norms within these bounds; eval mode."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.empty(module.num_features).normal_(0, 0.2, generator=generator)
            module.running_var = torch.empty(module.num_features).uniform_(*variance, generator=generator)
            nn.init.uniform_(module.weight, *gain, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return network.eval()


def awake(network: Network) -> Network:
    """Set variances of norms so that feature maps do not fade; eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.get_buffer("running_var"), 0.3)
    return network.eval()


class TinyEncoder(nn.Sequential):
    """Five small convolutions of stride 2, in place of an encoder whose training step takes a hundred times as long."""

    channels = (8, 8, 16, 16, 32)

    def __init__(self, channels_in: int = 3) -> None:
        widths = (channels_in, *self.channels)
        super().__init__(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
                for before, after in pairwise(widths)
            )
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for stage in self:
            x = stage(x)
            features.append(x)
        return features


class TinySegmentationEncoder(nn.Module):
    """Maps at output stride 4 and 16 for the cascade."""

    low_channels = 8
    deep_channels = 16

    def __init__(self) -> None:
        super().__init__()
        self.body = TinyEncoder()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, low, _, deep, _ = self.body(images)
        return low, deep


class TinyClassificationEncoder(nn.Module):
    """Maps at output stride 32 for the cascade."""

    channels = 32

    def __init__(self, channels_in: int) -> None:
        super().__init__()
        self.body = TinyEncoder(channels_in)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        deepest: torch.Tensor = self.body(images)[-1]
        return deepest


def register_tiny_encoders() -> None:
    """Add the encoder "tiny" to both tables of encoders."""
    encoders.ENCODERS["tiny"] = lambda drop_path: TinyEncoder()
    mbdcnn.ENCODERS["tiny"] = mbdcnn.CascadeEncoders(
        lambda drop_path: TinySegmentationEncoder(),
        lambda channels_in, drop_path: TinyClassificationEncoder(channels_in),
        32,
        True,
    )


def unregister_tiny_encoders() -> None:
    del encoders.ENCODERS["tiny"], mbdcnn.ENCODERS["tiny"]
