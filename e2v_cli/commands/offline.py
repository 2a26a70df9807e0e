"""Facts of a run that need no network, no command and no model: its list, and the results that OUT holds."""

from __future__ import annotations

import logging
from collections.abc import Callable

from e2v_cli.audio.decode import count_channels
from e2v_cli.audio.sources import FetchLimits, is_pipe, is_url
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.inputs import read_corpus
from e2v_cli.errors import UsageError
from e2v_cli.journal.history import History
from e2v_cli.network.config import NetworkConfig
from e2v_cli.options import Fingerprint, InputOptions, PredictOptions, make_fingerprint
from e2v_cli.records import Utterance
from e2v_cli.results.publish import open_run_folder
from e2v_cli.system.files import exists
from e2v_cli.workers.devices import kind_of

logger = logging.getLogger(__name__)

HEADERS_AT_ONCE = 8
"""Threads that read headers: most of them wait for a disk or a file server."""


def read_local_corpus(options: InputOptions) -> Corpus:
    """Read the lists, and count the channels of files, but not of commands and URLs.

    Raises:
        CorpusError: a list can't be read.
    """
    return read_split_corpus(options, _count_local_channels, HEADERS_AT_ONCE)


def read_split_corpus(
    options: InputOptions, count: Callable[[Utterance, Callable[[], bool]], int], num_threads: int
) -> Corpus:
    """Read the lists; with ``--channel split``, an utterance for each channel of recordings that have several.

    Args:
        options: of the input.
        count: counts the channels of an utterance's recording, unless told to stop; 0 where it can't be read.
        num_threads: threads that count.

    Raises:
        CorpusError: a list can't be read.
    """
    corpus = read_corpus(options)
    first = corpus[0]
    named = first.recording_channel if first.channel is None else first.channel
    if options.channel != "mix" and named is not None:
        logger.warning("--channel is not for channels that lists name: %s is channel %d", first.utt_id, named + 1)
    return split_channels(corpus, count, num_threads) if options.channel == "split" else corpus


def _count_local_channels(utterance: Utterance, stopping: Callable[[], bool]) -> int:
    return 0 if is_remote(utterance) else count_channels(utterance, stopping, FetchLimits(pipe_seconds=None))


def check_layers(options: PredictOptions, config: NetworkConfig) -> None:
    """Check that a model has the layers that are embedded.

    Raises:
        UsageError: it lacks one.
    """
    for choice in options.results.layers:
        if choice.last > config.num_layers:
            has = f"{options.model.name} has {config.num_layers} layers"
            raise UsageError(f"--layers {choice}: {has}; choose from 1 to {config.num_layers}")


def is_remote(utterance: Utterance) -> bool:
    """Whether the audio of an utterance comes from a command or a server, which must not be asked."""
    return is_pipe(utterance.source) or is_url(utterance.source)


def read_earlier_results(options: PredictOptions, corpus: Corpus) -> History:
    """Read the results that OUT holds, if any. Their model is taken to be the same: only its weights would tell.

    Raises:
        OutputConflictError: OUT holds a different run, or one in progress.
        OutputError: a journal is damaged, or a file that it records is missing.
    """
    output_dir, run = options.results.output_dir, options.run
    empty = History(corpus.index, corpus.digest, corpus.checksums)
    if output_dir is None or not exists(output_dir):
        return empty
    folder = open_run_folder(output_dir, keep_changed=run.changed == "keep")
    folder.refuse_foreign_files(run.overwrite)
    if run.overwrite:
        return empty
    folder.refresh()
    fingerprint: Fingerprint = {}
    if folder.headers:
        header = folder.find_run().header
        device = options.compute.device
        device = str(header.fingerprint["device"]) if device == "auto" else kind_of(device)
        fingerprint = make_fingerprint(options, str(header.fingerprint["model"]), header.labels, device)
    return folder.guard(fingerprint, corpus, run)
