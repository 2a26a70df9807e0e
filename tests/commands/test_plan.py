"""The plan of a run, from lists and headers: its whole text, its failures, and sources that stay untouched."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from support.audio_files import RATE, as_float, encode, noisy_tone, with_wav_rate, with_wav_size
from support.processes import ROOT, E2v, hook
from support.run_facts import make_run_facts

from e2v_cli.cli.main import cli
from e2v_cli.results.newest_run import note_run

pytestmark = pytest.mark.e2e

WAV = encode(noisy_tone(2 * RATE))


def write(folder: Path, **lists: str) -> None:
    """Write the lists of a data directory."""
    folder.mkdir(exist_ok=True)
    for name, content in lists.items():
        (folder / name.replace("_", ".")).write_text(content)


def write_audio(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        (folder / f"{name}.wav").write_bytes(content)


def rows(text: str) -> dict[str, str]:
    """Read the facts: everything above the table of failures."""
    lines = text.partition("\nutt_id ")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.strip().partition("  ") for line in lines)}


def failures(text: str) -> list[list[str]]:
    """Read the table of failures: (reason, detail) of each."""
    table = text.partition("\nutt_id ")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell] for line in table[1:]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("E2V_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


UNKNOWN = "unknown: the newest run was not like this one; compute a part of it, then use --like OUT"
"""The time of a run of another model than that of the newest run."""


def note(folder: Path, model: str, speed: float) -> Path:
    """Make the run.json of a run with a measured speed, and note it as the newest."""
    path = folder / "run.json"
    path.write_text(json.dumps(make_run_facts(model, speed)))
    note_run(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of three recordings, of different rates and channels."""
    write_audio(tmp_path, a=WAV, b=encode(noisy_tone(44_100, 2, 44_100), rate=44_100), c=encode(noisy_tone(RATE // 2)))
    write(
        tmp_path / "data",
        wav_scp="a a.wav\nb b.wav\nc c.wav\n",
        utt2spk="a s1\nb s2\nc s1\n",
        spk2utt="s1 a c\ns2 b\n",
    )
    return tmp_path


def test_plan_prints_whole_text(data: Path, e2v: E2v) -> None:
    run_json = note(data, "emotion2vec_plus_base", 2.04)

    done = e2v("plan", "data", "-j", "2", cwd=data)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "utterances    3\n"
        "recordings    3\n"
        "speakers      2\n"
        "audio         0.00 hours (0:00:04)\n"
        "sample rates  16000 Hz: 2, 44100 Hz: 1\n"
        "channels      1: 2, 2: 1\n"
        "would fail    0\n"
        "\n"
        "model         emotion2vec_plus_base: 768 dimensions\n"
        "embeddings    none\n"
        f"time          0:00:02 at 2.0 × real time on a CPU, as in {run_json}\n"
        "\n"
        "e2v predict data -o OUT --jobs 2\n"
    )


def test_plan_suggests_the_same_resampler(data: Path, e2v: E2v) -> None:
    done = e2v("plan", "data", "-m", "sample", "--resampler", "torchaudio", cwd=data)

    assert done.stdout.endswith("\ne2v predict data -o OUT -m sample --resampler torchaudio\n")


def test_plan_with_failures_prints_whole_text(data: Path, e2v: E2v) -> None:
    write_audio(data, empty=b"", text=b"not audio at all", short=encode(noisy_tone(399)))
    write(data / "data", wav_scp="a a.wav\nz gone.wav\ny empty.wav\nx text.wav\nw short.wav\nv gone too.wav\n")

    done = e2v("plan", "data", "-m", "emotion2vec_plus_large", "--embeddings", "npy", "-j", "1", cwd=data)

    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == (
        "utterances    6\n"
        "recordings    6\n"
        "speakers      1; utterances without one: 5\n"
        "audio         0.00 hours (0:00:02)\n"
        "sample rates  16000 Hz: 1\n"
        "channels      1: 1\n"
        "would fail    5\n"
        "  missing     2\n"
        "  empty       1\n"
        "  not audio   1\n"
        "  too short   1\n"
        "too many      failures: 5; --max-failures 0 allows fewer\n"
        "\n"
        "model         emotion2vec_plus_large: 1024 dimensions\n"
        "embeddings    4.2 kB, as vectors in 1 file\n"
        f"time          {UNKNOWN}\n"
        "\n"
        "utt_id  reason     detail\n"
        "z       missing    gone.wav: no such file\n"
        "y       empty      empty.wav: 0 bytes\n"
        "x       not audio  text.wav: no known format: it begins with 'not audio at all'\n"
        "w       too short  short.wav: 399 samples at 16 kHz; the model needs 400 (25 ms)\n"
        "v       missing    gone too.wav: no such file\n"
        "\n"
        "e2v predict data -o OUT -m emotion2vec_plus_large --embeddings npy --jobs 1\n"
    )


def test_planned_failures_match_those_of_the_run(data: Path, e2v: E2v) -> None:
    """Word for word, as far as headers tell; damage after a header is not found."""
    stereo = encode(noisy_tone(RATE, 2))
    ogg = encode(noisy_tone(RATE), "OGG", "VORBIS")
    nist = encode(noisy_tone(RATE), "NIST")
    flac = encode(noisy_tone(RATE), "FLAC")
    write_audio(
        data,
        empty=b"",
        text=b"x" * 500,
        claims=with_wav_size(WAV, 10**9),
        cut=WAV[:1000],
        nist=nist[: len(nist) // 2],
        ogg=ogg[: len(ogg) // 2],
        none=encode(noisy_tone(0)),
        short=encode(noisy_tone(1102, rate=44_100), rate=44_100),
        enough=encode(noisy_tone(1103, rate=44_100), rate=44_100),
        rate=with_wav_rate(WAV, 1),
        caf=encode(noisy_tone(RATE), "CAF"),
        stereo=stereo,
        flac=flac[: len(flac) // 2],
    )
    (data / "folder").mkdir()
    names = ("empty", "text", "claims", "cut", "nist", "ogg", "none", "short", "enough", "rate", "caf", "stereo")
    lines = [f"{name} {name}.wav\n" for name in names]
    lines += [
        "gone gone.wav\n",
        "folder folder\n",
        "archive a.wav:5\n",
        "range a.wav:0[0:5]\n",
        "beyond a.wav:999999\n",
    ]
    write(data / "data", wav_scp="".join(lines))
    plan = ("plan", "data", "-m", "sample", "--channel", "2")
    predict = ("predict", "data", "-m", "sample", "--channel", "2", "-o", "out", "-q", "-j", "1")

    done, ran = e2v(*plan, cwd=data), e2v(*predict, cwd=data)

    assert (done.returncode, ran.returncode) == (3, 3)
    table = [line.split("\t") for line in (data / "out/failures.tsv").read_text().splitlines()[1:]]
    assert len(table) == 16
    assert failures(done.stdout) == [[utt_id, reason, detail] for utt_id, _, reason, detail in table[:10]]
    facts = rows(done.stdout)
    assert facts["would fail"] == "16"
    for reason in {reason for _, _, reason, _ in table}:
        assert facts[reason] == str(sum(other == reason for _, _, other, _ in table))
    write(data / "data", wav_scp="".join(reversed(lines)))
    done = e2v(*plan, cwd=data)
    by_id = {utt_id: [utt_id, reason, detail] for utt_id, _, reason, detail in table}
    assert failures(done.stdout) == [by_id[utt_id] for utt_id in reversed(list(by_id))][:10]

    write(data / "data", wav_scp="flac flac.wav\n")
    assert e2v("plan", "data", cwd=data).returncode == 0


SEGMENTS = (
    "a-1 a 0.5 1.5\nb-1 b 0.25 0.75\na-2 a 1 -1\n"
    "a-3 a 1.5 2.4\n"  # cut at the end
    "b-2 b 0.1 0.22505\n"  # ends at sample 9924.705, which is 9924
    "x-1 x 0 1\na-4 a 2 3\na-5 a 1 2.5\na-6 a 1 1\na-7 a 1 1.01\ng-1 g 0 1\ng-2 g 1 2\n"
)


def test_plan_of_segments_matches_the_run(data: Path, e2v: E2v) -> None:
    write(data / "data", segments=SEGMENTS, wav_scp="a a.wav\nb b.wav\nc c.wav\ng gone.wav\n")
    (data / "data/utt2spk").unlink()

    done = e2v("plan", "data", "-m", "sample", cwd=data)
    ran = e2v("predict", "data", "-m", "sample", "-o", "out", "-q", "-j", "1", cwd=data)
    assert ran.returncode == 3, ran.stderr

    assert done.returncode == 3
    table = [line.split("\t") for line in (data / "out/failures.tsv").read_text().splitlines()[1:]]
    assert failures(done.stdout) == [[utt_id, reason, detail] for utt_id, _, reason, detail in table]
    assert rows(done.stdout) == {
        "utterances": "12",
        "recordings": "3",
        "audio": "0.00 hours (0:00:03)",  # 1 + 0.5 + 1 + 0.5 + 0.125
        "sample rates": "16000 Hz: 1, 44100 Hz: 1",
        "channels": "1: 1, 2: 1",
        "would fail": "7",
        "beyond the end": "2",
        "missing": "2",
        "bad segment": "1",
        "no recording": "1",
        "too short": "1",
        "too many": "failures: 7; --max-failures 0 allows fewer",
        "": "",
        "model": "sample: 96 dimensions",
        "embeddings": "none",
        "time": UNKNOWN,
    }
    assert json.loads((data / "out/run.json").read_text())["audio_seconds"] == pytest.approx(3.125)
    assert (data / "out/utt2dur").read_text().splitlines()[-1] == "b-2 0.1250"


def test_the_header_of_a_recording_is_read_once(data: Path, e2v: E2v) -> None:
    (data / "sitecustomize.py").write_text(
        "import os\n"
        "from e2v_cli.audio import decode\n"
        "real = decode.open_audio\n"
        "def opened(path, *args, **kwargs):\n"
        "    os.write(2, os.fsencode(path) + b'\\n')\n"
        "    return real(path, *args, **kwargs)\n"
        "decode.open_audio = opened\n"
    )
    path = os.pathsep.join([str(data), os.environ.get("PYTHONPATH", ""), str(ROOT)])
    segments = "".join(f"u{number} {'ab'[number % 2]} 0.1 0.9\n" for number in range(400))
    write(data / "data", segments=segments)

    done = e2v("plan", "data", cwd=data, PYTHONPATH=path)

    assert (done.returncode, sorted(done.stderr.split())) == (0, ["a.wav", "b.wav"])
    assert rows(done.stdout)["audio"] == "0.09 hours (0:05:20)"


def test_plan_counts_thousands_of_segments(data: Path, e2v: E2v) -> None:
    """There are more than fit in memory at once; the numbers are the same."""
    segments = "".join(f"u{number} {'abx'[number % 3]} 0.1 0.9\n" for number in range(4500))
    write(data / "data", segments=segments)
    facts = rows(e2v("plan", "data", "-m", "sample", cwd=data).stdout)
    assert (facts["recordings"], facts["sample rates"]) == ("2", "16000 Hz: 1, 44100 Hz: 1")
    assert (facts["utterances"], facts["no recording"]) == ("4500", "1500")


def test_commands_are_not_run_and_urls_not_fetched(data: Path, e2v: E2v) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.wav"
        lines = f"a a.wav\np touch ran; cat a.wav |\nq touch ran |\nr touch ran |\nu {url}\nw {url}\n"
        write(data / "data", wav_scp=lines, utt2dur="a 99\np 3600\nq 1800.5\nu 1799.5\n")
        (data / "data/utt2spk").unlink()
        run_json = note(data, "emotion2vec_plus_base", 8.4)
        for channel in ("mix", "split"):
            done = e2v("plan", "data", "--allow-pipes", "--channel", channel, "-j", "1", cwd=data)
            assert (done.returncode, done.stderr) == (0, "")
            facts = rows(done.stdout)
            assert facts["not looked at"] == "commands: 3, URLs: 2; of unknown duration: 2"
            assert facts["audio"] == "at least 2.00 hours (2:00:02)"
            assert facts["time"] == f"at least 0:14:17 at 8.4 × real time on a CPU, as in {run_json}"
            assert facts["sample rates"] == "16000 Hz: 1"
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not (data / "ran").exists()
    assert done.stdout.endswith("-o OUT --channel split --allow-pipes --jobs 1\n")


def test_segments_of_commands_have_listed_durations(data: Path, e2v: E2v) -> None:
    segments = "p-1 p 0 1800\np-2 p 1800 -1\np-3 p 7 -1\np-4 p 5 5\n"
    write(data / "data", wav_scp="p touch ran |\n", segments=segments, utt2dur="p-2 1800\n")
    (data / "data/utt2spk").unlink()

    done = e2v("plan", "data", "--allow-pipes", cwd=data)

    facts = rows(done.stdout)
    assert facts["audio"] == "at least 1.00 hours (1:00:00)"
    assert facts["not looked at"] == "commands: 3; of unknown duration: 1"
    assert (facts["recordings"], facts["bad segment"]) == ("1", "1")
    assert (done.returncode, (data / "ran").exists()) == (3, False)


@pytest.mark.parametrize(
    "lists",
    [
        {"wav_scp": "a a.wav\nb b.wav\na c.wav\n"},
        {"wav_scp": "a a.wav\nb touch ran |\n"},
        {"wav_scp": "a\nb b.wav\n"},
        {"wav_scp": "\n"},
        {"segments": "a-1 a 0\n"},
        {"segments": "a-1 a 0 1\na-1 a 1 2\n"},
    ],
)
def test_unreadable_lists_are_refused_as_by_the_run(lists: dict[str, str], data: Path, e2v: E2v) -> None:
    write(data / "data", **lists)
    done, ran = (e2v(command, "data", "-m", "sample", cwd=data) for command in ("plan", "predict"))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", ran.stderr)
    assert done.stderr.startswith("e2v: data")
    assert not (data / "ran").exists()


def test_a_duplicate_is_named_with_both_lines(data: Path, e2v: E2v) -> None:
    write(data / "data", wav_scp="a a.wav\nb b.wav\na c.wav\n")
    done = e2v("plan", "data", cwd=data)
    message = 'e2v: data/wav.scp:3: utt-id "a" again (first on line 1)\n'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"utt2spk": "\ufeff\na\n"}, "data/utt2spk:2: a line is: utt-id speaker"),
        ({"utt2dur": "\ufeff\na long\n"}, "data/utt2dur:2: 'a long'; a line is: utt-id seconds"),
    ],
)
def test_malformed_utt2spk_and_utt2dur_are_named_by_line(
    lists: dict[str, str], message: str, data: Path, e2v: E2v
) -> None:
    write(data / "data", wav_scp="a http://127.0.0.1:9/a.wav\n", **lists)
    done = e2v("plan", "data", cwd=data)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"e2v: {message}\n")


