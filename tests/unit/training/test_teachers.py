"""Distillation: the teachers' mean prediction, and how it is mixed into the targets."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.networks import lively
from torch.nn import functional

from lesioncli.errors import InputError
from lesioncli.models.mbdcnn import MBDCNN
from lesioncli.models.multitask import Multitask
from lesioncli.spec import ModelSpec
from lesioncli.training.checkpoint import make_network, save_checkpoint
from lesioncli.training.losses import class_loss
from lesioncli.training.recipe import LossWeights, load_recipe
from lesioncli.training.teachers import Teachers, teacher_path

pytestmark = pytest.mark.usefixtures("one_thread")

JOINT = ModelSpec(
    "joint",
    "multitask",
    64,
    64,
    options={"encoder": "efficientnet_lite0", "decoder_widths": [16, 8], "separable": True, "dropout": 0.5},
)
CASCADE = ModelSpec(
    "cascade", "mbdcnn", 32, 32, options={"encoder": "efficientnet_lite0", "reads": "pool", "width": 8, "fuse": True}
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("teachers")
    made = []
    for seed, spec in enumerate((JOINT, CASCADE)):
        torch.manual_seed(seed)
        made.append(folder / f"{spec.name}.safetensors")
        save_checkpoint(made[-1], lively(make_network(spec)), spec)
    return made


@pytest.fixture(scope="module")
def teachers(paths: list[Path]) -> Teachers:
    return Teachers(paths).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def test_the_answer_is_the_mean_over_networks_at_their_own_sizes(teachers: Teachers, images: torch.Tensor) -> None:
    joint, cascade = teachers.networks
    assert isinstance(joint, Multitask)
    assert isinstance(cascade, MBDCNN)
    with torch.no_grad():
        mask, heads = joint(images)
        small = functional.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
        seen = cascade(small)
    logits = [mask, functional.interpolate(seen.mask_logits, size=(64, 64), mode="bilinear")]
    classes = [heads.sigmoid(), seen.class_logits.softmax(1)[:, :2]]
    probability, answers = teachers(images)
    assert logits[0].std() > 0.05  # predictions differ between images
    torch.testing.assert_close(probability, torch.stack(logits).mean(0).sigmoid())
    torch.testing.assert_close(answers, torch.stack(classes).mean(0))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_truth_is_the_teachers(teachers: Teachers, images: torch.Tensor, share: float) -> None:
    masks, labels = torch.ones(2, 1, 64, 64), torch.tensor([[1.0, 0.0], [torch.nan, 0.0]])
    probability, answers = teachers(images)
    mixed, mixed_labels = teachers.mix_into(share, images, masks, labels)
    torch.testing.assert_close(mixed, 1 - share + share * probability)
    torch.testing.assert_close(mixed_labels[0, 0], 1 - share + share * answers[0, 0])
    torch.testing.assert_close(mixed_labels[:, 1], share * answers[:, 1])
    assert mixed_labels[1, 0].isnan(), "an unknown label stays unknown"


def test_teachers_stand_in_for_a_missing_mask(teachers: Teachers, images: torch.Tensor) -> None:
    masks = torch.stack([torch.ones(1, 64, 64), torch.full((1, 64, 64), torch.nan)])
    mixed, _ = teachers.mix_into(0.25, images, masks, torch.zeros(2, 2))
    probability, _ = teachers(images)
    torch.testing.assert_close(mixed[0], 0.75 + 0.25 * probability[0])
    torch.testing.assert_close(mixed[1], probability[1])


def test_teachers_do_not_learn(teachers: Teachers, images: torch.Tensor) -> None:
    probability, _ = teachers(images)
    assert not probability.requires_grad
    assert not any(each.requires_grad for each in teachers.parameters())


def test_three_logits_learn_from_probabilities() -> None:
    logits = torch.tensor([[0.2, -0.4, 1.1]])
    loss = class_loss(logits, torch.tensor([[0.3, 0.1]]), LossWeights(classes=1.0, class_smoothing=0.0))
    expected = -(torch.tensor([0.3, 0.1, 0.6]) * logits.log_softmax(1)).sum()
    torch.testing.assert_close(loss, expected)


def test_a_teacher_is_a_shipped_model_or_a_file(tmp_path: Path) -> None:
    assert teacher_path("multitask-lite").name == "multitask-lite.safetensors"
    other = tmp_path / "mine.safetensors"
    other.touch()
    assert teacher_path(str(other)) == other
    with pytest.raises(InputError, match=r"'nobody'"):
        teacher_path("nobody")


@pytest.mark.parametrize(
    ("train", "loss"), [('teachers = ["multitask-lite"]', ""), ("", "teachers = 0.5")], ids=["no share", "no teacher"]
)
def test_teachers_and_their_share_go_together(tmp_path: Path, train: str, loss: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        f'[model]\nname = "x"\nnetwork = "multitask"\nheight = 32\nwidth = 32\n[train]\n{train}\n[loss]\n{loss}\n'
    )
    with pytest.raises(InputError, match="give both or neither"):
        load_recipe(path)


def test_smoothing_comes_before_the_encoder(images: torch.Tensor) -> None:
    from lesioncli.models.encoders import smoothed

    plain = lively(make_network(JOINT))
    smooth = lively(make_network(replace(JOINT, options={**JOINT.options, "smooth": True})))
    smooth.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(smooth(images), plain(smoothed(images)))
    corner = smoothed(images)[0, 0, 0, 0]
    torch.testing.assert_close(corner, images[0, 0, :2, :2].mean())
