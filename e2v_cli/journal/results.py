"""TODO."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path

from kaldiio.matio import read_kaldi

from e2v_cli.errors import OutputConflictError, OutputError
from e2v_cli.journal.ids import IDS_PATTERNS
from e2v_cli.system.files import remove_drafts

COMMON_RESULTS = ("predictions.tsv", "failures.tsv", "run.json", "utt2dur", "utt2num_frames", "frame_shift")

EMBEDDING_LISTS = {"none": (), "ark": ("embeddings.scp",), "ark,t": ("embeddings.scp",), "npy": ("embeddings.tsv",)}
"""The files that say where embeddings are, by ``--embeddings``."""

LABEL_LISTS = ("utt2emo",)
"""What there is of a model with a head."""

TIMELINES = ("timeline.tsv", "timeline.rttm", "timeline.ctm")

RESULTS = (*COMMON_RESULTS, *EMBEDDING_LISTS["ark"], *EMBEDDING_LISTS["npy"], *LABEL_LISTS, *TIMELINES)

_OTHERS = (
    *("journal.*-of-*.*", *IDS_PATTERNS),
    *("embeddings.*-of-*.*.ark", "embeddings/*.npy", "timeline.*-of-*.*", "audacity/*.txt", "textgrid/*.TextGrid"),
    *("log/worker.*-of-*.*.log", "log/launcher.*-of-*.log", "log/slurm-*.log", "slurm/*.json", "slurm/*.sh"),
)
"""What else a run leaves. The journals come first: nothing may speak of what is gone."""


def remove_other_results(output_dir: Path, files: Sequence[str], dropped: Set[str]) -> None:
    """Remove final files that an earlier publication left, and that are not of this one.

    Args:
        output_dir: OUT.
        files: the final files of this one.
        dropped: formats of the timeline that an earlier one had, and this one has not.
    """
    for name in set(RESULTS) - set(files):
        (output_dir / name).unlink(missing_ok=True)
    for folder, pattern in (("audacity", "*.txt"), ("textgrid", "*.TextGrid")):
        if folder in dropped:
            for path in (output_dir / folder).glob(pattern):
                path.unlink(missing_ok=True)


def make_folder(output_dir: Path) -> None:
    """Make OUT where it isn't there.

    Raises:
        OutputError: it can't be made, or lists of paths in it could not be read.
    """
    if re.search(rb"[\x00-\x1f]", bytes(output_dir.resolve())):
        raise OutputError(f"{str(output_dir)!r}: no list of embeddings could name such a path; choose another -o")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output_dir}: {error.strerror}; choose another -o") from None


def refuse_foreign_files(output_dir: Path, known: bool) -> None:
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


def check_timelines(output_dir: Path, timelines: dict[str, int]) -> None:
    """Check that what holds rows of the timeline is there, as far as the journals speak of it.

    Raises:
        OutputError: it is gone, or shorter.
    """
    for name, size in sorted(timelines.items()):
        path = output_dir / name
        if not path.exists() or path.stat().st_size < size:
            raise OutputError(
                f"{path} is gone, or ends before byte {size}, but the journal speaks of it: "
                "bring it back, or use --overwrite"
            )


def check_archives(output_dir: Path, archives: dict[str, int]) -> None:
    """Check that what holds embeddings is there, as far as the journals speak of it.

    Raises:
        OutputError: it is gone, or shorter.
    """
    for name, offset in sorted(archives.items()):
        path = output_dir / name
        if not path.exists():
            raise OutputError(f"{path} is gone, but the journal speaks of it: bring it back, or use --overwrite")
        if offset:
            try:
                _check_record(path, offset)
            except Exception:  # kaldiio says it in many ways
                raise OutputError(
                    f"{path} ends before what the journal speaks of at {offset}: restore it, or use --overwrite"
                ) from None


def _check_record(path: Path, offset: int) -> None:
    """Read a vector or matrix, unless it may be larger than memory: then its size alone."""
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(15)
        file.seek(offset)
        if matrix := re.match(rb"\0BFM \x04(.{4})\x04(.{4})", head, re.DOTALL):
            rows, columns = (int.from_bytes(size, "little") for size in matrix.groups())
            if path.stat().st_size < offset + 15 + 4 * rows * columns:
                raise EOFError
        elif head.startswith((b"\0B", b" [")):  # of anything else kaldiio may run code
            read_kaldi(file)
        else:
            raise ValueError(head)


def remove_results(output_dir: Path) -> None:
    """Clear OUT of what an earlier run left; what is not e2v's stays, and without a journal that is all but results."""
    for name in (*RESULTS, "npy.*-of-*", *IDS_PATTERNS):
        remove_drafts(output_dir / name)
    had_run = any(output_dir.glob("journal.*-of-*.*"))
    for pattern in (*(_OTHERS if had_run else ()), *RESULTS):
        for path in output_dir.glob(pattern):
            path.unlink(missing_ok=True)
    for folder in ("embeddings", "audacity", "textgrid", "log", "slurm"):
        with suppress(OSError):  # it is not there, or holds what is not e2v's
            (output_dir / folder).rmdir()
