"""Groups of options: passed to a command as one object, under a heading of its help, and set by the environment."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from e2v_cli.cli.variables import describe_variables
from e2v_cli.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


class GroupedOption(click.Option):
    """An option under a heading, which any command that has it reads from ``E2V_NAME``, or its own from another."""

    def __init__(self, *args: Any, heading: str, prefix: str = "E2V", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.heading = heading
        long = next(name for name in self.opts if name.startswith("--"))
        self.allow_from_autoenv = False
        self.envvar = f"{prefix}_{long.removeprefix('--').replace('-', '_').upper()}"


def grouped_option(heading: str, *names: str, prefix: str = "E2V", **attributes: Any) -> Decorator[Any]:
    """Make an option under a heading; its default is shown, if it has one and is no switch."""
    attributes.setdefault("show_default", "default" in attributes and not attributes.get("is_flag"))
    return click.option(*names, cls=GroupedOption, heading=heading, prefix=prefix, **attributes)


class GroupedCommand(click.Command):
    """A command whose help shows options under headings, those without one last."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a usage error names the variables that set the options in it."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise UsageError(f"{error}{describe_variables(ctx, str(error))}") from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                sections.setdefault(getattr(param, "heading", "Options"), []).append(record)
        for heading in sorted(sections, key=lambda heading: heading == "Options"):
            with formatter.section(heading):
                formatter.write_dl(sections[heading])


def option_group(name: str, make: Callable[..., object], options: Iterable[Decorator[Any]]) -> Decorator[Any]:
    """Add options to a command, which takes the object that ``make`` makes of their values as one argument.

    ``make`` has a parameter for each option; a command may lack options whose parameters have a default.
    """
    wanted = inspect.signature(make).parameters

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, **values: Any) -> Any:
            own = {key: values.pop(key) for key in wanted if key in values}
            return command(*args, **{name: make(**own)}, **values)

        decorated: Any = call
        for option in reversed(list(options)):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate
