"""A run from its settings to its summary: corpus, model, OUT, engine, worker, final files; and signals."""

from __future__ import annotations

import hashlib
import logging
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from e2v_cli import __version__
from e2v_cli.checkpoint import Model, hash_weights, read_model
from e2v_cli.corpus import read_corpus
from e2v_cli.errors import OutputConflictError, OutputError, UsageError
from e2v_cli.hub import find_model
from e2v_cli.journal import Journal, Record
from e2v_cli.merge import publish, publish_summary, read_input_digest
from e2v_cli.progress import Progress
from e2v_cli.records import Summary, Utterance
from e2v_cli.settings import Fingerprint, Settings, make_fingerprint
from e2v_cli.sinks import DirectorySink, Sink, StdoutSink
from e2v_cli.writers import open_writer

if TYPE_CHECKING:
    from e2v_cli.engine import Engine

logger = logging.getLogger(__name__)

JOURNAL = "journal.1-of-1"
"""The journal of the only shard there is."""

RESULTS = (
    "predictions.tsv",
    "failures.tsv",
    "run.json",
    "embeddings.scp",
    "embeddings.tsv",
    "utt2dur",
    "utt2num_frames",
)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

BATCH_SECONDS = {"cpu": 10.0, "cuda": 300.0}
"""Audio in one forward pass, by kind of device: what stays in a CPU's cache, and what fills a GPU."""


def run(settings: Settings) -> Summary:
    """Run ``e2v predict``.

    Raises:
        E2vError: it could not go on; what was done until then is safe.
    """
    started = time.monotonic()
    with _signals(signal.default_int_handler):  # until there is work under way, nothing can be lost
        utterances = read_corpus(settings.inputs)
        model = read_model(settings.model, find_model(settings.model))
        if not model.labels and settings.embeddings == "none":
            hint = " (its tokens.txt is missing)" if model.declares_head else ""
            raise UsageError(
                f"{settings.model} has no head{hint}, only embeddings: add -o OUT --embeddings npy, or ark"
            )
        if settings.output_dir is None:
            return _run_to_stdout(settings, utterances, model, started)
        try:
            return _run_to_directory(settings, settings.output_dir, utterances, model, started)
        except BrokenPipeError:
            raise
        except OSError as error:
            place = error.filename or settings.output_dir
            raise OutputError(
                f"{place}: {error.strerror or error}; what is done is safe, run the same command again"
            ) from error


def _run_to_stdout(settings: Settings, utterances: Sequence[Utterance], model: Model, started: float) -> Summary:
    engine = _load_engine(settings, model)
    loaded = time.monotonic()
    sink = StdoutSink(model.labels)
    _run_worker(settings, utterances, model, engine, sink)
    now = time.monotonic()
    return Summary(
        input=len(utterances),
        done=sink.done,
        failed=sink.failed,
        audio_seconds=sink.audio_seconds,
        wall_seconds=now - started,
        encode_seconds=now - loaded,
    )


def _run_to_directory(
    settings: Settings,
    output_dir: Path,
    utterances: Sequence[Utterance],
    model: Model,
    started: float,
) -> Summary:
    # With --overwrite, a model that can't be loaded must not cost what is there.
    engine = _load_engine(settings, model) if settings.overwrite else None
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output_dir}: {error.strerror}; choose another -o") from None
    had_run = (output_dir / JOURNAL).exists()
    _refuse_foreign_files(output_dir, had_run or settings.overwrite)
    weights_sha256 = hash_weights(model)
    fingerprint = make_fingerprint(settings, weights_sha256, model.labels)
    with ExitStack() as stack:
        journal = Journal(output_dir / JOURNAL, fingerprint, anew=settings.overwrite)
        stack.callback(journal.close)
        if settings.overwrite and had_run:
            _remove_results(output_dir)
        stack.enter_context(_log_file(output_dir / "log" / "worker.1.log"))
        record = journal.record
        _check_embeddings(output_dir, record)
        if settings.retry_failed:
            record.failures.clear()
        finished = record.entries.keys() | record.failures.keys()
        work_left = not all(utterance.utt_id in finished for utterance in utterances)
        if work_left:
            engine = engine or _load_engine(settings, model)
            writer = open_writer(output_dir, settings.embeddings, settings.embedding_dtype)
            stack.callback(writer.close)
            (output_dir / "run.json").unlink(missing_ok=True)  # it says that the final files are those of the journal
            sink = DirectorySink(journal, writer, model.labels, finished, started)
            _run_worker(settings, utterances, model, engine, sink)
        summary = _summarise(record, utterances)
        input_digest = _digest(utterances)
        if not summary.complete:
            logger.warning("stopped; %d of %d utterances are left", summary.left, summary.input)
        elif read_input_digest(output_dir) != input_digest or not (output_dir / "predictions.tsv").exists():
            publish(output_dir, utterances, model.labels, settings.embeddings, record)
            publish_summary(output_dir, _run_facts(model, weights_sha256, fingerprint, input_digest), summary)
        else:
            logger.warning("%s is complete: nothing to do", output_dir)
        return summary


