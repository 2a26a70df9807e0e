"""The prepared copy of weights: made once, mapped into memory, and not trusted once anything has changed."""

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


# -- what it is --------------------------------------------------------------------------------------------------------


def test_a_second_start_reads_neither_the_checkpoint_nor_the_copy(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_weights(model)
    refuse_to_read(monkeypatch)

    assert prepare_weights(model) == first
    assert hash_weights(model) == first.sha256


def test_the_copy_has_the_numbers_of_the_checkpoint_to_the_bit(model: Model) -> None:
    weights, copy = prepare(model)

    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())
    assert sorted(path.name for path in copy.parent.iterdir()) == ["lock", "record.json", "weights.pt"]
    assert drafts(copy.parent) == []


def test_what_is_not_of_the_network_is_not_in_the_copy(tmp_path: Path) -> None:
    decoder = {"modality_encoders.AUDIO.decoder.blocks.0.0.weight": torch.zeros(500_000)}
    model = read_model("model", make_model(tmp_path / "model", wrap=lambda state: {"model": {**state, **decoder}}))

    _, copy = prepare(model)

    assert set(read_copy(copy)) == set(make_network(model).state_dict())
    assert copy.stat().st_size < model.weights.stat().st_size - 1_900_000


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_copy_is_mapped_into_memory(model: Model) -> None:
    weights, copy = prepare(model)

    network = load_network(model, weights)

    starts = [tensor.data_ptr() for tensor in network.state_dict().values()]
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(copy)):
            ranges.append([int(end, 16) for end in line.split()[0].split("-")])
    assert ranges
    assert all(any(first <= start < end for first, end in ranges) for start in starts)


def test_half_precision_weights_are_prepared_in_full(tmp_path: Path) -> None:
    """They are float32 in the copy, so that they can be mapped."""
    model = read_model("m", make_model(tmp_path / "m", wrap=lambda state: {k: v.half() for k, v in state.items()}))

    _, copy = prepare(model)

    state = read_copy(copy)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert equal(state, make_network(model).state_dict())


def tied(state: State) -> State:
    """Let two layers share their weights, as one tensor or as parts of one."""
    both = torch.stack([state["blocks.0.mlp.fc1.bias"], state["blocks.1.mlp.fc1.bias"]])
    return {
        **state,
        "blocks.1.mlp.fc1.weight": state["blocks.0.mlp.fc1.weight"],
        "blocks.0.mlp.fc1.bias": both[0],
        "blocks.1.mlp.fc1.bias": both[1],
        "blocks.1.attn.proj.bias": both[0, :96],
    }


def test_tensors_that_share_their_memory_are_prepared_as_others_are(tmp_path: Path) -> None:
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
    (result,) = e2v_cli.load(str(model.folder), device="cpu").predict([noise])
    np.testing.assert_allclose(result.embedding, features.mean(dim=0).numpy(), rtol=0, atol=1e-6)


def test_a_tensor_that_is_part_of_another_is_prepared_alone(tmp_path: Path) -> None:
    def cut(state: State) -> State:
        large = torch.zeros(2_000_000)
        part = large[1000:1096].copy_(state["blocks.0.mlp.fc2.bias"])
        return {**state, "blocks.0.mlp.fc2.bias": part}

    model = read_model("m", make_model(tmp_path / "m", wrap=cut))

    weights, copy = prepare(model)

    assert copy.stat().st_size < model.weights.stat().st_size - 7_000_000
    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())


@pytest.mark.parametrize("has_copy", [True, False])
def test_a_tensor_with_its_columns_in_a_row_is_as_others_are(has_copy: bool, tmp_path: Path, cache: Path) -> None:
    name = "blocks.0.attn.proj.weight"
    usual = read_model("m", make_model(tmp_path / "usual"))
    model = read_model("m", make_model(tmp_path / "m", wrap=lambda state: {**state, name: state[name].T.clone().T}))
    if not has_copy:
        cache.write_text("")

    network = load_network(model, prepare_weights(model))

    assert all(tensor.is_contiguous() for tensor in network.state_dict().values())
    assert equal(network.state_dict(), make_network(usual).state_dict())
    network.pack()


def test_tensors_begin_on_lines_of_the_cache(model: Model) -> None:
    """As those have that PyTorch makes in memory: of others, MKL rounds some products differently."""
    weights, _ = prepare(model)

    starts = [tensor.data_ptr() for tensor in load_network(model, weights).state_dict().values()]

    assert [start % 64 for start in starts] == [0] * len(starts)


