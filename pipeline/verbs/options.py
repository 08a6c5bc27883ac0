"""Checks of command lines that click does not make: options have an effect or are refused, numbers are finite."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import click
from click.core import ParameterSource


class FiniteRange(click.FloatRange):
    """A range of numbers without `nan` and `inf`, which click compares as if they were in it."""

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """The number, or click's usage error."""
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, context)
        return number


def refuse_ignored(context: click.Context, mode: str, honoured: Collection[str]) -> None:
    """Refuse every option on the command line that a mode would ignore.

    Args:
        context: of the verb, after parsing.
        mode: the option that chose the mode, as the user wrote it: `--cancel`.
        honoured: names of the parameters that have an effect in this mode; `mode` itself counts.

    Raises:
        click.UsageError: an option was given that would have no effect.
    """
    ignored = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in honoured
        and mode not in parameter.opts
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if ignored:
        raise click.UsageError(f"{mode} does not go with {', '.join(ignored)}")
