"""The prepared copy of weights: made once, mapped into memory, and renewed after changes."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.audio_files import noisy_tone
from support.checkpoints import TOKENS, State, equal, make_config, make_model
from support.prepared import drafts, other_weights, overwrite, prepare, read_copy, refuse_to_read

import e2v_cli
from e2v_cli.errors import ModelError
from e2v_cli.models import weights as prepared
from e2v_cli.models.cache import FileState, hash_file
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.models.weights import hash_weights, load_network, prepare_weights

pytestmark = pytest.mark.usefixtures("cache")


# -- content -----------------------------------------------------------------------------------------------------------


def test_second_start_reads_neither_checkpoint_nor_copy(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_weights(model)
    refuse_to_read(monkeypatch)

    assert prepare_weights(model) == first
    assert hash_weights(model) == first.sha256


def test_copy_equals_the_checkpoint_bit_for_bit(model: Model) -> None:
    weights, copy = prepare(model)

    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())
    assert sorted(path.name for path in copy.parent.iterdir()) == ["lock", "record.json", "weights.pt"]
    assert drafts(copy.parent) == []


def test_copy_holds_only_tensors_of_the_network(tmp_path: Path) -> None:
    decoder = {"modality_encoders.AUDIO.decoder.blocks.0.0.weight": torch.zeros(500_000)}
    model = read_model("model", make_model(tmp_path / "model", wrap=lambda state: {"model": {**state, **decoder}}))

    _, copy = prepare(model)

    assert set(read_copy(copy)) == set(make_network(model).state_dict())
    assert copy.stat().st_size < model.weights.stat().st_size - 1_900_000


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_copy_is_mapped_into_memory(model: Model) -> None:
    weights, copy = prepare(model)

    network = load_network(model, weights)

    starts = [tensor.data_ptr() for tensor in network.state_dict().values()]
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(copy)):
            ranges.append([int(end, 16) for end in line.split()[0].split("-")])
    assert ranges
    assert all(any(first <= start < end for first, end in ranges) for start in starts)


def test_half_precision_weights_are_copied_as_float32(tmp_path: Path) -> None:
    """The copy is float32, so that it can be mapped."""
    model = read_model("m", make_model(tmp_path / "m", wrap=lambda state: {k: v.half() for k, v in state.items()}))

    _, copy = prepare(model)

    state = read_copy(copy)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert equal(state, make_network(model).state_dict())


def tied(state: State) -> State:
    """Tie weights of two layers: as one tensor, and as parts of one."""
    both = torch.stack([state["blocks.0.mlp.fc1.bias"], state["blocks.1.mlp.fc1.bias"]])
    return {
        **state,
        "blocks.1.mlp.fc1.weight": state["blocks.0.mlp.fc1.weight"],
        "blocks.0.mlp.fc1.bias": both[0],
        "blocks.1.mlp.fc1.bias": both[1],
        "blocks.1.attn.proj.bias": both[0, :96],
    }


def test_tensors_that_share_memory_are_prepared_like_others(tmp_path: Path) -> None:
    model = read_model("tied", make_model(tmp_path / "tied", wrap=tied))
    noise = torch.randn(16_000, generator=torch.Generator().manual_seed(0)) / 10

    weights, copy = prepare(model)

    expected = make_network(model)
    state = read_copy(copy)
    assert equal(state, expected.state_dict())
    assert torch.equal(state["blocks.1.fc1.weight"], state["blocks.2.fc1.weight"])
    with torch.inference_mode():
        (features,) = load_network(model, weights)([noise])
        assert torch.equal(features, expected([noise])[0])
    (result,) = e2v_cli.load(str(model.folder), device="cpu").predict([noise], sample_rate=16_000)
    np.testing.assert_allclose(result.embedding, features.mean(dim=0).numpy(), rtol=0, atol=1e-6)


def test_part_of_a_larger_tensor_is_copied_alone(tmp_path: Path) -> None:
    def cut(state: State) -> State:
        large = torch.zeros(2_000_000)
        part = large[1000:1096].copy_(state["blocks.0.mlp.fc2.bias"])
        return {**state, "blocks.0.mlp.fc2.bias": part}

    model = read_model("m", make_model(tmp_path / "m", wrap=cut))

    weights, copy = prepare(model)

    assert copy.stat().st_size < model.weights.stat().st_size - 7_000_000
    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())


@pytest.mark.parametrize("has_copy", [True, False])
def test_transposed_tensor_is_made_contiguous(has_copy: bool, tmp_path: Path, cache: Path) -> None:
    name = "blocks.0.attn.proj.weight"
    usual = read_model("m", make_model(tmp_path / "usual"))
    model = read_model("m", make_model(tmp_path / "m", wrap=lambda state: {**state, name: state[name].T.clone().T}))
    if not has_copy:
        cache.write_text("")

    network = load_network(model, prepare_weights(model))

    assert all(tensor.is_contiguous() for tensor in network.state_dict().values())
    assert equal(network.state_dict(), make_network(usual).state_dict())
    network.pack("torch")


def test_tensors_are_aligned_to_cache_lines(model: Model) -> None:
    """PyTorch aligns its own tensors so; MKL rounds some products of others differently."""
    weights, _ = prepare(model)

    starts = [tensor.data_ptr() for tensor in load_network(model, weights).state_dict().values()]

    assert [start % 64 for start in starts] == [0] * len(starts)


def test_copy_is_reproducible(model: Model) -> None:
    _, copy = prepare(model)
    content = copy.read_bytes()
    shutil.rmtree(copy.parent)

    assert prepare(model)[1].read_bytes() == content

    assert set(read_copy(copy)) == set(make_network(model).state_dict())
    assert torch.load(copy, weights_only=True)["source"] == hash_file(model.weights)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_permissions_of_the_copy_follow_the_umask(umask: int, model: Model, cache: Path) -> None:
    before = os.umask(umask)
    try:
        prepare(model)
    finally:
        os.umask(before)

    files = [path for path in cache.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["lock", "record.json", "weights.pt"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


# -- changes of the source ---------------------------------------------------------------------------------------------


def test_another_checkpoint_of_the_same_size_and_time_is_noticed(model: Model, tmp_path: Path) -> None:
    before, _ = prepare(model)
    overwrite(model.weights, other_weights(tmp_path / "other"))

    after, _ = prepare(model)

    assert after.sha256 != before.sha256
    assert not after.was_damaged
    assert equal(load_network(model, after).state_dict(), make_network(model).state_dict())
    with pytest.raises(ModelError):
        load_network(model, before)


def test_touched_checkpoint_is_not_prepared_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before, copy = prepare(model)
    state = FileState.of(copy)
    model.weights.touch()
    monkeypatch.setattr(prepared, "make_network", None)  # it must not be called

    after = prepare_weights(model)

    assert (after.sha256, after.copy) == (before.sha256, copy)
    assert FileState.of(copy) == state
    time.sleep(0.02)
    prepare_weights(model)
    refuse_to_read(monkeypatch)
    assert prepare_weights(model) == after


def test_recently_changed_checkpoint_is_read_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within one tick of the clock would go unnoticed."""
    monkeypatch.setattr(prepared, "CLOCK_TICK", 3600 * 10**9)
    first = prepare_weights(model)
    hashed: list[Path] = []

    def note(path: Path) -> str:
        hashed.append(path)
        return hash_file(path)

    monkeypatch.setattr(prepared, "hash_file", note)

    assert prepare_weights(model) == first
    assert hashed == [model.weights, first.copy]


