"""The table of audio formats: an entry is all that a container needs, as the README's example shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.audio_files import RATE, as_float, encode, noisy_tone
from support.corpora import read_corpus
from support.kaldi_folders import read_rows, run_e2v, write_folder

from e2v_cli.audio.decode import AudioOptions, load_waveforms
from e2v_cli.audio.decoder import Decoder
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.formats import AUDIO_FORMATS, AudioFormat, audio_suffixes, seekable_suffixes
from e2v_cli.errors import CorpusError
from e2v_cli.options import ComputeOptions, InputOptions
from e2v_cli.records import Failure, Utterance, Waveform

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "e2v_cli" / "audio" / "README.md"

HEAD = """
import re
import struct
from e2v_cli.audio.decoder import Decoder, truncated
from e2v_cli.audio.errors import AudioError
from e2v_cli.audio.formats import AUDIO_FORMATS, AudioFormat
from e2v_cli.audio.libsndfile import SndfileDecoder, open_sndfile
"""

LAST = 'AUDIO_FORMATS["mp3"] = AUDIO_FORMATS.pop("mp3")'
"""Code by which the example stands before MP3."""

TAIL = """
if __name__ == "__main__":
    from e2v_cli.__main__ import main
    main()
"""

TONE = noisy_tone(3 * RATE)
VOC = encode(TONE, "VOC")


def read_example() -> tuple[str, str]:
    """Read the README's example: the function, and the entry of the table."""
    function, entry = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    return function, entry.strip()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real command with the README's example in the table; workers import it too."""
    function, entry = read_example()
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(f'{HEAD}\n{function}\nAUDIO_FORMATS["voc"] = {entry}\n{LAST}\n{TAIL}')
    return path


def run_script(script: Path, *args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, *map(str, args)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_properties_of_containers_are_unchanged() -> None:
    """A change of one changes which files are read, or which utterances are computed together."""
    former = {*(".aif", ".aifc", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav")}
    ffmpeg = {
        *(".3g2", ".3gp", ".aac", ".ac3", ".amr", ".ape", ".asf", ".avi", ".caf", ".eac3", ".m4a", ".m4b", ".m4v")
    }
    ffmpeg |= {".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma", ".wmv", ".wv"}
    assert audio_suffixes() == former | ffmpeg | {".mp2", ".wv1", ".wv2"}
    assert audio_suffixes() - seekable_suffixes() == ffmpeg | {".mp2", ".mp3", ".oga", ".ogg", ".opus"}
    assert all(name == audio.name for name, audio in AUDIO_FORMATS.items())


def test_readme_has_the_suffixes_of_all_formats() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\.[^`|]+)` \| \w+ \|", README.read_text(), re.MULTILINE)

    assert sorted(suffix for row in rows for suffix in row.split()) == sorted(audio_suffixes())


def test_groups_of_segments_depend_on_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 64 segments each if the format is seekable; the case of the suffix makes no difference."""
    lines = [f"s{number} r {number} {number + 1}" for number in range(130)]
    folder = write_folder(tmp_path / "data", {"r": "a.VOC"}, segments=lines)

    def count_groups() -> int:
        groups = read_corpus([str(folder)]).recording_groups
        assert groups is not None
        return len(set(groups.tolist()))

    def refuse(*_: object) -> Decoder:
        raise AudioError("unreadable", "not read here")

    assert count_groups() == 1
    monkeypatch.setitem(AUDIO_FORMATS, "voc", AudioFormat("voc", (".voc",), False, bool, refuse))
    assert count_groups() == 1
    monkeypatch.setitem(AUDIO_FORMATS, "voc", AudioFormat("voc", (".voc",), True, bool, refuse))
    assert count_groups() == 3


def test_truncated_file_of_the_example_format_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any length; only the last byte holds no audio."""
    function, entry = read_example()
    code = f'{HEAD}\n{function}\nAUDIO_FORMATS["voc"] = {entry}\n{LAST}\n'
    monkeypatch.setitem(AUDIO_FORMATS, "voc", AUDIO_FORMATS["wav"])  # removed again in the end
    exec(compile(code, str(README), "exec"), {"__name__": "example"})  # noqa: S102
    options = AudioOptions(InputOptions(()), ComputeOptions(), min_samples=400)
    path = tmp_path / "a.voc"

    def load(size: int) -> Waveform | Failure:
        path.write_bytes(VOC[:size])
        (result,) = load_waveforms([Utterance(0, "utt", str(path))], options, lambda: False)
        return result

    whole = load(len(VOC))
    assert isinstance(whole, Waveform)
    np.testing.assert_array_equal(whole.whole, as_float(TONE))
    sizes = [*range(0, 120, 7), len(VOC) // 3, *range(len(VOC) - 9, len(VOC) - 1)]
    assert [size for size in sizes if isinstance(load(size), Waveform)] == []


def test_folder_of_unknown_formats_has_no_utterances(tmp_path: Path) -> None:
    (tmp_path / "whole.voc").write_bytes(VOC)

    with pytest.raises(CorpusError, match="no utterances found"):
        read_corpus([str(tmp_path)])


@pytest.mark.e2e
def test_example_format_is_read_whole_or_fails(script: Path, tmp_path: Path) -> None:
    """In worker processes; a truncated file fails as in other formats."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    (folder / "whole.voc").write_bytes(VOC)
    (folder / "loud.VOC").write_bytes(encode(TONE * 2, "VOC"))
    (folder / "cut.voc").write_bytes(VOC[: len(VOC) // 2])
    (folder / "same.wav").write_bytes(encode(TONE))

    options = ("-m", "sample", "--device", "cpu", "-j", "2")
    done = run_script(script, "predict", folder, *options, "-o", out, cwd=tmp_path)

    assert done.returncode == 3, done.stderr
    rows = read_rows((out / "predictions.tsv").read_text())
    assert set(rows) == {"whole", "loud", "same"}
    assert rows["whole"] == rows["same"]
    assert (out / "failures.tsv").read_text().splitlines()[1:] == [
        f"cut\taudio\ttruncated\t{folder}/cut.voc: the header declares 48000 samples, the file has 23989: copy it again"
    ]

    (folder / "same.wav").unlink()
    without = run_e2v("predict", folder, *options, cwd=tmp_path)
    assert without.returncode == 1
    assert "no utterances found" in without.stderr


@pytest.mark.e2e
def test_segments_of_the_example_format_match_a_wav_file(script: Path, tmp_path: Path) -> None:
    (tmp_path / "a.voc").write_bytes(VOC)
    (tmp_path / "a.wav").write_bytes(encode(TONE))
    segments = [f"{name}{number} {name} {0.5 * number} {0.5 * number + 1.2}" for name in "vw" for number in range(4)]
    data = write_folder(tmp_path / "data", {"v": tmp_path / "a.voc", "w": tmp_path / "a.wav"}, segments=segments)

    done = run_script(script, "predict", data, "-m", "sample", "--device", "cpu", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    rows = read_rows(done.stdout)
    assert len(rows) == 8
    assert [rows[f"v{number}"] for number in range(4)] == [rows[f"w{number}"] for number in range(4)]


@pytest.mark.e2e
def test_plan_reads_headers_of_the_example_format(script: Path, tmp_path: Path) -> None:
    (tmp_path / "whole.voc").write_bytes(VOC)
    (tmp_path / "cut.voc").write_bytes(VOC[: len(VOC) // 2])

    done = run_script(script, "plan", tmp_path, "-m", "sample", cwd=tmp_path)

    assert "truncated" in done.stdout, done.stderr
