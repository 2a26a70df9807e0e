"""``e2v predict``: a run from its options to its summary: corpus, model, OUT, workers, final files."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.labels.closed_sets import close_head
from e2v_cli.audio.decode import AudioOptions, count_channels
from e2v_cli.audio.sources import FetchLimits
from e2v_cli.cluster.task import Task
from e2v_cli.commands.causes import find_cause
from e2v_cli.commands.merge import describe_missing
from e2v_cli.commands.offline import check_layers, read_split_corpus
from e2v_cli.corpus.blocks import BlockPlan, estimate_costs
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.errors import OutputError, TimeLimitError, UsageError
from e2v_cli.inference.kept import has_kept_windows
from e2v_cli.inference.load import load_own, prepare_process
from e2v_cli.journal.folder import RunFolder, plan_blocks
from e2v_cli.journal.history import History, parse_record
from e2v_cli.journal.ids import read_costs, save_costs, save_tiers
from e2v_cli.journal.journal import DONE, JOURNAL_FORMAT, LEFT, Elapsed, Header
from e2v_cli.journal.locks import MERGE, Owner, locked
from e2v_cli.journal.reasons import Reasons
from e2v_cli.models.folder import Model, read_model
from e2v_cli.models.hub import find_model
from e2v_cli.models.weights import Weights, prepare_weights
from e2v_cli.options import Fingerprint, InputOptions, PredictOptions, ResultOptions, Shard, make_fingerprint
from e2v_cli.records import SAMPLE_RATE, Summary
from e2v_cli.results.diarised import save_diarisation
from e2v_cli.results.formats import draft_name
from e2v_cli.results.publish import open_run_folder, publish
from e2v_cli.results.retiming import Retimer
from e2v_cli.results.rows import RowPrinter
from e2v_cli.results.sinks import JournalSink, Sink, StdoutSink
from e2v_cli.results.tables import prediction_columns
from e2v_cli.results.timeline import timeline_header
from e2v_cli.system.logs import log_to_file
from e2v_cli.system.process import HOST, now
from e2v_cli.system.progress import Progress, choose_style
from e2v_cli.system.signals import StopSignals
from e2v_cli.workers.devices import check_precision, choose_devices, count_cores, describe_machine, kind_of
from e2v_cli.workers.launcher import Launcher
from e2v_cli.workers.starter import Starter
from e2v_cli.workers.template import Template
from e2v_cli.workers.worker import WorkerSetup

logger = logging.getLogger(__name__)

_RETIMED = 64
"""Utterances that get other timelines between two commits."""

WAITING_DECODERS = 4
"""Threads that decode, in each worker, where most of them wait for commands or servers."""


@dataclass(frozen=True)
class _Run:
    """The corpus, model and start time of a run."""

    options: PredictOptions
    corpus: Corpus
    model: Model
    weights: Weights
    devices: Sequence[str]
    stop: StopSignals
    template: Template | None
    started: float
    """Start of the run, by ``time.monotonic()``."""

    @property
    def shard(self) -> Shard:
        """The part of the list that is computed."""
        return self.options.run.shard

    def own_indices(self, plan: BlockPlan) -> NDArray[np.int64]:
        """Return the utterances of the shard; of a single shard all, also those that were done with another list."""
        if self.shard.count == 1:
            return np.arange(len(self.corpus))
        return plan.deal_indices(self.shard)

    def count_left(self, status: NDArray[np.uint8], plan: BlockPlan) -> int:
        """Count the utterances of the shard that are neither done nor failed."""
        return int(plan.count_by_shard(status[plan.members] == LEFT, self.shard.count)[self.shard.index - 1])


def predict(options: PredictOptions, stop: StopSignals, template: Template | None) -> Summary:
    """Run ``e2v predict``, until it is done or told to stop.

    Args:
        options: what is asked for.
        stop: the signals.
        template: from which workers are forked, if it was started already.

    Raises:
        E2vError: it failed; results until then are safe.
        KeyboardInterrupt: a signal stopped it before any worker was started.
    """
    started = time.monotonic()
    corpus, model = find_corpus_and_model(options)
    devices = choose_devices(options.compute)
    check_precision(options.compute, devices[0])
    run = _Run(options, corpus, model, prepare_weights(model), devices, stop, template, started)
    output_dir = options.results.output_dir
    if output_dir is None:
        summary = _predict_to_stdout(run)
    else:
        try:
            summary = _predict_to_folder(run, output_dir)
        except OSError as error:
            raise OutputError.of(error) from error
    return replace(summary, cause=find_cause(summary, corpus))


def find_corpus_and_model(options: PredictOptions) -> tuple[Corpus, Model]:
    """Read the lists, and find a model that has what the results need.

    Raises:
        CorpusError: a list can't be read.
        ModelError: there is no such model, or its folder is not one.
        UsageError: the model has no head, and the results need one; or it lacks a class or a layer that was chosen.
    """
    corpus = _read_corpus(options.input)
    model = read_model(options.model.name, find_model(options.model), options.model.labels)
    _check_results(model, options.results)
    check_layers(options, model.config)
    return corpus, close_head(model, options.model.classes, options.model.merges)


def _read_corpus(options: InputOptions) -> Corpus:
    limits = FetchLimits(options.pipe_seconds, options.max_source_bytes, WAITING_DECODERS)
    return read_split_corpus(options, partial(count_channels, limits=limits), WAITING_DECODERS)


def _check_results(model: Model, options: ResultOptions) -> None:
    """Check that a model has what the results need."""
    if not model.labels and options.embeddings == "none":
        hint = " (its tokens.txt is missing)" if model.declares_head else ""
        raise UsageError(f"{model.name} has no head{hint}, only embeddings: add -o OUT --embeddings npy, or ark")
    if options.timelines and not model.labels:
        raise UsageError(f"{model.name} has no head, which a timeline needs: leave out --timeline")
    frame_shift = model.config.hop / SAMPLE_RATE
    for seconds in options.timelines:
        if seconds < frame_shift:
            raise UsageError(
                f"--timeline {seconds:g}: no span can be shorter than a frame of {model.name}, {frame_shift:g} s"
            )


def _predict_to_stdout(run: _Run) -> Summary:
    """Compute a list, or a shard of it, and print rows in input order."""
    corpus = run.corpus
    costs = estimate_costs(corpus.durations) if run.shard.count > 1 else None
    plan = BlockPlan(np.arange(len(corpus)), corpus.recording_groups, costs)
    _note_empty_shard(run.shard, plan)
    order: Iterable[int] = (index for block in plan.deal_blocks(run.shard) for index in block.indices.tolist())
    if corpus.recording_groups is not None:  # segments are not computed in the order of the list
        order = sorted(order)
    labels = run.model.labels
    columns = timeline_header(labels) if run.options.results.timelines else prediction_columns(labels)
    printer = RowPrinter(run.options.rows, columns, labels, corpus.ids())
    sink = StdoutSink(printer, len(corpus), iter(order), run.started)
    try:
        _run_workers(run, plan, sink)
    finally:
        sink.end()
    return _summarise(run, run.own_indices(plan), sink.status, sink.reasons, sink.elapsed)


def _predict_to_folder(run: _Run, output_dir: Path) -> Summary:
    """Compute what is left of a shard, and publish the run if that was the last one."""
    options, corpus, shard = run.options, run.corpus, run.shard
    folder = open_run_folder(output_dir, keep_changed=options.run.changed == "keep")
    folder.make(options.run.overwrite)
    fingerprint = make_fingerprint(options, run.weights.sha256, run.model.labels, kind_of(run.devices[0]))
    with locked(output_dir, shard.name):
        history = folder.guard(fingerprint, corpus, options.run)
        folder.remove_drafts([draft_name(shard)])
        log_to_file(output_dir / "log" / f"launcher.{shard.name}.log")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        logger.info("%s: shard %s on %s; GPUs: %s", Owner.of_this_process(), shard, ", ".join(run.devices), visible)
        costs = _agree_on_costs(output_dir, corpus) if shard.count > 1 else None
        plan = plan_blocks(history, corpus, costs)
        _note_empty_shard(shard, plan)
        status, reasons, own = history.status, history.reasons.copy(), run.own_indices(plan)
        tried = own[_is_failed(status[own])] if options.run.retry_failed else own[:0]
        if options.run.retry_failed:
            status[status != DONE] = LEFT
        folder.save_list(corpus)
        if options.input.segments_rttm is not None:
            save_diarisation(output_dir, corpus)
        if options.results.timeline_formats and corpus.recording_groups is not None:
            save_tiers(output_dir, corpus.digest, corpus.tiers())
        elapsed = [taken for journal, taken in history.elapsed.items() if journal.shard == shard]
        has_ended = shard in folder.find_ended(history) and folder.has_same_timelines(shard, options.results)
        if run.count_left(status, plan) or not has_ended:
            with closing(folder.begin(shard, _make_header(run, fingerprint))) as journal:
                sink = JournalSink(journal, status, reasons, run.started)
                _retime(run, history, plan, sink, output_dir)
                _announce(output_dir, status[own], len(tried))
                in_hand = _run_workers(run, plan, sink)
                elapsed.append(replace(sink.elapsed, wall_seconds=time.monotonic() - run.started))
                if run.stop.warned and not sink.elapsed.finished:
                    _check_windows(corpus, in_hand, journal.file.path)
                if not run.stop.received:
                    journal.end(elapsed[-1])
                _report_retry(tried, history.reasons, sink)
        summary = _summarise(run, own, status, reasons, sum(elapsed, Elapsed()))
        if summary.stopped:
            return summary
        return _publish_after_last(folder, corpus, history, shard) or summary


def _is_failed(status: NDArray[np.uint8]) -> NDArray[np.bool_]:
    failed: NDArray[np.bool_] = (status != DONE) & (status != LEFT)
    return failed


def _announce(output_dir: Path, status: NDArray[np.uint8], num_tried: int) -> None:
    """Announce how far earlier attempts came, if they had any result and something is left."""
    done, failed = int((status == DONE).sum()), int(_is_failed(status).sum())
    if done + failed + num_tried and (status == LEFT).any():
        again = f"; trying again the {num_tried} that failed" if num_tried else f", {failed} failed" if failed else ""
        logger.warning("continuing %s: %d of %d are done%s", output_dir, done, len(status), again)


def _report_retry(tried: NDArray[np.int64], before: Reasons, sink: JournalSink) -> None:
    """Report what became of utterances that had failed, if any were tried again."""
    status = sink.status[tried]
    is_same = _is_failed(status) & (sink.reasons.numbers[tried] == before.numbers[tried])
    counts = {
        "done": (status == DONE).sum(),
        "failed as before": is_same.sum(),
        "failed for another reason": (_is_failed(status) & ~is_same).sum(),
        "left": (status == LEFT).sum(),
    }
    if len(tried):
        ends = ", ".join(f"{count} {end}" for end, count in counts.items() if count)
        logger.warning("%d tried again: %s", len(tried), ends)


def _retime(run: _Run, history: History, plan: BlockPlan, sink: JournalSink, output_dir: Path) -> None:
    """Make the timelines of utterances that are done with others, until told to stop: their frames are on disk."""
    dealt = plan.deal_indices(run.shard)
    indices = dealt[history.outdated[dealt]].tolist()
    if not indices:
        return
    logger.warning("%d utterances are done with other timelines: nothing of them is encoded again", len(indices))
    options, device = run.options, run.devices[0]
    prepare_process(device)
    engine = load_own(run.model, run.weights, device, options.compute, options.results)
    retimer = Retimer(output_dir, options.results, run.model.labels, run.shard, engine)
    style = choose_style(options.run.progress, options.run.quiet)
    with run.stop.noted(), history.reading(), closing(Progress(len(indices), style)) as progress:
        for first in range(0, len(indices), _RETIMED):
            if run.stop.received:
                return
            chosen = indices[first : first + _RETIMED]
            records = [parse_record(index, *history.read_lines(index, index + 1)) for index in chosen]
            sink.rewrite(retimer.retime([run.corpus[index] for index in chosen], records))
            progress.advance(len(chosen), sum(record.duration for record in records))


def _check_windows(corpus: Corpus, in_hand: Sequence[int], journal: Path) -> None:
    """Check that a job whose time is used up has at least kept windows of an utterance since its journal was begun.

    Raises:
        TimeLimitError: it has not, and its next start would end like this one.
    """
    task = Task.of_this_process(os.environ)
    if task is None or any(has_kept_windows(journal.parent, corpus[index].utt_id, journal) for index in in_hand):
        return
    first = f"{corpus[in_hand[0]].utt_id}: no window of it was" if in_hand else "no utterance was"
    raise TimeLimitError(
        f"{first} finished within the time limit of job {task.job}, which is not requeued: submit it with more --time"
    )


def _agree_on_costs(output_dir: Path, corpus: Corpus) -> NDArray[np.float32] | None:
    """Read the costs by which all shards deal the list; the first shard writes them."""
    costs = read_costs(output_dir, corpus)
    if costs is None:
        costs = estimate_costs(corpus.durations)
        if costs is not None:
            save_costs(output_dir, corpus.digest, costs)
    return costs


def _make_header(run: _Run, fingerprint: Fingerprint) -> Header:
    results = run.options.results
    return Header(
        format=JOURNAL_FORMAT,
        fingerprint=fingerprint,
        model=run.model.name,
        labels=run.model.labels,
        input_sha256=run.corpus.digest,
        input_size=len(run.corpus),
        frame_shift=run.model.config.hop / SAMPLE_RATE,
        timeline_formats=results.timeline_formats,
        join=results.join,
        mix_devices=run.options.run.mix_devices,
        invocation=run.options.invocation,
        machine=describe_machine(run.devices, run.options.compute, with_funasr=run.options.compute.engine == "funasr"),
        host=HOST,
        pid=os.getpid(),
        started=now("microseconds"),
    )


def _publish_after_last(folder: RunFolder, corpus: Corpus, history: History, shard: Shard) -> Summary | None:
    """Write the final files, unless they are there, or other shards are not complete."""
    sizes_before = dict(history.sizes)
    with locked(folder.path, MERGE, wait=True):
        folder.refresh()
        history = folder.read_history(corpus)
        ended = [other for other in folder.find_ended(history) if other.count == shard.count]
        if shard not in ended:
            raise OutputError(
                f"{folder.path}: its journal is gone or was changed meanwhile; run the same command again"
            )
        if len(ended) < shard.count:
            logger.warning("shard %s is complete; %s is merged when all are", shard, folder.path)
            return None
        if folder.is_published(corpus.digest):
            logger.warning("%s is complete%s", folder.path, ": nothing to do" if history.sizes == sizes_before else "")
            return None
        # utterances are missing if shards were dealt after different earlier results
        if missing := describe_missing(folder, history, shard.count, corpus):
            logger.warning("shard %s is complete; %s", shard, missing)
            return None
        if shard.count > 1:
            logger.warning("all %d shards are complete: %s is merged", shard.count, folder.path)
        merged = publish(folder, corpus, history, folder.find_run().header)
        return merged if shard.count == 1 else None


def _note_empty_shard(shard: Shard, plan: BlockPlan) -> None:
    """Tell the user if a list is too short for this shard."""
    if next(plan.deal_blocks(shard), None) is None:
        logger.warning("shard %s is empty: the list is dealt to fewer shards: %d at most", shard, len(plan))


def _run_workers(run: _Run, plan: BlockPlan, sink: Sink) -> Sequence[int]:
    """Compute what is left of a shard, until told to stop; return the utterances that workers were at then."""
    options, model = run.options, run.model
    dealt = plan.deal_blocks(run.shard)
    blocks = (block for block in dealt if (sink.status[block.indices] == LEFT).any())
    first = list(islice(blocks, len(run.devices)))
    devices = run.devices[: len(first)]  # no worker without a block
    if not devices:
        return ()
    decoders = min(8, max(WAITING_DECODERS if run.corpus.waits else 1, count_cores() // len(devices)))
    setup = WorkerSetup(
        model=model,
        weights=run.weights,
        compute=options.compute,
        results=options.results,
        audio=AudioOptions(
            options.input, options.compute, model.config.receptive_field, fetches=decoders * len(devices)
        ),
        shard=run.shard,
        decoders=decoders,
        log_level=options.run.log_level,
    )
    own, stop = sink.status[run.own_indices(plan)], run.stop
    style = choose_style(
        options.run.progress, options.run.quiet, sys.stdout if options.results.output_dir is None else None
    )
    finished = int((own != LEFT).sum())
    with stop.noted(), closing(Progress(len(own), style, finished=finished)) as progress:
        starter = Starter(setup, devices, run.template)
        launcher = Launcher(starter, run.corpus, chain(first, blocks), sink, progress, stop)
        launcher.run()
        if stop.received:
            progress.keep()
    return launcher.in_hand


def _summarise(
    run: _Run, own: NDArray[np.int64], status: NDArray[np.uint8], reasons: Reasons, elapsed: Elapsed
) -> Summary:
    """Count the utterances of a shard."""
    failed = own[_is_failed(status[own])]
    return Summary(
        input=len(own),
        done=int((status[own] == DONE).sum()),
        failed=len(failed),
        audio_seconds=elapsed.audio_seconds,
        wall_seconds=elapsed.wall_seconds,
        encode_seconds=elapsed.encode_seconds,
        reasons=reasons.count(failed),
        stopped=run.stop.received,
    )
