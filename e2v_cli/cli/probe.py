"""``e2v probe`` on the command line: the group, and ``train``."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import get_args

import click

from e2v_cli.analysis.probe.options import FitOptions, LabelOptions, Prior
from e2v_cli.cli.console import print_result, show_message
from e2v_cli.cli.groups import GroupedCommand, grouped_option, option_group
from e2v_cli.cli.score import map_option, reference_options
from e2v_cli.cli.values import check_word, parse_folder
from e2v_cli.system.logs import log_to_stderr

PREFIX = "E2V_PROBE"
"""Variables have the name of these commands, ``E2V_PROBE_SEED``: those of other commands mean something else."""

probe_option = partial(grouped_option, prefix=PREFIX)

LABELS = (map_option("--map", PREFIX), *reference_options(PREFIX))


def _parse_c(_context: click.Context, _param: click.Parameter, value: str) -> float | None:
    """Parse a number, or ``auto``."""
    try:
        return None if value == "auto" else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto.") from None


FIT = (
    probe_option(
        "Head",
        "--c",
        default="auto",
        callback=_parse_c,
        metavar="auto|X",
        help="Inverse strength of regularisation; auto is the best of seven, by cross-validation over speakers.",
    ),
    probe_option("Head", "--balanced", is_flag=True, help="Give all classes the same total weight."),
    probe_option(
        "Head",
        "--prior",
        type=click.Choice(get_args(Prior)),
        default=FitOptions.prior,
        help="Class prior of the probabilities: the shares of the labels, or uniform.",
    ),
    probe_option("Head", "--seed", type=int, default=FitOptions.seed, metavar="N", help="Seed of the folds."),
)


@click.group()
def probe() -> None:
    """Train and evaluate heads on embeddings.

    \b
    Examples:
      e2v probe train exp/emotion data/labelled -o models/ours
      e2v probe eval exp/emotion data/labelled -o exp/probe
    """  # noqa: D301


@probe.command(cls=GroupedCommand, no_args_is_help=True)
@click.argument("embeddings", metavar="EMBEDDINGS", callback=check_word)
@click.argument("reference", metavar="REFERENCE", callback=check_word)
@probe_option(
    "Result",
    "-o",
    "--output-dir",
    "target",
    type=click.Path(),
    callback=parse_folder,
    required=True,
    metavar="MODEL",
    help="Model folder that is made.",
)
@option_group("labels", LabelOptions, LABELS)
@option_group("options", FitOptions, FIT)
@probe_option(
    "Model",
    "-m",
    "--model",
    callback=check_word,
    metavar="NAME|DIR",
    show_default="that of the run of the embeddings",
    help="Encoder of the embeddings, where that is not known or not found.",
)
def train(
    embeddings: str, reference: str, target: Path, labels: LabelOptions, options: FitOptions, model: str | None
) -> None:
    """Train a classifier of your own classes.

    EMBEDDINGS is an OUT of e2v predict with --embeddings, an embeddings.scp, or a folder of .npy; of frames, means are
    taken. REFERENCE is whatever e2v score takes: a Kaldi directory with utt2emo and utt2spk, a map, a .jsonl, a table.

    A logistic regression on standardised vectors, with its temperature calibrated on speakers that it was not fitted
    to, becomes the head of the encoder: MODEL is a folder that e2v predict -m and FunASR load. Its probe.json has the
    data, the scores of the folds, and digests. Of embeddings of a layer, from e2v predict --layers, MODEL has that
    layer as its last.

    \b
    Examples:
      e2v predict data/labelled -o exp/labelled --embeddings ark
      e2v probe train exp/labelled data/labelled -o models/ours
      e2v predict wav.scp -m models/ours -o exp/ours
      e2v probe train exp/labelled labels.csv -o models/four --merge excited=happy --classes angry,happy,neutral,sad

    \b
    Exit codes:
      0   done                                2   usage error
      1   an input can't be used              4   MODEL exists
    """  # noqa: D301
    log_to_stderr(logging.WARNING)

    from e2v_cli.commands.probe_train import train as train_probe

    trained = train_probe((embeddings, reference), target, labels, options, model)
    print_result(trained.text)
    show_message(*trained.notes)
