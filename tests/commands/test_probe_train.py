"""``e2v probe train`` from the user's side: the model folder, what it predicts, messages and exit codes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from scipy.special import softmax
from support.checkpoints import make_config, make_model
from support.embedded import make_corpus, make_embedded_run, means_of, write_arrays, write_reference
from support.kaldi_folders import read_rows
from support.labelled import write_map
from support.processes import ROOT, E2v

SAMPLE = ROOT / "e2v_cli" / "sample"

FIVE = (
    *("--merge", "fearful=negative", "--merge", "disgusted=negative"),
    *("--classes", "angry,happy,neutral,sad,negative"),
)

FILES = ["SHA256SUMS", "config.yaml", "configuration.json", "model.pt", "probe.json", "tokens.txt"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> Path:
    """A run of the sample model over the sample corpus, with embeddings."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = e2v("predict", "sample_data", "-m", "sample", "-o", out, "--embeddings", "npy", "-q")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of eight utterances of the sample corpus."""
    path = tmp_path_factory.mktemp("few") / "wav.scp"
    path.write_text("".join((ROOT / "sample_data" / "wav.scp").read_text().splitlines(keepends=True)[::5]))
    return path


def read_facts(model: Path) -> Any:
    return json.loads((model / "probe.json").read_bytes())


def read_state(model: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(model / "model.pt", weights_only=True)["model"]
    return state


def read_posteriors(out: Path) -> NDArray[np.float64]:
    rows = read_rows((out / "predictions.tsv").read_text())
    return np.array([list(map(float, row[4:])) for row in rows.values()])


def test_model_is_described_and_predicts(run: Path, tmp_path: Path, e2v: E2v) -> None:
    model = tmp_path / "model"
    done = e2v("probe", "train", run, "sample_data", "-o", model)

    assert (done.returncode, done.stderr) == (0, "")
    facts = read_facts(model)
    found = facts["validation"]
    assert found["UA"] > 0.6
    assert done.stdout.splitlines() == [
        "40 utterances of 4 speakers, 9 classes",
        "",
        "class      utterances",
        "angry      5",
        "disgusted  4",
        "fearful    4",
        "happy      5",
        "neutral    5",
        "other      4",
        "sad        4",
        "surprised  4",
        "unknown    5",
        "",
        f"C {facts['fit']['c']:g}, of 1e-05 to 10; temperature {facts['fit']['temperature']:.4f}",
        f"cross-validated, no speaker in training and test: WA {found['WA']:.4f}  UA {found['UA']:.4f}  "
        f"NLL {found['NLL']:.4f}",
        f"model: {model}, which FunASR loads, too",
        f"next: e2v predict wav.scp -m {model} -o OUT",
    ]
    assert sorted(path.name for path in model.iterdir()) == FILES
    assert (model / "tokens.txt").read_bytes() == (SAMPLE / "tokens.txt").read_bytes()
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=model, check=True)


def test_predictions_are_the_head_on_the_embeddings(run: Path, few: Path, tmp_path: Path, e2v: E2v) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    assert e2v("probe", "train", run, "sample_data", "-o", model, *FIVE).returncode == 0
    done = e2v("predict", few, "-m", model, "-o", out, "--embeddings", "npy", "-q")
    assert (done.returncode, done.stderr) == (0, "")

    header, *rows = (out / "predictions.tsv").read_text().splitlines()
    assert header.split("\t")[5:] == ["angry", "happy", "neutral", "sad", "negative"]
    assert (model / "tokens.txt").read_text().splitlines() == [
        *("生气/angry", "开心/happy", "中立/neutral", "难过/sad", "negative")
    ]
    state = read_state(model)
    assert len(rows) == 8
    for row in rows:
        utt_id, *cells = row.split("\t")
        name = f"embeddings/{utt_id}.npy"
        assert (out / name).read_bytes() == (run / name).read_bytes()
        scores = np.load(out / name) @ state["proj.weight"].numpy().T + state["proj.bias"].numpy()
        np.testing.assert_allclose(list(map(float, cells[4:])), softmax(scores), rtol=0, atol=1.5e-6)


