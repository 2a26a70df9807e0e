"""What a command or a URL may write is limited: beyond it an utterance fails, and its neighbours are computed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.processes import ROOT, E2v
from support.sites import WAV, SiteServer

from e2v_cli.audio.sources import share_space

LIMIT = len(WAV)
"""Bytes: the audio of neighbours has exactly as many."""

DETAIL = f"more than {LIMIT} bytes; --max-source-bytes sets another limit"

NO_SIZE = "--max-source-bytes: '{}' is not a number of bytes like 1500000, 500M or 2G (see: e2v predict --help)"

GB = 10**9

ENDLESS = [
    "cat /dev/zero |",
    "yes |",
    "yes | cat |",
    "while :; do cat /dev/zero; done |",
    "trap '' XFSZ; cat /dev/zero |",
    "cat /dev/zero; true |",
    "cat {wav}; printf x; sleep 60 |",
    f"head -c {LIMIT + 1} /dev/zero |",
    "yes >&2 |",
    "cat /dev/zero > {folder}/own |",
]


def write_list(folder: Path, sources: Iterable[str]) -> Path:
    """Write a list of sources between two neighbours, which are a command, too."""
    wav = folder / "a.wav"
    wav.write_bytes(WAV)
    named = [source.format(wav=wav, folder=folder) for source in sources]
    lines = [
        f"before cat {wav} |",
        *(f"u{number} {source}" for number, source in enumerate(named)),
        f"after cat {wav} |",
    ]
    (folder / "wav.scp").write_text("".join(f"{line}\n" for line in lines))
    return folder / "wav.scp"


def read_failures(out: Path) -> list[str]:
    return (out / "failures.tsv").read_text().splitlines()[1:]


def read_done(out: Path) -> list[str]:
    return [line.split("\t")[0] for line in (out / "predictions.tsv").read_text().splitlines()[1:]]


def test_command_that_writes_too_much_fails_beside_its_neighbours(tmp_path: Path, e2v: E2v) -> None:
    scp, out = write_list(tmp_path, ENDLESS), tmp_path / "out"
    done = e2v("predict", scp, "-m", "sample", "-o", out, "-q", "--allow-pipes", "--max-source-bytes", str(LIMIT))

    assert done.returncode == 3
    commands = [source.format(wav=tmp_path / "a.wav", folder=tmp_path) for source in ENDLESS]
    assert read_failures(out) == [
        f"u{number}\taudio\ttoo large\t{command}: {DETAIL}" for number, command in enumerate(commands)
    ]
    assert read_done(out) == ["before", "after"]
    assert (tmp_path / "own").stat().st_size <= LIMIT + 1024


def test_url_that_delivers_too_much_fails_beside_its_neighbours(tmp_path: Path, site: SiteServer, e2v: E2v) -> None:
    urls = [f"{site.url}/{name}" for name in ("endless", "huge", "large", "a.wav")]
    scp, out = write_list(tmp_path, urls), tmp_path / "out"
    done = e2v("predict", scp, "-m", "sample", "-o", out, "-q", "--allow-pipes", "--max-source-bytes", str(LIMIT))

    assert done.returncode == 3
    assert read_failures(out) == [
        f"u{number}\taudio\ttoo large\t{url}: {DETAIL}" for number, url in enumerate(urls[:3])
    ]
    assert read_done(out) == ["before", "u3", "after"]


def test_limit_does_not_belong_to_the_run(tmp_path: Path, e2v: E2v) -> None:
    """Another limit continues the run, and results are the same."""
    scp, out = write_list(tmp_path, ["cat {wav} |"]), tmp_path / "out"
    command = ("predict", scp, "-m", "sample", "-o", out, "-q", "--allow-pipes")

    assert e2v(*command, "--max-source-bytes", "1k").returncode == 3
    assert len(read_failures(out)) == 3
    assert e2v(*command, "--max-source-bytes", "1M", "--retry-failed").returncode == 0
    assert read_done(out) == ["before", "u0", "after"]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        *((size, NO_SIZE.format(size)) for size in ("-1", "1.5G", "G", "5X", "")),
        ("0", "--max-source-bytes 0: must be from 1 to 1000000000000000000 bytes"),
        ("2000000T", "--max-source-bytes 2000000000000000000: must be from 1 to 1000000000000000000 bytes"),
    ],
)
def test_invalid_size_is_refused(size: str, message: str, e2v: E2v) -> None:
    done = e2v("predict", "a.wav", f"--max-source-bytes={size}")

    assert (done.returncode, done.stderr) == (2, f"e2v: {message}\n")


@pytest.mark.parametrize(
    ("free", "at_once", "share"),
    [
        (1000 * GB, 1, 500 * GB),
        (1000 * GB, 8, 62.5 * GB),
        (100 * GB, 256, GB),
        (16 * GB, 256, GB),
        (8 * GB, 256, GB / 2),
        (8 * GB, 4, GB),
        (GB, 4, GB / 8),
        (GB, 256, GB / 16),
        (100_000_000, 256, 1 << 24),
        (0, 1, 1 << 24),
    ],
)
def test_default_limit_depends_on_free_space(free: int, at_once: int, share: float) -> None:
    assert share_space(free, at_once) == share


SMALL_DISK = """
mount -t tmpfs -o size=200m none "$1" || exit 77
TMPDIR=$1 exec "$2" -m e2v_cli predict "$3" -m sample -o "$4" -j 1 -q --allow-pipes
"""


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
def test_temporary_disk_is_freed_after_each_command(tmp_path: Path) -> None:
    """Without the option, endless commands that would fill the disk together fail one after the other."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    scp = write_list(tmp_path, ["cat /dev/zero |"] * 12)
    become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    words = map(str, (disk, sys.executable, scp, out))
    command = ["unshare", *become_root, "--mount", "bash", "-c", SMALL_DISK, "bash", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")

    assert done.returncode == 3, done.stderr
    assert [line.split("\t")[2] for line in read_failures(out)] == ["too large"] * 12
    assert read_done(out) == ["before", "after"]
