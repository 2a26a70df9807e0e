"""Embeddings and labels → examples: every kind of EMBEDDINGS, what is left out, and what is refused."""

from __future__ import annotations

import gzip
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.embedded import EMOTIONS, Made, make_corpus, make_embedded_run, means_of, write_arrays, write_reference
from support.labelled import write_map

from e2v_cli.analysis.probe.examples import Examples, find_examples
from e2v_cli.analysis.probe.options import LabelOptions
from e2v_cli.errors import CorpusError
from e2v_cli.options import Fingerprint

MADE = make_corpus()
MEANS = means_of(MADE)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_reference(tmp_path / "data", MADE)


def read(embeddings: Path, reference: Path, options: LabelOptions | None = None) -> Examples:
    return find_examples(str(embeddings), str(reference), options or LabelOptions())


def refusal(embeddings: Path, reference: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        read(embeddings, reference)
    return str(caught.value)


def run_of_vectors(path: Path) -> Path:
    return make_embedded_run(path, MADE)


def run_of_frames(path: Path) -> Path:
    return make_embedded_run(path, MADE, options={"granularity": "frame"})


def run_of_text(path: Path) -> Path:
    return make_embedded_run(path, MADE, form="ark,t")


def run_of_arrays(path: Path) -> Path:
    return make_embedded_run(path, MADE, form="npy")


def list_of_run(path: Path) -> Path:
    return make_embedded_run(path, MADE) / "embeddings.scp"


def arrays_of_run(path: Path) -> Path:
    return make_embedded_run(path, MADE, form="npy") / "embeddings"


def foreign_list(path: Path) -> Path:
    """A shuffled list whose run is gone, and a line more."""
    scp = make_embedded_run(path, MADE) / "embeddings.scp"
    lines = scp.read_text().splitlines(keepends=True)
    (path.parent / "other.scp").write_text("".join([lines[-1], "\n", *lines[:-1]]))
    for journal in path.glob("journal*"):
        journal.unlink()
    return path.parent / "other.scp"


def foreign_arrays(path: Path) -> Path:
    return write_arrays(path, MEANS)


FORMS = [
    run_of_vectors,
    run_of_frames,
    run_of_text,
    run_of_arrays,
    list_of_run,
    arrays_of_run,
    foreign_list,
    foreign_arrays,
]


@pytest.mark.parametrize("make", FORMS)
def test_all_forms_give_the_same_examples(make: Callable[[Path], Path], tmp_path: Path, reference: Path) -> None:
    found = read(make(tmp_path / "out"), reference)

    assert found.ids == tuple(sorted(MADE.ids))
    assert found.vectors.dtype == np.float32
    assert found.vectors == pytest.approx(np.stack([MEANS[utt_id] for utt_id in found.ids]), abs=1e-6)
    assert found.classes == EMOTIONS
    names = dict(zip(MADE.ids, zip(MADE.labels, MADE.speakers, strict=True), strict=True))
    assert [
        (found.classes[label], found.speaker_names[speaker])
        for label, speaker in zip(found.labels, found.speakers, strict=True)
    ] == [names[utt_id] for utt_id in found.ids]
    assert found.is_frames == (make is run_of_frames)
    frames = MADE.frames[MADE.ids.index(found.ids[3])]
    expected = frames if found.is_frames else frames.mean(axis=0, keepdims=True)
    assert found.read_frames(3) == pytest.approx(expected, abs=1e-6)


def test_origin_is_that_of_the_run(tmp_path: Path, reference: Path) -> None:
    out = run_of_vectors(tmp_path / "out")
    shutil.copy(out / "embeddings.scp", out / "embeddings.layer6.scp")

    for name, layer in ((out, None), (out / "embeddings.scp", None), (out / "embeddings.layer6.scp", "6")):
        found = read(name, reference)
        origin = found.origin
        assert (origin.name, origin.output_dir, origin.layer) == (str(name), out, layer)
        assert (origin.model, origin.model_sha256, origin.engine) == ("./modèle", "abc", "e2v")
        assert (origin.precision, origin.window, origin.products) == ("fp32", 60.0, "unknown")
        assert (origin.granularity, origin.dtype) == ("utterance", "fp32")
        assert found.notes == ()


def test_other_precision_and_window_are_reported(tmp_path: Path, reference: Path) -> None:
    other: Fingerprint = {"precision": "bf16", "window": 20.0, "embedding-dtype": "fp16"}
    out = make_embedded_run(tmp_path / "out", MADE, options=other)

    assert read(out, reference).notes == (
        f"{out}: computed with --precision bf16, --window 20, --embedding-dtype fp16: a probe fits only embeddings "
        "that are computed so",
    )


def test_utterances_that_are_not_examples_are_counted(tmp_path: Path, reference: Path) -> None:
    arrays = write_arrays(tmp_path / "npy", {**MEANS, "stray": MEANS[MADE.ids[0]]})
    for utt_id in MADE.ids[:3]:
        (arrays / f"{utt_id}.npy").unlink()
    (tmp_path / "map").write_text("sad -\n")

    found = read(arrays, reference, LabelOptions(map=tmp_path / "map", classes=("angry", "happy", "fear")))

    assert found.classes == ("angry", "happy")
    assert len(found) == 78
    assert found.notes == (
        f"{arrays}: which model computed them is not known: there is no run beside them",
        f"2 of the 80 utterances of {reference} have no embedding",
        "80 of the 158 embeddings have no label that counts",
        f"left out of {reference}: sad 40, neutral 40",
    )


def test_ids_may_have_suffixes_and_percent_signs(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    arrays = write_arrays(tmp_path / "npy", {"a%2Fx": vectors[0], "b": vectors[1], "c": vectors[2]})
    labels = write_map(tmp_path / "labels", "sad angry sad", ["a/x.wav", "b.wav", "c.wav"])

    found = read(arrays, labels)

    assert found.ids == ("a/x", "b", "c")
    assert not found.knows_speakers
    assert found.speaker_names == found.ids
    assert found.notes[-1] == (
        f"{labels}: speakers are not known (no utt2spk): each utterance counts as one of its own"
    )


def test_a_table_has_speakers(tmp_path: Path) -> None:
    arrays = write_arrays(tmp_path / "npy", {name: np.ones(2, dtype=np.float32) for name in "abc"})
    table = tmp_path / "t.csv"
    table.write_text("FileName,EmoClass,SpkrID\na.wav,x,1\nb.wav,y,2\nc.wav,x,1\n")
    (tmp_path / "map").write_text("x angry\ny sad\n")

    found = read(arrays, table, LabelOptions(map=tmp_path / "map"))

    assert (found.classes, found.labels.tolist()) == (("angry", "sad"), [0, 1, 0])
    assert (found.speaker_names, found.speakers.tolist()) == (("1", "2"), [0, 1, 0])


def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path, reference: Path) -> None:
    arrays = write_arrays(tmp_path / "npy", MEANS)
    for utt_id, value in zip(MADE.ids, (np.nan, np.inf, -np.inf, np.nan), strict=False):
        np.save(arrays / f"{utt_id}.npy", np.full(12, value, dtype=np.float32))

    assert refusal(arrays, reference) == (
        f"{arrays}: NaN or infinite numbers in the embeddings of Ses01F_000, Ses01F_001, Ses01F_002 and 1 others; "
        "compute them again, or leave them out"
    )


@pytest.mark.parametrize(
    ("shape", "described"), [((7,), "7"), ((4, 12), "frames × 12"), ((2, 7), "frames × 7")]
)  # fmt: skip
def test_other_sizes_are_refused_by_name(
    shape: tuple[int, ...], described: str, tmp_path: Path, reference: Path
) -> None:
    arrays = write_arrays(tmp_path / "npy", {**MEANS, MADE.ids[5]: np.ones(shape, dtype=np.float32)})

    assert refusal(arrays, reference) == (
        f"{arrays}: embeddings of different sizes: that of Ses01F_000 has 12, that of Ses01F_005 has {described} "
        "numbers; are they of one model?"
    )


def test_pickles_are_never_run(tmp_path: Path, reference: Path) -> None:
    arrays = write_arrays(tmp_path / "npy", MEANS)
    np.save(arrays / f"{MADE.ids[0]}.npy", np.array([print], dtype=object), allow_pickle=True)
    archive = tmp_path / "evil.ark"
    archive.write_bytes(f"{MADE.ids[0]} PKL".encode() + pickle.dumps(print))
    listed = tmp_path / "evil.scp"
    listed.write_text(f"{MADE.ids[0]} {archive}:{len(MADE.ids[0]) + 1}\n")

    assert "Python objects in dtype" in refusal(arrays, reference)
    assert "neither a vector nor a matrix; compute it again" in refusal(listed, reference)


def test_embeddings_that_are_gone_are_named(tmp_path: Path, reference: Path) -> None:
    scp = run_of_vectors(tmp_path / "out") / "embeddings.scp"
    scp.write_text(scp.read_text().replace(".ark:", ".gone.ark:", 1))
    path = scp.read_text().split()[1].rpartition(":")[0]

    assert refusal(scp, reference) == (
        f"{scp}: the embedding of Ses01F_000 can't be read from {path}:11: No such file or directory; compute it again"
    )


def test_other_inputs_are_refused(tmp_path: Path, reference: Path) -> None:
    forms = "EMBEDDINGS is an OUT of e2v predict with --embeddings ark or npy, an embeddings.scp, or a folder of .npy"
    unfinished = make_embedded_run(tmp_path / "unfinished", MADE, left=MADE.ids[:2])
    plain = make_embedded_run(tmp_path / "plain", MADE, options={"embeddings": "none"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.scp").touch()
    (tmp_path / "bad.scp").write_text("a x.ark:3\nb x.ark\n")
    (tmp_path / "twice.scp").write_text(f"{MADE.ids[0]} x.ark:3\nb x.npy\n{MADE.ids[0]}.wav y.ark:4\n")
    (tmp_path / "zip.scp").write_bytes(gzip.compress(b"a x.ark:3\n"))
    others = write_arrays(tmp_path / "others", {f"iemocap-{utt_id}": MEANS[utt_id] for utt_id in MADE.ids})

    assert refusal(unfinished, reference) == (
        f"{unfinished} is not complete: see e2v status {unfinished}, and run the same command again"
    )
    assert refusal(plain, reference) == (
        f"{plain}: a run without embeddings; predict again with --embeddings ark into another OUT"
    )
    assert refusal(tmp_path / "empty", reference) == f"{tmp_path / 'empty'}: neither a run nor any .npy in it; {forms}"
    assert refusal(tmp_path / "empty.scp", reference) == f"{tmp_path / 'empty.scp'}: there are no embeddings; {forms}"
    assert refusal(tmp_path / "gone.scp", reference).startswith(f"{tmp_path / 'gone.scp'}: No such file or directory")
    assert refusal(tmp_path / "bad.scp", reference) == (
        f"{tmp_path / 'bad.scp'}:2: a line is: utt-id file.ark:offset, or utt-id file.npy; {forms}"
    )
    assert refusal(tmp_path / "twice.scp", reference) == (
        f'{tmp_path / "twice.scp"}:3: utt-id "Ses01F_000.wav" again (first on line 1, as "Ses01F_000")'
    )
    assert str(tmp_path / "zip.scp") in refusal(tmp_path / "zip.scp", reference)
    assert refusal(others, reference) == (
        f'{others}: no utt-id in common with {reference}/utt2emo: "iemocap-Ses01F_000" here, "Ses01F_000" there; they '
        'differ by the prefix "iemocap-"'
    )


def test_speakers_must_be_complete(tmp_path: Path, reference: Path) -> None:
    arrays = write_arrays(tmp_path / "npy", MEANS)
    lines = (reference / "utt2spk").read_text().splitlines(keepends=True)
    (reference / "utt2spk").write_text("".join(lines[1:]))

    assert refusal(arrays, reference) == (
        f'{reference}/utt2spk: 1 of the 160 utterances have no line, the first is "Ses01F_000"; add them'
    )


def test_only_labelled_utterances_are_read(tmp_path: Path) -> None:
    made = Made(MADE.ids[:8], MADE.labels[:8], MADE.speakers[:8], MADE.frames[:8])
    arrays = write_arrays(tmp_path / "npy", {**means_of(made), "unlabelled": np.full(3, np.nan, dtype=np.float32)})

    assert len(read(arrays, write_reference(tmp_path / "data", made))) == 8