def test_encoder_is_unchanged_and_named_by_its_digest(run: Path, tmp_path: Path, e2v: E2v) -> None:
    model = tmp_path / "model"
    assert e2v("probe", "train", run, "sample_data", "-o", model, "--prior", "uniform", "--balanced").returncode == 0
    ours, theirs = read_state(model), read_state(SAMPLE)
    assert ours.keys() <= theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith("proj."))
    facts = read_facts(model)
    assert facts["encoder"] == {
        "name": "sample",
        "sha256": hashlib.sha256((SAMPLE / "model.pt").read_bytes()).hexdigest(),
        "layer": "last",
        "engine": "e2v",
        "precision": "fp32",
        "window": 60.0,
        "granularity": "utterance",
        "dtype": "fp32",
    }
    lines = (ROOT / "sample_data" / "utt2emo").read_bytes()
    assert facts["data"]["labels_sha256"] == hashlib.sha256(lines).hexdigest()
    assert facts["data"]["speakers"] == 4
    assert len(facts["validation"]["folds"]) == 4
    assert facts["validation"]["speaker_disjoint"] is True
    assert (facts["fit"]["balanced"], facts["fit"]["prior"], facts["fit"]["seed"]) == (True, "uniform", 0)
    assert list(facts["fit"]["losses"]) == ["1e-05", "0.0001", "0.001", "0.01", "0.1", "1", "10"]


def test_same_command_makes_the_same_bytes(run: Path, tmp_path: Path, e2v: E2v) -> None:
    for name in ("one", "two"):
        assert e2v("probe", "train", run, "sample_data", "-o", tmp_path / name, "--c", "0.1").returncode == 0
    assert [(tmp_path / "one" / name).read_bytes() for name in FILES] == [
        (tmp_path / "two" / name).read_bytes() for name in FILES
    ]


def test_model_can_be_the_encoder_of_another(run: Path, tmp_path: Path, e2v: E2v) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert e2v("probe", "train", run, "sample_data", "-o", first, *FIVE).returncode == 0
    done = e2v("predict", "sample_data", "-m", first, "-o", tmp_path / "out", "--embeddings", "ark", "-q")
    assert done.returncode == 0, done.stderr
    assert e2v("probe", "train", tmp_path / "out", "sample_data", "-o", second).returncode == 0
    assert read_state(second)["proj.weight"].shape == (9, 96)
    assert len((second / "tokens.txt").read_text().splitlines()) == 9


def test_head_is_not_saved_over_another_encoder(run: Path, tiny: Path, tmp_path: Path, e2v: E2v) -> None:
    model = tmp_path / "model"
    done = e2v("probe", "train", run, "sample_data", "-o", model, "-m", tiny)
    digests = [hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()[:12] for folder in (tiny, SAMPLE)]
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"e2v: {tiny}/model.pt has SHA-256 {digests[0]}…, but {run} was computed with {digests[1]}…: a head works on "
        "the encoder that it was fitted to alone; name that one with -m\n"
    )
    assert not model.exists()


def test_embeddings_without_a_run_need_the_name_of_the_model(run: Path, tmp_path: Path, e2v: E2v) -> None:
    shutil.copytree(run / "embeddings", tmp_path / "npy")
    done = e2v("probe", "train", tmp_path / "npy", "sample_data", "-o", tmp_path / "model")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"e2v: {tmp_path}/npy: which model computed them is not known: name it with -m\n"

    done = e2v("probe", "train", tmp_path / "npy", "sample_data", "-o", tmp_path / "model", "-m", "sample")
    assert done.returncode == 0
    assert done.stderr == (
        f"e2v: {tmp_path}/npy: which model computed them is not known: there is no run beside them\n"
    )
    assert read_facts(tmp_path / "model")["encoder"]["precision"] is None


def test_vectors_of_another_size_are_refused(tmp_path: Path, e2v: E2v) -> None:
    made = make_corpus()
    write_arrays(tmp_path / "npy", means_of(made))
    write_reference(tmp_path / "data", made)
    done = e2v("probe", "train", tmp_path / "npy", tmp_path / "data", "-o", tmp_path / "model", "-m", "sample")
    assert done.returncode == 1
    assert done.stderr == (
        f"e2v: {SAMPLE}: its vectors have 96 numbers, but those of {tmp_path}/npy have 12: name the model that "
        "computed them with -m\n"
    )


