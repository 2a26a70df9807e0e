"""Embeddings on disk are what the engine gave, to the bit, under names that stay within OUT."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import kaldi_native_io
import kaldiio
import numpy as np
import pytest
from numpy.typing import NDArray

from e2v_cli.records import Prediction, Utterance
from e2v_cli.settings import EmbeddingDtype, EmbeddingFormat, Shard
from e2v_cli.tables import kaldi_key
from e2v_cli.writers import ArkWriter, NpyWriter, file_name, open_writer

WHOLE = Shard(1, 1)

NASTY_IDS = [
    "a",
    "A",
    "../x",
    "..",
    ".",
    "/etc/x",
    "%2Fetc%2Fx",
    "%252Fetc",
    ".hidden",
    "%2Ehidden",
    "a:b",
    "a%3Ab",
    "a b",
    "a%20b",
    "a\tb",
    "a/b",
    "a\\b",
    "a|b",
    "a?b",
    "a*b",
    "a\x7fb",
    "a\x00b",
    "ü",
    "u\u0308",
    "笑",
    "x" * 200,
    "x" * 201,
    "x" * 300,
    "x" * 299 + "y",
    "ü" * 150,
    "ü" * 151,
    "/" * 100,
    "/" * 101,
]


def make_predictions(utt_ids: list[str], shape: tuple[int, ...]) -> list[Prediction]:
    generator = np.random.default_rng(0)
    return [
        Prediction(
            Utterance(index, utt_id, f"{index}.wav"), 1.0, 49, 1, None, generator.normal(size=shape).astype(np.float32)
        )
        for index, utt_id in enumerate(utt_ids)
    ]


def read_with_kaldiio(place: str) -> NDArray[np.float32]:
    array: NDArray[np.float32] = kaldiio.load_mat(place)
    return array


def read_with_kaldi(place: str, dimensions: int) -> NDArray[np.float32]:
    """Read with Kaldi's own code, which tells vectors from matrices."""
    kind = kaldi_native_io.FloatVector if dimensions == 1 else kaldi_native_io.FloatMatrix
    array: NDArray[np.float32] = kind.read(place).numpy()
    return array


