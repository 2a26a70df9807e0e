"""``e2v models``: the family, models on this machine, downloads, and copies for other machines."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.checkpoints import make_model
from support.downloads import assert_not_here
from support.hubs import IMPATIENCE, PLUS_BASE, HubServer, Repository, publish
from support.processes import ROOT, E2v

from e2v_cli.errors import OutputError
from e2v_cli.models.hub import copy_model

pytestmark = pytest.mark.e2e

CLIP = "sample_data/wav/f1-0001.wav"
NAME = "emotion2vec_plus_base"
NEEDED = ["config.yaml", "configuration.json", "model.pt", "tokens.txt"]
SAMPLE = ROOT / "e2v_cli" / "sample"

FAMILY = """\
name                        size           head                   hubs
emotion2vec_plus_seed       base, ~90 M    9 classes              ms hf
emotion2vec_plus_base       base, ~90 M    9 classes              ms hf
emotion2vec_plus_large      large, ~300 M  9 classes              ms hf
emotion2vec_base_finetuned  base           9 classes              ms
emotion2vec_base            base           none: embeddings only  ms hf
sample                      tiny, 0.45 M   9 classes; a toy       in the package
"""

LEGEND = """\
ms: ModelScope, iic/NAME; hf: Hugging Face, emotion2vec/NAME
e2v models NAME: source, licence and citation; folder, revision and SHA-256 in full
e2v's own cache: {}/e2v
"""

PAPER = """
@inproceedings{ma2024emotion2vec,
  title         = {{emotion2vec}: Self-Supervised Pre-Training for Speech Emotion Representation},
  author        = {Ma, Ziyang and Zheng, Zhisheng and Ye, Jiaxin and Li, Jinchao and Gao, Zhifu
                   and Zhang, Shiliang and Chen, Xie},
  booktitle     = {Findings of the Association for Computational Linguistics: {ACL} 2024},
  pages         = {15747--15760},
  year          = {2024},
  doi           = {10.18653/v1/2024.findings-acl.931},
  eprint        = {2312.15185},
  archiveprefix = {arXiv}
}
"""


@pytest.fixture(params=["ms", "hf"])
def hub(request: pytest.FixtureRequest, tiny: Path) -> Iterator[HubServer]:
    """A hub with a tiny emotion2vec_plus_base."""
    with HubServer(request.param, {PLUS_BASE[request.param]: Repository(publish(tiny))}) as server:
        yield server


@pytest.fixture
def run(hub: HubServer, e2v: E2v, tmp_path: Path) -> E2v:
    """Run e2v on a machine with empty caches, whose only hub is the stand-in."""
    own = {"E2V_CACHE": f"{tmp_path / 'e2v'}", "E2V_HUB": hub.protocol}
    return partial(e2v, **hub.environment(tmp_path), **IMPATIENCE, **own)


@pytest.fixture(scope="module")
def rows(tiny: Path, e2v: E2v) -> str:
    """The rows of the model for a clip."""
    done = e2v("predict", CLIP, "-m", tiny)
    assert done.returncode == 0
    return done.stdout


def pull(run: E2v, *options: str | Path, name: str | Path = NAME) -> Path:
    """Pull an available model, and return its folder."""
    done = run("models", "pull", name, *options)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.removesuffix("\n"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_here(text: str) -> list[list[str]]:
    """Read the table of models on this machine."""
    return [re.split(" {2,}", line) for line in text.split("\n\n")[1].splitlines()]


def snapshot(folder: Path) -> dict[str, str]:
    """Return the digest of each file in a folder."""
    return {f"{path.relative_to(folder)}": digest(path) for path in folder.rglob("*") if path.is_file()}


# -- models on this machine --------------------------------------------------------------------------------------------


def test_models_lists_the_family_and_local_models(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    sample = ["sample", "the package", "–", "2 MB", digest(SAMPLE / "model.pt")[:12]]
    with (
        HubServer("ms", {PLUS_BASE["ms"]: Repository(publish(tiny))}) as ms,
        HubServer("hf", {PLUS_BASE["hf"]: Repository(publish(tiny))}) as hf,
    ):
        run = partial(e2v, **{**ms.environment(tmp_path), **hf.environment(tmp_path), "E2V_CACHE": f"{tmp_path}/e2v"})
        nothing = run("models")
        family, _, cache = nothing.stdout.split("\n\n")
        assert (nothing.returncode, nothing.stderr, ms.requests, hf.requests) == (0, "", [], [])
        assert f"{family}\n" == FAMILY
        assert read_here(nothing.stdout)[1:] == [sample]
        assert cache == LEGEND.format(tmp_path)

        for name in ("ms", "hf"):
            pull(run, "--hub", name)
        asked = len(ms.requests + hf.requests)
        done = run("models", "list")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(ms.requests + hf.requests) == asked
    sha256 = digest(tiny / "model.pt")[:12]
    assert done.stdout.startswith(f"{FAMILY}\n")
    assert read_here(done.stdout) == [
        ["here", "from", "revision", "size", "SHA-256 of the weights"],
        sample,
        [NAME, "ModelScope", "master", "2 MB", sha256],
        [NAME, "Hugging Face", hf.commit(PLUS_BASE["hf"])[:12], "2 MB", sha256],
    ]
    assert max(map(len, done.stdout.replace(str(tmp_path), "~").splitlines())) <= 100


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
@pytest.mark.parametrize("damage", ["config.yaml", "configuration.json"])
@pytest.mark.usefixtures("hub")
def test_unusable_model_does_not_hide_the_others(damage: str, run: E2v) -> None:
    folder = pull(run)
    (folder / damage).unlink()
    (folder / damage).write_text("[")
    done = run("models")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(FAMILY)
    _, sample, *others = read_here(done.stdout)
    assert sample[0] == "sample"
    (broken,) = others
    assert broken[0] == NAME
    assert broken[-2:] == ["–", "can't be used"]
    shown = run("models", NAME)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(f"^can't be used  {re.escape(str(folder / damage))}: ", shown.stdout, re.MULTILINE)
    assert "SHA-256" not in shown.stdout


# -- one model ---------------------------------------------------------------------------------------------------------


def test_model_is_shown_with_licence_and_citation(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    """Of each hub, until there is a copy on this machine, which is cited then."""
    facts = f"""\
{NAME}

