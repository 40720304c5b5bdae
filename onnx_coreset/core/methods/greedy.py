"""Forward selection: add the neuron that explains most of what is still missing, again and again.

With M = R + r I and S = M - M_:C M_CC^{-1} M_C: what the chosen neurons C leave of it, adding neuron j lowers the
squared error of the ridge problem, centred on the old weights, by exactly |A S_:j|^2 / S_jj: pivoted Cholesky with a
pivot that knows the target. The order is nested: one run gives every width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.methods.target import OnMoments, Target

_RIDGE = 1e-6
_BLOCK = 32


@dataclass(frozen=True)
class Greedy(OnMoments):
    """Forward selection by the exact decrease of the least-squares error, with refit.

    Attributes:
        ridge: Ridge in units of a feature's variance.

    Source: orthogonal matching pursuit on feature moments; pivoted Cholesky.
    """

    ridge: float = _RIDGE
    name: str = "greedy"

    def rank(self, parts: tuple[Target, ...]) -> Indices:
        """Return all n neurons, best first. O(n^2 (n + k))."""
        return forward(parts, self.ridge)


def forward(parts: tuple[Target, ...], ridge: float) -> Indices:
    """Return the nested order of forward selection, best neuron first.

    Args:
        parts: What has to be approximated, over the same n neurons.
        ridge: Ridge in units of a feature's variance.

    Returns:
        Indices, shape (n,).
    """
    left = np.arange(parts[0].correlation.shape[0])
    # A pivot below the rounding of what it is the rest of would only divide noise.
    ridge = max(ridge, 64.0 * left.size * float(np.finfo(np.float64).eps))
    residuals = [_Residual(part, ridge) for part in parts]
    chosen: list[int] = []
    alive = np.ones(left.size, dtype=bool)
    for count in range(1, left.size + 1):
        gain = sum(residual.gains() for residual in residuals)
        j = int(np.argmax(np.where(alive, gain, -np.inf)))
        chosen.append(int(left[j]))
        alive[j] = False
        for residual in residuals:
            residual.add(j)
        if count % _BLOCK == 0:
            # Columns of chosen neurons are of no more use; they go when there are enough of them to be worth a copy.
            stay = np.flatnonzero(alive) if alive.sum() <= 0.75 * alive.size else None
            for residual in residuals:
                residual.settle(stay)
            if stay is not None:
                left, alive = left[stay], np.ones(stay.size, dtype=bool)
    return np.array(chosen, dtype=np.intp)


class _Residual:
    """What the chosen neurons do not explain.

    With M = R + r I and its pivoted Cholesky rows l: S = M - sum l l^T, P = A M - sum w l^T. The last few pairs (l, w)
    wait, so that S and P change once a block, by matrix products; diag S and the squares of P's columns never wait.
    """

    def __init__(self, part: Target, ridge: float) -> None:
        self._ridge = ridge
        self._covariance = part.correlation.copy()
        self._missing = part.weights @ part.correlation + ridge * part.weights
        self._pivots = np.diag(part.correlation) + ridge
        self._rows = np.empty((0, self._pivots.size))
        self._weights = np.empty((0, part.weights.shape[0]))
        self._squares = np.einsum("kj,kj->j", self._missing, self._missing)

    def gains(self) -> Array:
        """Return by how much the error falls with each neuron, shape (n,)."""
        return np.asarray(self._squares / self._pivots)

    def add(self, j: int) -> None:
        """Choose neuron j."""
        root = np.sqrt(self._pivots[j])
        waiting = self._rows[:, j]
        row = (self._covariance[j] - waiting @ self._rows) / root
        weight = (self._missing[:, j] - waiting @ self._weights) / root
        cross = weight @ self._missing - (self._weights @ weight) @ self._rows
        self._squares += row * (row * (weight @ weight) - 2.0 * cross)
        self._pivots = np.maximum(self._pivots - row**2, self._ridge)
        self._rows = np.vstack([self._rows, row])
        self._weights = np.vstack([self._weights, weight])

    def settle(self, stay: Indices | None) -> None:
        """Take what waits out of S and P; then keep only the neurons `stay`, all where it is None."""
        self._covariance -= self._rows.T @ self._rows
        self._missing -= self._weights.T @ self._rows
        if stay is not None:
            self._covariance = self._covariance[np.ix_(stay, stay)]
            self._missing = np.ascontiguousarray(self._missing[:, stay])
            self._pivots = self._pivots[stay]
        self._rows = np.empty((0, self._pivots.size))
        self._weights = self._weights[:0]
        self._squares = np.einsum("kj,kj->j", self._missing, self._missing)