def test_unknown_models_exit_1(data: Path, e2v: E2v) -> None:
    done = e2v("plan", "data", "-m", "emotion3vec", cwd=data)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("e2v: emotion3vec: no such folder, and no model of that name (known: sample, ")
    done = e2v("plan", "data", "-m", "data", cwd=data)
    assert (done.returncode, done.stdout) == (1, "")
    assert "data/config.yaml is missing" in done.stderr


def test_usage_errors_exit_2(data: Path, e2v: E2v) -> None:
    for args in ([], ["data", "--embeddings", "mp3"], ["data", "-m", ""], ["data", "-j", "0"]):
        done = e2v("plan", *args, cwd=data)
        assert (done.returncode, done.stdout == "") == (2, True)


def test_time_comes_from_the_newest_run_of_the_same_model(data: Path, e2v: E2v) -> None:
    for out, scp in (("first", "a a.wav\n"), ("second", "c c.wav\n")):
        (data / f"{out}.scp").write_text(scp)
        assert e2v("predict", f"{out}.scp", "-m", "sample", "-o", out, "-q", "-j", "1", cwd=data).returncode == 0

    speed = json.loads((data / "second/run.json").read_text())["speed"]
    done = e2v("plan", "data", "-m", "sample", cwd=data)
    seconds = json.loads((data / "second/run.json").read_text())["encode_seconds"]
    end = f", as in {data}/second/run.json, measured in {seconds:.1f} s only"
    assert rows(done.stdout)["time"].endswith(end)
    assert f" at {speed:.1f} × real time on " in rows(done.stdout)["time"]
    assert rows(e2v("plan", "data", cwd=data).stdout)["time"] == UNKNOWN


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
@pytest.mark.parametrize(("embeddings", "dtype"), [("npy", "fp32"), ("npy", "fp16"), ("ark", "fp32"), ("ark", "fp16")])
def test_planned_size_of_embeddings_matches_the_run(
    granularity: str, embeddings: str, dtype: str, data: Path, e2v: E2v
) -> None:
    options = ("--granularity", granularity, "--embeddings", embeddings, "--embedding-dtype", dtype, "-m", "sample")
    (data / "häßlich.wav").write_bytes(WAV)

    done = e2v("plan", "data", "häßlich.wav", *options, cwd=data, E2V_JOBS="1")
    command = done.stdout.splitlines()[-1]
    assert command.startswith("e2v predict data ")
    e2v("predict", "data", "häßlich.wav", *options, "-o", "out", "-q", "-j", "1", cwd=data)

    files = list((data / "out").glob("embeddings/*.npy" if embeddings == "npy" else "*.ark"))
    size = sum(path.stat().st_size for path in files)
    containers = "4 files" if embeddings == "npy" else "archives"
    shape = "vectors" if granularity == "utterance" else "matrices"
    assert rows(done.stdout)["embeddings"] == f"{size / 1000:.1f} kB, as {shape} in {containers}"


