"""What a run was made of, read again: utterances with their audio, speakers and transcripts.

Journals record INPUT and the folder where it was named, so everything is read from there, if that folder still exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.data_dir import read_speakers
from e2v_cli.corpus.ids import hash_keys
from e2v_cli.corpus.inputs import is_only_here, read_corpus
from e2v_cli.corpus.lists import has_list, mix_checksums, open_list
from e2v_cli.errors import E2vError
from e2v_cli.journal.journal import Header
from e2v_cli.options import PIPE_SECONDS, InputOptions
from e2v_cli.records import Utterance
from e2v_cli.system.files import is_directory

NOT_LISTED = "no input of the run lists it now"


@contextmanager
def working_folder_of(header: Header) -> Iterator[None]:
    """Work in the folder where the run was started until the block ends, if it is there."""
    before = os.getcwd()
    if is_directory(Path(header.invocation.folder)):
        os.chdir(header.invocation.folder)
    try:
        yield
    finally:
        os.chdir(before)


def find_data_folders(header: Header) -> list[Path]:
    """Find the folders where a run's lists are, and so perhaps ``utt2spk`` and ``text``; in its working folder."""
    places = [Path(item.removeprefix("scp:")) for item in header.invocation.inputs if not is_only_here(item)]
    return list(dict.fromkeys(place if is_directory(place) else place.parent for place in places))


def read_speaker_numbers(folders: Sequence[Path], hashes: NDArray[np.int64]) -> tuple[NDArray[np.int32], list[str]]:
    """Read ``utt2spk`` in folders: (utterances,) indices of names, -1 where unknown; and the names.

    Args:
        folders: in which each may be.
        hashes: (utterances,) of their ids.

    Raises:
        CorpusError: one can't be read.
    """
    numbers = np.full(len(hashes), -1, dtype=np.int32)
    names: dict[str, int] = {}
    for folder in folders:
        if not has_list(folder / "utt2spk"):
            continue
        found, speakers = read_speakers(folder, hashes)
        own = np.array([names.setdefault(name, len(names)) for name in speakers[:-1]] + [-1], dtype=np.int32)
        numbers = np.where(numbers < 0, own[found], numbers)
    return numbers, list(names)


def read_transcripts(folders: Sequence[Path], utt_ids: Collection[str]) -> dict[str, str]:
    """Read the transcripts of some utterances from ``text`` in folders.

    Raises:
        CorpusError: one can't be read.
    """
    wanted = {utt_id.encode() for utt_id in utt_ids}
    texts: dict[str, str] = {}
    for folder in folders:
        if has_list(folder / "text"):
            with open_list(folder / "text") as file:
                for line in file:
                    key, _, text = line.strip().partition(b" ")
                    if key in wanted:
                        texts.setdefault(key.decode(), text.decode(errors="replace").strip())
    return texts


def make_input_options(header: Header, allow_pipes: bool) -> InputOptions:
    """Make the options by which the audio of a run was read."""
    channel, form = header.fingerprint["channel"], header.fingerprint["id"]
    recorded = (*header.invocation.command, *header.invocation.variables)
    return InputOptions(
        header.invocation.inputs,
        channel=channel if channel in ("mix", "split") else int(channel) - 1,  # type: ignore[arg-type]
        pipe_seconds=PIPE_SECONDS if allow_pipes else None,
        resampler=header.fingerprint["resampler"],  # type: ignore[arg-type]
        hidden="--hidden" in recorded or "E2V_HIDDEN" in recorded,
        id_form=None if form == "default" else form,  # type: ignore[arg-type]
    )


def find_utterances(
    options: InputOptions, utt_ids: Sequence[str], checksums: Sequence[int | None]
) -> list[Utterance | str]:
    """Find utterances by their ids in the inputs of a run, or tell why there is none; in its working folder.

    Args:
        options: the inputs.
        utt_ids: the ids.
        checksums: of the sources that had these ids; None: any has.
    """
    if here := [item for item in options.inputs if is_only_here(item)]:
        return [f"the list was piped in ({here[0]}), and is gone"] * len(utt_ids)
    try:
        corpus = read_corpus(options.inputs, options.allow_pipes, options.hidden, options.id_form)
        return [
            _find_utterance(corpus, utt_id, checksum, options.channel == "split")
            for utt_id, checksum in zip(utt_ids, checksums, strict=True)
        ]
    except E2vError as error:
        return [str(error)] * len(utt_ids)


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
