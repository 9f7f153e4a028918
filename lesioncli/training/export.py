"""A trained network as ONE ONNX graph by the graph contract.

Input  image  uint8 (N, H, W, 3), RGB.
Output mask   uint8 (N, H, W), lesion probability x 255; scores float32 (N, K), in the order of spec.classes; of a
       cascade also agreement float32 (N,), the Jaccard of its two masks.
Normalisation, sigmoid and rounding are inside. The first node is a Cast and so is the last before `mask`, since
TensorRT takes nothing else on uint8. N is dynamic, and so are H and W, as multiples of 32. Scores are nan where the
mask is not a number, which its bytes cannot say.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from lesioncli.backends.base import Outputs
from lesioncli.files import atomic_write
from lesioncli.images.geometry import UInt8
from lesioncli.models.mbdcnn import MBDCNN
from lesioncli.models.multitask import Multitask
from lesioncli.spec import METADATA_KEY, ModelSpec
from lesioncli.training.checkpoint import load_checkpoint


class MultitaskGraph(nn.Module):
    """Multitask, wrapped in the graph contract: pixels in, pixels and scores out."""

    outputs = ("mask", "scores")

    def __init__(self, network: Multitask) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        mask_logits, class_logits = self.network(_rgb(image))
        return _answers(mask_logits.sigmoid(), self.network.class_probabilities(class_logits))


class CascadeGraph(nn.Module):
    """The whole cascade as one graph; how far coarse and enhanced mask agree comes out beside them."""

    outputs = ("mask", "scores", "agreement")

    def __init__(self, network: MBDCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        cascade = self.network(_rgb(image))
        scores = self.network.class_probabilities(cascade.class_logits)
        answers = _answers(cascade.mask_logits.sigmoid(), scores)
        return *answers, agreement(cascade.coarse_logits, cascade.enhanced_logits)


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Jaccard (N,) of the masks that two maps of logits (N, 1, H, W) stand for; two empty masks agree fully."""
    a, b = (first > 0).float(), (second > 0).float()
    both = (a * b).sum((1, 2, 3))
    either = (a + b).sum((1, 2, 3)) - both
    return (both + (either == 0)) / either.clamp(min=1)


def _rgb(image: Tensor) -> Tensor:
    return image.float().permute(0, 3, 1, 2) * (1 / 255)  # no division, for the same reason as in signed()


def _answers(lesion: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Lesion probability (N, 1, H, W) as bytes (N, H, W), and scores (N, K): nan where the probability has a nan.

    A byte cannot be nan: such a mask would pass for one of a picture without a lesion, and the surest of all.
    """
    pixels = torch.round(lesion.squeeze(1) * 255).to(torch.uint8)
    has_nan = lesion.mean((1, 2, 3)).isnan()  # a comparison with nan would not do: OpenVINO's is true
    return pixels, torch.where(has_nan[:, None], torch.full_like(scores, torch.nan), scores)


def graph_of(network: nn.Module) -> MultitaskGraph | CascadeGraph:
    """A network in eval mode, wrapped in the graph contract."""
    network.eval()
    return CascadeGraph(network) if isinstance(network, MBDCNN) else MultitaskGraph(cast(Multitask, network))


def export_checkpoint(path: Path, onnx: Path) -> Callable[[Sequence[UInt8]], Outputs]:
    """Export a checkpoint; returns torch's own answers in fp32, which an engine built of the graph is gated against.

    The answers are for network-sized pictures (H, W, 3): probability (N, H, W) in 1/255 and scores (N, K).
    """
    network, spec = load_checkpoint(path)
    export_onnx(network, spec, onnx)
    graph = graph_of(network)

    @torch.inference_mode()
    def answers(pictures: Sequence[UInt8]) -> Outputs:
        mask, scores, *_ = graph(torch.from_numpy(np.stack(pictures)))
        return Outputs(mask.numpy(), scores.numpy())

    return answers


def export_onnx(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the graph with its ModelSpec inside; written aside, checked, then renamed."""
    graph = graph_of(network)
    example = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=["image"],
            output_names=list(graph.outputs),
            dynamo=True,
            dynamic_shapes={"image": {0: Dim("n", min=1), 1: 32 * Dim("h", min=1), 2: 32 * Dim("w", min=1)}},
            optimize=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - None only without dynamo
    model = program.model_proto
    for node in model.graph.node:  # the exporter notes source lines there, with the paths of this machine
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    _leave_bytes_to_the_cast(model.graph)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    with atomic_write(path) as aside:
        onnx.save(model, aside, format="protobuf")


def _leave_bytes_to_the_cast(graph: onnx.GraphProto) -> None:
    """Make the first Cast the only node that reads the bytes: the exporter takes height and width from them as well."""
    (cast_node,) = (node for node in graph.node if node.op_type == "Cast" and "image" in node.input)
    first = onnx.NodeProto()
    first.CopyFrom(cast_node)
    graph.node.remove(cast_node)
    graph.node.insert(0, first)
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == "image":
            node.input[0] = first.output[0]
