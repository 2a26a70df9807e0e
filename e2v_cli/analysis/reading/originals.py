"""The inputs of a run, read again: utterances with their audio, speakers and transcripts.

Journals record INPUT and the folder where it was named, so everything is read from there, if that folder still exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.audio.sources import is_url
from e2v_cli.corpus.corpus import STDIN, Corpus
from e2v_cli.corpus.data_dir import number_values, read_speaker_lines
from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.corpus.inputs import is_only_here, read_corpus
from e2v_cli.corpus.lists import has_list, mix_checksums, open_list
from e2v_cli.errors import E2vError
from e2v_cli.journal.journal import Header
from e2v_cli.options import PIPE_SECONDS, InputOptions
from e2v_cli.records import Utterance
from e2v_cli.system.files import is_directory
from e2v_cli.system.text import redact

NOT_LISTED = "no input of the run lists it now"


@contextmanager
def working_folder_of(header: Header) -> Iterator[None]:
    """Work in the folder where the run was started until the block ends, if it can be entered."""
    before = os.getcwd()
    with suppress(OSError):
        os.chdir(header.invocation.folder)
    try:
        yield
    finally:
        os.chdir(before)


def find_lists(output_dir: Path, header: Header, name: str) -> list[Path]:
    """Find the lists of a name that a run has: that in OUT, else those beside its inputs."""
    if has_list(output_dir / name):
        return [output_dir / name]
    folder = header.invocation.folder if is_directory(Path(header.invocation.folder)) else ""
    inputs = [item.removeprefix("scp:") for item in header.invocation.inputs if not is_url(item)]
    paths = [Path(folder, item) for item in inputs if item != STDIN]
    folders = [path if is_directory(path) else path.parent for path in paths]
    return [path for path in dict.fromkeys(folder / name for folder in folders) if has_list(path)]


def read_speakers(output_dir: Path, header: Header, index: KeyIndex) -> tuple[NDArray[np.int32], list[str]]:
    """Read the speakers of utterances of a run: (utterances,) indices of their names, -1 for none; and the names.

    Raises:
        CorpusError: an ``utt2spk`` can't be read.
    """
    return number_values(find_lists(output_dir, header, "utt2spk"), read_speaker_lines, index)


def read_transcripts(paths: Sequence[Path], utt_ids: Collection[str]) -> dict[str, str]:
    """Read the transcripts of some utterances; the first of several counts.

    Raises:
        CorpusError: one can't be read.
    """
    wanted = {utt_id.encode() for utt_id in utt_ids}
    texts: dict[str, str] = {}
    for path in paths:
        with open_list(path) as file:
            for line in file:
                key, *text = line.split(maxsplit=1)[:2] or [b""]
                if key in wanted:
                    texts.setdefault(key.decode(), b"".join(text).decode(errors="replace").strip())
    return texts


def make_input_options(header: Header, allow_pipes: bool) -> InputOptions:
    """Make the options by which the audio of a run was read."""
    found = header.fingerprint  # of an older e2v, it lacks options that were added later
    channel, form = found.get("channel", "mix"), found.get("id", "default")
    recorded = header.invocation
    return InputOptions(
        recorded.inputs,
        channel=channel if channel in ("mix", "split") else int(channel) - 1,  # type: ignore[arg-type]
        pipe_seconds=PIPE_SECONDS if allow_pipes else None,
        resampler=found.get("resampler", InputOptions.resampler),  # type: ignore[arg-type]
        hidden=recorded.hidden,
        id_form=None if form == "default" else form,  # type: ignore[arg-type]
        segments_rttm=None if recorded.segments_rttm is None else Path(recorded.segments_rttm),
    )


def find_utterances(
    options: InputOptions, utt_ids: Sequence[str], checksums: Sequence[int | None]
) -> list[Utterance | str]:
    """Find utterances by their ids in the inputs of a run, in its working folder; a text tells why one is not found.

    Args:
        options: the inputs.
        utt_ids: the ids.
        checksums: of the sources that had these ids; None: any has.
    """
    if not options.inputs:
        return ["the run has no list of audio"] * len(utt_ids)
    if here := [item for item in options.inputs if is_only_here(item)]:
        return [f"the list was piped in ({here[0]}), and is gone"] * len(utt_ids)
    try:
        corpus = read_corpus(options)
        return [
            _find_utterance(corpus, utt_id, checksum, options.channel == "split")
            for utt_id, checksum in zip(utt_ids, checksums, strict=True)
        ]
    except E2vError as error:
        return [redact(str(error))] * len(utt_ids)  # for pages that leave this machine


def _find_utterance(corpus: Corpus, utt_id: str, checksum: int | None, is_split: bool) -> Utterance | str:
    utterance, channel = _look_up(corpus, utt_id), -1
    match = re.fullmatch(r"(.+)-([1-9][0-9]{0,2})", utt_id, re.DOTALL)
    if utterance is None and is_split and match:
        utterance, channel = _look_up(corpus, match[1]), int(match[2]) - 1
    if utterance is None:
        return NOT_LISTED
    found = utterance.source_checksum
    if is_split:
        found = int(mix_checksums(np.array([found], dtype=np.uint32), np.array([channel]))[0])
    if checksum not in (None, found):
        return "the list names other audio now"
    return utterance if channel < 0 else replace(utterance, utt_id=utt_id, channel=channel)


def _look_up(corpus: Corpus, utt_id: str) -> Utterance | None:
    index = int(corpus.index.find(hash_keys([utt_id.encode()]))[0])
    utterance = corpus[index] if index >= 0 else None
    return utterance if utterance is not None and utterance.utt_id == utt_id else None