def test_missing_encoder_is_named(tmp_path: Path, e2v: E2v) -> None:
    made = make_corpus()
    make_embedded_run(tmp_path / "run", made)
    write_reference(tmp_path / "data", made)
    done = e2v("probe", "train", tmp_path / "run", tmp_path / "data", "-o", tmp_path / "model", "-m", "no/such")
    assert done.returncode == 1
    assert done.stderr == (
        f"e2v: no/such, the encoder of {tmp_path}/run, is not on this machine: name its folder with -m, or download "
        "it: e2v models pull no/such\n"
    )


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory, e2v: E2v) -> Path:
    """A run of the sample model over the sample corpus, with embeddings of its layers and of a mean of them."""
    out = tmp_path_factory.mktemp("layered") / "out"
    layers = ("--layers", "1,2,3,mean:1-2", "--embeddings", "npy")
    done = e2v("predict", "sample_data", "-m", "sample", "-o", out, "-q", *layers)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(("layer", "prenet_depth", "depth"), [(1, 1, 0), (2, 1, 1)])
def test_model_ends_with_the_layer(
    layer: int, prenet_depth: int, depth: int, layered: Path, few: Path, tmp_path: Path, e2v: E2v
) -> None:
    """Layer 1 is the prenet."""
    models = [tmp_path / name for name in ("model", "same")]
    for model in models:
        done = e2v("probe", "train", layered / f"embeddings.layer{layer}.tsv", "sample_data", "-o", model, "--c", "0.1")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"\nmodel: {model}, layers 1 to {layer} of 3, which FunASR loads, too\n" in done.stdout
    assert [(models[0] / name).read_bytes() for name in FILES] == [(models[1] / name).read_bytes() for name in FILES]
    encoder = read_facts(model)["encoder"]
    sha256 = hashlib.sha256((SAMPLE / "model.pt").read_bytes()).hexdigest()
    assert (encoder["name"], encoder["sha256"], encoder["layer"]) == ("sample", sha256, layer)
    config = yaml.safe_load((model / "config.yaml").read_text())["model_conf"]
    assert (config["modalities"]["audio"]["prenet_depth"], config["depth"]) == (prenet_depth, depth)
    state = read_state(model)
    assert sum(name.endswith(".attn.qkv.weight") for name in state) == layer

    done = e2v("predict", few, "-m", model, "-o", tmp_path / "out", "--embeddings", "npy", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    posteriors = read_rows((tmp_path / "out" / "predictions.tsv").read_text())
    assert len(posteriors) == 8
    for utt_id, cells in posteriors.items():
        vector = np.load(layered / f"embeddings.layer{layer}" / f"{utt_id}.npy")
        embedding = np.load(tmp_path / "out" / "embeddings" / f"{utt_id}.npy")
        np.testing.assert_allclose(embedding, vector, rtol=0, atol=1e-5)
        scores = vector @ state["proj.weight"].numpy().T + state["proj.bias"].numpy()
        np.testing.assert_allclose(list(map(float, cells[4:])), softmax(scores), rtol=0, atol=1e-5)


def test_mean_of_layers_is_refused(layered: Path, tmp_path: Path, e2v: E2v) -> None:
    mean = layered / "embeddings.mean1-2.tsv"
    done = e2v("probe", "train", mean, "sample_data", "-o", tmp_path / "model")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"e2v: {mean}: means of layers 1-2, but the head of a model is on one: train on embeddings of a single layer, "
        "or measure these: e2v probe eval\n"
    )
    assert not (tmp_path / "model").exists()


def test_layer_of_a_pre_norm_model_is_refused_unless_it_is_the_last(tmp_path: Path, e2v: E2v) -> None:
    encoder = make_model(tmp_path / "encoder", make_config(model={"layer_norm_first": True}))
    layers = ("--layers", "2,3", "--embeddings", "ark")
    done = e2v("predict", "sample_data", "-m", encoder, "-o", tmp_path / "out", "-q", *layers)
    assert done.returncode == 0, done.stderr
    lists = [tmp_path / "out" / f"embeddings.layer{layer}.scp" for layer in (2, 3)]
    done = e2v("probe", "train", lists[0], "sample_data", "-o", tmp_path / "model", "--c", "0.1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"e2v: {lists[0]}: embeddings of layer 2, but {encoder} has layer_norm_first, so that a model which ends there "
        "has a norm after them: train on embeddings of layer 3, the last, or measure these: e2v probe eval\n"
    )
    assert not (tmp_path / "model").exists()
    done = e2v("probe", "train", lists[1], "sample_data", "-o", tmp_path / "model", "--c", "0.1")
    assert (done.returncode, done.stderr) == (0, "")


