"""Measure how far a long utterance encoded in windows is from the same utterance encoded whole by FunASR.

    make bench-windows
    make bench-windows ARGS="--model DIR"

Nothing is timed here; the table shows the effect and the cost of the context of a window. An utterance longer than
``--window`` is normalised over all of its samples and cut into windows with context on either side, and the frames that
are kept are compared with FunASR's for the whole utterance. A row is one length of context:

-   frame features: the largest and the mean difference, and the mean within a second of where two windows meet;
-   the embedding (the mean over frames) and the probabilities of the classes: the largest difference;
-   the number of utterances with the same label, and the frames that are encoded in excess.

The difference has two causes. The positional convolutions see zeros behind the end of a window; they reach 0.9 s, so
that more context than that makes them exact. Attention sees less of the utterance: the extra tokens attend to all of
it, without ALiBi, and every frame attends to them, so that a part of the difference is in every frame, with any
context.

Weights are random and of the true base shape unless ``--model`` names a folder. Random attention is nearly even but for
ALiBi, which flatters windows: with queries and keys three times as large, frames differ about five times as much, and
embeddings more than ten times. The utterances are clips of the sample corpus end to end, of different loudness.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from support.checkpoints import make_config, make_model
from torch import Tensor

from e2v_cli.inference.windows import Window, cut_windows
from e2v_cli.models.checkpoint import make_network
from e2v_cli.models.folder import Model, read_model
from e2v_cli.network.emotion2vec import Emotion2vec
from e2v_cli.records import SAMPLE_RATE

ROOT = Path(__file__).parent.parent.parent
CONTEXTS = (0, 0.5, 1, 2, 4, 8)
"""Seconds on either side of a window."""


@dataclass(frozen=True)
class Difference:
    """The difference of an utterance in windows from the whole one."""

    features: float
    """The largest of all values, as for embedding and probabilities."""
    mean_features: float
    mean_features_at_edges: float
    """Within a second of where two windows meet."""
    embedding: float
    probabilities: float
    same_label: bool
    extra_frames: float
    """Frames that are encoded and not kept, as a fraction of the utterance's."""


def make_waveform(seconds: float, seed: int) -> Tensor:
    """Join clips of the sample corpus, in random order and loudness: (samples,), normalised."""
    rng = np.random.default_rng(seed)
    paths = sorted((ROOT / "sample_data" / "wav").iterdir())
    paths = [path for path in paths if (soundfile.info(path).samplerate, soundfile.info(path).channels) == (16_000, 1)]
    parts: list[Tensor] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        if len(parts) % len(paths) == 0:
            rng.shuffle(paths)
        samples, _ = soundfile.read(paths[len(parts) % len(paths)], dtype="float32")
        parts.append(torch.from_numpy(samples) * 10 ** rng.uniform(-0.7, 0))
    waveform = torch.cat(parts)[: int(seconds * SAMPLE_RATE)]
    return F.layer_norm(waveform, waveform.shape)


def load_upstream(folder: Path) -> Any:
    """Load the network of a model folder with FunASR."""
    from funasr import AutoModel

    threads = torch.get_num_threads()
    return AutoModel(model=str(folder), device="cpu", ncpu=threads, disable_update=True, disable_pbar=True).model


def encode_windows(network: Emotion2vec, waveform: Tensor, windows: Sequence[Window]) -> Tensor:
    """Encode each window by itself, and join the frames that are kept: (frames, embed_dim)."""
    kept = []
    for window in windows:
        (frames,) = network.encode([waveform[window.samples(network.config)]])
        kept.append(frames[window.first_kept - window.first : window.end_kept - window.first])
    return torch.cat(kept)


