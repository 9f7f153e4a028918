"""The stages of the cascade, run for real on four drawn lesions: each learns, and leaves the other networks alone."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training import NEARLY_STILL, differences, draw_folder, repeat, run, saved_state
from safetensors.torch import load_file

from lesioncli.errors import InputError
from lesioncli.models.registry import NETWORKS, find_stage
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import load_checkpoint, make_network, save_checkpoint
from lesioncli.training.recipe import Auxiliary, LossWeights, Recipe, Schedule, StageSettings, TrainSettings
from lesioncli.training.run import BEST
from lesioncli.training.samples import Sample, read_samples
from lesioncli.training.stages import StageNetwork, copy_earlier_part
from lesioncli.training.validation import validate

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 64
SPEC = ModelSpec(
    name="tiny-cascade",
    network="mbdcnn",
    height=SIDE,
    width=SIDE,
    options={"encoder": "tiny", "reads": "crop", "width": 32, "rates": [1, 2, 3]},
)
PARTS = {"coarse-sn": "coarse_sn.", "mask-cn": "mask_cn.", "enhanced-sn": "enhanced_sn."}
QUICK = TrainSettings(epochs=3, batch=4, encoder_lr=1e-2, head_lr=1e-2, ema=0.5, workers=0, initial="none")
LEARNS = Recipe(
    model=SPEC,
    train=QUICK,
    loss=LossWeights(dice=1.0, rank=0.05, jaccard=0.0),
    augment=NEARLY_STILL,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture(scope="module")
def lesions(folder: Path) -> list[Sample]:
    return read_samples(folder, "Training")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, lesions: list[Sample]) -> Path:
    """A run of all three stages on the four lesions, each 16 times per epoch."""
    folder = tmp_path_factory.mktemp("runs") / "cascade"
    assert run(LEARNS, repeat(lesions, 16), lesions, folder) == folder / BEST
    return folder


def check(checkpoint: Path, stage: str, samples: Sequence[Sample]) -> dict[str, float]:
    network, spec = load_checkpoint(checkpoint)
    return validate(StageNetwork(network, find_stage("mbdcnn", stage)), spec, samples, torch.device("cpu"))


@pytest.mark.parametrize(
    ("stage", "figure"), [("coarse-sn", "jaccard"), ("mask-cn", "auc"), ("enhanced-sn", "jaccard")]
)
def test_each_stage_learns_four_lesions_by_heart(
    tmp_path: Path, finished: Path, lesions: list[Sample], stage: str, figure: str
) -> None:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "fresh.safetensors", make_network(SPEC), SPEC)
    before, after = (check(path, stage, lesions) for path in (tmp_path / "fresh.safetensors", finished / BEST))
    if figure == "jaccard":
        assert before["jaccard"] < 0.4
        assert after["jaccard"] > 0.7
        assert after["choice"] == after["jaccard"]
    else:
        assert after["auc_melanoma"] == after["auc_seborrheic_keratosis"] == after["choice"] == 1
        assert "jaccard" not in after


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors that differ between two checkpoints, both weights and statistics of norms."""
    a, b = load_file(before), load_file(after)
    return {key for key in a if not torch.equal(a[key], b[key])}


@pytest.mark.parametrize(("earlier", "later"), [("coarse-sn", "mask-cn"), ("mask-cn", "enhanced-sn")])
def test_a_stage_changes_its_own_network_only(finished: Path, earlier: str, later: str) -> None:
    names = changed(finished / earlier / BEST, finished / later / BEST)
    assert names
    assert all(name.startswith(PARTS[later]) for name in names)
    own = {name for name in load_file(finished / BEST) if name.startswith(PARTS[later])}
    assert names >= {name for name in own if name.endswith("running_mean")}  # it was in training mode, all of it


def test_every_stage_leaves_its_own_folder_and_the_last_one_the_model(finished: Path) -> None:
    assert {each.name for each in finished.iterdir()} == {BEST, "recipe.json", *PARTS}
    for stage in PARTS:
        assert {each.name for each in (finished / stage).iterdir()} == {BEST, "last.pt", "history.csv", "curves.png"}
    assert (finished / BEST).read_bytes() == (finished / "enhanced-sn" / BEST).read_bytes()


