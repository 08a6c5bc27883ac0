"""Checks of command lines that click does not make: every option that a user gives has an effect, or is refused."""

from __future__ import annotations

from collections.abc import Collection

import click
from click.core import ParameterSource


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