def test_size_of_matrices_of_unknown_length_is_a_minimum(data: Path, e2v: E2v) -> None:
    write(data / "data", wav_scp="a a.wav\nu http://127.0.0.1:9/a.wav\n")
    for granularity, least in (("frame", True), ("utterance", False)):
        done = e2v("plan", "data", "--embeddings", "ark", "--granularity", granularity, cwd=data)
        assert rows(done.stdout)["embeddings"].startswith("at least ") == least


def test_plan_counts_archives_and_channels(data: Path, e2v: E2v) -> None:
    with (data / "x.ark").open("wb") as file:
        offsets = []
        for key, content in (("a", WAV), ("b", encode(noisy_tone(RATE, 2)))):
            file.write(f"{key} ".encode())
            offsets.append(file.tell())
            file.write(content)
        file.write(b"m ")
        offsets.append(file.tell())
        kaldiio.matio.write_array(file, as_float(noisy_tone(RATE)).astype(np.float32))
    write(data / "data", wav_scp="".join(f"{key} x.ark:{at}\n" for key, at in zip("abm", offsets, strict=True)))
    (data / "data/utt2spk").unlink()

    facts = rows(e2v("plan", "data", cwd=data).stdout)
    assert (facts["audio"], facts["channels"]) == ("0.00 hours (0:00:04)", "1: 2, 2: 1")
    done = e2v("plan", "data", "--channel", "split", cwd=data)
    facts = rows(done.stdout)
    assert (facts["utterances"], facts["recordings"], facts["audio"]) == ("4", "3", "0.00 hours (0:00:05)")
    facts = rows(e2v("plan", "data", "--channel", "B", cwd=data).stdout)
    assert (facts["would fail"], facts["no such channel"]) == ("2", "2")


