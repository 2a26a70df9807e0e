"""A list that names other audio for ids that are done: refused, kept or computed again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from support.journal_lines import edit_header
from support.processes import ROOT, E2v, on_opening

pytestmark = pytest.mark.e2e

LINES = [line.split() for line in (ROOT / "sample_data" / "wav.scp").read_text().splitlines()]
IDS = [utt_id for utt_id, _ in LINES]
PATHS = [path for _, path in LINES]

KILL = "os.killpg(0, signal.SIGKILL)"


def write_list(path: Path, paths: Sequence[str], ids: Sequence[str] = IDS) -> Path:
    path.write_text("".join(f"{utt_id} {audio}\n" for utt_id, audio in zip(ids, paths, strict=True)))
    return path


def predict(scp: Path, out: Path, *options: str) -> list[str | Path]:
    return ["predict", scp, "-m", "sample", "-o", out, "--embeddings", "ark", "-j", "1", *options]


def table(out: Path) -> dict[str, str]:
    """Read the row of each utterance, without its id."""
    rows = [line.partition("\t") for line in (out / "predictions.tsv").read_text().splitlines()[1:]]
    return {utt_id: row for utt_id, _, row in rows}


def content(out: Path) -> list[bytes]:
    """Read all results of a run."""
    if (out / "embeddings.scp").exists():
        embeddings = dict(kaldiio.load_scp(str(out / "embeddings.scp")))
    else:
        lines = [line.split("\t") for line in (out / "embeddings.tsv").read_text().splitlines()]
        embeddings = {utt_id: np.load(path) for utt_id, path in lines}
    assert list(embeddings) == list(table(out))
    tables = [(out / name).read_bytes() for name in ("predictions.tsv", "failures.tsv", "utt2dur", "utt2num_frames")]
    return [*tables, *(array.tobytes() for array in embeddings.values())]


def swap(indices: Sequence[int]) -> list[str]:
    """Return the paths of the list with those at some indices rotated."""
    paths = list(PATHS)
    for index, other in zip(indices, [*indices[1:], indices[0]], strict=True):
        paths[index] = PATHS[other]
    return paths


ALL_SWAPPED = swap(range(len(PATHS)))


def test_changed_audio_is_refused_until_told_what_to_do(tmp_path: Path, e2v: E2v) -> None:
    scp, out = write_list(tmp_path / "wav.scp", PATHS), tmp_path / "out"
    assert e2v(*predict(scp, out)).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    write_list(scp, swap([0, 7, 20, 21, 39]))

    refused = e2v(*predict(scp, out))

    assert refused.returncode == 4
    assert refused.stderr == (
        f"e2v: {out}: the list names other audio now for 5 of the 40 utterances that are done: "
        f"{IDS[0]}, {IDS[7]}, {IDS[20]} and 2 others. Keep their results with --keep-changed, if files have only "
        "moved; compute them again with --recompute-changed; or choose another -o\n"
    )
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before

    kept = e2v(*predict(scp, out, "--keep-changed"))
    assert kept.returncode == 0
    assert kept.stderr.startswith(f"e2v: {out} is complete: nothing to do\n")
    assert (out / "predictions.tsv").read_bytes() == before["predictions.tsv"]
    assert e2v(*predict(scp, out)).returncode == 4

    again = e2v(*predict(scp, out, "--recompute-changed"))
    assert again.returncode == 0, again.stderr
    now, then = table(out), dict(zip(IDS, before["predictions.tsv"].decode().splitlines()[1:], strict=True))
    changed = [utt_id for utt_id in IDS if f"{utt_id}\t{now[utt_id]}" != then[utt_id]]
    assert changed == [IDS[index] for index in (0, 7, 20, 21, 39)]
    journals = b"".join(path.read_bytes() for path in out.glob("journal.*"))
    assert journals.count(b"\tdone\t") == 45

    for command in (predict(scp, out), predict(scp, out, "--recompute-changed"), ["merge", out]):
        done = e2v(*command)
        assert done.returncode == 0
        assert done.stderr.startswith(f"e2v: {out} is complete: nothing to do\n")


def test_recomputed_list_has_the_bytes_of_a_new_run(tmp_path: Path, e2v: E2v) -> None:
    scp, out, fresh = tmp_path / "wav.scp", tmp_path / "out", tmp_path / "fresh"
    assert e2v(*predict(write_list(scp, PATHS), out)).returncode == 0
    write_list(scp, ALL_SWAPPED)
    assert e2v(*predict(scp, fresh)).returncode == 0

    assert e2v(*predict(scp, out, "--recompute-changed")).returncode == 0

    assert content(out) == content(fresh)


@pytest.mark.parametrize(("embeddings", "grown"), [("ark", False), ("npy", True)])
def test_killed_recomputation_is_resumed_to_the_same_bytes(
    embeddings: str, grown: bool, tmp_path: Path, e2v: E2v
) -> None:
    """Also where the list has grown, so that the results that are kept are of another list."""
    scp, out, whole = tmp_path / "wav.scp", tmp_path / "out", tmp_path / "whole"
    options = ("--embeddings", embeddings)
    first = slice(0, 30) if grown else slice(None)
    for folder in (out, whole):
        assert e2v(*predict(write_list(scp, PATHS[first], IDS[first]), folder, *options)).returncode == 0
    write_list(scp, swap(range(0, 40, 2)))
    again = (*options, "--recompute-changed")
    assert e2v(*predict(scp, whole, *again)).returncode == 0

    for name in (PATHS[14], PATHS[26]):
        killed = e2v(*predict(scp, out, *again), **on_opening(tmp_path / "hook", Path(name).name, KILL))
        assert killed.returncode == -9
    status = e2v("status", out)
    assert "40 utterances: 40 done" not in status.stdout
    merged = e2v("merge", out)
    assert merged.returncode == 1
    assert f"e2v: {out} is not complete: " in merged.stderr
    refused = e2v(*predict(scp, out, *options))
    assert refused.returncode == 4
    assert f"e2v: {out}: the list names other audio now for " in refused.stderr

    assert e2v(*predict(scp, out, *again)).returncode == 0
    assert content(out) == content(whole)


def test_newer_result_counts_regardless_of_clocks(tmp_path: Path, e2v: E2v) -> None:
    """The machine of the first run had its clock in the future."""
    scp, out = write_list(tmp_path / "wav.scp", PATHS[:2], IDS[:2]), tmp_path / "out"
    assert e2v(*predict(scp, out)).returncode == 0
    edit_header(out / "journal.1-of-1.1", started="2999-01-01T00:00:00.000000+00:00")
    write_list(scp, swap([0, 1])[:2], IDS[:2])

    done = e2v(*predict(scp, out, "--recompute-changed"))
    assert done.returncode == 0
    assert done.stderr.startswith("e2v: 2 utterances: 2 done, 0 failed\n")
    assert e2v(*predict(scp, out)).stderr.startswith(f"e2v: {out} is complete: nothing to do\n")


def test_shards_that_compute_again_are_merged_when_all_have(tmp_path: Path, e2v: E2v) -> None:
    scp, out, fresh = tmp_path / "wav.scp", tmp_path / "out", tmp_path / "fresh"
    write_list(scp, PATHS)
    for shard in ("1/2", "2/2"):
        assert e2v(*predict(scp, out, "--shard", shard)).returncode == 0
    write_list(scp, ALL_SWAPPED)
    assert e2v(*predict(scp, out, "--shard", "1/2")).returncode == 4
    before = (out / "predictions.tsv").read_bytes()

    first = e2v(*predict(scp, out, "--shard", "1/2", "--recompute-changed"))
    assert first.returncode == 0
    assert first.stderr.startswith(
        "e2v: shard 1/2 is complete; 20 of 40 utterances are left; run e2v predict again with --shard 2/2 (20 left)\n"
    )
    assert (out / "predictions.tsv").read_bytes() == before
    assert e2v("merge", out).returncode == 1
    assert e2v(*predict(scp, out, "--shard", "2/2", "--recompute-changed")).returncode == 0

    assert e2v(*predict(scp, fresh)).returncode == 0
    assert content(out) == content(fresh)


def test_new_audio_that_fails_replaces_the_old_result(tmp_path: Path, e2v: E2v) -> None:
    """And a failed utterance is tried again where its line has changed."""
    scp, out = write_list(tmp_path / "wav.scp", PATHS[:4], IDS[:4]), tmp_path / "out"
    assert e2v(*predict(scp, out)).returncode == 0
    write_list(scp, [*PATHS[:3], "nowhere.wav"], IDS[:4])
    failed = e2v(*predict(scp, out, "--recompute-changed"))
    assert failed.returncode == 3
    assert list(table(out)) == IDS[:3]
    again = e2v(*predict(scp, out))
    assert again.returncode == 3
    assert again.stderr.startswith(f"e2v: {out} is complete: nothing to do\n")

    write_list(scp, [*PATHS[:3], PATHS[9]], IDS[:4])
    assert e2v(*predict(scp, out, "--recompute-changed")).returncode == 0
    assert list(table(out)) == IDS[:4]
    write_list(scp, PATHS[:4], IDS[:4])
    refused = e2v(*predict(scp, out))
    assert refused.returncode == 4
    assert f"other audio now for 1 of the 4 utterances that are done: {IDS[3]}. " in refused.stderr


def test_changed_segment_recording_or_channel_is_noticed(tmp_path: Path, e2v: E2v) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    recordings, segments = data / "wav.scp", data / "segments"
    write_list(recordings, PATHS[:2], ["r1", "r2"])
    segments.write_text("a r1 0.0 1.0\nb r1 0.5 1.5\nc r2 1.0 2.0\n")
    assert e2v(*predict(data, out)).returncode == 0
    for path, text, changed in (
        (segments, "a r1 0.0 1.0\nb r1 0.5 1.4\nc r2 1.0 2.0\n", "b"),
        (segments, "a r1 0.0 1.0\nb r2 0.5 1.5\nc r2 1.0 2.0\n", "b"),
        (recordings, f"r1 {PATHS[5]}\nr2 {PATHS[1]}\n", "a, b"),
        (data / "reco2file_and_channel", "r1 r1 A\n", "a, b"),
    ):
        before = path.read_text() if path.exists() else ""
        path.write_text(text)
        refused = e2v(*predict(data, out))
        assert refused.returncode == 4
        assert f" of the 3 utterances that are done: {changed}. " in refused.stderr
        path.write_text(before)
    segments.write_text("c  r2 1.0 2.0\r\na r1 0.0 1.0 \r\n\r\nb\tr1 0.5 1.5")
    assert e2v(*predict(data, out)).returncode == 0


def test_failures_of_the_list_itself_count(tmp_path: Path, e2v: E2v) -> None:
    """A segment without a recording, and one without length."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write_list(data / "wav.scp", PATHS[:1], ["r1"])
    (data / "segments").write_text("a r1 0.0 1.0\nb r2 0.0 1.0\nc r1 1.0 1.0\n")
    for _ in range(2):
        assert e2v(*predict(data, out)).returncode == 3
        failures = [line.split("\t")[:3] for line in (out / "failures.tsv").read_text().splitlines()[1:]]
        assert failures == [["b", "corpus", "no recording"], ["c", "corpus", "bad segment"]]
    assert len(list(out.glob("journal.*"))) == 1