def test_layer_that_the_encoder_lacks_is_refused(layered: Path, tmp_path: Path, e2v: E2v) -> None:
    listed = tmp_path / "embeddings.layer12.scp"
    vectors = layered / "embeddings.layer2"
    listed.write_text("".join(f"{path.stem} {path}\n" for path in sorted(vectors.iterdir())))
    done = e2v("probe", "train", listed, "sample_data", "-o", tmp_path / "model", "-m", "sample")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"e2v: {SAMPLE}: its layers are 1 to 3, but the embeddings of {listed} are of layer 12: name the model that "
        "computed them with -m\n"
    )


def test_last_layer_may_be_named(run: Path, layered: Path, tmp_path: Path, e2v: E2v) -> None:
    last = layered / "embeddings.layer3.tsv"
    assert e2v("probe", "train", last, "sample_data", "-o", tmp_path / "last", "--c", "0.1").returncode == 0
    assert e2v("probe", "train", run, "sample_data", "-o", tmp_path / "same", "--c", "0.1").returncode == 0
    assert (tmp_path / "last" / "model.pt").read_bytes() == (tmp_path / "same" / "model.pt").read_bytes()


def test_model_that_exists_is_kept(run: Path, tmp_path: Path, e2v: E2v) -> None:
    done = e2v("probe", "train", run, "sample_data", "-o", tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"e2v: {tmp_path} exists: choose another -o, or remove it\n"


def test_model_that_cannot_be_written_is_not_there(run: Path, tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "file").touch()
    done = e2v("probe", "train", run, "sample_data", "-o", tmp_path / "file" / "model", "--c", "1")
    assert done.returncode == 1
    assert done.stderr == f"e2v: {tmp_path}/file: File exists\n"


def test_class_that_can_be_no_label_is_refused(run: Path, tmp_path: Path, e2v: E2v) -> None:
    (tmp_path / "map").write_text("other n/a\n")
    done = e2v("probe", "train", run, "sample_data", "-o", tmp_path / "model", "--map", tmp_path / "map")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "e2v: class 'n/a' can't be a label of a model: it has a /, begins with unuse, or has characters that can't be "
        "seen; choose another name with --map\n"
    )


def test_rare_classes_and_unknown_speakers_are_reported(run: Path, tmp_path: Path, e2v: E2v) -> None:
    words = dict(line.split() for line in (ROOT / "sample_data" / "utt2emo").read_text().splitlines())
    words = {key: "sad" if key in ("f1-0001", "f1-0003") else "angry" if key < "m1-0005" else "happy" for key in words}
    corpus = tmp_path / "data"
    write_map(corpus / "utt2emo", words.values(), list(words))
    shutil.copy(ROOT / "sample_data" / "utt2spk", corpus)
    done = e2v("probe", "train", run, corpus, "-o", tmp_path / "one")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "e2v: angry has 22 utterances of 3 speakers, and there are 4 folds",
        "e2v: happy has 16 utterances of 2 speakers, and there are 4 folds",
        "e2v: sad has 2 utterances of 1 speaker, and there are 4 folds: 2 are predicted by heads that lack the class, "
        "and so wrong; NLL is without them",
    ]

    (corpus / "utt2spk").unlink()
    done = e2v("probe", "train", run, corpus, "-o", tmp_path / "two", "--c", "0.1")
    assert done.stdout.startswith("40 utterances, 3 classes\n")
    assert "\nC 0.1; temperature " in done.stdout
    assert "\ncross-validated, speakers may be in both: WA " in done.stdout
    assert done.stderr.splitlines() == [
        f"e2v: {corpus}: speakers are not known (no utt2spk): each utterance counts as one of its own",
        "e2v: sad has 2 utterances, and there are 5 folds",
    ]
    assert read_facts(tmp_path / "two")["validation"]["speaker_disjoint"] is False
    assert read_facts(tmp_path / "two")["data"]["speakers"] is None


