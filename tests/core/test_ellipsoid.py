"""The Löwner ellipsoid holds every point, hardly any smaller one does, and its few points stand for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from hidden_layers import EPS
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.ellipsoid import loewner, representatives

TOLERANCE = 0.01


def points(kind: str, n: int, d: int, rng: np.random.Generator) -> Array:
    """Points of rank at most d: round, long, heavy-tailed, few different, on a line, with zeros, or all equal."""
    drawn = rng.standard_normal((n, d))
    if kind == "long":
        return drawn * 10.0 ** np.linspace(-4, 4, d)
    if kind == "heavy":
        return drawn * np.exp(3 * rng.standard_normal((n, 1)))
    if kind == "few":
        return drawn[rng.integers(0, min(n, d + 1), n)]
    if kind == "line":
        return drawn[:, :1] * drawn[:1]
    if kind == "zeros":
        return drawn * (rng.random((n, 1)) < 0.5)
    if kind == "equal":
        return np.repeat(drawn[:1], n, axis=0)
    return drawn


KINDS = ("round", "long", "heavy", "few", "line", "zeros", "equal")


def exact_leverages(y: Array, weights: Array) -> Array:
    """Leverages from the singular values of the weighted points, without an inverse."""
    values, right = np.linalg.svd(np.sqrt(weights)[:, None] * y, full_matrices=False)[1:]
    rank = np.count_nonzero(values > values[:1] * max(y.shape) * EPS)
    return np.sum((y @ (right[:rank].T / values[:rank])) ** 2, axis=1)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 60), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_leverages_are_at_most_the_dimension(kind: str, n: int, d: int, seed: int) -> None:
    # Kiefer and Wolfowitz: the largest is never below d, and close to it det M is close to its maximum.
    y = points(kind, n, d, np.random.default_rng(seed))
    found = loewner(y, TOLERANCE)
    if not y.any():
        assert found.rank == 0 and not found.weights.any()
        return
    assert found.rank == np.linalg.matrix_rank(y)
    assert np.all(found.weights >= 0) and found.weights.sum() == pytest.approx(1.0, abs=n * EPS)
    # Long points lose the eight digits by which their axes differ.
    slack = 1e-6
    leverages = exact_leverages(y, found.weights)
    np.testing.assert_allclose(found.leverages, leverages, rtol=slack, atol=slack)
    assert found.rank * (1 - slack) <= leverages.max() <= found.rank * (1 + TOLERANCE + slack)
    assert leverages[found.weights > 0].min() >= found.rank * (1 - TOLERANCE - slack)


def test_no_other_weights_give_a_much_larger_determinant() -> None:
    # The volume of the ellipsoid {l <= d} goes with the root of det M; it exceeds the least by (1 + t)^(d/2) at most.
    rng = np.random.default_rng(1)
    y = points("heavy", 40, 3, rng)
    rough, fine = loewner(y, 0.1), loewner(y, 1e-9)
    best = np.linalg.slogdet((y.T * fine.weights) @ y)[1]
    reached = np.linalg.slogdet((y.T * rough.weights) @ y)[1]
    assert best - 3 * np.log(1.1) <= reached <= best + 3e-9
    for _ in range(200):
        other = rng.dirichlet(np.full(40, 0.1))
        assert np.linalg.slogdet((y.T * other) @ y)[1] <= best + 3e-9


def test_a_case_solved_by_hand() -> None:
    # The circle of radius 2 holds (2, 0), (0, 2) and, inside, (1, 1): M = I / 2 * 4, leverages 2, 2 and 1.
    y = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    found = loewner(y, 1e-12)
    np.testing.assert_allclose(found.weights, [0.5, 0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(found.leverages, [2.0, 2.0, 1.0], atol=1e-11)
    np.testing.assert_array_equal(representatives(y), [0, 1])


def test_a_case_solved_by_hand_whose_weights_differ() -> None:
    # (1, 0), (0, 1) and (1, 1): by symmetry M = [[u + v, v], [v, u + v]] with v = 1 - 2 u, and det M = u (u + 2 v) is
    # 2 u - 3 u^2, largest at u = 1/3: M = [[2, 1], [1, 2]] / 3, M^-1 = [[2, -1], [-1, 2]], all leverages 2.
    found = loewner(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), 1e-10)
    np.testing.assert_allclose(found.weights, 1 / 3, atol=1e-5)
    np.testing.assert_allclose(found.leverages, 2.0, rtol=2e-10)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 60), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_representatives_stand_for_all_points_in_every_direction(kind: str, n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = points(kind, n, d, rng)
    kept = representatives(y, TOLERANCE)
    rank = np.linalg.matrix_rank(y) if y.any() else 0
    assert np.all(np.diff(kept) > 0) and kept.size <= rank**2
    if rank == 0:
        return
    # Random directions, those in which some point is hidden best from the points kept, and the axes.
    scale = np.abs(y).max(axis=0) + np.finfo(float).tiny
    x = [rng.standard_normal((500, d)) / scale, np.eye(d)]
    x += [(np.linalg.pinv(y[kept]) @ rng.choice([-1.0, 1.0], (kept.size, 100))).T, np.linalg.pinv(y).T]
    values = np.abs(np.concatenate(x) @ y.T)
    factor = rank * np.sqrt(1 + TOLERANCE)
    assert np.all(values.max(axis=1) <= factor * values[:, kept].max(axis=1) * (1 + 1e-6) + 1e-9 * values.max())


@pytest.mark.parametrize("kind", ["round", "long"])
def test_the_ends_of_the_axes_lie_in_the_hull_of_the_representatives(kind: str) -> None:
    y = points(kind, 400, 6, np.random.default_rng(4))
    found, kept = loewner(y, 1e-6), representatives(y, 1e-6)
    # Fewer than have weight, or nothing was shown about who may go.
    assert kept.size < np.count_nonzero(found.weights)
    values, right = np.linalg.svd(np.sqrt(found.weights)[:, None] * y, full_matrices=False)[1:]
    for value, axis in zip(values, right, strict=True):
        # In units of the axes, so that long ones do not drown the others.
        terms = (y[kept] @ right.T / values).T
        solved = linprog(np.ones(2 * kept.size), A_eq=np.hstack([terms, -terms]), b_eq=right @ axis)
        assert solved.status == 0 and solved.fun <= 1 + 1e-6, value


def test_points_that_stand_for_all_cannot_be_fewer_than_the_dimension() -> None:
    y = np.vstack([np.eye(4), 0.1 * np.random.default_rng(2).standard_normal((30, 4))])
    np.testing.assert_array_equal(representatives(y), range(4))


def test_large_and_small_numbers_change_nothing() -> None:
    y = points("round", 30, 3, np.random.default_rng(3))
    for unit in (2.0**600, 2.0**-600):
        np.testing.assert_array_equal(loewner(unit * y).weights, loewner(y).weights)
        np.testing.assert_array_equal(representatives(unit * y), representatives(y))
