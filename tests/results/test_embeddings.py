"""Embeddings on disk: the bits of the engine, under names within OUT."""

from __future__ import annotations

import dataclasses
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
from support.predictions import NASTY_IDS, make_predictions

from e2v_cli.options import EmbeddingDtype, ResultOptions, Shard
from e2v_cli.records import Place, Prediction
from e2v_cli.results.embeddings import ArkWriter, EmbeddingWriter, NpyWriter
from e2v_cli.system.spool import DiskArray

WHOLE = Shard(1, 1)
PLAIN = ResultOptions()
HALF = ResultOptions(dtype="fp16")
COMPRESSED = ResultOptions(Path("OUT"), granularity="frame", embeddings="ark", compress=True)
"""Writers ignore this path: they get OUT separately."""


def embedding_of(prediction: Prediction) -> NDArray[np.float32]:
    """Return the expected embedding, in memory."""
    embedding = prediction.embedding
    return embedding.read() if isinstance(embedding, DiskArray) else embedding


def spooled(prediction: Prediction) -> Prediction:
    """Return the same prediction with its matrix on disk."""
    matrix = embedding_of(prediction)
    spool = DiskArray(matrix.shape[1:], block_bytes=10 * 4 * 96)
    for first in range(0, len(matrix), 7):
        spool.append(matrix[first : first + 7])
    return dataclasses.replace(prediction, embedding=spool)


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
    writer = NpyWriter(tmp_path, ResultOptions(dtype=dtype), WHOLE)

    places = writer.write(predictions)

    assert places == [Place("embeddings/a.npy"), Place("embeddings/ü.npy"), Place("embeddings/b%2Fc.npy")]
    for prediction, place in zip(predictions, places, strict=True):
        numpy_type = np.float16 if dtype == "fp16" else np.float32
        assert_same_bits(np.load(tmp_path / place.file), embedding_of(prediction).astype(numpy_type))


def test_npy_files_stay_within_out(tmp_path: Path) -> None:
    """Each id has a file, and no file is elsewhere."""
    out = tmp_path / "out"
    out.mkdir()
    predictions = make_predictions(NASTY_IDS, (4,))

    places = NpyWriter(out, PLAIN, WHOLE).write(predictions)

    written = [Path(folder, name) for folder, _, names in os.walk(tmp_path) for name in names]
    assert sorted(written) == sorted(out / place.file for place in places)
    assert {path.parent for path in written} == {out / "embeddings"}
    for prediction, place in zip(predictions, places, strict=True):
        np.testing.assert_array_equal(np.load(out / place.file), embedding_of(prediction))


def test_second_attempt_rewrites_npy_files(tmp_path: Path) -> None:
    first, second = (make_predictions(["a"], (dimension,)) for dimension in (8, 4))

    for predictions in (first, second):
        NpyWriter(tmp_path, PLAIN, WHOLE).write(predictions)

    np.testing.assert_array_equal(np.load(tmp_path / "embeddings/a.npy"), embedding_of(second[0]))


def test_npy_files_are_replaced_atomically(tmp_path: Path) -> None:
    """A reader of the old file keeps the old content."""
    first, second = (make_predictions(["a"], (dimension,)) for dimension in (8, 4))
    NpyWriter(tmp_path, PLAIN, WHOLE).write(first)
    with (tmp_path / "embeddings/a.npy").open("rb") as old:
        NpyWriter(tmp_path, PLAIN, WHOLE).write(second)

        np.testing.assert_array_equal(np.load(old), embedding_of(first[0]))


