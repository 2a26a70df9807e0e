"""``e2v similarity``: pairs of utterances of made-up runs."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from support.forkserver import shared_server
from support.journals import LABELS, WHOLE, List, done, header, publish_all, write
from support.processes import E2v

from e2v_cli.analysis.similarity import BLOCK_PAIRS
from e2v_cli.journal.ids import save_ids
from e2v_cli.options import Fingerprint, ResultOptions
from e2v_cli.records import Prediction, Utterance
from e2v_cli.results.embeddings import ArkWriter

pytestmark = pytest.mark.e2e

OPTIONS: Fingerprint = {"embedding-dtype": "fp32", "precision": "fp32", "window": 60.0}

VECTORS: dict[str, ArrayLike] = {"a": [2, 0], "b": [1, 1], "c": [-3, 0], "d": [-1e-8, 0.5]}
POSTERIORS = {"a": (1.0, 0.0), "b": (0.75, 0.25), "c": (0.0, 1.0), "d": (0.25, 0.75)}

PAIRS = "a b\na c\nd a\nb b\n"

TABLE = (
    "utt_id1\tutt_id2\tcosine\tsame_label\tjs_divergence\n"
    "a\tb\t0.707107\ttrue\t0.137925\n"
    "a\tc\t-1.000000\tfalse\t1.000000\n"
    "d\ta\t0.000000\tfalse\t0.548795\n"
    "b\tb\t1.000000\ttrue\t0.000000\n"
)
"""Entropies of (0.875, 0.125) and (0.625, 0.375) are 0.543564 and 0.954434 bits, that of (0.75, 0.25) is 0.811278."""


def make_run(
    out: Path,
    vectors: Mapping[str, ArrayLike] = VECTORS,
    posteriors: Mapping[str, tuple[float, ...]] = POSTERIORS,
    *,
    labels: Sequence[str] = LABELS,
    model: str = "abc",
) -> Path:
    """Make a finished run with embeddings in an archive."""
    out.mkdir()
    arrays = {utt_id: np.array(vector, dtype=np.float32) for utt_id, vector in vectors.items()}
    predictions = [
        Prediction(Utterance(index, utt_id, "x.wav"), 1.0, 49, 1, None, array)
        for index, (utt_id, array) in enumerate(arrays.items())
    ]
    places = ArkWriter(out, ResultOptions(out), WHOLE).write(predictions)
    ids = List(list(vectors))
    head = header(ids, embeddings="ark", labels=tuple(labels), model=model)
    records = [
        done(utt_id, posteriors[utt_id] if labels else (), labels=labels, embedding=str(place))
        for utt_id, place in zip(vectors, places, strict=True)
    ]
    write(out, records, replace(head, fingerprint={**head.fingerprint, **OPTIONS}))
    save_ids(out, ids)
    publish_all(out, ids)
    return out


def write_pairs(folder: Path, text: str = PAIRS) -> Path:
    (folder / "pairs").write_text(text)
    return folder / "pairs"


def read_cosines(text: str) -> list[float]:
    return [float(row["cosine"]) for row in csv.DictReader(StringIO(text), delimiter="\t")]


def refuse(e2v: E2v, *words: str | Path, code: int = 1) -> str:
    """Run the command, and return the message of its refusal."""
    shown = e2v("similarity", *words)
    assert (shown.returncode, shown.stdout) == (code, "")
    assert shown.stderr.count("\n") == 1
    return shown.stderr.removeprefix("e2v: ").rstrip("\n")


def test_pairs_have_cosines_and_label_similarities_if_known(tmp_path: Path, e2v: E2v) -> None:
    shown = e2v("similarity", write_pairs(tmp_path), make_run(tmp_path / "out"))
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, TABLE, "")


def test_pairs_may_come_from_standard_input(tmp_path: Path, e2v: E2v) -> None:
    shown = e2v("similarity", "-", make_run(tmp_path / "out"), stdin=PAIRS.replace(" ", "\t"))
    assert (shown.returncode, shown.stdout) == (0, TABLE)


def test_formats_are_those_of_rows(tmp_path: Path, e2v: E2v) -> None:
    command = ("similarity", write_pairs(tmp_path), make_run(tmp_path / "out"))

    rows = [json.loads(line) for line in e2v(*command, "--format", "jsonl").stdout.splitlines()]
    columns = e2v(*command, "--columns", "same_label,utt_id2", "--no-header", "--format", "csv").stdout
    table = e2v(*command, "--format", "table").stdout

    first = {"utt_id1": "a", "utt_id2": "b", "cosine": 0.707107, "same_label": True, "js_divergence": 0.137925}
    assert rows[0] == first
    assert [row["same_label"] for row in rows] == [True, False, False, True]
    assert columns == "true,b\nfalse,c\nfalse,a\ntrue,b\n"
    assert [line.split() for line in table.splitlines()] == [line.split() for line in TABLE.splitlines()]


def test_frames_are_averaged(tmp_path: Path, e2v: E2v) -> None:
    frames = {
        utt_id: np.stack([vector, np.zeros(2), 2 * np.array(vector)])  # their mean is the vector
        for utt_id, vector in VECTORS.items()
    }
    shown = e2v("similarity", write_pairs(tmp_path), make_run(tmp_path / "out", frames))
    assert (shown.returncode, shown.stdout) == (0, TABLE)


@pytest.mark.parametrize("source", ["scp", "npy", "headless"])
def test_without_posteriors_there_are_cosines_alone(source: str, tmp_path: Path, e2v: E2v) -> None:
    out = make_run(tmp_path / "out", labels=() if source == "headless" else LABELS)
    if source == "scp":
        (tmp_path / "embeddings.scp").write_text((out / "embeddings.scp").read_text())
        out = tmp_path / "embeddings.scp"
    if source == "npy":
        out = tmp_path / "arrays"
        out.mkdir()
        for utt_id, vector in VECTORS.items():
            np.save(out / f"{utt_id}.npy", np.array(vector, dtype=np.float32))

    shown = e2v("similarity", write_pairs(tmp_path), out)

    expected = "".join("\t".join(line.split("\t")[:3]) + "\n" for line in TABLE.splitlines())
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, expected, "")


def test_raw_cosines_crowd_and_centred_ones_are_those_without_the_mean(tmp_path: Path, e2v: E2v) -> None:
    """The vectors share a large mean; more pairs than a block has."""
    generator = np.random.default_rng(0)
    count, dim = 80, 16
    spread: NDArray[np.float64] = generator.normal(size=(count, dim))
    values = (spread + 20 * np.sign(generator.normal(size=dim))).astype(np.float32)
    ids = [f"u{index:02}" for index in range(count)]
    out = make_run(tmp_path / "out", dict(zip(ids, values, strict=True)), dict.fromkeys(ids, (0.5, 0.5)))
    pairs = generator.integers(count, size=(2 * BLOCK_PAIRS + 10, 2))
    text = "".join(f"{ids[first]} {ids[second]}\n" for first, second in pairs.tolist())

    raw = e2v("similarity", write_pairs(tmp_path, text), out)
    centred = e2v("similarity", tmp_path / "pairs", out, "--centre")

    def cosines(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        products: NDArray[np.float64] = (units[pairs[:, 0]] * units[pairs[:, 1]]).sum(axis=1)
        return products

    exact = values.astype(np.float64)
    np.testing.assert_allclose(read_cosines(raw.stdout), cosines(exact), atol=1e-6)
    np.testing.assert_allclose(read_cosines(centred.stdout), cosines(exact - exact.mean(axis=0)), atol=2e-6)
    assert min(read_cosines(raw.stdout)) > 0.99
    assert min(read_cosines(centred.stdout)) < -0.5


def test_second_ids_are_those_of_another_run(tmp_path: Path, e2v: E2v) -> None:
    """The mean is that of the first run, for both."""
    source = make_run(tmp_path / "source")
    moved: dict[str, ArrayLike] = {"a": [2, 1], "b": [1, 2], "c": [-3, 1]}
    converted = make_run(tmp_path / "converted", moved)
    pairs = write_pairs(tmp_path, "a a\nb b\nd c\n")

    raw = read_cosines(e2v("similarity", pairs, source, converted).stdout)
    centred = read_cosines(e2v("similarity", pairs, source, converted, "--centre").stdout)

    assert raw == pytest.approx([2 / 5**0.5, 3 / 10**0.5, 1 / 10**0.5], abs=1e-6)
    mean = [0, 0.375]
    first = np.subtract([[2.0, 0.0], [1.0, 1.0], [0.0, 0.5]], mean)
    second = np.subtract([[2, 1], [1, 2], [-3, 1]], mean)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    assert centred == pytest.approx((first * second).sum(axis=1) / lengths, abs=1e-6)


def test_runs_of_different_classes_have_cosines_alone(tmp_path: Path, e2v: E2v) -> None:
    source = make_run(tmp_path / "source")
    closed = make_run(tmp_path / "closed", labels=("happy", "sad"))

    shown = e2v("similarity", write_pairs(tmp_path), source, closed)

    assert shown.returncode == 0
    assert shown.stdout.startswith("utt_id1\tutt_id2\tcosine\na\tb\t0.707107\n")
    assert shown.stderr == (
        f"e2v: labels are not compared, since classes differ: {source}/embeddings.scp has angry, sad; "
        f"{closed}/embeddings.scp has happy, sad\n"
    )


def test_run_and_embeddings_without_a_run_have_cosines_alone(tmp_path: Path, e2v: E2v) -> None:
    source = make_run(tmp_path / "source")
    (tmp_path / "other.scp").write_text((source / "embeddings.scp").read_text())
    shown = e2v("similarity", write_pairs(tmp_path), source, tmp_path / "other.scp", "--columns", "cosine")
    assert (shown.returncode, shown.stdout.splitlines()[1]) == (0, "0.707107")
    assert shown.stderr == (
        f"e2v: labels are not compared, since classes differ: {source}/embeddings.scp has angry, sad; "
        f"{tmp_path}/other.scp has none\n"
    )


def test_runs_of_different_models_are_refused(tmp_path: Path, e2v: E2v) -> None:
    source, other = make_run(tmp_path / "source"), make_run(tmp_path / "other", model="def")
    assert refuse(e2v, write_pairs(tmp_path), source, other) == (
        f"embeddings of different models or layers can't be compared: {source} has those of ./modèle (abc), "
        f"{other} has those of ./modèle (def); compute both with the same"
    )


def test_embeddings_of_different_sizes_are_refused(tmp_path: Path, e2v: E2v) -> None:
    wide = {utt_id: [1, 2, 3] for utt_id in VECTORS}
    source, other = make_run(tmp_path / "source"), make_run(tmp_path / "other", wide)
    assert refuse(e2v, write_pairs(tmp_path), source, other) == (
        f"embeddings of different sizes: those of {source}/embeddings.scp have 2 numbers, "
        f"those of {other}/embeddings.scp have 3 numbers; are they of one model?"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c utt-009", '"utt-009" has no embedding in {out} (is utt-008 meant?); leave the pair out, or predict it'),
        ("zzz utt-008", '"zzz" has no embedding in {out}; leave the pair out, or predict it'),
        ("a", "'a'; a line is: utt-id1 utt-id2"),
        ("a b c", "'a b c'; a line is: utt-id1 utt-id2"),
    ],
)
def test_lines_are_refused_by_number(line: str, message: str, tmp_path: Path, e2v: E2v) -> None:
    vectors = {"a": [1, 0], "b": [1, 1], "c": [0, 1], "utt-008": [1, 2]}
    out = make_run(tmp_path / "out", vectors, dict.fromkeys(vectors, (0.5, 0.5)))
    pairs = write_pairs(tmp_path, f"a b\n\n{line}\na b\n")
    assert refuse(e2v, pairs, out) == f"{pairs}:3: {message.format(out=out / 'embeddings.scp')}"


def test_list_without_pairs_is_refused(tmp_path: Path, e2v: E2v) -> None:
    out = make_run(tmp_path / "out")
    assert refuse(e2v, "-", out) == "standard input: no pairs; a line is: utt-id1 utt-id2"


@pytest.mark.parametrize(
    ("vector", "words", "message"),
    [
        ([0, 0], (), "the embedding of d is zero; compute it again, or leave its pairs out"),
        ([0, 0], ("--centre",), "the embedding of d is zero; compute it again, or leave its pairs out"),
        ([0, np.nan], (), "NaN or infinite numbers in the embedding of d; compute them again, or leave them out"),
        ([np.inf, 1], ("--centre",), "NaN or infinite numbers in the embedding of d; compute them again, or leave"),
    ],
)
def test_embeddings_without_direction_are_refused_by_name(
    vector: list[float], words: Sequence[str], message: str, tmp_path: Path, e2v: E2v
) -> None:
    out = make_run(tmp_path / "out", {**VECTORS, "d": vector})
    path = tmp_path / "rows.tsv"
    path.write_text("earlier\n")
    found = refuse(e2v, write_pairs(tmp_path), out, *words, "-o", path)
    assert found.startswith(f"{out}/embeddings.scp: {message}")
    assert path.read_text() == "earlier\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "pairs", "rows.tsv"]


def test_embeddings_that_no_pair_has_are_not_read(tmp_path: Path, e2v: E2v) -> None:
    out = make_run(tmp_path / "out", {**VECTORS, "d": [np.nan, 0]})
    shown = e2v("similarity", write_pairs(tmp_path, "a b\n"), out, "--columns", "cosine")
    assert (shown.returncode, shown.stdout) == (0, "cosine\n0.707107\n")


def test_centring_on_a_single_utterance_leaves_no_direction(tmp_path: Path, e2v: E2v) -> None:
    out = make_run(tmp_path / "out", {"a": [3, 4]})
    assert refuse(e2v, write_pairs(tmp_path, "a a\n"), out, "--centre") == (
        f"{out}/embeddings.scp: the embedding of a is the mean of all, of which centring leaves nothing; "
        "leave out --centre"
    )


def test_id_with_two_embeddings_is_refused(tmp_path: Path, e2v: E2v) -> None:
    line = (make_run(tmp_path / "out") / "embeddings.scp").read_text().splitlines()[0] + "\n"
    (tmp_path / "twice.scp").write_text(2 * line)
    message = refuse(e2v, write_pairs(tmp_path), tmp_path / "twice.scp")
    assert message == f'{tmp_path}/twice.scp:2: utt-id "a" again (first on line 1)'


def test_list_without_embeddings_of_a_pair_is_refused(tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "empty.scp").write_text("")
    message = refuse(e2v, write_pairs(tmp_path), tmp_path / "empty.scp")
    assert message.startswith(f'{tmp_path}/pairs:1: "a" has no embedding in {tmp_path}/empty.scp; leave')


def test_run_without_embeddings_is_refused(tmp_path: Path, e2v: E2v) -> None:
    out = tmp_path / "out"
    out.mkdir()
    ids = List(["a"])
    write(out, [done("a")], header(ids))
    save_ids(out, ids)
    publish_all(out, ids)
    assert refuse(e2v, write_pairs(tmp_path), out).startswith(f"{out}: a run without embeddings; predict again with")


def test_rows_go_to_a_file_when_all_are_computed(tmp_path: Path, e2v: E2v) -> None:
    out, path = make_run(tmp_path / "out"), tmp_path / "rows.tsv"
    shown = e2v("similarity", write_pairs(tmp_path), out, "-o", path)
    assert (shown.returncode, shown.stdout, path.read_text()) == (0, "", TABLE)


def test_pairs_are_not_replaced_by_rows(tmp_path: Path, e2v: E2v) -> None:
    pairs = write_pairs(tmp_path)
    message = refuse(e2v, pairs, make_run(tmp_path / "out"), "-o", pairs, code=2)
    assert message == f"-o {pairs}: the pairs are there, and would be replaced; choose another -o"
    assert pairs.read_text() == PAIRS


def test_output_that_is_closed_or_full_is_not_blamed_on_the_pairs(tmp_path: Path) -> None:
    pairs, out = write_pairs(tmp_path, "a b\n" * 20_000), make_run(tmp_path / "out")
    command = f"{shared_server().write_command(tmp_path / 'e2v')} similarity {pairs} {out}"

    def shell(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)

    closed, full = shell(f"{command} | head -1; exit ${{PIPESTATUS[0]}}"), shell(f"{command} > /dev/full")

    assert (closed.returncode, closed.stderr) == (0, "")
    assert (full.returncode, full.stderr) == (1, "e2v: standard output: No space left on device\n")


def test_variables_are_those_of_the_command(tmp_path: Path, e2v: E2v) -> None:
    out, path = make_run(tmp_path / "out", {"a": [1, 0], "b": [3, 0]}), tmp_path / "rows"
    shown = e2v(
        *("similarity", write_pairs(tmp_path, "a b\n"), out, "--columns", "cosine"),
        E2V_SIMILARITY_CENTRE="1",
        E2V_SIMILARITY_OUTPUT=str(path),
    )
    assert (shown.returncode, shown.stdout, path.read_text()) == (0, "", "cosine\n-1.000000\n")


def test_unknown_column_is_refused(tmp_path: Path, e2v: E2v) -> None:
    message = refuse(e2v, write_pairs(tmp_path), make_run(tmp_path / "out"), "--columns", "score", code=2)
    assert message.startswith("--columns score: no such column; choose from utt_id1, utt_id2, cosine, same_label")
