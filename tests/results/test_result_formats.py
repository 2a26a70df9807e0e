"""The tables of formats; and the examples of the wing's README, run end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.corpora import CLIPS
from support.forkserver import shared_server
from support.predictions import make_predictions
from support.processes import ROOT

from e2v_cli.options import ResultOptions, Shard
from e2v_cli.records import Place
from e2v_cli.results.formats import (
    EMBEDDING_FORMATS,
    STEM,
    TIMELINE_FORMATS,
    data_patterns,
    result_names,
    timeline_paths,
    timeline_suffixes,
)

WING = ROOT / "e2v_cli/results"

IMPORTS = """
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from e2v_cli.__main__ import main
from e2v_cli.options import EmbeddingDtype, ResultOptions, Shard
from e2v_cli.records import Place, Prediction
from e2v_cli.results.embeddings import GrowingFile
from e2v_cli.results.formats import EMBEDDING_FORMATS, TIMELINE_FORMATS, EmbeddingFormat, TimelineFormat
from e2v_cli.results.spans import Track
from e2v_cli.system.spool import whole

"""


def test_formats_have_their_names_in_the_tables() -> None:
    assert list(EMBEDDING_FORMATS) == [form.name for form in EMBEDDING_FORMATS.values()] == ["npy", "ark", "ark,t"]
    assert (
        list(TIMELINE_FORMATS) == [form.name for form in TIMELINE_FORMATS.values()] == ["rttm", "audacity", "textgrid"]
    )


def test_names_of_result_and_data_files() -> None:
    assert result_names() == (
        *("predictions.tsv", "failures.tsv", "run.json", "utt2dur", "utt2num_frames", "frame_shift"),
        *("embeddings.tsv", "embeddings.scp", "utt2emo", "timeline.tsv", "timeline.rttm"),
    )
    assert data_patterns() == (
        *("embeddings/*.npy", "embeddings.*-of-*.*.ark"),
        *("embeddings.layer[0-9]*/*.npy", "embeddings.mean[0-9]*-[0-9]*/*.npy"),
        *("embeddings.layer[0-9]*.tsv", "embeddings.mean[0-9]*-[0-9]*.tsv"),
        *("embeddings.layer[0-9]*.*-of-*.*.ark", "embeddings.mean[0-9]*-[0-9]*.*-of-*.*.ark"),
        *("embeddings.layer[0-9]*.scp", "embeddings.mean[0-9]*-[0-9]*.scp"),
        *("timeline.*-of-*.*", ".windows.*"),
        *("audacity/*.txt", "textgrid/*.TextGrid"),
        *("timeline-[0-9]*.tsv", "timeline-[0-9]*.rttm", "audacity-[0-9]*/*.txt", "textgrid-[0-9]*/*.TextGrid"),
    )


def test_files_of_timelines() -> None:
    assert timeline_suffixes(()) == ()
    assert timeline_paths((), ("rttm",)) == set()
    assert timeline_paths((60.0,), ("rttm", "a format of a script")) == {"timeline.tsv", "timeline.rttm"}
    assert timeline_paths((0.5, 60.0), ("textgrid",)) == {
        *("timeline-0.5.tsv", "textgrid-0.5/*.TextGrid", "timeline-60.tsv", "textgrid-60/*.TextGrid")
    }


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(8,), (49, 96)])
@pytest.mark.parametrize("name", EMBEDDING_FORMATS)
def test_predicted_sizes_equal_file_sizes(name: str, shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    """Sizes of text are upper bounds, since not all numbers have a sign."""
    form = EMBEDDING_FORMATS[name]
    results = ResultOptions(tmp_path, embeddings=name, dtype="fp16" if dtype == "fp16" else "fp32")

    form.open(tmp_path, results, Shard(1, 1), STEM).write(make_predictions(["ü%20b"], shape))

    rows, columns = (None, *shape) if len(shape) == 1 else shape
    expected = form.num_bytes(len("ü%20b".encode()), rows, columns or 0, results)
    (path,) = (path for path in tmp_path.glob(form.files))
    size = path.stat().st_size
    assert size <= expected <= size * 1.1 if name == "ark,t" else size == expected


@pytest.mark.parametrize("rows", [1, 8, 9, 49])
def test_predicted_sizes_of_compressed_matrices_equal_file_sizes(rows: int, tmp_path: Path) -> None:
    results = ResultOptions(tmp_path, granularity="frame", embeddings="ark", compress=True)
    form = EMBEDDING_FORMATS["ark"]

    form.open(tmp_path, results, Shard(1, 1), STEM).write(make_predictions(["a"], (rows, 96)))

    (path,) = tmp_path.glob(form.files)
    assert path.stat().st_size == form.num_bytes(1, rows, 96, results)


def test_format_tables_import_no_heavy_packages() -> None:
    program = "import sys, e2v_cli.results.formats; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert not {"numpy", "torch", "kaldiio", "soundfile"} & set(loaded.stdout.split())


def test_readme_names_every_file() -> None:
    named = re.findall(r"^\| `(\w+\.py)` \|", (WING / "README.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(named) == sorted(path.name for path in WING.glob("*.py") if path.name != "__init__.py")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script of the examples in the README that runs e2v with their formats."""
    blocks = re.findall(r"```python\n(.*?)```", (WING / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    end, *examples = blocks
    assert len(examples) == 2
    path = tmp_path_factory.mktemp("script") / "e2v_with_toys.py"
    path.write_text(IMPORTS + "\n\n".join([*examples, end]), encoding="utf-8")
    return path


def run(script: Path, *args: str | Path, real: bool = False) -> str:
    """Run the script as a command, in a fork or in a process of its own, and return its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = list(map(str, args))
    if real:
        command = [sys.executable, str(script), *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    else:
        done = shared_server().run(words, ROOT, b"", environment, script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def predict(script: Path, out: Path, *args: str, real: bool = False) -> None:
    run(script, "predict", *CLIPS, "-m", "sample", "-j", "2", "-q", "-o", out, *args, real=real)


@pytest.mark.e2e
@pytest.mark.parametrize("granularity", ["utterance", "frame"])
def test_new_embedding_format_end_to_end(granularity: str, script: Path, tmp_path: Path) -> None:
    """Written by two workers, which import the script when they are spawned, listed, resumed, checked, removed."""
    out, reference = tmp_path / "out", tmp_path / "reference"
    predict(script, out, "--granularity", granularity, "--embeddings", "csv", real=granularity == "utterance")
    predict(script, reference, "--granularity", granularity, "--embeddings", "npy")

    places = [line.split("\t") for line in (out / "embeddings.csv.tsv").read_text().splitlines()]
    expected = dict(line.split("\t") for line in (reference / "embeddings.tsv").read_text().splitlines())
    assert [utt_id for utt_id, _ in places] == list(expected)
    assert len({path.partition(":")[0] for _, path in places}) <= 2  # a worker may have done all
    for utt_id, text in places:
        place = Place.parse(text)
        assert place.offset is not None
        assert place.size is not None
        content = Path(place.file).read_bytes()[place.offset : place.offset + place.size]
        values = np.array(content.split(b","), np.float32)
        np.testing.assert_allclose(values, np.load(expected[utt_id]).ravel(), rtol=1e-6)
    assert (out / "predictions.tsv").read_bytes() == (reference / "predictions.tsv").read_bytes()
    assert json.loads((out / "run.json").read_text())["options"]["embeddings"] == "csv"

    before = (out / "embeddings.csv.tsv").stat().st_ino
    predict(script, out, "--granularity", granularity, "--embeddings", "csv")
    assert (out / "embeddings.csv.tsv").stat().st_ino == before

    first = min(out.glob("embeddings.*.csv"))
    with first.open("r+b") as file:
        file.truncate(first.stat().st_size - 1)
    with pytest.raises(AssertionError, match=f"{first} is missing, or ends before byte"):
        predict(script, out, "--granularity", granularity, "--embeddings", "csv")

    predict(script, out, "--overwrite")
    assert list(out.glob("embeddings*")) == []


@pytest.mark.e2e
def test_new_embedding_format_is_planned(script: Path) -> None:
    planned = run(script, "plan", "sample_data/wav/f1-0001.wav", "-m", "sample", "--embeddings", "csv")

    assert re.search(r"^embeddings +1\.3 kB, as vectors in archives$", planned, re.MULTILINE), planned  # 96 × 14 bytes


@pytest.mark.e2e
def test_new_timeline_format_end_to_end(script: Path, tmp_path: Path) -> None:
    """Publishing writes its files, and publishing without the format removes them."""
    predict(script, tmp_path, "--timeline", "1", "--timeline-format", "srt", "--timeline-format", "rttm")

    rows = [line.split("\t") for line in (tmp_path / "timeline.tsv").read_text().splitlines()[1:]]
    files = {path.stem: path.read_text().split("\n\n")[:-1] for path in (tmp_path / "srt").iterdir()}
    assert files.keys() == {row[0] for row in rows}
    for utt_id, subtitles in files.items():
        own = [row for row in rows if row[0] == utt_id]
        assert [text.split("\n")[2] for text in subtitles] == [row[3] for row in own]
        assert subtitles[0].startswith("1\n00:00:00,000 --> 00:00:01,000\n")
    assert (tmp_path / "timeline.rttm").exists()

    predict(script, tmp_path, "--timeline", "1", "--timeline-format", "rttm")
    assert not (tmp_path / "srt").exists()
    assert (tmp_path / "timeline.rttm").exists()
