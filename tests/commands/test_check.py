"""``e2v check``: exact results, differences, and the report of both."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from support.audio_files import encode, noisy_tone
from support.checkpoints import make_config, make_model
from support.corpora import CLIPS
from support.processes import ROOT, E2v
from support.resampling import TORCHAUDIO
from support.upstream import upstream_alone
from torch import Tensor

from e2v_cli.commands.check import CheckOptions, Verdict, check
from e2v_cli.errors import CorpusError, DeviceError
from e2v_cli.inference.engine import Pending
from e2v_cli.inference.load import load_engine, load_upstream
from e2v_cli.models.folder import read_model
from e2v_cli.models.weights import load_network, prepare_weights
from e2v_cli.network.emotion2vec import Emotion2vec, Taps
from e2v_cli.options import ComputeOptions, InputOptions, ModelRequest, Precision, ResamplerName
from e2v_cli.records import Batch, Failure, Prediction
from e2v_cli.system.spool import DiskArray
from e2v_cli.workers.devices import describe_machine

pytestmark = pytest.mark.parity

NUMBER = r"(\d\.\de[+-]\d\d)"
TABLE = rf"""(?P<head>.+)
weights: SHA-256 (?P<sha256>[0-9a-f]{{64}})
e2v (?P<e2v>\S+), python (?P<python>\S+), torch (?P<torch>\S+), funasr (?P<upstream>\S+)
(?P<hardware>.+)

 +frame features  +probabilities  +labels  +speed
 +largest  +mean  +largest  +that agree  +× real time
FunASR  +(?P<funasr>[\d.]+)
e2v, one by one  +{NUMBER}  +{NUMBER}  +({NUMBER}|–)  +(\d+ of \d+|–)  +([\d.]+)
e2v, batched  +{NUMBER}  +{NUMBER}  +({NUMBER}|–)  +(\d+ of \d+|–)  +([\d.]+)
FunASR, reading the files itself \((?P<resampler>\w+)\)  +(?P<file_features>\S+)  +\S+  +(?P<file_others>\S.*)
tolerance  +1\.0e-04  +(?P<tolerance>1\.0e-05|–)

FunASR read (?P<files>.+)
(?P<end>(?s:.+))
"""


@pytest.fixture(autouse=True)
def upstream() -> Iterator[None]:
    with upstream_alone():
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for each test."""
    monkeypatch.setenv("E2V_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Utterances of several lengths: mono at 16 kHz, stereo, and at 44.1 kHz."""
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "a-short.wav").write_bytes(encode(noisy_tone(400)))
    (folder / "b-mono.wav").write_bytes(encode(noisy_tone(16_000)))
    (folder / "c-equal.wav").write_bytes(encode(noisy_tone(16_000)[::-1]))
    (folder / "d-stereo.flac").write_bytes(encode(noisy_tone(24_000, num_channels=2), "FLAC"))
    (folder / "e-44k.wav").write_bytes(encode(noisy_tone(66_150, rate=44_100), rate=44_100))
    return folder


class Table:
    """The table on standard output."""

    def __init__(self, text: str) -> None:
        match = re.fullmatch(TABLE, text)
        assert match, text
        self.head, self.end = match["head"], match["end"]
        self.traits = match.groups()[1:7]
        cells = match.groups()[8:]
        rows = [(cells[0], cells[1], cells[2], *cells[4:6]), (cells[6], cells[7], cells[8], *cells[10:12])]
        self.speeds = [float(match["funasr"]), *(float(row[4]) for row in rows)]
        self.features = [(float(row[0]), float(row[1])) for row in rows]
        self.probabilities = [row[2] for row in rows]
        self.labels = [row[3] for row in rows]
        self.tolerance = match["tolerance"]
        self.resampler, self.files = match["resampler"], match["files"]
        self.file_cells = (match["file_features"], *match["file_others"].split(maxsplit=1))


