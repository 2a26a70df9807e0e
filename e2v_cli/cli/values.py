"""Texts of options → their values: Click's callbacks; and options that are one value together."""

from __future__ import annotations

import logging
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from e2v_cli.network.layers import LayerChoice
from e2v_cli.options import METRIC_NAMES, PIPE_SECONDS, ChangedSources, Channel, MaxFailures, RunOptions, Shard
from e2v_cli.system.files import is_directory

if TYPE_CHECKING:
    from e2v_cli.analysis.labels.labels import Merge

TABLE_SUFFIXES = (".csv", ".jsonl", ".tsv")
"""Suffixes of files of rows: the names of their formats."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def check_word(_context: click.Context, _param: click.Parameter, value: Any) -> Any:
    """Refuse empty words, which most likely come from a variable that is not set."""
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.UsageError("INPUT, --output-dir or --model is empty: is a variable of the shell not set?")
    return value


def parse_channel(_context: click.Context, _param: click.Parameter, value: str) -> Channel:
    """Parse ``mix``, ``split``, a letter, or a number that counts from 1."""
    if value == "mix":
        return "mix"
    if value == "split":
        return "split"
    if re.fullmatch(r"[A-H]", value):
        return ord(value) - ord("A")
    if re.fullmatch(r"[1-9][0-9]{0,2}", value):
        return int(value) - 1
    raise click.BadParameter(f"{value!r} is not mix, split, A, B, or a number counted from 1.")


def parse_folder(context: click.Context, param: click.Parameter, value: str | None) -> Path | None:
    """Parse the path of a folder, which is no name of a table."""
    if value is None:
        return None
    path = Path(check_word(context, param, value))
    if path.suffix in TABLE_SUFFIXES and not is_directory(path):
        raise click.BadParameter(f"{value} would be a folder; rows in a file: --format {path.suffix[1:]} > {value}")
    return path


class Names(click.Choice):  # type: ignore[type-arg] # in Click 8.1 it has none
    """One or more choices, separated by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a word to its choices."""
        return tuple(super(Names, self).convert(name, param, ctx) for name in value.split(","))


def sort_names(_context: click.Context, _param: click.Parameter, value: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Sort names that may be given in any order, and more than once."""
    return tuple(sorted({name for names in value for name in names}))


def sort_numbers(_context: click.Context, _param: click.Parameter, value: tuple[float, ...]) -> tuple[float, ...]:
    """Sort numbers that may be given in any order, and more than once."""
    return tuple(sorted(set(value)))


def parse_columns(_context: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Parse names separated by commas, whose order counts."""
    names = () if value is None else tuple(value.split(","))
    if "" in names:
        raise click.BadParameter(f"{value!r} is not a list of names like utt_id,label,score.")
    return names


def sort_classes(context: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Parse labels separated by commas, in any order."""
    names = {name.strip() for name in parse_columns(context, param, value)}
    return tuple(sorted(names))


def sort_merges(_context: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[Merge, ...]:
    """Parse merges like ``excited=happy``, in any order."""
    if not value:
        return ()
    from e2v_cli.analysis.labels.labels import parse_merge  # it imports NumPy, which help needs not

    return tuple(sorted(set(map(parse_merge, value))))


def sort_layers(_context: click.Context, _param: click.Parameter, value: str | None) -> tuple[LayerChoice, ...]:
    """Parse layers and means of layers, separated by commas, in any order."""
    words = () if value is None else value.split(",")
    try:
        layers = [LayerChoice.parse(word.strip()) for word in words]
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
    for layer in layers:
        if layers.count(layer) > 1:
            raise click.BadParameter(f"{value!r} has {layer} twice.")
    return tuple(sorted(layers))


def parse_required(_context: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, float]:
    """Parse least values of metrics like ``UA=0.6``."""
    required = {}
    for word in value:
        name, _, number = word.partition("=")
        metric = next((metric for metric in METRIC_NAMES if metric.casefold() == name.strip().casefold()), None)
        try:
            least = float(number)
        except ValueError:
            least = math.nan
        if metric is None or not -1 <= least <= 1:
            raise click.BadParameter(f"{word!r} is not like UA=0.6: one of {', '.join(METRIC_NAMES)}, and at most 1.")
        required[metric] = least
    return required


def parse_shard(_context: click.Context, _param: click.Parameter, value: str | None) -> Shard | None:
    """Parse ``I/N``."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", value)
    if not match or not 1 <= int(match.group(1)) <= int(match.group(2)):
        raise click.BadParameter(f"{value!r} is not a part and a number of parts like 2/3, counted from 1.")
    return Shard(count=int(match.group(2)), index=int(match.group(1)))


def parse_max_failures(_context: click.Context, _param: click.Parameter, value: str) -> MaxFailures:
    """Parse ``N`` or ``P%``."""
    percent = value.endswith("%")
    try:
        limit = float(value.removesuffix("%")) if percent else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor a percentage like 1%.") from None
    if not 0 <= limit <= (100 if percent else sys.maxsize):
        raise click.BadParameter(f"{value!r} is out of range.")
    return MaxFailures(limit, percent)


def parse_size(_context: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """Parse a number of bytes: ``1500000``, ``500M`` or ``2G``, in the decimal units of ``e2v plan``."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,19})([KMGT]?)B?", value.upper())
    if not match:
        raise click.BadParameter(f"{value!r} is not a number of bytes like 1500000, 500M or 2G.")
    return int(match.group(1)) * _UNITS[match.group(2)]


def choose_pipe_seconds(allow_pipes: bool, pipe_timeout: float = PIPE_SECONDS) -> float | None:
    """Choose the time limit of commands in lists; None: they are refused."""
    return pipe_timeout if allow_pipes else None


def choose_shard(shard: Shard | None = RunOptions.shard) -> Shard:
    """Choose the whole list where no shard is given."""
    return shard or RunOptions.shard


def choose_changed(keep_changed: bool = False, recompute_changed: bool = False) -> ChangedSources:
    """Choose what a resume does about changed sources."""
    if keep_changed and recompute_changed:
        raise click.UsageError("--keep-changed and --recompute-changed exclude each other.")
    return "keep" if keep_changed else "recompute" if recompute_changed else "refuse"


def choose_log_level(quiet: bool = False, verbose: bool = False) -> int:
    """Choose the lowest level that is shown."""
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other.")
    return logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
