"""A trained network as ONE ONNX graph by the graph contract.

Input  image  uint8 (N, H, W, 3), RGB.
Output mask   uint8 (N, H, W), lesion probability x 255; scores float32 (N, K), in the order of spec.classes.
Normalisation, sigmoid and rounding are inside. The first node is a Cast and so is the last before `mask`, since
TensorRT takes nothing else on uint8. N is dynamic.
"""

import logging
import os
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from lesioncli.spec import METADATA_KEY, ModelSpec


class MultitaskGraph(nn.Module):
    """Multitask, wrapped in the graph contract: pixels in, pixels and scores out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        rgb = image.float().permute(0, 3, 1, 2) / 255
        mask_logits, class_logits = self.network(rgb)
        mask = torch.round(mask_logits.squeeze(1).sigmoid() * 255).to(torch.uint8)
        melanoma, keratosis = class_logits.sigmoid().unbind(1)
        # Two answers that do not compete say nothing of nevi; what both deny is reported as nevus.
        nevus = 1 - torch.maximum(melanoma, keratosis)
        return mask, torch.stack([melanoma, keratosis, nevus], 1)


def export_onnx(network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the graph with its ModelSpec inside; written aside, checked, then renamed."""
    graph = MultitaskGraph(network.eval())
    example = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    aside = path.with_name(path.name + ".part")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=["image"],
            output_names=["mask", "scores"],
            dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("n", min=1)}},
            optimize=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - None only without dynamo
    model = program.model_proto
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, aside)
    os.replace(aside, path)
