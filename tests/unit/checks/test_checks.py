"""Checks of data sets: each fault is found, drawn data have none, and what `train` refuses is found."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.command import call
from helpers.pictures import UInt8
from PIL import Image

from lesioncli.checks import checks, measure
from lesioncli.checks.checks import CHECKS, Check, Finding
from lesioncli.checks.measure import MeasuredData, hash_picture
from lesioncli.checks.run import CheckResult, check_data, check_document
from lesioncli.checks.similar import BLOCK, MAX_DISTANCE, MAX_NEIGHBOURS, find_similar
from lesioncli.demo.draw import DrawnCase, draw_case
from lesioncli.errors import ExitCode, InputError
from lesioncli.images.formats import Extra
from lesioncli.training.samples import (
    check_mask_sizes,
    read_sample_image,
    read_sample_mask,
    read_training_data,
    read_training_samples,
)

HEIGHT, WIDTH = 140, 200
HEADER = ("image", "melanoma", "seborrheic_keratosis", "lesion_id", "patient_id")


@cache
def draw(seed: int, height: int, width: int) -> DrawnCase:
    return draw_case(seed, height, width)


def save(path: Path, pixels: UInt8, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_labels(folder: Path, rows: Sequence[Sequence[object]]) -> None:
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER, *rows])


def drawn(folder: Path, first: int = 0, count: int = 4) -> Path:
    """Draw images with masks and labels, each of its own lesion and patient."""
    rows = []
    for seed in range(first, first + count):
        case = draw(seed, HEIGHT, WIDTH)
        save(folder / f"images/x{seed}.png", case.image)
        save(folder / f"masks/x{seed}.png", case.mask.astype(np.uint8) * 255)
        rows.append((f"x{seed}", seed % 2, 0, f"L{seed}", f"P{seed}"))
    write_labels(folder, rows)
    return folder


def found(result: CheckResult) -> dict[str, list[Finding]]:
    """Return what was found, by check."""
    return {check.name: list(findings) for check, findings in result.findings.items() if findings}


def files(findings: Sequence[Finding]) -> list[list[str]]:
    return [[path.name for path in finding.files] for finding in findings]


def test_drawn_data_have_no_faults(tmp_path: Path) -> None:
    result = check_data([drawn(tmp_path / "a")], [drawn(tmp_path / "b", first=4)])
    assert found(result) == {}
    assert (result.count, result.not_run) == (0, {})
    assert [check.name for check in result.findings] == [check.name for check in CHECKS]


def test_unreadable_tiny_and_mask_like_images(tmp_path: Path) -> None:
    drawn(tmp_path)
    (tmp_path / "images/x0.png").write_bytes(b"no image")
    save(tmp_path / "images/x1.png", draw(1, 100, 127).image)
    save(tmp_path / "masks/x1.png", draw(1, 100, 127).mask.astype(np.uint8) * 255)
    save(tmp_path / "images/x2.png", draw(2, HEIGHT, WIDTH).mask.astype(np.uint8) * 255)
    results = found(check_data([tmp_path]))
    assert {name: files(findings) for name, findings in results.items()} == {
        "unreadable": [["x0.png"]],
        "tiny": [["x1.png"]],
        "not_photographs": [["x2.png"]],
    }
    assert "127 x 100" in results["tiny"][0].detail


def test_faults_of_masks(tmp_path: Path) -> None:
    drawn(tmp_path, count=7)
    masks = tmp_path / "masks"
    lesion = draw(3, HEIGHT, WIDTH).mask.astype(np.uint8) * 255
    save(masks / "x0.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    save(masks / "x1.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    save(masks / "x2.png", lesion[:-1])
    save(masks / "x3.png", 255 - lesion)
    save(masks / "x4.png", lesion // 255)
    (masks / "x5.png").write_bytes(b"no image")
    results = found(check_data([tmp_path]))
    assert {name: files(findings) for name, findings in results.items()} == {
        "bad_masks": [["x4.png", "x4.png"], ["x5.png", "x5.png"]],
        "mask_sizes": [["x2.png", "x2.png"]],
        "empty_masks": [["x0.png", "x0.png"], ["x1.png", "x1.png"]],
        "inverted_masks": [["x3.png", "x3.png"]],
    }
    assert all(finding.files[1].parent.name == "masks" for finding in results["inverted_masks"])


def test_a_lesion_that_fills_its_image_is_not_inverted(tmp_path: Path) -> None:
    drawn(tmp_path, count=2)
    large = np.full((HEIGHT, WIDTH), 255, np.uint8)
    large[:3, :3] = 0
    save(tmp_path / "masks/x0.png", large)
    assert found(check_data([tmp_path])) == {}


def changed(image: UInt8, kind: str) -> UInt8:
    """Return what another export of the same photograph looks like."""
    if kind == "smaller":
        return np.asarray(cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA), np.uint8)
    if kind == "squeezed":
        return np.asarray(cv2.resize(image, (160, 160), interpolation=cv2.INTER_AREA), np.uint8)
    if kind == "lighter":
        return np.asarray(np.clip(image * 0.85 + 30, 0, 255), np.uint8)
    return np.asarray(cv2.GaussianBlur(image, (5, 5), 1), np.uint8)


@pytest.mark.parametrize("kind", ["smaller", "squeezed", "lighter", "blurred"])
def test_near_duplicates_are_found(tmp_path: Path, kind: str) -> None:
    for seed in range(6):
        save(tmp_path / f"x{seed}.png", draw(seed, 210, 280).image)
    save(tmp_path / "copy.jpg", changed(draw(3, 210, 280).image, kind), quality=70)
    results = found(check_data([tmp_path]))
    assert {name: files(findings) for name, findings in results.items()} == {
        "near_duplicates": [["copy.jpg", "x3.png"]]
    }


def test_files_of_the_same_content_are_found_once(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path / f"x{seed}.png", draw(seed, HEIGHT, WIDTH).image)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((tmp_path / "x1.png").read_bytes())
    results = found(check_data([tmp_path]))
    assert {name: files(findings) for name, findings in results.items()} == {
        "duplicates": [["a.png", "b.png", "x1.png"]]
    }


def test_renderings_of_one_image_are_near_duplicates_only_across_the_split(tmp_path: Path) -> None:
    image = draw(0, 210, 280).image
    for folder in ("a", "b", "c"):
        save(tmp_path / folder / "ISIC_0000001.png", changed(image, "smaller") if folder == "b" else image)
        save(tmp_path / folder / "ISIC_0000002.png", draw(ord(folder), 210, 280).image)
    (tmp_path / "c/ISIC_0000001.png").unlink()
    assert found(check_data([tmp_path / "a", tmp_path / "b"])) == {}
    results = found(check_data([tmp_path / "a", tmp_path / "c"], [tmp_path / "b"]))
    assert "in training and validation" in results["near_duplicates"][0].detail
    assert {finding.detail for finding in results["split"]} == {"the same image"}
    assert len(results["split"]) == 2


def test_even_images_are_not_near_duplicates(tmp_path: Path) -> None:
    for level in range(3):
        save(tmp_path / f"x{level}.png", np.full((HEIGHT, WIDTH, 3), 80 * level, np.uint8))
    assert hash_picture(np.full((HEIGHT, WIDTH, 3), 80, np.uint8)) == b""
    assert set(found(check_data([tmp_path]))) == {"not_photographs"}


def make_overlap(folder: Path, column: int) -> tuple[Path, Path]:
    training, validation = drawn(folder / "a"), drawn(folder / "b", first=4)
    rows = [[f"x{seed}", 0, 0, f"L{seed}", f"P{seed}"] for seed in range(4, 8)]
    rows[2][column] = "L1" if column == 3 else "P1"
    write_labels(validation, rows)
    return training, validation


def same_name(folder: Path) -> tuple[Path, Path]:
    return drawn(folder / "a"), drawn(folder / "b", first=3)


def same_content(folder: Path) -> tuple[Path, Path]:
    training, validation = drawn(folder / "a"), drawn(folder / "b", first=4)
    (validation / "images/x5.png").write_bytes((training / "images/x0.png").read_bytes())
    return training, validation


def labels_of_others(folder: Path) -> tuple[Path, Path]:
    training, validation = drawn(folder / "a"), drawn(folder / "b", first=4)
    write_labels(training, [(f"y{seed}", 0, 0, "", "") for seed in range(4)])
    return training, validation


def masks_of_others(folder: Path) -> tuple[Path, Path]:
    training, validation = drawn(folder / "a"), drawn(folder / "b", first=4)
    for path in list((training / "masks").iterdir()):
        path.rename(path.with_name(f"other-{path.name}"))
    return training, validation


def contradiction(folder: Path) -> tuple[Path, Path]:
    training, validation = drawn(folder / "a"), drawn(folder / "b", first=4)
    for number, label in ((1, 0), (2, 1)):
        save(training / f"images/ISIC_0000001_{number}.png", draw(20 + number, HEIGHT, WIDTH).image)
        with (training / "labels.csv").open("a", encoding="utf-8") as file:
            file.write(f"ISIC_0000001_{number},{label},0,,\n")
    return training, validation


def damage(name: str, pixels: UInt8 | None) -> Callable[[Path], tuple[Path, Path]]:
    def make(folder: Path) -> tuple[Path, Path]:
        training, validation = drawn(folder / "a"), drawn(folder / "b", first=4)
        (training / name).write_bytes(b"no image")
        if pixels is not None:
            save(training / name, pixels)
        return training, validation

    return make


REFUSED: dict[str, tuple[str, Callable[[Path], tuple[Path, Path]]]] = {
    "the same image": ("split", same_name),
    "the same content": ("split", same_content),
    "the same lesion": ("split", lambda folder: make_overlap(folder, 3)),
    "the same patient": ("split", lambda folder: make_overlap(folder, 4)),
    "labels of other images": ("tables", labels_of_others),
    "masks of other images": ("tables", masks_of_others),
    "labels contradict each other": ("tables", contradiction),
    "an unreadable image": ("unreadable", damage("images/x1.png", None)),
    "an unreadable mask": ("bad_masks", damage("masks/x1.png", None)),
    "a mask of 0 and 1": ("bad_masks", damage("masks/x1.png", np.eye(HEIGHT, WIDTH, dtype=np.uint8))),
    "a mask of another size": ("mask_sizes", damage("masks/x1.png", np.eye(9, 9, dtype=np.uint8) * np.uint8(255))),
}


def refuse_like_train(training: Path, validation: Path) -> None:
    """Read data as `train` does, up to the last image."""
    read_training_samples([training])
    data = read_training_data([training], [validation])
    check_mask_sizes([*data.training, *data.validation])
    for sample in (*data.training, *data.validation):
        image = read_sample_image(sample, (64, 64))
        if sample.mask:
            read_sample_mask(sample.mask, image.stored_hw)


def test_train_accepts_what_has_no_faults(tmp_path: Path) -> None:
    refuse_like_train(drawn(tmp_path / "a"), drawn(tmp_path / "b", first=4))


@pytest.mark.parametrize("fault", REFUSED)
def test_what_train_refuses_is_found(tmp_path: Path, fault: str) -> None:
    check, make = REFUSED[fault]
    training, validation = make(tmp_path)
    with pytest.raises(InputError):
        refuse_like_train(training, validation)
    assert check in found(check_data([training], [validation]))


def test_the_split_of_isic_is_checked(tmp_path: Path) -> None:
    for split, seeds in (("Training", (0, 1, 2)), ("Validation", (3, 4))):
        for seed in seeds:
            folder = tmp_path / f"ISIC-2017_{split}_Data"
            save(folder / f"ISIC_{seed:07d}.png", draw(seed % 4, HEIGHT, WIDTH).image)
            mask = draw(seed % 4, HEIGHT, WIDTH).mask.astype(np.uint8) * 255
            save(tmp_path / f"ISIC-2017_{split}_Part1_GroundTruth/ISIC_{seed:07d}_segmentation.png", mask)
    result = check_data([tmp_path])
    assert check_document(result)["images"] == {"training": 3, "validation": 2}
    assert files(found(result)["split"]) == [["ISIC_0000000.png", "ISIC_0000004.png"]]


def test_a_check_is_added_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_all(measured: MeasuredData) -> list[Finding]:
        return [Finding((path,), "an image") for path in measured.images]

    needs = Check("needs", "things that need more", find_all, Extra("more", "no_such_module"))
    monkeypatch.setattr(checks, "CHECKS", (*CHECKS, Check("all", "all images", find_all), needs))
    result = check_data([drawn(tmp_path)])
    assert files(found(result)["all"]) == [[f"x{seed}.png"] for seed in range(4)]
    assert "pip install" in result.not_run[needs]
    assert check_document(result)["not_run"].keys() == {"needs"}
    assert "all images" in call("check", tmp_path).stdout


def test_without_the_extra_near_duplicates_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Extra, "is_installed", False)
    result = check_data([drawn(tmp_path)])
    assert [check.name for check in result.not_run] == ["near_duplicates"]
    assert all(not facts.perceptual_hash for facts in measure.measure(result.data).images.values())


def test_similar_hashes_are_those_of_all_pairs() -> None:
    """Also across blocks; compared with every pair."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (BLOCK + 60, 32), np.uint8)
    for number in range(0, 300, 10):  # a near copy in the next block, or in the same one
        copy = np.unpackbits(hashes[number])
        copy[rng.permutation(256)[: number % 60]] ^= 1
        hashes[number + (255 if number % 20 else 3)] = np.packbits(copy)
    bits = np.unpackbits(hashes, axis=1).astype(np.int16)
    distances = (bits[:, None] != bits[None]).sum(-1)
    first, second = np.nonzero(np.triu(distances <= MAX_DISTANCE, 1))
    want = sorted((int(distances[pair]), *map(int, pair)) for pair in zip(first, second, strict=True))
    assert find_similar([row.tobytes() for row in hashes]) == want
    assert len(want) > 15