def _load_engine(settings: Settings, model: Model) -> Engine:
    from e2v_cli.engine import choose_device, load_engine  # torch: not before there is work to do

    return load_engine(settings.engine, model, choose_device(settings.device), settings.granularity)


def _run_worker(
    settings: Settings,
    utterances: Sequence[Utterance],
    model: Model,
    engine: Engine,
    sink: Sink,
) -> None:
    from e2v_cli.worker import work

    received: list[int] = []
    left = sum(not sink.is_finished(utterance) for utterance in utterances)
    with (
        _signals(lambda signum, _frame: received.append(signum)),  # the worker stops behind what it is at
        closing(Progress(left, settings.progress)) as progress,
    ):
        batch_seconds = settings.batch_seconds or BATCH_SECONDS[engine.device.type]
        min_samples = model.config.receptive_field
        work(utterances, engine, sink, progress, min_samples, batch_seconds, stopping=lambda: bool(received))


def _refuse_foreign_files(output_dir: Path, known: bool) -> None:
    """Keep out of folders that are somebody else's.

    Raises:
        OutputConflictError: OUT is a Kaldi data directory, or holds results that can't be resumed.
    """
    if (output_dir / "wav.scp").exists():
        raise OutputConflictError(
            f"{output_dir} is a Kaldi data directory, and its utt2dur would be replaced: choose another -o"
        )
    if known:
        return
    for name in RESULTS:
        if (output_dir / name).exists():
            raise OutputConflictError(
                f"{output_dir} holds {name}, but no journal of its run: choose another -o, or use --overwrite"
            )


def _check_embeddings(output_dir: Path, record: Record) -> None:
    """Raise OutputError where archives or folders of embeddings are gone that the journal speaks of."""
    places = {
        entry.embedding.partition(":")[0].partition("/")[0] for entry in record.entries.values() if entry.embedding
    }
    for place in sorted(places):
        if not (output_dir / place).exists():
            raise OutputError(
                f"{output_dir / place} is gone, but the journal speaks of it: bring it back, or use --overwrite"
            )


def _remove_results(output_dir: Path) -> None:
    """Clear OUT of what an earlier run left; what is not e2v's stays."""
    for pattern in (*RESULTS, "embeddings.*.ark", "embeddings/*.npy", "log/worker.*.log"):
        for path in output_dir.glob(pattern):
            path.unlink()
    for folder in ("embeddings", "log"):
        with suppress(OSError):  # it is not there, or holds what is not e2v's
            (output_dir / folder).rmdir()


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let a handler have the signals that ask e2v to stop."""
    before = {signum: signal.signal(signum, handler) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        for signum, earlier in before.items():
            signal.signal(signum, earlier)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Keep a log of the run in a file, in more detail than standard error."""
    path.parent.mkdir(exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    package = logging.getLogger("e2v_cli")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()


def _summarise(record: Record, utterances: Sequence[Utterance]) -> Summary:
    """Count what the journal says of the input."""
    done = [record.entries[u.utt_id] for u in utterances if u.utt_id in record.entries]
    return Summary(
        input=len(utterances),
        done=len(done),
        failed=sum(utterance.utt_id in record.failures for utterance in utterances),
        audio_seconds=sum(entry.duration for entry in done),
        wall_seconds=sum(attempt.wall_seconds for attempt in record.attempts.values()),
        encode_seconds=sum(attempt.encode_seconds for attempt in record.attempts.values()),
    )


def _digest(utterances: Sequence[Utterance]) -> str:
    """Digest the ids of the input, in order: what ``predictions.tsv`` has rows of."""
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(utterance.utt_id.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def _run_facts(model: Model, weights_sha256: str, fingerprint: Fingerprint, input_digest: str) -> dict[str, Any]:
    """Say what was run, for ``run.json``."""
    options = {key: value for key, value in fingerprint.items() if key not in ("model", "labels")}
    packages = ("torch", "numpy", "soundfile", "soxr", "kaldiio")
    return {
        "model": {"name": model.name, "sha256": weights_sha256, "labels": list(model.labels)},
        "options": options,
        "versions": {
            "e2v": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "input_sha256": input_digest,
    }
