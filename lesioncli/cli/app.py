"""The program: its commands, and the exit code and message of every error.

Commands import the library when they run, so that --help is immediate.
"""

import re
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lesioncli import __version__
from lesioncli.cli.build_engine import build_engine
from lesioncli.cli.console import escape_markup, print_line, stderr
from lesioncli.cli.demo import demo
from lesioncli.cli.doctor import doctor
from lesioncli.cli.engines import engines
from lesioncli.cli.evaluate import evaluate
from lesioncli.cli.report import report
from lesioncli.cli.segment import segment
from lesioncli.cli.submission import submission
from lesioncli.cli.train import train
from lesioncli.errors import ExitCode, LesionError

COMMANDS: dict[str, Callable[..., None]] = {
    "build-engine": build_engine,
    "segment": segment,
    "evaluate": evaluate,
    "report": report,
    "submission": submission,
    "demo": demo,
    "engines": engines,
    "doctor": doctor,
    "train": train,
}
RESUMABLE = ("segment", "train")


class CommandGroup(TyperGroup):
    """Turns errors into a message and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own copy of click is untyped
        try:
            return super().invoke(ctx)
        except LesionError as error:
            stderr.print(f"[bold red]error:[/] {escape_markup(error)}", soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            hint = "; finished work is kept, and the same command continues"
            stderr.print("interrupted" + (hint if ctx.invoked_subcommand in RESUMABLE else ""))
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        except typer.BadParameter as error:
            raise _plain_choice(error) from error
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")) or isinstance(error, BrokenPipeError):
                raise  # another usage error, an exit, or a reader such as `head` that has closed the pipe
            traceback.print_exc()
            stderr.print(f"This is a bug in lesioncli {__version__}. Please report it with the lines above.")
            raise typer.Exit(ExitCode.BUG) from error


class WrongChoice(typer.BadParameter):
    """A value that is not one of the choices of a flag."""

    def format_message(self) -> str:
        return self.message


def _plain_choice(error: typer.BadParameter) -> typer.BadParameter:
    """Return the error with the flag first and the choices unquoted: `--tta 'flip' is not one of none, flips, full`."""
    match = re.fullmatch(r"(?:Value error, )?(['\"].*['\"]) is not one of (.*?)\.?", error.message, re.DOTALL)
    if not match:
        return error
    flag = error.param_hint if isinstance(error.param_hint, str) else error.param.opts[-1] if error.param else ""
    return WrongChoice(f"{flag} {match[1]} is not one of {match[2].replace(chr(39), '')}", error.ctx, error.param)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print_line(f"lesioncli {__version__}")
        raise typer.Exit


def make_app(commands: Mapping[str, Callable[..., None]]) -> typer.Typer:
    """Return a program with these commands."""
    program = typer.Typer(
        cls=CommandGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # boxes leave 25 columns for the help texts in a terminal of 80
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback()(about)
    for name, command in commands.items():
        program.command(name)(command)
    return program


def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Lesion masks and class scores for folders of dermoscopic images. A research tool, not a medical device.

    \b
    lesioncli build-engine
    lesioncli segment ./images --out masks/
    lesioncli evaluate --gt ./labels

    No images? `lesioncli demo .` draws some, with masks and labels.
    """


app = make_app(COMMANDS)


def main() -> None:
    """Run the program."""
    app(prog_name="lesioncli")
