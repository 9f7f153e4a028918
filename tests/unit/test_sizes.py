"""Holds the limits on the size of functions and modules; exceptions are named here, with the reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lesioncli"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_MODULE_LINES = 60, 7, 350

# Typer reads a command's flags from its parameters: one for each flag.
COMMANDS = {
    "cli/build_engine.py:build_engine",
    "cli/calibrate.py:calibrate",
    "cli/compare.py:compare",
    "cli/evaluate.py:evaluate",
    "cli/report.py:report",
    "cli/segment.py:segment",
    "cli/train.py:train",
}
# A network's parameters are the options of its ModelSpec, which checkpoints and recipes hold by name.
NETWORKS = {"models/mbdcnn.py:__init__"}
EXCEPTIONS = COMMANDS | NETWORKS

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(path: Path) -> Iterator[tuple[str, Function]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield f"{path.relative_to(PACKAGE).as_posix()}:{node.name}", node


def _parameters(node: Function) -> int:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in arguments)


def _body_lines(node: Function) -> int:
    """Lines of a function without its signature, which for a command holds the help texts."""
    return (node.end_lineno or 0) - node.body[0].lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_functions_fit_on_a_screen_and_modules_have_one_subject(path: Path) -> None:
    for name, node in _functions(path):
        if name not in COMMANDS:
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, name
        if name not in EXCEPTIONS:
            assert _parameters(node) <= MAX_PARAMETERS, f"{name} has {_parameters(node)} parameters"
        assert _body_lines(node) <= MAX_FUNCTION_LINES, name
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


def test_every_exception_is_needed() -> None:
    large = {name for path in FILES for name, node in _functions(path) if _parameters(node) > MAX_PARAMETERS}
    assert large >= EXCEPTIONS, f"no longer needed: {sorted(EXCEPTIONS - large)}"
