"""The one number a dual bound needs, with a proof in floating point: the least l with l I - E - S S^T / l >= 0.

It bounds v^T E v + 2 v^T S w <= l (|v|^2 + |w|^2) for all v, w: a largest eigenvalue, of [[E, S], [S^T, 0]]. A value
t from any eigenvalue routine is only a guess. It is raised until the Cholesky factorisation of the computed H = fl(t
I - E - S S^T / t) runs to its end. Then H + F >= 0 for some F with

    |F_ij| <= g (H_ii H_jj)^(1/2),   g = gamma_{p+1} / (1 - gamma_{p+1}),   so that  ||F|| <= g trace H,

and H itself is off by at most gamma_{q+8} |S| |S|^T / t and a few units of each of its terms. The sum d of these
norms makes t I - E - S S^T / t >= -d I in exact arithmetic, hence l = t + d will do, since S S^T / t falls as t
grows.

Source: Higham, *Accuracy and Stability*, Theorem 10.5; Rump, *Verification of positive definiteness*, BIT 2006. The
order of summation in the factorisation does not matter to either.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.lapack import dpotrf
from scipy.sparse.linalg import ArpackError, eigsh

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma

__all__ = ["level"]

_TRIES = 60
_DENSE = 400
_ROUNDS = 12


def level(sides: Array, cross: Array) -> float:
    """Return l with l I - E - S S^T / l >= 0 for all E and S whose entries are within gamma_4 of those given.

    Args:
        sides: E, symmetric, shape (p, p).
        cross: S, shape (p, q).

    Returns:
        l > 0, rounded up; 0 where both are 0; infinite where it cannot be shown. O(p^2 q + p^3).
    """
    size, inner = cross.shape
    with np.errstate(all="ignore"):
        square = cross @ cross.T
        mass, across = float(np.sum(np.square(cross))), float(np.sqrt(np.sum(np.square(sides))))
        if not (np.isfinite(square).all() and np.isfinite(across)):
            return float("inf")
        if not (np.any(cross) or np.any(sides)):
            return 0.0
        # A start that is 0 where both are tiny: then every bound is the absolute part.
        guess = max(_guess(sides, square), 1e-140)
    step = 4.0 * (size + 2) ** 2 * UNIT
    for _ in range(_TRIES):
        top = guess * (1.0 + step)
        matrix = -sides - square / top
        matrix[np.diag_indices(size)] += top
        trace = float(np.trace(matrix))
        if np.isfinite(trace) and dpotrf(matrix, lower=1, overwrite_a=0, clean=0)[1] == 0:
            factor = gamma(size + 2) / (1.0 - gamma(size + 2))
            loss = factor * trace + gamma(inner + 24) * mass / top + gamma(16) * (top + across)
            return float((top + loss * (1.0 + 1e-10) + (size + inner) ** 2 * TINY / top) * (1.0 + 8.0 * UNIT))
        step *= 4.0
    return float("inf")


def _guess(sides: Array, square: Array) -> float:
    """Return about the largest l, from below: each unit v gives one by l^2 = l v^T E v + v^T S S^T v."""
    size = square.shape[0]
    value = float(np.sqrt(np.trace(square) / size)) + float(np.max(np.abs(sides))) + 1e-150
    vector = np.ones(size)
    last = 0.0
    for _ in range(_ROUNDS):
        vector = _top(sides + square / value, vector)
        along, spread = float(vector @ sides @ vector), float(vector @ square @ vector)
        value = max(0.5 * (along + float(np.hypot(along, 2.0 * np.sqrt(max(spread, 0.0))))), 1e-150)
        if abs(value - last) <= 4.0 * UNIT * value:
            break
        last = value
    return value


def _top(matrix: Array, start: Array) -> Array:
    """Return about a unit eigenvector of the largest eigenvalue, shape (p,)."""
    size = matrix.shape[0]
    if size > _DENSE:
        try:
            return np.asarray(eigsh(matrix, k=1, which="LA", v0=start, tol=1e-11)[1][:, 0])
        except ArpackError:
            pass
    found = eigh(matrix, subset_by_index=[size - 1, size - 1])[1]
    # Where eigenvalues agree to the last places, as near a multiple of the identity, LAPACK may find none of a range.
    return np.asarray((found if found.shape[1] else eigh(matrix, driver="evd")[1])[:, -1])
