"""Variables of the environment that have set options, for messages."""

from __future__ import annotations

import re

import click
from click.core import ParameterSource


def find_variable(context: click.Context, param: click.Parameter) -> str | None:
    """Find the variable that has set an option; None: no variable has."""
    if param.name is None or context.get_parameter_source(param.name) is not ParameterSource.ENVIRONMENT:
        return None
    return str(param.envvar or f"{context.auto_envvar_prefix}_{param.name.upper()}")


def describe_variables(context: click.Context, message: str) -> str:
    """Describe the variables that have set the options in a message, in parentheses; empty if none has."""
    described = [
        f"{name} is set by {variable}"
        for param in context.command.params
        if (variable := find_variable(context, param))
        for name in param.opts
        if re.search(rf"(?<![\w-]){name}(?![\w-])", message)
    ]
    return f" ({', '.join(described)})" if described else ""
