"""EMBEDDINGS and REFERENCE → examples: a vector, a class and a speaker for each utterance that has both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.labels.classes import CountedClasses, count_classes
from e2v_cli.analysis.labels.labels import ClosedSet, read_map
from e2v_cli.analysis.metrics.intervals import Outcomes
from e2v_cli.analysis.probe.options import LabelOptions
from e2v_cli.analysis.reading.finder import refuse_duplicates
from e2v_cli.analysis.reading.references import GroupColumn, Reference, open_reference
from e2v_cli.analysis.reading.vectors import FORMS, EmbeddingOrigin, Embeddings, open_embeddings
from e2v_cli.analysis.score.groups import select_scored
from e2v_cli.analysis.score.systems import EXAMPLES, describe_no_common
from e2v_cli.errors import CorpusError


@dataclass(frozen=True)
class Examples:
    """Utterances with an embedding and a label, in C order of their ids."""

    ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    """(utterances, dim): means over frames where embeddings are frames."""
    labels: NDArray[np.int64]
    """(utterances,): indices of classes."""
    classes: tuple[str, ...]
    """Names of the classes that have an example, in the order of ``e2v score``."""
    speakers: NDArray[np.int64]
    """(utterances,): indices of ``speaker_names``; each utterance has its own where speakers are not known."""
    speaker_names: tuple[str, ...]
    knows_speakers: bool
    is_frames: bool
    """Whether embeddings are matrices of frames."""
    embeddings: Embeddings
    rows: NDArray[np.int64]
    """(utterances,): indices in the list of the embeddings."""
    reference: Reference
    reference_indices: NDArray[np.int64]
    """(utterances,): indices in the reference."""
    notes: tuple[str, ...]
    """Notes for the user: what was left out, and others."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def origin(self) -> EmbeddingOrigin:
        """The origin of the embeddings."""
        return self.embeddings.origin

    def count_labels(self, labels: NDArray[np.int64] | None = None) -> list[int]:
        """Count the examples of each class; ``labels``: the labels of some examples, None: of all."""
        counts = np.bincount(self.labels if labels is None else labels, minlength=len(self.classes))
        return list(map(int, counts))

    def judge(self, scores: NDArray[np.float64]) -> Outcomes:
        """Compare labels with the class of the highest score, the first of several.

        Args:
            scores: (utterances, classes).
        """
        size = len(self.classes)
        return Outcomes(self.labels.astype(np.int16), (scores.argmax(axis=1).astype(np.int16),), (size, size))

    def read_frames(self, index: int) -> NDArray[np.float32]:
        """Read the frames of an utterance: (frames, dim); a vector is one frame.

        Raises:
            CorpusError: they can't be read any more.
        """
        return np.atleast_2d(self.embeddings.read(int(self.rows[index])))

    def group(self, grouping: GroupColumn, advice: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return the group of each utterance, and the names of the groups that have any, in C order.

        Args:
            grouping: of the reference.
            advice: the next move if an utterance has no group.

        Raises:
            CorpusError: an utterance has no group.
        """
        return _group_examples(self.reference, grouping, self.reference_indices, advice)


def find_examples(embeddings: str, reference: str, options: LabelOptions) -> Examples:
    """Read embeddings, and the labels and speakers of their utterances.

    Args:
        embeddings: a run, an ``embeddings.scp``, or a folder of ``.npy``.
        reference: a Kaldi directory with ``utt2emo``, a map, JSON lines or a table.
        options: how labels are read.

    Raises:
        CorpusError: an input can't be used, or they have no utterance in common.
        OutputError: the journals of a run can't be read.
        UsageError: an option does not fit the inputs.
    """
    found = open_embeddings(embeddings)
    with ExitStack() as stack:
        labels = open_reference(reference, stack, options.id_column, options.label_column)
        mapping = {} if options.map is None else read_map(options.map)
        counted = count_classes(labels, ClosedSet((), ()), mapping, options.merge, options.classes)
    ids, rows, reference_indices = _match_ids(found, labels, counted)
    present, numbers = np.unique(counted.indices[reference_indices], return_inverse=True)
    grouping = labels.find_grouping("spk")
    speakers, speaker_names = np.arange(len(ids)), ids
    if grouping is not None:
        speakers, speaker_names = _group_examples(labels, grouping, reference_indices, "add them")
    vectors, is_frames = found.read_means(rows)
    notes = [*found.origin.describe(), *_describe_left_out(found, labels, counted, reference_indices)]
    if grouping is None:
        notes.append(f"{labels.name}: speakers are not known (no utt2spk): each utterance counts as one of its own")
    return Examples(
        ids=ids,
        vectors=vectors,
        labels=numbers.astype(np.int64),
        classes=tuple(counted.names[index] for index in present.tolist()),
        speakers=speakers,
        speaker_names=speaker_names,
        knows_speakers=grouping is not None,
        is_frames=is_frames,
        embeddings=found,
        rows=rows,
        reference=labels,
        reference_indices=reference_indices,
        notes=tuple(notes),
    )


def _match_ids(
    embeddings: Embeddings, reference: Reference, counted: CountedClasses
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Find the utterances that have an embedding and a class: their ids, in C order, and their indices in both.

    Raises:
        CorpusError: there are no embeddings, an id has two, or no id is common.
    """
    if not len(embeddings):
        raise CorpusError(f"{embeddings.name}: there are no embeddings; {FORMS}")
    finder = reference.finder
    hashes = np.concatenate([finder.hashes_of(chunk.keys) for chunk in embeddings.ids()])
    found = finder.find(hashes)
    refuse_duplicates(hashes, embeddings.name, embeddings.ids, finder.hashes_of)
    has_class = (found >= 0) & (counted.indices[found] >= 0)
    if not has_class.any():
        raise CorpusError(_describe_none(embeddings, reference, found))
    keys: list[bytes] = []
    for chunk in embeddings.ids():
        keys += compress(chunk.keys, has_class[chunk.numbers[0] - 1 : chunk.numbers[-1]].tolist())
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    rows = np.flatnonzero(has_class)[order]
    return tuple(keys[index].decode() for index in order.tolist()), rows, found[rows]


def _describe_none(embeddings: Embeddings, reference: Reference, found: NDArray[np.int64]) -> str:
    if (found >= 0).any():
        return f"{embeddings.name}: no embedding of an utterance whose class in {reference.name} counts"
    keys: Sequence[bytes] = next(embeddings.ids()).keys[:EXAMPLES]
    return describe_no_common(embeddings.name, reference, keys)


def _group_examples(
    reference: Reference, grouping: GroupColumn, reference_indices: NDArray[np.int64], advice: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Group utterances of a reference: see ``Examples.group``."""
    chosen = np.zeros(len(reference), dtype=np.bool_)
    chosen[reference_indices] = True
    units = select_scored(reference, grouping, chosen, advice)
    ranks = np.cumsum(chosen) - 1
    return units.codes[ranks[reference_indices]].astype(np.int64), units.groups


def _describe_left_out(
    embeddings: Embeddings, reference: Reference, counted: CountedClasses, found: NDArray[np.int64]
) -> list[str]:
    """Describe the utterances of both sides that are no examples."""
    wanted = int((counted.indices >= 0).sum())
    notes = []
    if wanted > len(found):
        notes.append(f"{wanted - len(found)} of the {wanted} utterances of {reference.name} have no embedding")
    if len(embeddings) > len(found):
        notes.append(f"{len(embeddings) - len(found)} of the {len(embeddings)} embeddings have no label that counts")
    left_out = {**counted.dropped, **counted.uncounted}
    if any(left_out.values()):
        each = ", ".join(f"{name} {number}" for name, number in left_out.items() if number)
        notes.append(f"left out of {reference.name}: {each}")
    return notes
