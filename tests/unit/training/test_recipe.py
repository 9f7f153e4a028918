"""Recipes: those in engines/ load, and a mistake in one is named with its file and key."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lesioncli.errors import InputError
from lesioncli.training.checkpoint import make_network
from lesioncli.training.recipe import AugmentSettings, LossWeights, Recipe, TrainSettings, find_recipe, load_recipe
from lesioncli.training.reference import TABLES, recipe_reference, with_reference

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = Path(__file__).parents[3] / "engines"
SHIPPED = sorted(ENGINES.glob("*.toml"))
MODEL = """
[model]
name = "m"
network = "multitask"
height = 64
width = 96
"""
LOSS_KEYS = [field.name for field in dataclasses.fields(LossWeights)]


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_both_sizes_of_the_joint_network_have_a_recipe() -> None:
    assert {"multitask", "multitask-lite"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_its_network_fits_its_size(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.model.name == path.stem
    if path.stem != "first-steps":  # it is for drawn images
        assert recipe.train.exclude == ("isic2017-test-duplicates",)
    with torch.inference_mode():
        masks, *_ = make_network(recipe.model).eval()(torch.zeros(1, 3, recipe.model.height, recipe.model.width))
    assert masks.shape == (1, 1, recipe.model.height, recipe.model.width)


def test_the_joint_network_has_plain_convolutions_up_to_stride_2_and_three_equal_tasks() -> None:
    recipe = load_recipe(ENGINES / "multitask.toml")
    assert (recipe.model.height, recipe.model.width) == (224, 224)
    assert recipe.model.options["encoder"] == "googlenet"
    assert len(recipe.model.options["decoder_widths"]) == 4
    assert not recipe.model.options["separable"]
    assert not recipe.model.options["lesion_pooling"]
    assert recipe.model.options["dropout"] == 0.4
    # `classes` multiplies the sum of both heads' losses, each of which then weighs as much as the mask's.
    assert recipe.loss.jaccard + recipe.loss.cross_entropy == recipe.loss.classes


def test_missing_keys_have_their_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MODEL))
    assert (recipe.model.name, recipe.model.height, recipe.model.width) == ("m", 64, 96)
    assert recipe.train == TrainSettings()
    assert recipe.loss == LossWeights()
    assert recipe.augment == AugmentSettings()


def test_every_setting_reaches_the_recipe(tmp_path: Path) -> None:
    text = """
