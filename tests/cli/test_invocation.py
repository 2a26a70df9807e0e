"""The command that goes on with a run, from the record of how it was started."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2v_cli.cli.invocation import find_command
from e2v_cli.options import Invocation

COMMAND = ("/usr/bin/python3", "-m", "e2v_cli", "predict", "my list.scp", "-o", "out")


def test_words_are_quoted_and_variables_named() -> None:
    variables = {"E2V_MODEL": "./my model", "E2V_QUIET": "1"}
    assert find_command(Invocation(COMMAND, variables, "/work", ("my list.scp",))) == (
        "E2V_MODEL='./my model' E2V_QUIET=1 /usr/bin/python3 -m e2v_cli predict 'my list.scp' -o out"
    )


def test_next_command_does_not_delete_finished_work() -> None:
    invocation = Invocation((*COMMAND, "--overwrite"), {"E2V_OVERWRITE": "1"}, "/work", ("my list.scp",))
    assert find_command(invocation) == "/usr/bin/python3 -m e2v_cli predict 'my list.scp' -o out"


def test_command_on_the_path_has_its_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "e2v"
    program.touch(0o755)
    command = (str(program), "predict", "a.wav")
    assert find_command(Invocation(command)) == f"{program} predict a.wav"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_command(Invocation(command)) == "e2v predict a.wav"


@pytest.mark.parametrize("words", [("-",), ("/dev/fd/63",), ("https://***@example.org/a.wav",), ("a.wav", "… 17 more")])
def test_command_with_an_ambiguous_input_is_unknown(words: tuple[str, ...]) -> None:
    assert find_command(Invocation((*COMMAND[:4], *words), {}, "/work", words)) is None
