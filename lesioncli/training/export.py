"""Export a trained network as one ONNX graph that fulfils the graph contract.

Input: `image`, uint8 (N, H, W, 3), RGB.
Outputs: `mask`, uint8 (N, H, W), lesion probability x 255; `scores`, float32 (N, K) in the order of spec.classes; and
the network's further columns, float32 (N,), such as `agreement` of MB-DCNN.

Normalisation, sigmoid and rounding are inside. The first node is a Cast, and so is the last before `mask`, since
TensorRT takes no other operation on uint8. N is dynamic, and so are H and W as multiples of 32. Scores are nan if the
probability map has a nan, which uint8 cannot express.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch.export import Dim

from lesioncli.backends.base import Outputs
from lesioncli.files import atomic_write
from lesioncli.images.geometry import UInt8
from lesioncli.models.network import Network
from lesioncli.spec import METADATA_KEY, ModelSpec
from lesioncli.training.checkpoint import load_checkpoint
from lesioncli.training.graph import make_graph

LIBRARY = f"torch {torch.__version__}"


def export_checkpoint(path: Path, onnx: Path) -> Callable[[Sequence[UInt8]], Outputs]:
    """Export a checkpoint to `onnx`; returns a function that predicts with torch in fp32, for the parity check.

    The function takes images of the network's size, (H, W, 3); its outputs are probability maps and scores.
    """
    network, spec = load_checkpoint(path)
    export_onnx(network, spec, onnx)
    graph = make_graph(network, spec)

    @torch.inference_mode()
    def predict(images: Sequence[UInt8]) -> Outputs:
        mask, scores, *_ = graph(torch.from_numpy(np.stack(images)))
        return Outputs(mask.numpy(), scores.numpy())

    return predict


def export_onnx(network: Network, spec: ModelSpec, path: Path) -> None:
    """Write the checked graph with its ModelSpec inside."""
    graph = make_graph(network, spec)
    example = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
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
    for node in model.graph.node:  # the exporter writes paths of this machine there
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    _read_image_by_cast_only(model.graph)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    with atomic_write(path) as temporary:
        onnx.save(model, temporary, format="protobuf")


def _read_image_by_cast_only(graph: onnx.GraphProto) -> None:
    """Make the first Cast the only node that reads `image`: the exporter also takes height and width from it."""
    (cast_node,) = (node for node in graph.node if node.op_type == "Cast" and "image" in node.input)
    first = onnx.NodeProto()
    first.CopyFrom(cast_node)
    graph.node.remove(cast_node)
    graph.node.insert(0, first)
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == "image":
            node.input[0] = first.output[0]
