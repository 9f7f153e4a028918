"""What ships: weights and graph are one model, the card is there, and nothing of the machine that made it is inside."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lesioncli.backends import openvino
from lesioncli.backends.build import build, run_all
from lesioncli.backends.choose import SHIPPED_MODEL, open_engine, shipped_onnx
from lesioncli.demo import draw_case
from lesioncli.evaluation import metrics
from lesioncli.files import PRETRAINED
from lesioncli.inference.geometry import to_full_size, to_network
from lesioncli.training.checkpoint import load_checkpoint
from lesioncli.training.export import graph_of
from lesioncli.training.recipe import find_recipe, load_recipe

WEIGHTS = PRETRAINED / f"{SHIPPED_MODEL}.safetensors"


@pytest.mark.parametrize("path", [shipped_onnx(), WEIGHTS], ids=lambda path: path.suffix)
def test_no_paths_inside(path: Path) -> None:
    content = path.read_bytes()
    assert not [word for word in (b"site-packages", b"stack_trace", b".py", b"/home/", b"/usr/") if word in content]


def test_graph_weights_recipe_and_run_say_the_same() -> None:
    recipe = load_recipe(find_recipe(SHIPPED_MODEL))
    _, spec = load_checkpoint(WEIGHTS)
    assert spec == openvino.read_spec(shipped_onnx())
    assert json.loads(spec.to_json()) == json.loads(recipe.model.to_json())
    run = json.loads((PRETRAINED / f"{SHIPPED_MODEL}.recipe.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(recipe.as_dict()))
    for section in ("model", "train", "loss", "augment"):  # settings that came later have what was done before them
        assert run["recipe"][section] == {key: now[section][key] for key in run["recipe"][section]}, section


def test_graph_answers_as_its_weights(tmp_path: Path) -> None:
    network, _ = load_checkpoint(WEIGHTS)
    pictures = [to_network(draw_case(seed, 256, 320).image, 256, 256) for seed in range(100, 104)]
    with torch.inference_mode():
        mask, scores, *_ = graph_of(network)(torch.from_numpy(np.stack(pictures)))
    manifest = build(shipped_onnx(), tmp_path, pictures, precision="fp32").path
    engine_mask, engine_scores = run_all(open_engine(manifest), pictures)
    assert np.abs(mask.numpy().astype(int) - engine_mask).max() <= 1
    np.testing.assert_allclose(scores.numpy(), engine_scores, atol=1e-4)


def test_it_finds_drawn_lesions(engine_manifest: Path) -> None:
    cases = [draw_case(seed, 240, 320) for seed in range(40, 52)]
    inputs = [to_network(case.image, 256, 256) for case in cases]
    probability, _ = run_all(open_engine(engine_manifest), inputs)
    found = [to_full_size(each, (240, 320)) > 127 for each in probability]
    agreement = [metrics.jaccard(metrics.count(case.mask, mask)) for case, mask in zip(cases, found, strict=True)]
    assert np.mean(agreement) > 0.8


def test_the_card_names_data_licence_figures_and_limits() -> None:
    card = (PRETRAINED / f"{SHIPPED_MODEL}.md").read_text(encoding="utf-8")
    for word in ("ISIC-2017", "CC0", "Apache-2.0", "Jaccard", "## Limits", "Not a medical device"):
        assert word in card
