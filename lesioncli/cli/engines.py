"""The command `engines`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesioncli.cli.arguments import JsonOption
from lesioncli.cli.console import escape_markup, print_json, print_line, stdout
from lesioncli.files import ENGINES

if TYPE_CHECKING:
    from lesioncli.backends.registry import ListedEngine


def engines(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of engines.")] = ENGINES,
    json_output: JsonOption = False,
) -> None:
    """List the engines in a folder, and whether they run here."""
    from lesioncli.backends.registry import list_engines

    listed = list_engines(folder)
    if json_output:
        print_json([_engine_json(engine) for engine in listed])
        return
    if not listed:
        flags = "" if folder == ENGINES else f" --out {folder}"
        print_line(f"no engines in {folder}/; run lesioncli build-engine{flags}")
    for engine in listed:
        print_line(f"{engine.path.name}: {engine.description}")
        if engine.problem:
            stdout.print(f"  [red]does not run here:[/] {escape_markup(engine.problem)}", soft_wrap=True)
        else:
            print_line("  runs here")


def _engine_json(engine: "ListedEngine") -> Mapping[str, Any]:
    return {
        "engine": str(engine.path),
        "runs_here": not engine.problem,
        "problem": engine.problem,
        "manifest": engine.manifest.to_dict() if engine.manifest else None,
    }
