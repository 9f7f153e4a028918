"""Damaged TIFF files: libtiff prints nothing of its own, and each file is named with a reason in words."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.graphs import write_graph
from PIL import Image


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, masks and ground truth; TIFF number 1 of each but the latter is damaged."""
    folder = tmp_path_factory.mktemp("damaged")
    mask = np.zeros((96, 128), np.uint8)
    mask[20:60, 20:60] = 255
    rgb = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    for name in ("gt", "masks", "images"):
        (folder / name).mkdir()
    for number in range(3):
        Image.fromarray(mask).save(folder / "gt" / f"ISIC_000000{number}_segmentation.png")
        Image.fromarray(mask).save(folder / "masks" / f"ISIC_000000{number}.tif", compression="tiff_lzw")
        Image.fromarray(rgb).save(folder / "images" / f"ISIC_000000{number}.tif", compression="tiff_lzw")
    for path in (folder / "masks" / "ISIC_0000001.tif", folder / "images" / "ISIC_0000001.tif"):
        content = bytearray(path.read_bytes())
        content[10:60] = b"\xee" * 50
        path.write_bytes(content)
    write_graph(folder / "tiny.onnx")
    return folder


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["evaluate", "--gt", "gt", "masks"], 5),
        (["submission", "masks", "--out", "sent"], 5),
        (["build-engine", "tiny.onnx", "--images", "images", "--out", "built"], 0),
    ],
)
def test_libtiff_is_quiet_and_reasons_are_words(damaged: Path, words: list[str], code: int) -> None:
    command = [sys.executable, "-m", "lesioncli", *words]
    done = subprocess.run(command, cwd=damaged, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert not [line for line in lines if re.search("TIFF(Read|Fetch)|tempfile|Warning|warnings|decoder error", line)]
    assert len([line for line in lines if "ISIC_0000001" in line]) == (code == 5)
