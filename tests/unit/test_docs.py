"""The README knows every command and every flag, and every command line it shows can be typed."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from lesioncli.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]  # typer carries its own click, untyped
FLAGS = sorted(
    (name, option)
    for name, command in COMMANDS.items()
    for parameter in command.params
    for option in parameter.opts
    if option.startswith("--") and option != "--help"
)


def _section(command: str) -> str:
    """The part of the README under the heading of a command."""
    found = re.search(rf"^### `lesioncli {re.escape(command)}\b.*?(?=^##)", README + "\n##", re.M | re.S)
    assert found, f"the README has no section for {command}"
    return found.group()


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_flag_is_in_its_commands_section(command: str, flag: str) -> None:
    assert re.search(rf"`[^`\n]*{re.escape(flag)}\b", _section(command)), f"{command} {flag}"


def _shown_lines() -> list[str]:
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", README, re.M | re.S)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line.partition("  #")[0] for line in lines if line.startswith("lesioncli ")]


@pytest.mark.parametrize("line", _shown_lines())
def test_shown_line_names_real_flags(line: str) -> None:
    _, command, *words = shlex.split(line)
    if command.startswith("-"):
        return
    known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}


def test_make_targets_are_named() -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {"help", "demo", "test", "lint", "type", "check", "bench", "clean"} <= set(targets)
    assert all(f"make {target}" in README for target in targets)


def test_three_lines_stand_in_the_readme() -> None:
    for line in (
        "lesioncli build-engine",
        "lesioncli segment ./images --out masks/",
        "lesioncli evaluate --gt ./labels",
    ):
        assert re.search(rf"^{re.escape(line)}\s*(#.*)?$", README, re.M), line
