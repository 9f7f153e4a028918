"""A folder of drawn training data and a recipe that trains within seconds, for tests of `lesioncli train`."""

from pathlib import Path

from lesioncli.demo.folder import write_demo

TRAIN = ("train", "--recipe", "tiny.toml", "--data", "lesions", "--val", "held-out", "--threads", "1")
RECIPE = """
[model]
name = "tiny-cascade"
network = "mbdcnn"
height = 64
width = 64
[model.options]
encoder = "efficientnet_lite0"
reads = "crop"
width = 8
rates = [1, 2, 3]
[train]
epochs = 1
batch = 4
initial = "none"
workers = 0
[loss]
dice = 1.0
rank = 0.05
"""


def write_training_folder(folder: Path) -> Path:
    """Write eight training images, three validation images and tiny.toml."""
    write_demo(folder / "lesions", count=8, height=64, width=64)
    write_demo(folder / "held-out", count=3, seed=100, height=64, width=64)
    (folder / "tiny.toml").write_text(RECIPE)
    return folder
