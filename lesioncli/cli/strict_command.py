"""A command that refuses an option given twice: click would take the last value in silence."""

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand


class StrictCommand(TyperCommand):
    """Raises a usage error for an option with one value that is given more than once."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # untyped click
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        single = [param for param in order if param.param_type_name == "option" and not param.multiple]
        for param, count in Counter(single).items():
            if count > 1 and not param.is_flag:
                raise typer.BadParameter(f"given {count} times; name one", ctx, param, param_hint=param.opts[0])
        return list(super().parse_args(ctx, args))
