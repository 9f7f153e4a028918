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

WEIGHT_KEYS = ("weights", "state_dict", "model")  # of a dictionary in a file of torch; the first is lesioncli's
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def make_network(spec: ModelSpec) -> Network:
    """Make the network of a ModelSpec with random weights; InputError if its network or options do not exist."""
    make = find_network(spec.network).make
    try:
        return make(**spec.options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model {spec.name!r}: cannot make network {spec.network!r}: {error}") from error


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec, half: bool = False) -> None:
    """Write weights and ModelSpec; the file is renamed to its name when it is complete.

    With `half`, kernels and matrices are stored in fp16, which halves the file. Vectors, such as the running variances
    of batch norms, have too wide a range for that.
    """
    tensors = {
        key: (value.half() if half and value.ndim > 1 else value).contiguous()
        for key, value in network.state_dict().items()
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={METADATA_KEY: spec.to_json()})


@dataclass(frozen=True)
class Checkpoint:
    """A network in eval mode, its ModelSpec, and a note on what was unwrapped, usually empty."""

    network: Network
    spec: ModelSpec
    note: str = ""


def load_checkpoint(path: Path) -> tuple[Network, ModelSpec]:
    """Read a file as open_checkpoint() does; returns the network in eval mode, and its ModelSpec."""
    checkpoint = open_checkpoint(path)
    return checkpoint.network, checkpoint.spec


def open_checkpoint(path: Path, default_spec: ModelSpec | None = None) -> Checkpoint:
    """Read a .safetensors file, or one of torch: .pt, .pth and others. One without a ModelSpec has the default.

    Weights under `state_dict` or `model`, and with the prefixes of DistributedDataParallel and torch.compile, are
    unwrapped. Raises InputError if the file cannot be read, or its weights are not those of the network that it
    describes.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)
    content = _without_prefixes(content)
    spec = default_spec if content.spec is None and default_spec else _parse_spec(content.spec, path)
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
    return Checkpoint(network.eval(), spec, ", ".join(content.notes))


def read_weights(path: Path) -> Weights:
    """Read a file with a state dict alone, .safetensors or torch's own, such as weights of timm or torchvision."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path).weights
    return _check_weights(_load_pt(path), path)


@dataclass(frozen=True)
class _Content:
    """Weights by name, the JSON text of their ModelSpec if the file has one, and what was unwrapped."""

    weights: Weights
    spec: object
    notes: tuple[str, ...] = ()


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
    """A file of torch holds {"spec": JSON text, "weights": state dict}, or a state dict, alone or under another key."""
    content = _load_pt(path)
    key = next((key for key in WEIGHT_KEYS if isinstance(content, dict) and isinstance(content.get(key), dict)), "")
    if not key:
        return _Content(_check_weights(content, path), None)
    notes = () if key == WEIGHT_KEYS[0] else (f"weights under {key!r}",)
    return _Content(_check_weights(content[key], path), content.get("spec"), notes)


def _without_prefixes(content: _Content) -> _Content:
    """The content without prefixes that all its names have."""
    weights, notes = content.weights, content.notes
    while prefix := next((prefix for prefix in PREFIXES if weights and all(n.startswith(prefix) for n in weights)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
        notes = (*notes, f"names without {prefix!r}")
    return _Content(weights, content.spec, notes)


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
