"""Shipped models: the graph is completed from skeleton and checkpoint, and every fault of these files is an error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lesioncli import shipped
from lesioncli.errors import InputError
from lesioncli.files import PRETRAINED, sha256_of
from lesioncli.shipped import (
    SHIPPED_MODEL,
    GraphWeight,
    WeightRule,
    assemble_graph,
    compute_weight,
    find_checkpoint,
    shipped_models,
    source_sha256,
)


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped models' folder, without mbdcnn-lite's checkpoint; the folder above is the working one."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    for path in PRETRAINED.iterdir():
        if path.name != "mbdcnn-lite.safetensors":
            shutil.copyfile(path, folder / path.name)
    monkeypatch.setattr(shipped, "PRETRAINED", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("model", shipped_models())
def test_the_completed_graph_has_the_hash_that_manifests_name(model: str, tmp_path: Path) -> None:
    path = assemble_graph(model, tmp_path)
    assert path == tmp_path / f"{model}.onnx"
    assert sha256_of(path) == source_sha256(model)
    onnx.checker.check_model(onnx.load(path))


def test_a_skeleton_is_small_and_holds_no_trained_weights() -> None:
    for model in shipped_models():
        assert (PRETRAINED / f"{model}.skeleton").stat().st_size < 400_000


def test_batch_norms_are_folded_into_convolutions() -> None:
    """By definition: gain * (conv(x) - mean) / sqrt(variance + epsilon) + shift."""
    rng = np.random.default_rng(0)
    tensors = {
        "conv.weight": rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "conv.bias": rng.normal(size=4).astype(np.float32),
        **{f"norm.{name}": rng.uniform(0.5, 2, 4).astype(np.float32) for name in ("weight", "bias", "running_mean")},
        "norm.running_var": rng.uniform(0.5, 2, 4).astype(np.float32),
    }
    kernel = compute_weight(GraphWeight(0, WeightRule.FOLD_WEIGHT, "conv.weight", "norm", 1e-3), tensors)
    bias = compute_weight(GraphWeight(0, WeightRule.FOLD_BIAS, "conv.bias", "norm", 1e-3), tensors)
    without = compute_weight(GraphWeight(0, WeightRule.FOLD_BIAS, "", "norm", 1e-3), tensors)
    x = rng.normal(size=3)
    plain = tensors["conv.weight"][:, :, 0, 0].astype(float) @ x
    deviation = np.sqrt(tensors["norm.running_var"].astype(float) + 1e-3)

    def norm(y: NDArray[np.float64]) -> NDArray[np.float64]:
        return tensors["norm.weight"] * (y - tensors["norm.running_mean"]) / deviation + tensors["norm.bias"]

    np.testing.assert_allclose(kernel[:, :, 0, 0] @ x + bias, norm(plain + tensors["conv.bias"]), rtol=1e-5)
    np.testing.assert_allclose(kernel[:, :, 0, 0] @ x + without, norm(plain), rtol=1e-5)
    assert kernel.dtype == bias.dtype == without.dtype == np.float32


def test_a_checkpoint_that_the_install_lacks_is_taken_from_engines(own_models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mbdcnn-lite\.safetensors"):
        assemble_graph("mbdcnn-lite", tmp_path)
    own = tmp_path / "engines" / "mbdcnn-lite.safetensors"
    own.parent.mkdir()
    shutil.copyfile(PRETRAINED / own.name, own)
    assert find_checkpoint("mbdcnn-lite") == Path("engines/mbdcnn-lite.safetensors")
    assert sha256_of(assemble_graph("mbdcnn-lite", tmp_path)) == source_sha256("mbdcnn-lite")


def damage_value(path: Path) -> None:
    tensors = load_file(path)
    tensors["encoder.conv_stem.weight"].flat[0] += 1
    save_file(tensors, path)


def remove_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["encoder.conv_stem.weight"]
    save_file(tensors, path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [damage_value, remove_tensor, cut_short])
def test_a_damaged_checkpoint_is_refused(damage: Callable[[Path], None], own_models: Path, tmp_path: Path) -> None:
    checkpoint = own_models / f"{SHIPPED_MODEL}.safetensors"
    damage(checkpoint)
    with pytest.raises(InputError, match=checkpoint.name):
        assemble_graph(SHIPPED_MODEL, tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_damaged_table_is_refused(own_models: Path, tmp_path: Path) -> None:
    table = own_models / f"{SHIPPED_MODEL}.skeleton.json"
    content = json.loads(table.read_text())
    table.write_text(json.dumps({"sha256": content["sha256"]}))
    with pytest.raises(InputError, match=table.name):
        assemble_graph(SHIPPED_MODEL, tmp_path)
