"""The eigenvalue step is never below the truth, and hardly above it."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.eigen import level

UNIT = 2.0**-53


def truth(sides: Array, cross: Array) -> object:
    """The largest eigenvalue of [[E, S], [S^T, 0]] to 50 digits."""
    p, q = cross.shape
    whole = np.zeros((p + q, p + q))
    whole[:p, :p], whole[:p, p:], whole[p:, :p] = sides, cross, cross.T
    with mpmath.workdps(50):
        return max(mpmath.eigsy(mpmath.matrix(whole.tolist()), eigvals_only=True))


def matrices(kind: str, p: int, q: int, rng: np.random.Generator) -> tuple[Array, Array]:
    sides, cross = rng.standard_normal((p, p)), rng.standard_normal((p, q))
    sides = sides + sides.T
    if kind == "no sides":
        sides[:] = 0.0
    if kind == "no cross":
        cross[:] = 0.0
    if kind == "singular":
        cross = np.outer(cross[:, 0], cross[0])
    if kind == "repeated":
        cross = np.linalg.qr(rng.standard_normal((max(p, q), max(p, q))))[0][:p, :q]
        sides *= 0.0
    if kind == "scaled":
        scale = 10.0 ** rng.uniform(-6, 6, p)
        sides, cross = sides * np.outer(scale, scale), cross * scale[:, None]
    return sides, cross


KINDS = ("round", "no sides", "no cross", "singular", "repeated", "scaled")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_it_is_never_below_the_largest_eigenvalue(kind: str, p: int, q: int, seed: int) -> None:
    sides, cross = matrices(kind, p, q, np.random.default_rng(seed))
    exact, found = truth(sides, cross), level(sides, cross)
    assert found >= exact
    # The loss: p u times a trace of p terms of size l + |E| + |S|^2 / l, and (q + 24) u times the same; where the
    # factorisation fails, up to four times what it needed. Rows of scales that differ by 1e12 cost more digits.
    if exact > 1e-100 and kind != "scaled":
        size = exact + np.linalg.norm(sides) + np.sum(np.square(cross)) / exact
        assert found <= exact + 200 * (p + q + 24) ** 2 * UNIT * size


@pytest.mark.parametrize("size", [40, 450])
def test_it_is_close_where_the_largest_eigenvalue_is_far_from_alone(size: int) -> None:
    # Optimal multipliers make the top eigenvalue a multiple one: S has 20 equal singular values, the largest.
    rng = np.random.default_rng(size)
    left = np.linalg.qr(rng.standard_normal((size, size)))[0]
    right = np.linalg.qr(rng.standard_normal((size + 3, size)))[0]
    cross = (left * np.where(np.arange(size) < 20, 1.0, 0.9)) @ right.T
    assert 1.0 - 1e-14 * size <= level(np.zeros((size, size)), cross) <= 1.0 + 40 * (size + 30) ** 2 * UNIT


def test_nothing_has_level_zero() -> None:
    assert level(np.zeros((3, 3)), np.zeros((3, 2))) == 0.0


def test_what_overflows_has_none() -> None:
    assert level(np.zeros((2, 2)), np.full((2, 2), 1e200)) == np.inf
    assert level(np.full((2, 2), np.nan), np.ones((2, 2))) == np.inf


def test_equal_eigenvalues_up_to_rounding_have_a_largest() -> None:
    # LAPACK finds no eigenvalue of a range in about one of sixteen such matrices.
    for seed in range(200):
        turned = np.linalg.qr(np.random.default_rng(seed).standard_normal((16, 16)))[0]
        assert 1.0 <= level(np.zeros((16, 16)), turned) <= 1.0 + 1e-9
