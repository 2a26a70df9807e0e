"""Journals: append-only files of checksummed lines; each line is written after the embedding that it records.

Every attempt at a shard writes its own file, ``journal.2-of-3.1``, and never changes another one. All journals together
record what is done. A line is ``crc32 TAB kind TAB content``:

    run     JSON: the fingerprint of the run, its list and the writer; the first line
    done    utt-id, frames, windows, seconds, places of embeddings and timelines, label, probabilities, source
    failed  utt-id, stage, reason, detail, source
    time    JSON: time taken and utterances finished by the attempt so far; the last one counts
    end     the shard is complete

The source is the CRC-32 of the audio's name in the list: eight hexadecimal digits. A last line that was torn by a crash
is ignored.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from e2v_cli.options import Fingerprint, Invocation, Shard
from e2v_cli.records import DoneRecord, Failure
from e2v_cli.system.files import naming, sync_file, sync_folder
from e2v_cli.system.text import tsv_row

LEFT, FAILED, FAILED_IN_BATCH, DONE = range(4)
"""Status of an utterance; FAILED_IN_BATCH: it failed in the model, and stays in its batch when that is recomputed."""

WORKER_DIED = "worker died"
"""The failure reason of an utterance that is not computed again."""


JOURNAL_NAME = re.compile(r"journal\.(\d+)-of-(\d+)\.(\d+)")
"""Name of a journal: shard, number of shards, attempt."""

JOURNAL_FORMAT = 3
"""The version of the lines of journals; a run folder of another version is refused."""


SOURCE_DIGITS = 8
"""Hexadecimal digits of the checksum of a source, the last cell of a line."""


def holds_run(folder: Path) -> bool:
    """Whether a folder has a journal."""
    return any(map(JOURNAL_NAME.fullmatch, os.listdir(folder)))


@dataclass(frozen=True)
class Machine:
    """The hardware and the software that compute an attempt."""

    device: str
    """Kind of the device: cpu or cuda."""
    gpus: tuple[str, ...]
    """The names of the GPUs that are used, each once."""
    cpu: str
    """The model of the CPU."""
    versions: Mapping[str, str]
    """Versions of e2v, Python and the libraries that change numbers, by name."""
    products: str = "unknown"
    """The library that multiplies the encoder's matrices: mkl, onednn or torch; unknown to older journals."""


@dataclass(frozen=True)
class Header:
    """The options and the process of an attempt."""

    format: int
    """JOURNAL_FORMAT when the journal was written."""
    fingerprint: Fingerprint
    model: str
    """Name of the model, as the user gave it."""
    labels: tuple[str, ...]
    input_sha256: str
    input_size: int
    frame_shift: float
    """Seconds from one frame to the next."""
    timeline_formats: tuple[str, ...]
    """Formats of the timeline besides its table."""
    join: bool
    """Whether neighbouring spans with the same label are joined."""
    mix_devices: bool
    """Whether other attempts may have another kind of device."""
    invocation: Invocation
    machine: Machine
    host: str
    pid: int
    started: str
    """Time when the attempt began, in ISO format with the time zone, to the microsecond."""
    sequence: int = 0
    """Number larger than those of all attempts known when this one began, whatever the clocks of machines say."""

    @property
    def start_time(self) -> float:
        """Time when the attempt began, in seconds since the epoch, by the clock of its machine."""
        return datetime.fromisoformat(self.started).timestamp()


@dataclass(frozen=True)
class Elapsed:
    """The time taken and the work done by one attempt so far."""

    wall_seconds: float = 0.0
    encode_seconds: float = 0.0
    audio_seconds: float = 0.0
    finished: int = 0
    """Number of utterances that are done or failed."""

    def __add__(self, other: Elapsed) -> Elapsed:
        return Elapsed(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True, order=True)
class JournalFile:
    """The journal file of an attempt."""

    shard: Shard
    attempt: int
    path: Path


def start_order(file: JournalFile, header: Header) -> tuple[int, float, int, JournalFile]:
    """Return the sort key of an attempt among those at all shards, of any number: the newest one has the largest."""
    return header.sequence, header.start_time, file.attempt, file


def failure_status(stage: str, reason: str) -> int:
    """Return the status of an utterance that failed: FAILED or FAILED_IN_BATCH."""
    return FAILED_IN_BATCH if stage == "model" and reason != WORKER_DIED else FAILED


class Journal:
    """The journal of this attempt, which no other process writes."""

    def __init__(self, output_dir: Path, shard: Shard, header: Header, attempt: int = 1) -> None:
        """Create the journal of the first attempt from ``attempt`` on that has none.

        Raises:
            OSError: it can't be written.
        """
        while True:
            self.file = JournalFile(shard, attempt, output_dir / f"journal.{shard.name}.{attempt}")
            try:
                self._file = self.file.path.open("xb", buffering=0)
                break
            except FileExistsError:
                attempt += 1
        self._write([json_line("run", asdict(header))])
        sync_folder(output_dir)

    def append(self, done: Iterable[DoneRecord], failures: Iterable[Failure], elapsed: Elapsed) -> None:
        """Append lines and sync them: the utterances are done or failed from then on.

        Raises:
            OSError: they can't be written.
        """
        lines = [_format_done(record) for record in done] + [_format_failed(failure) for failure in failures]
        self._write([*lines, json_line("time", asdict(elapsed))])

    def end(self, elapsed: Elapsed) -> None:
        """Append that the shard is complete, and the time of the whole attempt.

        Raises:
            OSError: it can't be written.
        """
        self._write([json_line("time", asdict(elapsed)), END_LINE])

    def discard(self) -> None:
        """Delete this attempt's journal."""
        self.file.path.unlink()

    def close(self) -> None:
        """Close it; it is never opened for writing again."""
        self._file.close()

    def _write(self, lines: Sequence[str]) -> None:
        content = memoryview(b"".join(map(with_checksum, lines)))
        with naming(self.file.path):
            while content:
                content = content[self._file.write(content) :]
            sync_file(self._file)


def _format_done(record: DoneRecord) -> str:
    embeddings = record.layers or filter(None, [record.embedding])
    places = [" ".join(map(str, embeddings)), " ".join(map(str, record.timelines))]
    numbers = [str(record.num_frames), str(record.windows), f"{record.duration:.4f}"]
    posteriors = [f"{posterior:.6f}" for posterior in record.posteriors]
    cells = ["done", record.utt_id, *numbers, *places, tsv_row([record.label]), *posteriors]
    return "\t".join([*cells, _format_checksum(record.source_checksum)]) + "\n"


def _format_failed(failure: Failure) -> str:
    cells = tsv_row([failure.utterance.utt_id, failure.stage, failure.reason, failure.detail])
    return f"failed\t{cells}\t{_format_checksum(failure.utterance.source_checksum)}\n"


def _format_checksum(checksum: int) -> str:
    return f"{checksum:0{SOURCE_DIGITS}x}"


def json_line(kind: str, content: object) -> str:
    """Format a line of a journal whose content is JSON."""
    text = json.dumps(content, ensure_ascii=False)
    return f"{kind}\t{text.encode(errors='backslashreplace').decode()}\n"  # a path may be any bytes


def with_checksum(line: str) -> bytes:
    """Prefix a line with its CRC-32."""
    text = b"\t" + line.encode(errors="surrogateescape")
    return b"%08x%b" % (zlib.crc32(text), text)


END_LINE = json_line("end", {})
"""The last line of a complete attempt."""