def test_duplicate_id_after_channel_split_is_named(data: Path, e2v: E2v) -> None:
    write(data / "data", wav_scp="b b.wav\nb-2 a.wav\n")
    done = e2v("plan", "data", "--channel", "split", cwd=data)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'utt-id "b-2" again' in done.stderr


def test_plan_takes_standard_input_and_paths_of_any_bytes(data: Path, e2v: E2v) -> None:
    done = e2v("plan", "-", "-m", "sample", cwd=data, stdin="a a.wav\nü gone 'ß.wav\n", PYTHONIOENCODING="ascii")
    assert done.returncode == 3
    assert failures(done.stdout) == [["ü", "missing", "gone 'ß.wav: no such file"]]
    assert done.stdout.endswith("\ne2v predict - -o OUT -m sample\n")

    for name in ("a b.wav", os.fsdecode(b"\xff.wav")):
        shutil.copy(data / "a.wav", data / name)
    command = [sys.executable, "-m", "e2v_cli", "plan", "a b.wav", os.fsdecode(b"\xff.wav"), "-m", "sample"]
    raw = subprocess.run(
        command, cwd=data, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert raw.returncode == 0
    assert raw.stdout.endswith(b"\ne2v predict 'a b.wav' '\xff.wav' -o OUT -m sample\n")


def test_plan_takes_all_options_of_predict() -> None:
    """With the same meaning, but for -o: without it, nothing would be printed."""
    predict, plan = (
        {param.name: param.to_info_dict() for param in cli.commands[name].params} for name in ("predict", "plan")
    )
    assert plan.keys() - predict.keys() == {"like"}
    assert {name for name, facts in predict.items() if facts != plan[name]} == {"output_dir"}


COMMANDS = [
    "data -o out -m sample --embeddings npy -j 3 --shard 2/3 --labels zh -v",
    "data -o out -m sample --timeline 0.5 --timeline-format rttm --join --window 30 --precision fp32 --device cpu",
    "data -o out --hub hf --revision v2 --offline --engine funasr --retry-failed --keep-changed --mix-devices",
    "data -o out -m sample --overwrite --max-failures 1% --no-progress -q --batch-seconds 5",
    "data -o out --granularity frame --embeddings ark --compress --embedding-dtype fp16 --channel 2 --jobs 1",
    "data -o out -m sample --segments-rttm calls.rttm --channel 1",
    "data -o out --allow-pipes --pipe-timeout 5 --max-source-bytes 5000000 --recompute-changed --hidden --id name",
    "data -o out -m sample --classes sad,hap,angry --merge surprised=happy --merge fear=angry",
    "data --format csv --columns utt_id,label --no-header -m sample --timeline 1 --shard 1/2",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_word_plan_in_place_of_predict_gives_the_estimate(line: str, data: Path, e2v: E2v) -> None:
    """The command that it prints has the same options."""
    (data / "calls.rttm").write_text("SPEAKER a 1 0 1 <NA> <NA> s1 <NA> <NA>\n")
    done = e2v("plan", *line.split(), cwd=data)

    assert (done.returncode, done.stderr) == (0 if "--channel 2" not in line else 3, "")
    command = done.stdout.splitlines()[-1].split()
    given, printed = (
        cli.commands["predict"].make_context("e2v", words).params for words in (line.split(), command[2:])
    )
    assert printed == given
    assert not (data / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--window 0.5", "--window 0.5: must be at least 1 s"),
        ("--compress", "--compress is for matrices in archives: add --granularity frame --embeddings ark"),
        (
            "--format csv",
            "--format is for rows on standard output: leave it out, and then run e2v rows out --format csv",
        ),
        ("-q -v", "--quiet and --verbose exclude each other (see: e2v plan --help)"),
        ("--shard 4/3", "--shard: '4/3' is not a part and a number of parts like 2/3, counted"),
    ],
)
def test_plan_refuses_what_predict_refuses(words: str, message: str, data: Path, e2v: E2v) -> None:
    done, ran = (e2v(command, "data", "-o", "out", *words.split(), cwd=data) for command in ("plan", "predict"))

    assert (done.returncode, done.stdout) == (ran.returncode, "") == (2, "")
    assert done.stderr.startswith(f"e2v: {message}")
    assert done.stderr.replace("e2v plan", "e2v predict") == ran.stderr


def test_plan_of_a_resumed_run_counts_remaining_utterances(data: Path, e2v: E2v) -> None:
    write(data / "data", wav_scp="a a.wav\ng gone.wav\n", utt2spk="a s1\ng s1\nb s2\nc s3\n")
    run = ("data", "-o", "out", "-m", "sample", "-j", "1")
    assert e2v("predict", *run, "-q", cwd=data).returncode == 3
    (data / "cache/newest-run").unlink()
    write(data / "data", wav_scp="a a.wav\ng gone.wav\nb b.wav\nc c.wav\n")

    done = e2v("plan", *run, "--max-failures", "25%", cwd=data)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "utterances     4\n"
        "done before    1\n"
        "failed before  1\n"
        "left           2\n"
        "recordings     2\n"
        "speakers       2\n"
        "audio          0.00 hours (0:00:02)\n"
        "sample rates   16000 Hz: 1, 44100 Hz: 1\n"
        "channels       1: 1, 2: 1\n"
        "would fail     0\n"
        "\n"
        "model          sample: 96 dimensions\n"
        "embeddings     none\n"
        f"time           {UNKNOWN}\n"
        "\n"
        "e2v predict data -o out -m sample --max-failures 25% --jobs 1\n"
    )
    strict = e2v("plan", *run, cwd=data)
    assert (strict.returncode, rows(strict.stdout)["too many"]) == (3, "failures: 1; --max-failures 0 allows fewer")
    again = e2v("plan", *run, "--retry-failed", cwd=data)
    assert (rows(again.stdout)["left"], rows(again.stdout)["missing"]) == ("3", "1")
    anew = e2v("plan", *run, "--overwrite", cwd=data)
    assert rows(anew.stdout).keys().isdisjoint({"left", "done before", "failed before"})
    corpus = [e2v(word, "data", "-o", "data", "-m", "sample", "--overwrite", cwd=data) for word in ("plan", "predict")]
    assert [(done.returncode, done.stderr) for done in corpus] == [(4, corpus[0].stderr)] * 2
    other = e2v("plan", *run, "--window", "30", cwd=data)
    refused = e2v("predict", *run, "--window", "30", cwd=data)
    assert (other.returncode, other.stdout, other.stderr) == (4, "", refused.stderr)


