"""The start of a command → its record in journals."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable

import click
from click.core import ParameterSource

from e2v_cli.cli.groups import GroupedOption
from e2v_cli.options import InputOptions, Invocation
from e2v_cli.system.process import own_command
from e2v_cli.system.text import redact

RECORDED_WORDS = 1000
"""The most words of a command that journals keep: a glob of the shell may make ten thousand."""


_LEFT_OUT = "… "


def describe_invocation(context: click.Context, audio: InputOptions) -> Invocation:
    """Describe how this process was started: its command, the variables that set options, its folder and audio."""
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
        inputs=_record(audio.inputs),
        hidden=audio.hidden,
        segments_rttm=None if audio.segments_rttm is None else redact(str(audio.segments_rttm)),
    )


def find_command(invocation: Invocation) -> str | None:
    """Return the command that goes on with a run; None if it is not known: input was piped, or words are left out."""
    words = [word for word in invocation.command if word != "--overwrite"]
    if any(item == "-" or item.startswith("/dev/fd/") for item in invocation.inputs):
        return None
    if any("***" in word or word.startswith(_LEFT_OUT) for word in words):
        return None
    if words and words[0] == shutil.which("e2v"):
        words[0] = "e2v"
    variables = [f"{name}={shlex.quote(value)}" for name, value in invocation.variables.items()]
    return " ".join([*(word for word in variables if not word.startswith("E2V_OVERWRITE=")), shlex.join(words)])


def _record(words: Iterable[str]) -> tuple[str, ...]:
    """Return words without the secrets of URLs; of thousands, only the first and how many more there are."""
    known = [*map(redact, words)]
    more = len(known) - RECORDED_WORDS
    return (*known[:RECORDED_WORDS], f"{_LEFT_OUT}{more} more") if more > 0 else tuple(known)
