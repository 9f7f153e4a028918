"""docs/cli.md is what the commands say of themselves."""

from pathlib import Path

import pytest
import typer.main
from helpers.command import call

from lesioncli.cli.app import COMMANDS, app
from lesioncli.cli.reference import EXIT_CODES, render_reference
from lesioncli.errors import ExitCode

PAGE = Path(__file__).parents[2] / "docs/cli.md"
GROUP = typer.main.get_command(app)


def test_page_is_current() -> None:
    command = "python -m lesioncli.cli.reference docs/cli.md"
    assert PAGE.read_text(encoding="utf-8") == render_reference(), f"run {command}"


def test_page_has_every_exit_code_and_every_visible_option() -> None:
    assert set(EXIT_CODES) == set(ExitCode)
    page = render_reference()
    for name in COMMANDS:
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for parameter in GROUP.commands[name].params:  # type: ignore[attr-defined]  # typer's own click is untyped
            shown = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
            is_shown = f"`{shown}" in section or f"`{parameter.opts[-1]}, {shown}" in section  # a short one comes first
            assert is_shown != getattr(parameter, "hidden", False), f"{name} {shown}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal_of_80_columns(name: str) -> None:
    lines = call(name, "--help", columns=80).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "..." not in call("--help", columns=80).stdout.split("Commands:")[1]


def test_every_option_has_a_help_text() -> None:
    for name in COMMANDS:
        for parameter in GROUP.commands[name].params:  # type: ignore[attr-defined]  # as above
            assert parameter.help, f"{name} {parameter.name}"
