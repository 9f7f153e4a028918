"""Shipping a model: skeleton and table complete to the graph that the exporter writes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import lively
from onnx import TensorProto, helper, numpy_helper

from lesioncli import shipped
from lesioncli.backends.openvino import read_spec
from lesioncli.calibration import Calibration, PlattScaling, write_calibration
from lesioncli.errors import InputError
from lesioncli.files import sha256_of
from lesioncli.shipped import assemble_graph, source_sha256
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import load_checkpoint, make_network, save_checkpoint
from lesioncli.training.export import export_onnx
from lesioncli.training.ship import main, ship, split_graph

SPEC = ModelSpec(
    name="own",
    network="multitask",
    height=64,
    width=64,
    options={"encoder": "tiny", "decoder_widths": [8, 8, 8], "separable": True, "lesion_pooling": True},
)


def test_a_shipped_checkpoint_completes_to_the_exported_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = lively(make_network(SPEC))
    checkpoint, exported, folder = tmp_path / "best.safetensors", tmp_path / "own.onnx", tmp_path / "pretrained"
    save_checkpoint(checkpoint, network, SPEC)
    skeleton = ship(checkpoint, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["own.safetensors", "own.skeleton", "own.skeleton.json"]
    assert skeleton.stat().st_size < checkpoint.stat().st_size

    monkeypatch.setattr(shipped, "PRETRAINED", folder)
    export_onnx(network, SPEC, exported)
    (tmp_path / "built").mkdir()
    assert sha256_of(assemble_graph("own", tmp_path / "built")) == sha256_of(exported) == source_sha256("own")


def test_a_calibration_is_part_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, folder = tmp_path / "best.safetensors", tmp_path / "pretrained"
    save_checkpoint(checkpoint, make_network(SPEC), SPEC)
    calibration = Calibration("validation", {"melanoma": PlattScaling(0.5, -1.0, 200, 0.2)})
    write_calibration(tmp_path / "calibration.json", calibration, "--export")
    arguments = ["ship", str(checkpoint), "--out", str(folder), "--calibration", str(tmp_path / "calibration.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    main()

    monkeypatch.setattr(shipped, "PRETRAINED", folder)
    calibrated = replace(SPEC, calibration=calibration)
    assert load_checkpoint(folder / "own.safetensors")[1] == calibrated
    assert read_spec(assemble_graph("own", tmp_path)) == calibrated
    assert load_checkpoint(checkpoint)[1] == SPEC


def test_weights_stored_in_half_complete_to_a_graph_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = lively(make_network(SPEC))
    checkpoint, folder = tmp_path / "best.safetensors", tmp_path / "pretrained"
    save_checkpoint(checkpoint, network, SPEC)
    monkeypatch.setattr(sys, "argv", ["ship", str(checkpoint), "--out", str(folder), "--half"])
    main()

    stored, _ = load_checkpoint(folder / "own.safetensors")
    assert (folder / "own.safetensors").stat().st_size < 0.8 * checkpoint.stat().st_size
    differences = [
        (a - b).abs().max() / b.abs().max() for a, b in zip(stored.parameters(), network.parameters(), strict=True)
    ]
    assert 0 < max(differences) < 2**-10
    monkeypatch.setattr(shipped, "PRETRAINED", folder)
    (tmp_path / "built").mkdir()
    export_onnx(stored, SPEC, tmp_path / "own.onnx")
    assert sha256_of(assemble_graph("own", tmp_path / "built")) == sha256_of(tmp_path / "own.onnx")


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.safetensors"
    save_checkpoint(checkpoint, make_network(SPEC), SPEC)
    with pytest.raises(InputError, match=r"best\.safetensors.*naevus"):
        ship(checkpoint, tmp_path / "out", Calibration("other", {"naevus": PlattScaling(1, 0, 200, 0.2)}))
    assert not (tmp_path / "out").exists()


def test_a_weight_that_no_rule_computes_is_refused() -> None:
    """It would stay in the skeleton, and the weights would ship twice."""
    strange = numpy_helper.from_array(np.ones(1000, np.float32), "network.strange")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])
    graph = helper.make_graph([helper.make_node("Identity", ["network.strange"], ["y"])], "g", [], [output], [strange])
    content = helper.make_model(graph).SerializeToString()
    with pytest.raises(InputError, match=r"network\.strange"):
        split_graph(content, {}, {})
    skeleton, parts = split_graph(content, {"strange": np.ones(1000, np.float32)}, {})
    assert len(skeleton) < 200
    assert [weight.tensor for weight in parts.weights] == ["strange"]
