"""The options that commands share: headings, variables, defaults, and options → words → the same options."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from random import Random

import click
import pytest
from click.testing import CliRunner

from e2v_cli.cli.main import cli
from e2v_cli.cli.words import format_words
from e2v_cli.commands.submit import SubmitOptions
from e2v_cli.errors import UsageError
from e2v_cli.options import (
    PIPE_SECONDS,
    ComputeOptions,
    InputOptions,
    ModelRequest,
    PredictOptions,
    ResultOptions,
    RunOptions,
)
from e2v_cli.records import Summary
from e2v_cli.system.signals import StopSignals

HEADINGS = {
    "Input": [
        *(
            "--hidden",
            "--id",
            "--segments-rttm",
            "--channel",
            "--resampler",
            "--allow-pipes",
            "--pipe-timeout",
            "--max-source-bytes",
        ),
    ],
    "Model": ["--model", "--hub", "--revision", "--offline", "--labels", "--classes", "--merge"],
    "Compute": ["--engine", "--device", "--jobs", "--precision", "--batch-seconds", "--window", "--products"],
    "Results": [
        *("--output-dir", "--granularity", "--embeddings", "--embedding-dtype", "--layers", "--compress"),
        *("--timeline", "--timeline-format", "--join"),
    ],
    "Rows": ["--format", "--columns", "--no-header"],
    "Run": [
        *("--shard", "--overwrite", "--retry-failed", "--keep-changed", "--recompute-changed", "--mix-devices"),
        *("--max-failures", "--progress", "--quiet", "--verbose"),
    ],
}

ALL = list(chain.from_iterable(HEADINGS.values()))

NOT_OF_SUBMIT = ["--jobs", "--shard", "--overwrite", *HEADINGS["Rows"]]

SUBMIT = [
    *("--jobs", "--array-limit", "--dry-run", "--partition", "--gpus", "--cpus", "--mem", "--time", "--account"),
    *("--qos", "--sbatch-arg", "--merge-sbatch-arg"),
]

VALUES: dict[str, list[str]] = {
    "--id": ["path", "stem", "name"],
    "--segments-rttm": ["a.rttm", "-x", "a b.rttm"],
    "--channel": ["mix", "split", "1", "2", "C", "17"],
    "--resampler": ["soxr", "torchaudio"],
    "--pipe-timeout": ["600", "7", "0.1", "1e-7", "123456.789"],
    "--max-source-bytes": ["1", "500M", "2G", "123456789", "1000000T"],
    "--model": ["emotion2vec_plus_base", "sample", "./my model", "-m", "--window"],
    "--hub": ["ms", "hf"],
    "--revision": ["v1.0", "--offline", "größer"],
    "--labels": ["en", "zh", "both"],
    "--classes": ["happy,sad", "sad,happy,happy", "生气, Neutral"],
    "--merge": ["excited=happy", "hap=sad", "生气=negative"],
    "--engine": ["e2v", "funasr"],
    "--device": ["auto", "cpu", "cuda:0,2"],
    "--jobs": ["1", "64"],
    "--precision": ["fp32", "tf32", "bf16", "fp16"],
    "--batch-seconds": ["10", "0.30000000000000004", "1e22"],
    "--window": ["60", "1", "29.97", "100000"],
    "--products": ["mkl", "onednn", "torch"],
    "--output-dir": ["out", "a/b c", "--", "-o", "/x"],
    "--granularity": ["utterance", "frame"],
    "--embeddings": ["none", "npy", "ark", "ark,t"],
    "--embedding-dtype": ["fp32", "fp16"],
    "--layers": ["3", "9,6", "mean:8-12", "12, mean:1-3,mean:8-12"],
    "--timeline": ["1", "0.02", "0.333", "86400"],
    "--timeline-format": ["rttm", "audacity", "textgrid"],
    "--format": ["table", "tsv", "csv", "jsonl"],
    "--columns": ["utt_id", "label,utt_id"],
    "--shard": ["1/1", "2/3"],
    "--max-failures": ["0", "17", "9223372036854775807", "0%", "1%", "12.3456789%", "0.1%", "100%"],
}
"""Some allowed values of each option that takes one."""

SWITCHES = [
    *("--hidden", "--allow-pipes", "--offline", "--compress", "--join", "--no-header", "--overwrite"),
    *("--retry-failed", "--progress", "--keep-changed", "--recompute-changed", "--mix-devices", "--quiet"),
    "--verbose",
]

INPUTS = ["a.wav", "list.scp", "-x.wav", "--window", "it's", "-", "http://example.org/a.wav", "größer.wav"]

Parse = Callable[[Sequence[str]], PredictOptions]
ParseSubmit = Callable[[Sequence[str]], SubmitOptions]


def command_of(name: str) -> click.Command:
    command: click.Command = cli
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[part]
    return command


def long_name(param: click.Parameter) -> str:
    return next(name for name in param.opts if name.startswith("--"))


def options_of(name: str) -> list[click.Option]:
    """List the options of a command that are not hidden."""
    params = command_of(name).params
    return [param for param in params if isinstance(param, click.Option) and not param.hidden]


def variable_of(option: str) -> str:
    return f"E2V_{option[2:].replace('-', '_').upper()}"


def help_of(name: str) -> dict[str, dict[str, str]]:
    """Read a command's help: its headings, the options below each, and their texts."""
    done = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="e2v", terminal_width=200)
    assert done.exit_code == 0
    sections: dict[str, dict[str, str]] = {}
    heading = option = ""
    for line in done.output.splitlines():
        if match := re.fullmatch(r"(\w+):", line):
            heading = match.group(1)
            sections[heading] = {}
        elif heading and (match := re.match(r"  (?:-\w, )?(--[a-z-]+)(.*)", line)):
            option = match.group(1)
            sections[heading][option] = match.group(2)
        elif heading and line.strip():
            assert line.startswith("     "), f"{line!r} is no option"
            sections[heading][option] += f" {line.strip()}"
    return sections


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset all variables of e2v, and leave the logging set-up unchanged."""
    for name in [name for name in os.environ if name.startswith("E2V_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    for module in ("predict", "submit"):
        monkeypatch.setattr(f"e2v_cli.cli.{module}.log_to_stderr", lambda _: None)


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Parse the words of ``e2v predict``, and compute nothing."""
    parsed: list[PredictOptions] = []

    def predict(options: PredictOptions, *_: object) -> Summary:
        parsed.append(options)
        return Summary(0, 0, 0, 0.0, 0.0, 0.0)

    monkeypatch.setattr("e2v_cli.commands.predict.predict", predict)
    monkeypatch.setattr("e2v_cli.cli.predict.started_template", lambda *_: nullcontext())

    def parse(words: Sequence[str]) -> PredictOptions:
        cli.main(["predict", *words], prog_name="e2v", standalone_mode=False, obj=StopSignals())
        return parsed.pop()

    return parse


