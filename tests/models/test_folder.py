"""Model folders: their files, their labels, and the messages for refused ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.audio_files import encode, noisy_tone
from support.checkpoints import TOKENS, make_model, refusal
from support.downloads import CLIP
from support.processes import E2v, hook

from e2v_cli.errors import ModelError
from e2v_cli.models.folder import read_model
from e2v_cli.models.hub import find_model
from e2v_cli.options import LabelLanguage, ModelRequest


def test_folder_without_configuration_json_is_read(tiny: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "configuration.json").unlink()
    assert read_model("test", folder).labels == read_model("test", tiny).labels


def test_configuration_json_that_cannot_be_reached_does_not_pass_for_missing(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "configuration.json").unlink()
    (folder / "configuration.json").symlink_to("x" * 300)

    with pytest.raises(OSError, match="File name too long"):
        read_model("test", folder)


def test_files_may_have_other_names(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    for old, new in (("model.pt", "best.pt"), ("tokens.txt", "emotions.txt"), ("config.yaml", "net.yaml")):
        (folder / old).rename(folder / new)
    metas = {"init_param": "best.pt", "config": "net.yaml", "tokenizer_conf": {"token_list": "emotions.txt"}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    model = read_model("test", folder)
    assert model.weights == folder / "best.pt"
    assert len(model.labels) == 9


def test_tokens_may_be_json(tiny: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    tokens = (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()
    (folder / "tokens.json").write_text(json.dumps(tokens))
    metas = {"init_param": "model.pt", "config": "config.yaml", "tokenizer_conf": {"token_list": "tokens.json"}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    assert read_model("test", folder).labels == read_model("tiny", tiny).labels
    (folder / "tokens.json").write_text("[1, 2]")
    assert refusal(folder) == f"{folder / 'tokens.json'}: not a list of labels: 'int' object has no attribute 'rstrip'"


def test_labels_are_the_part_after_the_slash(tiny: Path) -> None:
    assert read_model("tiny", tiny).labels == (
        *("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown"),
    )


ZH = ("生气", "厌恶", "恐惧", "开心", "中立", "其他", "难过", "吃惊", "<unk>")


@pytest.mark.parametrize(("language", "labels"), [("zh", ZH), ("both", TOKENS)])
def test_labels_are_in_the_requested_language(language: LabelLanguage, labels: tuple[str, ...], tiny: Path) -> None:
    assert read_model("tiny", tiny, language).labels == labels


def test_labels_without_a_slash_are_the_same_in_all_languages(tmp_path: Path) -> None:
    folder = make_model(tmp_path, tokens=("joy", "/left", "right/", "a/b/c"))
    assert read_model("test", folder, "en").labels == ("joy", "left", "right/", "b/c")
    assert read_model("test", folder, "zh").labels == ("joy", "/left", "right", "a")
    assert read_model("test", folder, "both").labels == ("joy", "/left", "right/", "a/b/c")


def test_labels_that_coincide_in_one_language_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path, tokens=("开心/happy", "开心/joyful", "悲/sad", "难过/sad"))
    assert len(read_model("test", folder, "both").labels) == 4
    for language, label in (("en", "sad"), ("zh", "开心")):
        with pytest.raises(ModelError) as caught:
            read_model("test", folder, language)  # type: ignore[arg-type]
        assert str(caught.value) == f"{folder / 'tokens.txt'}: label {label!r} is listed more than once"


def test_unk_becomes_unknown_in_english_only(tmp_path: Path) -> None:
    """An English label ``unknown`` collides with it; other languages keep ``<unk>``."""
    folder = make_model(tmp_path, tokens=("未知/unknown", "<unk>"))
    assert read_model("test", folder, "zh").labels == ("未知", "<unk>")
    with pytest.raises(ModelError, match=r"label 'unknown' is listed more than once$"):
        read_model("test", folder)


@pytest.mark.e2e
def test_run_with_other_labels_or_precision_is_refused(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encode(noisy_tone(16_000)))
    command = ("predict", tmp_path / "a.wav", "-m", tiny, "-o", tmp_path / "out", "-j", "1")
    assert e2v(*command, "--labels", "zh").returncode == 0
    table = (tmp_path / "out" / "predictions.tsv").read_text(encoding="utf-8")
    assert tuple(table.splitlines()[0].split("\t")[5:]) == ZH

    for language in ("en", "both"):
        done = e2v(*command, "--labels", language)
        assert (done.returncode, done.stdout) == (4, "")
        assert "labels" in done.stderr
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16")
    cpu_info = str(tmp_path / "cpuinfo")
    code = f"import pathlib; from e2v_cli.workers import devices; devices.CPU_INFO = pathlib.Path({cpu_info!r})"
    done = e2v(*command, "--labels", "zh", "--precision", "bf16", **hook(tmp_path / "hook", code))
    assert (done.returncode, done.stdout) == (4, "")
    assert "precision" in done.stderr
    assert e2v(*command, "--labels", "zh").returncode == 0
    assert (tmp_path / "out" / "predictions.tsv").read_text(encoding="utf-8") == table


def test_unused_classes_have_no_label(tmp_path: Path) -> None:
    model = read_model("test", make_model(tmp_path, tokens=("生气/angry", "unuse_0", "joy", "<unk>")))
    assert model.labels == ("angry", "joy", "unknown")
    assert model.classes == (0, 2, 3)
    assert read_model("test", model.folder, "zh").labels == ("生气", "joy", "<unk>")
    assert read_model("test", model.folder, "both").labels == ("生气/angry", "joy", "<unk>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("angry\n\nhappy\n", ":2: '' is not a label"),
        ("unuse_0\nunuse_1\n", ": holds no label that is in use"),
        ("", " is empty: download or copy the file again"),
        ("a/happy\nb/happy\n", ": label 'happy' is listed more than once"),
        ("angry\tbad\n", ":1: 'angry\\tbad' is not a label"),
        ("\xff", ": not a list of labels: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_invalid_tokens_are_refused(content: str, message: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "tokens.txt").write_bytes(content.encode("latin-1"))
    assert refusal(folder) == f"{folder / 'tokens.txt'}{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"angry": 0, "happy": 1}, ": not a list of labels: a dict"),
        ("angry", ": not a list of labels: a str"),
        (None, ": not a list of labels: a NoneType"),
        (["angry", 1], ": not a list of labels: 'int' object has no attribute 'rstrip'"),
        (["angry", "hap\npy"], ":2: 'hap\\npy' is not a label"),
        (["angry\x1b[31m", "happy"], ":1: 'angry\\x1b[31m' is not a label"),
        (["angry", "unuse\x1b[2J"], ":2: 'unuse\\x1b[2J' is not a label"),
        (["angry", "\ud800"], ":2: '\\ud800' is not a label"),
        (["angry", ""], ":2: '' is not a label"),
    ],
)
def test_invalid_tokens_in_json_are_refused(content: object, message: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    metas = {"file_path_metas": {"tokenizer_conf": {"token_list": "tokens.json"}}}
    (folder / "configuration.json").write_text(json.dumps(metas))
    (folder / "tokens.json").write_text(json.dumps(content))
    assert refusal(folder) == f"{folder / 'tokens.json'}{message}"


def test_label_with_control_characters_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "tokens.txt").write_text("angry\nhappy\x1b]0;title\x07\n")
    assert refusal(folder) == f"{folder / 'tokens.txt'}:2: 'happy\\x1b]0;title\\x07' is not a label"


def test_byte_order_mark_is_not_part_of_a_label(tmp_path: Path) -> None:
    folder = make_model(tmp_path, tokens=("angry", "happy"))
    content = (folder / "tokens.txt").read_bytes()
    (folder / "tokens.txt").write_bytes(b"\xef\xbb\xbf" + content)
    assert read_model("test", folder).tokens == ("angry", "happy")


def test_yaml_with_python_objects_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    folder = make_model(tmp_path / "model")
    (folder / "config.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{canary}']\n")
    assert refusal(folder).startswith(
        f"{folder / 'config.yaml'}: not plain YAML: could not determine a constructor for the tag"
    )
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../model.pt", "/etc/passwd", "a/../../b"])
def test_files_outside_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    for key in ("init_param", "config"):
        (folder / "configuration.json").write_text(json.dumps({"file_path_metas": {key: name}}))
        assert refusal(folder) == f"{folder / 'configuration.json'}: {name!r} lies outside the model's folder"
    metas = {"tokenizer_conf": {"token_list": name}}
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    assert refusal(folder) == f"{folder / 'configuration.json'}: {name!r} lies outside the model's folder"


@pytest.mark.parametrize("name", ["config.yaml", "model.pt"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / name).unlink()
    assert refusal(folder) == (
        f"{folder / name} is missing: a model folder holds config.yaml, model.pt, tokens.txt and configuration.json"
    )


AGAIN = "download or copy the file again"
PAGE = f"is an HTML page (perhaps a login page, or a proxy's error), not the file itself: {AGAIN}"

STAND_INS = {
    "": f"is empty: {AGAIN}",
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 374402437\n": (
        f"is a Git LFS pointer, not the file itself: run 'git lfs pull' in its folder, or {AGAIN}"
    ),
    "<!DOCTYPE html>\n<html lang=en><title>Sign in</title>": PAGE,
    "\ufeff\r\n<!-- proxy\n 7 -->\n<HTML><BODY>407": PAGE,
    "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": (
        f"is an XML page (perhaps a server's error), not the file itself: {AGAIN}"
    ),
}


@pytest.mark.parametrize("name", ["config.yaml", "model.pt", "tokens.txt", "configuration.json"])
@pytest.mark.parametrize("content", STAND_INS)
def test_stand_in_for_a_file_is_named(content: str, name: str, e2v: E2v, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    done = e2v("predict", CLIP, "-m", folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"e2v: {folder / name} {STAND_INS[content]}\n"


def test_first_label_may_be_unk(tmp_path: Path) -> None:
    assert read_model("test", make_model(tmp_path, tokens=("<unk>", "<html>"))).labels == ("unknown", "<html>")


def test_outer_folder_of_a_cache_names_the_models(e2v: E2v, tiny: Path, tmp_path: Path) -> None:
    owner = tmp_path / "ms" / "iic"  # until modelscope 1.37
    hf, ms = (tmp_path / name for name in ("hf/models--emotion2vec--emotion2vec_plus_base", "ms/iic--emotion2vec"))
    shutil.copytree(tiny, ms / "snapshots" / "master")
    shutil.copytree(tiny, owner / "emotion2vec")
    shutil.copytree(tiny, hf / "snapshots" / "c0ffee")
    (hf / "refs").mkdir()
    (hf / "refs" / "main").write_text("c0ffee")

    def refuse(folder: Path, inner: Path, which: str = "the one in it") -> None:
        done = e2v("predict", CLIP, "-m", folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"e2v: {folder} is not a model's own folder: name {which}: --model {inner}\n"

    for folder in (hf, hf / "snapshots", hf.parent):
        refuse(folder, hf / "snapshots" / "c0ffee")
    refuse(owner, owner / "emotion2vec")
    refuse(ms, ms / "snapshots" / "master")
    shutil.copytree(tiny, hf / "snapshots" / "0ffbea7")
    refuse(hf, hf / "snapshots" / "c0ffee", "one of the 2 in it, such as")
    (ms / "snapshots" / "v1.0").symlink_to(tiny)
    refuse(ms, ms / "snapshots" / "master", "one of the 2 in it, such as")


@pytest.mark.parametrize("content", ["{", "[]", '{"file_path_metas": 3}', "[" * 200_000])
def test_a_broken_configuration_json_is_named(content: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    (folder / "configuration.json").write_text(content)
    assert refusal(folder).startswith(f"{folder / 'configuration.json'}: not the JSON of a model folder: ")


def test_sample_is_in_the_package() -> None:
    model = read_model("sample", find_model(ModelRequest("sample")))
    assert len(model.labels) == 9
    assert model.weights.stat().st_size <= 2_000_000
