"""``e2v submit`` on the command line: the options of ``e2v predict``, and those of Slurm."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from e2v_cli.cli import options as opts
from e2v_cli.cli.console import print_result
from e2v_cli.cli.groups import GroupedCommand, option_group
from e2v_cli.cli.words import format_words
from e2v_cli.cluster.slurm import Resources
from e2v_cli.options import (
    ComputeOptions,
    InputOptions,
    JobOptions,
    ModelRequest,
    PredictOptions,
    ResultOptions,
    RunOptions,
)
from e2v_cli.system.logs import log_library_notes, log_to_stderr

MAX_SHARDS = 99_999
"""The most shards of a run: the number of a shard has at most five digits."""


def _refuse(option: str, variable: str, why: str, **attributes: Any) -> Callable[[Any], Any]:
    """Make a hidden option that refuses one of ``e2v predict`` with its reason."""

    def refuse(context: click.Context, param: click.Parameter, value: object) -> None:
        if value:
            by_variable = context.get_parameter_source(str(param.name)) is ParameterSource.ENVIRONMENT
            raise click.UsageError(f"{variable if by_variable else option} is not for e2v submit{why}.")

    name = f"predict_{variable.lower()}"
    return click.option(option, name, envvar=variable, hidden=True, expose_value=False, callback=refuse, **attributes)


_RESOURCES = option_group(
    "resources",
    Resources,
    [
        click.option("--partition", default="", metavar="NAME", help="Partition, as in sbatch."),
        click.option(
            "--gpus",
            default="",
            metavar="[TYPE:]N",
            help="GPUs of each job; with 1, several jobs share a node of several GPUs.",
        ),
        click.option(
            "--cpus",
            type=click.IntRange(min=1),
            metavar="N",
            help="Cores of each job: without GPUs, that many workers.",
        ),
        click.option(
            "--mem", default="", metavar="SIZE", help="Memory of each job, like 8G; without a unit in megabytes."
        ),
        click.option(
            "--time",
            default="",
            metavar="LIMIT",
            help="Time limit of each job: 90 (minutes), 4:00:00, 2-12 (days-hours).",
        ),
        click.option("--account", default="", metavar="NAME", help="Account, as in sbatch."),
        click.option("--qos", default="", metavar="NAME", help="Quality of service, as in sbatch."),
        click.option(
            "--sbatch-arg",
            "others",
            envvar="E2V_SUBMIT_SBATCH_ARG",
            multiple=True,
            metavar="OPTION",
            help="Any other option of sbatch, like --constraint=ib; repeatable.",
        ),
        click.option(
            "--merge-sbatch-arg",
            "merge_others",
            envvar="E2V_SUBMIT_MERGE_SBATCH_ARG",
            multiple=True,
            metavar="OPTION",
            help="The same for the job that merges, like --partition=cpu, which needs no GPU; repeatable.",
        ),
    ],
)

_JOBS = option_group(
    "jobs",
    JobOptions,
    [
        click.option(
            "--jobs",
            "num_shards",
            type=click.IntRange(1, MAX_SHARDS),
            envvar="E2V_SUBMIT_JOBS",
            required=True,
            metavar="N",
            help="Jobs that the run is cut into.",
        ),
        click.option("--array-limit", type=click.IntRange(min=1), metavar="N", help="Jobs that may run at once."),
        click.option(
            "--dry-run", is_flag=True, help="Only write the scripts, and print the commands that submit them."
        ),
    ],
)


@click.command(cls=GroupedCommand, no_args_is_help=True, context_settings={"auto_envvar_prefix": "E2V_SUBMIT"})
@opts.input_options()
@opts.model_options(opts.MODEL, *opts.HUB, opts.LABELS, *opts.CLASSES)
@opts.compute_options(opts.ENGINE, opts.DEVICE, opts.PRECISION, opts.BATCH_SECONDS, opts.WINDOW, opts.PRODUCTS)
@opts.result_options(opts.OUTPUT_DIR, *opts.RESULTS)
@opts.run_options(*opts.RESUME_AND_MESSAGES)
@_JOBS
@_RESOURCES
@_refuse("-j", "E2V_JOBS", ": a job has a worker for each of its --gpus or --cpus")
@_refuse("--shard", "E2V_SHARD", ", which deals the shards itself")
@_refuse("--overwrite", "E2V_OVERWRITE", ", which goes on with what OUT holds: remove it first instead", is_flag=True)
def submit(
    input: InputOptions,  # noqa: A002 — the name of its group
    model: ModelRequest,
    compute: ComputeOptions,
    results: ResultOptions,
    run: RunOptions,
    jobs: JobOptions,
    resources: Resources,
) -> None:
    """Submit a run to Slurm as a job array.

    Each element of the array computes a shard, and another job merges them. Takes all options of e2v predict but
    --jobs, --shard and --overwrite. Lists, model, OUT and disk are checked before anything is submitted. Jobs at their
    time limit are continued; the same command again submits only what is missing.

    With --dry-run, no network, no model and no Slurm are needed: both scripts are written to OUT/slurm, and the sbatch
    commands that submit them are printed. A later e2v submit replaces them.

    \b
    Examples:
      e2v submit data/train -o exp/emotion -m emotion2vec_plus_large --jobs 64 --gpus 1 --cpus 8 --time 4:00:00
      e2v submit wav.scp -o exp/emotion --jobs 100 --cpus 4 --mem 8G --array-limit 20
      e2v submit wav.scp -o exp/emotion --jobs 8 --gpus 1 --partition gpu --merge-sbatch-arg=--partition=cpu
      e2v submit wav.scp -o exp/emotion --jobs 8 --dry-run
    """  # noqa: D301
    options = PredictOptions(input, model, compute, results, run)
    log_to_stderr(run.log_level)
    if run.quiet:
        log_library_notes(os.devnull)

    from e2v_cli.commands.submit import SubmitOptions
    from e2v_cli.commands.submit import submit as submit_jobs

    print_result(submit_jobs(SubmitOptions(options, format_words(options), jobs, resources)))
