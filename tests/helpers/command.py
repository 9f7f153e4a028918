"""The command line, called in this process."""

from pathlib import Path

from typer.testing import CliRunner, Result

from lesioncli.cli.app import app

ENVIRONMENT = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}


def call(*words: str | Path) -> Result:
    return CliRunner(env=ENVIRONMENT).invoke(app, [str(word) for word in words])
