"""Training data in all layouts; every message names the faulty file."""

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base as Tag

from lesioncli.demo.draw import draw_case
from lesioncli.errors import InputError
from lesioncli.images.geometry import UInt8, to_upright
from lesioncli.training.augment import augment
from lesioncli.training.datasets import AugmentedSamples, Batch, EpochSampler, SampleKey
from lesioncli.training.groups import SampleGroup
from lesioncli.training.recipe import AugmentSettings
from lesioncli.training.samples import (
    Sample,
    fingerprint,
    has_split,
    read_sample_mask,
    read_samples,
    read_training_data,
    read_training_samples,
)

HEIGHT, WIDTH = 48, 64
COLUMNS = ("melanoma", "seborrheic_keratosis")
STILL = AugmentSettings(
    zoom=(1.0, 1.0),
    aspect=1,
    shift=0,
    reflect=0,
    brightness=0,
    contrast=0,
    saturation=0,
    colour_cast=0,
    blur=0,
    sharpen=0,
    jpeg=0,
    hair=0,
)


def save(path: Path, pixels: UInt8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_labels(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("image", *COLUMNS)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def drawn(image: Path, mask: Path, seed: int) -> list[object]:
    """Draw an image and its mask into these files; returns the row of the label table."""
    case = draw_case(seed, HEIGHT, WIDTH)
    save(image, case.image)
    save(mask, case.mask.astype(np.uint8) * 255)
    return [image.stem, *(float(case.label == name) for name in COLUMNS)]


def challenge(folder: Path, split: str = "Training", first: int = 0, count: int = 3) -> Path:
    """ISIC-2017's own layout, with the superpixels that lie among its images."""
    names = [f"ISIC_{number:07d}" for number in range(first, first + count)]
    data, masks = folder / f"ISIC-2017_{split}_Data", folder / f"ISIC-2017_{split}_Part1_GroundTruth"
    rows = [
        drawn(data / f"{name}.jpg", masks / f"{name}_segmentation.png", seed)
        for seed, name in enumerate(names, start=first)
    ]
    write_labels(folder / f"ISIC-2017_{split}_Part3_GroundTruth.csv", rows, ("image_id", *COLUMNS))
    save(data / f"{names[0]}_superpixels.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    return folder


def plain(folder: Path, count: int = 3) -> Path:
    names = [f"x{number}" for number in range(count)]
    rows = [drawn(folder / f"images/{name}.png", folder / f"masks/{name}.png", n) for n, name in enumerate(names)]
    write_labels(folder / "labels.csv", rows)
    return folder


def read_one(folder: Path) -> Batch:
    """The first sample without augmentation."""
    return AugmentedSamples(read_samples(folder, "Training"), (HEIGHT, WIDTH), STILL, seed=0)[SampleKey(0, 0, 0)]


@pytest.mark.parametrize("layout", [challenge, plain])
def test_both_layouts_are_read_in_order_of_names(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    samples = read_samples(layout(tmp_path), "Training")
    assert [each.name for each in samples] == sorted(each.name for each in samples)
    # Three consecutive seeds draw a melanoma, a seborrheic keratosis and a nevus.
    assert [each.labels for each in samples] == [(1, 0), (0, 1), (0, 0)]
    for each in samples:
        assert each.image.stem == each.name
        assert each.mask
        assert each.mask.stem.removesuffix("_segmentation") == each.name
        assert read_sample_mask(each.mask, (HEIGHT, WIDTH)).shape == (HEIGHT, WIDTH)


def test_superpixels_hidden_files_and_other_files_are_no_images(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    (folder / "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv").write_text("image_id\n")
    (folder / "ISIC-2017_Training_Data/._ISIC_0000000.jpg").write_bytes(b"macOS leaves these beside each file")
    assert [each.name for each in read_samples(folder, "Training")] == ["ISIC_0000000", "ISIC_0000001", "ISIC_0000002"]


def test_each_split_is_its_own(tmp_path: Path) -> None:
    challenge(tmp_path, "Training", first=0, count=2)
    challenge(tmp_path, "Validation", first=10, count=1)
    assert [each.name for each in read_samples(tmp_path, "Training")] == ["ISIC_0000000", "ISIC_0000001"]
    assert [each.name for each in read_samples(tmp_path, "Validation")] == ["ISIC_0000010"]
    assert has_split(tmp_path, "Validation")
    assert not has_split(tmp_path, "Test_v2")


def test_excluded_images_are_left_out_and_need_no_mask(tmp_path: Path) -> None:
    folder = challenge(tmp_path)
    (folder / "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000001_segmentation.png").unlink()
    names = [each.name for each in read_samples(folder, "Training", exclude=["ISIC_0000001", "ISIC_7777777"])]
    assert names == ["ISIC_0000000", "ISIC_0000002"]


def test_labels_without_an_image_are_passed_over_and_images_without_a_label_are_unknown(tmp_path: Path) -> None:
    folder = plain(tmp_path)
    write_labels(folder / "labels.csv", [["x1", "", 1], ["somewhere else", 1, 0]])
    labels = np.array([each.labels for each in read_samples(folder, "Training")])
    np.testing.assert_array_equal(labels, [[np.nan, np.nan], [np.nan, 1], [np.nan, np.nan]])


def test_ids_of_labels_may_have_the_suffix_of_the_picture(tmp_path: Path) -> None:
    folder = plain(tmp_path)
    write_labels(folder / "labels.csv", [["x0.jpg", 0, 1]])
    first, second, _ = read_samples(folder, "Training")
    assert (first.labels, first.is_labelled, second.is_labelled) == ((0, 1), True, False)


@pytest.mark.parametrize(
    ("rows", "said"),
    [([["x0", 1, 0], ["x0", 0, 1]], "duplicate image id x0"), ([["y", 1, 0]], r"labels\.csv: .*\by\b.*\bx0\b")],
)
def test_labels_of_one_image_twice_or_of_no_image_are_refused(
    tmp_path: Path, rows: list[list[object]], said: str
) -> None:
    folder = plain(tmp_path)
    write_labels(folder / "labels.csv", rows)
    with pytest.raises(InputError, match=said):
        read_samples(folder, "Training")


@pytest.mark.parametrize(
    "others", [["X1", "X2"], ["x01", "x02"], ["x1_downsampled", "x2_downsampled"], ["y7", "z8"]], ids=str
)
def test_ids_that_differ_from_the_names_of_most_images_are_refused(tmp_path: Path, others: list[str]) -> None:
    folder = plain(tmp_path)
    write_labels(folder / "labels.csv", [["x0", 1, 0], *([name, 0, 1] for name in others)])
    with pytest.raises(InputError, match=rf"labels\.csv: 2 of 3 images .*{others[0]}.*x1"):
        read_samples(folder, "Training")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_labels_are_read_as_by_evaluate(tmp_path: Path, encoding: str) -> None:
    folder = plain(tmp_path)
    table = "sep=;\nimage;melanoma;seborrheic_keratosis\nimages/x0.jpg;TRUE;0,0\nx1;;1\n"
    (folder / "labels.csv").write_text(table, encoding=encoding)
    first, second, third = read_samples(folder, "Training")
    assert first.labels == (1, 0)
    assert (str(second.labels[0]), second.labels[1], third.is_labelled) == ("nan", 1, False)


def test_a_plain_folder_without_labels_trains_the_mask_alone(tmp_path: Path) -> None:
    folder = plain(tmp_path)
    (folder / "labels.csv").unlink()
    assert np.isnan([each.labels for each in read_samples(folder, "Training")]).all()


@pytest.mark.parametrize(
    "header", [("image", *COLUMNS), ("isic_id", *COLUMNS), ("\ufeffimage_id", "age", *COLUMNS[::-1])]
)
def test_label_columns_go_by_name(tmp_path: Path, header: tuple[str, ...]) -> None:
    folder = plain(tmp_path, count=1)
    values: dict[str, object] = {"melanoma": 0, "seborrheic_keratosis": "1.0", "age": 55}
    write_labels(folder / "labels.csv", [[values.get(name, "x0") for name in header]], header)
    assert read_samples(folder, "Training")[0].labels == (0, 1)


def with_masks_of_other_images(folder: Path) -> Path:
    for path in (folder / "masks").iterdir():
        path.rename(path.with_name(f"lesion of {path.name}"))
    return folder / "masks"


def without_masks_and_labels(folder: Path) -> Path:
    shutil.rmtree(folder / "masks")
    (folder / "labels.csv").unlink()
    return folder


def without_masks_and_with_unknown_labels(folder: Path) -> Path:
    shutil.rmtree(folder / "masks")
    write_labels(folder / "labels.csv", [["x0", "", ""]])
    return folder


def without_images(folder: Path) -> Path:
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    return folder / "images"


def without_layout(folder: Path) -> Path:
    shutil.rmtree(folder / "images")
    return folder


def with_wrong_label(folder: Path) -> Path:
    write_labels(folder / "labels.csv", [["x0", 1, 0], ["x1", "yes", 0]])
    return folder / "labels.csv, line 3: melanoma is 'yes'"


def with_short_row(folder: Path) -> Path:
    write_labels(folder / "labels.csv", [["x0", 1]])
    return folder / "labels.csv, line 2"


def without_id_column(folder: Path) -> Path:
    write_labels(folder / "labels.csv", [["x0", 1, 0]], ("picture", *COLUMNS))
    return folder / "labels.csv"


def without_class_column(folder: Path) -> Path:
    write_labels(folder / "labels.csv", [["x0", 1]], ("image", "melanoma"))
    return folder / "labels.csv"


def with_empty_labels(folder: Path) -> Path:
    (folder / "labels.csv").write_text("")
    return folder / "labels.csv"


@pytest.mark.parametrize(
    "spoil",
    [
        with_masks_of_other_images,
        without_masks_and_labels,
        without_masks_and_with_unknown_labels,
        without_images,
        without_layout,
        with_wrong_label,
        with_short_row,
        without_id_column,
        without_class_column,
        with_empty_labels,
    ],
)
def test_faulty_folders_are_refused_with_the_name_of_what_is_wrong(
    tmp_path: Path, spoil: Callable[[Path], Path]
) -> None:
    at_fault = spoil(plain(tmp_path))
    with pytest.raises(InputError) as raised:
        read_samples(tmp_path, "Training")
    assert str(raised.value).startswith(str(at_fault))


def test_a_folder_of_labelled_images_needs_no_masks(tmp_path: Path) -> None:
    rows = [drawn(tmp_path / f"images/x{n}.jpg", tmp_path / "unused.png", n) for n in range(3)]
    table = [[name, "MEL", *labels] for name, *labels in rows[:2]] + [["x2", "", "", ""]]
    write_labels(tmp_path / "labels/labels.csv", table, ("image", "diagnosis", *COLUMNS))
    samples = read_samples(tmp_path, "Training")
    assert [sample.mask for sample in samples] == [None] * 3
    assert [sample.diagnosis for sample in samples] == ["mel", "mel", ""]
    loaded = AugmentedSamples([*samples, replace(samples[0], diagnosis="bcc")], (32, 32), STILL, seed=0)
    assert [int(loaded[SampleKey(0, 0, index)][3]) for index in range(4)] == [1, 1, -1, 0]
    np.testing.assert_array_equal([sample.labels for sample in samples], [(1, 0), (0, 1), (np.nan, np.nan)])


def test_a_sample_without_a_mask_has_the_same_pixels_and_an_unknown_mask(tmp_path: Path) -> None:
    plain(tmp_path)
    pixels, _, labels, _ = read_one(tmp_path)
    (tmp_path / "masks/x0.png").unlink()
    same, mask, same_labels, _ = read_one(tmp_path)
    assert torch.equal(pixels, same)
    assert torch.equal(labels, same_labels)
    assert mask.shape == (1, HEIGHT, WIDTH)
    assert mask.isnan().all()
    assert read_samples(tmp_path, "Training")[1].mask == tmp_path / "masks/x1.png"


def test_renderings_of_an_image_share_what_one_of_them_lacks(tmp_path: Path) -> None:
    first, second = challenge(tmp_path / "frames", count=2), tmp_path / "crops"
    (first / "ISIC-2017_Training_Part3_GroundTruth.csv").unlink()
    for name in ("ISIC_0000000", "ISIC_0000000_crop", "isic_0000001"):
        save(second / f"images/{name}.png", draw_case(0, HEIGHT, WIDTH).image)
    write_labels(second / "labels.csv", [["ISIC_0000000", 1, 0, "L1"]], ("image", *COLUMNS, "lesion_id"))
    samples = read_training_samples([first, second])
    np.testing.assert_array_equal(
        [sample.labels for sample in samples],
        [(1, 0), (np.nan, np.nan), (1, 0), (1, 0), (np.nan, np.nan)],
    )
    assert [sample.lesion for sample in samples] == ["L1", "", "L1", "L1", ""]
    assert [sample.mask is None for sample in samples] == [False, False, True, True, True]  # of another size


def test_renderings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    first, second = challenge(tmp_path / "frames", count=2), challenge(tmp_path / "crops", count=2)
    write_labels(second / "ISIC-2017_Training_Part3_GroundTruth.csv", [["ISIC_0000000", 0, 0]], ("image_id", *COLUMNS))
    with pytest.raises(InputError, match=r"crops.*ISIC_0000000\.jpg: melanoma is 0.*frames"):
        read_training_samples([first, second])


def test_a_list_of_ids_can_be_excluded_by_its_name(tmp_path: Path) -> None:
    for name in ("ISIC_0012237", "ISIC_0013737_crop", "ISIC_0012238"):
        drawn(tmp_path / f"images/{name}.png", tmp_path / f"masks/{name}.png", 0)
    samples = read_training_samples([tmp_path], ["isic2017-test-duplicates"])
    assert [sample.name for sample in samples] == ["ISIC_0012238"]


def with_truncated_image(folder: Path) -> Path:
    path = folder / "images/x0.png"
    path.write_bytes(path.read_bytes()[:600])
    return path


def with_text_for_an_image(folder: Path) -> Path:
    path = folder / "images/x0.png"
    path.write_text("not a picture")
    return path


def with_text_for_a_mask(folder: Path) -> Path:
    path = folder / "masks/x0.png"
    path.write_text("not a mask")
    return path


def with_empty_mask_file(folder: Path) -> Path:
    path = folder / "masks/x0.png"
    path.write_bytes(b"")
    return path


def with_mask_gone_since(folder: Path) -> Path:
    path = folder / "masks/x0.png"
    path.unlink()
    return path


def with_mask_of_another_size(folder: Path) -> Path:
    path = folder / "masks/x0.png"
    save(path, np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    return path


@pytest.mark.parametrize(
    "spoil",
    [
        with_truncated_image,
        with_text_for_an_image,
        with_text_for_a_mask,
        with_empty_mask_file,
        with_mask_gone_since,
        with_mask_of_another_size,
    ],
)
def test_faulty_files_are_refused_by_name_when_they_are_read(tmp_path: Path, spoil: Callable[[Path], Path]) -> None:
    samples = AugmentedSamples(read_samples(plain(tmp_path), "Training"), (32, 32), STILL, seed=0)
    samples[SampleKey(0, 0, 0)]
    at_fault = spoil(tmp_path)
    with pytest.raises(InputError) as raised:
        samples[SampleKey(0, 0, 0)]
    assert str(raised.value).startswith(f"{at_fault}: ")


def test_the_challenge_layout_has_its_own_validation_split(tmp_path: Path) -> None:
    challenge(tmp_path, "Training", first=0, count=3)
    challenge(tmp_path, "Validation", first=10, count=2)
    data = read_training_data([tmp_path], [tmp_path], exclude=["ISIC_0000002", "ISIC_0000010"])
    assert [sample.name for sample in data.training] == ["ISIC_0000000", "ISIC_0000001"]
    # An image that is excluded from training may still be used for validation.
    assert [sample.name for sample in data.validation] == ["ISIC_0000010", "ISIC_0000011"]


def test_folders_are_joined(tmp_path: Path) -> None:
    first, second = challenge(tmp_path / "whole"), challenge(tmp_path / "crops")
    data = read_training_data([first, second], [plain(tmp_path / "mine")])
    assert [sample.image.parent.parent for sample in data.training] == [first] * 3 + [second] * 3
    assert len(data.validation) == 3


def test_images_in_both_are_refused(tmp_path: Path) -> None:
    challenge(tmp_path, "Training", first=0, count=3)
    challenge(tmp_path, "Validation", first=2, count=1)
    with pytest.raises(InputError, match=r"1 images .*ISIC_0000002"):
        read_training_data([tmp_path], [tmp_path])


def test_files_of_one_content_are_one_image(tmp_path: Path) -> None:
    first, second = plain(tmp_path / "first"), plain(tmp_path / "second")
    (second / "labels.csv").unlink()
    for number, path in enumerate(sorted((second / "images").iterdir())):
        renamed = f"other{number}"
        (second / "masks" / f"{path.stem}.png").replace(second / "masks" / f"{renamed}.png")
        path.rename(path.with_stem(renamed))
    with pytest.raises(InputError, match=r"first.*x.*second.*other0"):
        read_training_data([first], [second])


@pytest.mark.parametrize("column", ["lesion_id", "patient_id"])
def test_images_of_one_lesion_or_patient_are_not_in_both(tmp_path: Path, column: str) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for number, folder in enumerate(folders):
        for name in ("a", "b"):
            save(folder / "images" / f"{number}{name}.png", np.full((8, 8, 3), 10 * number + ord(name), np.uint8))
        rows = [[f"{number}a", 0, 1, "same"], [f"{number}b", 0, 1, f"own{number}"]]
        write_labels(folder / "labels.csv", rows, ("image", *COLUMNS, column))
    with pytest.raises(InputError, match=rf"1 images.*{column}.*0a\.png.*1a\.png"):
        read_training_data(folders[:1], folders[1:])


@pytest.mark.parametrize("layout", [plain, challenge])
def test_a_folder_without_a_validation_split_is_not_both(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    folder = layout(tmp_path)
    with pytest.raises(InputError, match=r"no validation split.*--val"):
        read_training_data([folder], [folder])


def mask_at(path: Path, stored_hw: tuple[int, int]) -> UInt8:
    return read_sample_mask(path, stored_hw)


def test_a_mask_is_lesion_above_128_as_in_the_official_scorer(tmp_path: Path) -> None:
    save(tmp_path / "mask.png", np.array([[0, 1, 128, 129, 255]], np.uint8))
    assert mask_at(tmp_path / "mask.png", (1, 5)).tolist() == [[0, 0, 0, 255, 255]]


def test_a_mask_of_zeros_and_ones_is_refused_not_learnt_as_empty(tmp_path: Path) -> None:
    save(tmp_path / "mask.png", np.array([[0, 1, 1]], np.uint8))
    with pytest.raises(InputError, match=r"mask\.png: .*0/1 mask"):
        mask_at(tmp_path / "mask.png", (1, 3))


def test_a_sample_is_what_its_files_say(tmp_path: Path) -> None:
    pixels, mask, labels, _ = read_one(plain(tmp_path))
    assert pixels.shape == (3, HEIGHT, WIDTH)
    assert mask.shape == (1, HEIGHT, WIDTH)
    assert pixels.dtype == mask.dtype == labels.dtype == torch.float32
    assert labels.tolist() == [1, 0]
    case = draw_case(0, HEIGHT, WIDTH)
    # The framing turns by any angle, so compare what a turn keeps: the lesion lies inside and its colours with it.
    inside = pixels.permute(1, 2, 0)[mask[0] > 0.5].mean(0).numpy()
    assert inside == pytest.approx(case.image[case.mask].mean(0) / 255, abs=0.05)


def test_a_sample_is_the_augmentation_of_its_key(tmp_path: Path) -> None:
    samples = read_samples(plain(tmp_path), "Training")
    pixels, mask, *_ = AugmentedSamples(samples, (32, 64), AugmentSettings(), seed=7)[SampleKey(5, 3, 1)]
    with Image.open(samples[1].image) as file:
        picture = np.asarray(file)
    expected = augment(
        picture,
        read_sample_mask(tmp_path / "masks/x1.png", (HEIGHT, WIDTH)),
        (32, 64),
        AugmentSettings(),
        np.random.default_rng((7, 5, 3, 1)),
    )
    assert np.array_equal((pixels.numpy() * 255).round().astype(np.uint8), expected[0].transpose(2, 0, 1))
    assert np.array_equal((mask.numpy()[0] * 255).round().astype(np.uint8), expected[1])


def test_the_key_and_the_seed_decide_a_sample_and_nothing_else_does(tmp_path: Path) -> None:
    samples = read_samples(plain(tmp_path), "Training")

    def draw(epoch: int, place: int, index: int, seed: int = 0) -> bytes:
        fresh = AugmentedSamples(samples, (32, 32), AugmentSettings(), seed)
        return fresh[SampleKey(epoch, place, index)][0].numpy().tobytes()

    first = draw(0, 0, 0)
    np.random.seed(1)  # noqa: NPY002 - the global generators must not matter
    torch.manual_seed(1)
    assert draw(0, 0, 0) == first
    assert len({first, draw(1, 0, 0), draw(0, 1, 0), draw(0, 0, 1), draw(0, 0, 0, seed=1)}) == 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_turns_with_its_picture(tmp_path: Path, orientation: int) -> None:
    """An image of its mask, stored with an EXIF rotation: both must be upright and equal."""
    case = draw_case(1, HEIGHT, WIDTH)
    mask = case.mask.astype(np.uint8) * 255
    exif = Image.Exif()
    exif[Tag.Orientation] = orientation
    (tmp_path / "images").mkdir()
    Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(tmp_path / "images/x0.png", exif=exif)
    save(tmp_path / "masks/x0.png", mask)
    pixels, bent, *_ = read_one(tmp_path)
    lesion, outline = pixels[0] > 0.5, bent[0] > 0.5
    assert (lesion & outline).sum() / (lesion | outline).sum() > 0.97
    upright = to_upright(mask, orientation)
    same_share = (upright > 0).mean()
    assert outline.float().mean().item() == pytest.approx(same_share, abs=0.03)


def test_a_large_jpeg_that_is_decoded_smaller_keeps_its_mask(tmp_path: Path) -> None:
    case = draw_case(1, 480, 640)
    mask = case.mask.astype(np.uint8) * 255
    save(tmp_path / "images/x0.jpg", np.repeat(mask[..., None], 3, 2))
    save(tmp_path / "masks/x0.png", mask)
    pixels, bent, *_ = AugmentedSamples(read_samples(tmp_path, "Training"), (96, 96), STILL, seed=0)[SampleKey(0, 0, 0)]
    lesion, outline = pixels[0] > 0.5, bent[0] > 0.5
    assert (lesion & outline).sum() / (lesion | outline).sum() > 0.97


def single(weights: Sequence[float]) -> list[SampleGroup]:
    """Groups of one sample each."""
    return [SampleGroup(((index,),), weight) for index, weight in enumerate(weights)]


def batches(count: int, batch: int, seed: int, epoch: int, share: tuple[int, int] = (0, 1)) -> list[list[SampleKey]]:
    sampler = EpochSampler(single([1.0] * count), batch, seed, *share)
    sampler.epoch = epoch
    return list(sampler)


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    first = batches(10, 3, seed=4, epoch=2)
    torch.manual_seed(1)
    assert batches(10, 3, seed=4, epoch=2) == first
    indices = {tuple(i for batch in batches(10, 3, s, e) for _, _, i in batch) for s, e in ((4, 2), (4, 3), (5, 2))}
    assert len(indices) == 3


def test_an_epoch_takes_each_sample_at_most_once_and_leaves_the_short_tail_out() -> None:
    taken = batches(10, 3, seed=0, epoch=6)
    assert [len(batch) for batch in taken] == [3, 3, 3]
    assert len(EpochSampler(single([1.0] * 10), 3, 0)) == 3
    keys = [key for batch in taken for key in batch]
    assert {epoch for epoch, _, _ in keys} == {6}
    assert [place for _, place, _ in keys] == list(range(9))
    assert len({index for _, _, index in keys}) == 9
    assert {index for _, _, index in keys} < set(range(10))


def test_epochs_leave_different_samples_out() -> None:
    left_out = {frozenset(range(10)) - {i for batch in batches(10, 3, 0, e) for _, _, i in batch} for e in range(20)}
    assert len(left_out) > 3


def test_a_batch_larger_than_the_data_is_all_of_it() -> None:
    (batch,) = batches(4, 16, seed=0, epoch=0)
    assert sorted(index for _, _, index in batch) == [0, 1, 2, 3]


def test_devices_share_every_batch_out_between_them() -> None:
    whole = batches(11, 4, seed=1, epoch=3)
    shares = [batches(11, 4, seed=1, epoch=3, share=(which, 2)) for which in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    assert all(len(batch) == 2 for share in shares for batch in share)


def test_more_devices_than_samples_in_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match=r"batch of 2 .* 3 processes"):
        EpochSampler(single([1.0] * 8), 2, seed=0, rank=0, processes=3)


def counted(weights: list[float], epoch: int) -> list[int]:
    sampler = EpochSampler(single(weights), 1, seed=0)
    sampler.epoch = epoch
    taken = [index for batch in sampler for _, _, index in batch]
    assert len(taken) == len(weights)
    return [taken.count(index) for index in range(len(weights))]


def test_a_sample_is_drawn_as_often_as_its_weight_says() -> None:
    """Weights 3, 1 and .5 over eight samples: in each epoch the number expected, rounded down or up."""
    weights = [3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    expected = np.array(weights) * 8 / sum(weights)
    many = np.array([counted(weights, epoch) for epoch in range(200)])
    assert ((many >= np.floor(expected)) & (many <= np.ceil(expected))).all()
    assert many.mean(0) == pytest.approx(expected, abs=0.12)


def test_a_repeated_sample_is_bent_anew_each_time(tmp_path: Path) -> None:
    samples = read_samples(plain(tmp_path), "Training")
    sampler = EpochSampler(single([9.0, 1.0, 1.0]), 3, seed=0)
    keys = [key for batch in sampler for key in batch]
    twice = [key for key in keys if key[2] == 0][:2]
    bent = AugmentedSamples(samples, (32, 32), AugmentSettings(), seed=0)
    assert not torch.equal(bent[twice[0]][0], bent[twice[1]][0])


def test_a_fingerprint_tells_names_labels_and_files_apart(tmp_path: Path) -> None:
    samples = read_samples(plain(tmp_path), "Training")
    again = read_samples(tmp_path, "Training")
    assert fingerprint(samples) == fingerprint(again)
    others: list[Sequence[Sample]] = [
        samples[::-1],
        samples[:2],
        [replace(samples[0], name="y"), *samples[1:]],
        [replace(samples[0], labels=(0.0, 0.0)), *samples[1:]],
        [replace(samples[0], labels=(float("nan"), 0.0)), *samples[1:]],
        [replace(samples[0], mask=None), *samples[1:]],
        [replace(samples[0], lesion="a"), *samples[1:]],
        [replace(samples[0], patient="a"), *samples[1:]],
        [replace(samples[0], diagnosis="a"), *samples[1:]],
    ]
    known = {fingerprint(each) for each in others}
    assert len(known) == len(others)
    assert fingerprint(samples) not in known
    before = fingerprint(samples)
    save(tmp_path / "masks/x0.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert fingerprint(samples) != before
