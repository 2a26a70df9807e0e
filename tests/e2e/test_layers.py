"""Embeddings of other layers than the last, from options to files; the sample model has three layers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
from numpy.typing import NDArray
from support.kaldi_folders import make_speech, write_audio
from support.processes import ROOT, E2v, on_opening

from e2v_cli.analysis.reading.vectors import open_embeddings

pytestmark = pytest.mark.e2e

SCP = ROOT / "sample_data" / "wav.scp"
CLIPS = sorted((ROOT / "sample_data" / "wav").glob("f1-*"))[:4]
IDS = [path.stem for path in CLIPS]

Embeddings = dict[str, NDArray[np.float32]]

KILL = "os.killpg(0, signal.SIGKILL)"


def read_lists(out: Path) -> dict[str, Embeddings]:
    """Read the embeddings of each list of archives or files, by what its name has between its ends."""
    lists = {}
    for path in sorted(out.glob("embeddings*")):
        if path.suffix == ".scp":
            lists[path.name[10:-4]] = dict(kaldiio.load_scp(str(path)))
        elif path.suffix == ".tsv":
            pairs = (line.split("\t") for line in path.read_text().splitlines())
            lists[path.name[10:-4]] = {utt_id: np.load(place) for utt_id, place in pairs}
    return lists


def content(out: Path) -> dict[str, dict[str, bytes]]:
    return {name: {key: array.tobytes() for key, array in found.items()} for name, found in read_lists(out).items()}


def predict(out: Path, *options: str) -> tuple[str | Path, ...]:
    return ("predict", *CLIPS, "-m", "sample", "-o", out, "-j", "1", *options)


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
@pytest.mark.parametrize("form", ["npy", "ark", "ark,t"])
def test_each_choice_has_files_of_its_own(form: str, granularity: str, e2v: E2v, tmp_path: Path) -> None:
    """In any order of the list. The last layer's are those of a run without layers, and so is the table."""
    options = ("--embeddings", form, "--granularity", granularity)
    check(e2v(*predict(tmp_path / "plain", *options)))
    check(e2v(*predict(tmp_path / "out", *options, "--layers", "3, mean:1-2,1,2,mean:1-3")))

    lists, (last,) = read_lists(tmp_path / "out"), read_lists(tmp_path / "plain").values()
    assert sorted(lists) == [".layer1", ".layer2", ".layer3", ".mean1-2", ".mean1-3"]
    for utt_id in IDS:
        one, two, three = (lists[f".layer{number}"][utt_id] for number in (1, 2, 3))
        assert three.dtype == np.float32
        assert three.tobytes() == last[utt_id].tobytes()
        assert one.shape == two.shape == three.shape == ((96,) if granularity == "utterance" else (len(one), 96))
        assert np.abs(one - two).max() > 0.1
        np.testing.assert_allclose(lists[".mean1-2"][utt_id], (one + two) / 2, rtol=0, atol=1e-6)
        np.testing.assert_allclose(lists[".mean1-3"][utt_id], (one + two + three) / 3, rtol=0, atol=1e-6)
    assert all(list(found) == IDS for found in lists.values())
    for name in ("predictions.tsv", "utt2dur", "utt2num_frames"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["options"]["layers"] == "1,mean:1-2,mean:1-3,2,3"
    assert [name for name in run["files"] if name.startswith("embeddings")] == [
        f"embeddings.{name}.{'tsv' if form == 'npy' else 'scp'}"
        for name in ("layer1", "layer2", "layer3", "mean1-2", "mean1-3")
    ]
    assert json.loads((tmp_path / "plain" / "run.json").read_text())["options"]["layers"] == "last"
    if form == "npy":
        assert sorted(path.name for path in (tmp_path / "out" / "embeddings.mean1-2").iterdir()) == [
            f"{utt_id}.npy" for utt_id in IDS
        ]


@pytest.mark.parametrize("options", [(), ("--granularity", "frame"), ("--granularity", "frame", "--compress")])
def test_kaldi_reads_the_archives(options: tuple[str, ...], e2v: E2v, tmp_path: Path) -> None:
    check(e2v(*predict(tmp_path, "--embeddings", "ark", "--layers", "2,mean:1-2", *options)))

    for name, found in read_lists(tmp_path).items():
        path = f"scp:{tmp_path}/embeddings{name}.scp"
        if "frame" in options:
            with kaldi_native_io.SequentialFloatMatrixReader(path) as matrices:
                read = {key: np.array(value) for key, value in matrices}
        else:
            with kaldi_native_io.SequentialFloatVectorReader(path) as vectors:
                read = {key: np.array(value) for key, value in vectors}
        assert list(read) == list(found) == IDS
        for key, value in read.items():
            np.testing.assert_allclose(value, found[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "name", "layer"),
    [
        ("ark", "embeddings.layer2.scp", "2"),
        ("npy", "embeddings.mean1-2.tsv", "mean1-2"),
        ("npy", "embeddings.layer2", "2"),
        ("npy", "embeddings.mean1-2", "mean1-2"),
    ],
)
def test_layer_of_a_list_or_folder_is_known(form: str, name: str, layer: str, e2v: E2v, tmp_path: Path) -> None:
    check(e2v(*predict(tmp_path, "--embeddings", form, "--layers", "2,mean:1-2")))

    embeddings = open_embeddings(str(tmp_path / name))

    assert (embeddings.origin.layer, embeddings.origin.model, len(embeddings)) == (layer, "sample", 4)
    expected = read_lists(tmp_path)[f".{'' if layer.startswith('mean') else 'layer'}{layer}"][IDS[0]]
    np.testing.assert_array_equal(embeddings.read(0), expected)


def test_values_of_16_bits(e2v: E2v, tmp_path: Path) -> None:
    for dtype in ("fp16", "fp32"):
        options = ("--embeddings", "npy", "--layers", "1,2", "--embedding-dtype", dtype)
        check(e2v(*predict(tmp_path / dtype, *options)))

    half, single = read_lists(tmp_path / "fp16"), read_lists(tmp_path / "fp32")
    assert list(half) == list(single) == [".layer1", ".layer2"]
    for name, found in half.items():
        for utt_id, vector in found.items():
            assert vector.dtype == np.float16
            np.testing.assert_array_equal(vector, single[name][utt_id].astype(np.float16))


def test_windows_of_a_long_utterance_are_joined(e2v: E2v, tmp_path: Path) -> None:
    """Vectors are the means of the frames, and frames are those of a run without layers."""
    path = write_audio(tmp_path / "long.wav", make_speech(9.0))
    command = ("predict", path, "-m", "sample", "--window", "2", "--embeddings", "npy")
    check(e2v(*command, "-o", tmp_path / "frames", "--layers", "1,3,mean:1-3", "--granularity", "frame"))
    check(e2v(*command, "-o", tmp_path / "vectors", "--layers", "1,3,mean:1-3"))
    check(e2v(*command, "-o", tmp_path / "last", "--granularity", "frame"))

    frames, vectors = read_lists(tmp_path / "frames"), read_lists(tmp_path / "vectors")
    assert list(frames) == list(vectors) == [".layer1", ".layer3", ".mean1-3"]
    for name, found in frames.items():
        assert found["long"].shape == (449, 96)
        np.testing.assert_allclose(vectors[name]["long"], found["long"].mean(axis=0), rtol=0, atol=1e-5)
    assert frames[".layer3"]["long"].tobytes() == read_lists(tmp_path / "last")[""]["long"].tobytes()
    assert (tmp_path / "frames/predictions.tsv").read_text().split("\n")[1].split("\t")[4] == "6"


@pytest.mark.parametrize("form", ["npy", "ark"])
def test_killed_run_goes_on_with_the_same_bytes(form: str, e2v: E2v, tmp_path: Path) -> None:
    options = ("-m", "sample", "-j", "1", "--embeddings", form, "--layers", "1,mean:2-3", "--batch-seconds", "4")
    check(e2v("predict", SCP, "-o", tmp_path / "whole", *options))
    command = ("predict", SCP, "-o", tmp_path / "out", *options)
    for name in ("f2-0003", "m1-0004"):
        assert e2v(*command, **on_opening(tmp_path / "hook", name, KILL)).returncode == -9
    check(e2v(*command))

    whole = content(tmp_path / "whole")
    assert [len(found) for found in whole.values()] == [40, 40]
    assert content(tmp_path / "out") == whole
    assert e2v(*command).stderr.startswith(f"e2v: {tmp_path}/out is complete: nothing to do\n")


def test_shards_are_merged(e2v: E2v, tmp_path: Path) -> None:
    options = ("-m", "sample", "-j", "1", "--embeddings", "ark", "--layers", "1,mean:2-3", "--batch-seconds", "0.01")
    check(e2v("predict", SCP, "-o", tmp_path / "whole", *options))
    for index in (2, 1):
        check(e2v("predict", SCP, "-o", tmp_path / "out", *options, "--shard", f"{index}/2"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")

    for path in tmp_path.glob("out/*.scp"):
        path.unlink()
    check(e2v("merge", tmp_path / "out"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_missing_archive_is_named(e2v: E2v, tmp_path: Path) -> None:
    """Of each layer: none is published without the others."""
    command = predict(tmp_path, "--embeddings", "ark", "--layers", "1,2")
    check(e2v(*command))
    archive = tmp_path / "embeddings.layer1.1-of-1.1.ark"
    content_before = archive.read_bytes()
    for change, message in (
        (lambda: archive.write_bytes(content_before[:-4]), "ends before the embedding at byte"),
        (archive.unlink, "is missing, but the journal lists it: restore it, or use --overwrite"),
    ):
        change()
        done = e2v(*command)
        assert done.returncode == 1
        assert f"e2v: {archive} {message}" in done.stderr


def test_other_layers_are_another_run(e2v: E2v, tmp_path: Path) -> None:
    options = ("--embeddings", "npy")
    check(e2v(*predict(tmp_path, *options, "--layers", "2,1")))
    check(e2v(*predict(tmp_path, *options, "--layers", "1,2")))
    for command, other, layers in (
        ("predict", ("--layers", "1,3"), "1,3"),
        ("predict", (), "last"),
        ("plan", ("--layers", "mean:1-2"), "mean:1-2"),
    ):
        done = e2v(command, *predict(tmp_path, *options, *other)[1:])
        assert (done.returncode, done.stderr) == (
            4,
            f"e2v: {tmp_path} holds a different run: layers was 1,2, is {layers}. "
            "Choose another -o, or delete that run with --overwrite\n",
        )
    assert sorted(read_lists(tmp_path)) == [".layer1", ".layer2"]

    check(e2v(*predict(tmp_path, *options, "--layers", "mean:2-3", "--overwrite")))
    assert sorted(path.name for path in tmp_path.glob("embeddings*")) == [
        *("embeddings.mean2-3", "embeddings.mean2-3.tsv")
    ]
    check(e2v(*predict(tmp_path, *options, "--overwrite")))
    assert sorted(path.name for path in tmp_path.glob("embeddings*")) == ["embeddings", "embeddings.tsv"]


def test_changed_audio_is_computed_again(e2v: E2v, tmp_path: Path) -> None:
    scp, options = tmp_path / "wav.scp", ("-m", "sample", "-j", "1", "--embeddings", "ark", "--layers", "1,mean:2-3")
    for order in (CLIPS, [CLIPS[1], CLIPS[0], *CLIPS[2:]]):
        scp.write_text("".join(f"{utt_id} {path}\n" for utt_id, path in zip(IDS, order, strict=True)))
        check(e2v("predict", scp, "-o", tmp_path / "out", *options, "--recompute-changed"))

    check(e2v("predict", scp, "-o", tmp_path / "whole", *options))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


FRAMES = ("--granularity", "frame", "--embeddings", "ark")


def test_timeline_is_that_of_the_last_layer_and_needs_its_frames_to_change(e2v: E2v, tmp_path: Path) -> None:
    check(e2v(*predict(tmp_path / "plain", "--timeline", "0.5")))
    command = predict(tmp_path / "out", *FRAMES, "--layers", "1,3")
    check(e2v(*command, "--timeline", "0.5"))

    assert (tmp_path / "out/timeline.tsv").read_bytes() == (tmp_path / "plain/timeline.tsv").read_bytes()
    done = e2v(*command, "--timeline", "1")
    assert (done.returncode, done.stderr) == (
        4,
        f"e2v: {tmp_path}/out holds a different run: timeline was 0.5, is 1.0. A timeline is made of frames, which "
        "this run did not keep (--granularity frame --embeddings npy, or ark, in fp32 and not compressed, without "
        "--layers): choose another -o, or delete that run with --overwrite\n",
    )


WORD = "is neither a layer counted from 1, like 6, nor a mean of layers like mean:8-12"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("0", f"'0' {WORD}"),
        ("-1", f"'-1' {WORD}"),
        ("6-3", f"'6-3' {WORD}"),
        ("1-3", f"'1-3' {WORD}"),
        ("last", f"'last' {WORD}"),
        ("", f"'' {WORD}"),
        ("1,,2", f"'' {WORD}"),
        ("mean:0-2", f"'mean:0-2' {WORD}"),
        ("mean:1", f"'mean:1' {WORD}"),
        ("mean:12-8", "'mean:12-8': the first layer of a mean must be lower than its last"),
        ("1,mean:2-2", "'mean:2-2': the first layer of a mean must be lower than its last"),
        ("2,1,2", "'2,1,2' has 2 twice"),
        ("mean:1-2,mean:1-2", "'mean:1-2,mean:1-2' has mean:1-2 twice"),
    ],
)
def test_words_that_are_no_layers_are_refused(layers: str, message: str, e2v: E2v, tmp_path: Path) -> None:
    done = e2v(*predict(tmp_path / "out", "--embeddings", "ark", "--layers", layers))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"e2v: --layers: {message} (see: e2v predict --help)\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "plan"])
@pytest.mark.parametrize(("layers", "missing"), [("4", "4"), ("1,13", "13"), ("2,mean:3-4", "mean:3-4")])
def test_layers_that_the_model_lacks_are_refused(
    layers: str, missing: str, command: str, e2v: E2v, tmp_path: Path
) -> None:
    done = e2v(command, *predict(tmp_path / "out", "--embeddings", "ark", "--layers", layers)[1:])

    assert (done.returncode, done.stdout) == (2, "")
    assert f"--layers {missing}: sample has 3 layers; choose from 1 to 3\n" in done.stderr
    assert not (tmp_path / "out").exists()


def test_published_models_have_12_and_24_layers(e2v: E2v) -> None:
    for model, count in (("emotion2vec_plus_base", 12), ("emotion2vec_plus_large", 24)):
        done = e2v("plan", CLIPS[0], "-m", model, "--embeddings", "ark", "--layers", f"mean:{count}-{count + 1}")
        assert done.returncode == 2
        assert f"{model} has {count} layers; choose from 1 to {count}\n" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--layers: is of embeddings, and none are written; add -o OUT --embeddings npy, or ark"),
        (("--embeddings", "ark", "--engine", "funasr"), "upstream's engine has no --layers: leave out --engine funasr"),
    ],
)
def test_layers_without_embeddings_or_of_upstreams_engine_are_refused(
    options: tuple[str, ...], message: str, e2v: E2v, tmp_path: Path
) -> None:
    done = e2v(*predict(tmp_path / "out", "--layers", "2", *options))

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.replace("\n       ", " ")
    assert not (tmp_path / "out").exists()


def test_plan_counts_each_layer(e2v: E2v, tmp_path: Path) -> None:
    for form, one, two in (("ark", "4 utterances", ""), ("npy", "as vectors in 4 files", "as vectors in 8 files")):
        plans = [
            e2v("plan", *predict(tmp_path / "out", "--embeddings", form, "--layers", layers)[1:]).stdout
            for layers in ("1", "1,mean:1-2")
        ]
        lines = [next(line for line in plan.splitlines() if line.startswith("embeddings")) for plan in plans]
        sizes = [float(line.split()[1]) for line in lines]
        assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.1)
        if form == "npy":
            assert lines[0].endswith(one)
            assert lines[1].endswith(two)