def test_equal_lists_have_equal_digests_in_all_folders(tmp_path: Path, e2v: E2v) -> None:
    digests = []
    for name, paths in (("a", PATHS[:3]), ("b", PATHS[:3]), ("c", swap([0, 1])[:3])):
        scp = write_list(tmp_path / f"{name}.scp", paths, IDS[:3])
        assert e2v(*predict(scp, tmp_path / name)).returncode == 0
        run = json.loads((tmp_path / name / "run.json").read_text())
        digests.append((run["input_sha256"], run["sources_sha256"]))
    assert digests[0] == digests[1]
    assert digests[0][0] == digests[2][0]
    assert digests[0][1] != digests[2][1]


@pytest.mark.parametrize("option", ["--keep-changed", "--recompute-changed", "--mix-devices"])
def test_options_of_a_resume_need_a_folder(option: str, e2v: E2v) -> None:
    done = e2v("predict", PATHS[0], "-m", "sample", option)
    assert done.returncode == 2
    assert f"{option} needs an output folder: add -o OUT" in done.stderr


def test_keeping_and_computing_again_exclude_each_other(tmp_path: Path, e2v: E2v) -> None:
    done = e2v("predict", PATHS[0], "-m", "sample", "-o", tmp_path / "out", "--keep-changed", "--recompute-changed")
    assert done.returncode == 2
    assert "--keep-changed and --recompute-changed exclude each other (see: e2v predict --help)" in done.stderr