[model.options]
encoder = "googlenet"
decoder_widths = [8, 4]
[train]
epochs = 3
encoder_lr = 1          # a whole number will do for a float
exclude = ["a", "b"]
initial = "weights.pth"
[loss]
classes = 2.5
[augment]
zoom = [1, 1.5]
hair = 0
[engine]
batch = 8
"""
    recipe = load_recipe(write(tmp_path, MODEL + text))
    assert recipe.model.options == {"encoder": "googlenet", "decoder_widths": [8, 4]}
    assert recipe.train == TrainSettings(epochs=3, encoder_lr=1, exclude=("a", "b"), initial="weights.pth")
    assert recipe.loss == LossWeights(classes=2.5)
    assert recipe.augment == AugmentSettings(zoom=(1, 1.5), hair=0)
    assert recipe.engine.batch == 8


def test_a_stage_changes_the_keys_of_its_table_only(tmp_path: Path) -> None:
    text = """
    [train]
    epochs = 7
    batch = 4
    [loss]
    rank = 0.5
    [stages.joint.train]
    epochs = 2
    [stages.joint.loss]
    dice = 1
    """
    recipe = load_recipe(write(tmp_path, MODEL + text))
    own = recipe.for_stage("joint")
    assert own.train == TrainSettings(epochs=2, batch=4)
    assert own.loss == LossWeights(rank=0.5, dice=1)
    assert own.augment == AugmentSettings()
    other = recipe.for_stage("another")
    assert (other.train, other.loss) == (TrainSettings(epochs=7, batch=4), LossWeights(rank=0.5))


def test_a_resolved_recipe_holds_every_value() -> None:
    saved = load_recipe(SHIPPED[0]).as_dict()
    assert set(saved) == {"model", "train", "loss", "augment", "engine", "stages"}
    for part in dataclasses.fields(Recipe)[:-1]:
        assert set(saved[part.name]) == {inner.name for inner in dataclasses.fields(part.type)}  # type: ignore[arg-type]  # a type or text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (MODEL + "[train]\nepoch = 3", r"\[train\] has no key 'epoch'; it has .*epochs"),
        (MODEL + "channels = 3", r"\[model\] has no key 'channels'"),
        (MODEL + "[model.calibration]\nname = 'x'", r"\[model\] has no key 'calibration'"),
        (MODEL + "[optimizer]\nlr = 1", "has no table 'optimizer'"),
        (MODEL + "[train]\nepochs = 'many'", r"\[train\] epochs = 'many'.*whole number"),
        (MODEL + "[train]\nepochs = 2.5", r"\[train\] epochs = 2\.5.*whole number"),
        (MODEL + "[train]\nepochs = true", r"\[train\] epochs = True.*whole number"),
        (MODEL + "[augment]\nblur = 1.5", r"\[augment\] blur = 1\.5 .*from 0 to 1"),
        (MODEL + "[engine]\nprecision = 'int4'", r"\[engine\] precision = 'int4'.*auto, fp32, bf16, fp16"),
        (MODEL + "[train]\nepochs = 0", r"\[train\] epochs = 0 .*at least 1"),
        (MODEL + "[train]\nbatch = -1", r"\[train\] batch = -1 .*at least 1"),
        (MODEL + "[train]\nkeep_start = 0.5", r'keep_start.*initial = "none"'),
        (
            MODEL + "[train]\ninitial = 'none'\nkeep_start = 1",
            r"\[train\] keep_start = 1 .*at least 0 and below 1",
        ),
        (
            MODEL + "[train]\ninitial = 'none'\nkeep_start = -0.5",
            r"\[train\] keep_start = -0\.5 .*at least 0 and below 1",
        ),
        (MODEL + "[train]\nencoder_lr = -1e-4", r"\[train\] encoder_lr = -0\.0001 .*at least 0"),
        (MODEL + "[train]\nhead_lr = -1", r"\[train\] head_lr = -1 .*at least 0"),
        (MODEL + "[train]\nweight_decay = -0.1", r"\[train\] weight_decay = -0\.1 .*at least 0"),
        (MODEL + "[train]\nbalance = [1, -1, 1]", r"\[train\] balance = \[1, -1, 1\].*3 numbers of at least 0"),
        (MODEL + "[stages.joint.train]\nhead_lr = -1", r"\[stages\.joint\.train\] head_lr = -1 .*at least 0"),
        *((MODEL + f"[loss]\n{key} = -1", rf"\[loss\] {key} = -1 .* 0") for key in LOSS_KEYS),
        (MODEL + "[augment]\ncontrast = -0.1", r"\[augment\] contrast = -0\.1 .*at least 0"),
        (MODEL + "[augment]\naspect = 0.5", r"\[augment\] aspect = 0\.5 .*at least 1"),
        (MODEL + "[train]\nhead_lr = '1e-3'", r"\[train\] head_lr = '1e-3'.*number"),
        (MODEL + "[train]\ninitial = false", r"\[train\] initial = False.*string"),
        (MODEL + "[train]\nexclude = 'ISIC_0012271'", r"\[train\] exclude = 'ISIC_0012271'.*list of strings"),
        (MODEL + "[train]\nexclude = [12271]", r"\[train\] exclude = \[12271\].*list of str"),
        (MODEL + "[augment]\nzoom = 1.2", r"\[augment\] zoom = 1\.2.*list of 2 numbers"),
        (MODEL + "[augment]\nzoom = [1, 2, 3]", r"\[augment\] zoom = \[1, 2, 3\].*list of 2 numbers"),
        (MODEL + "[train]\nschedule = 'cosine'", r"\[train\] schedule = 'cosine'.*one-cycle, poly"),
        (MODEL + "[train]\nbalance = [1, 2]", r"\[train\] balance = \[1, 2\].*list of 3 numbers"),
        (MODEL + "[augment]\nzoom = [1.2, 0.8]", r"zoom = \[1\.2, 0\.8\]"),
        (MODEL + "[augment]\nzoom = [0, 1]", r"zoom = \[0"),
        (MODEL + "[stages.joint.train]\nepoch = 3", r"\[stages\.joint\.train\] has no key 'epoch'"),
        (
            MODEL + "[stages.joint.optimizer]\nlr = 3",
            r"\[stages\.joint\] has no table 'optimizer'; it has augment, loss, train",
        ),
        (MODEL + "[stages.joint.train]\nexclude = ['a']", r"\[stages\.joint\.train\] exclude.*\[train\]"),
        (MODEL + "[stages]\njoint = 3", r"stages\.joint must be a table"),
        (MODEL + "options = 3", r"\[model\] options = 3.*table"),
        (MODEL.replace("64", "'64'"), r"\[model\] height = '64'.*whole number"),
        (MODEL.replace("64", "250"), "size 250x96 is not a positive multiple of 32"),
        (MODEL.replace("height = 64\n", ""), r"\[model\] needs height"),
        ("[train]\nepochs = 3", r"\[model\] needs name, network, height, width"),
        ("train = 3\n" + MODEL, r"train must be a table, \[train\]"),
        ("[model\n", "not a valid recipe"),
    ],
)
def test_a_mistake_is_refused_with_the_file_and_the_key(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=named) as raised:
        load_recipe(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe[model]")
    with pytest.raises(InputError, match=r"mine\.toml"):
        load_recipe(path)


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        load_recipe(find_recipe(str(tmp_path / "nowhere.toml")))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("encoder = 'resnet'", "'resnet'"),
        ("encoder = 'googlenet'\nwidth = 3", "width"),
        ("encoder = 'googlenet'\ndecoder_widths = [8, 8, 8, 8, 8]", "decoder_widths"),
        ("encoder = 'googlenet'\ndecoder_widths = [-8]", "network 'multitask'"),
        ("encoder = 'googlenet'\ndropout = 3", "dropout"),
        ("", "encoder"),
    ],
)
def test_a_network_that_cannot_be_made_is_refused(tmp_path: Path, options: str, named: str) -> None:
    recipe = load_recipe(write(tmp_path, f"{MODEL}\n[model.options]\n{options}"))
    with pytest.raises(InputError, match=named):
        make_network(recipe.model)


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'mbdcnn-huge'"):
        make_network(load_recipe(write(tmp_path, MODEL.replace("multitask", "mbdcnn-huge"))).model)


def test_a_recipe_here_goes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("multitask-lite").resolve() == ENGINES / "multitask-lite.toml"
    mine = tmp_path / "engines/multitask-lite.toml"
    mine.parent.mkdir()
    mine.write_text(MODEL)
    assert find_recipe("multitask-lite").resolve() == mine


def test_a_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("multitask-lite.toml") == Path("multitask-lite.toml")
    assert find_recipe(str(tmp_path / "x.toml")) == tmp_path / "x.toml"


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/mine.toml").write_text(MODEL)
    with pytest.raises(
        InputError, match=r"'multitsk'.*first-steps, mbdcnn, mbdcnn-lite, mine, multitask, multitask-lite,"
    ):
        find_recipe("multitsk")


def test_the_reference_in_the_documentation_is_current() -> None:
    """To mend it: python -m lesioncli.training.reference docs/training.md."""
    document = (ENGINES.parent / "docs/training.md").read_text(encoding="utf-8")
    assert with_reference(document) == document


def test_every_key_is_in_the_reference() -> None:
    reference = recipe_reference()
    for section in TABLES.values():
        for key in dataclasses.fields(section):
            row = next(line for line in reference.splitlines() if line.startswith(f"| `{key.name}` |"))
            assert all(cell.strip() for cell in row.strip("|").split(" | "))
