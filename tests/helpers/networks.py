"""Networks with weights that are worth looking through: fresh ones fade to a constant in the depth."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def lively(
    network: nn.Module, variance: tuple[float, float] = (0.5, 2.0), gain: tuple[float, float] = (0.5, 1.5)
) -> nn.Module:
    """Weights that keep the signal's variance and norms that are not the identity, within these bounds; eval mode."""
    generator = torch.Generator().manual_seed(2)
    for each in network.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, generator=generator)
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean = torch.empty(each.num_features).normal_(0, 0.2, generator=generator)
            each.running_var = torch.empty(each.num_features).uniform_(*variance, generator=generator)
            nn.init.uniform_(each.weight, *gain, generator=generator)
            nn.init.normal_(each.bias, 0, 0.2, generator=generator)
    return network.eval()


def awake(network: Network) -> Network:
    """A fresh network whose norms do not let its maps die out; eval mode."""
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.constant_(each.get_buffer("running_var"), 0.3)
    return network.eval()
