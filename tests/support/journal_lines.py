"""A journal of all kinds of lines, as objects and as bytes, and the history read from it."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, hash_keys
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.history import History
from e2v_cli.journal.journal import JOURNAL_FORMAT, LEFT, Elapsed, Header, Journal
from e2v_cli.options import Fingerprint, Shard
from e2v_cli.records import DoneRecord, Failure, Stage, Utterance
from support.journals import INVOCATION, MACHINE
from support.journals import done as make_done

FINGERPRINT: Fingerprint = {"model": "abc", "granularity": "utterance", "batch-seconds": 10.0, "results-version": 1}
LIST, OTHER_LIST = "list", "other list"
HEADER = Header(
    format=JOURNAL_FORMAT,
    fingerprint=FINGERPRINT,
    model="./modèle",
    labels=("happy", "sad"),
    input_sha256=LIST,
    input_size=6,
    frame_shift=0.02,
    timeline_formats=("rttm", "textgrid"),
    join=True,
    mix_devices=False,
    invocation=INVOCATION,
    machine=MACHINE,
    host="host",
    pid=17,
    started="2026-01-31T23:59:59+01:00",
)
WHOLE = Shard(1, 1)
IDS = ("utt1", "ü 笑\u2028", "utt2", "utt3", "utt4", "left")
TIME = Elapsed(3.5, 2.25, 120.0, 5)


def done(utt_id: str, embedding: str = "", num_frames: int = 49, timeline: str = "") -> DoneRecord:
    """Make the record of a finished utterance, of a model without a head."""
    return make_done(utt_id, (), num_frames=num_frames, embedding=embedding, timeline=timeline)


def failed(utt_id: str, stage: Stage = "audio", reason: str = "missing", detail: str = "no such file") -> Failure:
    index = IDS.index(utt_id) if utt_id in IDS else 99
    return Failure(Utterance(index, utt_id, "x.wav"), stage, reason, detail)


RECORDS = [
    make_done(
        "utt1",
        (0.75, 0.25),
        labels=HEADER.labels,
        duration=1.25,
        num_frames=62,
        windows=3,
        embedding="embeddings.1-of-1.1.ark:5",
    ),
    done("ü 笑\u2028", "embeddings.1-of-1.1.ark:90", 1),
    done("utt3", "embeddings.1-of-1.2.ark:17", 99, timeline="timeline.1-of-1.2:512:128"),
]
FAILURES = [
    failed("utt2", detail="a\tb\n.wav: no such file"),
    failed("utt4", "model", "not finite", "the model's output has NaN or infinite values"),
]

LINES = [
    "done\tutt1\t62\t3\t1.2500\tembeddings.1-of-1.1.ark:5\t\thappy\t0.750000\t0.250000\t00000000",
    "done\tü 笑\u2028\t1\t1\t1.0000\tembeddings.1-of-1.1.ark:90\t\t\t00000000",
    "done\tutt3\t99\t1\t1.0000\tembeddings.1-of-1.2.ark:17\ttimeline.1-of-1.2:512:128\t\t00000000",
    "failed\tutt2\taudio\tmissing\ta b .wav: no such file\t00000000",
    "failed\tutt4\tmodel\tnot finite\tthe model's output has NaN or infinite values\t00000000",
    'time\t{"wall_seconds": 3.5, "encode_seconds": 2.25, "audio_seconds": 120.0, "finished": 5}',
]
"""RECORDS, FAILURES and TIME as lines of a journal."""

IN_ORDER = ("utt1", "ü 笑\u2028", "utt3", "utt2", "utt4")
"""The utterances of the first five lines."""


def checked(line: str) -> bytes:
    """Format a line of a journal as on disk."""
    content = f"\t{line}\n".encode(errors="surrogateescape")
    return f"{zlib.crc32(content):08x}".encode() + content


def header_line(header: Header = HEADER) -> str:
    return "run\t" + json.dumps(dataclasses.asdict(header), ensure_ascii=False)


CONTENT = b"".join(map(checked, [header_line(), *LINES]))


def write(
    folder: Path,
    records: Sequence[DoneRecord] = (),
    failures: Sequence[Failure] = (),
    elapsed: Elapsed = TIME,
    shard: Shard = WHOLE,
    input_sha256: str = LIST,
    started: str = HEADER.started,
) -> Path:
    """Write a journal, and return its path."""
    header = dataclasses.replace(HEADER, input_sha256=input_sha256, started=started)
    with closing(Journal(folder, shard, header)) as attempt:
        attempt.append(records, failures, elapsed)
    return attempt.file.path


class HashedIds:
    """A list with a digest of our own choice."""

    def __init__(self, ids: Sequence[str] = IDS, digest: str = LIST) -> None:
        self.recording_groups: NDArray[np.int64] | None = None
        self.index = KeyIndex(hash_keys(utt_id.encode() for utt_id in ids))
        self.digest = digest
        self.checksums: NDArray[np.uint32] | None = np.zeros(len(ids), np.uint32)
        self._keys = [utt_id.encode() for utt_id in ids]

    def __len__(self) -> int:
        return len(self._keys)

    def ids(self) -> Iterator[list[bytes]]:
        yield self._keys


def list_folder(path: Path) -> RunFolder:
    """Open a run folder without names of result files, and list it."""
    folder = RunFolder(path, (), ())
    folder.refresh()
    return folder


def read(path: Path, ids: Sequence[str] = IDS) -> History:
    """Read all journals of a folder."""
    return list_folder(path).read_history(HashedIds(ids))


def states(history: History) -> dict[str, int]:
    """Return the status of the utterances that are not left."""
    return {utt_id: state for utt_id, state in zip(IDS, history.status.tolist(), strict=True) if state != LEFT}


def line_of(history: History, utt_id: str) -> str:
    (line,) = history.read_lines(IDS.index(utt_id), IDS.index(utt_id) + 1)
    return line.decode(errors="surrogateescape").removesuffix("\n")


def read_json_header(journal: Path) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(journal.read_bytes().split(b"\n")[0].split(b"\t", 2)[2])
    return header


def edit_header(journal: Path, machine: Mapping[str, Any] = {}, **fields: object) -> None:
    """Change fields of a journal's header, and of the machine in it, as if another machine had written it."""
    header = read_json_header(journal)
    header = {**header, **fields, "machine": {**header["machine"], **machine}}
    _, _, lines = journal.read_bytes().partition(b"\n")
    journal.write_bytes(checked("run\t" + json.dumps(header)) + lines)
