"""Trained weights in and out: one .safetensors file that carries its own ModelSpec."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lesioncli.errors import InputError
from lesioncli.files import atomic_write
from lesioncli.models.mbdcnn import MBDCNN
from lesioncli.models.multitask import Multitask
from lesioncli.spec import METADATA_KEY, ModelSpec

NETWORKS: dict[str, type[nn.Module]] = {"multitask": Multitask, "mbdcnn": MBDCNN}


def make_network(spec: ModelSpec) -> nn.Module:
    """The network that a ModelSpec describes, with fresh weights; InputError where it describes none."""
    try:
        return NETWORKS[spec.network](**spec.options)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model {spec.name!r}: network {spec.network!r} cannot be made: {error}") from error


def save_checkpoint(path: Path, network: nn.Module, spec: ModelSpec) -> None:
    """Write weights and spec aside, then rename: a reader never meets half a file."""
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    with atomic_write(path) as aside:
        save_file(tensors, aside, metadata={METADATA_KEY: spec.to_json()})


def load_checkpoint(path: Path) -> tuple[nn.Module, ModelSpec]:
    """Read a .safetensors file, or a .pt file with weights_only; the network comes back in eval mode."""
    tensors, spec_json = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pt(path)
    spec = _spec_or_error(spec_json, path)
    try:
        network = make_network(spec)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    missing, strange = _difference(network.state_dict(), tensors)
    if missing or strange:
        raise InputError(f"{path}: not the weights of {spec.name}: missing {missing[:3]}, unexpected {strange[:3]}")
    network.load_state_dict(tensors)
    return network.eval(), spec


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file that holds a state dict and nothing else, .safetensors or torch's own: timm's or torchvision's weights."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)[0]
    return _checked_weights(_load_pt(path), path)


def _difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    wrong_shape = [key for key in expected.keys() & found.keys() if expected[key].shape != found[key].shape]
    return sorted(expected.keys() - found.keys()), sorted([*(found.keys() - expected.keys()), *wrong_shape])


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors, and the JSON text of their ModelSpec if they carry one."""
    try:
        with safe_open(path, framework="pt") as file:
            spec_json = (file.metadata() or {}).get(METADATA_KEY)
            return {key: file.get_tensor(key) for key in file.keys()}, spec_json  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error


def _read_pt(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """A .pt file holds {"spec": JSON text, "weights": state dict}."""
    content = _load_pt(path)
    if not isinstance(content, dict) or "weights" not in content:
        raise InputError(f"{path}: not a checkpoint of lesioncli, which holds 'spec' and 'weights'")
    return _checked_weights(content["weights"], path), content.get("spec")


def _load_pt(path: Path) -> Any:
    """What torch saved; weights_only keeps pickled code out."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:
        # torch.load has no error class of its own, and its messages advise to switch the protection off.
        raise InputError(f"{path}: damaged, or holds other Python objects than weights; it was not loaded") from error


def _checked_weights(weights: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(weights, dict) or not all(isinstance(each, Tensor) for each in weights.values()):
        raise InputError(f"{path}: not a state dict, which holds tensors by name and nothing else")
    return weights


def _spec_or_error(text: object, path: Path) -> ModelSpec:
    if not isinstance(text, str):
        raise InputError(f"{path}: carries no ModelSpec; train it with lesioncli, or save it with save_checkpoint()")
    return ModelSpec.from_json(text, path)