def test_enhanced_sn_starts_from_coarse_sn_but_for_the_layer_that_takes_the_map() -> None:
    torch.manual_seed(0)
    network = make_network(SPEC)
    stage = find_stage("mbdcnn", "enhanced-sn")
    assert not torch.equal(
        network.get_parameter("coarse_sn.logits.weight"), network.get_parameter("enhanced_sn.logits.weight")
    )
    fresh = copy_earlier_part(network, stage)
    assert {name.split(".")[0] for name in fresh} == {"map_merge"}
    coarse, enhanced = (
        network.get_submodule("coarse_sn").state_dict(),
        network.get_submodule("enhanced_sn").state_dict(),
    )
    assert all(torch.equal(value, enhanced[key]) for key, value in coarse.items())


def test_one_stage_alone_needs_what_it_builds_on(tmp_path: Path, finished: Path, lesions: list[Sample]) -> None:
    with pytest.raises(InputError, match=r"mask-cn builds on coarse-sn.*--start"):
        run(LEARNS, lesions, lesions, tmp_path / "a", only="mask-cn")
    one_epoch = replace(LEARNS, train=replace(QUICK, epochs=1))
    start = finished / "coarse-sn" / BEST
    best = run(one_epoch, lesions, lesions, tmp_path / "b", only="mask-cn", start=start)
    assert best == tmp_path / "b/mask-cn" / BEST
    assert {each.name for each in (tmp_path / "b").iterdir()} == {"recipe.json", "mask-cn"}
    assert all(name.startswith("mask_cn.") for name in changed(start, best))
    with pytest.raises(InputError, match="another start;"):
        run(one_epoch, lesions, lesions, tmp_path / "b", only="mask-cn", start=finished / BEST)


def test_a_start_of_another_network_is_refused_by_name(tmp_path: Path, finished: Path, lesions: list[Sample]) -> None:
    other = replace(LEARNS, model=replace(SPEC, options={**SPEC.options, "width": 24}))
    with pytest.raises(InputError, match=f"{finished / BEST}: its coarse_sn"):
        run(other, lesions, lesions, tmp_path, only="mask-cn", start=finished / BEST)
    joint = replace(LEARNS, model=ModelSpec("joint", "multitask", SIDE, SIDE, {"encoder": "efficientnet_lite0"}))
    with pytest.raises(InputError, match=f"{finished / BEST}: holds network mbdcnn"):
        run(joint, lesions, lesions, tmp_path / "joint", start=finished / BEST)


def test_a_start_lends_the_parts_that_fit_to_an_experiment_with_another(
    tmp_path: Path, finished: Path, lesions: list[Sample]
) -> None:
    """mask-CN with a fourth channel is another network than the start's; coarse-SN before it is the same."""
    other = replace(
        LEARNS, model=replace(SPEC, options={**SPEC.options, "reads": "mask"}), train=replace(QUICK, epochs=1)
    )
    best = load_file(run(other, lesions, lesions, tmp_path, only="mask-cn", start=finished / BEST))
    start = load_file(finished / BEST)
    assert best["mask_cn.encoder.body.0.0.weight"].shape[1] == 4
    assert all(torch.equal(value, best[key]) for key, value in start.items() if key.startswith("coarse_sn."))


@pytest.mark.parametrize("what", ["stage", "recipe"])
def test_a_stage_that_does_not_exist_is_named_with_those_that_do(
    tmp_path: Path, lesions: list[Sample], what: str
) -> None:
    recipe = replace(LEARNS, stages={"fine-sn": StageSettings()}) if what == "recipe" else LEARNS
    with pytest.raises(InputError, match=r"no stage 'fine-sn'; it has coarse-sn, mask-cn, enhanced-sn"):
        run(recipe, lesions, lesions, tmp_path, only="fine-sn" if what == "stage" else None)


def test_a_stage_goes_by_its_own_settings(tmp_path: Path, lesions: list[Sample]) -> None:
    own = StageSettings(replace(QUICK, epochs=1), LEARNS.loss, NEARLY_STILL)
    rows: list[tuple[str, float]] = []
    recipe = replace(LEARNS, train=replace(QUICK, epochs=2), stages={"mask-cn": own})
    run(recipe, lesions, lesions, tmp_path, on_epoch=lambda stage, row: rows.append((stage, row["epoch"])))
    assert rows == [("coarse-sn", 1), ("coarse-sn", 2), ("mask-cn", 1), ("enhanced-sn", 1), ("enhanced-sn", 2)]


