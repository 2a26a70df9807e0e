"""Malicious model folders: none of their code is run, and no file outside them is read."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.audio_files import encode, noisy_tone
from support.checkpoints import make_config, make_model
from support.processes import E2v

pytestmark = pytest.mark.e2e


class Boom:
    """An object that creates a folder when a careless loader unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of a model that a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    path.write_bytes(encode(noisy_tone(16_000)))
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """The folder that malicious code would create."""
    return tmp_path / "ran"


def set_metas(folder: Path, **metas: str) -> None:
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    config = make_config()
    edit(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config).replace("'1e-05'", "1e-05"))


def python_code(canary: Path) -> str:
    return f"__import__('os').mkdir({str(canary)!r})"


Attack = Callable[[Path, Path], str]
"""Makes a model folder malicious: its code would create the canary. Returns the message after the folder's path."""


def pickled_code(folder: Path, canary: Path, name: str = "model.pt") -> str:
    torch.save({"model": Boom(canary)}, folder / name)
    return (
        f"/{name} holds posix.mkdir, which could run code when read, so it was not: "
        "save the checkpoint again as torch.save({'model': state_dict}) where you trust it"
    )


def pickled_code_in_another_file(folder: Path, canary: Path) -> str:
    set_metas(folder, init_param="weights/best.bin")
    (folder / "weights").mkdir()
    return pickled_code(folder, canary, "weights/best.bin")


def pickled_code_of_an_old_torch(folder: Path, canary: Path) -> str:
    torch.save({"model": Boom(canary)}, folder / "model.pt", _use_new_zipfile_serialization=False)
    return "/model.pt holds posix.mkdir, which could run code when read, so it was not: "


def code_in_the_spec(folder: Path, canary: Path) -> str:
    spec = f"[(64, 10, 5)] if {python_code(canary)} else []"
    edit_config(folder, lambda config: config["model_conf"]["modalities"]["audio"].update(feature_encoder_spec=spec))
    return (
        f"/config.yaml: feature_encoder_spec {spec[:80]!r} is not a list like "
        "'[(512, 10, 5)] + [(512, 3, 2)] * 4'; it was not run"
    )


def yaml_tag(folder: Path, canary: Path) -> str:
    with (folder / "config.yaml").open("a") as file:
        file.write(f"more: !!python/object/apply:os.mkdir [{canary}]\n")
    return "/config.yaml: not plain YAML: could not determine a constructor for the tag"


def requirements(folder: Path, _: Path) -> str:
    (folder / "requirements.txt").write_text("left-pad\n")
    return (
        "/requirements.txt: e2v installs no packages for a model: remove the file if you trust the rest of the folder"
    )


def dangling_requirements(folder: Path, canary: Path) -> str:
    (folder / "requirements.txt").symlink_to(canary)
    return "/requirements.txt: e2v installs no packages for a model: "


def write_module(folder: Path, canary: Path) -> None:
    (folder / "model.py").write_text(python_code(canary))


REFUSED_CODE = (
    "but e2v runs no code from a model's folder, and none is needed for emotion2vec: "
    "remove the key if you trust the rest of the folder"
)


def trust_in_config(folder: Path, canary: Path) -> str:
    write_module(folder, canary)
    edit_config(folder, lambda config: config.update(trust_remote_code=True, remote_code="./model.py"))
    return f"/config.yaml: trust_remote_code is True, {REFUSED_CODE}"


def code_in_config(folder: Path, canary: Path) -> str:
    write_module(folder, canary)
    edit_config(folder, lambda config: config.update(remote_code="./model.py"))
    return f"/config.yaml: remote_code is './model.py', {REFUSED_CODE}"


def code_in_configuration(folder: Path, canary: Path) -> str:
    write_module(folder, canary)
    set_metas(folder, remote_code="model.py")
    return f"/configuration.json: remote_code is 'model.py', {REFUSED_CODE}"


def trust_in_configuration(folder: Path, canary: Path) -> str:
    write_module(folder, canary)
    (folder / "configuration.json").write_text(json.dumps({"trust_remote_code": True, "remote_code": "./model.py"}))
    return f"/configuration.json: trust_remote_code is True, {REFUSED_CODE}"


ATTACKS: list[Attack] = [
    trust_in_configuration,
    *(pickled_code, pickled_code_in_another_file, pickled_code_of_an_old_torch, code_in_the_spec, yaml_tag),
    *(requirements, dangling_requirements, trust_in_config, code_in_config, code_in_configuration),
]


