"""Models by name: the hubs' real packages download them from stand-ins on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from support.checkpoints import make_config, make_model
from support.downloads import CLIP, NAME, TITLES, assert_not_here, assert_refused, assert_same, digest, pull, remedy
from support.hubs import IMPATIENCE, PLUS_BASE, HubServer, Repository, publish
from support.processes import ROOT, E2v, hook

from e2v_cli.errors import ModelError, UsageError
from e2v_cli.models.hub import RemoteModel, find_remote
from e2v_cli.options import HubName, ModelRequest

# -- by name -----------------------------------------------------------------------------------------------------------


def test_a_model_is_downloaded_once(hub: HubServer, run: E2v, rows: str, tiny: Path, tmp_path: Path) -> None:
    first = run("predict", CLIP)
    assert (first.returncode, first.stdout) == (0, rows)
    hub_name = f"{TITLES[hub.protocol]} ({hub.url})"
    assert first.stderr.startswith(
        f"e2v: looking for {PLUS_BASE[hub.protocol]} on {hub_name}\ne2v: 1 utterance: 1 done"
    )
    (weights,) = tmp_path.rglob("snapshots/*/model.pt")
    assert_same(weights.parent, tiny)
    asked = " ".join(request.path for request in hub.requests)
    assert not re.search("README|requirements|example|safetensors", asked)

    hub.stop()
    again = run("predict", CLIP)
    assert (again.returncode, again.stdout) == (0, rows)
    assert again.stderr.startswith("e2v: 1 utterance: 1 done")


def test_downloaded_model_gives_the_same_results_as_its_folder(
    e2v: E2v, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 50 MB, which come in several parts."""
    config = make_config(embed_dim=384, num_heads=6, prenet_depth=2, depth=4, channels=256)
    model = make_model(tmp_path / "model", config)
    options = (CLIP, "-j", "1", "--embeddings", "ark", "-o")
    local = tmp_path / "local"
    assert e2v("predict", *options, local, "-m", model).returncode == 0
    for hub_name in ("ms", "hf"):
        home, out = tmp_path / hub_name, tmp_path / f"{hub_name}-out"
        with HubServer(hub_name, {PLUS_BASE[hub_name]: Repository(publish(model))}) as hub:
            for name in ("E2V_CACHE", "XDG_CACHE_HOME", *hub.environment(home)):
                monkeypatch.delenv(name, raising=False)
            set_ = {name: value for name, value in hub.environment(home).items() if "ENDPOINT" in name}
            around = {"HOME": f"{home}", "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1,localhost"}
            done = e2v("predict", *options, out, "-m", NAME, "--hub", hub_name, **around, **set_)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        for name in ("predictions.tsv", "embeddings.1-of-1.1.ark"):
            assert (out / name).read_bytes() == (local / name).read_bytes()
        folders = {path.name for path in (home / ".cache").iterdir()}
        assert folders >= {"e2v", {"ms": "modelscope", "hf": "huggingface"}[hub_name]}
        shutil.rmtree(home)


@pytest.mark.parametrize(
    ("name", "hub_name", "model_id"),
    [
        ("emotion2vec_plus_seed", "ms", "iic/emotion2vec_plus_seed"),
        ("emotion2vec_plus_base", "ms", "iic/emotion2vec_plus_base"),
        ("emotion2vec_plus_large", "ms", "iic/emotion2vec_plus_large"),
        ("emotion2vec_base_finetuned", "ms", "iic/emotion2vec_base_finetuned"),
        ("emotion2vec_base", "ms", "iic/emotion2vec_base"),
        ("emotion2vec_plus_seed", "hf", "emotion2vec/emotion2vec_plus_seed"),
        ("emotion2vec_plus_base", "hf", "emotion2vec/emotion2vec_plus_base"),
        ("emotion2vec_plus_large", "hf", "emotion2vec/emotion2vec_plus_large"),
        ("emotion2vec_base", "hf", "emotion2vec/emotion2vec_base"),
        ("iic/emotion2vec_plus_large", "hf", "emotion2vec/emotion2vec_plus_large"),
        ("emotion2vec/emotion2vec_plus_large", "ms", "iic/emotion2vec_plus_large"),
        ("iic/emotion2vec_plus_large", "ms", "iic/emotion2vec_plus_large"),
        ("my-lab/emotion2vec.v2_tuned", "ms", "my-lab/emotion2vec.v2_tuned"),
        ("my-lab/emotion2vec.v2_tuned", "hf", "my-lab/emotion2vec.v2_tuned"),
    ],
)
def test_names_and_ids_resolve_on_the_chosen_hub(name: str, hub_name: HubName, model_id: str) -> None:
    assert find_remote(ModelRequest(name, hub_name, "v1.0")) == RemoteModel(hub_name, model_id, "v1.0")