def test_many_equal_hashes_give_few_pairs() -> None:
    assert len(find_similar([bytes(32)] * 300)) <= 300 * (MAX_NEIGHBOURS + 1)
    assert find_similar([bytes(32)]) == find_similar([]) == []


def test_the_command_prints_writes_and_exits_with_5(tmp_path: Path) -> None:
    training, validation = same_content(tmp_path)
    (validation / "images/x6.png").write_bytes(b"no image")
    page = tmp_path / "out" / "check.html"
    shown = call("check", training, "--val", validation, "--html", page)
    assert shown.exit_code == ExitCode.SOME_FAILED
    assert "x6.png" in shown.stderr
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/webp;base64,") >= 3
    assert "<script" not in html
    assert "://" not in html
    printed = call("check", training, "--val", validation, "--json")
    document = json.loads(printed.stdout)
    assert document["findings"]["unreadable"][0]["files"] == [str(validation / "images/x6.png")]
    assert document["findings"]["tiny"] == []
    assert len(document["findings"]["split"]) == 1
    assert printed.exit_code == ExitCode.SOME_FAILED
    assert call("check", training, "--html", page).exit_code == ExitCode.OK


def test_bad_arguments_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    drawn(tmp_path / "a")
    note = tmp_path / "note.html"
    note.write_text("my notes")
    assert call("check", tmp_path / "none").exit_code == ExitCode.INPUT
    assert call("check", tmp_path / "a", "--val", tmp_path / "none").exit_code == ExitCode.INPUT
    assert call("check", tmp_path / "a", "--html", tmp_path / "x.txt").exit_code == ExitCode.USAGE
    assert call("check", tmp_path / "a", "--html", note).exit_code == ExitCode.INPUT
    assert note.read_text() == "my notes"


def test_check_loads_no_torch(tmp_path: Path) -> None:
    drawn(tmp_path)
    script = (
        "import sys\nfrom lesioncli.cli.app import app\n"
        f"try: app(['check', {str(tmp_path)!r}])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert 'imagehash' in sys.modules\nassert not {'torch', 'openvino', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
