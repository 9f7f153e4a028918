"""The command line, called in this process, and images for it."""

from pathlib import Path

from typer.testing import CliRunner, Result

from helpers.pictures import save
from lesioncli.cli.app import app
from lesioncli.demo.draw import draw_case


def call(*words: str | Path, columns: int = 200) -> Result:
    """Run a command. With many columns, a message stands on one line."""
    environment = {"COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1"}
    return CliRunner(env=environment).invoke(app, [str(word) for word in words])


def save_lesion(path: Path, seed: int = 0) -> Path:
    """Draw an image with a lesion, 128 x 96 pixels."""
    return save(path, draw_case(seed, 96, 128).image)
