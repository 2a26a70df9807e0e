"""The headers of journals → what ``run.json`` keeps of the attempts: each command and each machine once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from e2v_cli.cluster.slurm import ranges
from e2v_cli.journal.journal import Header, JournalFile, start_order

SHOWN_COMMANDS = 100
"""The most commands that are listed, the newest: thousands of different ones would be more than the rest."""

Attempt = tuple[JournalFile, Header]


def describe_attempts(headers: Mapping[JournalFile, Header]) -> dict[str, Any]:
    """Describe the commands that were run, the newest last, and the machines that computed them."""
    attempts = sorted(headers.items(), key=lambda attempt: start_order(*attempt))
    by_command = sorted(_group(attempts, _command_facts), key=lambda group: start_order(*group[1][-1]))
    commands = []
    for facts, alike in by_command[-SHOWN_COMMANDS:]:
        numbers = sorted({file.shard.index for file, _ in alike})
        times = {"first_started": alike[0][1].started, "last_started": alike[-1][1].started}
        commands.append({**facts, "shards": ranges(numbers), **times, "attempts": len(alike)})
    machines = [
        {**facts, "hosts": sorted({header.host for _, header in alike}), "attempts": len(alike)}
        for facts, alike in _group(attempts, _machine_facts)
    ]
    return {"attempts": len(attempts), "commands": commands, "machines": machines}


def _group(
    attempts: Sequence[Attempt], describe: Callable[[Attempt], dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], list[Attempt]]]:
    """Group attempts that are described alike."""
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(json.dumps(describe(attempt), sort_keys=True), []).append(attempt)
    for alike in groups.values():
        yield describe(alike[0]), alike


def _command_facts(attempt: Attempt) -> dict[str, Any]:
    """Describe an attempt's command without its shard, so that those of all shards are one."""
    file, header = attempt
    facts = asdict(header.invocation)
    facts["command"] = list(_without_shard(header.invocation.command))
    facts["variables"].pop("E2V_SHARD", None)
    return {**facts, "num_shards": file.shard.count}


def _without_shard(words: Iterable[str]) -> Iterator[str]:
    """Yield the words of a command but ``--shard I/N``."""
    rest = iter(words)
    for word in rest:
        if word == "--shard":
            next(rest, None)
        elif not word.startswith("--shard="):
            yield word


def _machine_facts(attempt: Attempt) -> dict[str, Any]:
    return asdict(attempt[1].machine)
