"""A model → the same model with the classes of a closed set, or with merged classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from e2v_cli.analysis.labels.labels import Merge, close_labels
from e2v_cli.errors import UsageError
from e2v_cli.models.folder import Model


def close_head(model: Model, classes: Sequence[str], merges: Sequence[Merge]) -> Model:
    """Choose the classes of a model's results; the arguments are those of ``close_labels``.

    Raises:
        UsageError: the model has no head or no such class, or too few are left.
    """
    if not classes and not merges:
        return model
    if not model.labels:
        option = "--classes" if classes else "--merge"
        raise UsageError(f"{model.name} has no head, which {option} needs: leave it out")
    closed = close_labels(model.labels, classes, merges, model.name)
    if len(closed.names) == 1:
        raise UsageError(f"{closed.names[0]} would be the only class, of probability 1: keep two or more")
    groups = (tuple(chain.from_iterable(model.groups[label] for label in group)) for group in closed.groups)
    return replace(model, labels=closed.names, groups=tuple(groups))