@pytest.fixture
def parse_submit(monkeypatch: pytest.MonkeyPatch) -> ParseSubmit:
    """Parse the words of ``e2v submit``, and submit nothing."""
    parsed: list[SubmitOptions] = []

    def submit(options: SubmitOptions) -> str:
        parsed.append(options)
        return ""

    monkeypatch.setattr("e2v_cli.commands.submit.submit", submit)

    def parse(words: Sequence[str]) -> SubmitOptions:
        cli.main(["submit", "--jobs", "2", *words], prog_name="e2v", standalone_mode=False, obj=StopSignals())
        return parsed.pop()

    return parse


# -- help --------------------------------------------------------------------------------------------------------------


def test_every_option_of_predict_is_under_its_heading() -> None:
    sections = help_of("predict")

    assert {heading: list(options) for heading, options in sections.items()} == {**HEADINGS, "Options": ["--help"]}
    assert list(sections) == [*HEADINGS, "Options"]
    assert sorted(map(long_name, options_of("predict"))) == sorted(ALL)
    assert set(VALUES) | set(SWITCHES) == set(ALL)


def test_submit_has_the_same_headings_and_its_own_options_last() -> None:
    sections = help_of("submit")

    of_predict = {
        heading: [option for option in options if option not in NOT_OF_SUBMIT]
        for heading, options in HEADINGS.items()
        if heading != "Rows"
    }
    assert {heading: list(options) for heading, options in sections.items()} == {
        **of_predict,
        "Options": [*SUBMIT, "--help"],
    }
    assert list(sections) == [*of_predict, "Options"]


@pytest.mark.parametrize("name", ["plan", "check", "rows", "models pull"])
def test_other_commands_have_the_same_headings(name: str) -> None:
    heading_of = {option: heading for heading, options in HEADINGS.items() for option in options}
    own = [option for option in map(long_name, options_of(name)) if option not in heading_of]

    for heading, options in help_of(name).items():
        for option in options:
            assert heading == ("Options" if option in [*own, "--help"] else heading_of[option])


INPUT, MODEL, COMPUTE, RESULTS, RUN = InputOptions(()), ModelRequest(), ComputeOptions(), ResultOptions(), RunOptions()

