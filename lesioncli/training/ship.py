"""Turn a checkpoint into the files of a shipped model: `python -m lesioncli.training.ship best.safetensors`.

Exports the ONNX graph, cuts the weights out of it and writes the table that lesioncli/shipped.py computes them by. The
graph completed from these files is compared with the exported one, byte for byte, before anything is written.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import onnx
from torch import nn

from lesioncli.calibration import Calibration, read_calibration
from lesioncli.errors import InputError, LesionError
from lesioncli.files import PRETRAINED, atomic_write
from lesioncli.shipped import GraphParts, GraphWeight, Tensors, WeightRule, compute_weight, insert_weights
from lesioncli.training.checkpoint import load_checkpoint, save_checkpoint
from lesioncli.training.export import export_onnx

MAX_CONSTANT_BYTES = 1024  # what is larger is a trained weight and must not stay in the skeleton
PREFIX = "network."  # of the exported names: the graph contract wraps the network


def ship(
    checkpoint: Path, folder: Path = PRETRAINED, calibration: Calibration | None = None, half: bool = False
) -> Path:
    """Write checkpoint, skeleton and table of a model to `folder`, under the model's name; returns the skeleton.

    With a `calibration`, it replaces that of the checkpoint in all files written. With `half`, kernels and matrices are
    rounded to fp16 and stored so; the graph has the rounded values, in fp32.

    Raises InputError for a checkpoint that cannot be read, or whose exported graph holds a weight that no rule computes
    from the checkpoint, and for a calibration of classes that the model does not have.
    """
    network, spec = load_checkpoint(checkpoint)
    if calibration:
        try:
            spec = replace(spec, calibration=calibration)
        except ValueError as error:
            raise InputError(f"{checkpoint}: {error}") from error
    if half:
        _round_to_half(network)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "graph.onnx"
        export_onnx(network, spec, path)
        content = path.read_bytes()
    norms = {name: module.eps for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    skeleton, parts = split_graph(content, tensors, norms)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{spec.name}.skeleton"
    with atomic_write(target) as aside:
        aside.write_bytes(skeleton)
    with atomic_write(target.with_suffix(".skeleton.json")) as aside:
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(parts), indent=1) + b"\n")
    copy = folder / f"{spec.name}.safetensors"
    if calibration or half:
        save_checkpoint(copy, network, spec, half)
    elif copy.resolve() != checkpoint.resolve():
        with atomic_write(copy) as aside:
            shutil.copyfile(checkpoint, aside)
    return target


def _round_to_half(network: nn.Module) -> None:
    """Round what save_checkpoint() stores in fp16."""
    for value in network.state_dict().values():
        if value.ndim > 1:
            value.copy_(value.half())


def split_graph(content: bytes, tensors: Tensors, norms: Mapping[str, float]) -> tuple[bytes, GraphParts]:
    """Cut the weights out of an ONNX file; returns the skeleton and the table that completes it.

    `norms` maps the name of each batch norm to its epsilon.
    """
    pieces: list[bytes] = []
    weights: list[GraphWeight] = []
    position = cut_bytes = 0
    for initializer in onnx.load_from_string(content).graph.initializer:
        values = initializer.raw_data
        weight = _find_rule(initializer.name.removeprefix(PREFIX), values, tensors, norms)
        if weight is None and len(values) > MAX_CONSTANT_BYTES:
            raise InputError(f"{initializer.name}: no rule computes this weight of the graph from the checkpoint")
        if weight is None:
            continue
        start = content.index(values, position)
        pieces.append(content[position:start])
        weights.append(replace(weight, offset=start - cut_bytes))
        position, cut_bytes = start + len(values), cut_bytes + len(values)
    skeleton = b"".join([*pieces, content[position:]])
    parts = GraphParts(sha256(content).hexdigest(), tuple(weights))
    if insert_weights(skeleton, parts, tensors) != content:
        raise InputError("the graph completed from its skeleton differs from the exported one")
    return skeleton, parts


def _find_rule(name: str, values: bytes, tensors: Tensors, norms: Mapping[str, float]) -> GraphWeight | None:
    """The rule that computes these bytes, if any; its offset is not known yet."""
    for weight in _possible_rules(name, len(values), tensors, norms):
        if compute_weight(weight, tensors).tobytes() == values:
            return weight
    return None


def _possible_rules(name: str, size_bytes: int, tensors: Tensors, norms: Mapping[str, float]) -> Iterator[GraphWeight]:
    """Rules that could compute the initializer of this name: which norm was folded in is not part of it."""
    tensor = name if name in tensors else ""  # a convolution without bias gets one of a new name
    is_kernel = bool(tensor) and tensors[tensor].ndim > 1
    if tensor:
        yield GraphWeight(0, WeightRule.COPY, tensor)
    for norm, epsilon in norms.items():
        gain = tensors[f"{norm}.weight"]
        if is_kernel and gain.size == tensors[tensor].shape[0]:
            yield GraphWeight(0, WeightRule.FOLD_WEIGHT, tensor, norm, epsilon)
        elif not is_kernel and gain.nbytes == size_bytes:
            yield GraphWeight(0, WeightRule.FOLD_BIAS, tensor, norm, epsilon)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lesioncli.training.ship", description=ship.__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file that `lesioncli train` wrote")
    parser.add_argument("--out", type=Path, default=PRETRAINED, help="folder of the shipped models")
    parser.add_argument("--calibration", type=Path, help="a file that `lesioncli calibrate --export` wrote")
    parser.add_argument("--half", action="store_true", help="round the weights to fp16 and store them so")
    options = parser.parse_args()
    try:
        calibration = read_calibration(options.calibration) if options.calibration else None
        print(ship(options.checkpoint, options.out, calibration, options.half))
    except LesionError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
