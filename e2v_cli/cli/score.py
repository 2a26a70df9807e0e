"""``e2v score`` on the command line."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from e2v_cli.cli.console import print_result, show_message
from e2v_cli.cli.groups import Decorator, GroupedCommand, grouped_option, option_group
from e2v_cli.cli.values import check_word, parse_folder, parse_required, sort_classes, sort_merges
from e2v_cli.errors import EXIT_TOO_MANY_FAILURES
from e2v_cli.options import Missing, ScoreFormat, ScoreOptions
from e2v_cli.system.logs import log_to_stderr

_score_option = partial(grouped_option, prefix="E2V_SCORE")
"""Variables have the name of this command, ``E2V_SCORE_CLASSES``: those of ``e2v predict`` mean something else."""


def _words(_context: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value))


def map_option(name: str, prefix: str = "E2V_SCORE") -> Decorator[Any]:
    """Make the option for the map of words to classes, under a name that no other option of the command has."""
    return grouped_option(
        "Labels",
        name,
        "map",
        prefix=prefix,
        type=click.Path(exists=True, path_type=Path),
        metavar="FILE",
        show_default="words are known, letters and numbers are not",
        help="Words of the corpus and their classes, a line each; - drops the utterances from the reference.",
    )


def reference_options(prefix: str = "E2V_SCORE") -> tuple[Decorator[Any], ...]:
    """Make the other options by which the labels of a reference are read; variables have the name of the command."""
    option = partial(grouped_option, "Labels", prefix=prefix)
    return (
        option(
            "--merge",
            multiple=True,
            callback=sort_merges,
            metavar="A=B",
            help="Make class A a part of B, like excited=happy; repeatable.",
        ),
        option(
            "--classes",
            metavar="A,B,...",
            callback=sort_classes,
            show_default="those of the reference",
            help="Classes that count; utterances of others are left out.",
        ),
        option(
            "--id-column",
            metavar="NAME",
            show_default="a known one, like key or FileName",
            help="Column of ids of a .csv, .tsv or .jsonl.",
        ),
        option(
            "--label-column",
            metavar="NAME",
            show_default="a known one, like emo or EmoClass",
            help="Column of labels.",
        ),
    )


def missing_option(default: Missing) -> Decorator[Any]:
    """Make the option for the rule for utterances without a prediction."""
    return _score_option(
        "Missing",
        "--missing",
        type=click.Choice(get_args(Missing)),
        default=default,
        help="What becomes of utterances of the reference that have no prediction.",
    )


SCORE = (
    *reference_options(),
    _score_option(
        "Labels",
        "--closed",
        is_flag=True,
        help="Make the headline of the most probable of these classes, instead of all classes of the model.",
    ),
    _score_option(
        "Groups",
        "--by",
        multiple=True,
        callback=_words,
        metavar="spk|gender|lang|FILE",
        help="A row for each group, and their mean, min and max; a map of utterances or speakers; repeatable.",
    ),
    _score_option(
        "Groups",
        "--folds",
        metavar="FILE|none",
        show_default="utt2fold or spk2fold, where it is",
        help="Make the headline the mean of folds, with all utterances together beside it.",
    ),
    _score_option(
        "Intervals",
        "--ci",
        metavar="speaker|utterance|FILE|none",
        show_default="speaker, where known",
        help="What the bootstrap resamples.",
    ),
    _score_option(
        "Intervals", "--confidence", type=float, default=ScoreOptions.confidence, metavar="P", help="Confidence level."
    ),
    _score_option(
        "Intervals", "--resamples", type=int, default=ScoreOptions.resamples, metavar="N", help="Number of resamples."
    ),
    _score_option("Intervals", "--seed", type=int, default=ScoreOptions.seed, metavar="N", help="Seed of resampling."),
)
"""All options of a score but the map and the rule for missing predictions."""


@click.command(cls=GroupedCommand, no_args_is_help=True)
@click.argument("predictions", metavar="PREDICTIONS", callback=check_word)
@click.argument("reference", metavar="REFERENCE", callback=check_word)
@option_group("options", ScoreOptions, (map_option("--map"), *SCORE, missing_option(ScoreOptions.missing)))
@_score_option(
    "Result",
    "--against",
    metavar="PREDICTIONS",
    callback=check_word,
    help="Compare with these on the same utterances: differences with intervals and p, and McNemar's test for WA.",
)
@_score_option(
    "Result",
    "--require",
    multiple=True,
    callback=parse_required,
    metavar="UA=0.6",
    help="Exit with 3 if a metric of the headline is lower; repeatable.",
)
@_score_option(
    "Result",
    "--format",
    "form",
    type=click.Choice(get_args(ScoreFormat)),
    default="text",
    help="Format on standard output.",
)
@_score_option(
    "Result",
    "-o",
    "--output-dir",
    type=click.Path(file_okay=False),
    callback=parse_folder,
    metavar="DIR",
    help="Also write score.json, confusion.tsv, classes.tsv, groups.tsv and errors.tsv there.",
)
def score(
    predictions: str,
    reference: str,
    options: ScoreOptions,
    against: str | None,
    require: dict[str, float],
    form: ScoreFormat,
    output_dir: Path | None,
) -> int:
    """Compare predictions with a reference.

    PREDICTIONS is an OUT of e2v predict, finished or not, a predictions.tsv, a map (utt-id label), or - for one of them
    on standard input. REFERENCE is a Kaldi directory with utt2emo, a map, EmoBox's .jsonl, or a .csv or .tsv with a
    header.

    WA is the accuracy, not weighted by class. UA (UAR) is the mean recall over the classes of the reference, WF1 and
    MF1 are mean F1 over them, weighted by their utterances or not. Open answers are the model's; closed ones are the
    most probable of the classes that count. Kaldi's utt2spk, spk2fold, utt2fold, spk2gender and utt2lang are read where
    they are. Intervals are over speakers, since utterances of a speaker resemble each other.

    \b
    Examples:
      e2v score exp/emotion data/test
      e2v score exp/emotion data/test --classes angry,happy,neutral,sad --closed --merge excited=happy --by spk
      e2v score exp/large data/test --against exp/base -o exp/large/score --require UA=0.6
      e2v score exp/msp labels_consensus.csv --map msp.map

    \b
    Exit codes:
      0   done                                2   usage error
      1   an input can't be used              3   lower than --require
    """  # noqa: D301
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.score import report_score

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    report = report_score((predictions, reference, against), options, require, form, output_dir, is_terminal)
    print_result(report.text)
    show_message(*report.notes, *report.too_low)
    return EXIT_TOO_MANY_FAILURES if report.too_low else 0