def test_the_copy_is_the_same_whenever_it_is_written(model: Model) -> None:
    _, copy = prepare(model)
    content = copy.read_bytes()
    shutil.rmtree(copy.parent)

    assert prepare(model)[1].read_bytes() == content

    assert set(read_copy(copy)) == set(make_network(model).state_dict())
    assert torch.load(copy, weights_only=True)["source"] == hash_file(model.weights)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_copy_is_for_those_who_may_read_other_files(umask: int, model: Model, cache: Path) -> None:
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


def test_a_checkpoint_that_was_only_touched_is_not_prepared_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, copy = prepare(model)
    state = FileState.of(copy)
    model.weights.touch()
    monkeypatch.setattr(prepared, "make_network", None)  # it is not asked

    after = prepare_weights(model)

    assert (after.sha256, after.copy) == (before.sha256, copy)
    assert FileState.of(copy) == state
    time.sleep(0.02)
    prepare_weights(model)
    refuse_to_read(monkeypatch)
    assert prepare_weights(model) == after


def test_a_checkpoint_that_changed_a_moment_ago_is_read_again(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within a tick of the clock would not be seen."""
    monkeypatch.setattr(prepared, "CLOCK_TICK", 3600 * 10**9)
    first = prepare_weights(model)
    hashed: list[Path] = []

    def note(path: Path) -> str:
        hashed.append(path)
        return hash_file(path)

    monkeypatch.setattr(prepared, "hash_file", note)

    assert prepare_weights(model) == first
    assert hashed == [model.weights, first.copy]


def test_a_moved_folder_is_another_place(model: Model, tmp_path: Path) -> None:
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
def test_a_change_of_what_is_taken_from_the_checkpoint_makes_the_copy_anew(
    change: Callable[[Path], None], model: Model
) -> None:
    before, _ = prepare(model)
    change(model.folder)
    changed = read_model("model", model.folder)

    after, _ = prepare(changed)

    assert after.sha256 == before.sha256
    assert not after.was_damaged
    assert equal(load_network(changed, after).state_dict(), make_network(changed).state_dict())
    assert load_network(changed, after).config == changed.config


def test_other_names_of_labels_leave_the_copy_as_it_is(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare_weights(model)
    (model.folder / "tokens.txt").write_text("".join(f"label{number}\n" for number in range(len(TOKENS))))
    refuse_to_read(monkeypatch)

    assert prepare_weights(read_model("model", model.folder)) == first


def test_a_checkpoint_that_changes_while_it_is_prepared_is_refused(
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

    assert str(caught.value) == f"{model.weights} changes while it is read; start again when it is whole"
    assert equal(load_network(model, prepare_weights(model)).state_dict(), make_network(model).state_dict())


def test_a_checkpoint_that_has_changed_since_the_run_began_is_refused(model: Model, tmp_path: Path) -> None:
    weights, copy = prepare(model)
    copy.unlink()
    assert equal(load_network(model, weights).state_dict(), make_network(model).state_dict())
    overwrite(model.weights, other_weights(tmp_path / "other"))

    with pytest.raises(ModelError) as caught:
        load_network(model, weights)

    assert str(caught.value) == (
        f"{model.weights} has changed since the run began; what is done is safe, start it again"
    )


def test_a_worker_needs_the_copy_alone(model: Model) -> None:
    expected = make_network(model).state_dict()
    weights = prepare_weights(model)
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    model.weights.unlink()

    assert equal(load_network(model, weights).state_dict(), expected)


def test_a_checkpoint_that_is_gone_is_named(model: Model) -> None:
    weights, copy = prepare(model)
    copy.unlink()
    model.weights.unlink()

    for use in (prepare_weights, hash_weights, lambda model: load_network(model, weights)):
        with pytest.raises(ModelError) as caught:
            use(model)
        assert str(caught.value) == f"{model.weights}: No such file or directory"


def test_a_checkpoint_that_is_refused_leaves_no_copy(tmp_path: Path, cache: Path) -> None:
    model = read_model("m", make_model(tmp_path / "m", wrap=lambda state: {"proj.bias": state["proj.bias"]}))

    for _ in range(2):
        with pytest.raises(ModelError, match=r"tensor '.*' is missing"):
            prepare_weights(model)

    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]


def test_the_numbers_are_the_same_with_and_without_a_copy(model: Model) -> None:
    waveform = torch.from_numpy(noisy_tone(16_000).astype(np.float32))
    with torch.inference_mode():
        (mapped,) = load_network(model, prepare_weights(model))([waveform])
        (read,) = make_network(model)([waveform])
    assert mapped.numpy().tobytes() == read.numpy().tobytes()
