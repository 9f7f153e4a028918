"""Which pixels of a mask file are lesion, and which files are refused: formats, grey levels, damage."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.encoded_images import chunk
from helpers.encoded_images import png as encoded_png
from helpers.evaluation_data import PERFECT, UInt8, block, jaccards, only_case, problems, save_mask
from PIL import Image

from lesioncli.evaluation.evaluate import evaluate
from lesioncli.evaluation.reading.masks import MaskRole, read_mask

MASK = block(4, 5)
ROLES = {"labels": MaskRole.GROUND_TRUTH, "masks": MaskRole.PREDICTION}


def test_lesion_begins_above_128(truth: Path, masks: Path) -> None:
    levels = np.array([[0, 127, 128, 129, 255]], np.uint8)
    save_mask(truth / "x.png", levels)
    save_mask(masks / "x.png", np.array([[0, 0, 0, 255, 255]], np.uint8))
    assert jaccards(evaluate(truth, masks)) == {"x": 1.0}
    assert jaccards(evaluate(masks, truth)) == {"x": 1.0}


def test_16_bits_are_scaled_to_8(truth: Path, masks: Path) -> None:
    levels = np.array([[0, 128 * 257, 128 * 257 + 1, 65535]], np.uint16)
    save_mask(truth / "x.png", Image.fromarray(levels))
    save_mask(masks / "x.png", np.array([[0, 0, 255, 255]], np.uint8))
    assert jaccards(evaluate(truth, masks)) == {"x": 1.0}


def grey(mask: UInt8) -> Image.Image:
    return Image.fromarray(mask)


def deep(mask: UInt8, white: int = 65535, kind: str = "<u2") -> Image.Image:
    """Return a mask of 16 bits."""
    return Image.fromarray((mask // 255 * np.uint16(white)).astype(kind))


def palette(mask: UInt8, *colours: int) -> Image.Image:
    """Return a mask with a palette of two colours."""
    image = Image.fromarray((mask > 0).astype(np.uint8)).convert("L")
    indexed = Image.frombytes("P", image.size, image.tobytes())
    indexed.putpalette(colours)
    return indexed


VALID: Mapping[str, tuple[str, Image.Image, Mapping[str, Any]]] = {
    "8 bit": ("png", grey(MASK), {}),
    "1 bit": ("png", grey(MASK).convert("1"), {}),
    "1 bit BMP": ("bmp", grey(MASK).convert("1"), {}),
    "1 bit TIFF, fax": ("tif", grey(MASK).convert("1"), {"compression": "group4"}),
    "8 bit TIFF, LZW": ("tif", grey(MASK), {"compression": "tiff_lzw"}),
    "16 bit": ("png", deep(MASK), {}),
    "16 bit TIFF": ("tif", deep(MASK), {}),
    "16 bit TIFF, big-endian": ("tif", deep(MASK, kind=">u2"), {}),
    "grey RGB": ("png", grey(MASK).convert("RGB"), {}),
    "grey RGB BMP": ("bmp", grey(MASK).convert("RGB"), {}),
    "grey palette": ("png", palette(MASK, 0, 0, 0, 255, 255, 255), {}),
    "grey palette, 1 bit": ("png", palette(MASK, 0, 0, 0, 255, 255, 255), {"bits": 1}),
    "opaque LA": ("png", grey(MASK).convert("LA"), {}),
    "opaque RGBA": ("png", grey(MASK).convert("RGBA"), {}),
}


@pytest.mark.parametrize(("suffix", "image", "options"), VALID.values(), ids=VALID)
@pytest.mark.parametrize("folder", ["labels", "masks"])
def test_masks_with_one_grey_channel_in_effect(
    folder: str, suffix: str, image: Image.Image, options: Mapping[str, Any], truth: Path, masks: Path
) -> None:
    save_mask((masks if folder == "labels" else truth) / "x.png")
    save_mask(truth.parent / folder / f"x.{suffix}", image, **options)
    case = only_case(evaluate(truth, masks))
    assert (case.metrics, case.problem) == (PERFECT, "")
    if image.mode in ("1", "L"):
        assert case.note == ""
    else:
        assert case.note.startswith(ROLES[folder])
        assert image.mode in case.note


INVALID: Mapping[str, tuple[str, Image.Image, Mapping[str, Any], str]] = {
    "0/1": ("png", grey(MASK // 255), {}, "0/1"),
    "0/1 TIFF": ("tif", grey(MASK // 255), {}, "0/1"),
    "8 bit values in 16 bit": ("png", deep(MASK, 255), {}, "0/255"),
    "colours": ("png", Image.merge("RGB", [grey(MASK), grey(MASK), grey(0 * MASK)]), {}, "colour"),
    "coloured palette": ("png", palette(MASK, 0, 0, 0, 255, 255, 0), {}, "colour"),
    "lesion in alpha": ("png", Image.merge("LA", [grey(0 * MASK), grey(MASK)]), {}, "transparent"),
    "one grey is transparent": ("png", grey(MASK), {"transparency": 255}, "transparent"),
    "float": ("tif", grey(MASK).convert("F"), {}, "F"),
    "32 bit": ("tif", grey(MASK).convert("I"), {}, "I"),
    "two pages": ("tif", grey(MASK), {"save_all": True, "append_images": [grey(MASK)]}, "2 pages"),
}


@pytest.mark.parametrize(("suffix", "image", "options", "reason"), INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("folder", ["labels", "masks"])
def test_masks_whose_lesion_is_not_clear_are_a_problem(
    folder: str, suffix: str, image: Image.Image, options: Mapping[str, Any], reason: str, truth: Path, masks: Path
) -> None:
    save_mask((masks if folder == "labels" else truth) / "x.png")
    save_mask(truth.parent / folder / f"x.{suffix}", image, **options)
    case = only_case(evaluate(truth, masks))
    assert case.metrics == {}
    assert case.problem.startswith(ROLES[folder])
    assert reason in case.problem


@pytest.mark.parametrize(
    ("image", "brightest", "white", "has_lesion"),
    [
        (grey(MASK // 255 * 2), 2, 255, False),
        (grey(MASK // 255 * 128), 128, 255, False),
        (grey(MASK // 255 * 129), 129, 255, True),
        (grey(MASK // 255 * 200).convert("RGB"), 200, 255, True),
        (deep(MASK, 32896), 32896, 65535, False),
        (deep(MASK, 32897), 32897, 65535, True),
    ],
)
def test_a_prediction_without_white_has_the_same_threshold_and_a_note(
    image: Image.Image, brightest: int, white: int, has_lesion: bool, truth: Path, masks: Path
) -> None:
    save_mask(truth / "x.png")
    save_mask(masks / "x.png", image)
    case = only_case(evaluate(truth, masks))
    assert case.metrics["jaccard"] == has_lesion
    assert f"{brightest}, not {white}" in case.note
    assert "soft" not in case.note
    if has_lesion:
        assert f"{brightest}, not {white}" in only_case(evaluate(masks, truth)).note


def test_a_dark_map_is_an_empty_prediction_but_a_dark_ground_truth_is_a_problem(truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    save_mask(masks / "x.png", MASK // 255 * 128)
    assert jaccards(evaluate(truth, masks)) == {"x": 0.0}
    assert "0/128" in problems(evaluate(masks, truth))["x"]


# Damaged files


def noisy_png(folder: Path) -> bytes:
    """Return a PNG of 400 bytes that does not compress, so that most of it is pixels."""
    noise = np.random.default_rng(0).integers(0, 2, (16, 180), np.uint8) * 255
    return save_mask(folder / "whole.png", grey(noise).convert("1")).read_bytes()


def write_numbered(contents: list[bytes], folder: Path) -> None:
    for number, content in enumerate(contents):
        (folder / f"{number:04}.png").write_bytes(content)


@pytest.mark.parametrize("folder", ["labels", "masks"])
def test_a_png_truncated_anywhere_is_a_problem(folder: str, truth: Path, masks: Path, tmp_path: Path) -> None:
    whole = noisy_png(tmp_path)
    truncated = [whole[:length] for length in range(len(whole) - 4)]  # the last 4 bytes: the checksum of no data
    write_numbered([whole] * len(truncated), masks if folder == "labels" else truth)
    write_numbered(truncated, tmp_path / folder)
    cases = evaluate(truth, masks).masks.cases
    assert len(cases) == len(whole) - 4 > 350
    assert all(case.problem.startswith(ROLES[folder]) for case in cases)


def test_a_wrong_bit_anywhere_in_a_png_is_a_problem(truth: Path, masks: Path, tmp_path: Path) -> None:
    whole = noisy_png(tmp_path)
    end_chunk = len(whole) - 12
    wrong = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(end_chunk)]
    write_numbered([whole] * end_chunk, truth)
    write_numbered(wrong, masks)
    cases = evaluate(truth, masks).masks.cases
    assert [case.name for case in cases if not case.problem.startswith(MaskRole.PREDICTION)] == []


def png(bits: int, packed: UInt8, compressed: bytes | None = None) -> bytes:
    """Return a grey PNG from rows of bytes with several pixels each; `compressed` replaces the pixel data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, bytes_per_row = packed.shape
    header = struct.pack(">IIBBBBB", bytes_per_row * 8 // bits, rows, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)) if compressed is None else compressed
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_png_of_any_depth_is_read_as_by_pillow(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(bits, np.random.default_rng(bits).integers(0, 256, (32, 40), np.uint8)))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("L")) > 128
    assert expected.shape == (32, 320 // bits)
    assert (read_mask(path, MaskRole.GROUND_TRUTH).lesion == expected).all()


@pytest.mark.parametrize("damage", ["too few pixels", "truncated", "wrong checksum", "unknown filter"])
def test_wrong_pixel_data_in_a_valid_chunk_is_a_problem(damage: str, truth: Path, masks: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40), np.uint8)
    whole = b"".join(b"\0" + row.tobytes() for row in pixels)
    compressed = {
        "too few pixels": zlib.compress(whole[:700]),
        "truncated": zlib.compress(whole)[:-300],
        "wrong checksum": zlib.compress(whole)[:-4] + b"abcd",
        "unknown filter": zlib.compress(b"\x09" + whole[1:]),
    }
    save_mask(truth / "x.png", block(4, 5, (32, 40)))
    (masks / "x.png").write_bytes(png(8, pixels, compressed[damage]))
    assert only_case(evaluate(truth, masks)).problem.startswith(MaskRole.PREDICTION)


