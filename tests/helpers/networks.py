"""Networks with random weights whose outputs vary: with initial weights, signals fade to a constant in deep layers."""

from typing import TypeVar

import torch
from torch import nn

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