def compare(
    network: Emotion2vec, model: Model, features: Tensor, whole: Tensor, windows: Sequence[Window]
) -> Difference:
    """Compare the features of windows with those of the whole utterance, both (frames, embed_dim)."""
    per_frame = (features - whole).abs().mean(dim=1)
    frames_per_second = SAMPLE_RATE // network.config.hop
    at_edges = torch.zeros(len(whole), dtype=torch.bool)
    for window in windows[1:]:
        at_edges[max(0, window.first_kept - frames_per_second) : window.first_kept + frames_per_second] = True
    pooled = torch.stack([features.mean(dim=0), whole.mean(dim=0)])
    probabilities = network.logits(pooled)[:, model.classes].softmax(dim=1)
    label, whole_label = probabilities.argmax(dim=1).tolist()
    return Difference(
        features=(features - whole).abs().max().item(),
        mean_features=per_frame.mean().item(),
        mean_features_at_edges=per_frame[at_edges].mean().item(),
        embedding=(pooled[0] - pooled[1]).abs().max().item(),
        probabilities=(probabilities[0] - probabilities[1]).abs().max().item(),
        same_label=label == whole_label,
        extra_frames=sum(window.end - window.first for window in windows) / len(whole) - 1,
    )


@torch.inference_mode()
def measure(folder: Path, seconds: Sequence[float], window: float) -> dict[float, list[Difference]]:
    """Compare utterances of these lengths, in windows of ``window`` seconds with every context."""
    model = read_model(folder.name, folder)
    if not model.classes:
        raise SystemExit(f"{folder} has no head")
    network, upstream = make_network(model), load_upstream(folder)
    differences: dict[float, list[Difference]] = {context: [] for context in CONTEXTS}
    window_frames = network.config.num_frames(int(window * SAMPLE_RATE))
    for seed, length in enumerate(seconds):
        waveform = make_waveform(length, seed)
        whole: Tensor = upstream.extract_features(waveform[None])["x"][0]
        for context, found in differences.items():
            context_frames = int(context * SAMPLE_RATE / network.config.hop)
            windows = list(cut_windows(len(whole), window_frames, context_frames))
            features = encode_windows(network, waveform, windows)
            found.append(compare(network, model, features, whole, windows))
    return differences


def print_row(context: float, found: Sequence[Difference]) -> None:
    """Print a row of the table: the worst of all utterances, and the mean of the excess frames."""
    worst = {
        field.name: max(float(getattr(difference, field.name)) for difference in found) for field in fields(Difference)
    }
    same = sum(difference.same_label for difference in found)
    extra = sum(difference.extra_frames for difference in found) / len(found)
    print(
        f"| {context:g} s "
        f"| {worst['features']:.3f} | {worst['mean_features']:.4f} | {worst['mean_features_at_edges']:.4f} "
        f"| {worst['embedding']:.4f} | {worst['probabilities']:.5f} | {same} of {len(found)} | {extra:.1%} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the effect of the context of windows.")
    parser.add_argument("--model", type=Path, help="a model folder with a head (default: random, of base shape)")
    parser.add_argument("--window", type=float, default=60, help="seconds of a window (default: %(default)s)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[61, 75], help="utterances (default: 61 75)")
    args = parser.parse_args()
    if min(args.seconds) <= args.window or args.window <= 2 * max(CONTEXTS):
        parser.error(f"utterances must be longer than a window, and that longer than {2 * max(CONTEXTS)} s")
    # FunASR prints on standard output
    with tempfile.TemporaryDirectory() as temporary, redirect_stdout(sys.stderr):
        config = make_config(embed_dim=768, num_heads=12, prenet_depth=4, depth=8, channels=512)
        folder = args.model or make_model(Path(temporary) / "base", config)
        differences = measure(folder, args.seconds, args.window)
    lengths = ", ".join(f"{seconds:g}" for seconds in args.seconds)
    print(f"Utterances of {lengths} s in windows of at most {args.window:g} s, against FunASR on the whole\n")
    print("| context | features, most | mean | mean at edges | embedding | probabilities | same label | extra frames |")
    print("|---|---|---|---|---|---|---|---|")
    for context, found in differences.items():
        print_row(context, found)


if __name__ == "__main__":
    main()
