"""The map of embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from e2v_cli.report.projection import MAP_SIZE, choose_points, project, subtract_means


def test_projection_is_that_of_principal_components() -> None:
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(200, 12)) * np.linspace(3, 0.5, 12)
    fitted = PCA(2).fit(vectors)
    projection = project(vectors)
    assert projection.variance == pytest.approx(tuple(fitted.explained_variance_ratio_), abs=1e-9)
    for axis, expected in zip(projection.points.T, fitted.transform(vectors).T, strict=True):
        assert abs(np.corrcoef(axis, expected)[0, 1]) > 0.9999


def test_map_is_the_same_whatever_the_sign_of_an_axis() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 5)) * [9, 4, 1, 1, 1]
    points = project(vectors).points
    assert np.array_equal(project(vectors + 100).points, points)
    assert points.min() == 0
    assert points.max() == MAP_SIZE


@pytest.mark.parametrize("vectors", [np.zeros((4, 3)), np.arange(4.0)[:, None], np.ones((3, 1))])
def test_degenerate_vectors_have_a_map(vectors: np.ndarray) -> None:
    projection = project(vectors)
    assert projection.points.shape == (len(vectors), 2)
    assert np.isfinite(projection.variance).all()


def test_means_of_groups_are_subtracted() -> None:
    vectors = np.array([[1.0, 2.0], [3.0, 4.0], [7.0, 7.0]])
    assert subtract_means(vectors, np.array([0, 0, 1])).tolist() == [[-1, -1], [1, 1], [0, 0]]


def test_points_are_sampled_evenly() -> None:
    assert choose_points(5, is_matrix=False).tolist() == [0, 1, 2, 3, 4]
    chosen = choose_points(10_000_000, is_matrix=False)
    assert (len(chosen), chosen[0], chosen[-1]) == (1500, 0, 9_999_999)
    assert len(choose_points(10_000, is_matrix=True)) == 300
    assert len(choose_points(0, is_matrix=False)) == 0