def test_plan_of_a_shard_matches_the_run(data: Path, e2v: E2v) -> None:
    lines = [f"u{number:02d} {'abx'[number % 3]}.wav\n" for number in range(40)]
    write(data / "data", wav_scp="".join(lines))
    (data / "data/utt2spk").unlink()
    total = failed = 0
    for shard in ("1/3", "2/3", "3/3"):
        done = e2v("plan", "data", "-o", "out", "-m", "sample", "--shard", shard, cwd=data)
        ran = e2v("predict", "data", "-o", "out", "-m", "sample", "--shard", shard, "-j", "1", cwd=data)
        facts = rows(done.stdout)
        assert (done.returncode, facts["utterances"]) == (ran.returncode, "40")
        summary = ran.stderr.partition(" utterances: ")
        assert summary[0].endswith(facts[f"shard {shard}"])
        assert f", {facts['would fail']} failed\n" in summary[2]
        total, failed = total + int(facts[f"shard {shard}"]), failed + int(facts["would fail"])
    assert (total, failed) == (40, 13)
    task = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"}
    job = e2v("plan", "data", "-m", "sample", cwd=data, **task, SLURM_ARRAY_TASK_MAX="3")
    assert job.stdout.endswith("\ne2v predict data -o OUT -m sample --shard 2/3\n")


