"""Backward elimination: drop the neuron whose loss the others make up for best, again and again.

With K = (R + r I)^{-1} over the neurons that remain and U their refitted outgoing weights, removing neuron j raises the
squared error by exactly |U_j|^2 / K_jj (for the ridge problem), and

    U <- U - U_j K_j: / K_jj,      K <- K - K_:j K_j: / K_jj.

Neurons leave in blocks: within a pool of the cheapest ones the elimination is exact, one by one on small matrices, and
the rest is updated once a block by matrix products. The order is nested: one run gives every width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.methods.target import OnMoments, Target

_LEAST_RIDGE = 1e-6
_FRACTION = 64


@dataclass(frozen=True)
class Backward(OnMoments):
    """Elimination by the exact increase of the least-squares error, with refit.

    Attributes:
        ridge: Ridge in units of a feature's variance.

    Source: optimal brain surgeon (Hassibi and Stork 1993), in its structured form on feature moments.
    """

    ridge: float = _LEAST_RIDGE
    name: str = "backward"

    def rank(self, parts: tuple[Target, ...]) -> Indices:
        """Return all n neurons, best first. O(n^3 + k n^2)."""
        return eliminate(parts, self.ridge)


def eliminate(parts: tuple[Target, ...], ridge: float) -> Indices:
    """Return the nested order of backward elimination, best neuron first.

    Args:
        parts: What has to be approximated, over the same n neurons.
        ridge: Ridge in units of a feature's variance.

    Returns:
        Indices, shape (n,).
    """
    width = parts[0].correlation.shape[0]
    left = np.arange(width)
    inverses = [_inverse(part.correlation, ridge) for part in parts]
    weights = [np.array(part.weights) for part in parts]
    gone: list[Indices] = []
    while left.size > 1:
        block = max(1, min(left.size // _FRACTION, left.size - 1))
        out = _cheapest(inverses, weights, block)
        gone.append(left[out])
        stay = np.setdiff1d(np.arange(left.size), out)
        for index, (inverse, weight) in enumerate(zip(inverses, weights, strict=True)):
            inverses[index], weights[index] = _without(inverse, weight, out, stay)
        left = left[stay]
    gone.append(left)
    return np.concatenate(gone)[::-1].copy()


def _inverse(correlation: Array, ridge: float) -> Array:
    size = correlation.shape[0]
    identity = np.eye(size)
    ridge = max(ridge, float(np.finfo(np.float64).eps))
    while True:
        try:
            factor = cho_factor(correlation + ridge * identity, lower=True, overwrite_a=True, check_finite=False)
            inverse = cho_solve(factor, identity, check_finite=False)
            if np.isfinite(inverse).all() and float(np.diag(inverse).min()) > 0:
                return np.asarray((inverse + inverse.T) / 2)
        except np.linalg.LinAlgError:
            pass
        ridge *= 10.0


def _cheapest(inverses: list[Array], weights: list[Array], block: int) -> Indices:
    """Return `block` neurons, by exact elimination within the pool of the 2 `block` cheapest ones."""
    cost = sum(np.einsum("kj,kj->j", w, w) / np.diag(k) for k, w in zip(inverses, weights, strict=True))
    pool = np.argsort(cost, kind="stable")[: 2 * block]
    if block == 1:
        return pool[:1]
    small = [k[np.ix_(pool, pool)] for k in inverses]
    gram = [w[:, pool].T @ w[:, pool] for w in weights]
    alive = np.ones(pool.size, dtype=bool)
    chosen = []
    for _ in range(block):
        cost = sum(np.diag(g) / np.diag(k) for g, k in zip(gram, small, strict=True))
        j = int(np.argmin(np.where(alive, cost, np.inf)))
        alive[j] = False
        chosen.append(j)
        for k, g in zip(small, gram, strict=True):
            row = k[j] / k[j, j]
            cross = g[:, j].copy()
            # Gram of U - U_j row^T, and K - K_j row^T; neuron j itself keeps a unit pivot: nothing is divided by 0.
            g += g[j, j] * np.outer(row, row) - np.outer(cross, row) - np.outer(row, cross)
            k -= np.outer(k[j].copy(), row)
            k[j, j] = 1.0
    return pool[chosen]


def _without(inverse: Array, weight: Array, out: Indices, stay: Indices) -> tuple[Array, Array]:
    """Eliminate the neurons `out` at once; return inverse and weights of the neurons that stay."""
    if out.size == 1:
        # Without BLAS: its threads take longer to meet than so small an update takes.
        row = inverse[out[0], stay] / inverse[out[0], out[0]]
        left = inverse[np.ix_(stay, stay)]
        left -= np.outer(inverse[stay, out[0]], row)
        return left, weight[:, stay] - np.outer(weight[:, out[0]], row)
    factor = np.linalg.cholesky(inverse[np.ix_(out, out)])
    half = solve_triangular(factor, inverse[np.ix_(out, stay)], lower=True, check_finite=False)
    lost = solve_triangular(factor, weight[:, out].T, lower=True, check_finite=False)
    return inverse[np.ix_(stay, stay)] - half.T @ half, weight[:, stay] - lost.T @ half
