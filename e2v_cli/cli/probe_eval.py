"""``e2v probe eval`` on the command line."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import get_args

import click

from e2v_cli.analysis.probe.options import EvalOptions, FitOptions, LabelOptions, Protocol
from e2v_cli.cli.console import print_result, show_message
from e2v_cli.cli.groups import GroupedCommand, option_group
from e2v_cli.cli.invocation import describe_invocation
from e2v_cli.cli.probe import FIT, LABELS, probe_option
from e2v_cli.cli.values import check_word, parse_folder
from e2v_cli.options import InputOptions
from e2v_cli.system.logs import log_library_notes, log_to_stderr

_OPTIONS = (
    probe_option("Result", "--overwrite", is_flag=True, help="Delete the run that OUT holds."),
    probe_option(
        "Folds",
        "--folds",
        metavar="FILE|speakers|K",
        callback=check_word,
        show_default="utt2fold or spk2fold, where it is, else speakers",
        help="Folds of a map of utterances or speakers; or 5 or K groups of speakers, stratified as far as possible.",
    ),
    probe_option(
        "Folds",
        "--allow-shared-speakers",
        is_flag=True,
        help="Allow the same speakers in training and test, and mark the results.",
    ),
    probe_option(
        "Head",
        "--protocol",
        type=click.Choice(get_args(Protocol)),
        default=EvalOptions.protocol,
        help="Logistic regression, or the head of a paper by its recipe; emotion2vec and emobox need frames.",
    ),
)


@click.command("eval", cls=GroupedCommand, no_args_is_help=True)
@click.argument("embeddings", metavar="EMBEDDINGS", callback=check_word)
@click.argument("reference", metavar="REFERENCE", callback=check_word)
@probe_option(
    "Result",
    "-o",
    "--output-dir",
    type=click.Path(file_okay=False),
    callback=parse_folder,
    required=True,
    metavar="OUT",
    help="Folder of the predictions, for e2v score, report, select and rows.",
)
@probe_option("Result", "-v", "--verbose", is_flag=True, help="Show each fold, and each validation of a paper's head.")
@option_group("labels", LabelOptions, LABELS)
@option_group("options", EvalOptions, _OPTIONS)
@option_group("fit", FitOptions, FIT)
def evaluate(
    embeddings: str,
    reference: str,
    output_dir: Path,
    verbose: bool,
    labels: LabelOptions,
    options: EvalOptions,
    fit: FitOptions,
) -> None:
    """Measure what embeddings know of classes.

    Predicts each fold by a head that is trained on all others, and prints the metrics of each fold, their mean and
    standard deviation, as papers do. EMBEDDINGS and REFERENCE are those of e2v probe train. A speaker in two folds is
    refused. OUT is a complete run of the utterances that have a label: e2v score, report, select and rows take it.
    Beside its other files are folds.tsv, and probe.json with all that the predictions are made of.

    \b
    Examples:
      e2v predict data/iemocap -m emotion2vec_base -o exp/base --granularity frame --embeddings ark
      e2v probe eval exp/base data/iemocap -o exp/base-probe
      e2v probe eval exp/base data/iemocap -o exp/base-paper --protocol emotion2vec
      e2v probe eval npy/ labels.csv -o exp/npy-probe --folds 10 --merge excited=happy

    \b
    Exit codes:
      0   done                                        2   usage error
      1   an input can't be used, or a leak           4   OUT holds a run
    """  # noqa: D301
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    log_library_notes(os.devnull)

    from e2v_cli.commands.probe_eval import EvalRequest
    from e2v_cli.commands.probe_eval import evaluate as evaluate_probe

    invocation = describe_invocation(click.get_current_context(), InputOptions(()))
    request = EvalRequest(embeddings, reference, labels, options, fit)
    evaluated = evaluate_probe(request, output_dir, invocation)
    print_result(evaluated.text)
    show_message(*evaluated.notes)
