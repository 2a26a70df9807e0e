"""How a command was started → the record of it that journals keep."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click
from click.core import ParameterSource

from e2v_cli.cli.groups import GroupedOption
from e2v_cli.options import Invocation
from e2v_cli.system.process import own_command
from e2v_cli.system.text import redact

RECORDED_WORDS = 1000
"""The most words of a command that journals keep: a glob of the shell may make ten thousand."""


def describe_invocation(context: click.Context, inputs: Iterable[str]) -> Invocation:
    """Describe how this process was started: its command, the variables that set options, its folder and inputs."""
    options = [param for param in context.command.params if isinstance(param, GroupedOption)]
    by_variable = [
        str(option.envvar)
        for option in options
        if context.get_parameter_source(str(option.name)) is ParameterSource.ENVIRONMENT
    ]
    return Invocation(
        command=_record([*own_command(), *sys.argv[1:]]),
        variables={name: redact(os.environ[name]) for name in by_variable},
        folder=os.getcwd(),
        inputs=_record(inputs),
    )


def _record(words: Iterable[str]) -> tuple[str, ...]:
    """Return words without the secrets of URLs; of thousands, only the first and how many more there are."""
    known = [*map(redact, words)]
    more = len(known) - RECORDED_WORDS
    return (*known[:RECORDED_WORDS], f"… {more} more") if more > 0 else tuple(known)