def test_two_workers_write_the_same_npy_files_without_damage(tmp_path: Path) -> None:
    """Two workers may compute the same block."""
    predictions = make_predictions(["a", "b"], (8,))

    def write(writer: NpyWriter) -> list[list[Place]]:
        return [writer.write(predictions) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        places = list(pool.map(write, [NpyWriter(tmp_path, PLAIN, WHOLE), NpyWriter(tmp_path, PLAIN, WHOLE)]))

    assert places == [[[Place("embeddings/a.npy"), Place("embeddings/b.npy")]] * 20] * 2
    for prediction in predictions:
        np.testing.assert_array_equal(
            np.load(tmp_path / f"embeddings/{prediction.utterance.utt_id}.npy"), embedding_of(prediction)
        )
    assert sorted(os.listdir(tmp_path / "embeddings")) == ["a.npy", "b.npy"]
    assert os.listdir(tmp_path) == ["embeddings"]


def test_npy_write_error_names_the_file(tmp_path: Path) -> None:
    writer = NpyWriter(tmp_path, PLAIN, WHOLE)
    (tmp_path / "embeddings/a.npy").mkdir(parents=True)

    with pytest.raises(IsADirectoryError) as caught:
        writer.write(make_predictions(["a"], (8,)))

    assert str(caught.value.filename2) == f"{tmp_path}/embeddings/a.npy"


@pytest.mark.parametrize("shape", [(8,), (768,), (1, 8), (49, 96)])
def test_kaldi_reads_the_embeddings_of_archives(shape: tuple[int, ...], tmp_path: Path) -> None:
    predictions = make_predictions(["a", "ü", "a%20b", "x" * 300, "z"], shape)
    writer = ArkWriter(tmp_path, PLAIN, WHOLE)

    places = [*writer.write(predictions[:2]), *writer.write(predictions[2:])]

    for prediction, place in zip(predictions, places, strict=True):
        assert_same_bits(read_with_kaldiio(f"{tmp_path}/{place}"), embedding_of(prediction))
        assert_same_bits(read_with_kaldi(f"{tmp_path}/{place}", len(shape)), embedding_of(prediction))
    with (
        kaldi_native_io.SequentialFloatVectorReader(f"ark:{tmp_path}/embeddings.1-of-1.1.ark")
        if len(shape) == 1
        else kaldi_native_io.SequentialFloatMatrixReader(f"ark:{tmp_path}/embeddings.1-of-1.1.ark") as reader
    ):
        assert [key for key, _ in reader] == ["a", "ü", "a%20b", "x" * 300, "z"]


def test_archive_offsets_point_behind_the_key(tmp_path: Path) -> None:
    """Offsets are those of a Kaldi scp. A record is a key, a blank, 2 bytes of mark, its kind, its size, and floats."""
    writer = ArkWriter(tmp_path, PLAIN, WHOLE)
    places = writer.write(make_predictions(["a", "ü"], (3,)))

    assert places == [Place("embeddings.1-of-1.1.ark", 2), Place("embeddings.1-of-1.1.ark", 27)]
    content = (tmp_path / "embeddings.1-of-1.1.ark").read_bytes()
    assert content[:12] == b"a \0BFV \x04\x03\0\0\0"
    assert content[24:37] == "ü ".encode() + b"\0BFV \x04\x03\0\0\0"
    assert len(content) == 49


def test_archives_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    writer = ArkWriter(tmp_path, PLAIN, WHOLE)
    (prediction,) = make_predictions(["a"], (8,))

    (place,) = writer.write([prediction])

    assert_same_bits(read_with_kaldiio(f"{tmp_path}/{place}"), embedding_of(prediction))


@pytest.mark.parametrize("shape", [(8,), (5, 8)])
def test_archives_hold_half_precision_as_rounded_floats(shape: tuple[int, ...], tmp_path: Path) -> None:
    (prediction,) = make_predictions(["a"], shape)
    writer = ArkWriter(tmp_path, HALF, WHOLE)
    (place,) = writer.write([prediction])

    embedding = read_with_kaldi(f"{tmp_path}/{place}", len(shape))

    assert_same_bits(embedding, embedding_of(prediction).astype(np.float16).astype(np.float32))
    assert (embedding != embedding_of(prediction)).any()


def test_every_worker_writes_its_own_archive(tmp_path: Path) -> None:
    """Earlier archives never change."""
    places = []
    for utt_id in ("a", "b", "c"):
        writer = ArkWriter(tmp_path, PLAIN, WHOLE)
        places += writer.write(make_predictions([utt_id], (8,)))
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert places == [Place(f"embeddings.1-of-1.{number}.ark", 2) for number in (1, 2, 3)]
    assert {name: content[:2] for name, content in before.items()} == {
        "embeddings.1-of-1.1.ark": b"a ",
        "embeddings.1-of-1.2.ark": b"b ",
        "embeddings.1-of-1.3.ark": b"c ",
    }


def test_archives_are_named_after_their_shard(tmp_path: Path) -> None:
    places = [
        str(*ArkWriter(tmp_path, PLAIN, shard).write(make_predictions(["a"], (8,))))
        for shard in (Shard(3, 2), Shard(12, 10), Shard(3, 2))
    ]

    assert places == ["embeddings.2-of-3.1.ark:2", "embeddings.10-of-12.1.ark:2", "embeddings.2-of-3.2.ark:2"]


def test_empty_archive_is_not_created(tmp_path: Path) -> None:
    """All utterances of a worker may fail."""
    writer = ArkWriter(tmp_path, PLAIN, WHOLE)
    assert writer.write([]) == []

    assert os.listdir(tmp_path) == []


def test_archive_write_error_names_the_file(tmp_path: Path) -> None:
    writer = ArkWriter(tmp_path, PLAIN, WHOLE)
    writer.write(make_predictions(["a"], (8,)))
    archive = tmp_path / "embeddings.1-of-1.1.ark"
    archive.unlink()
    archive.symlink_to("/dev/full")

    message = f"[Errno 28] No space left on device: '{archive}'"
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        writer.write(make_predictions(["b"], (8,)))


NUMBERS = np.array(
    [[0.0, 1.0, -1.0, 100.0, 1e-30, -0.0], [1 / 3, np.pi, 16_777_217.0, 3.4e38, 1e-45, 123_456.789]], np.float32
)
"""Some of these print without a point, and some need nine digits."""


@pytest.mark.parametrize("dtype", get_args(EmbeddingDtype))
@pytest.mark.parametrize("dimensions", [1, 2])
def test_text_archives_are_read_exactly(dimensions: int, dtype: EmbeddingDtype, tmp_path: Path) -> None:
    """Whole archives and the places of a scp are read by kaldiio and by Kaldi's own code."""
    numbers = NUMBERS if dtype == "fp32" else np.where(np.abs(NUMBERS) < 60_000, NUMBERS, 0)
    ones = np.ones_like(numbers)
    predictions = [
        dataclasses.replace(prediction, embedding=array if dimensions == 2 else array[1])
        for prediction, array in zip(make_predictions(["a", "ü%20b"], (1,)), (numbers, ones), strict=True)
    ]
    writer = ArkWriter(tmp_path, ResultOptions(dtype=dtype), WHOLE, text=True)

    places = [*writer.write(predictions[:1]), *writer.write(predictions[1:])]

    path = f"{tmp_path}/embeddings.1-of-1.1.ark"
    expected = [embedding_of(prediction) for prediction in predictions]
    if dtype == "fp16":
        expected = [array.astype(np.float16).astype(np.float32) for array in expected]
    assert [place.file for place in places] == ["embeddings.1-of-1.1.ark"] * 2
    by_kaldiio = dict(kaldiio.load_ark(path))
    reader = kaldi_native_io.SequentialFloatVectorReader if dimensions == 1 else None
    with (reader or kaldi_native_io.SequentialFloatMatrixReader)(f"ark,t:{path}") as records:
        by_kaldi = {key: np.array(value) for key, value in records}
    assert list(by_kaldiio) == list(by_kaldi) == ["a", "ü%20b"]
    for key, place, array in zip(by_kaldi, places, expected, strict=True):
        assert_same_bits(by_kaldi[key], array)
        assert_same_bits(by_kaldiio[key], array)
        assert_same_bits(read_with_kaldiio(f"{tmp_path}/{place}"), array)
        assert_same_bits(read_with_kaldi(f"{tmp_path}/{place}", dimensions), array)


def test_text_archive_bytes(tmp_path: Path) -> None:
    vector, matrix = make_predictions(["a", "b"], (1,))
    writer = ArkWriter(tmp_path, PLAIN, WHOLE, text=True)

    places = writer.write(
        [
            dataclasses.replace(vector, embedding=np.array([1.0, -0.5], np.float32)),
            dataclasses.replace(matrix, embedding=np.array([[1.0, 2.0], [0.1, 0.0]], np.float32)),
        ]
    )

    content = (tmp_path / "embeddings.1-of-1.1.ark").read_bytes()
    first = b" [ 1.00000000e+00 -5.00000000e-01 ]\n"
    second = b" [\n  1.00000000e+00 2.00000000e+00 \n  1.00000001e-01 0.00000000e+00 ]\n"
    assert content == b"a " + first + b"b " + second
    assert places == [Place("embeddings.1-of-1.1.ark", offset) for offset in (2, len(first) + 4)]


@pytest.mark.parametrize("shape", [(1, 8), (5, 8), (300, 96)])
def test_compressed_archives_are_read_approximately(shape: tuple[int, int], tmp_path: Path) -> None:
    """The error is at most one step of 8 bits in a column, or of 16 bits if rows are few."""
    (prediction,) = make_predictions(["a"], shape)
    matrix = embedding_of(prediction)
    (place,) = ArkWriter(tmp_path, COMPRESSED, WHOLE).write([prediction])

    by_kaldiio = read_with_kaldiio(f"{tmp_path}/{place}")
    by_kaldi = read_with_kaldi(f"{tmp_path}/{place}", 2)

    assert by_kaldiio.shape == by_kaldi.shape == shape
    np.testing.assert_allclose(by_kaldiio, by_kaldi, rtol=0, atol=1e-4)
    steps = 65_535 if len(matrix) <= 8 else 100
    np.testing.assert_allclose(by_kaldi, matrix, rtol=0, atol=(matrix.max() - matrix.min()) / steps)


def test_compressed_archive_takes_a_quarter_of_the_space(tmp_path: Path) -> None:
    predictions = make_predictions(["a"], (3000, 96))
    sizes = {}
    for options in (PLAIN, COMPRESSED):
        (place,) = ArkWriter(tmp_path, options, WHOLE).write(predictions)
        sizes[options] = (tmp_path / place.file).stat().st_size

    assert 0.25 < sizes[COMPRESSED] / sizes[PLAIN] < 0.26


def all_writers(folder: Path, dtype: EmbeddingDtype) -> list[EmbeddingWriter]:
    """Make a writer of each kind."""
    plain, compressed = ResultOptions(dtype=dtype), dataclasses.replace(COMPRESSED, dtype=dtype)
    archives = [ArkWriter(folder, plain, WHOLE, text=text) for text in (False, True)]
    return [NpyWriter(folder, plain, WHOLE), *archives, ArkWriter(folder, compressed, WHOLE)]


@pytest.mark.parametrize("dtype", get_args(EmbeddingDtype))
def test_matrix_on_disk_is_written_like_one_in_memory(dtype: EmbeddingDtype, tmp_path: Path) -> None:
    """All formats have the same bytes."""
    predictions = make_predictions(["a", "b/c", "ü"], (61, 96))
    contents = []
    for name, chosen in (("memory", predictions), ("spool", [spooled(prediction) for prediction in predictions])):
        folder = tmp_path / name
        folder.mkdir()
        places = [writer.write(chosen) for writer in all_writers(folder, dtype)]
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert len(files) == 3 + 3
        contents.append((places, files))

    assert contents[0] == contents[1]


def test_npy_file_equals_that_of_numpy(tmp_path: Path) -> None:
    (prediction,) = make_predictions(["a"], (49, 96))

    NpyWriter(tmp_path, PLAIN, WHOLE).write([prediction])

    np.save(tmp_path / "numpy.npy", embedding_of(prediction))
    assert (tmp_path / "embeddings/a.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
