"""Backward elimination: drop the neuron whose loss the others make up for best, again and again.

With K = (R + r I)^{-1} over the neurons that remain and U their refitted outgoing weights, removing neuron j raises the
squared error by exactly |U_j|^2 / K_jj (for the ridge problem), and

    U <- U - U_j K_j: / K_jj,      K <- K - K_:j K_j: / K_jj.

That is a pivoted Cholesky factorisation of K that takes the U along. Neurons leave in blocks: within a pool of the
cheapest ones the elimination is exact. The order is nested: one run gives every width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.methods.pivots import Factor, pivots
from onnx_coreset.core.methods.target import OnMoments, Target

_LEAST_RIDGE = 1e-6
_FRACTION = 64
_STRIP = 256


@dataclass(frozen=True)
class Backward(OnMoments):
    """Elimination by the exact increase of the least-squares error, with refit.

    Attributes:
        ridge: Ridge in units of a feature's variance.

    Source: optimal brain surgeon (Hassibi and Stork 1993), in its structured form on feature moments.
    """

    ridge: float = _LEAST_RIDGE
    name: str = "backward"

    def rank(self, parts: tuple[Target, ...], count: int | None = None) -> Indices:
        """Return all n neurons, the best `count` in front, or in order, best first. O(p^3 + k p^2), p = n s columns."""
        return eliminate(parts, self.ridge, 1 if count is None else count)


def eliminate(parts: tuple[Target, ...], ridge: float, count: int = 1) -> Indices:
    """Return the nested order of backward elimination, best neuron first.

    Args:
        parts: What has to be approximated, over the same n neurons.
        ridge: Ridge in units of a feature's variance.
        count: Elimination stops when so many neurons are left: they come first, by index.

    Returns:
        Indices, shape (n,); neither who is left nor the order of the others depends on `count`.
    """
    width, columns = parts[0].width, parts[0].columns
    factors = []
    for part in parts:
        inverse, used = _inverse(part.correlation, ridge)
        # The inverse's diagonal is never below the inverse of the diagonal, and it only falls to that.
        factors.append(Factor(inverse, np.array(part.weights), columns, 1.0 / (1.0 + used)))
    gone = pivots(factors, width, columns, width - count, lambda left: left // _FRACTION, largest=False)
    rest = np.setdiff1d(np.arange(width), gone)
    return np.concatenate([rest, gone[::-1]])


def _inverse(correlation: Array, ridge: float) -> tuple[Array, float]:
    """Return (R + r I)^{-1} and r, the smallest of ridge, 10 ridge, ... for which it is positive definite."""
    ridge = max(ridge, 64.0 * correlation.shape[0] * float(np.finfo(np.float64).eps))
    while True:
        matrix = correlation.copy()
        matrix[np.diag_indices_from(matrix)] += ridge
        # LAPACK counts columns first: its lower triangle is the upper one here.
        factor, failed = dpotrf(matrix.T, lower=1, overwrite_a=1, clean=0)
        if not failed:
            inverse, failed = dpotri(factor, lower=1, overwrite_c=1)
            inverse = inverse.T
            if not failed and np.isfinite(inverse).all() and float(np.diag(inverse).min()) > 0:
                _mirror(inverse)
                return inverse, ridge
        ridge *= 10.0


def _mirror(matrix: Array) -> None:
    """Copy the upper triangle onto the lower one."""
    for start in range(0, matrix.shape[0], _STRIP):
        end = min(start + _STRIP, matrix.shape[0])
        square = np.triu(matrix[start:end, start:end])
        matrix[start:end, start:end] = square + np.triu(square, 1).T
        matrix[end:, start:end] = matrix[start:end, end:].T
