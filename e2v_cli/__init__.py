"""e2v: speech emotion recognition with emotion2vec over whole Kaldi-style corpora.

In Python, for notebooks:

    from e2v_cli import load

    model = load("emotion2vec_plus_base")
    for result in model.predict(["a.wav", "b.mp3"]):
        print(result.label, result.score, result.probabilities, result.embedding.shape)

    from e2v_cli import score

    print(score("exp/demo", "sample_data").metrics["UA"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from e2v_cli._version import __version__

if TYPE_CHECKING:
    from e2v_cli.analysis.score.score import Score
    from e2v_cli.api import PredictionError, Recognizer, Result, load
    from e2v_cli.commands.score import score

__all__ = ["PredictionError", "Recognizer", "Result", "Score", "__version__", "load", "score"]

_MODULES = {"score": "commands.score", "Score": "analysis.score.score"}
"""Where names are that need no PyTorch; all others are in ``api``."""


def __getattr__(name: str) -> object:
    """Import the names for notebooks, and PyTorch with them, on first use, so that the command starts at once."""
    if name in __all__:
        return getattr(import_module(f"e2v_cli.{_MODULES.get(name, 'api')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