def test_plan_counts_windows_and_spans_as_the_run_does(data: Path, e2v: E2v) -> None:
    write_audio(data, long=encode(noisy_tone(7 * RATE)), odd=encode(noisy_tone(2 * RATE + 1234)))
    write(data / "data", wav_scp="a a.wav\nl long.wav\no odd.wav\nc c.wav\n")
    options = ("-o", "out", "-m", "sample", "--window", "3", "--timeline", "0.3", "--timeline", "2")

    done = e2v("plan", "data", *options, cwd=data)
    assert e2v("predict", "data", *options, "-j", "1", "-q", cwd=data).returncode == 0

    windows = {
        row.split("\t")[0]: row.split("\t")[4] for row in (data / "out/predictions.tsv").read_text().splitlines()
    }
    assert windows["a"] == windows["o"] == "1"
    assert rows(done.stdout)["windows"] == f"{windows['l']}; utterances longer than 3 s: 1"
    tables = [path.read_bytes().splitlines(keepends=True)[1:] for path in (data / "out").glob("timeline*.tsv")]
    table = [row for rows in tables for row in rows]
    spans, _, about = rows(done.stdout)["timeline"].partition(" spans, about ")
    assert int(spans) == len(table)
    assert float(about.split()[0]) * 1000 == pytest.approx(sum(map(len, table)), rel=0.1)


