"""Forward selection: add the neuron that explains most of what is still missing, again and again.

With M = R + r I and S = M - M_:C M_CC^{-1} M_C: what the chosen neurons C leave of it, adding neuron j lowers the
squared error of the ridge problem, centred on the old weights, by exactly |A S_:j|^2 / S_jj: pivoted Cholesky with a
pivot that knows the target. The order is nested: one run gives every width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Indices
from onnx_coreset.core.methods.pivots import Factor, pivots
from onnx_coreset.core.methods.target import OnMoments, Target

_RIDGE = 1e-6
_FRACTION = 96
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

    def rank(self, parts: tuple[Target, ...], count: int | None = None) -> Indices:
        """Return the best `count` neurons, best first, or all n. O(p^2 (m + k)) for m of them, p = n s columns."""
        return forward(parts, self.ridge, count)


def forward(parts: tuple[Target, ...], ridge: float, count: int | None = None) -> Indices:
    """Return the nested order of forward selection, best neuron first.

    Args:
        parts: What has to be approximated, over the same n neurons.
        ridge: Ridge in units of a feature's variance.
        count: How many are wanted, all where it is None; the order does not depend on it.

    Returns:
        Indices, shape (count,).
    """
    width, columns = parts[0].width, parts[0].columns
    # A pivot below the rounding of what it is the rest of would only divide noise.
    ridge = max(ridge, 64.0 * parts[0].correlation.shape[0] * float(np.finfo(np.float64).eps))
    factors = []
    for part in parts:
        rows = ridge * part.weights
        rows += part.weights @ part.correlation if part.cross is None else part.cross
        factors.append(Factor(part.correlation, rows, columns, ridge, ridge))
    most = max(1, min(_BLOCK, width // _FRACTION))
    return pivots(factors, width, columns, width if count is None else count, lambda left: most, largest=True)
