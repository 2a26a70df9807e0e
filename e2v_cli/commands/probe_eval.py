"""``e2v probe eval``: embeddings and labels → out-of-fold predictions as a complete OUT, and a table of folds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from e2v_cli._version import __version__
from e2v_cli.analysis.metrics.metrics import MAIN_METRICS
from e2v_cli.analysis.probe.evaluation import Evaluation, FoldScores, evaluate_folds, format_scores, score_folds
from e2v_cli.analysis.probe.examples import Examples, find_examples
from e2v_cli.analysis.probe.facts import describe_data
from e2v_cli.analysis.probe.folds import Folds, assign_folds, check_classes, refuse_shared_speakers
from e2v_cli.analysis.probe.options import EvalOptions, FitOptions, LabelOptions
from e2v_cli.analysis.score.groups import GroupMetrics
from e2v_cli.commands.probe_run import ProbeRun, find_example_audio, refuse_run, write_run
from e2v_cli.errors import OutputError, UsageError
from e2v_cli.journal.ids import PROBE_FILES
from e2v_cli.options import Fingerprint, Invocation
from e2v_cli.system.files import is_directory
from e2v_cli.system.text import counted, json_content, tsv_row

FOLDS_TABLE, FACTS = PROBE_FILES


@dataclass(frozen=True)
class EvaluatedProbe:
    """The result of ``e2v probe eval``."""

    text: str
    """The table of folds."""
    notes: tuple[str, ...]
    """Notes for the user."""


@dataclass(frozen=True)
class EvalRequest:
    """The inputs and options of an evaluation.

    Raises:
        UsageError: an option is of another protocol.
    """

    embeddings: str
    reference: str
    labels: LabelOptions
    options: EvalOptions
    fit: FitOptions

    def __post_init__(self) -> None:
        protocol = self.options.protocol
        if protocol != "linear" and replace(self.fit, seed=FitOptions.seed) != FitOptions():
            raise UsageError(
                f"--protocol {protocol}: --c, --balanced and --prior are of the linear one; leave them out"
            )


def evaluate(request: EvalRequest, output_dir: Path, invocation: Invocation) -> EvaluatedProbe:
    """Predict each fold by a head that is trained on the others, and write OUT.

    Args:
        request: what is evaluated.
        output_dir: OUT.
        invocation: how this command was started.

    Raises:
        CorpusError: an input can't be used, folds share speakers, or one can't be trained.
        OutputConflictError: OUT holds a run.
        OutputError: a run can't be read, or OUT can't be written.
        UsageError: an option does not fit the inputs.
    """
    started = time.monotonic()
    options, fit = request.options, request.fit
    refuse_run(output_dir, options.overwrite)
    examples = find_examples(request.embeddings, request.reference, request.labels)
    _refuse_inputs(output_dir, request, examples)
    folds = assign_folds(examples, options.folds, fit.seed)
    num_shared = refuse_shared_speakers(examples, folds, options.allow_shared_speakers)
    notes = [*examples.notes, *check_classes(examples, folds)]
    audio = find_example_audio(examples, invocation)
    evaluation = evaluate_folds(examples, folds, options.protocol, fit)
    scores = score_folds(examples, folds, evaluation.posteriors)
    facts = _describe(request, examples, folds, evaluation, num_shared)
    mark = f", {counted(num_shared, 'speaker')} in training and test" if num_shared else ""
    run = ProbeRun(
        examples=examples,
        posteriors=evaluation.posteriors,
        audio=audio,
        model=f"{options.protocol} probe of {examples.origin.model or examples.origin.name}{mark}",
        options=_fingerprint(request, examples, folds),
        digest=hashlib.sha256(json_content(facts)).hexdigest(),
        seconds=time.monotonic() - started,
    )
    files = {
        FOLDS_TABLE: _format_folds(examples, folds),
        FACTS: json_content({**facts, "scores": _score_facts(scores)}),
    }
    try:
        write_run(output_dir, run, files, options.overwrite)
    except OSError as error:
        raise OutputError.of(error) from error
    return EvaluatedProbe(_format_evaluation(request, examples, folds, scores, num_shared), (*notes, *audio.notes))


def _refuse_inputs(output_dir: Path, request: EvalRequest, examples: Examples) -> None:
    """Check that OUT is not the folder of an input, whose files would be deleted, or mixed with others.

    Raises:
        UsageError: it is.
    """
    paths = [Path(request.embeddings), Path(request.reference), *filter(None, [examples.origin.output_dir])]
    folders = (path if is_directory(path) else path.parent for path in paths)
    if output_dir.resolve() in map(Path.resolve, folders):
        raise UsageError(f"-o {output_dir}: the embeddings or labels are there; choose another -o")


def _fingerprint(request: EvalRequest, examples: Examples, folds: Folds) -> Fingerprint:
    """Return the options that change predictions, besides those of the embeddings."""
    fit = request.fit
    return {
        "probe": request.options.protocol,
        "folds": folds.source,
        "c": "auto" if fit.c is None else fit.c,
        "balanced": "yes" if fit.balanced else "no",
        "prior": fit.prior,
        "seed": fit.seed,
        "layer": examples.origin.layer or "last",
    }


def _describe(
    request: EvalRequest, examples: Examples, folds: Folds, evaluation: Evaluation, num_shared: int
) -> dict[str, Any]:
    """Describe the origin of predictions, as ``probe.json`` has it."""
    source = examples.origin.output_dir
    packages = ["numpy", "scikit-learn", "scipy"] if request.options.protocol == "linear" else ["numpy", "torch"]
    return {
        "e2v": __version__,
        "versions": {name: version(name) for name in packages},
        "protocol": request.options.protocol,
        "origin": {**asdict(examples.origin), "output_dir": None if source is None else str(source)},
        "data": describe_data(examples, request.labels),
        "options": asdict(request.fit),
        "folds": {
            "source": folds.source,
            "sha256": hashlib.sha256(_format_folds(examples, folds)).hexdigest(),
            "shared_speakers": num_shared,
            "heads": dict(zip(folds.names, evaluation.heads, strict=True)),
        },
    }


def _score_facts(scores: FoldScores) -> dict[str, Any]:
    rows: list[GroupMetrics] = list(scores.table.rows)
    return {
        "folds": [{"fold": row.name, "utterances": row.utterances, **_round_main(row.metrics)} for row in rows],
        "mean": _round_main(scores.table.mean),
        "deviation": _round_main(scores.deviation),
        "pooled": _round_main(scores.pooled),
    }


def _round_main(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(metrics[name], 6) for name in MAIN_METRICS}


def _format_folds(examples: Examples, folds: Folds) -> bytes:
    rows = [
        ("utt_id", "fold"),
        *((key, folds.names[code]) for key, code in zip(examples.ids, folds.codes.tolist(), strict=True)),
    ]
    return "".join(f"{tsv_row(row)}\n" for row in rows).encode()


def _format_evaluation(
    request: EvalRequest, examples: Examples, folds: Folds, scores: FoldScores, num_shared: int
) -> str:
    """Format what was evaluated, and the table."""
    total = len(examples.speaker_names)
    speakers = f" of {counted(total, 'speaker')}" if examples.knows_speakers else ""
    lines = [
        f"{request.embeddings} against {request.reference}: {counted(len(examples), 'utterance')}{speakers}, "
        f"{len(examples.classes)} classes, protocol {request.options.protocol}",
        f"folds: {folds.source}; metrics in %, and their mean and standard deviation (n − 1) over folds; pooled: all "
        "utterances together",
    ]
    if num_shared:
        lines.append(f"SHARED SPEAKERS: {num_shared} of {total} are in training and test, so that voices are known")
    return "\n".join([*lines, "", format_scores(scores)])
