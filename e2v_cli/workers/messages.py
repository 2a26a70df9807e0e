"""The messages between workers and their launcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from e2v_cli.errors import E2vError
from e2v_cli.records import DoneRecord, Failure


@dataclass(frozen=True)
class Started:
    """Worker → launcher, before any other message, if it was forked: its process."""

    pid: int


@dataclass(frozen=True)
class Results:
    """Worker → launcher: utterances that are done, whose embeddings are on disk, and utterances that failed."""

    done: tuple[DoneRecord, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class BlockDone:
    """Worker → launcher: a block is finished; its results were sent before."""

    number: int


@dataclass(frozen=True)
class Fatal:
    """Worker → launcher: an error that every worker would meet; the run ends."""

    error: E2vError


@dataclass(frozen=True)
class Crash:
    """Worker → launcher: an unexpected error, due to the worker's blocks or to a bug of e2v; the worker ends."""

    description: str


Wish = Literal["first", "next"]
"""Worker → launcher: a request for a block.

"first": the worker has no block and waits for one. "next": it has a block; the answer comes at once, and None means
that no block is free now. None in answer to "first", or without a request, tells the worker to stop.
"""
