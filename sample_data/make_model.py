"""Train the `sample` model: the emotion2vec architecture, tiny, on synthetic speech.

No voice and no sentence of the sample corpus is in the training set; only the way each class is spoken
(`make_corpus.STYLES`) is the same. Run it from the repository root:

    python sample_data/make_model.py             # train, save model.pt, measure: ten minutes on one core
    python sample_data/make_model.py --measure   # measure the model that is there

The same versions of espeak-ng, numpy and torch, on the same kind of processor, make the same bytes again.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from funasr.models.emotion2vec.model import Emotion2vec
from make_corpus import SAMPLE_RATE, SENTENCES, Waveform, require_espeak, synthesise
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import cross_entropy, layer_norm

MODEL = Path("e2v_cli/sample")
CORPORA = [Path("sample_data"), Path("sample_data/long")]

VOICES = [
    *["en-us+m1", "en-gb+m2", "en-us+m4", "en-gb+m6", "en-gb-scotland+m7", "en-029+m8", "en-us+Andy"],
    *["en-us+f1", "en-gb+f3", "en-us+f5", "en-gb-x-rp+Annie", "en-us+Alicia", "en-gb+linda", "en-us+steph"],
]
SEED = 0
TAKES = 3  # of each sentence in each class
STEPS = 700
BATCH = 24  # crops
CROP = (0.8, 3.0)  # seconds
LEARNING_RATE = 1.2e-3  # at its highest
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1


def read_labels() -> list[str]:
    """Return the classes in the order of the model's outputs."""
    lines = (MODEL / "tokens.txt").read_text(encoding="utf-8").split()
    return ["unknown" if line == "<unk>" else line.rpartition("/")[2] for line in lines]


def build_model() -> Emotion2vec:
    """Build the network that the sample's config.yaml describes, with random weights."""
    config = OmegaConf.load(MODEL / "config.yaml")  # PyYAML would read 1e-05 as a string
    return Emotion2vec(model_conf=config.model_conf, vocab_size=len(read_labels()))


def logits(model: Emotion2vec, waves: Tensor) -> Tensor:
    """Score a (utterance, sample) batch of waveforms in every class, as upstream's `inference` does."""
    features = model.extract_features(layer_norm(waves, waves.shape[1:]))["x"]
    scores: Tensor = model.proj(features.mean(dim=1))
    return scores


# -- Training ------------------------------------------------------------------------------------------------


def training_set(labels: list[str]) -> list[tuple[Tensor, int]]:
    """Speak every training sentence in every class, each take with a voice drawn by lot."""
    sentences = (SENTENCES / "training.txt").read_text(encoding="utf-8").splitlines()
    examples = []
    for take, row, target in itertools.product(range(TAKES), range(len(sentences)), range(len(labels))):
        rng = np.random.default_rng([SEED, take, row, target])
        wave = synthesise(str(rng.choice(VOICES)), sentences[row], labels[target], rng)
        examples.append((torch.from_numpy(wave).float(), target))
    return examples


def batches(examples: list[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw crops, all of one length in a batch, and their classes."""
    rng = np.random.default_rng(SEED)
    for _ in range(STEPS):
        length = round(rng.uniform(*CROP) * SAMPLE_RATE)
        long_enough = [example for example in examples if len(example[0]) >= length]
        crops, targets = [], []
        for index in rng.choice(len(long_enough), BATCH, replace=False):
            wave, target = long_enough[index]
            start = rng.integers(len(wave) - length + 1)
            crops.append(wave[start : start + length])
            targets.append(target)
        yield torch.stack(crops), torch.tensor(targets)


def train(labels: list[str]) -> Emotion2vec:
    """Train the whole network from scratch."""
    torch.set_num_threads(1)  # sums in another order would be other weights
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # upstream draws the layers to drop from here
    model = build_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for step, (waves, targets) in enumerate(batches(training_set(labels)), start=1):
        loss = cross_entropy(logits(model, waves), targets, label_smoothing=LABEL_SMOOTHING)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} of {STEPS}: loss {loss.item():.3f}", flush=True)
    return model.eval()


# -- Measuring -----------------------------------------------------------------------------------------------


def read_table(path: Path) -> dict[str, str]:
    """Read a Kaldi table."""
    rows = path.read_text(encoding="utf-8").splitlines()
    return dict(row.split(maxsplit=1) for row in rows)


def read_wave(path: str) -> Waveform:
    """Read a recording as 16 kHz mono."""
    samples, sample_rate = soundfile.read(path, always_2d=True)
    wave: Waveform = soxr.resample(samples.mean(axis=1), sample_rate, SAMPLE_RATE)
    return wave


def read_waves(folder: Path) -> dict[str, Waveform]:
    """Read the utterances of a data directory, with or without `segments`."""
    recordings = {key: read_wave(path) for key, path in read_table(folder / "wav.scp").items()}
    if not (folder / "segments").exists():
        return recordings
    waves = {}
    for utt_id, segment in read_table(folder / "segments").items():
        recording, *times = segment.split()
        start, end = (round(float(time) * SAMPLE_RATE) for time in times)
        waves[utt_id] = recordings[recording][start:end]
    return waves


def measure(model: Emotion2vec, labels: list[str], folder: Path) -> None:
    """Print which utterances of a data directory the model gets wrong, and the share that it gets right."""
    emotions = read_table(folder / "utt2emo")
    right = 0
    for utt_id, wave in read_waves(folder).items():
        with torch.no_grad():
            guess = labels[int(logits(model, torch.from_numpy(wave).float()[None]).argmax())]
        right += guess == emotions[utt_id]
        if guess != emotions[utt_id]:
            print(f"{utt_id}: {emotions[utt_id]}, taken for {guess}")
    print(f"{folder}: {right} of {len(emotions)} right, {right / len(emotions):.1%}")


def main() -> None:
    """Train the model, unless only its figures are wanted, and print them."""
    parser = argparse.ArgumentParser(description="Train the sample model; run it from the repository root.")
    parser.add_argument("--measure", action="store_true", help="only measure the model that is there")
    only_measure: bool = parser.parse_args().measure
    labels = read_labels()
    if not only_measure:
        require_espeak()
        torch.save({"model": train(labels).state_dict()}, MODEL / "model.pt")
    model = build_model().eval()
    model.load_state_dict(torch.load(MODEL / "model.pt", weights_only=True)["model"])
    for folder in CORPORA:
        measure(model, labels, folder)


if __name__ == "__main__":
    main()