def test_every_stage_can_have_an_auxiliary_head(tmp_path: Path, lesions: list[Sample]) -> None:
    recipe = replace(LEARNS, train=replace(QUICK, epochs=1, auxiliary=Auxiliary.DIAGNOSIS))
    diagnosed = [replace(one, diagnosis=name) for one, name in zip(lesions, "abca", strict=True)]
    run(recipe, diagnosed, lesions, tmp_path)
    shapes = [tuple(saved_state(tmp_path / stage)["auxiliary"]["weight"].shape) for stage in PARTS]
    assert shapes == [(3, 16), (3, 32), (3, 16)]


def test_the_images_left_are_those_of_all_stages(tmp_path: Path, lesions: list[Sample]) -> None:
    left: list[int] = []
    own = StageSettings(replace(QUICK, epochs=1, batch=3))
    recipe = replace(LEARNS, train=replace(QUICK, epochs=2, batch=2), stages={"mask-cn": own})
    run(recipe, lesions, lesions, tmp_path, on_step=lambda at: left.append(at.images_left))
    assert left == [17, 15, 13, 11, 8, 6, 4, 2, 0]  # twice four images, once three, twice four


def test_a_cascade_that_was_stopped_ends_with_the_same_weights(tmp_path: Path, lesions: list[Sample]) -> None:
    recipe = replace(LEARNS, train=replace(QUICK, epochs=2, schedule=Schedule.POLY, balance=(2.0, 3.0, 1.0)))

    def stop_in_mask_cn(stage: str, row: Mapping[str, float]) -> None:
        if stage == "mask-cn":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, lesions, lesions, tmp_path / "stopped", seed=5, on_epoch=stop_in_mask_cn)
    resumed = run(recipe, lesions, lesions, tmp_path / "stopped", seed=5)
    whole = run(recipe, lesions, lesions, tmp_path / "whole", seed=5)
    for stage in PARTS:
        stopped_state, whole_state = (saved_state(tmp_path / name / stage) for name in ("stopped", "whole"))
        assert not differences(stopped_state, whole_state)
    assert resumed.read_bytes() == whole.read_bytes()


def test_only_the_part_learns_and_drops_out() -> None:
    torch.manual_seed(0)
    network = make_network(replace(SPEC, options={**SPEC.options, "drop_path": 0.1, "dropout": 0.5}))
    staged = StageNetwork(network, find_stage("mbdcnn", "mask-cn")).train()
    learning = {name.split(".")[0] for name, each in network.named_parameters() if each.requires_grad}
    training = {name.split(".")[0] for name, each in network.named_modules() if name and each.training}
    assert learning == training == {"mask_cn"}
    staged.eval()
    assert not any(each.training for each in network.modules())


def test_a_part_in_another_s_place_leaves_the_original_alone() -> None:
    torch.manual_seed(0)
    network, stage = make_network(SPEC), find_stage("mbdcnn", "coarse-sn")
    other = make_network(SPEC).get_submodule("coarse_sn")
    staged = StageNetwork(network, stage)
    original = network.get_submodule("coarse_sn")
    replaced = staged.with_part(other)
    assert replaced.network.get_submodule("coarse_sn") is other
    assert replaced.network.get_submodule("mask_cn") is network.get_submodule("mask_cn")
    assert network.get_submodule("coarse_sn") is original


def test_every_network_has_stages_and_every_stage_a_part() -> None:
    assert [each.name for each in NETWORKS["mbdcnn"].stages] == list(PARTS)
    assert [f"{each.part}." for each in NETWORKS["mbdcnn"].stages] == list(PARTS.values())


def test_a_damaged_checkpoint_of_an_earlier_stage_is_refused_by_name(
    tmp_path: Path, finished: Path, lesions: list[Sample]
) -> None:
    shutil.copytree(finished / "coarse-sn", tmp_path / "coarse-sn")
    shutil.copy(finished / "recipe.json", tmp_path)
    broken: Any = tmp_path / "coarse-sn" / BEST
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{broken}: not a readable safetensors file"):
        run(LEARNS, repeat(lesions, 16), lesions, tmp_path)
