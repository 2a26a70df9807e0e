"""Divergences of posteriors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from e2v_cli.analysis.similarity import compute_divergences


def test_divergences_are_squares_of_scipys_distances() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.dirichlet(np.full(9, 0.2), size=2000).round(6) for _ in range(2))
    np.testing.assert_allclose(
        compute_divergences(first, second), jensenshannon(first, second, base=2, axis=1) ** 2, atol=1e-12
    )


def test_divergences_of_the_same_and_of_disjoint_posteriors_are_0_and_1() -> None:
    first = np.array([[0.333333, 0.333333, 0.333333], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    second = np.array([[0.333333, 0.333333, 0.333333], [0.0, 0.25, 0.75], [0.0, 0.0, 1.0]])
    assert compute_divergences(first, second).tolist() == pytest.approx([0, 1, 1])
