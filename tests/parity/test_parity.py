"""Our numbers against FunASR's own, loaded and run by FunASR's own code, one utterance at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from support.checkpoints import TOKENS, make_config, make_model
from support.processes import ROOT, E2v
from support.shapes import SHAPES, make_waveforms

from e2v_cli.errors import ModelError
from e2v_cli.inference.engine import Engine
from e2v_cli.inference.load import load_engine, place_network
from e2v_cli.inference.products import is_built_in
from e2v_cli.inference.upstream import FunasrEngine
from e2v_cli.models.cache import FileState
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import read_model
from e2v_cli.models.weights import prepare_weights
from e2v_cli.network.attention import CPU_TILE_SCORES
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.network.layers import LayerChoice
from e2v_cli.network.layout import UtteranceTooShortError
from e2v_cli.network.products import ProductsName
from e2v_cli.options import MIN_WINDOW, ComputeOptions, EngineName, Granularity, LabelLanguage, ResultOptions
from e2v_cli.records import Batch, Prediction, Utterance, Waveform
from e2v_cli.system.spool import DiskWaveform, whole
from e2v_cli.training.probe_folder import write_probe

pytestmark = pytest.mark.parity

FEATURES = 1e-4
PROBABILITIES = 1e-5

MIXED = (400, 719, 720, 16_000, 401, 5_000, 16_000, 240_000, 1_039, 23_456, 16_001, 400, 80_000)
"""Samples: one frame, two frames, equal lengths that are not neighbours, 15 s, whose scores are several tiles."""


class Reference:
    """A model folder, loaded by FunASR."""

    def __init__(self, folder: Path) -> None:
        from funasr import AutoModel

        self.model = AutoModel(
            model=str(folder), device="cpu", ncpu=torch.get_num_threads(), disable_update=True, disable_pbar=True
        )

    @torch.inference_mode()
    def features(self, waveform: NDArray[np.float32], normalize: bool = True) -> NDArray[np.float32]:
        """Return the features of one utterance, (frames, dim)."""
        source = torch.from_numpy(waveform)
        if normalize:
            source = F.layer_norm(source, source.shape)
        features: NDArray[np.float32] = self.model.model.extract_features(source[None])["x"][0].numpy()
        return features

    def layers(self, waveform: NDArray[np.float32], normalize: bool = True) -> list[NDArray[np.float32]]:
        """Return what each block of ``extract_features`` returns, (frames, dim), but the features for the last."""
        encoder = self.model.model.modality_encoders["AUDIO"]
        outputs: list[NDArray[np.float32]] = []

        def note(_block: Any, _inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
            outputs.append(output[0][0, encoder.modality_cfg.num_extra_tokens :].numpy())

        blocks = [*encoder.context_encoder.blocks, *self.model.model.blocks]
        hooks = [block.register_forward_hook(note) for block in blocks]
        try:
            features = self.features(waveform, normalize)
        finally:
            for added in hooks:
                added.remove()
        assert len(outputs) == len(blocks)
        return [*outputs[:-1], features]

    def scores(self, waveform: NDArray[np.float32]) -> tuple[list[str], NDArray[np.float64]]:
        """Return the labels and probabilities of ``generate``."""
        (result,) = self.model.generate(waveform, granularity="utterance", extract_embedding=False)
        return result["labels"], np.array(result["scores"])


def load_network(folder: Path, products: ProductsName | None = None) -> Emotion2vec:
    """Load our network as users get it, with packed weights."""
    model = read_model("test", folder)
    return place_network(model, prepare_weights(model), "cpu", ComputeOptions(products=products))


def encode(network: Emotion2vec, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        return [features.numpy() for features in network([torch.from_numpy(waveform) for waveform in waveforms])]


def predict(
    folder: Path,
    waveforms: Sequence[NDArray[np.float32] | DiskWaveform],
    engine: Any = "e2v",
    granularity: Granularity = "utterance",
    layers: tuple[LayerChoice, ...] = (),
    window: float = 60.0,
) -> list[Prediction]:
    batch = Batch(
        tuple(
            Waveform(Utterance(index, f"utt{index}", ""), waveform, len(waveform) / 16_000)
            for index, waveform in enumerate(waveforms)
        )
    )
    loaded = load(engine, folder, granularity, layers, window)
    return [result for result in loaded.start(batch)() if isinstance(result, Prediction)]


def load(
    engine: Any, folder: Path, granularity: Granularity, layers: tuple[LayerChoice, ...] = (), window: float = 60.0
) -> Engine:
    model = read_model("test", folder)
    results = ResultOptions(granularity=granularity, layers=layers)
    return load_engine(model, prepare_weights(model), "cpu", ComputeOptions(engine, window=window), results)


def embedding_of(prediction: Prediction) -> NDArray[np.float32]:
    assert isinstance(prediction.embedding, np.ndarray)
    return prediction.embedding


@pytest.mark.parametrize("shape", SHAPES)
def test_features_match_for_every_shape(shape: str, tmp_path: Path) -> None:
    config = make_config(**SHAPES[shape])
    folder = make_model(tmp_path, config)
    reference, network = Reference(folder), load_network(folder)
    waveforms = make_waveforms(MIXED)
    normalize = config["model_conf"]["normalize"]
    for waveform, features in zip(waveforms, encode(network, waveforms), strict=True):
        expected = reference.features(waveform, normalize)
        assert features.shape == expected.shape == (network.config.num_frames(len(waveform)), 96)
        np.testing.assert_allclose(features, expected, rtol=0, atol=FEATURES)


@pytest.fixture(scope="module")
def base_pair(base: Path) -> tuple[Reference, Emotion2vec]:
    return Reference(base), load_network(base)


@pytest.fixture(scope="module")
def base_features(base_pair: tuple[Reference, Emotion2vec]) -> list[NDArray[np.float32]]:
    """Upstream's features of MIXED."""
    assert (max(MIXED) // 320) ** 2 > CPU_TILE_SCORES
    return [base_pair[0].features(waveform) for waveform in make_waveforms(MIXED)]


@pytest.mark.parametrize("products", [name for name in get_args(ProductsName) if is_built_in(name)])
def test_features_of_base_match_with_all_products(
    products: ProductsName, base: Path, base_features: list[NDArray[np.float32]]
) -> None:
    network = load_network(base, products)
    for features, expected in zip(encode(network, make_waveforms(MIXED)), base_features, strict=True):
        np.testing.assert_allclose(features, expected, rtol=0, atol=FEATURES)


@pytest.mark.parametrize("is_packed", [True, False])
def test_features_match_with_attention_in_tiles(is_packed: bool, tiny: Path) -> None:
    network = load_network(tiny) if is_packed else make_network(read_model("tiny", tiny))
    waveforms = make_waveforms([16_000, 40 * 16_000])
    features = encode(network, waveforms)
    assert len(features[1]) ** 2 > CPU_TILE_SCORES
    for waveform, ours in zip(waveforms, features, strict=True):
        np.testing.assert_allclose(ours, Reference(tiny).features(waveform), rtol=0, atol=FEATURES)


def choose_layers(count: int) -> tuple[LayerChoice, ...]:
    """Choose each layer, and the means of all and of the last two."""
    return (*(LayerChoice(n, n) for n in range(1, count + 1)), LayerChoice(1, count), LayerChoice(count - 1, count))


LAYERED = {
    **{name: SHAPES[name] for name in ("as published", "pre-norm", "no extra tokens", "an ALiBi scale a layer")},
    "no prenet": {"prenet_depth": 0, "depth": 3},
    "prenet alone": {"prenet_depth": 3, "depth": 0},
    "pre-norm, prenet alone": {"prenet_depth": 3, "depth": 0, "model": {"layer_norm_first": True}},
    "waveforms as they are": {"model": {"normalize": False}},
}
"""Shapes of three layers."""


@pytest.mark.parametrize("shape", LAYERED)
def test_layers_match_for_every_shape(shape: str, tmp_path: Path) -> None:
    """In a batch of several lengths, and beside the last layer's results, which stay the same."""
    config = make_config(**LAYERED[shape])
    folder = make_model(tmp_path, config)
    waveforms = make_waveforms(MIXED)
    choices, plain = choose_layers(3), predict(folder, waveforms)

    framed, pooled = (predict(folder, waveforms, "e2v", name, choices) for name in ("frame", "utterance"))

    reference = Reference(folder)
    for index, waveform in enumerate(waveforms):
        expected = np.stack(reference.layers(waveform, config["model_conf"]["normalize"]))
        expected = np.stack([*expected, expected.mean(axis=0), expected[1:].mean(axis=0)])
        for ours, theirs in ((framed[index], expected), (pooled[index], expected.mean(axis=1))):
            assert len(ours.layers) == len(choices)
            np.testing.assert_allclose(np.stack([whole(layer) for layer in ours.layers]), theirs, rtol=0, atol=FEATURES)
            assert embedding_of(ours).tobytes() == embedding_of(plain[index]).tobytes()
            np.testing.assert_array_equal(ours.posteriors, plain[index].posteriors)
        assert whole(pooled[index].layers[2]).tobytes() == embedding_of(plain[index]).tobytes()


def test_layers_of_base_match(base: Path, base_pair: tuple[Reference, Emotion2vec]) -> None:
    """Twelve: four of the prenet, and eight."""
    reference, network = base_pair
    waveforms = make_waveforms([400, 16_000, 41_000, 16_000, 80_000])

    predictions = predict(base, waveforms, "e2v", "frame", choose_layers(12))

    for waveform, prediction in zip(waveforms, predictions, strict=True):
        expected = np.stack(reference.layers(waveform))
        assert len(expected) == network.config.num_layers == 12
        expected = np.stack([*expected, expected.mean(axis=0), expected[10:].mean(axis=0)])
        found = np.stack([whole(layer) for layer in prediction.layers])
        np.testing.assert_allclose(found, expected, rtol=0, atol=FEATURES)


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_layers_are_upstreams_layer_results_behind_the_prenet(layer_norm_first: bool, tmp_path: Path) -> None:
    """Where upstream keeps those of the ends of blocks: the last of a pre-norm model without the norm that follows."""
    conf = {"end_of_block_targets": True, "layer_norm_first": layer_norm_first}
    folder = make_model(tmp_path, make_config(prenet_depth=2, depth=3, model=conf))
    (waveform,) = make_waveforms([16_000])
    source = torch.from_numpy(waveform)
    with torch.inference_mode():
        upstream = Reference(folder).model.model.extract_features(F.layer_norm(source, source.shape)[None])

    (prediction,) = predict(folder, [waveform], "e2v", "frame", tuple(LayerChoice(n, n) for n in (3, 4, 5)))

    results = [result[0, 10:].numpy() for result in upstream["layer_results"]]
    if layer_norm_first:
        results[-1] = upstream["x"][0].numpy()
    found = np.stack([whole(layer) for layer in prediction.layers])
    np.testing.assert_allclose(found, np.stack(results), rtol=0, atol=FEATURES)


@pytest.mark.parametrize("others", [0, 1, 59])
def test_features_of_base_match_beside_other_utterances(others: int, base_pair: tuple[Reference, Emotion2vec]) -> None:
    reference, network = base_pair
    (waveform,) = make_waveforms([21_000])
    company = make_waveforms([400 + 125 * index for index in range(others)], seed=1)
    company.insert(others // 2, waveform)
    features = encode(network, company)[others // 2]
    np.testing.assert_allclose(features, reference.features(waveform), rtol=0, atol=FEATURES)


def test_order_in_a_batch_does_not_matter(base_pair: tuple[Reference, Emotion2vec]) -> None:
    _, network = base_pair
    waveforms = make_waveforms([400, 9_000, 16_000, 16_000, 30_000])
    forward = encode(network, waveforms)
    backward = encode(network, waveforms[::-1])[::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


def test_probabilities_of_base_match(base: Path, base_pair: tuple[Reference, Emotion2vec]) -> None:
    reference, _ = base_pair
    waveforms = make_waveforms([400, 16_000, 40_000, 16_000, 80_000])
    for waveform, prediction in zip(waveforms, predict(base, waveforms), strict=True):
        labels, scores = reference.scores(waveform)
        assert labels == list(TOKENS)
        assert prediction.posteriors is not None
        np.testing.assert_allclose(prediction.posteriors, scores, rtol=0, atol=PROBABILITIES)
        np.testing.assert_allclose(
            embedding_of(prediction), reference.features(waveform).mean(axis=0), rtol=0, atol=FEATURES
        )


@pytest.mark.parametrize(
    "tokens",
    [
        ("生气/angry", "unuse_0", "unuse_1", "开心/happy", "中立/neutral", "unuse_2", "难过/sad", "unuse_3", "<unk>"),
        ("calm", "tense", "<unk>"),
    ],
)
def test_probabilities_match_for_other_labels(tokens: tuple[str, ...], tmp_path: Path) -> None:
    folder = make_model(tmp_path, tokens=tokens)
    reference = Reference(folder)
    waveforms = make_waveforms([16_000, 400, 24_000])
    for waveform, prediction in zip(waveforms, predict(folder, waveforms), strict=True):
        labels, scores = reference.scores(waveform)
        assert labels == [token for token in tokens if not token.startswith("unuse")]
        assert prediction.posteriors is not None
        np.testing.assert_allclose(prediction.posteriors, scores, rtol=0, atol=PROBABILITIES)


def test_features_match_without_a_head(tmp_path: Path) -> None:
    folder = make_model(tmp_path, make_config(tokenizer=False))
    reference = Reference(folder)
    waveforms = make_waveforms([16_000, 400])
    for waveform, prediction in zip(waveforms, predict(folder, waveforms, granularity="frame"), strict=True):
        assert prediction.posteriors is None
        np.testing.assert_allclose(embedding_of(prediction), reference.features(waveform), rtol=0, atol=FEATURES)


@pytest.mark.parametrize("granularity", ["utterance", "frame"])
@pytest.mark.parametrize("shape", ["as published", "pre-norm", "group norm in the local encoder", "one ALiBi scale"])
def test_funasr_engine_gives_upstreams_numbers(shape: str, granularity: Granularity, tmp_path: Path) -> None:
    folder = make_model(tmp_path, make_config(**SHAPES[shape]))
    reference = Reference(folder)
    waveforms = make_waveforms([16_000, 400, 24_000])
    predictions = predict(folder, waveforms, "funasr", granularity)
    for waveform, prediction in zip(waveforms, predictions, strict=True):
        expected = reference.features(waveform)
        assert prediction.num_frames == len(expected)
        if granularity == "utterance":
            expected = expected.mean(axis=0)
        np.testing.assert_allclose(embedding_of(prediction), expected, rtol=0, atol=1e-6)
        assert prediction.posteriors is not None
        np.testing.assert_allclose(prediction.posteriors, reference.scores(waveform)[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ["e2v", "funasr"])
def test_features_match_with_an_inexact_mlp_ratio(engine: str, tmp_path: Path) -> None:
    """Upstream's MLP is int(56 · 1.1) = 61 wide, but int(56 · (61 / 56)) is 60."""
    assert int(56 * (61 / 56)) == 60
    config = make_config(embed_dim=56, model={"mlp_ratio": 1.1}, audio={"conv_pos_groups": 8})
    folder = make_model(tmp_path, config)
    reference, waveforms = Reference(folder), make_waveforms([16_000, 400])
    assert make_network(read_model("test", folder)).config.mlp_dim == 61
    for waveform, prediction in zip(waveforms, predict(folder, waveforms, engine, "frame"), strict=True):
        np.testing.assert_allclose(embedding_of(prediction), reference.features(waveform), rtol=0, atol=FEATURES)


def test_funasr_engine_encodes_a_long_utterance_at_once(tiny: Path) -> None:
    """Upstream has no windows."""
    (waveform,) = make_waveforms([12 * 16_000])
    spooled = DiskWaveform()
    spooled.append(waveform)

    predictions = predict(tiny, [waveform, spooled], "funasr", window=MIN_WINDOW)

    assert [prediction.windows for prediction in predictions] == [1, 1]
    assert embedding_of(predictions[0]).tobytes() == embedding_of(predictions[1]).tobytes()


def test_a_waveform_shorter_than_a_frame_is_refused(tiny: Path) -> None:
    network = load_network(tiny)
    with pytest.raises(
        UtteranceTooShortError, match=r"^399 samples; the shortest utterance that gives a frame has 400$"
    ):
        encode(network, make_waveforms([16_000, 399]))


def test_repeated_batch_is_bit_equal(base_pair: tuple[Reference, Emotion2vec]) -> None:
    _, network = base_pair
    waveforms = make_waveforms([4_000, 16_000, 9_000])
    for one, other in zip(encode(network, waveforms), encode(network, waveforms), strict=True):
        assert one.tobytes() == other.tobytes()


def test_funasr_engine_is_upstreams_class(tiny: Path) -> None:
    from funasr.models.emotion2vec.model import Emotion2vec as Upstream

    engine = load("funasr", tiny, "utterance")
    assert isinstance(engine, FunasrEngine)
    assert type(engine.upstream) is Upstream


@pytest.mark.parametrize("engine", ["e2v", "funasr"])
def test_both_engines_take_checkpoints_with_four_dimensional_scales(engine: str, tiny: Path, tmp_path: Path) -> None:
    name = "modality_encoders.AUDIO.alibi_scale"
    folder = make_model(tmp_path, wrap=lambda state: {**state, name: state[name].squeeze(0)})
    waveforms = make_waveforms([16_000, 400])

    old, new = predict(folder, waveforms, engine), predict(tiny, waveforms, engine)

    assert [embedding_of(one).tobytes() for one in old] == [embedding_of(other).tobytes() for other in new]


@pytest.mark.parametrize("engine", ["e2v", "funasr"])
@pytest.mark.parametrize("prefix", ["module.", "d2v_model.", "module.d2v_model."])
def test_both_engines_take_checkpoints_of_other_prefixes(prefix: str, engine: str, tiny: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path, wrap=lambda state: {prefix + name: tensor for name, tensor in state.items()})
    waveforms = make_waveforms([16_000])

    (renamed,), (plain,) = predict(folder, waveforms, engine), predict(tiny, waveforms, engine)

    assert embedding_of(renamed).tobytes() == embedding_of(plain).tobytes()


@pytest.mark.parametrize("name", ["proj.bias", "blocks.1.norm2.weight", "modality_encoders.AUDIO.extra_tokens"])
def test_funasr_engine_has_no_random_weights(name: str, tiny: Path, tmp_path: Path) -> None:
    """Upstream's own loader keeps random weights in silence where a checkpoint lacks some."""
    folder = make_model(tmp_path, wrap=lambda state: {key: state[key] for key in state if key != name})
    model = read_model("test", folder)
    weights = prepare_weights(read_model("tiny", tiny))
    weights = replace(weights, source=FileState.of(model.weights))

    with pytest.raises(ModelError, match=f"tensor '{name}' is missing"):
        load_engine(model, weights, "cpu", ComputeOptions("funasr"), ResultOptions())


@pytest.mark.parametrize("language", ["en", "zh", "both"])
def test_language_of_labels_does_not_change_probabilities(language: LabelLanguage, tiny: Path) -> None:
    (waveform,) = make_waveforms([16_000])
    expected = predict(tiny, [waveform])[0].posteriors
    model = read_model("tiny", tiny, language)

    engines: tuple[EngineName, ...] = ("e2v", "funasr")
    for engine in engines:
        loaded = load_engine(model, prepare_weights(model), "cpu", ComputeOptions(engine), ResultOptions())
        (result,) = loaded.start(Batch((Waveform(Utterance(0, "utt", ""), waveform, 1.0),)))()
        assert isinstance(result, Prediction)
        np.testing.assert_allclose(result.posteriors, expected, rtol=0, atol=PROBABILITIES)  # type: ignore[arg-type]


CLIPS = ("f1-0001.wav", "m2-0001.flac")


@pytest.mark.parametrize("layers", [(), ("--layers", "2"), ("--layers", "1")])
def test_funasr_loads_a_probe_and_gives_its_probabilities(layers: tuple[str, ...], tmp_path: Path, e2v: E2v) -> None:
    """A head of other classes, none of them ``<unk>``, without which FunASR's tokenizer refuses a list of tokens."""
    classes = ("--merge", "fearful=negative", "--classes", "angry,happy,neutral,sad,negative")
    model = tmp_path / "model"
    command = ("predict", "sample_data", "-m", "sample", "-o", tmp_path / "run", "--embeddings", "ark", *layers)
    assert e2v(*command).returncode == 0
    assert e2v("probe", "train", tmp_path / "run", "sample_data", "-o", model, *classes).returncode == 0
    paths = [ROOT / "sample_data" / "wav" / name for name in CLIPS]
    rows = e2v("predict", *paths, "-m", model, "--format", "tsv", "-q").stdout.splitlines()[1:]

    reference = Reference(model)
    for path, row in zip(paths, rows, strict=True):
        (result,) = reference.model.generate(str(path), granularity="utterance", extract_embedding=False)
        assert result["labels"] == ["生气/angry", "开心/happy", "中立/neutral", "难过/sad", "negative"]
        np.testing.assert_allclose(
            list(map(float, row.split("\t")[5:])), result["scores"], rtol=0, atol=PROBABILITIES + 5e-7
        )


def test_funasr_loads_a_head_on_an_encoder_of_other_names(tmp_path: Path) -> None:
    encoder = make_model(
        tmp_path / "encoder",
        make_config(tokenizer=False),
        wrap=lambda state: {"model": {f"d2v_model.{name}": tensor for name, tensor in state.items()}},
    )
    generator = np.random.default_rng(0)
    head = generator.normal(size=(3, 96)), generator.normal(size=3)
    (tmp_path / "model").mkdir()
    write_probe(tmp_path / "model", read_model("test", encoder), 3, head, ("calm", "unknown", "sad"), {})
    (waveform,) = make_waveforms([16_000])
    labels, scores = Reference(tmp_path / "model").scores(waveform)
    (prediction,) = predict(tmp_path / "model", [waveform])
    assert labels == ["calm", "<unk>", "难过/sad"]
    assert prediction.posteriors is not None
    np.testing.assert_allclose(prediction.posteriors, scores, rtol=0, atol=PROBABILITIES)


@pytest.mark.parametrize("shape", ["as published", "an ALiBi scale a layer and head", "an ALiBi scale a layer"])
def test_funasr_loads_an_encoder_that_ends_with_another_layer(shape: str, tmp_path: Path) -> None:
    """In the prenet of two layers, at its end, and behind it."""
    encoder = make_model(tmp_path / "encoder", make_config(prenet_depth=2, depth=3, **SHAPES[shape]))
    generator = np.random.default_rng(0)
    head = generator.normal(size=(3, 96)), generator.normal(size=3)
    waveforms = make_waveforms([16_000, 400])
    expected = [Reference(encoder).layers(waveform) for waveform in waveforms]
    for layer in (1, 2, 4):
        folder = tmp_path / f"model{layer}"
        folder.mkdir()
        write_probe(folder, read_model("test", encoder), layer, head, ("calm", "unknown", "sad"), {})
        reference = Reference(folder)
        for waveform, layers, prediction in zip(waveforms, expected, predict(folder, waveforms), strict=True):
            np.testing.assert_allclose(reference.features(waveform), layers[layer - 1], rtol=0, atol=FEATURES)
            np.testing.assert_allclose(embedding_of(prediction), layers[layer - 1].mean(axis=0), rtol=0, atol=FEATURES)
            assert prediction.posteriors is not None
            np.testing.assert_allclose(prediction.posteriors, reference.scores(waveform)[1], rtol=0, atol=PROBABILITIES)
