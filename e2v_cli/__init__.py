"""e2v: speech emotion recognition with emotion2vec over whole Kaldi-style corpora.

In Python, for notebooks:

    from e2v_cli import load

    model = load("emotion2vec_plus_base")
    for result in model.predict(["a.wav", "b.mp3"]):
        print(result.label, result.score, result.probabilities, result.embedding.shape)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from e2v_cli._version import __version__

if TYPE_CHECKING:
    from e2v_cli.api import PredictionError, Recognizer, Result, load

__all__ = ["PredictionError", "Recognizer", "Result", "__version__", "load"]


def __getattr__(name: str) -> object:
    """Import the names for notebooks, and PyTorch with them, on first use, so that the command starts at once."""
    if name in __all__:
        from e2v_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