def assert_refused(e2v: E2v, message: str, *args: str | Path) -> None:
    """Check that a command fails with only this message."""
    done = e2v(*args)
    said = [line for line in done.stderr.splitlines() if line.startswith("e2v: ")]
    assert (done.returncode, done.stdout, len(said)) == (1, "", 1), done.stderr
    assert said[0].startswith(f"e2v: {message}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("attack", ATTACKS)
def test_predict_runs_no_code_of_a_model(attack: Attack, e2v: E2v, folder: Path, wav: Path, canary: Path) -> None:
    message = attack(folder, canary)

    assert_refused(e2v, f"{folder}{message}", "predict", wav, "-m", folder, "-j", "1")

    assert not canary.exists()


@pytest.mark.parametrize("attack", [pickled_code, code_in_the_spec, code_in_config, requirements])
def test_funasr_engine_and_check_run_no_code_of_a_model(
    attack: Attack, e2v: E2v, folder: Path, wav: Path, canary: Path
) -> None:
    message = attack(folder, canary)

    assert_refused(e2v, f"{folder}{message}", "predict", wav, "-m", folder, "-j", "1", "--engine", "funasr")
    assert_refused(e2v, f"{folder}{message}", "check", wav, "-m", folder)

    assert not canary.exists()


@pytest.mark.parametrize("attack", [code_in_the_spec, yaml_tag, code_in_config, trust_in_configuration, requirements])
def test_pull_refuses_malicious_models(attack: Attack, e2v: E2v, folder: Path, canary: Path, tmp_path: Path) -> None:
    message = attack(folder, canary)

    assert_refused(e2v, f"{folder}{message}", "models", "pull", folder, "--to", tmp_path / "copy")

    assert not canary.exists()
    assert not (tmp_path / "copy").exists()


def test_pull_copies_only_files_of_the_model(e2v: E2v, folder: Path, canary: Path, tmp_path: Path) -> None:
    write_module(folder, canary)

    assert e2v("models", "pull", folder, "--to", tmp_path / "copy").returncode == 0

    assert not canary.exists()
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [
        *("SHA256SUMS", "config.yaml", "configuration.json", "model.pt", "tokens.txt"),
    ]


def test_code_beside_a_model_is_ignored(e2v: E2v, folder: Path, wav: Path, canary: Path) -> None:
    """The files have the names of imported modules."""
    for name in ("model.py", "torch.py", "yaml.py", "funasr.py", "sitecustomize.py", "conftest.py"):
        (folder / name).write_text(python_code(canary))

    done = e2v("predict", wav, "-m", folder, "-j", "1")

    assert done.returncode == 0, done.stderr
    assert not canary.exists()


# -- paths -------------------------------------------------------------------------------------------------------------

KEYS = ("config", "init_param", "token_list")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret"])
def test_configured_path_outside_the_folder_is_refused(
    key: str, name: str, e2v: E2v, folder: Path, wav: Path, tmp_path: Path
) -> None:
    set_metas(folder, **{key: name})
    message = f"{folder}/configuration.json: {name!r} lies outside the model's folder"

    assert_refused(e2v, message, "predict", wav, "-m", folder)
    if key == "config":
        assert_refused(e2v, message, "models", "pull", folder, "--to", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


FILES = ("config.yaml", "model.pt", "tokens.txt", "configuration.json")


@pytest.mark.parametrize("name", FILES)
def test_link_out_of_the_folder_is_refused(name: str, e2v: E2v, folder: Path, wav: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)
    message = f"{folder}/{name} is a link to {secret}, outside the model's folder: copy the file there"

    assert_refused(e2v, message, "predict", wav, "-m", folder)
    assert_refused(e2v, message, "models", "pull", folder, "--to", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_pull_refuses_a_link_of_unused_labels(e2v: E2v, tmp_path: Path) -> None:
    """A model without labels does not read the file, but pull would copy it."""
    folder = make_model(tmp_path / "model", make_config(tokenizer=False))
    (tmp_path / "secret").write_text("secret")
    (folder / "tokens.txt").symlink_to(tmp_path / "secret")

    message = f"{folder}/tokens.txt is a link to {tmp_path}/secret, outside the model's folder: copy the file there"
    assert_refused(e2v, message, "models", "pull", folder, "--to", tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_linked_subfolder_outside_the_folder_is_refused(e2v: E2v, folder: Path, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (folder / "model.pt").rename(tmp_path / "secrets" / "model.pt")
    (folder / "weights").symlink_to(tmp_path / "secrets")
    set_metas(folder, init_param="weights/model.pt")

    assert_refused(
        e2v,
        f"{folder}/weights/model.pt is a link to {tmp_path}/secrets/model.pt, outside the model's folder: ",
        *("predict", wav, "-m", folder),
    )


def test_links_within_the_folder_are_followed(e2v: E2v, folder: Path, wav: Path) -> None:
    (folder / "data").mkdir()
    for name in FILES:
        (folder / name).rename(folder / "data" / name)
        (folder / name).symlink_to(Path("data", name))

    assert e2v("predict", wav, "-m", folder, "-j", "1").returncode == 0


def test_link_to_a_model_folder_is_followed(e2v: E2v, folder: Path, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)

    assert e2v("predict", wav, "-m", tmp_path / "link", "-j", "1").returncode == 0


def hugging_face_cache(folder: Path, root: Path) -> Path:
    """Lay out a model as in Hugging Face's cache: a snapshot of links to blobs."""
    snapshot = root / "models--me--mine" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    blobs = root / "models--me--mine" / "blobs"
    blobs.mkdir()
    for number, name in enumerate(FILES):
        (folder / name).rename(blobs / f"{number:064x}")
        (snapshot / name).symlink_to(Path("..", "..", "blobs", f"{number:064x}"))
    return snapshot


def test_hugging_face_snapshot_is_a_model(e2v: E2v, folder: Path, wav: Path, tmp_path: Path) -> None:
    snapshot = hugging_face_cache(folder, tmp_path)

    assert e2v("predict", wav, "-m", snapshot, "-j", "1").returncode == 0
    assert e2v("models", "pull", snapshot, "--to", tmp_path / "copy").returncode == 0

    assert all(not path.is_symlink() for path in (tmp_path / "copy").iterdir())
    assert e2v("predict", wav, "-m", tmp_path / "copy", "-j", "1").returncode == 0


def test_snapshot_with_links_to_other_blobs_is_refused(e2v: E2v, folder: Path, wav: Path, tmp_path: Path) -> None:
    other = tmp_path / "models--me--other" / "blobs"
    other.mkdir(parents=True)
    snapshot = hugging_face_cache(folder, tmp_path)
    (snapshot / "tokens.txt").resolve().rename(other / "tokens")
    (snapshot / "tokens.txt").unlink()
    (snapshot / "tokens.txt").symlink_to(other / "tokens")

    assert_refused(
        e2v,
        f"{snapshot}/tokens.txt is a link to {other}/tokens, outside the model's folder: copy the file there",
        *("predict", wav, "-m", snapshot),
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "nothing"])
def test_special_files_do_not_block(kind: str, name: str, e2v: E2v, folder: Path, wav: Path) -> None:
    path = folder / name
    path.unlink()
    match kind:
        case "device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "nothing":
            path.symlink_to(path)

    done = e2v("predict", wav, "-m", folder, "-j", "1")

    if (kind, name) == ("nothing", "configuration.json"):  # it may be missing
        assert done.returncode == 0, done.stderr
    elif (kind, name) == ("nothing", "tokens.txt"):  # a model with only embeddings
        assert (done.returncode, "(its tokens.txt is missing)" in done.stderr) == (2, True)
    else:
        assert (done.returncode, done.stderr.startswith(f"e2v: {path}")) == (1, True)


# -- large or odd values -----------------------------------------------------------------------------------------------


def test_yaml_alias_bomb_is_refused(e2v: E2v, folder: Path, wav: Path) -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12)]
    config = (folder / "config.yaml").read_text().replace("\n  depth: 2", "\n  depth: *a11")
    (folder / "config.yaml").write_text("\n".join([*layers, config]))

    done = e2v("predict", wav, "-m", folder)

    message = f"e2v: {folder}/config.yaml: its aliases make more than 100000 values of it\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


BOMBS = {
    "lists": ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]" for number in range(1, 12)],
    "mappings": ["a0: &a0 {x: 1}"]
    + [
        f"a{number}: &a{number} {{{', '.join(f'k{key}: *a{number - 1}' for key in range(9))}}}"
        for number in range(1, 12)
    ],
    "itself": ["a11: &a11 {me: *a11}"],
    "merge keys": ["a0: &a0 {x: 1}"]
    + [f"a{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 9)}]}}" for number in range(1, 12)],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_yaml_alias_bomb_in_unused_keys_is_refused(kind: str, e2v: E2v, folder: Path, wav: Path) -> None:
    """Upstream's code gets a copy of model_conf."""
    config = (folder / "config.yaml").read_text().replace("\n  depth: 2", "\n  depth: 2\n  more: *a11")
    assert "more:" in config
    (folder / "config.yaml").write_text("\n".join([*BOMBS[kind], config]))

    for command in (("predict",), ("predict", "--engine", "funasr"), ("check",)):
        started = time.monotonic()
        done = e2v(*command, wav, "-m", folder)
        reason = "its aliases make more than 100000 values of it"
        if kind == "merge keys":
            reason = "not plain YAML: it has merge keys (<<)"
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"e2v: {folder}/config.yaml: {reason}\n"
        assert time.monotonic() - started < 60


@pytest.mark.parametrize("value", ["2001-99-99", "1" * 5_000, "0x", "1e400", "!!binary x", "!!timestamp x"])
def test_invalid_yaml_scalars_are_refused(value: str, e2v: E2v, folder: Path, wav: Path) -> None:
    with (folder / "config.yaml").open("a") as file:
        file.write(f"scope_map: {value}\n")

    assert_refused(e2v, f"{folder}/config.yaml: ", "predict", wav, "-m", folder)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["", ".", "a\nb", "\x1b[2Jmodel.pt", "a\tb", "a\x7fb", "a\u202eb"])
def test_confusing_file_names_are_refused(name: str, key: str, e2v: E2v, folder: Path, wav: Path) -> None:
    set_metas(folder, **{key: name})

    assert_refused(e2v, f"{folder}/configuration.json: {name!r} is not a file name", "predict", wav, "-m", folder)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800"])
def test_impossible_file_names_are_refused(name: str, e2v: E2v, folder: Path, wav: Path) -> None:
    set_metas(folder, init_param=name)

    assert_refused(e2v, str(folder), "predict", wav, "-m", folder)
