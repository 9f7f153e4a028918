"""A trained network as a module that fulfils the graph contract; export.py writes it as ONNX."""

import torch
from torch import Tensor, nn

from lesioncli.models.network import Network
from lesioncli.models.registry import find_network
from lesioncli.spec import ModelSpec


class Graph(nn.Module):
    """A network wrapped in the graph contract; `outputs` are the names of what forward() returns."""

    def __init__(self, network: Network, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.columns = find_network(spec.network).columns
        self.outputs = ("mask", "scores", *self.columns)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """RGB, uint8 (N, H, W, 3) -> one tensor per name in `outputs`."""
        rgb = image.float().permute(0, 3, 1, 2) * (1 / 255)  # not divided, for the reason given in signed()
        output = self.network(rgb)
        mask, scores = _mask_and_scores(
            output.mask_logits.sigmoid(), self.network.class_probabilities(output.class_logits)
        )
        return mask, scores, *(column(output) for column in self.columns.values())


def _mask_and_scores(lesion: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Lesion probability (N, 1, H, W) as uint8 (N, H, W), and scores (N, K): nan if the probability has a nan.

    A nan becomes 0 in uint8, and the mask would look like that of an image without a lesion.
    """
    pixels = torch.round(lesion.squeeze(1) * 255).to(torch.uint8)
    has_nan = lesion.mean((1, 2, 3)).isnan()  # not a comparison: OpenVINO's is true for nan
    return pixels, torch.where(has_nan[:, None], torch.full_like(scores, torch.nan), scores)


def make_graph(network: Network, spec: ModelSpec) -> Graph:
    """A network in eval mode, wrapped in the graph contract."""
    return Graph(network.eval(), spec).eval()