@pytest.mark.parametrize(
    "name", ["emotion2vec", "a/b/c", "../model", "/no/such/folder", "./model", "a/../b", "a/..", "-a/b", "a/b c", "a/"]
)
def test_unknown_names_are_refused(name: str) -> None:
    family = "emotion2vec_plus_seed, emotion2vec_plus_base, emotion2vec_plus_large, emotion2vec_base_finetuned"
    message = f"{name}: no such folder, and no model of that name (known: sample, {family}, emotion2vec_base)"
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        find_remote(ModelRequest(name))


@pytest.mark.parametrize("name", ["emotion2vec_base_finetuned", "iic/emotion2vec_base_finetuned"])
def test_model_missing_from_the_chosen_hub_is_refused(name: str, e2v: E2v) -> None:
    done = e2v("predict", CLIP, "-m", name, "--hub", "hf")
    message = "e2v: emotion2vec_base_finetuned is not on Hugging Face: choose --hub ms\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.parametrize("revision", ["../../x", "v1/../../x", "/etc", "-x", "", "a b", "a\nb", ".."])
def test_invalid_revisions_are_refused(revision: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(f'--revision {revision!r}: not a branch, tag or commit')}$"):
        find_remote(ModelRequest(NAME, "ms", revision))


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "feature/a-b", "0311d2c204e2", "v1.0+cpu"])
def test_branches_tags_and_commits_are_revisions(revision: str) -> None:
    assert find_remote(ModelRequest(NAME, "hf", revision)).revision == revision


def test_a_folder_has_no_revisions(tiny: Path, e2v: E2v) -> None:
    done = e2v("predict", CLIP, "-m", tiny, "--revision", "v1.0")
    message = f"e2v: --revision v1.0: {tiny} is a folder here, and has none\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_a_revision_has_its_own_weights(hub: HubServer, run: E2v, tiny: Path, tmp_path: Path) -> None:
    model = PLUS_BASE[hub.protocol]
    old = make_model(tmp_path / "old", seed=1)
    hub.repositories[model].revisions["v1.0"] = publish(old)
    assert_same(pull(run), tiny)
    assert_same(pull(run, "--revision", "v1.0"), old)
    for environment, weights in (({"E2V_REVISION": "v1.0"}, old), ({}, tiny)):
        out = tmp_path / f"out-{weights.name}"
        assert run("predict", CLIP, "-o", out, E2V_OFFLINE="1", **environment).returncode == 0
        assert json.loads((out / "run.json").read_text())["model"]["sha256"] == digest(weights / "model.pt")
    missing = {
        "ms": "it has no config.yaml and no model.pt: not a model in FunASR's format, or no such revision",
        "hf": "no such revision",
    }
    assert_refused(run("models", "pull", NAME, "--revision", "v9"), hub, missing[hub.protocol], revision="v9")


def test_cached_revision_is_not_used_as_the_newest(hub: HubServer, run: E2v, tiny: Path) -> None:
    model = hub.repositories[PLUS_BASE[hub.protocol]]
    model.revisions["v1.0"] = {**model.files, "config.yaml": (tiny / "config.yaml").read_bytes() + b"\n"}
    pull(run, "--revision", "v1.0")
    assert_not_here(run("predict", CLIP, "--offline"), hub)


CACHES = {
    "ms": ["MODELSCOPE_CACHE", "HOME"],
    "hf": ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"],
}
"""The variables that move the caches of the hubs' packages."""