def test_moved_folder_gets_another_copy(model: Model, tmp_path: Path) -> None:
    _, copy = prepare(model)

    _, other = prepare(read_model("model", model.folder.rename(tmp_path / "moved")))

    assert other != copy
    assert equal(read_copy(other), read_copy(copy))


def test_a_link_to_a_model_has_the_same_copy(model: Model, tmp_path: Path) -> None:
    first = prepare_weights(model)
    (tmp_path / "link").symlink_to(model.folder)

    assert prepare_weights(read_model("model", tmp_path / "link")).copy == first.copy


def change_shape(folder: Path) -> None:
    config = make_config(model={"norm_eps": 0.01})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def drop_head(folder: Path) -> None:
    config = make_config(tokenizer=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(config).replace("'1e-05'", "1e-05"))


def change_scope_map(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("d2v_model.", "student."))


@pytest.mark.parametrize("change", [change_shape, drop_head, change_scope_map])
def test_changed_config_renews_the_copy(change: Callable[[Path], None], model: Model) -> None:
    before, _ = prepare(model)
    change(model.folder)
    changed = read_model("model", model.folder)

    after, _ = prepare(changed)

    assert after.sha256 == before.sha256
    assert not after.was_damaged
    assert equal(load_network(changed, after).state_dict(), make_network(changed).state_dict())
    assert load_network(changed, after).config == changed.config


