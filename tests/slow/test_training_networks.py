"""Training of real networks: EfficientNet-lite0 learns four lesions, and runs that were killed end the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from helpers.networks import lively
from helpers.training import NEARLY_STILL, SPEC, differences, draw_folder, killed, repeat, run, saved_state

from lesioncli.demo.draw import draw_case
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import make_network, save_checkpoint
from lesioncli.training.export import export_checkpoint
from lesioncli.training.recipe import LossWeights, Recipe, TrainSettings, load_recipe
from lesioncli.training.run import BEST
from lesioncli.training.samples import Sample, read_samples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

STAGES = ("coarse-sn", "mask-cn", "enhanced-sn")
# With every source of randomness: dropout, dropped paths, augmentation, random initial weights.
JOINT_RECIPE = """
[model]
name = "tiny"
network = "multitask"
height = 64
width = 64
[model.options]
encoder = "efficientnet_lite0"
decoder_widths = [16, 8]
dropout = 0.4
drop_path = 0.2
[train]
epochs = 3
batch = 2
ema = 0.9
initial = "none"
workers = 1
"""


CASCADE_RECIPE = """
[model]
name = "tiny-cascade"
network = "mbdcnn"
height = 64
width = 64
[model.options]
encoder = "efficientnet_lite0"
reads = "mask"
width = 8
rates = [1, 2, 3]
dropout = 0.3
drop_path = 0.2
[train]
epochs = 2
batch = 2
ema = 0.9
initial = "none"
workers = 0
schedule = "poly"
balance = [2.0, 3.0, 1.0]
[loss]
dice = 1.0
rank = 0.05
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture(scope="module")
def lesions(folder: Path) -> list[Sample]:
    return read_samples(folder, "Training")


def test_the_joint_network_learns_four_lesions(tmp_path: Path, lesions: list[Sample]) -> None:
    spec = replace(SPEC, options={**SPEC.options, "encoder": "efficientnet_lite0"})
    settings = TrainSettings(epochs=3, batch=4, encoder_lr=2e-3, head_lr=1e-2, ema=0.5, workers=0)
    rows: list[dict[str, float]] = []
    run(
        Recipe(spec, settings, augment=NEARLY_STILL),
        repeat(lesions, 8),
        lesions,
        tmp_path,
        on_epoch=lambda stage, row: rows.append(row),
    )
    best = max(rows, key=lambda row: row["choice"])
    assert best["jaccard"] > 0.7
    assert best["auc_melanoma"] == best["auc_seborrheic_keratosis"] == 1


def test_each_stage_of_the_cascade_learns_four_lesions(tmp_path: Path, lesions: list[Sample]) -> None:
    options = {"encoder": "efficientnet_lite0", "reads": "crop", "width": 32, "rates": [1, 2, 3]}
    spec = ModelSpec("tiny-cascade", "mbdcnn", 64, 64, options)
    settings = TrainSettings(epochs=5, batch=4, encoder_lr=2e-3, head_lr=1e-2, ema=0.5, workers=0)
    recipe = Recipe(spec, settings, LossWeights(dice=1.0, rank=0.05, jaccard=0.0), NEARLY_STILL)
    best = dict.fromkeys(STAGES, 0.0)

    def keep_best(stage: str, row: dict[str, float]) -> None:
        best[stage] = max(best[stage], row["choice"])

    run(recipe, repeat(lesions, 8), lesions, tmp_path, on_epoch=keep_best)
    assert best["coarse-sn"] > 0.7
    assert best["mask-cn"] == 1
    assert best["enhanced-sn"] > 0.7


def test_a_run_that_was_killed_and_resumed_ends_with_the_same_weights(
    tmp_path: Path, folder: Path, lesions: list[Sample]
) -> None:
    """Bit for bit, although one run loads its data in a worker process and the other does not."""
    path = tmp_path / "recipe.toml"
    path.write_text(JOINT_RECIPE)
    recipe = load_recipe(path)
    resumed = killed(tmp_path, path, folder, "joint")
    begun = saved_state(resumed / "joint")
    assert len(begun["history"]) == 1

    epochs: list[float] = []
    run(recipe, lesions, lesions, resumed, seed=5, on_epoch=lambda _, row: epochs.append(row["epoch"]))
    assert epochs == [2, 3]
    whole = replace(recipe, train=replace(recipe.train, workers=0))
    run(whole, lesions, lesions, tmp_path / "whole", seed=5)

    end, uninterrupted = saved_state(resumed / "joint"), saved_state(tmp_path / "whole/joint")
    assert differences(begun["part"], end["part"])  # training continued
    assert not differences(end, uninterrupted)
    assert (resumed / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


@pytest.mark.parametrize("stage", ["mask-cn", "enhanced-sn"])
def test_a_cascade_that_was_killed_in_any_stage_ends_with_the_same_weights(
    tmp_path: Path, folder: Path, lesions: list[Sample], stage: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(CASCADE_RECIPE)
    resumed = killed(tmp_path, path, folder, stage)
    begun = saved_state(resumed / stage)
    run(load_recipe(path), lesions, lesions, resumed, seed=5)
    run(load_recipe(path), lesions, lesions, tmp_path / "whole", seed=5)
    assert differences(begun["part"], saved_state(resumed / stage)["part"])  # training continued
    for name in STAGES:
        assert not differences(saved_state(resumed / name), saved_state(tmp_path / "whole" / name))
    assert (resumed / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


GRAPHS: dict[str, tuple[str, dict[str, Any]]] = {
    "joint, lite0": (
        "multitask",
        {"encoder": "efficientnet_lite0", "decoder_widths": [16, 8, 8], "separable": True, "lesion_pooling": True},
    ),
    "joint, googlenet": ("multitask", {"encoder": "googlenet", "decoder_widths": [16, 8, 8, 8]}),
    "cascade, mask": ("mbdcnn", {"encoder": "efficientnet_lite0", "width": 16, "rates": [1, 2, 3], "reads": "mask"}),
    "cascade, crop": ("mbdcnn", {"encoder": "efficientnet_lite0", "width": 16, "rates": [1, 2, 3], "reads": "crop"}),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_exported_graph_of_a_real_network_predicts_as_torch(tmp_path: Path, name: str) -> None:
    network, options = GRAPHS[name]
    spec = ModelSpec("real", network, 64, 96, options)
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "net.safetensors", lively(make_network(spec)), spec)
    predict = export_checkpoint(tmp_path / "net.safetensors", tmp_path / "net.onnx")
    images = [draw_case(seed, 64, 96).image for seed in range(3)]
    core = openvino.Core()
    graph = core.compile_model(core.read_model(tmp_path / "net.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = graph(np.stack(images))
    expected = predict(images)
    differences_of_masks = np.abs(expected.probability.astype(int) - outputs["mask"])
    assert differences_of_masks.max() <= 2
    np.testing.assert_allclose(outputs["scores"], expected.scores, atol=1e-3)
