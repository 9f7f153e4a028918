"""The option --quiet, which all commands with progress have."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from lesioncli.cli.console import VERBOSITY

QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results, errors and failed images, nothing else.")
]


def with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also takes --quiet."""

    @wraps(command)
    def call(*, quiet: bool = False, **options: Any) -> None:
        VERBOSITY.is_quiet = quiet
        command(**options)

    # Typer reads options from the signature and the annotations; mypy's type of a function has no __signature__.
    parameter = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption)
    signature = inspect.signature(command)
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), parameter])  # type: ignore[attr-defined]
    call.__annotations__ = {**get_type_hints(command, include_extras=True), "quiet": QuietOption}
    return call