def test_speakers_are_in_several_folds_where_each_class_has_its_own(run: Path, tmp_path: Path, e2v: E2v) -> None:
    ids = [line.split()[0] for line in (ROOT / "sample_data" / "utt2emo").read_text().splitlines()]
    write_map(tmp_path / "data" / "utt2emo", ["angry" if key[0] == "f" else "sad" for key in ids], ids)
    write_map(tmp_path / "data" / "utt2spk", [key[0] for key in ids], ids)
    done = e2v("probe", "train", run, tmp_path / "data", "-o", tmp_path / "model", "--c", "0.1")
    assert "cross-validated, speakers may be in both" in done.stdout
    assert done.stderr.splitlines()[0] == (
        "e2v: too many classes have one speaker alone: folds share speakers, and so the scores are of known voices"
    )


def test_one_class_is_too_few(run: Path, tmp_path: Path, e2v: E2v) -> None:
    done = e2v("probe", "train", run, "sample_data", "-o", tmp_path / "model", "--classes", "sad")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "e2v: too few labels to cross-validate: at least two classes need two utterances each\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--c", "much"], "--c: 'much' is neither a number nor auto (see: e2v probe train --help)"),
        (["--c", "-1"], "--c -1: must be a positive number, or auto"),
        (["--seed", "-1"], "--seed -1: must be from 0 to 4294967295"),
        (["--prior", "mine"], "--prior: 'mine' is not one of 'data', 'uniform'. (see: e2v probe train --help)"),
    ],
)
def test_usage_errors(words: list[str], message: str, run: Path, tmp_path: Path, e2v: E2v) -> None:
    done = e2v("probe", "train", run, "sample_data", "-o", tmp_path / "model", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.replace(". (see", " (see") == f"e2v: {message}\n".replace(". (see", " (see")


def test_options_of_the_run_are_in_the_next_command(tiny: Path, tmp_path: Path, e2v: E2v) -> None:
    options = ("--window", "5", "--granularity", "frame", "--embeddings", "ark")
    done = e2v("predict", "sample_data", "-m", tiny, "-o", tmp_path / "out", "-q", *options)
    assert done.returncode == 0, done.stderr
    done = e2v("probe", "train", tmp_path / "out", "sample_data", "-o", tmp_path / "a model", "--c", "0.1")
    assert done.returncode == 0
    assert done.stdout.endswith(f"\nnext: e2v predict wav.scp -m '{tmp_path}/a model' -o OUT --window 5\n")
    assert done.stderr == (
        f"e2v: {tmp_path}/out: computed with --window 5: a probe fits only embeddings that are computed so\n"
    )
    assert read_facts(tmp_path / "a model")["encoder"]["granularity"] == "frame"


def test_encoder_without_a_head_and_with_prefixes_gets_one(few: Path, tmp_path: Path, e2v: E2v) -> None:
    """The published ``emotion2vec_base``: its checkpoint has other names, and tensors of pretraining."""
    config = make_config(tokenizer=False)
    encoder = make_model(
        tmp_path / "encoder",
        config,
        wrap=lambda state: {
            "model": {f"d2v_model.{name}": tensor for name, tensor in state.items()} | {"decoder.x": torch.zeros(3)}
        },
    )
    done = e2v("predict", "sample_data", "-m", encoder, "-o", tmp_path / "out", "--embeddings", "ark", "-q")
    assert done.returncode == 0, done.stderr
    done = e2v("probe", "train", tmp_path / "out", "sample_data", "-o", tmp_path / "model", "--c", "0.1")
    assert done.returncode == 0, done.stderr
    old = torch.load(encoder / "model.pt", weights_only=True)["model"]
    new = read_state(tmp_path / "model")
    assert {f"d2v_model.{name}" for name in new if not name.startswith("proj.")} == set(old) - {"decoder.x"}
    done = e2v("predict", few, "-m", tmp_path / "model", "-o", tmp_path / "again", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_posteriors(tmp_path / "again").shape == (8, 9)