def test_plan_of_other_timelines_takes_frames_from_disk(data: Path, e2v: E2v) -> None:
    frames = ("data", "-o", "out", "-m", "sample", "--granularity", "frame", "--embeddings", "npy", "--timeline", "1")
    assert e2v("predict", *frames, "-j", "1", "-q", cwd=data).returncode == 0
    (data / "d.wav").write_bytes(WAV)
    write(data / "data", wav_scp="a a.wav\nb b.wav\nc c.wav\nd d.wav\n")

    done = e2v("plan", *frames[:-1], "0.5", cwd=data)

    facts = rows(done.stdout)
    assert (facts["utterances"], facts["new timelines"], facts["left"]) == ("4", "3, of frames on disk", "1")
    assert facts.keys().isdisjoint({"done before", "failed before", "too many"})
    assert facts["audio"] == "0.00 hours (0:00:02)"


def test_planned_size_of_compressed_matrices_matches_the_run(data: Path, e2v: E2v) -> None:
    options = ("-o", "out", "-m", "sample", "--granularity", "frame", "--embeddings", "ark", "--compress")
    done = e2v("plan", "data", *options, cwd=data)
    assert e2v("predict", "data", *options, "-j", "1", "-q", cwd=data).returncode == 0
    size = sum(path.stat().st_size for path in (data / "out").glob("*.ark"))
    assert rows(done.stdout)["embeddings"] == f"{size / 1000:.1f} kB, as matrices in archives"