DEFAULTS = {
    "--channel": INPUT.channel,
    "--resampler": INPUT.resampler,
    "--pipe-timeout": PIPE_SECONDS,
    "--model": MODEL.name,
    "--hub": MODEL.hub,
    "--labels": MODEL.labels,
    "--engine": COMPUTE.engine,
    "--device": COMPUTE.device,
    "--precision": COMPUTE.precision,
    "--window": COMPUTE.window,
    "--granularity": RESULTS.granularity,
    "--embeddings": RESULTS.embeddings,
    "--embedding-dtype": RESULTS.dtype,
    "--max-failures": RUN.max_failures,
}
"""Defaults of the option groups; all other options are switches, or have a computed default."""

DESCRIBED = {
    "--id": "(path in folders, else stem)",
    "--max-source-bytes": "(by the free space of TMPDIR)",
    "--revision": "(what is here, else the newest)",
    "--classes": "(all)",
    "--layers": "(the last)",
    "--jobs": "(all cores, or all GPUs)",
    "--batch-seconds": "(10 on CPU, 300 on a GPU)",
    "--products": "(the fastest on this CPU)",
    "--output-dir": "(rows on standard output)",
    "--format": "(table on a terminal, else tsv)",
    "--columns": "(all; in a table fewer)",
    "--shard": "(with -o, its place in a Slurm array or among the tasks of an srun; else 1/1)",
    "--progress": "(on a terminal; elsewhere a line every 30 s)",
}


@pytest.mark.parametrize("name", ["predict", "submit"])
def test_help_shows_the_defaults_of_the_groups(name: str) -> None:
    shown = {}
    for texts in help_of(name).values():
        for option, text in texts.items():
            if match := re.search(r"\[default: ([^]]*?)(; x>=1)?\]$", text):
                shown[option] = match.group(1)

    expected = {option: str(value) for option, value in DEFAULTS.items()} | DESCRIBED
    left_out = NOT_OF_SUBMIT if name == "submit" else []
    assert shown == {option: text for option, text in expected.items() if option not in left_out}


def test_missing_options_have_the_defaults_of_the_groups(parse: Parse, parse_submit: ParseSubmit) -> None:
    assert parse(["a.wav"]) == PredictOptions(InputOptions(("a.wav",)))
    submitted = parse_submit(["a.wav"])
    assert submitted.run == PredictOptions(InputOptions(("a.wav",)))
    assert submitted.words == ("a.wav",)


# -- variables ---------------------------------------------------------------------------------------------------------

NEEDED = {
    "--pipe-timeout": ["--allow-pipes"],
    "--granularity": ["-o", "out", "--embeddings", "npy"],
    "--embedding-dtype": ["-o", "out", "--embeddings", "npy"],
    "--layers": ["-o", "out", "--embeddings", "npy"],
    "--compress": ["-o", "out", "--granularity", "frame", "--embeddings", "ark"],
    "--embeddings": ["-o", "out"],
    "--timeline": ["-o", "out"],
    "--timeline-format": ["-o", "out", "--timeline", "1"],
    "--join": ["-o", "out", "--timeline", "1"],
    "--overwrite": ["-o", "out"],
    "--retry-failed": ["-o", "out"],
    "--keep-changed": ["-o", "out"],
    "--recompute-changed": ["-o", "out"],
    "--mix-devices": ["-o", "out"],
}
"""Options that another one needs, to be accepted or to have an effect."""


