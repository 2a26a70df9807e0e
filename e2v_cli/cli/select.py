"""``e2v select`` on the command line."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import click

from e2v_cli.analysis.select.rule_options import (
    Condition,
    RuleOptions,
    SourceOptions,
    parse_condition,
    parse_min_score,
    parse_split,
    parse_threshold,
)
from e2v_cli.cli.console import print_result, show_message
from e2v_cli.cli.groups import GroupedCommand, grouped_option, option_group
from e2v_cli.cli.values import check_word, parse_folder, sort_classes, sort_merges
from e2v_cli.errors import EXIT_LESS
from e2v_cli.system.logs import log_to_stderr

_option = partial(grouped_option, prefix="E2V_SELECT")
"""Variables have the name of this command, ``E2V_SELECT_CLASSES``: those of ``e2v predict`` mean something else."""


def _sort_words(context: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Sort words that may be given in any order, and more than once."""
    return tuple(sorted(set(check_word(context, param, value))))


def _sort_conditions(_context: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[Condition, ...]:
    return tuple(sorted(set(map(parse_condition, value))))


def _sort_limits(
    _context: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(set(map(parse_min_score, value))))


def _check_threshold(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    return None if value is None else parse_threshold(value)


def _parse_parts(_context: click.Context, _param: click.Parameter, value: str | None) -> tuple[tuple[str, float], ...]:
    return () if value is None else parse_split(value)


_RULES: tuple[Any, ...] = (
    _option(
        "Classes",
        "--classes",
        metavar="A,B,...",
        callback=sort_classes,
        show_default="all but other and unknown",
        help="Classes that are kept.",
    ),
    _option("Classes", "--drop", metavar="A,B,...", callback=sort_classes, help="Classes that are dropped, too."),
    _option("Audio", "--min-duration", type=float, metavar="S", help="Shortest utterance, in seconds."),
    _option("Audio", "--max-duration", type=float, metavar="S", help="Longest utterance, in seconds."),
    _option(
        "Audio",
        "--where",
        multiple=True,
        callback=_sort_conditions,
        metavar="'MAP >= X'",
        help="A map of numbers beside the data, like utt2dnsmos, against a number: < <= > >= or ==; repeatable.",
    ),
    _option(
        "Agreement",
        "--agree",
        multiple=True,
        callback=_sort_words,
        metavar="FILE|OUT",
        help="A second opinion that must have the same label: another run, a map, or a Kaldi directory; repeatable.",
    ),
    _option(
        "Agreement",
        "--steady",
        type=float,
        metavar="S",
        help="Least share of the timeline's spans that have the label of the utterance.",
    ),
    _option(
        "Scores",
        "--min-score",
        "min_scores",
        multiple=True,
        callback=_sort_limits,
        metavar="P|CLASS=P",
        help="Least probability of the label, of all classes or of one; repeatable.",
    ),
    _option(
        "Scores",
        "--min-margin",
        type=float,
        metavar="M",
        help="Least difference between the two highest probabilities.",
    ),
    _option(
        "Scores",
        "--threshold",
        callback=_check_threshold,
        metavar="mean|P%",
        show_default="mean, for classes without --min-score or --precision",
        help="Of each class, the mean score of its utterances, as in confident learning; or its best P percent.",
    ),
    _option(
        "Scores",
        "--reference",
        callback=check_word,
        metavar="REF",
        help="Labels of a sample for --precision: whatever e2v score takes for a reference.",
    ),
    _option(
        "Scores",
        "--precision",
        type=float,
        metavar="P",
        help="Of each class, the lowest threshold whose precision on the sample is at least P (Wilson's lower bound).",
    ),
    _option(
        "Quotas",
        "--max-per-speaker",
        type=int,
        metavar="N",
        help="Most utterances of a class by each speaker, best first.",
    ),
    _option("Quotas", "--hours", type=float, metavar="H", help="Most hours of each class, best first."),
    _option("Quotas", "--top", type=int, metavar="N", help="Most utterances of each class, best first."),
    _option("Quotas", "--balance", is_flag=True, help="Cut each class to the size of the smallest, best first."),
    _option(
        "Result",
        "--split",
        callback=_parse_parts,
        metavar="train=0.9,dev=0.1",
        help="Also write DATA/train and DATA/dev: speakers are assigned by a hash of their names.",
    ),
)


_ORIGIN: tuple[Any, ...] = (
    _option(
        "Input",
        "--data",
        multiple=True,
        callback=check_word,
        metavar="INPUT",
        show_default="as e2v predict was given it",
        help="Where the list of OUT is now, all of it or a part; repeatable.",
    ),
    _option("Input", "--partial", is_flag=True, help="Select from what is done of an OUT that is not complete."),
    _option(
        "Input",
        "--map",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Words of --agree and --reference and their classes, a line each; - leaves them out.",
    ),
    _option(
        "Input",
        "--merge",
        "merges",
        multiple=True,
        callback=sort_merges,
        metavar="A=B",
        help="Compare class A as a part of B, like excited=happy; repeatable.",
    ),
)


@click.command(cls=GroupedCommand, no_args_is_help=True)
@click.argument("output_dir", metavar="OUT", type=click.Path(exists=True, file_okay=False, path_type=Path))
@option_group("rules", RuleOptions, _RULES)
@_option(
    "Result",
    "-o",
    "--output-dir",
    "data_dir",
    type=click.Path(),
    callback=parse_folder,
    metavar="DATA",
    help="Kaldi data directory that is made.",
)
@_option("Result", "--dry-run", is_flag=True, help="Only show what would be kept, and how much at other scores.")
@option_group("origin", SourceOptions, _ORIGIN)
def select(output_dir: Path, rules: RuleOptions, data_dir: Path | None, dry_run: bool, origin: SourceOptions) -> int:
    """Select utterances to train on.

    What is kept of a run of e2v predict, or of a selection, becomes a Kaldi data directory: lists of the run's input,
    with the predicted labels as utt2emo. Scores are saturated, and one threshold for all classes keeps mostly those
    that are easy; so each class has its own, the mean of its scores. An utterance must pass all rules. They are applied
    in the order below, whatever that of the options, and rejected.tsv has the first that it does not pass.

    \b
    Examples:
      e2v select exp/emotion --dry-run
      e2v select exp/emotion -o data/pseudo
      e2v select exp/large -o data/pseudo --agree exp/base --agree text.emo --min-duration 1 --balance
      e2v select exp/emotion -o data/pseudo --threshold 25% --max-per-speaker 20 --split train=0.9,dev=0.1
      e2v select exp/emotion -o data/pseudo --reference data/labelled --precision 0.9 --where 'utt2dnsmos >= 3'

    \b
    Exit codes:
      0   done                                3   less than was asked for, or nothing is kept
      1   could not go on                     4   DATA exists
      2   usage error
    """  # noqa: D301
    if data_dir is None and not dry_run:
        raise click.UsageError("No -o DATA; --dry-run shows what would be kept.")
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.select import select as select_utterances

    target = None if dry_run else data_dir
    outcome = select_utterances(output_dir, target, rules, origin)
    print_result(outcome.text)
    show_message(*outcome.notes, *(f"less than asked for: {note}" for note in outcome.short))
    if not outcome.kept:
        show_message("nothing is kept" + ("" if target is None else f", and {target} is not written"))
    return EXIT_LESS if outcome.short or not outcome.kept else 0
