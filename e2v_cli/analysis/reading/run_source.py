"""The list of a run, read again from where the run found it, and compared with the run's own record of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.reading.keyed import open_text, read_pairs
from e2v_cli.analysis.reading.originals import find_lists, make_input_options, read_speakers, working_folder_of
from e2v_cli.corpus.channels import split_channels
from e2v_cli.corpus.corpus import Corpus
from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.corpus.inputs import is_only_here, read_corpus
from e2v_cli.errors import CorpusError, OutputError, UsageError
from e2v_cli.journal.ids import IdList, read_ids, read_sources
from e2v_cli.options import Channel
from e2v_cli.records import Utterance
from e2v_cli.results.publish import open_run_folder

NAME_AGAIN = "name the list again with --data"

SHOWN_CHANGES = 3
"""Changed lines in a message."""


class RunSource:
    """The list of a run, or the lists that the user names in its place."""

    def __init__(self, output_dir: Path, data: Sequence[str], selected: Path | None = None) -> None:
        """Read what the run has recorded, but nothing of its list.

        Args:
            output_dir: OUT.
            data: inputs that are read in place of those of the run; they may have only some of its utterances.
            selected: a data directory that was selected from the run; only its utterances count; None: all do.

        Raises:
            OutputError: there is no run, or it can't be read.
        """
        self.output_dir = output_dir
        self._path = output_dir.absolute()  # the current folder is another while the list is read
        folder = open_run_folder(output_dir)
        folder.refresh()
        self._header = folder.find_run().header
        if data:
            invocation = replace(self._header.invocation, inputs=tuple(data), folder=os.getcwd())
            self._header = replace(self._header, invocation=invocation)
        self.is_restricted = bool(data) or selected is not None
        """Whether only some of the run's utterances may count."""
        self._is_named, self._selected = bool(data), selected
        self._options = make_input_options(self._header, allow_pipes=True)  # to read the lists: none is run

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the run, or those that the user names in their place."""
        return self._options.inputs

    @property
    def channel(self) -> Channel:
        """The channel that the run chose."""
        return self._options.channel

    @property
    def timeline(self) -> str | float:
        """The value of ``timeline`` in the fingerprint of the run."""
        return self._header.fingerprint["timeline"]

    @property
    def model(self) -> dict[str, Any]:
        """The digest of the model's weights, and its labels, as JSON has them."""
        return {"sha256": self._header.fingerprint["model"], "labels": list(self._header.labels)}

    @contextmanager
    def in_folder(self) -> Iterator[None]:
        """Work in the folder where the list was named until the block ends."""
        with working_folder_of(self._header):
            yield

    def find(self, name: str) -> list[Path]:
        """Find the lists of a name in OUT, else beside the inputs."""
        return find_lists(self._path, self._header, name)

    @cached_property
    def corpus(self) -> Corpus:
        """The utterances of the inputs.

        Raises:
            CorpusError: it can't be read again, or a line has changed.
        """
        options = self._options
        with self.in_folder():
            self._refuse_gone()
            try:
                corpus = read_corpus(options)
            except UsageError as error:
                raise CorpusError(f"{error}; the list of {self.output_dir} must be there: {NAME_AGAIN}") from None
            if options.channel == "split":
                corpus = split_channels(corpus, self._count_channels(), num_threads=1)
            self._refuse_changed(corpus, self._header.input_sha256)
        return corpus

    def find_members(self, index: KeyIndex) -> NDArray[np.bool_]:
        """Find the utterances of the run that count: (utterances,).

        Args:
            index: of their ids.

        Raises:
            CorpusError: a list can't be read.
        """
        members = np.ones(len(index), dtype=np.bool_)
        with ExitStack() as stack:
            if self._selected is not None:
                text = open_text(str(self._selected / "utt2emo"), stack)
                members &= _find_all(index, (chunk.keys for chunk in read_pairs(text, "utt-id label")))
        return members & _find_all(index, self.corpus.ids()) if self._is_named else members

    def read_speakers(self, index: KeyIndex) -> tuple[NDArray[np.int32], list[bytes]]:
        """Read the speakers of utterances: (utterances,) indices of their names, -1 for none; and the names.

        Args:
            index: of their ids.

        Raises:
            CorpusError: an ``utt2spk`` can't be read.
        """
        numbers, names = read_speakers(self._path, self._header, index)
        return numbers, [name.encode() for name in names]

    def _refuse_gone(self) -> None:
        """Check that all inputs can be read again.

        Raises:
            CorpusError: the run has no inputs, or one was a pipe, or was recorded without its secrets, or not at all.
        """
        if not self.inputs:
            raise CorpusError(f"{self.output_dir}: its run has no list of audio; name it: --data FILE")
        gone = (item for item in self.inputs if is_only_here(item) or "***" in item or item.startswith("… "))
        if (item := next(gone, None)) is not None and not self._is_named:
            raise CorpusError(
                f"{self.output_dir}: its list was {item!r}, which can't be read again; store it in a file, and "
                f"{NAME_AGAIN}: --data FILE"
            )

    def _count_channels(self) -> Callable[[Utterance, Callable[[], bool]], int]:
        """Return a function that counts channels by the ids of the run, without opening audio."""
        index = IdList(self._path, self._header.input_sha256).index

        def count(utterance: Utterance, _stop: Callable[[], bool]) -> int:
            number = 0
            while index.find(hash_keys([f"{utterance.utt_id}-{number + 1}".encode()]))[0] >= 0:
                number += 1
            return number

        return count

    def _refuse_changed(self, corpus: Corpus, digest: str) -> None:
        """Check that all utterances of the run still have the same sources; of a named list, only its own utterances.

        Raises:
            CorpusError: some are missing, or have others; the message has the first lines.
            OutputError: the checksums of the run's sources are damaged.
        """
        known, hashes, first = read_sources(self._path, digest), corpus.hashes(), 0
        if known is not None and len(known) != self._header.input_size:
            raise OutputError(f"{self.output_dir}: the checksums of its list are damaged; run e2v predict again")
        num_missing, missing_id = 0, b""
        changed: list[int] = []
        for keys in read_ids(self._path, digest):
            own, end = hash_keys(keys), first + len(keys)
            is_as_then = np.array_equal(own, hashes[first:end])
            indices = np.arange(first, end) if is_as_then else corpus.index.find(own)
            found = np.flatnonzero(indices >= 0)
            if len(found) < len(keys):
                missing_id = missing_id or keys[int(indices.argmin())]
                num_missing += len(keys) - len(found)
            if known is not None:
                differs = known[first + found] != corpus.checksums[indices[found]]
                changed += indices[found][differs].tolist()
            first = end
        if num_missing and not self._is_named:
            raise CorpusError(
                f"{', '.join(self.inputs)}: {num_missing} of the {first} utterances of {self.output_dir} are not "
                f'there any more, the first is "{missing_id.decode()}"; restore the list, or {NAME_AGAIN}'
            )
        if changed:
            lines = [f"{corpus.origin(index)} ({corpus[index].utt_id})" for index in changed[:SHOWN_CHANGES]]
            others = f" and {len(changed) - SHOWN_CHANGES} others" if len(changed) > SHOWN_CHANGES else ""
            raise CorpusError(
                f"{', '.join(lines)}{others}: not the audio that {self.output_dir} was computed from; restore the "
                "list, or bring OUT up to date: e2v predict with --recompute-changed, or with --keep-changed if files "
                "have only moved"
            )


def _find_all(index: KeyIndex, chunks: Iterable[list[bytes]]) -> NDArray[np.bool_]:
    """Return whether each key of an index is among others: (keys,)."""
    found = np.zeros(len(index), dtype=np.bool_)
    for keys in chunks:
        key_indices = index.find(hash_keys(keys))
        found[key_indices[key_indices >= 0]] = True
    return found