def test_time_may_be_that_of_another_machine(data: Path, e2v: E2v) -> None:
    """Here a run on 8 nodes: a shard is as fast as one of them."""
    (data / "gpu").mkdir()
    facts = make_run_facts("emotion2vec_plus_large", 16_000, num_shards=8, gpus=["NVIDIA H200"])
    (data / "gpu/run.json").write_text(json.dumps(facts))
    lines = [f"u{number} http://127.0.0.1:9/{number}.wav\n" for number in range(20)]
    write(data / "data", wav_scp="".join(lines), utt2dur="".join(f"u{number} 360000\n" for number in range(20)))
    (data / "data/utt2spk").unlink()
    words = ("plan", "data", "-m", "emotion2vec_plus_large")

    done = e2v(*words, "--like", "gpu/run.json", cwd=data)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "utterances     20\n"
        "recordings     20\n"
        "audio          2000.00 hours (2000:00:00)\n"
        "not looked at  URLs: 20; of unknown duration: 0\n"
        "would fail     0\n"
        "\n"
        "model          emotion2vec_plus_large: 1024 dimensions\n"
        "windows        128620; utterances longer than 60 s: 20\n"
        "embeddings     none\n"
        "time           1:00:00 at 2000.0 × real time on NVIDIA H200, as in gpu/run.json\n"
        "  4 shards     0:15:00, each at that speed\n"
        "  16 shards    0:03:45, each at that speed\n"
        "\n"
        "e2v predict data -o OUT -m emotion2vec_plus_large\n"
    )
    assert (
        e2v(*words, "--like", "gpu", "--device", "cuda", cwd=data).stdout.replace(" --device cuda", "") == done.stdout
    )
    part = rows(e2v(*words, cwd=data, E2V_LIKE="gpu", E2V_SHARD="1/4").stdout)
    assert (part["time"].split(" at ")[0], part.keys() & {"4 shards"}) == ("0:15:00", set())


@pytest.mark.parametrize(
    ("like", "words", "message"),
    [
        ("gone.json", "", "--like: Path 'gone.json' does not exist (see: e2v plan --help)"),
        ("data", "", "--like data/run.json: no speed can be read from it; choose the run.json of a complete run"),
        ("run.json", "-m sample", "--like run.json: its model is emotion2vec_plus_base, not sample; choose a run with"),
        (
            "run.json",
            "--device cuda",
            "--like run.json: its device is cpu, not cuda; choose a run with the same options",
        ),
    ],
)
def test_run_of_other_options_has_no_speed_for_this_one(
    like: str, words: str, message: str, data: Path, e2v: E2v
) -> None:
    note(data, "emotion2vec_plus_base", 8.4)
    done = e2v("plan", "data", "--like", like, *words.split(), cwd=data)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"e2v: {message}")


def test_closed_pipe_ends_plan_quietly(data: Path) -> None:
    script = f'"{sys.executable}" -m e2v_cli plan data | true; exit ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=data, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_no_slow_module_is_imported(data: Path, real_e2v: E2v) -> None:
    at_exit = hook(data / "hook", "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))")
    done = real_e2v("plan", "data", "-m", "sample", cwd=data, **at_exit)
    assert done.returncode == 0
    imported = set(done.stderr.split())
    assert "e2v_cli.commands.plan" in imported
    assert imported.isdisjoint({"torch", "funasr", "modelscope", "huggingface_hub", "requests", "tqdm"})


def test_help_has_examples(real_e2v: E2v) -> None:
    done = real_e2v("plan", "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "  Examples:\n    e2v plan data/train\n" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "numpy", "soundfile", "e2v_cli.commands.plan"})
