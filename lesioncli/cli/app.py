"""The program: its commands, and the exit code and message of every error.

Commands import the library when they run, so that --help is immediate.
"""

import difflib
import errno
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lesioncli import __version__
from lesioncli.cli.build_engine import build_engine
from lesioncli.cli.calibrate import calibrate
from lesioncli.cli.check import check
from lesioncli.cli.compare import compare
from lesioncli.cli.console import drop_output, escape_markup, flush_output, naming_stdout, print_line, stderr
from lesioncli.cli.demo import demo
from lesioncli.cli.doctor import doctor
from lesioncli.cli.engines import engines
from lesioncli.cli.evaluate import evaluate
from lesioncli.cli.export import export
from lesioncli.cli.list_images import list_images
from lesioncli.cli.merge import merge
from lesioncli.cli.quiet import with_quiet
from lesioncli.cli.report import report
from lesioncli.cli.segment import segment
from lesioncli.cli.status import status
from lesioncli.cli.strict_command import StrictCommand
from lesioncli.cli.submission import submission
from lesioncli.cli.train import train
from lesioncli.cli.verify import verify
from lesioncli.errors import ExitCode, LesionError
from lesioncli.files import as_input_error
from lesioncli.signals import HANDLER, Terminated

COMMANDS: dict[str, Callable[..., None]] = {
    "build-engine": build_engine,
    "list": list_images,
    "segment": segment,
    "status": status,
    "merge": merge,
    "verify": verify,
    "evaluate": evaluate,
    "compare": compare,
    "calibrate": calibrate,
    "report": report,
    "submission": submission,
    "export": export,
    "demo": demo,
    "engines": engines,
    "doctor": doctor,
    "train": train,
    "check": check,
}
MIN_SIMILARITY = 0.8  # --batchs and --batch have 0.93, --devise and --distances 0.7
RESUMABLE = ("segment", "train")
WITHOUT_PROGRESS = ("status", "merge", "engines", "doctor")


class CommandGroup(TyperGroup):
    """Turns errors into a message and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own copy of click is untyped
        try:
            return super().invoke(ctx)
        except LesionError as error:
            raise _exit_with(error) from error
        except KeyboardInterrupt as error:
            hint = "; finished work is kept, and the same command continues"
            stderr.print("interrupted" + (hint if ctx.invoked_subcommand in RESUMABLE else ""))
            code = ExitCode.TERMINATED if isinstance(error, Terminated) else ExitCode.INTERRUPTED
            raise typer.Exit(code) from error
        except typer.BadParameter as error:
            raise _plain_choice(error) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # a reader such as `head` has closed the pipe
            raise _exit_with(as_input_error(error)) from error
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):
                _drop_unlikely_options(error)
                raise  # another usage error, or an exit
            traceback.print_exc()
            stderr.print(f"This is a bug in lesioncli {__version__}. Please report it with the lines above.")
            raise typer.Exit(ExitCode.BUG) from error


def _exit_with(error: LesionError) -> typer.Exit:
    """Print an error; return the exit with its code."""
    stderr.print(f"[bold red]error:[/] {escape_markup(error)}", soft_wrap=True)
    return typer.Exit(error.exit_code)


class WrongChoice(typer.BadParameter):
    """A value that is not one of the choices of a flag."""

    def format_message(self) -> str:
        return self.message


def _drop_unlikely_options(error: Exception) -> None:
    """Drop suggestions for an unknown option that are no misspelling of it: click suggests --engine for --device."""
    if isinstance(possibilities := getattr(error, "possibilities", None), list):
        name = str(getattr(error, "option_name", ""))
        possibilities[:] = difflib.get_close_matches(name, possibilities, cutoff=MIN_SIMILARITY)


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
        program.command(name, cls=StrictCommand)(command if name in WITHOUT_PROGRESS else with_quiet(command))
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
    code: int | str | None = ExitCode.OK
    try:
        with naming_stdout():  # --help and --version print before a command is called
            app(prog_name="lesioncli")
    except SystemExit as done:
        code = HANDLER.exit_code if done.code == ExitCode.BUG and HANDLER.exit_code else done.code
    except OSError as error:
        code = _exit_with(as_input_error(error)).exit_code
    try:
        flush_output()
    except OSError as error:
        code = ExitCode.BUG if error.errno == errno.EPIPE else _exit_with(as_input_error(error)).exit_code
    drop_output()
    sys.exit(code)