def compare(
    model: Path,
    *inputs: Path,
    precision: Precision = "fp32",
    window: float = 60.0,
    pipe_seconds: float | None = None,
    resampler: ResamplerName = "soxr",
) -> Verdict:
    """Run the check in this process, which has PyTorch loaded."""
    given = InputOptions(tuple(map(str, inputs)), pipe_seconds=pipe_seconds, resampler=resampler)
    compute = ComputeOptions(device="cpu", precision=precision, window=window)
    return check(CheckOptions(given, ModelRequest(str(model)), compute, progress="none"))


def assert_right(table: Table, utterances: int, files: bool = True) -> None:
    assert all(0 <= mean <= largest <= 1e-4 for largest, mean in table.features)
    assert all(0 <= float(probability) <= 1e-5 for probability in table.probabilities)
    assert table.labels == [f"{utterances} of {utterances}"] * 2
    if files:
        feature, probability, labels = table.file_cells
        assert float(feature) <= 1e-4
        assert float(probability) <= 1e-5
        assert labels == f"{utterances} of {utterances}"
        assert table.files.startswith(f"{utterances} of {utterances} files itself")
    assert table.tolerance == "1.0e-05"
    assert all(speed > 0 for speed in table.speeds)


@pytest.mark.e2e
def test_sample_model_matches_on_clips_of_the_sample_corpus(e2v: E2v) -> None:
    """What it prints for all clips is in the README."""
    done = e2v("check", *CLIPS, "-m", "sample")

    assert done.returncode == 0
    table = Table(done.stdout)
    assert table.head == "sample on cpu, fp32: 10 utterances, 33.6 s of audio"
    machine = describe_machine(["cpu"], ComputeOptions(), with_funasr=True)
    versions = [machine.versions[name] for name in ("e2v", "python", "torch", "funasr")]
    weights = ROOT / "e2v_cli" / "sample" / "model.pt"
    assert [*table.traits] == [
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        *versions,
        f"{machine.cpu}, products of {machine.products}",
    ]
    assert (table.resampler, table.files) == ("soxr", "10 of 10 files itself, and resampled 2 of them")
    assert re.fullmatch(r"within the tolerances; the largest difference is that of [fm]\d-\d{4}", table.end)
    assert_right(table, 10)


def test_model_with_wide_heads_matches_on_all_kinds_of_audio(tmp_path: Path, audio: Path) -> None:
    """Of half the shape of emotion2vec_plus_base: heads of 64 numbers."""
    config = make_config(embed_dim=384, num_heads=6, prenet_depth=2, depth=4, channels=256)
    half = make_model(tmp_path / "half", config)

    verdict = compare(half, audio)

    assert verdict.is_exact
    table = Table(verdict.text)
    assert table.head == f"{half} on cpu, fp32: 5 utterances, 5.0 s of audio"
    assert_right(table, 5)


def test_model_without_a_head_matches(tmp_path: Path, audio: Path) -> None:
    verdict = compare(make_model(tmp_path / "headless", make_config(tokenizer=False)), audio)

    assert verdict.is_exact
    table = Table(verdict.text)
    assert table.probabilities == table.labels == ["–", "–"]
    assert table.file_cells[1:] == ("–", "–")
    assert table.tolerance == "–"


def test_model_with_unused_classes_matches(tmp_path: Path, audio: Path) -> None:
    tokens = ("生气/angry", "unuse_0", "开心/happy", "unuse_1", "<unk>")

    verdict = compare(make_model(tmp_path / "five", tokens=tokens), audio)

    assert verdict.is_exact
    assert_right(Table(verdict.text), 5)


def test_model_with_old_four_dimensional_scales_matches(tmp_path: Path, audio: Path) -> None:
    name = "modality_encoders.AUDIO.alibi_scale"
    folder = make_model(tmp_path / "old", wrap=lambda state: {**state, name: state[name].squeeze(0)})

    verdict = compare(folder, audio)

    assert verdict.is_exact
    assert_right(Table(verdict.text), 5)