def assert_same_bits(array: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    assert array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(8,), (768,), (1, 8), (49, 96)])
@pytest.mark.parametrize("dtype", get_args(EmbeddingDtype))
def test_npy_files_hold_the_embeddings(dtype: EmbeddingDtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    predictions = make_predictions(["a", "ü", "b/c"], shape)
    writer = NpyWriter(tmp_path, dtype, WHOLE)

    places = writer.write(predictions)

    assert places == ["embeddings/a.npy", "embeddings/ü.npy", "embeddings/b%2Fc.npy"]
    for prediction, place in zip(predictions, places, strict=True):
        numpy_type = np.float16 if dtype == "fp16" else np.float32
        assert_same_bits(np.load(tmp_path / place), prediction.embedding.astype(numpy_type))


def test_npy_files_stay_within_out(tmp_path: Path) -> None:
    """Whatever the ids are, there is a file for each, and none elsewhere."""
    out = tmp_path / "out"
    out.mkdir()
    predictions = make_predictions(NASTY_IDS, (4,))

    places = NpyWriter(out, "fp32", WHOLE).write(predictions)

    written = [Path(folder, name) for folder, _, names in os.walk(tmp_path) for name in names]
    assert sorted(written) == sorted(out / place for place in places)
    assert {path.parent for path in written} == {out / "embeddings"}
    for prediction, place in zip(predictions, places, strict=True):
        np.testing.assert_array_equal(np.load(out / place), prediction.embedding)


def test_a_second_attempt_writes_npy_files_again(tmp_path: Path) -> None:
    first, second = (make_predictions(["a"], (dimension,)) for dimension in (8, 4))

    for predictions in (first, second):
        NpyWriter(tmp_path, "fp32", WHOLE).write(predictions)

    np.testing.assert_array_equal(np.load(tmp_path / "embeddings/a.npy"), second[0].embedding)


def test_npy_files_are_replaced_whole(tmp_path: Path) -> None:
    """Who has the old file open goes on reading the old one."""
    first, second = (make_predictions(["a"], (dimension,)) for dimension in (8, 4))
    NpyWriter(tmp_path, "fp32", WHOLE).write(first)
    with (tmp_path / "embeddings/a.npy").open("rb") as old:
        NpyWriter(tmp_path, "fp32", WHOLE).write(second)

        np.testing.assert_array_equal(np.load(old), first[0].embedding)


def test_two_workers_may_write_the_same_utterances_as_npy(tmp_path: Path) -> None:
    """As they do where a block is done again: neither spoils what the other has begun."""
    predictions = make_predictions(["a", "b"], (8,))

    def write(writer: NpyWriter) -> list[list[str]]:
        return [writer.write(predictions) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        places = list(pool.map(write, [NpyWriter(tmp_path, "fp32", WHOLE), NpyWriter(tmp_path, "fp32", WHOLE)]))

    assert places == [[["embeddings/a.npy", "embeddings/b.npy"]] * 20] * 2
    for prediction in predictions:
        np.testing.assert_array_equal(
            np.load(tmp_path / f"embeddings/{prediction.utterance.utt_id}.npy"), prediction.embedding
        )
    assert sorted(os.listdir(tmp_path / "embeddings")) == ["a.npy", "b.npy"]
    assert os.listdir(tmp_path) == ["embeddings"]


def test_an_npy_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    writer = NpyWriter(tmp_path, "fp32", WHOLE)
    (tmp_path / "embeddings/a.npy").mkdir()

    with pytest.raises(IsADirectoryError) as caught:
        writer.write(make_predictions(["a"], (8,)))

    assert str(caught.value.filename2) == f"{tmp_path}/embeddings/a.npy"


@pytest.mark.parametrize("shape", [(8,), (768,), (1, 8), (49, 96)])
def test_archives_hold_the_embeddings_as_kaldi_reads_them(shape: tuple[int, ...], tmp_path: Path) -> None:
    predictions = make_predictions(["a", "ü", "a b", "x" * 300, "z"], shape)
    writer = ArkWriter(tmp_path, "fp32", WHOLE)

    places = [*writer.write(predictions[:2]), *writer.write(predictions[2:])]

    for prediction, place in zip(predictions, places, strict=True):
        assert_same_bits(read_with_kaldiio(f"{tmp_path}/{place}"), prediction.embedding)
        assert_same_bits(read_with_kaldi(f"{tmp_path}/{place}", len(shape)), prediction.embedding)
    with (
        kaldi_native_io.SequentialFloatVectorReader(f"ark:{tmp_path}/embeddings.1-of-1.1.ark")
        if len(shape) == 1
        else kaldi_native_io.SequentialFloatMatrixReader(f"ark:{tmp_path}/embeddings.1-of-1.1.ark") as reader
    ):
        assert [key for key, _ in reader] == ["a", "ü", "a%20b", "x" * 300, "z"]


def test_places_in_archives_are_offsets_behind_the_key(tmp_path: Path) -> None:
    """As in a Kaldi scp; a record is its key, a blank, a mark of 2 bytes, its kind, 4 or so of its size, and floats."""
    writer = ArkWriter(tmp_path, "fp32", WHOLE)
    places = writer.write(make_predictions(["a", "ü"], (3,)))

    assert places == ["embeddings.1-of-1.1.ark:2", "embeddings.1-of-1.1.ark:27"]
    content = (tmp_path / "embeddings.1-of-1.1.ark").read_bytes()
    assert content[:12] == b"a \0BFV \x04\x03\0\0\0"
    assert content[24:37] == "ü ".encode() + b"\0BFV \x04\x03\0\0\0"
    assert len(content) == 49


def test_archives_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    writer = ArkWriter(tmp_path, "fp32", WHOLE)
    (prediction,) = make_predictions(["a"], (8,))

    (place,) = writer.write([prediction])

    assert_same_bits(read_with_kaldiio(f"{tmp_path}/{place}"), prediction.embedding)


@pytest.mark.parametrize("shape", [(8,), (5, 8)])
def test_archives_hold_half_precision_as_rounded_floats(shape: tuple[int, ...], tmp_path: Path) -> None:
    (prediction,) = make_predictions(["a"], shape)
    writer = ArkWriter(tmp_path, "fp16", WHOLE)
    (place,) = writer.write([prediction])

    embedding = read_with_kaldi(f"{tmp_path}/{place}", len(shape))

    assert_same_bits(embedding, prediction.embedding.astype(np.float16).astype(np.float32))
    assert (embedding != prediction.embedding).any()


def test_every_worker_of_every_attempt_writes_an_archive_of_its_own(tmp_path: Path) -> None:
    """So that what the first one wrote stays as it is."""
    places = []
    for utt_id in ("a", "b", "c"):
        writer = ArkWriter(tmp_path, "fp32", WHOLE)
        places += writer.write(make_predictions([utt_id], (8,)))
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert places == ["embeddings.1-of-1.1.ark:2", "embeddings.1-of-1.2.ark:2", "embeddings.1-of-1.3.ark:2"]
    assert {name: content[:2] for name, content in before.items()} == {
        "embeddings.1-of-1.1.ark": b"a ",
        "embeddings.1-of-1.2.ark": b"b ",
        "embeddings.1-of-1.3.ark": b"c ",
    }


def test_archives_are_named_after_their_shard(tmp_path: Path) -> None:
    places = [
        ArkWriter(tmp_path, "fp32", shard).write(make_predictions(["a"], (8,)))
        for shard in (Shard(3, 2), Shard(12, 10), Shard(3, 2))
    ]

    assert places == [["embeddings.2-of-3.1.ark:2"], ["embeddings.10-of-12.1.ark:2"], ["embeddings.2-of-3.2.ark:2"]]


def test_an_archive_that_nothing_is_written_to_is_not_made(tmp_path: Path) -> None:
    """As by a worker whose utterances have all failed."""
    writer = ArkWriter(tmp_path, "fp32", WHOLE)
    assert writer.write([]) == []

    assert os.listdir(tmp_path) == []


def test_an_archive_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    writer = ArkWriter(tmp_path, "fp32", WHOLE)
    writer.write(make_predictions(["a"], (8,)))
    archive = tmp_path / "embeddings.1-of-1.1.ark"
    archive.unlink()
    archive.symlink_to("/dev/full")

    message = f"[Errno 28] No space left on device: '{archive}'"
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        writer.write(make_predictions(["b"], (8,)))


@pytest.mark.parametrize(
    ("kind", "place", "left"),
    [
        ("none", "", []),
        ("npy", "embeddings/a.npy", ["embeddings"]),
        ("ark", "embeddings.1-of-1.1.ark:2", ["embeddings.1-of-1.1.ark"]),
    ],
)
def test_the_writer_is_the_one_that_was_asked_for(
    kind: EmbeddingFormat, place: str, left: list[str], tmp_path: Path
) -> None:
    writer = open_writer(tmp_path, kind, "fp32", WHOLE)

    assert writer.write(make_predictions(["a"], (8,))) == [place]
    assert os.listdir(tmp_path) == left


@pytest.mark.parametrize(
    ("utt_id", "name"),
    [
        ("utt1", "utt1"),
        ("a b", "a b"),
        ("ü", "ü"),
        ("../x", "%2E.%2Fx"),
        ("..", "%2E."),
        (".", "%2E"),
        ("/etc/x", "%2Fetc%2Fx"),
        (".hidden", "%2Ehidden"),
        ("a.b", "a.b"),
        ("a:b", "a%3Ab"),
        ("a%b", "a%25b"),
        ("a\x00\n\x7f", "a%00%0A%7F"),
        ('a\\*?"<>|', "a%5C%2A%3F%22%3C%3E%7C"),
        ("x" * 200, "x" * 200),
    ],
)
def test_ids_become_safe_file_names(utt_id: str, name: str) -> None:
    assert file_name(utt_id) == name


@pytest.mark.parametrize(("utt_id", "kept"), [("x" * 300, "x" * 166), ("ü" * 150, "ü" * 83), ("笑" * 100, "笑" * 55)])
def test_long_ids_are_cut_between_characters_and_get_a_digest(utt_id: str, kept: str) -> None:
    name = file_name(utt_id)

    assert name.startswith(kept)
    assert name.endswith(hashlib.sha256(utt_id.encode()).hexdigest()[:32])
    assert len(f"{name}.npy".encode()) <= 255


def test_no_two_ids_share_a_file_name() -> None:
    """Not even one that is made to look like the name of another."""
    utt_ids = {*NASTY_IDS, *map(file_name, NASTY_IDS)}

    assert len({file_name(utt_id) for utt_id in utt_ids}) == len(utt_ids)


@pytest.mark.parametrize(
    ("utt_id", "key"),
    [
        ("utt1", "utt1"),
        ("a b", "a%20b"),
        (" a  b ", "%20a%20%20b%20"),
        ("a\tb\n", "a%09b%0A"),
        ("a\u3000b\u00a0c", "a%E3%80%80b%C2%A0c"),
        ("\u2028a", "%E2%80%A8a"),
        ("ü/笑%", "ü/笑%"),
    ],
)
def test_kaldi_keys_have_no_white_space(utt_id: str, key: str) -> None:
    assert kaldi_key(utt_id) == key
