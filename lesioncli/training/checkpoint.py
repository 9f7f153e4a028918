"""Read and write checkpoints: one .safetensors file with the weights and their ModelSpec."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.models.network import Network
from lesioncli.models.registry import find_network
from lesioncli.spec import METADATA_KEY, ModelSpec

Weights = Mapping[str, Tensor]


def make_network(spec: ModelSpec) -> Network:
    """Make the network of a ModelSpec with random weights; InputError if its network or options do not exist."""
    make = find_network(spec.network).make
    try:
        return make(**spec.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model {spec.name!r}: cannot make network {spec.network!r}: {error}") from error


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec) -> None:
    """Write weights and ModelSpec; the file is renamed to its name when it is complete."""
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: spec.to_json()})


def load_checkpoint(path: Path) -> tuple[Network, ModelSpec]:
    """Read a .safetensors or .pt file; returns the network in eval mode, and its ModelSpec.

    Raises InputError if the file cannot be read, or its weights are not those of the network that it describes.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)
    spec = _parse_spec(content.spec, path)
    try:
        network = make_network(spec)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    missing, unexpected = _compare_names(network.state_dict(), content.weights)
    if missing or unexpected:
        raise InputError(
            f"{path}: the weights are not those of {spec.name}: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    network.load_state_dict(content.weights)
    return network.eval(), spec


def read_weights(path: Path) -> Weights:
    """Read a file with a state dict alone, .safetensors or torch's own, such as weights of timm or torchvision."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path).weights
    return _check_weights(_load_pt(path), path)


@dataclass(frozen=True)
class _Content:
    """Weights by name, and the JSON text of their ModelSpec if the file has one."""

    weights: Weights
    spec: object


def _compare_names(expected: Weights, actual: Weights) -> tuple[list[str], list[str]]:
    """Names that are missing, and names that are unexpected or have another shape."""
    other_shape = [key for key in expected.keys() & actual.keys() if expected[key].shape != actual[key].shape]
    return sorted(expected.keys() - actual.keys()), sorted([*(actual.keys() - expected.keys()), *other_shape])


def _read_safetensors(path: Path) -> _Content:
    try:
        with safe_open(path, framework="pt") as file:
            spec = (file.metadata() or {}).get(METADATA_KEY)
            return _Content({key: file.get_tensor(key) for key in list(file.keys())}, spec)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def _read_pt(path: Path) -> _Content:
    """A .pt file holds {"spec": JSON text, "weights": state dict}."""
    content = _load_pt(path)
    if not isinstance(content, dict) or "weights" not in content:
        raise InputError(f"{path}: not a checkpoint of lesioncli, which holds 'spec' and 'weights'")
    return _Content(_check_weights(content["weights"], path), content.get("spec"))


def _load_pt(path: Path) -> Any:
    """Load a file of torch; `weights_only` refuses pickled code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        # torch.load has no error class of its own, and its messages advise to switch weights_only off.
        raise InputError(f"{path}: damaged, or holds Python objects other than weights; it was not loaded") from error


def _check_weights(weights: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: not a state dict, which holds tensors by name and nothing else")
    return weights


def _parse_spec(text: object, path: Path) -> ModelSpec:
    if not isinstance(text, str):
        raise InputError(f"{path}: carries no ModelSpec; train it with lesioncli, or save it with save_checkpoint()")
    return ModelSpec.from_json(text, path)