def test_changed_labels_keep_the_copy(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_weights(model)
    (model.folder / "tokens.txt").write_text("".join(f"label{number}\n" for number in range(len(TOKENS))))
    refuse_to_read(monkeypatch)

    assert prepare_weights(read_model("model", model.folder)) == first


def test_checkpoint_that_changes_while_read_is_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = other_weights(tmp_path / "other")
    write_copy = prepared._write_copy

    def write_and_change(model: Model, copy: Path, origin: prepared._Origin) -> str:
        digest = write_copy(model, copy, origin)
        model.weights.write_bytes(content)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_write_copy", write_and_change)
        with pytest.raises(ModelError) as caught:
            prepare_weights(model)

    assert (
        str(caught.value)
        == f"{model.weights} changed while it was read: run the same command again when it is complete"
    )
    assert equal(load_network(model, prepare_weights(model)).state_dict(), make_network(model).state_dict())


def test_checkpoint_that_changed_during_the_run_is_refused(model: Model, tmp_path: Path) -> None:
    weights, copy = prepare(model)
    copy.unlink()
    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())
    overwrite(model.weights, other_weights(tmp_path / "other"))

    with pytest.raises(ModelError) as caught:
        load_network(model, weights)

    assert str(caught.value) == (
        f"{model.weights} has changed since the run began; what is done is safe, start it again"
    )


def test_worker_needs_only_the_copy(model: Model) -> None:
    expected = make_network(model).state_dict()
    weights = prepare_weights(model)
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    model.weights.unlink()

    assert equal(load_network(model, weights).state_dict(), expected)


def test_missing_checkpoint_is_named(model: Model) -> None:
    weights, copy = prepare(model)
    copy.unlink()
    model.weights.unlink()

    for use in (prepare_weights, hash_weights, lambda model: load_network(model, weights)):
        with pytest.raises(ModelError) as caught:
            use(model)
        assert str(caught.value) == f"{model.weights}: No such file or directory"


def test_refused_checkpoint_leaves_no_copy(tmp_path: Path, cache: Path) -> None:
    model = read_model("m", make_model(tmp_path / "m", wrap=lambda state: {"proj.bias": state["proj.bias"]}))

    for _ in range(2):
        with pytest.raises(ModelError, match=r"tensor '.*' is missing"):
            prepare_weights(model)

    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]


def test_features_are_the_same_with_and_without_a_copy(model: Model) -> None:
    waveform = torch.from_numpy(noisy_tone(16_000).astype(np.float32))
    with torch.inference_mode():
        (mapped,) = load_network(model, prepare_weights(model))([waveform])
        (read,) = make_network(model)([waveform])
    assert mapped.numpy().tobytes() == read.numpy().tobytes()