size          base, ~90 M
head          9 classes
ModelScope    https://www.modelscope.cn/models/iic/{NAME}
Hugging Face  https://huggingface.co/emotion2vec/{NAME}
code          https://github.com/ddlBoJack/emotion2vec
licence       on ModelScope: see the card there
licence       on Hugging Face: model-license (https://github.com/alibaba-damo-academy/FunASR)
"""
    entry = rf"""
@misc{{{NAME},
  title        = {{emotion2vec\_plus\_base}},
  author       = {{{{emotion2vec}}}},
  year         = {{2024}},
  howpublished = {{Hugging Face, \url{{https://huggingface.co/emotion2vec/{NAME}}}}}"""
    with HubServer("hf", {PLUS_BASE["hf"]: Repository(publish(tiny))}) as hub:
        run = partial(e2v, **hub.environment(tmp_path), E2V_CACHE=f"{tmp_path}/e2v")
        absent = run("models", NAME)
        folder = pull(run, "--hub", "hf")
        asked = len(hub.requests)
        present = run("models", "show", PLUS_BASE["hf"])
        assert len(hub.requests) == asked
    revision, sha256 = hub.commit(PLUS_BASE["hf"]), digest(tiny / "model.pt")

    assert absent.stdout == f"{facts}here          no; download it by: e2v models pull {NAME}\n{entry}\n}}\n{PAPER}"
    assert max(map(len, absent.stdout.splitlines())) <= 100
    here = f"""\
here          from Hugging Face, revision {revision}
folder        {folder}
SHA-256       {sha256} (2 MB)
"""
    note = f"  note         = {{revision {revision},\n                  SHA-256 {sha256}}}"
    assert present.stdout == f"{facts}{here}{entry},\n{note}\n}}\n{PAPER}"


def test_model_of_one_hub_and_sample_are_shown(e2v: E2v) -> None:
    finetuned = e2v("models", "emotion2vec_base_finetuned").stdout
    assert "\nlicence     on ModelScope: see the card there\n" in finetuned
    assert "\n  author       = {iic},\n".replace("{iic}", "{{iic}}") in finetuned
    assert "Hugging Face" not in finetuned

    assert (
        e2v("models", "sample").stdout
        == f"""\
sample

size     tiny, 0.45 M
head     9 classes; a toy
source   the package
licence  Apache-2.0, as e2v
here     from the package
folder   {SAMPLE}
SHA-256  {digest(SAMPLE / "model.pt")} (2 MB)
{PAPER}"""
    )


def test_only_models_of_the_family_are_shown(e2v: E2v) -> None:
    done = e2v("models", "./my_model")
    known = (
        "sample, emotion2vec_plus_seed, emotion2vec_plus_base, emotion2vec_plus_large, emotion2vec_base_finetuned, "
        "emotion2vec_base"
    )
    message = f"./my_model: no model of the family ({known}); of any other, its card on the hub has the licence"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"e2v: {message}\n")


# -- pull --------------------------------------------------------------------------------------------------------------


def test_pull_downloads_only_changed_files(hub: HubServer, run: E2v, tmp_path: Path) -> None:
    first = pull(run)
    asked = len(hub.requests)
    assert pull(run) == first
    assert len(hub.requests) > asked
    assert not any(request.path.startswith("/lfs/") for request in hub.requests[asked:])

    new = make_model(tmp_path / "new", seed=1)
    hub.repositories[PLUS_BASE[hub.protocol]].files = publish(new)
    assert digest(pull(run) / "model.pt") == digest(new / "model.pt")


def test_pulled_folder_works_on_another_machine(hub: HubServer, run: E2v, rows: str, tmp_path: Path) -> None:
    carried = tmp_path / "on" / "a disk"
    done = run("models", "pull", NAME, "--to", carried)
    assert (done.returncode, done.stdout) == (0, f"{carried}\n"), done.stderr
    assert sorted(path.name for path in carried.rglob("*")) == ["SHA256SUMS", *NEEDED]
    assert all(path.is_file() and not path.is_symlink() for path in carried.iterdir())
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=carried, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")
    assert sorted(check.stdout.splitlines()) == [f"{name}: OK" for name in NEEDED]

    before = {path: path.stat().st_mtime_ns for path in carried.iterdir() if path.name in NEEDED}
    assert pull(run, "--to", carried) == carried
    assert {path: path.stat().st_mtime_ns for path in before} == before

    if hub.protocol == "ms":
        return  # the copies are the same
    hub.stop()
    elsewhere = {**hub.environment(tmp_path / "elsewhere"), "E2V_CACHE": f"{tmp_path / 'elsewhere' / 'e2v'}"}
    there = run("predict", CLIP, "-m", carried, "--offline", **elsewhere)
    assert (there.returncode, there.stdout) == (0, rows)


def test_incomplete_copy_in_current_folder_is_not_used(hub: HubServer, run: E2v, tiny: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    half = here / NAME
    half.mkdir(parents=True)
    shutil.copy(tiny / "config.yaml", half)

    first = run("models", "pull", NAME, cwd=here)

    assert first.returncode == 0, first.stderr
    assert digest(Path(first.stdout.removesuffix("\n")) / "model.pt") == digest(tiny / "model.pt")
    assert [path.name for path in half.iterdir()] == ["config.yaml"]
    for _ in range(2):
        hub.requests.clear()
        done = run("models", "pull", NAME, "--to", NAME, cwd=here)
        assert (done.returncode, done.stdout) == (0, f"{NAME}\n"), done.stderr
        assert hub.requests
        assert snapshot(half).keys() == {"SHA256SUMS", *NEEDED}
        assert digest(half / "model.pt") == digest(tiny / "model.pt")


EMPTY = "NAME or --to is empty: is a variable of the shell not set?"


@pytest.mark.parametrize(
    ("args", "environment", "message"),
    [
        (("",), {}, EMPTY),
        ((NAME, "--to", ""), {}, EMPTY),
        ((NAME,), {"E2V_TO": ""}, None),
    ],
)
def test_contradictory_pull_is_refused(
    args: tuple[str, ...], environment: dict[str, str], message: str | None, run: E2v, hub: HubServer
) -> None:
    done = run("models", "pull", *args, **environment)
    if message is None:  # an empty variable counts as unset
        assert done.returncode == 0, done.stderr
        return
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"e2v: {message} (see: e2v models pull --help)\n"
    assert hub.requests == []


def test_offline_pull_copies_the_cached_model(hub: HubServer, run: E2v, tmp_path: Path) -> None:
    to = tmp_path / "carried"
    assert_not_here(run("models", "pull", NAME, "--to", to, "--offline"), hub)
    assert not to.exists()
    folder = pull(run)
    hub.stop()
    assert pull(run, "--to", to, "--offline") == to
    done = run("models", to)
    weights = folder / "model.pt"
    size = f"{weights.stat().st_size / 1e6:.0f} MB"
    shown = f"{to}\n\nfolder   {to}\nSHA-256  {digest(weights)} ({size})\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")
    weights.unlink()
    (to / "model.pt").unlink()
    broken = run("models", to)
    assert (broken.returncode, broken.stdout) == (1, "")
    assert str(to) in broken.stderr


@pytest.mark.parametrize("args", [("predict", CLIP, "-m", "sample"), ("models", "pull", "sample")])
def test_the_sample_has_no_revisions(args: tuple[str, ...], e2v: E2v) -> None:
    done = e2v(*args, "--revision", "v1.0")
    message = "e2v: --revision v1.0: sample is a folder here, and has none\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_sample_and_local_folder_are_copied(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    for name, folder in (("sample", SAMPLE), (tiny, tiny)):
        to = tmp_path / folder.name
        assert pull(e2v, "--to", to, name=name) == to
        assert {path.name for path in to.iterdir()} == {"SHA256SUMS", *NEEDED}
        for file in NEEDED:
            assert (to / file).read_bytes() == (folder / file).read_bytes()
        assert pull(e2v, name=name) == folder


def test_another_model_is_not_overwritten(tiny: Path, e2v: E2v, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)
    before = snapshot(other)
    done = e2v("models", "pull", tiny, "--to", other)
    message = f"e2v: {other / 'model.pt'} is there already, and another file: choose another --to, or remove it\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
    assert snapshot(other) == before


def test_unwritable_folder_is_named(tiny: Path, e2v: E2v, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = e2v("models", "pull", tiny, "--to", tmp_path / "file" / "folder")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"e2v: {re.escape(str(tmp_path / 'file'))}\\S*: Not a directory\n", done.stderr)
    assert e2v("models", "pull", tiny, "--to", tmp_path / "file").returncode == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    with pytest.raises(OutputError, match=f"^{re.escape(str(tmp_path / 'theirs'))}/.*: Permission denied$"):
        copy_model(tiny, tmp_path / "theirs")


def test_links_are_copied_as_files(tiny: Path, tmp_path: Path) -> None:
    """Links of Hugging Face's cache lead out of the snapshot's folder."""
    shutil.copytree(tiny, tmp_path / "blobs")
    folder = tmp_path / "snapshots" / "0123"
    folder.mkdir(parents=True)
    for name in NEEDED:
        (folder / name).symlink_to(f"../../blobs/{name}")
    copy_model(folder, tmp_path / "to")
    sums = (tmp_path / "to" / "SHA256SUMS").read_text()
    assert sorted(sums.splitlines()) == sorted(f"{digest(tiny / name)}  {name}" for name in NEEDED)
    assert snapshot(tmp_path / "to").keys() == {"SHA256SUMS", *NEEDED}
    assert not any(path.is_symlink() for path in (tmp_path / "to").iterdir())


# -- names in configuration.json ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metas", "problem"),
    [
        ({"init_param": "../evil.pt"}, "'../evil.pt' lies outside the model's folder"),
        ({"init_param": "/tmp/evil.pt"}, "'/tmp/evil.pt' lies outside the model's folder"),  # noqa: S108 — not used
        ({"config": "conf/../../evil"}, "'conf/../../evil' lies outside the model's folder"),
        ({"tokenizer_conf": {"token_list": "../evil"}}, "'../evil' lies outside the model's folder"),
        ({"remote_code": "model.py"}, "remote_code is 'model.py', but e2v runs no code from a model's folder"),
        ({"trust_remote_code": True}, "trust_remote_code is True, but e2v runs no code from a model's folder"),
    ],
)
def test_unsafe_configuration_of_a_hub_model_is_refused(
    metas: dict[str, object], problem: str, tiny: Path, e2v: E2v, tmp_path: Path
) -> None:
    """On Hugging Face, whose package starts sooner; e2v checks the file before it requests the files named there."""
    configuration = json.dumps({"file_path_metas": metas}).encode()
    evil = {"../evil.pt": b"evil", "../evil": b"evil", "model.py": b"raise SystemExit"}
    files = {**publish(tiny), **evil, "configuration.json": configuration}
    home, to = tmp_path / "home", tmp_path / "carried"
    with HubServer("hf", {PLUS_BASE["hf"]: Repository(files)}) as hub:
        environment = {**hub.environment(home), "E2V_CACHE": f"{home / 'e2v'}"}
        done = e2v("models", "pull", NAME, "--hub", "hf", "--to", to, **environment)
        asked = " ".join(request.path for request in hub.requests)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"/configuration.json: {problem}" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert not list(home.rglob("*evil*"))
    assert "evil" not in asked
    assert "model.py" not in asked


def test_files_named_by_the_configuration_are_pulled(
    hub: HubServer, run: E2v, rows: str, tiny: Path, tmp_path: Path
) -> None:
    metas = {"init_param": "weights/best.pt", "config": "conf.yaml", "tokenizer_conf": {"token_list": "labels.txt"}}
    hub.repositories[PLUS_BASE[hub.protocol]].files = {
        "configuration.json": json.dumps({"file_path_metas": metas}).encode(),
        "weights/best.pt": tiny / "model.pt",
        "weights/last.pt": b"other weights",
        "conf.yaml": tiny / "config.yaml",
        "labels.txt": tiny / "tokens.txt",
        "[x].txt": b"",
    }
    to = tmp_path / "carried"
    pull(run, "--to", to)
    assert snapshot(to).keys() == {"SHA256SUMS", "configuration.json", "conf.yaml", "labels.txt", "weights/best.pt"}
    assert "last.pt" not in " ".join(request.path for request in hub.requests)

    if hub.protocol == "ms":
        return  # the copies are the same
    hub.stop()
    shutil.rmtree(tmp_path / "e2v")
    done = run("predict", CLIP, "--offline")
    assert (done.returncode, done.stdout) == (0, rows)
    assert run("predict", CLIP, "-m", to).stdout == rows