@pytest.mark.parametrize("option", [long_name(param) for param in options_of("predict")])
def test_every_option_can_be_set_by_its_variable(option: str, parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["a.wav", *NEEDED.get(option, [])]
    value = "1" if option in SWITCHES else VALUES[option][-1]
    given = [option] if option in SWITCHES else [option, value]
    unset, by_words = parse(words), parse([*words, *given])

    monkeypatch.setenv(variable_of(option), value)

    assert parse(words) == by_words != unset


def test_variable_may_hold_several_names(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2V_TIMELINE_FORMAT", "textgrid rttm textgrid")

    assert parse(["a.wav", "-o", "out", "--timeline", "1"]).results.timeline_formats == ("rttm", "textgrid")


@pytest.mark.parametrize("name", ["predict", "submit", "plan", "check", "rows", "models pull"])
def test_variables_are_the_same_for_all_commands(name: str) -> None:
    """Those of ``e2v submit`` alone have its name: its ``--jobs`` are not workers, for example."""
    shared = set(ALL) - ({"--jobs"} if name == "submit" else set())
    context = click.Context(
        command_of(name), auto_envvar_prefix=command_of(name).context_settings.get("auto_envvar_prefix")
    )
    for param in options_of(name):
        option = long_name(param)
        own = variable_of(option) if name != "submit" else f"E2V_SUBMIT_{variable_of(option)[4:]}"
        variable = param.envvar or f"{context.auto_envvar_prefix}_{str(param.name).upper()}"
        assert variable == (variable_of(option) if option in shared else own)


def test_every_option_of_every_command_has_a_variable() -> None:
    def find_without(command: click.Command, name: str) -> list[str]:
        if isinstance(command, click.Group):
            parts = [find_without(part, f"{name} {word}") for word, part in command.commands.items()]
            return list(chain.from_iterable(parts))
        has_prefix = "auto_envvar_prefix" in command.context_settings
        options = [param for param in command.params if isinstance(param, click.Option)]
        return [f"{name} {option.opts[0]}" for option in options if not (option.envvar or has_prefix)]

    assert find_without(cli, "e2v") == []


def test_variables_of_submit_do_not_set_shared_options(
    parse_submit: ParseSubmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in [*SWITCHES, *VALUES]:
        if option != "--jobs":
            monkeypatch.setenv(f"E2V_SUBMIT_{variable_of(option)[4:]}", "1")
    for param in options_of("submit"):
        if long_name(param) not in SUBMIT:
            monkeypatch.setenv(f"E2V_SUBMIT_{str(param.name).upper()}", "1")

    assert parse_submit(["a.wav"]).run == PredictOptions(InputOptions(("a.wav",)))


# -- options and words -------------------------------------------------------------------------------------------------


def choose_value(random: Random, option: str) -> str:
    """Choose a value of an option; some numbers have many digits."""
    if option in ("--pipe-timeout", "--batch-seconds", "--window", "--timeline") and random.random() < 0.5:
        return repr(random.uniform(1, 1000))
    if option == "--max-failures" and random.random() < 0.5:
        return random.choice([f"{random.uniform(0, 100)!r}%", str(random.randrange(10**12))])
    return random.choice(VALUES[option])


def choose_words(random: Random, share: float) -> list[str]:
    """Choose a share of the options with values, in any order; INPUT comes last."""
    words: list[list[str]] = []
    for option in [*VALUES, *SWITCHES, "--timeline-format", "--no-progress"]:
        if option not in NOT_OF_SUBMIT and random.random() < share:
            is_switch = option in SWITCHES or option == "--no-progress"
            words.append([option] if is_switch else [option, choose_value(random, option)])
    random.shuffle(words)
    inputs = [random.choice(INPUTS) for _ in range(random.randrange(1, 4))]
    return [*chain.from_iterable(words), "--", *inputs]


def choose_variables(random: Random) -> dict[str, str]:
    """Choose values of the variables of all options."""
    variables = {variable_of(option): choose_value(random, option) for option in VALUES}
    variables["E2V_TIMELINE_FORMAT"] = " ".join(random.choices(VALUES["--timeline-format"], k=random.randrange(1, 4)))
    variables |= {variable_of(option): random.choice("01") for option in SWITCHES}
    return {name: value for name, value in variables.items() if name not in map(variable_of, NOT_OF_SUBMIT)}


def with_plain_inputs(options: PredictOptions) -> PredictOptions:
    """Write the inputs as words do: none begins with a dash, except ``-``."""
    inputs = tuple(f"./{item}" if item.startswith("-") and item != "-" else item for item in options.input.inputs)
    return replace(options, input=replace(options.input, inputs=inputs))


def test_words_of_options_give_the_same_options(parse: Parse) -> None:
    random = Random(24)
    seen: set[PredictOptions] = set()
    while len(seen) < 250:
        try:
            options = parse(choose_words(random, share=random.random() ** 2))
        except (UsageError, click.UsageError):  # they contradict each other
            continue
        assert parse(format_words(options)) == with_plain_inputs(options)
        seen.add(options)

    for value in ("npy", "ark", "ark,t"):
        assert any(options.results.embeddings == value for options in seen)
    assert any(options.results.compress for options in seen)
    assert any(len(options.results.layers) > 1 for options in seen)
    assert any(options.results.join for options in seen)
    assert {options.run.progress for options in seen} == {None, False, True}
    assert len({options.run.log_level for options in seen}) == 3


def test_words_of_submit_give_the_same_options_despite_variables(
    parse: Parse, parse_submit: ParseSubmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables count at submission, and are unset when the words are parsed."""
    random = Random(15)
    found = 0
    while found < 80:
        words = choose_words(random, share=random.random())
        variables = choose_variables(random)
        try:
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                submitted = parse_submit(words)
        except (UsageError, click.UsageError):
            continue
        assert submitted.words == format_words(submitted.run)
        assert parse(submitted.words) == with_plain_inputs(submitted.run)
        found += 1
