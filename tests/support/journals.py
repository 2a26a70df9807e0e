"""Journals made by hand, of a run with six utterances, two failures and two labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_cli.corpus.ids import KeyIndex, digest_of, hash_keys
from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.ids import Ids, save_ids
from e2v_cli.journal.journal import JOURNAL_FORMAT, Elapsed, Header, Journal, Machine
from e2v_cli.options import Fingerprint, Invocation, Shard
from e2v_cli.records import DoneRecord, Failure, FailureReason, Place, Stage, Summary, Utterance
from e2v_cli.results.publish import open_run_folder, publish

LABELS = ("angry", "sad")
FINGERPRINT: Fingerprint = {
    "model": "abc",
    "labels": "angry sad",
    "engine": "e2v",
    "granularity": "utterance",
    "embeddings": "none",
    "batch-seconds": 10.0,
    "timeline": "off",
}
INVOCATION = Invocation(("e2v", "predict", "wav.scp"), {"E2V_MODEL": "./modèle"}, "/work", ("wav.scp",))
MACHINE = Machine("cpu", (), "a CPU", {"e2v": "0.1.0", "torch": "2.13.0"})
WHOLE, FIRST, SECOND = Shard(1, 1), Shard(2, 1), Shard(2, 2)
TIME = Elapsed(2.0, 1.0, 0.0, 7)


class List:
    """The ids of a list, read a few at a time."""

    def __init__(
        self, ids: Sequence[str], hashed: Sequence[str] | None = None, recording_groups: Sequence[int] | None = None
    ) -> None:
        self._ids = [utt_id.encode() for utt_id in ids]
        self.index = KeyIndex(hash_keys(utt_id.encode() for utt_id in hashed or ids))
        self.recording_groups: NDArray[np.int64] | None = (
            None if recording_groups is None else np.array(recording_groups)
        )
        self.digest = digest_of([self._ids], self.recording_groups)
        self.checksums: NDArray[np.uint32] | None = np.zeros(len(ids), np.uint32)

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> Iterator[list[bytes]]:
        for first in range(0, len(self), 3):
            yield self._ids[first : first + 3]


IDS = List(["z", "my%20call", "gone", "ü", "../x", "broken"])
GONE = List(["gone", "broken"])


def done(
    utt_id: str,
    posteriors: tuple[float, ...] = (0.0, 1.0),
    *,
    labels: Sequence[str] = LABELS,
    duration: float = 1.0,
    num_frames: int = 49,
    windows: int = 1,
    embedding: str = "",
    timeline: str = "",
) -> DoneRecord:
    """Make the record of a finished utterance; without posteriors, of a model without a head."""
    return DoneRecord(
        index=0,
        utt_id=utt_id,
        duration=duration,
        num_frames=num_frames,
        windows=windows,
        label=labels[posteriors.index(max(posteriors))] if posteriors else "",
        posteriors=posteriors,
        embedding=Place.parse(embedding) if embedding else None,
        timelines=tuple(map(Place.parse, timeline.split())),
    )


def failed(utt_id: str, stage: Stage, reason: str, detail: str) -> Failure:
    return Failure(Utterance(0, utt_id, "x.wav"), stage, reason, detail)


def done_records(places: Sequence[str] = ("", "", "", "")) -> list[DoneRecord]:
    """Make the done records, in another order than that of the list."""
    return [
        done("../x", (0.5, 0.5), duration=12.3457, num_frames=616, windows=2, embedding=places[0]),
        done("ü", (0.0, 1.0), duration=0.025, num_frames=1, embedding=places[1]),
        done("my%20call", (0.654321, 0.345679), duration=3600.0, num_frames=179999, windows=60, embedding=places[2]),
        done("z", (0.000001, 0.999999), duration=2.0, num_frames=99, embedding=places[3]),
    ]


FAILURES = [
    failed("broken", "model", "not finite", "NaN"),
    failed("gone", "audio", "missing", "a\tb\nc\r\nd.wav: no such file"),
]

COMMON = {
    "failures.tsv": (
        "utt_id\tstage\treason\tdetail\n"
        "gone\taudio\tmissing\ta b c  d.wav: no such file\n"
        "broken\tmodel\tnot finite\tNaN\n"
    ),
    "utt2dur": "z 2.0000\nmy%20call 3600.0000\nü 0.0250\n../x 12.3457\n",
    "utt2num_frames": "z 99\nmy%20call 179999\nü 1\n../x 616\n",
    "frame_shift": "0.02\n",
}
"""The final files of the run that every model has."""

UTT2EMO = "z sad\nmy%20call angry\nü sad\n../x angry\n"

PREDICTIONS = (
    "utt_id\tlabel\tscore\tduration\twindows\tangry\tsad\n"
    "z\tsad\t0.999999\t2.0000\t1\t0.000001\t0.999999\n"
    "my%20call\tangry\t0.654321\t3600.0000\t60\t0.654321\t0.345679\n"
    "ü\tsad\t1.000000\t0.0250\t1\t0.000000\t1.000000\n"
    "../x\tangry\t0.500000\t12.3457\t2\t0.500000\t0.500000\n"
)

REASONS = (FailureReason("missing", 1, example=2), FailureReason("not finite", 1, example=5))

SUMMARY = Summary(
    input=6, done=4, failed=2, audio_seconds=3614.3707, wall_seconds=2.0, encode_seconds=1.0, reasons=REASONS
)


def header(
    ids: Ids = IDS,
    *,
    embeddings: str = "none",
    labels: tuple[str, ...] = LABELS,
    started: int = 0,
    model: str = "abc",
    timeline: float | str = "off",
    formats: tuple[str, ...] = (),
    join: bool = False,
    frame_shift: float = 0.02,
) -> Header:
    """Make the header of an attempt that began ``started`` seconds after ten."""
    return Header(
        format=JOURNAL_FORMAT,
        fingerprint={**FINGERPRINT, "embeddings": embeddings, "model": model, "timeline": timeline},
        model="./modèle",
        labels=labels,
        input_sha256=ids.digest,
        input_size=len(ids),
        frame_shift=frame_shift,
        timeline_formats=formats,
        join=join,
        mix_devices=False,
        invocation=INVOCATION,
        machine=MACHINE,
        host="host",
        pid=17,
        started=f"2026-01-31T10:00:{started:02}+01:00",
    )


def write(
    folder: Path,
    results: Sequence[DoneRecord | Failure],
    head: Header,
    shard: Shard = WHOLE,
    elapsed: Elapsed = TIME,
    end: bool = True,
) -> None:
    """Write the journal of an attempt."""
    with closing(Journal(folder, shard, head)) as journal:
        for result in results:
            if isinstance(result, DoneRecord):
                journal.append([result], [], elapsed)
            else:
                journal.append([], [result], elapsed)
        if end:
            journal.end(elapsed)


def write_run(folder: Path, embeddings: str = "none", places: Sequence[str] = ("", "", "", "")) -> None:
    """Write the journals of two shards, one of which took two attempts, and the ids."""
    records = done_records(places)
    heads = [header(embeddings=embeddings, started=started) for started in (0, 5, 1)]
    write(folder, [records[0], FAILURES[0]], heads[0], FIRST, Elapsed(3.0, 2.0, 10.0, 2), end=False)
    write(folder, records[1:3], heads[1], FIRST, Elapsed(4.0, 1.5, 20.0, 2))
    write(folder, [FAILURES[1], records[3]], heads[2], SECOND, Elapsed(5.0, 3.0, 2.0, 2))
    save_ids(folder, IDS)


def open_folder(path: Path) -> RunFolder:
    """Open a run folder, and list it."""
    folder = open_run_folder(path)
    folder.refresh()
    return folder


def is_published(path: Path, input_sha256: str) -> bool:
    """Whether the final files are those of a list."""
    return open_folder(path).is_published(input_sha256)


def publish_all(path: Path, ids: Ids = IDS) -> Summary:
    """Publish the results of a list from the journals."""
    folder = open_folder(path)
    return publish(folder, ids, folder.read_history(ids), folder.find_run().header)


def final_files(folder: Path) -> dict[str, str]:
    """Read all files of a folder but journals, locks, ids, archives and run.json."""
    others = re.compile(r"journal\..*|\.lock\..*|input\.[0-9a-f]{16}(\.sources)?|embeddings.*\.ark|run\.json")
    return {
        name: (folder / name).read_bytes().decode()
        for name in os.listdir(folder)
        if not others.fullmatch(name) and name not in ("embeddings", "slurm")
    }