@pytest.mark.parametrize(("bits", "samples", "color_type"), [(8, 3, 2), (8, 4, 6), (16, 1, 0), (4, 1, 0), (8, 1, 3)])
def test_a_png_of_any_kind_with_half_of_its_rows_is_a_problem(
    bits: int, samples: int, color_type: int, truth: Path, masks: Path
) -> None:
    line = b"\0" + bytes([255] * (40 * samples * bits // 8))
    palette = [chunk(b"PLTE", bytes(range(256)) * 3)] if color_type == 3 else []
    save_mask(truth / "x.png", block(4, 5, (32, 40)))
    path = masks / "x.png"
    path.write_bytes(encoded_png((40, 32, bits, color_type, 0, 0, 0), line * 16, *palette))
    assert only_case(evaluate(truth, masks)).problem.startswith(f"{MaskRole.PREDICTION} unreadable")


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_truncated_files_of_other_formats_are_a_problem(suffix: str, truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    damaged = save_mask(masks / f"x.{suffix}")
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert only_case(evaluate(truth, masks)).problem.startswith(MaskRole.PREDICTION)


@pytest.mark.parametrize("suffix", ["eps", "jpg"])
def test_unsupported_formats_under_the_name_of_a_mask_are_a_problem(suffix: str, truth: Path, masks: Path) -> None:
    save_mask(truth / "x.png")
    save_mask(masks / f"x.{suffix}").rename(masks / "x.png")
    assert only_case(evaluate(truth, masks)).problem.startswith(MaskRole.PREDICTION)


def test_an_unreadable_file_does_not_stop_the_evaluation(truth: Path, masks: Path) -> None:
    for name in ("a", "b", "c"):
        save_mask(truth / f"{name}.png")
        save_mask(masks / f"{name}.png")
    (masks / "b.png").unlink()
    (masks / "b.png").symlink_to(masks / "gone.png")
    found = problems(evaluate(truth, masks))
    assert found.pop("b").startswith(MaskRole.PREDICTION)
    assert found == {"a": "", "c": ""}