@pytest.mark.parametrize(("hub", "variable"), [(h, name) for h in CACHES for name in CACHES[h]], indirect=["hub"])
def test_model_is_used_with_the_cache_that_has_it(
    variable: str, hub: HubServer, e2v: E2v, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CACHES[hub.protocol]:
        monkeypatch.delenv(name, raising=False)
    given = hub.environment(tmp_path)
    around = {name: value for name, value in given.items() if name not in CACHES[hub.protocol]}
    run = partial(e2v, **IMPATIENCE, **{**around, "E2V_HUB": hub.protocol, "E2V_CACHE": f"{tmp_path / 'e2v'}"})
    full, empty, link = (tmp_path / name for name in ("full", "empty", "link"))
    link.symlink_to(full)

    assert full in pull(run, **{variable: f"{full}"}).parents
    hub.stop()
    assert_not_here(run("predict", CLIP, "--offline", **{variable: f"{empty}"}), hub)
    mirror = {"ms": "MODELSCOPE_ENDPOINT", "hf": "HF_ENDPOINT"}[hub.protocol]
    done = run("predict", CLIP, **{variable: f"{full}", mirror: "http://127.0.0.1:9"})  # of which caches know nothing
    assert (done.returncode, done.stdout) == (0, rows), done.stderr
    if variable == CACHES[hub.protocol][0]:
        assert run("predict", CLIP, "--offline", **{variable: f"{link}"}).stdout == rows
        link.unlink()
        link.symlink_to(empty)
        assert_not_here(run("predict", CLIP, "--offline", **{variable: f"{link}"}), hub)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_missing_model_is_refused(hub: HubServer, run: E2v) -> None:
    problem = {"ms": "no such model", "hf": "no such model, or it is private: set HF_TOKEN"}
    assert_refused(run("predict", CLIP, "-m", "my/own"), hub, problem[hub.protocol], model="my/own")


def test_gated_model_needs_a_token(hub: HubServer, run: E2v, tiny: Path) -> None:
    model = PLUS_BASE[hub.protocol]
    hub.repositories[model].gated = True
    page, variable = {"ms": ("on its page", "MODELSCOPE_API_TOKEN"), "hf": (f"at {hub.url}/{model}", "HF_TOKEN")}[
        hub.protocol
    ]
    problem = f"access is restricted: ask for it {page}, and set {variable}"
    assert_refused(run("models", "pull", NAME), hub, problem)
    wrong = run("models", "pull", NAME, **{variable: "wrong"})
    assert_refused(wrong, hub, f"{problem}, which does not open it now")
    assert_same(pull(run, **{variable: "sesame"}), tiny)


def test_interrupted_download_resumes(hub: HubServer, run: E2v, tiny: Path) -> None:
    hub.cut_after = 500_000
    assert_same(pull(run), tiny)
    bodies = [request for request in hub.requests if request.path.startswith("/lfs/")]
    assert len(bodies) == 2
    if hub.protocol == "ms":
        assert bodies[1].range == "bytes=500000-"


def test_corrupt_weights_are_refused_and_deleted(hub: HubServer, run: E2v, tiny: Path, tmp_path: Path) -> None:
    hub.corrupt = True
    done = run("models", "pull", NAME, MODELSCOPE_DOWNLOAD_MAX_RETRIES="0")
    assert_refused(done, hub, "model.pt: the download differs from what the hub lists; try again")
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert max(sizes) < (tiny / "model.pt").stat().st_size
    assert_not_here(run("predict", CLIP, "--offline"), hub)
    hub.corrupt = False
    assert_same(pull(run), tiny)


def test_unreachable_hub_is_reported(hub: HubServer, run: E2v, tmp_path: Path) -> None:
    folder = pull(run)
    hub.stop()
    assert_refused(run("models", "pull", NAME), hub, "Connection refused")  # a pull always asks the hub
    (folder / "tokens.txt").unlink()
    assert_refused(run("predict", CLIP), hub, "Connection refused")
    elsewhere = hub.environment(tmp_path / "elsewhere")
    assert_refused(run("models", "pull", NAME, **elsewhere), hub, "Connection refused")


def test_server_error_is_reported(hub: HubServer, run: E2v, tiny: Path) -> None:
    hub.status = 503
    assert_refused(run("models", "pull", NAME), hub, "the hub answered with status 503")
    hub.status = None
    assert_same(pull(run), tiny)


@pytest.mark.parametrize("hub", ["ms"], indirect=True)
def test_stalled_download_is_reported_in_english(hub: HubServer, run: E2v) -> None:
    """Only ModelScope's: Hugging Face's package retries for half a minute before "timed out"."""
    hub.delay = 1e6
    done = run("models", "pull", NAME, MODELSCOPE_DOWNLOAD_MAX_RETRIES="0", MODELSCOPE_DOWNLOAD_TIMEOUT="1")
    assert (done.returncode, done.stdout) == (1, "")
    said = re.escape(f"e2v: iic/{NAME} can't be downloaded from ModelScope ({hub.url}): model.pt: ")
    assert re.search(f"^{said}.*timed out\\W*$", done.stderr, re.M), done.stderr
    assert done.stderr.isascii()
    assert done.stderr.endswith(remedy(hub, PLUS_BASE["ms"]))


MISSING_PACKAGES = """
import sys
for name in ("huggingface_hub", "modelscope", "modelscope.hub", "modelscope.hub.snapshot_download"):
    sys.modules[name] = None
"""


def test_broken_hub_package_is_reported_once(hub: HubServer, run: E2v, tmp_path: Path) -> None:
    broken = hook(tmp_path / "hook", MISSING_PACKAGES)
    module = {"ms": "modelscope.hub.snapshot_download", "hf": "huggingface_hub"}[hub.protocol]
    problem = f"its package can't be imported: import of {module} halted; None in sys.modules; install it again"
    assert_refused(run("models", "pull", NAME, **broken), hub, problem)
    assert_refused(run("predict", CLIP, **broken), hub, problem)
    assert hub.requests == []


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://127.0.0.1:port", "Port could not be cast to integer value as 'port'"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_invalid_endpoint_is_reported(endpoint: str, reason: str, environment: dict[str, str], e2v: E2v) -> None:
    done = e2v("models", "pull", NAME, **{**environment, "HF_ENDPOINT": endpoint})
    assert (done.returncode, done.stdout) == (1, "")
    said = f"can't be downloaded from Hugging Face ({endpoint}): its package failed: ValueError: {reason}\n"
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
@pytest.mark.usefixtures("hub")
def test_empty_endpoint_means_the_default(run: E2v) -> None:
    done = run("models", "pull", NAME, HF_ENDPOINT="", https_proxy="http://127.0.0.1:9", NO_PROXY="")
    assert done.returncode == 1
    assert "can't be downloaded from Hugging Face (https://huggingface.co): Connection refused\n" in done.stderr


def test_file_as_a_model_is_refused(tiny: Path, e2v: E2v) -> None:
    done = e2v("predict", ROOT / CLIP, "-m", "model.pt", cwd=tiny)
    message = "e2v: model.pt is a file: name the model's folder\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
@pytest.mark.parametrize("start", ["console script", "python -c"])
def test_modules_in_the_current_folder_are_not_imported(
    start: str, environment: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    here, ran, script = tmp_path / "here", tmp_path / "ran", tmp_path / "bin" / "e2v"
    here.mkdir()
    script.parent.mkdir()
    code = "from e2v_cli.__main__ import main; main()"
    script.write_text(code)
    names = ["huggingface_hub", "tqdm", "requests"]  # modules that e2v itself doesn't import
    if start == "console script":
        names += ["json", "logging", "yaml", "sitecustomize", "usercustomize", "e2v_cli"]
    for name in names:
        (here / f"{name}.py").write_text(f"import os; os.mkdir({str(ran)!r})")

    done = subprocess.run(
        [sys.executable, *([script] if start == "console script" else ["-c", code]), "models", "pull", NAME],
        cwd=here,
        env={**os.environ, "PYTHONPATH": f"{ROOT}", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert_same(Path(done.stdout.removesuffix("\n")), tiny)
    assert not ran.exists()


@pytest.mark.parametrize("hub", ["hf"], indirect=True)
def test_hf_hub_offline_is_respected(hub: HubServer, run: E2v) -> None:
    assert_refused(run("predict", CLIP, HF_HUB_OFFLINE="1"), hub, "HF_HUB_OFFLINE is set")
    assert hub.requests == []


FULL_DISK = """
mount -t tmpfs -o size=1m none "$1" || exit 77
"$2" -m e2v_cli models pull emotion2vec_plus_base
echo $?
mount -o remount,size=64m "$1"
"$2" -m e2v_cli models pull emotion2vec_plus_base
"""


@pytest.mark.usefixtures("hub")
@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
def test_full_disk_is_reported(environment: dict[str, str], tmp_path: Path) -> None:
    become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *become_root, "--mount", "bash", "-c", FULL_DISK, "bash", str(tmp_path), sys.executable]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}", **environment}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    code, folder = done.stdout.splitlines()
    assert (done.returncode, code) == (0, "1"), done.stderr
    assert folder.startswith(f"{tmp_path}")
    assert "Traceback" not in done.stderr
    assert re.search(r"^e2v: .*\): .*No space left on device: set \w+ to another folder$", done.stderr, re.M)
