"""A run from its settings to its summary: corpus, model, OUT, workers, final files."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.decode import AudioOptions, count_channels
from e2v_cli.commands.merge import describe_missing
from e2v_cli.corpus.blocks import BlockPlan, estimate_costs
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.inputs import read_corpus
from e2v_cli.errors import OutputConflictError, OutputError, UsageError
from e2v_cli.journal.folder import (
    find_at_other_lists,
    find_ended,
    find_run,
    is_published,
    is_shown_alike,
    plan_for,
    read_record,
    read_sizes,
    refuse_other_fingerprints,
)
from e2v_cli.journal.history import Record
from e2v_cli.journal.ids import read_costs, save_costs, save_ids
from e2v_cli.journal.journal import DONE, LEFT, Elapsed, Header, Journal, find_journals
from e2v_cli.journal.locks import MERGE, Owner, locked, refuse_other_runs
from e2v_cli.journal.results import check_archives, check_timelines, make_folder, refuse_foreign_files, remove_results
from e2v_cli.models.folder import Model, read_model
from e2v_cli.models.hub import find_model
from e2v_cli.models.weights import Weights, prepare_weights
from e2v_cli.options import EmbeddingOptions, EngineOptions, Fingerprint, Settings, Shard, make_fingerprint
from e2v_cli.records import SAMPLE_RATE, Summary
from e2v_cli.results.embeddings import npy_draft_name
from e2v_cli.results.publish import publish
from e2v_cli.results.sinks import JournalSink, Sink, StdoutSink
from e2v_cli.system.files import remove_drafts
from e2v_cli.system.logs import log_to_file
from e2v_cli.system.process import HOST, now
from e2v_cli.system.progress import Progress
from e2v_cli.system.signals import StopSignals
from e2v_cli.workers.devices import check_precision, choose_devices, count_cores
from e2v_cli.workers.launcher import Launcher
from e2v_cli.workers.worker import Job

logger = logging.getLogger(__name__)

WAITING_DECODERS = 4
"""Threads that decode, in each worker, where most of them wait for commands or servers."""


def run(settings: Settings, stop: StopSignals) -> Summary:
    """Run ``e2v predict``, until it is done or told to stop.

    Raises:
        E2vError: it could not go on; what was done until then is safe.
        KeyboardInterrupt: a signal stopped it where nothing was under way.
    """
    started = time.monotonic()
    corpus, model = find_corpus_and_model(settings)
    devices = choose_devices(settings.device, settings.jobs)
    check_precision(settings.precision, devices[0])
    weights = prepare_weights(model)
    if settings.output_dir is None:
        return _run_to_stdout(settings, corpus, model, weights, devices, stop, started)
    try:
        return _run_to_directory(settings, settings.output_dir, corpus, model, weights, devices, stop, started)
    except OSError as error:
        raise OutputError.of(error) from error


def find_corpus_and_model(settings: Settings) -> tuple[Corpus, Model]:
    """Read the lists, and find a model that can give what is wanted.

    Raises:
        CorpusError: a list can't be read.
        ModelError: there is no such model, or its folder is not one.
        UsageError: it can't give what is wanted.
    """
    corpus = _read_corpus(settings)
    model = read_model(settings.model.name, find_model(settings.model), settings.labels)
    if not model.labels and settings.embeddings == "none":
        hint = " (its tokens.txt is missing)" if model.declares_head else ""
        raise UsageError(f"{model.name} has no head{hint}, only embeddings: add -o OUT --embeddings npy, or ark")
    if settings.timeline is not None:
        _check_timeline(model, settings.timeline)
    return corpus, model


def _read_corpus(settings: Settings) -> Corpus:
    corpus = read_corpus(settings.inputs, allow_pipes=settings.pipe_seconds is not None)
    if settings.channel == "split":
        count = partial(count_channels, pipe_seconds=settings.pipe_seconds)
        corpus = split_channels(corpus, count, num_threads=WAITING_DECODERS)
    return corpus


def _check_timeline(model: Model, hop: float) -> None:
    """Check that a model can give a timeline."""
    if not model.labels:
        raise UsageError(f"{model.name} has no head, and so there is nothing for a timeline: leave out --timeline")
    frame_shift = model.config.hop / SAMPLE_RATE
    if hop < frame_shift:
        raise UsageError(f"--timeline {hop:g}: no span can be shorter than a frame of {model.name}, {frame_shift:g} s")


def _run_to_stdout(
    settings: Settings,
    corpus: Corpus,
    model: Model,
    weights: Weights,
    devices: Sequence[str],
    stop: StopSignals,
    started: float,
) -> Summary:
    costs = estimate_costs(corpus.durations) if settings.shard.count > 1 else None
    plan = BlockPlan(np.arange(len(corpus)), corpus.recording_groups, costs)
    order: Iterable[int] = (place for block in plan.deal_blocks(settings.shard) for place in block.places.tolist())
    if corpus.recording_groups is not None:  # segments are not computed in the order of the list
        order = sorted(order)
    sink = StdoutSink(model.labels, len(corpus), iter(order), started)
    _run_workers(settings, model, weights, corpus, plan, devices, sink, stop)
    return _summarise(sink.status, sink.elapsed, plan, settings.shard, stop)


def _run_to_directory(
    settings: Settings,
    output_dir: Path,
    corpus: Corpus,
    model: Model,
    weights: Weights,
    devices: Sequence[str],
    stop: StopSignals,
    started: float,
) -> Summary:
    shard = settings.shard
    make_folder(output_dir)
    refuse_foreign_files(output_dir, settings.overwrite or bool(find_journals(output_dir)))
    fingerprint = make_fingerprint(settings, weights.sha256, model.labels)
    with ExitStack() as stack:
        stack.enter_context(locked(output_dir, shard.name))
        refuse_other_runs(output_dir, shard, find_at_other_lists(output_dir, corpus.digest))
        if settings.overwrite:
            remove_results(output_dir)
        refuse_other_fingerprints(output_dir, fingerprint)
        remove_drafts(output_dir / npy_draft_name(shard))
        log_to_file(output_dir / "log" / f"launcher.{shard.name}.log")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        logger.info("%s: shard %s on %s; GPUs: %s", Owner.of_this_process(), shard, ", ".join(devices), visible)
        record = read_record(output_dir, corpus)
        check_archives(output_dir, record.archives)
        check_timelines(output_dir, record.timelines)
        plan = plan_for(record, corpus, _agree_on_costs(output_dir, corpus) if shard.count > 1 else None)
        status = record.status.copy()
        if settings.retry_failed:
            status[status != DONE] = LEFT
        save_ids(output_dir, corpus)
        elapsed = [taken for journal, taken in record.elapsed.items() if journal.shard == shard]
        header = _make_header(settings, fingerprint, model, corpus)
        ended = shard in find_ended(output_dir, corpus.digest) and is_shown_alike(output_dir, shard, header)
        if _count_left(status, plan, shard) or not ended:
            with closing(Journal(output_dir, shard, header)) as journal:
                try:
                    refuse_other_fingerprints(output_dir, fingerprint)  # of shards that began at the same moment
                except OutputConflictError:
                    journal.discard()
                    raise
                sink = JournalSink(journal, status, started)
                _run_workers(settings, model, weights, corpus, plan, devices, sink, stop)
                elapsed.append(replace(sink.elapsed, wall_seconds=time.monotonic() - started))
                if not stop.received:
                    journal.end(elapsed[-1])
        summary = _summarise(status, sum(elapsed, Elapsed()), plan, shard, stop)
        if summary.stopped:
            logger.warning("stopped; %d of %d utterances are left", summary.left, summary.input)
            return summary
        return _publish_after_last(output_dir, corpus, record, shard) or summary


def _agree_on_costs(output_dir: Path, corpus: Corpus) -> NDArray[np.float32] | None:
    """Read by which costs all shards deal the list; the first one that is there says it."""
    costs = read_costs(output_dir, corpus)
    if costs is None:
        costs = estimate_costs(corpus.durations)
        if costs is not None:
            save_costs(output_dir, corpus.digest, costs)
    return costs


def _make_header(settings: Settings, fingerprint: Fingerprint, model: Model, corpus: Corpus) -> Header:
    return Header(
        fingerprint=fingerprint,
        model=model.name,
        labels=model.labels,
        input_sha256=corpus.digest,
        input_size=len(corpus),
        frame_shift=model.config.hop / SAMPLE_RATE,
        timeline_formats=settings.timeline_formats,
        join=settings.join,
        host=HOST,
        pid=os.getpid(),
        started=now(),
    )


def _publish_after_last(output_dir: Path, corpus: Corpus, record: Record, shard: Shard) -> Summary | None:
    """Write the final files, unless they are there, or other shards are not at their end.

    The record is read again where the journals have grown since.
    """
    ended = [other for other in find_ended(output_dir, corpus.digest) if other.count == shard.count]
    if shard not in ended:
        raise OutputError(f"{output_dir}: its journal is gone or was changed meanwhile; run the same command again")
    if len(ended) < shard.count:
        logger.warning("shard %s is complete; e2v merge %s when all are", shard, output_dir)
        return None
    with locked(output_dir, MERGE, wait=True):
        unchanged = record.sizes == read_sizes(output_dir)
        if is_published(output_dir, corpus.digest):
            logger.warning("%s is complete%s", output_dir, ": nothing to do" if unchanged else "")
            return None
        if not unchanged:
            record = read_record(output_dir, corpus)
        # there is something missing where others ended when what was done before was another
        if missing := describe_missing(output_dir, record, shard.count, corpus):
            logger.warning("shard %s is complete; %s", shard, missing)
            return None
        if shard.count > 1:
            logger.warning("all %d shards are complete: %s is merged", shard.count, output_dir)
        merged = publish(output_dir, corpus, record, find_run(output_dir).header)
        return merged if shard.count == 1 else None


def _run_workers(
    settings: Settings,
    model: Model,
    weights: Weights,
    corpus: Corpus,
    plan: BlockPlan,
    devices: Sequence[str],
    sink: Sink,
    stop: StopSignals,
) -> None:
    """Compute what is left of a shard, unless told to stop."""
    dealt = plan.deal_blocks(settings.shard)
    blocks = (block for block in dealt if (sink.status[block.places] == LEFT).any())
    first = list(islice(blocks, len(devices)))
    devices = devices[: len(first)]  # no worker without a block
    if not devices:
        return
    span_samples = None if settings.timeline is None else round(settings.timeline * SAMPLE_RATE)
    job = Job(
        model=model,
        weights=weights,
        engine=settings.engine,
        engine_options=EngineOptions(settings.granularity, settings.window, span_samples, settings.precision),
        audio=AudioOptions(
            min_samples=model.config.receptive_field,
            window=settings.window,
            channel=settings.channel,
            pipe_seconds=settings.pipe_seconds,
        ),
        batch_seconds=settings.batch_seconds,
        embeddings=EmbeddingOptions(settings.embeddings, settings.embedding_dtype, settings.compress),
        output_dir=settings.output_dir,
        shard=settings.shard,
        decoders=min(8, max(WAITING_DECODERS if corpus.waits else 1, count_cores() // len(devices))),
        log_level=settings.log_level,
    )
    left = _count_left(sink.status, plan, settings.shard)
    with stop.noted(), closing(Progress(left, settings.progress)) as progress:
        Launcher(job, devices, corpus, chain(first, blocks), sink, progress, stopping=lambda: stop.received).run()


def _count_left(status: NDArray[np.uint8], plan: BlockPlan, shard: Shard) -> int:
    return int(plan.count_by_shard(status[plan.members] == LEFT, shard.count)[shard.index - 1])


def _summarise(
    status: NDArray[np.uint8], elapsed: Elapsed, plan: BlockPlan, shard: Shard, stop: StopSignals
) -> Summary:
    """Count what a shard has; the only one there is has all, also what was done when the list was another."""
    if shard.count > 1:
        own = [block.places for block in plan.deal_blocks(shard)]
        status = status[np.concatenate(own)] if own else status[:0]
    left, done = int((status == LEFT).sum()), int((status == DONE).sum())
    return Summary(
        input=len(status),
        done=done,
        failed=len(status) - left - done,
        audio_seconds=elapsed.audio_seconds,
        wall_seconds=elapsed.wall_seconds,
        encode_seconds=elapsed.encode_seconds,
        stopped=stop.received,
    )
