"""Recipes and models that come with the package.

A model is a checkpoint, and an ONNX graph that build-engine completes from it. `<model>.safetensors` holds the weights.
`<model>.skeleton` is the ONNX file with the bytes of its weights cut out. `<model>.skeleton.json` (GraphParts) names
for each of them the position and the tensors that it is computed from. So the weights are in the repository once, and
building an engine needs neither torch nor the onnx package. `python -m lesioncli.training.ship` writes all three files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lesioncli.errors import InputError
from lesioncli.files import ENGINES, PRETRAINED, atomic_write

SHIPPED_MODEL = "multitask-lite"
# Installed from a wheel, the recipes are inside the package; in a checkout, beside it.
SHIPPED_RECIPES = (Path(__file__).parent / "engines", Path(__file__).parents[1] / "engines")

Tensors = Mapping[str, NDArray[Any]]


class WeightRule(StrEnum):
    """How a weight of the graph is computed. The exporter folds each batch norm into the convolution before it."""

    COPY = "copy"
    FOLD_WEIGHT = "fold-weight"
    FOLD_BIAS = "fold-bias"


@dataclass(frozen=True)
class GraphWeight:
    """One weight of the graph; its bytes belong at `offset` of the skeleton.

    `tensor` is the checkpoint's name of the weight or bias, "" for the bias of a convolution without one. `norm` is the
    name of the batch norm that is folded in, `epsilon` its small constant.
    """

    offset: int
    rule: WeightRule
    tensor: str = ""
    norm: str = ""
    epsilon: float = 0.0


@dataclass(frozen=True)
class GraphParts:
    """How a skeleton becomes the ONNX file with this SHA-256. The weights are sorted by offset."""

    sha256: str
    weights: tuple[GraphWeight, ...]


def shipped_models() -> list[str]:
    """Names of the models whose graph comes with this install."""
    return sorted(path.stem for path in PRETRAINED.glob("*.skeleton"))


def list_recipes() -> dict[str, Path]:
    """Recipes by name, sorted; one in ./engines goes before one of the same name that comes with lesioncli."""
    folders = (*reversed(SHIPPED_RECIPES), ENGINES)
    recipes = {path.stem: path for folder in folders for path in folder.glob("*.toml")}
    return dict(sorted(recipes.items()))


def find_checkpoint(model: str) -> Path:
    """The checkpoint of a shipped model; InputError if this install has none."""
    name = f"{model}.safetensors"
    for path in (PRETRAINED / name, ENGINES / name):
        if path.is_file():
            return path
    raise InputError(
        f"{name} is not part of this install; copy it from lesioncli/{PRETRAINED.name}/ of the source repository to"
        f" {ENGINES}/{name}, then repeat the command"
    )


def find_model(name: str, source: str) -> Path:
    """The checkpoint of a shipped model, or the path of a file; InputError, which begins with `source`, if neither."""
    if name in shipped_models():
        return find_checkpoint(name)
    if Path(name).is_file():
        return Path(name)
    models = ", ".join(shipped_models())
    raise InputError(f"{source}: {name!r} is neither a shipped model ({models}) nor the path of a checkpoint")


def source_sha256(model: str) -> str:
    """SHA-256 of a shipped model's complete ONNX file, as the manifests of its engines name it."""
    return _read_parts(PRETRAINED / f"{model}.skeleton.json").sha256


def assemble_graph(model: str, folder: Path) -> Path:
    """Write a shipped model's complete ONNX file to `folder`; InputError if its checkpoint is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    checkpoint = find_checkpoint(model)
    parts = _read_parts(PRETRAINED / f"{model}.skeleton.json")
    skeleton = (PRETRAINED / f"{model}.skeleton").read_bytes()
    try:
        content = insert_weights(skeleton, parts, _widen(load_file(checkpoint)))
    except (SafetensorError, KeyError, OSError) as error:
        raise InputError(f"{checkpoint}: not a readable checkpoint of {model} ({error})") from error
    if sha256(content).hexdigest() != parts.sha256:
        raise InputError(f"{checkpoint}: damaged, or not the checkpoint that {model}.skeleton belongs to")
    path = folder / f"{model}.onnx"
    with atomic_write(path) as aside:
        aside.write_bytes(content)
    return path


def _widen(tensors: Tensors) -> Tensors:
    """The tensors with those that are stored in fp16 in fp32, as the graph has them."""
    return {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in tensors.items()}


def insert_weights(skeleton: bytes, parts: GraphParts, tensors: Tensors) -> bytes:
    """The complete ONNX file: the skeleton with the bytes of every weight at its offset."""
    pieces: list[bytes] = []
    position = 0
    for weight in parts.weights:
        pieces += [skeleton[position : weight.offset], compute_weight(weight, tensors).tobytes()]
        position = weight.offset
    return b"".join([*pieces, skeleton[position:]])


def compute_weight(weight: GraphWeight, tensors: Tensors) -> NDArray[Any]:
    """The values of a graph's weight, bit for bit as onnxscript's rule FuseBatchNormIntoConv computes them."""
    if weight.rule is WeightRule.COPY:
        return tensors[weight.tensor]
    scale = tensors[f"{weight.norm}.weight"] / np.sqrt(tensors[f"{weight.norm}.running_var"] + weight.epsilon)
    if weight.rule is WeightRule.FOLD_WEIGHT:
        kernel = tensors[weight.tensor]
        return kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    mean, shift = tensors[f"{weight.norm}.running_mean"], tensors[f"{weight.norm}.bias"]
    bias = tensors[weight.tensor] if weight.tensor else np.zeros_like(mean)
    return np.asarray((bias - mean) * scale + shift)


def _read_parts(path: Path) -> GraphParts:
    try:
        return msgspec.json.decode(path.read_bytes(), type=GraphParts)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path}: not readable, so this install is incomplete ({error}); install it again") from error
