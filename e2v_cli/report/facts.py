"""Facts of a run: whether it is complete, its model, machines and options."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from e2v_cli.journal.folder import RunFolder
from e2v_cli.journal.history import History, parse_failed
from e2v_cli.journal.journal import DONE, LEFT, Header
from e2v_cli.results.attempts import describe_attempts
from e2v_cli.results.publish import sum_elapsed
from e2v_cli.system.text import number_word

MAX_REASONS = 20
"""Reasons of failures that are listed."""


@dataclass(frozen=True)
class FailedExample:
    """A reason of failures, and the first utterance that failed for it."""

    reason: str
    count: int
    utt_id: str
    detail: str


@dataclass(frozen=True)
class RunFacts:
    """A run, as its journals describe it."""

    input: int
    done: int
    left: int
    failures: Sequence[FailedExample]
    model: str
    sha256: str
    """SHA-256 of the model's weights, in hexadecimal."""
    labels: Sequence[str]
    encode_seconds: float
    wall_seconds: float
    speed: float
    """Seconds of audio encoded in a second; 0 where nothing was."""
    started: str
    """Start of the first attempt: day, time and time zone."""
    attempts: int
    commands: Sequence[str]
    """Commands of all attempts, each once, with the variables that set options."""
    folders: Sequence[str]
    """Folders where the commands were started."""
    machines: Sequence[str]
    versions: Mapping[str, str]
    options: Mapping[str, str]
    """Options that change results, by name, without the model and its labels."""

    @property
    def failed(self) -> int:
        """Utterances that have no result and are not left."""
        return self.input - self.done - self.left


def gather_facts(folder: RunFolder, header: Header, history: History) -> RunFacts:
    """Gather what the journals record of a run.

    Raises:
        OSError: a journal can't be read.
    """
    status = history.status
    elapsed, attempts = sum_elapsed(history.elapsed), describe_attempts(folder.headers)
    return RunFacts(
        input=len(status),
        done=int((status == DONE).sum()),
        left=int((status == LEFT).sum()),
        failures=_find_failures(history),
        model=header.model,
        sha256=str(header.fingerprint["model"]),
        labels=header.labels,
        encode_seconds=elapsed.encode_seconds,
        wall_seconds=elapsed.wall_seconds,
        speed=elapsed.audio_seconds / elapsed.encode_seconds if elapsed.encode_seconds else 0.0,
        started=_format_time(min(folder.headers.values(), key=lambda other: other.start_time).started),
        attempts=attempts["attempts"],
        commands=[_format_attempts(facts) for facts in attempts["commands"]],
        folders=list(dict.fromkeys(facts["folder"] for facts in attempts["commands"])),
        machines=[_describe_machine(facts) for facts in attempts["machines"]],
        versions=header.machine.versions,
        options={
            name: number_word(value) if isinstance(value, float) else str(value)
            for name, value in header.fingerprint.items()
            if name not in ("model", "labels")
        },
    )


def _format_time(started: str) -> str:
    when = datetime.fromisoformat(started)
    return f"{when:%Y-%m-%d %H:%M:%S} {when:%Z}"


def _find_failures(history: History) -> list[FailedExample]:
    """Count failures by reason, the most frequent first."""
    status = history.status
    reasons = history.reasons.count(np.flatnonzero((status != DONE) & (status != LEFT)))
    failures = []
    for reason in reasons[:MAX_REASONS]:
        (line,) = history.read_lines(reason.example, reason.example + 1)
        utt_id, _, _, detail = parse_failed(line).decode(errors="replace").rstrip("\n").split("\t", 3)
        failures.append(FailedExample(reason.reason, reason.count, utt_id, detail))
    return failures


def _format_attempts(facts: Mapping[str, Any]) -> str:
    variables = [f"{name}={shlex.quote(value)}" for name, value in facts["variables"].items()]
    return " ".join([*variables, shlex.join(facts["command"])])


def _describe_machine(facts: Mapping[str, Any]) -> str:
    hardware = ", ".join(facts["gpus"]) or facts["cpu"]
    hosts = facts["hosts"]
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return f"{facts['device']}: {hardware} ({', '.join(hosts[:3])}{more})"
