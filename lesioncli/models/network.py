"""What training, export and teachers need to know about a network; models/registry.py lists the networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class NetworkOutput(Protocol):
    """Lesion logits (N, 1, H, W) and class logits (N, K)."""

    @property
    def mask_logits(self) -> Tensor: ...
    @property
    def class_logits(self) -> Tensor: ...


class Network(nn.Module, ABC):
    """Base of the networks. forward() takes RGB images in [0, 1], (N, 3, H, W), and returns a NetworkOutput."""

    @staticmethod
    @abstractmethod
    def class_probabilities(class_logits: Tensor) -> Tensor:
        """Class logits (N, K) -> probabilities (N, 3) in the order of spec.CLASSES."""


class Target(StrEnum):
    """What a stage learns from, as messages name it."""

    MASKS = "masks"
    LABELS = "labels"


class StageOutput(NamedTuple):
    """Outputs that a training stage has losses for: lesion logits (N, 1, H, W), class logits (N, K), or None.

    `auxiliary_logits` (N, D) are those of a head that is trained along and belongs to no network.
    """

    mask_logits: Tensor | None
    class_logits: Tensor | None
    auxiliary_logits: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """One step of training. `part` is the submodule that is trained, "" for the whole network.

    `run` computes the stage's outputs from the network and images (N, 3, H, W) in [0, 1]. A stage may start from the
    weights of another part, `starts_from`; tensors whose names begin with one of `new_layers` are not in that part.
    `targets` says for which outputs of `run` there is a loss.
    """

    name: str
    part: str
    run: Callable[[Any, Tensor], StageOutput]
    starts_from: str = ""
    new_layers: tuple[str, ...] = ()
    targets: tuple[Target, ...] = tuple(Target)


@dataclass(frozen=True)
class NetworkType:
    """An entry of the registry. `make` takes ModelSpec.options; the stages are in the order in which they are trained.

    `columns` are further outputs of the exported graph, each (N,) float32, computed from what forward() returns.
    """

    make: Callable[..., Network]
    stages: tuple[Stage, ...]
    columns: Mapping[str, Callable[[Any], Tensor]] = field(default_factory=dict)
