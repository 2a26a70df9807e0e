"""The options that commands share: a decorator for each group of ``e2v_cli.options``, which passes the group whole.

Each option can be set by the environment, also where another command takes it: ``E2V_MODEL`` for ``--model``. Its help
stands under the heading of its group, and its default comes from the group's dataclass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from e2v_cli.cli.groups import Command, Decorator, option_group
from e2v_cli.cli.groups import grouped_option as _option
from e2v_cli.cli.values import (
    Names,
    check_word,
    choose_changed,
    choose_log_level,
    choose_pipe_seconds,
    choose_shard,
    parse_channel,
    parse_columns,
    parse_folder,
    parse_max_failures,
    parse_shard,
    parse_size,
    sort_classes,
    sort_layers,
    sort_merges,
    sort_names,
    sort_numbers,
)
from e2v_cli.network.products import ProductsName
from e2v_cli.options import (
    PIPE_SECONDS,
    ComputeOptions,
    EmbeddingDtype,
    EngineName,
    Granularity,
    HubName,
    IdForm,
    InputOptions,
    LabelLanguage,
    ModelRequest,
    Precision,
    ResamplerName,
    ResultOptions,
    RowFormat,
    RowOptions,
    RunOptions,
)
from e2v_cli.results.formats import EMBEDDING_FORMATS, NO_EMBEDDINGS, TIMELINE_FORMATS

_CHANNEL = _option(
    "Input",
    "--channel",
    metavar="N|A|B|mix|split",
    callback=parse_channel,
    default=InputOptions.channel,
    help="Channel of files with several, counted from 1; split makes an utterance of each (-1, -2).",
)
ALLOW_PIPES = _option(
    "Input",
    "--allow-pipes",
    is_flag=True,
    help="Run the commands ('… |') in lists; only for lists that you trust.",
)
_PIPE_TIMEOUT = _option(
    "Input",
    "--pipe-timeout",
    type=float,
    default=PIPE_SECONDS,
    metavar="S",
    help="Time limit of such a command, in seconds.",
)
_MAX_SOURCE_BYTES = _option(
    "Input",
    "--max-source-bytes",
    callback=parse_size,
    metavar="SIZE",
    show_default="by the free space of TMPDIR",
    help="Most bytes that a command or a URL may deliver, like 500M or 2G.",
)
_RESAMPLER = _option(
    "Input",
    "--resampler",
    type=click.Choice(get_args(ResamplerName)),
    default=InputOptions.resampler,
    help="How other sample rates become 16 kHz: as FunASR does without torchaudio (SoX's HQ), or with it.",
)
_HIDDEN = _option(
    "Input", "--hidden", is_flag=True, help="In folders, also search what is hidden: names that begin with a dot."
)

_ID = _option(
    "Input",
    "--id",
    "id_form",
    type=click.Choice(get_args(IdForm)),
    show_default="path in folders, else stem",
    help="Ids of audio without ids: path without suffix (from INPUT if a folder), file name without it, or with it.",
)

_SEGMENTS_RTTM = _option(
    "Input",
    "--segments-rttm",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Cut recordings at the turns of a diarisation: utterances are recording-speaker-start-end, in ms.",
)


def input_options(channel: bool = True) -> Decorator[Any]:
    """Add INPUT and the options of ``InputOptions``, with or without ``--channel``."""
    options = [
        click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, callback=check_word),
        _HIDDEN,
        _ID,
        _SEGMENTS_RTTM,
        *([_CHANNEL] if channel else []),
        _RESAMPLER,
        ALLOW_PIPES,
        _PIPE_TIMEOUT,
        _MAX_SOURCE_BYTES,
    ]

    def decorate(command: Command) -> Command:
        decorated: Command = option_group("input", InputOptions, options)(command)
        return option_group("pipe_seconds", choose_pipe_seconds, ())(decorated)  # type: ignore[no-any-return]

    return decorate


MODEL = _option(
    "Model",
    "-m",
    "--model",
    "name",
    default=ModelRequest.name,
    callback=check_word,
    metavar="NAME|DIR",
    help="A name from e2v models, an id on a hub, or a folder in FunASR's format.",
)

HUB = (
    _option(
        "Model",
        "--hub",
        type=click.Choice(get_args(HubName)),
        default=ModelRequest.hub,
        help="Where models come from: ModelScope or Hugging Face.",
    ),
    _option(
        "Model",
        "--revision",
        metavar="R",
        show_default="what is here, else the newest",
        help="Branch, tag or commit of the model.",
    ),
    _option("Model", "--offline", is_flag=True, help="Use only models on this machine."),
)
LABELS = _option(
    "Model",
    "--labels",
    type=click.Choice(get_args(LabelLanguage)),
    default=ModelRequest.labels,
    help="Labels in English, Chinese, or both as in tokens.txt.",
)

CLASSES = (
    _option(
        "Model",
        "--classes",
        metavar="A,B,...",
        callback=sort_classes,
        show_default="all",
        help="A closed set of labels: probabilities are those of a softmax over these alone.",
    ),
    _option(
        "Model",
        "--merge",
        "merges",
        multiple=True,
        callback=sort_merges,
        metavar="A=B",
        help="Make label A a part of B, which may be new: probabilities are summed; repeatable.",
    ),
)


def model_options(*options: Decorator[Any]) -> Decorator[Any]:
    """Add some of the options of ``ModelRequest`` to a command."""
    return option_group("model", ModelRequest, options)


DEVICE = _option(
    "Compute",
    "--device",
    default=ComputeOptions.device,
    metavar="auto|cpu|cuda|cuda:0,2",
    help="Where to compute; auto: on all GPUs, if there are any.",
)
PRECISION = _option(
    "Compute",
    "--precision",
    type=click.Choice(get_args(Precision)),
    default=ComputeOptions.precision,
    help="Precision of the encoder; fp32 is exact, e2v check measures the others.",
)
JOBS = _option(
    "Compute",
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="all cores, or all GPUs",
    help="Worker processes: on CPU of one thread each, on GPU one per device.",
)
ENGINE = _option(
    "Compute",
    "--engine",
    type=click.Choice(get_args(EngineName)),
    default=ComputeOptions.engine,
    help="e2v's batched engine, or upstream's own code, one utterance at a time.",
)
BATCH_SECONDS = _option(
    "Compute",
    "--batch-seconds",
    type=float,
    metavar="S",
    show_default="10 on CPU, 300 on a GPU",
    help="Audio in one forward pass, in seconds.",
)
WINDOW = _option(
    "Compute",
    "--window",
    type=float,
    default=ComputeOptions.window,
    metavar="S",
    help="Encode longer utterances in windows of at most S seconds, pooled over all frames.",
)

PRODUCTS = _option(
    "Compute",
    "--products",
    type=click.Choice(get_args(ProductsName)),
    show_default="the fastest on this CPU",
    help="Library that multiplies matrices, on a CPU in fp32; last bits depend on it.",
)


def compute_options(*options: Decorator[Any]) -> Decorator[Any]:
    """Add some of the options of ``ComputeOptions`` to a command."""
    return option_group("compute", ComputeOptions, options)


GRANULARITY = _option(
    "Results",
    "--granularity",
    type=click.Choice(get_args(Granularity)),
    default=ResultOptions.granularity,
    help="An embedding is one vector, or a (frames, dim) matrix at 50 Hz.",
)
EMBEDDINGS = _option(
    "Results",
    "--embeddings",
    type=click.Choice([NO_EMBEDDINGS, *EMBEDDING_FORMATS]),
    default=ResultOptions.embeddings,
    help="Also write embeddings: one .npy per utterance, Kaldi ark and scp, or ark as text.",
)
EMBEDDING_DTYPE = _option(
    "Results",
    "--embedding-dtype",
    "dtype",
    type=click.Choice(get_args(EmbeddingDtype)),
    default=ResultOptions.dtype,
    help="Precision of embeddings; Kaldi archives hold fp16 values as 32-bit floats.",
)
_FOLDER: dict[str, Any] = {"type": click.Path(file_okay=False), "callback": parse_folder, "metavar": "OUT"}
OUTPUT_DIR = _option(
    "Results",
    "-o",
    "--output-dir",
    **_FOLDER,
    show_default="rows on standard output",
    help="Where results go; a stopped run is continued there.",
)
PLANNED_DIR = _option(
    "Results",
    "-o",
    "--output-dir",
    **_FOLDER,
    default="OUT",
    help="Where results would go; what is done there is left out.",
)
LAYERS = _option(
    "Results",
    "--layers",
    metavar="6,9,mean:8-12",
    callback=sort_layers,
    show_default="the last",
    help="Embed these layers, or means of them, each in files of its own; labels stay those of the last.",
)
COMPRESS = _option(
    "Results",
    "--compress",
    is_flag=True,
    help="Write matrices in Kaldi's compressed form, a quarter of the size.",
)
RESULTS = (
    GRANULARITY,
    EMBEDDINGS,
    EMBEDDING_DTYPE,
    LAYERS,
    COMPRESS,
    _option(
        "Results",
        "--timeline",
        "timelines",
        type=float,
        multiple=True,
        callback=sort_numbers,
        metavar="SPAN",
        help="Also write emotions over time, a row every SPAN seconds, in OUT/timeline.tsv; repeatable, for files like "
        "timeline-60.tsv. Without -o: print them instead of a row per utterance.",
    ),
    _option(
        "Results",
        "--timeline-format",
        "timeline_formats",
        type=Names(list(TIMELINE_FORMATS)),
        multiple=True,
        callback=sort_names,
        help="Also write timelines in these formats, separated by commas: segments by recording, in its time.",
    ),
    _option("Results", "--join", is_flag=True, help="Join neighbouring spans of the timeline with the same label."),
)


def result_options(*options: Decorator[Any]) -> Decorator[Any]:
    """Add some of the options of ``ResultOptions`` to a command."""
    return option_group("results", ResultOptions, options)


ROWS = (
    _option(
        "Rows",
        "--format",
        type=click.Choice(get_args(RowFormat)),
        show_default="table on a terminal, else tsv",
        help="Format of rows on standard output; jsonl: a JSON object per line.",
    ),
    _option(
        "Rows",
        "--columns",
        metavar="A,B,...",
        callback=parse_columns,
        show_default="all; in a table fewer",
        help="Columns of such rows, like utt_id,label,score.",
    ),
    _option("Rows", "--no-header", is_flag=True, help="Leave out the line with the names of columns."),
)


def row_options(*options: Decorator[Any]) -> Decorator[Any]:
    """Add some of the options of ``RowOptions`` to a command."""

    def make(format: RowFormat | None, columns: tuple[str, ...], no_header: bool) -> RowOptions:  # noqa: A002
        return RowOptions(format, columns, header=not no_header)

    return option_group("rows", make, options)


SHARD = _option(
    "Run",
    "--shard",
    metavar="I/N",
    callback=parse_shard,
    show_default="with -o, its place in a Slurm array or among the tasks of an srun; else 1/1",
    help="Compute only part I of N, counted from 1; the last part to end, or e2v merge, merges them.",
)
OVERWRITE = _option(
    "Run",
    "--overwrite",
    is_flag=True,
    help="Delete what OUT holds of an earlier run, also of the same command.",
)
MAX_FAILURES = _option(
    "Run",
    "--max-failures",
    metavar="N|P%",
    callback=parse_max_failures,
    default=str(RunOptions.max_failures),
    help="Failed utterances that still count as success; more end in exit code 3.",
)
RESUME_AND_MESSAGES = (
    _option("Run", "--retry-failed", is_flag=True, help="Try the utterances again that failed in an earlier run."),
    _option(
        "Run",
        "--keep-changed",
        is_flag=True,
        help="Keep the results of utterances whose audio has another name in the list now.",
    ),
    _option("Run", "--recompute-changed", is_flag=True, help="Compute such utterances again."),
    _option("Run", "--mix-devices", is_flag=True, help="Let CPUs and GPUs compute parts of the same run."),
    MAX_FAILURES,
    _option(
        "Run",
        "--progress/--no-progress",
        default=None,
        show_default="on a terminal; elsewhere a line every 30 s",
        help="Show a progress bar.",
    ),
    _option("Run", "-q", "--quiet", is_flag=True, help="Show only errors on standard error."),
    _option("Run", "-v", "--verbose", is_flag=True, help="Also show which utterances failed, and why."),
)


def run_options(*options: Decorator[Any]) -> Decorator[Any]:
    """Add some of the options of ``RunOptions`` to a command."""

    def decorate(command: Command) -> Command:
        decorated: Command = option_group("run", RunOptions, options)(command)
        for name, choose in (("shard", choose_shard), ("changed", choose_changed), ("log_level", choose_log_level)):
            decorated = option_group(name, choose, ())(decorated)
        return decorated

    return decorate


def predict_options(output_dir: Decorator[Any] = OUTPUT_DIR) -> Decorator[Any]:
    """Add INPUT and all options of ``e2v predict`` to a command; ``e2v plan`` passes its own ``-o``."""
    groups = (
        input_options(),
        model_options(MODEL, *HUB, LABELS, *CLASSES),
        compute_options(ENGINE, DEVICE, JOBS, PRECISION, BATCH_SECONDS, WINDOW, PRODUCTS),
        result_options(output_dir, *RESULTS),
        row_options(*ROWS),
        run_options(SHARD, OVERWRITE, *RESUME_AND_MESSAGES),
    )

    def decorate(command: Command) -> Command:
        decorated: Command = command
        for group in reversed(groups):
            decorated = group(decorated)
        return decorated

    return decorate