@pytest.mark.e2e
def test_standard_output_holds_only_the_table(e2v: E2v, tiny: Path, audio: Path) -> None:
    """Upstream prints a greeting."""
    done = e2v("check", audio / "b-mono.wav", "-m", tiny)

    Table(done.stdout)
    assert not [line for line in done.stderr.splitlines() if line.startswith("e2v:")]


# -- differences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "is_heads"), [("blocks.1.fc2.bias", False), ("head.bias", True)])
def test_different_weight_is_found(
    name: str, is_heads: bool, tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturb(*args: object) -> Emotion2vec:
        network = load_network(*args)  # type: ignore[arg-type]
        parameter = network.get_parameter(name)
        parameter.data = parameter.clone()
        parameter.data[0] += 0.01
        return network

    monkeypatch.setattr("e2v_cli.inference.load.load_network", disturb)

    verdict = compare(tiny, audio)

    assert not verdict.is_exact
    table = Table(verdict.text)
    assert table.end.startswith("BEYOND the tolerances; the largest difference is that of ")
    assert [largest > 1e-4 for largest, _ in table.features] == [not is_heads] * 2
    assert all(float(probability) > 1e-5 for probability in table.probabilities)


def test_error_only_in_batches_is_found(tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Emotion2vec.forward

    def mix_up(self: Emotion2vec, waveforms: list[Tensor], *taps: Taps) -> list[Tensor]:
        return forward(self, waveforms, *taps)[::-1]

    monkeypatch.setattr(Emotion2vec, "forward", mix_up)

    verdict = compare(tiny, audio / "b-mono.wav", audio / "c-equal.wav")

    assert not verdict.is_exact
    (alone, _), (batched, _) = Table(verdict.text).features
    assert alone <= 1e-4 < batched


def test_non_finite_features_are_beyond_all_tolerances(
    tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Emotion2vec.forward

    def spoil(self: Emotion2vec, waveforms: list[Tensor], *taps: Taps) -> list[Tensor]:
        return [features * float("nan") for features in forward(self, waveforms, *taps)]

    monkeypatch.setattr(Emotion2vec, "forward", spoil)

    verdict = compare(tiny, audio)

    assert not verdict.is_exact
    assert verdict.text.count(" inf ") == 6
    assert "BEYOND the tolerances; " in verdict.text


Change = Callable[[Prediction], Prediction | Failure]


def change_results(name: str, changes: dict[str, Change], monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the results of an engine, e2v's or FunASR's, of some utterances."""
    load: Callable[..., Any] = load_engine if name == "e2v" else load_upstream

    def load_changed(*args: object) -> Any:
        engine = load(*args)

        def start(batch: Batch) -> Pending:
            results: list[Prediction | Failure] = []
            for result in engine.start(batch)():
                assert isinstance(result, Prediction)
                change = changes.get(result.utterance.utt_id)
                results.append(change(result) if change else result)
            return lambda: results

        others = {key: getattr(engine, key, None) for key in ("device", "resampler", "predict_file")}
        return SimpleNamespace(start=start, **others)

    monkeypatch.setattr(f"e2v_cli.commands.check.{load.__name__}", load_changed)


def shift(feature: float, probability: float) -> Change:
    def change(result: Prediction) -> Prediction:
        assert result.posteriors is not None
        assert not isinstance(result.embedding, DiskArray)
        return replace(result, embedding=result.embedding + feature, posteriors=result.posteriors + probability)

    return change


def fail(result: Prediction) -> Failure:
    return Failure(result.utterance, "model", "not finite", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"b-mono": shift(0, 1e-3)},
        {"b-mono": shift(0, 1e-3), "c-equal": shift(1e-3, 0)},
        {"b-mono": shift(1e-2, 0), "c-equal": shift(0, 1e-4)},
        {"a-short": shift(2e-4, 0), "b-mono": shift(0, 5e-5)},
        {"b-mono": shift(5e-4, 1e-3), "c-equal": shift(9e-4, 9e-4)},
    ],
)
def test_utterance_farthest_beyond_its_tolerance_is_named(
    changes: dict[str, Change], tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_results("e2v", changes, monkeypatch)

    verdict = compare(tiny, audio)

    assert not verdict.is_exact
    assert Table(verdict.text).end == "BEYOND the tolerances; the largest difference is that of b-mono"


def test_utterance_that_fails_upstream_is_not_compared(
    tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_results("funasr", {"c-equal": fail}, monkeypatch)

    verdict = compare(tiny, audio)

    assert verdict.is_exact
    table = Table(verdict.text)
    assert table.labels == ["4 of 4"] * 2
    seconds = sum(soundfile.info(path).duration for path in audio.iterdir() if path.stem != "c-equal")
    assert table.head.endswith(f": 4 utterances (1 left out), {seconds:.1f} s of audio")


def test_check_without_upstream_results_is_an_error(tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_results("funasr", {"b-mono": fail}, monkeypatch)

    with pytest.raises(CorpusError, match=r"^none of the 1 utterances could be compared; see above for the reasons$"):
        compare(tiny, audio / "b-mono.wav")


def test_different_labels_are_counted(tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mirror(result: Prediction) -> Prediction:
        assert result.posteriors is not None
        return replace(result, posteriors=np.ascontiguousarray(result.posteriors[::-1]))

    change_results("e2v", {"c-equal": mirror}, monkeypatch)
    assert Table(compare(tiny, audio).text).labels == ["4 of 5"] * 2


@pytest.mark.e2e
def test_a_damaged_copy_is_found_and_mended(e2v: E2v, tiny: Path, audio: Path, cache: Path) -> None:
    assert compare(tiny, audio).is_exact
    (copy,) = cache.rglob("weights.pt")
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 0x40
    copy.write_bytes(content)

    done = e2v("check", audio, "-m", tiny)

    assert done.returncode == 3
    table = Table(done.stdout)
    first, second = table.end.splitlines()
    assert first.startswith("within the tolerances; ")
    assert second == f"DAMAGED: {copy} was changed since e2v wrote it, and is replaced"
    assert_right(table, 5)
    assert compare(tiny, audio).is_exact


def test_lower_precision_is_beyond_the_tolerances(tiny: Path, audio: Path) -> None:
    verdict = compare(tiny, audio, precision="bf16")

    assert not verdict.is_exact
    table = Table(verdict.text)
    assert table.head == f"{tiny} on cpu, bf16: 5 utterances, 5.0 s of audio"
    assert all(1e-3 < largest < 1 for largest, _ in table.features)
    assert table.end.startswith("BEYOND the tolerances; ")


@pytest.mark.e2e
@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_gpu_precision_is_refused_on_a_cpu_as_by_predict(precision: str, e2v: E2v, tiny: Path, audio: Path) -> None:
    done, run = (
        e2v(command, audio / "b-mono.wav", "-m", tiny, "--device", "cpu", "--precision", precision)
        for command in ("check", "predict")
    )

    assert run.stderr == f"e2v: --precision {precision} needs a GPU, and this run has none; leave it out\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", run.stderr)


# -- files that FunASR reads itself ------------------------------------------------------------------------------------


def find_torchaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FunASR find torchaudio, or a stand-in for it."""
    import funasr.utils.load_utils

    monkeypatch.setattr(funasr.utils.load_utils, "torchaudio", TORCHAUDIO)


@pytest.mark.parametrize("theirs", ["soxr", "torchaudio"])
@pytest.mark.parametrize("ours", ["soxr", "torchaudio"])
def test_resampler_that_funasr_does_not_use_is_named(
    ours: ResamplerName, theirs: ResamplerName, tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if theirs == "torchaudio":
        find_torchaudio(monkeypatch)

    verdict = compare(tiny, audio, resampler=ours)

    table = Table(verdict.text)
    assert (table.resampler, table.files) == (theirs, "5 of 5 files itself, and resampled 1 of them")
    assert all(largest <= 1e-4 for largest, _ in table.features)
    assert verdict.is_exact == (ours == theirs)
    if ours == theirs:
        assert_right(table, 5)
        assert re.fullmatch(r"within the tolerances; the largest difference is that of \S+", table.end)
    else:
        assert float(table.file_cells[0]) > 1e-4
        assert table.end == (
            "BEYOND the tolerances; the largest difference is that of e-44k\n"
            f"FunASR resamples by {theirs} here, and e2v by {ours}: add --resampler {theirs}"
        )


@pytest.mark.e2e
def test_resampler_is_an_option_of_check(e2v: E2v, tiny: Path, audio: Path) -> None:
    done = e2v("check", audio, "-m", tiny, "--resampler", "torchaudio")

    assert done.returncode == 3
    assert done.stdout.endswith("\nFunASR resamples by soxr here, and e2v by torchaudio: add --resampler soxr\n")


def test_resampler_does_not_matter_at_16_khz(tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_torchaudio(monkeypatch)
    (audio / "e-44k.wav").unlink()

    verdict = compare(tiny, audio)

    assert verdict.is_exact
    table = Table(verdict.text)
    assert (table.resampler, table.files) == ("torchaudio", "4 of 4 files itself")
    assert table.end.startswith("within the tolerances; ")


def test_file_that_funasr_reads_otherwise_is_beyond_the_tolerances(
    tiny: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples that FunASR is given are e2v's; those that it reads are of another file."""
    other = tmp_path / "other.wav"
    other.write_bytes(encode(noisy_tone(16_000)[::-1].copy()))
    monkeypatch.setattr("e2v_cli.commands.check.find_path", lambda *_: str(other))

    verdict = compare(tiny, audio / "b-mono.wav")

    assert not verdict.is_exact
    table = Table(verdict.text)
    assert all(largest <= 1e-4 for largest, _ in table.features)
    assert float(table.file_cells[0]) > 1e-4
    assert table.end == "BEYOND the tolerances; the largest difference is that of b-mono"


@pytest.mark.e2e
def test_only_whole_plain_files_are_read_by_funasr(e2v: E2v, tiny: Path, audio: Path, tmp_path: Path) -> None:
    """Not archives, commands, and channels of recordings."""
    with (tmp_path / "a.ark").open("wb") as archive:
        archive.write(b"key ")
        offset = archive.tell()
        archive.write((audio / "b-mono.wav").read_bytes())
    lines = [
        "file audio/b-mono.wav",
        f"archived a.ark:{offset}",
        "piped cat audio/c-equal.wav |",
        "both audio/d-stereo.flac",
    ]
    (tmp_path / "wav.scp").write_text("".join(f"{line}\n" for line in lines))

    done = e2v("check", "wav.scp", "-m", tiny, "--allow-pipes", cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    table = Table(done.stdout)
    assert_right(table, 4, files=False)
    assert (table.files, table.file_cells[2]) == ("2 of 4 files itself", "2 of 2")


@pytest.mark.e2e
def test_command_that_writes_too_much_is_left_out(e2v: E2v, tiny: Path, audio: Path, tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text(f"piped cat {audio}/b-mono.wav |\nendless yes |\n")

    done = e2v("check", "wav.scp", "-m", tiny, "--allow-pipes", "--max-source-bytes", "40k", cwd=tmp_path)

    limit = "more than 40000 bytes; --max-source-bytes sets another limit"
    assert f"e2v: endless is left out: too large: yes |: {limit}\n" in done.stderr
    assert (done.returncode, Table(done.stdout).head.count("1 utterance (1 left out)")) == (0, 1)


def test_file_that_funasr_can_not_read_is_named(
    tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("e2v_cli.commands.check.find_path", lambda source, _: source.replace("b-mono", "none"))

    verdict = compare(tiny, audio)

    assert verdict.is_exact
    assert Table(verdict.text).files == "4 of 5 files itself, and resampled 1 of them"
    (message,) = caplog.messages
    assert message.startswith(f"b-mono: FunASR can't read {audio / 'none.wav'} itself: Audio file not found: ")


def test_missing_funasr_is_named(tiny: Path, audio: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "funasr.utils", None)

    with pytest.raises(DeviceError, match=r"^FunASR can't be loaded: .*funasr\.utils.*; install it again, or "):
        compare(tiny, audio)


# -- utterances left out -----------------------------------------------------------------------------------------------


def test_bad_and_long_audio_is_left_out(tiny: Path, audio: Path, caplog: pytest.LogCaptureFixture) -> None:
    (audio / "f-broken.wav").write_bytes(b"no audio")
    (audio / "g-long.wav").write_bytes(encode(noisy_tone(6 * 16_000 + 1)))
    (audio / "h-window.wav").write_bytes(encode(noisy_tone(6 * 16_000)))
    (audio / "i-few.wav").write_bytes(encode(noisy_tone(399)))

    verdict = compare(tiny, audio, window=6)

    assert verdict.is_exact
    assert Table(verdict.text).head == f"{tiny} on cpu, fp32: 6 utterances (3 left out), 11.0 s of audio"
    assert caplog.messages[0].startswith("f-broken is left out: ")
    assert caplog.messages[1:] == [
        "g-long is left out: encoded in windows: longer than 6 s",
        f"i-few is left out: too short: {audio / 'i-few.wav'}: 399 samples at 16 kHz; the model needs 400 (25 ms)",
    ]


@pytest.mark.e2e
def test_check_without_usable_audio_is_an_error(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).write_bytes(b"")

    done = e2v("check", tmp_path / "one.wav", tmp_path / "two.wav", "-m", tiny)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "e2v: none of the 2 utterances could be compared; see above for the reasons"


# -- devices, inputs and copies ----------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("device", "code", "message"),
    [
        ("tpu", 2, r"--device tpu: unknown; choose auto, cpu, cuda or cuda:0,2"),
        ("cuda:77", 1, r"--device cuda:77: PyTorch \S+ sees (no GPU|\d+ GPUs) here; use --device cpu, or a CUDA build"),
    ],
)
def test_missing_device_is_named(device: str, code: int, message: str, e2v: E2v, tiny: Path, audio: Path) -> None:
    done = e2v("check", audio, "-m", tiny, "--device", device)

    assert (done.returncode, done.stdout) == (code, "")
    assert re.fullmatch(f"e2v: {message}\n", done.stderr)


@pytest.mark.e2e
def test_missing_list_is_named(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    done = e2v("check", tmp_path / "none.scp", "-m", tiny)

    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "none.scp") in done.stderr


def test_commands_of_a_list_are_run_only_if_allowed(tiny: Path, audio: Path, tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text(f"one cat {audio / 'b-mono.wav'} |\n")

    with pytest.raises(CorpusError, match="--allow-pipes"):
        compare(tiny, tmp_path / "wav.scp")
    table = Table(compare(tiny, tmp_path / "wav.scp", pipe_seconds=60).text)
    assert_right(table, 1, files=False)
    assert (table.files, table.file_cells) == ("0 of 1 files itself", ("–", "–", "–"))


def test_each_segment_is_compared(tiny: Path, audio: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text(f"rec {audio / 'd-stereo.flac'}\n")
    (data / "segments").write_text("rec-1 rec 0.0 0.5\nrec-2 rec 0.5 1.25\n")

    table = Table(compare(tiny, data).text)
    assert table.head.endswith(": 2 utterances, 1.2 s of audio")
    assert table.files == "0 of 2 files itself"


def test_check_loads_the_copy_of_weights_that_a_run_loads(
    tiny: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has another model's weights and a valid record: the check finds the difference."""
    ours = prepare_weights(read_model("tiny", tiny))
    others = prepare_weights(read_model("other", make_model(tmp_path / "other", seed=1)))
    assert ours.copy
    assert others.copy
    content = torch.load(ours.copy, weights_only=True)
    content["state_dict"] = torch.load(others.copy, weights_only=True)["state_dict"]
    torch.save(content, ours.copy)
    monkeypatch.setattr("e2v_cli.commands.check.prepare_weights", lambda _: ours)

    verdict = compare(tiny, audio)

    assert not verdict.is_exact
    assert Table(verdict.text).end.startswith("BEYOND the tolerances; ")
