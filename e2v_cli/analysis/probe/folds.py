"""Folds of examples: those of a file, or groups of speakers; and the guards against leaks between them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.analysis.probe.examples import Examples
from e2v_cli.errors import CorpusError, UsageError
from e2v_cli.system.files import exists
from e2v_cli.system.text import counted

DEFAULT_FOLDS = 5
"""Groups of speakers; fewer where there are fewer speakers."""

VALIDATION_PARTS = 5
"""Parts of a fold's training set, of which one is for validation."""

NAMED_SPEAKERS = 3
"""Speakers in a message; of more, only their number."""


@dataclass(frozen=True)
class Folds:
    """The fold in which each example is tested, by the head that is trained on all others."""

    codes: NDArray[np.int64]
    """(utterances,): indices of names."""
    names: tuple[str, ...]
    """Names of the folds; those of a file are in C order."""
    source: str
    """Source of the folds, for messages and tables: a file, or the grouping of speakers."""


def assign_folds(examples: Examples, wanted: str | None, seed: int) -> Folds:
    """Assign each example to a fold.

    Args:
        examples: the examples, with their reference.
        wanted: ``speakers``, a number of groups of speakers, or a file of folds of utterances or speakers; None: the
            reference's own, if it has any, else groups of speakers.
        seed: of the groups.

    Raises:
        CorpusError: an utterance has no fold, or there is only one.
        UsageError: there is no such file, or there are fewer speakers than folds.
    """
    if wanted is None or not (wanted == "speakers" or wanted.isdecimal()):
        if wanted is not None and not exists(Path(wanted)):
            raise UsageError(f"--folds {wanted}: no such file; choose speakers, a number, or a file of folds")
        reference = examples.reference
        found = reference.find_grouping("fold") if wanted is None else reference.read_grouping(Path(wanted))
        if found is not None:
            codes, names = examples.group(found, "add them, or use --folds speakers")
            if len(names) == 1:
                raise CorpusError(
                    f"{found.name}: all utterances are in one fold, {names[0]}; use --folds speakers, or another file"
                )
            return Folds(codes, names, found.name)
    return _group_speakers_evenly(examples, wanted, seed)


def _group_speakers_evenly(examples: Examples, wanted: str | None, seed: int) -> Folds:
    """Group speakers to folds of about the same size and the same shares of classes.

    Raises:
        UsageError: there are fewer speakers than folds.
    """
    num_speakers, unit = len(examples.speaker_names), "speaker" if examples.knows_speakers else "utterance"
    largest = int(np.bincount(examples.labels).max())
    most = min(num_speakers, largest)
    count = int(wanted) if wanted is not None and wanted.isdecimal() else min(DEFAULT_FOLDS, most)
    if not 2 <= count <= most:
        raise UsageError(
            f"--folds {wanted or 'speakers'}: {counted(num_speakers, unit)}, and {counted(largest, 'utterance')} of "
            f"the largest class, allow {f'from 2 to {most} folds' if most > 1 else 'no folds'}; choose --folds FILE"
        )
    codes = split_speakers(examples.labels, examples.speakers, count, seed)
    count = 1 + int(codes.max())
    return Folds(codes, tuple(map(str, range(1, count + 1))), f"{count} groups of {unit}s, seed {seed}")


def split_speakers(labels: NDArray[np.int64], speakers: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Split utterances into parts that share no speaker, with shares of classes that are as alike as possible.

    Args:
        labels: (utterances,) of their classes.
        speakers: (utterances,).
        count: of parts, at most that of speakers and of utterances of the largest class; a part that would get no
            speaker is left out.
        seed: of the order in which speakers of equal effect are dealt.

    Returns:
        (utterances,) indices of parts.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    names, groups = np.unique(speakers, return_inverse=True)
    splitter: StratifiedKFold | StratifiedGroupKFold
    if len(names) == len(speakers):
        splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    else:
        # scikit-learn's own shuffle, but that before 1.8 it takes the labels of each speaker for those of another
        order = np.random.RandomState(seed).permutation(len(names))
        groups = np.argsort(order)[groups]
        splitter = StratifiedGroupKFold(count)
    codes = np.empty(len(labels), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that are smaller than the number of parts
        for part, (_, tested) in enumerate(splitter.split(labels, labels, groups)):
            codes[tested] = part
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def refuse_shared_speakers(examples: Examples, folds: Folds, allowed: bool) -> int:
    """Check that no speaker is in two folds, and so in training and test; return how many are, if that is allowed.

    Raises:
        CorpusError: some are; the message names them, with their folds.
    """
    size = len(folds.names)
    pairs = np.unique(examples.speakers * size + folds.codes)
    counts = np.bincount(pairs // size)
    shared = np.flatnonzero(counts > 1)
    if not len(shared) or allowed:
        return len(shared)
    named = [
        f"{examples.speaker_names[speaker]} ({', '.join(folds.names[pair % size] for pair in own.tolist())})"
        for speaker in shared[:NAMED_SPEAKERS].tolist()
        for own in [pairs[pairs // size == speaker]]
    ]
    others = f" and {len(shared) - NAMED_SPEAKERS} others" if len(shared) > NAMED_SPEAKERS else ""
    raise CorpusError(
        f"{folds.source}: speakers in more than one fold, and so in training and test: {', '.join(named)}{others}; a "
        "score would be of voices that are known: use --folds speakers, or mark it by --allow-shared-speakers"
    )


def check_classes(examples: Examples, folds: Folds) -> list[str]:
    """Check that each fold has all classes to train on, and note those that it has too few of.

    Raises:
        CorpusError: a class is in one fold alone, or there is only one class.
    """
    if len(examples.classes) < 2:
        raise CorpusError(f"{examples.reference.name}: all examples are {examples.classes[0]}; a probe needs 2 classes")
    size = len(folds.names)
    counts = np.bincount(examples.labels * size + folds.codes, minlength=len(examples.classes) * size)
    counts = counts.reshape(-1, size)
    notes = []
    for name, row in zip(examples.classes, counts, strict=True):
        total = int(row.sum())
        if int(row.max()) == total:
            raise CorpusError(
                f"{folds.source}: all {total} utterances of {name} are in fold {folds.names[int(row.argmax())]}, which "
                "has none to train on; use other --folds, or leave the class out with --classes"
            )
        lacking = [fold for fold, count in zip(folds.names, row.tolist(), strict=True) if not count]
        if total < size:
            notes.append(f"{name} has {total} utterances, fewer than the {size} folds")
        elif lacking:
            notes.append(f"no {name} in fold{'s' if len(lacking) > 1 else ''} {', '.join(lacking)}")
    return notes


def choose_validation(
    examples: Examples, train: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a fold's training set: a random fifth for validation, and examples of other speakers to train on.

    Args:
        examples: all examples.
        train: (training utterances,) indices of examples.
        seed: of the split.

    Raises:
        CorpusError: the set has one speaker, or each split would leave a class without training.
    """
    labels, speakers = examples.labels[train], examples.speakers[train]
    num_speakers = len(np.unique(speakers))
    count = min(VALIDATION_PARTS, num_speakers, int(np.bincount(labels).max()))
    if count > 1:
        parts = split_speakers(labels, speakers, count, seed)
        for part in range(1 + int(parts.max())):
            is_valid = parts == part
            if is_valid.any() and len(np.unique(labels[~is_valid])) == len(np.unique(labels)):
                return train[~is_valid], train[is_valid]
    raise CorpusError(
        f"its {counted(num_speakers, 'training speaker')} can't be split so that "
        "validation shares none and all classes are left to train on; use fewer --folds, or --protocol linear"
    )
