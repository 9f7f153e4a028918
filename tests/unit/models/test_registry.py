"""The tables of networks and encoders: a new entry needs one file and one line."""

import pytest
import torch
from helpers.networks import TinyEncoder
from torch import Tensor

from lesioncli.errors import InputError
from lesioncli.models import encoders
from lesioncli.models.multitask import Multitask, MultitaskOutput
from lesioncli.models.network import Network, NetworkType, Stage, StageOutput
from lesioncli.models.registry import NETWORKS, find_network, find_stage
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import make_network
from lesioncli.training.graph import make_graph
from lesioncli.training.stages import StageNetwork


class MeanNetwork(Network):
    """Lesion logits from the mean of the channels, class logits from that of the image."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, images: Tensor) -> MultitaskOutput:
        return MultitaskOutput(images.mean(1, keepdim=True) * self.gain, images.mean((2, 3)) * self.gain)

    @staticmethod
    def class_probabilities(class_logits: Tensor) -> Tensor:
        return class_logits.softmax(1)


def test_a_new_network_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("all", "", lambda network, images: StageOutput(*network(images)))
    columns = {"brightness": lambda output: output.mask_logits.mean((1, 2, 3))}
    monkeypatch.setitem(NETWORKS, "mean", NetworkType(MeanNetwork, (stage,), columns))
    spec = ModelSpec("mine", "mean", 32, 32, options={"gain": 2.0})
    network = make_network(spec)
    images = torch.full((2, 3, 32, 32), 0.5)
    assert find_stage("mean", "all") == stage
    outputs = StageNetwork(network, stage)(images)
    assert outputs.mask_logits is not None
    assert outputs.mask_logits.unique().item() == 1
    graph = make_graph(network, spec)
    assert graph.outputs == ("mask", "scores", "brightness")
    mask, scores, brightness = graph(torch.full((2, 32, 32, 3), 255, dtype=torch.uint8))
    assert mask.unique().item() == round(255 / (1 + torch.e**-2))
    assert scores.shape == (2, 3)
    torch.testing.assert_close(brightness, torch.tensor([2.0, 2.0]))


def test_a_new_encoder_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoders.ENCODERS, "mine", lambda drop_path: TinyEncoder())
    network = Multitask("mine", decoder_widths=(8, 8)).eval()
    assert network(torch.zeros(1, 3, 64, 64)).mask_logits.shape == (1, 1, 64, 64)


def test_unknown_entries_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'mean'.*multitask, mbdcnn"):
        find_network("mean")
    with pytest.raises(InputError, match=r"'fine-sn'.*coarse-sn, mask-cn, enhanced-sn"):
        find_stage("mbdcnn", "fine-sn")
    with pytest.raises(ValueError, match=r"'resnet'.*efficientnet_lite0.*googlenet"):
        encoders.make_encoder("resnet")


def test_every_stage_has_a_part_with_an_encoder() -> None:
    """The optimizer has one learning rate for the encoder and one for the rest."""
    with torch.device("meta"):
        networks = {"multitask": make_network(ModelSpec("m", "multitask", 32, 32, {"encoder": "googlenet"}))}
        networks["mbdcnn"] = make_network(ModelSpec("m", "mbdcnn", 32, 32, {"encoder": "efficientnet_lite0"}))
    assert networks.keys() == NETWORKS.keys()
    for name, network in networks.items():
        for stage in NETWORKS[name].stages:
            assert list(network.get_submodule(stage.part).get_submodule("encoder").parameters())
