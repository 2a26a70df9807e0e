"""The protocols of three papers: a head on the frames of utterances is trained on one part of them, tested on another.

What the papers leave open is as in the code they published: see the README of this wing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler

logger = logging.getLogger(__name__)

ProtocolName = Literal["emotion2vec", "emobox", "superb"]

Frames = Callable[[int], NDArray[np.float32]]
"""The index of an utterance → its embedding: (frames, dim)."""

HIDDEN = 256
"""Width of a head, between its two linear layers."""

WARM_UP = 10
"""Epochs of EmoBox's warm-up."""

TEST_BATCH = 32
"""Utterances whose posteriors are computed together."""

VALIDATIONS = 30
"""Validations of a training whose length is counted in steps: one each 1,000 of SUPERB's 30,000."""


@dataclass(frozen=True)
class Parts:
    """Utterances to train, validate and test with, by their indices."""

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    """Indices of the validation set, which chooses the epoch or step whose weights are tested."""
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """Recipe by which a head is trained."""

    length: int
    """Epochs, each with a validation; or steps of the optimiser."""
    counts_steps: bool
    has_relu: bool
    """Whether a ReLU follows the first linear layer."""
    batch: int
    """Utterances in a batch."""
    batches_a_step: int
    """Batches whose gradients are averaged for a step."""
    max_norm: float | None
    """Norm to which all gradients together are clipped; None: no clipping."""
    make_optimizer: Callable[[nn.Module, int], tuple[torch.optim.Optimizer, LRScheduler | None]]
    """A head and the length of its training → the optimiser, and the scheduler of its rate after each epoch, if any."""


