"""What run.json keeps of thousands of attempts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from support.journals import INVOCATION, MACHINE, header

from e2v_cli.journal.journal import Header, JournalFile
from e2v_cli.options import Shard
from e2v_cli.results.attempts import SHOWN_COMMANDS, describe_attempts


def attempt(shard: Shard, number: int, **fields: object) -> tuple[JournalFile, Header]:
    head = replace(header(), started=f"2026-01-31T10:00:00.{number:06}+01:00", **fields)  # type: ignore[arg-type]
    return JournalFile(shard, number, Path(f"journal.{shard.name}.{number}")), head


def test_ten_thousand_attempts_of_one_command_on_one_kind_of_machine_are_one_entry() -> None:
    words = ("e2v", "predict", "wav.scp", "-o", "out")
    headers = dict(
        attempt(
            Shard(256, index),
            number,
            host=f"node{index % 8}",
            invocation=replace(
                INVOCATION,
                command=(*words, "--shard", f"{index}/256") if number % 2 else (*words, f"--shard={index}/256"),
                variables={"E2V_MODEL": "sample", "E2V_SHARD": f"{index}/256"},
            ),
        )
        for number in range(1, 41)
        for index in range(1, 257)
    )

    facts = describe_attempts(headers)

    assert facts == {
        "attempts": 10_240,
        "commands": [
            {
                "command": list(words),
                "variables": {"E2V_MODEL": "sample"},
                "folder": "/work",
                "inputs": ("wav.scp",),
                "hidden": False,
                "segments_rttm": None,
                "num_shards": 256,
                "shards": "1-256",
                "first_started": "2026-01-31T10:00:00.000001+01:00",
                "last_started": "2026-01-31T10:00:00.000040+01:00",
                "attempts": 10_240,
            }
        ],
        "machines": [
            {
                "device": "cpu",
                "gpus": (),
                "cpu": "a CPU",
                "versions": MACHINE.versions,
                "products": "unknown",
                "hosts": [f"node{number}" for number in range(8)],
                "attempts": 10_240,
            }
        ],
    }


def test_the_newest_of_many_commands_are_listed() -> None:
    headers = dict(
        attempt(Shard(1, 1), number, invocation=replace(INVOCATION, folder=f"/{number}")) for number in range(1, 10_001)
    )

    facts = describe_attempts(headers)

    assert facts["attempts"] == 10_000
    assert [command["folder"] for command in facts["commands"]] == [
        f"/{number}" for number in range(10_001 - SHOWN_COMMANDS, 10_001)
    ]
    assert len(json.dumps(facts)) < 100_000


def test_machines_that_differ_are_listed_apart() -> None:
    newer = replace(MACHINE, versions={**MACHINE.versions, "torch": "2.14.0"})
    gpu = replace(MACHINE, device="cuda", gpus=("NVIDIA H200",))
    machines = [MACHINE, newer, gpu, MACHINE]

    facts = describe_attempts(
        dict(attempt(Shard(1, 1), number, machine=machine) for number, machine in enumerate(machines, 1))
    )

    assert [
        (machine["device"], machine["versions"]["torch"], machine["attempts"]) for machine in facts["machines"]
    ] == [
        ("cpu", "2.13.0", 2),
        ("cpu", "2.14.0", 1),
        ("cuda", "2.13.0", 1),
    ]
