"""What is done, durably: append-only files of checksummed lines, each on the disk behind the embedding it speaks of.

Every attempt at a shard writes a file of its own, ``journal.2-of-3.1``, and never touches another's; what is done is
what all of them say together. A line is ``crc32 TAB kind TAB content``:

    run     the fingerprint of the run, its list and who writes: the first line
    done    frames, places of the embedding and of the timeline, and the row of predictions.tsv
    failed  three empty columns, and the row of failures.tsv
    time    what the attempt has taken so far; the last one counts
    end     the shard has nothing left

A line that was torn by a crash stands last and is ignored.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from e2v_cli.errors import OutputError
from e2v_cli.options import Fingerprint, Shard, TimelineFormat
from e2v_cli.records import DoneRecord, Failure
from e2v_cli.results.tables import failures_row
from e2v_cli.system.text import tsv_row
from e2v_cli.system.files import naming, sync_file, sync_folder

LEFT, FAILED, FAILED_IN_BATCH, DONE = range(4)
"""How an utterance stands. A failure of the model itself has a place in its batch, and keeps it."""

WORKER_DIED = "worker died"
"""The reason of an utterance that is not to be touched again."""


@dataclass(frozen=True)
class Header:
    """What an attempt computes, and who it is."""

    fingerprint: Fingerprint
    model: str
    """As the user named it."""
    labels: tuple[str, ...]
    input_sha256: str
    input_size: int
    frame_shift: float
    """Seconds from one frame to the next."""
    timeline_formats: tuple[TimelineFormat, ...]
    """In which the timeline is to be written besides its table."""
    join: bool
    """Whether neighbouring spans with the same label are joined."""
    host: str
    pid: int
    started: str


@dataclass(frozen=True)
class Elapsed:
    """What one attempt has taken and done so far."""

    wall_seconds: float = 0.0
    encode_seconds: float = 0.0
    audio_seconds: float = 0.0
    finished: int = 0
    """Utterances, done and failed."""

    def __add__(self, other: Elapsed) -> Elapsed:
        return Elapsed(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True, order=True)
class JournalFile:
    """Where the journal of an attempt is."""

    shard: Shard
    attempt: int
    path: Path


def failure_status(stage: str, reason: str) -> int:
    """Say how a failure leaves an utterance: FAILED or FAILED_IN_BATCH."""
    return FAILED_IN_BATCH if stage == "model" and reason != WORKER_DIED else FAILED


def find_journals(output_dir: Path) -> list[JournalFile]:
    """Find all journals of OUT, by shard and attempt."""
    found = []
    for path in output_dir.glob("journal.*"):
        if match := re.fullmatch(r"journal\.(\d+)-of-(\d+)\.(\d+)", path.name):
            index, count, attempt = map(int, match.groups())
            found.append(JournalFile(Shard(count, index), attempt, path))
    return sorted(found)


class Journal:
    """The journal of this attempt, which nobody else writes."""

    def __init__(self, output_dir: Path, shard: Shard, header: Header) -> None:
        """Begin a journal.

        Raises:
            OSError: it can't be written.
        """
        attempt = 1
        while True:
            path = output_dir / f"journal.{shard.name}.{attempt}"
            try:
                self._file = path.open("xb", buffering=0)
                break
            except FileExistsError:
                attempt += 1
        self._path = path
        self._write([json_line("run", asdict(header))])
        sync_folder(output_dir)

    def append(self, entries: Iterable[DoneRecord], failures: Iterable[Failure], elapsed: Elapsed) -> None:
        """Write lines to the disk itself: what they speak of is done from then on.

        Raises:
            OSError: they can't be written.
        """
        lines = [f"done\t{entry.num_frames}\t{entry.embedding}\t{entry.timeline}\t{entry.row}\n" for entry in entries]
        lines += [f"failed\t\t\t\t{tsv_row(failures_row(failure))}\n" for failure in failures]
        self._write([*lines, json_line("time", asdict(elapsed))])

    def end(self, elapsed: Elapsed) -> None:
        """Write that the shard has nothing left, and what the attempt took in the end.

        Raises:
            OSError: it can't be written.
        """
        self._write([json_line("time", asdict(elapsed)), json_line("end", {})])

    def discard(self) -> None:
        """Take back that this attempt was ever made."""
        self._path.unlink()

    def close(self) -> None:
        """Close it; it is never opened for writing again."""
        self._file.close()

    def _write(self, lines: Sequence[str]) -> None:
        content = memoryview(b"".join(map(checked, lines)))
        with naming(self._path):
            while content:
                content = content[self._file.write(content) :]
            sync_file(self._file)


def json_line(kind: str, content: object) -> str:
    """Format a line of a journal whose content is JSON."""
    text = json.dumps(content, ensure_ascii=False)
    return f"{kind}\t{text.encode(errors='backslashreplace').decode()}\n"  # a path may be any bytes


def checked(line: str) -> bytes:
    """Put a line's checksum before it."""
    text = b"\t" + line.encode(errors="surrogateescape")
    return b"%08x%b" % (zlib.crc32(text), text)


def other_version(path: Path) -> OutputError:
    """Return the error of a journal that this version can't read."""
    return OutputError(f"{path}: not written by this version of e2v; use that version, or --overwrite")