def _make_cyclic_rmsprop(head: nn.Module, _length: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Make emotion2vec's optimiser. CyclicLR by itself also cycles the momentum, 0.9 to 0.8 at the highest rate."""
    optimizer = torch.optim.RMSprop(head.parameters(), lr=5e-4, momentum=0.9)
    return optimizer, CyclicLR(optimizer, base_lr=5e-4, max_lr=1e-3, step_size_up=10)


def _make_warmed_up_adam(head: nn.Module, length: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Make EmoBox's optimiser. Its schedule sets the rate after each epoch, from 0; the first epoch has the full rate.

    After the warm-up the rate falls linearly, as SpeechBrain's ``LinearWarmupScheduler`` has it.
    """

    def factor(epoch: int) -> float:
        step = epoch - 1
        if step < 0:
            return 1.0
        return step / WARM_UP if step < WARM_UP else (length - step) / (length - WARM_UP)

    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4)
    return optimizer, LambdaLR(optimizer, factor)


def _make_adam(head: nn.Module, _length: int) -> tuple[torch.optim.Optimizer, None]:
    return torch.optim.Adam(head.parameters(), lr=1e-4), None


RECIPES: dict[ProtocolName, Recipe] = {
    "emotion2vec": Recipe(
        length=100,
        counts_steps=False,
        has_relu=True,
        batch=128,
        batches_a_step=1,
        max_norm=None,
        make_optimizer=_make_cyclic_rmsprop,
    ),
    "emobox": Recipe(
        length=100,
        counts_steps=False,
        has_relu=True,
        batch=32,
        batches_a_step=1,
        max_norm=5.0,
        make_optimizer=_make_warmed_up_adam,
    ),
    "superb": Recipe(
        length=30_000,
        counts_steps=True,
        has_relu=False,
        batch=4,
        batches_a_step=8,
        max_norm=1.0,
        make_optimizer=_make_adam,
    ),
}


class Head(nn.Module):
    """A linear layer, perhaps a ReLU, the mean over the frames of an utterance, and a linear layer."""

    def __init__(self, dim: int, num_classes: int, has_relu: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, HIDDEN)
        self.output = nn.Linear(HIDDEN, num_classes)
        self._has_relu = has_relu

    def forward(self, utterances: list[Tensor]) -> Tensor:
        """Compute logits: (utterances, classes).

        Args:
            utterances: (frames, dim) each. They are laid end to end, so that there is no padding to be masked.
        """
        hidden = self.hidden(torch.cat(utterances))
        if self._has_relu:
            hidden = F.relu(hidden)
        means = [frames.mean(dim=0) for frames in hidden.split([len(frames) for frames in utterances])]
        logits: Tensor = self.output(torch.stack(means))
        return logits


def run_protocol(
    name: ProtocolName,
    frames: Frames,
    labels: NDArray[np.int64],
    num_classes: int,
    parts: Parts,
    seed: int = 0,
    length: int | None = None,
) -> NDArray[np.float32]:
    """Train a head, and compute the posteriors of the utterances to be tested: (test, classes).

    The weights are those of the best accuracy (WA) in validation; of equal ones the first. The same seed gives the same
    numbers on the same machine, with any number of threads.

    Args:
        name: of the protocol.
        frames: reads an embedding; it is asked for each utterance in each epoch, but by superb only once.
        labels: (utterances,) indices of classes.
        num_classes: their number.
        parts: which utterances are trained, validated and tested.
        seed: of the weights and the order of utterances.
        length: epochs, or steps of superb; None: the paper's.
    """
    recipe = RECIPES[name]
    if not recipe.has_relu:  # then the mean over frames may come first, which saves nearly all of the time
        frames = _average_frames(frames, np.concatenate([parts.train, parts.valid, parts.test]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(frames(int(parts.train[0])).shape[1], num_classes, recipe.has_relu)
    batches = _shuffle(parts.train, labels, recipe.batch, seed)
    best, best_weights = -1.0, head.state_dict()
    with _single_threaded():
        for step in _train(head, recipe, frames, batches, length or recipe.length):
            predicted = _compute_posteriors(head, frames, parts.valid).argmax(axis=1)
            accuracy = float((predicted == labels[parts.valid]).mean())
            logger.info("%s, step %d: WA of validation %.4f", name, step, accuracy)
            if accuracy > best:
                best, best_weights = accuracy, deepcopy(head.state_dict())
        head.load_state_dict(best_weights)
        return _compute_posteriors(head, frames, parts.test)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Limit PyTorch to one thread until the block ends: the last bits of sums depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Batches:
    """Shuffled batches without end."""

    an_epoch: int
    """Number of batches in an epoch."""
    stream: Iterator[tuple[NDArray[np.int64], Tensor]]
    """Batches: indices of utterances, and their classes."""


def _shuffle(train: NDArray[np.int64], labels: NDArray[np.int64], size: int, seed: int) -> _Batches:
    """Make batches; the last one of an epoch may be smaller."""

    def repeat() -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        generator = np.random.default_rng(seed)
        while True:
            shuffled = generator.permutation(train)
            for first in range(0, len(shuffled), size):
                chosen = shuffled[first : first + size]
                yield chosen, torch.from_numpy(labels[chosen])

    return _Batches(-(-len(train) // size), repeat())


def _train(head: Head, recipe: Recipe, frames: Frames, batches: _Batches, length: int) -> Iterator[int]:
    """Train a head, with a stop whenever it is to be validated: the steps so far."""
    total, between = length * batches.an_epoch, batches.an_epoch
    if recipe.counts_steps:
        total, between = length, max(1, length // VALIDATIONS)
    optimizer, schedule = recipe.make_optimizer(head, length)
    for step in range(1, total + 1):
        for chosen, classes in islice(batches.stream, recipe.batches_a_step):
            loss = F.cross_entropy(head(_read_tensors(frames, chosen)), classes)
            (loss / recipe.batches_a_step).backward()  # type: ignore[no-untyped-call]
        if recipe.max_norm is not None:
            nn.utils.clip_grad_norm_(head.parameters(), recipe.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        if step % between == 0 or step == total:
            if schedule is not None:
                schedule.step()
            yield step


def _compute_posteriors(head: Head, frames: Frames, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute (utterances, classes) posteriors."""
    with torch.inference_mode():
        parts = [
            head(_read_tensors(frames, chosen[first : first + TEST_BATCH])).softmax(dim=1)
            for first in range(0, len(chosen), TEST_BATCH)
        ]
    posteriors: NDArray[np.float32] = torch.cat(parts).numpy()
    return posteriors


def _read_tensors(frames: Frames, chosen: NDArray[np.int64]) -> list[Tensor]:
    return [torch.tensor(frames(index), dtype=torch.float32) for index in chosen.tolist()]


def _average_frames(frames: Frames, chosen: NDArray[np.int64]) -> Frames:
    """Replace the frames of utterances by their mean, a single one: (1, dim)."""
    means = {
        index: frames(index).mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
        for index in chosen.tolist()
    }
    return means.__getitem__
