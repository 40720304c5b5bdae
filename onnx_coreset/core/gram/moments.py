"""Mean and covariance of hidden features.

For features a of shape (n, s), flattened to p = n s columns, the second moments under the input law are all that the
least-squares error of a coreset depends on:

    mean = E a,    gram = E (a - mean)(a - mean)^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.layer import Features


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of the features of one or more readouts.

    Attributes:
        mean: Mean, shape (p,).
        gram: Covariance, shape (p, p), symmetric positive semidefinite.
    """

    mean: Array
    gram: Array


def sampled(features: Features, x: Array, block: int = 8192) -> Moments:
    """Return the moments of `features` over the rows of `x`.

    The mean of the first block is subtracted before squaring, so that features far from zero lose no digits; features
    that are constant get variance 0 exactly.

    Args:
        features: Features of n neurons with s columns.
        x: Inputs, shape (N, d), N at least 1.
        block: Rows evaluated at once; memory is O(block n s + (n s)^2).

    Returns:
        The moments. O(N (n s)^2).
    """
    count = x.shape[0]
    columns = features.width * features.columns
    origin, total, gram = np.zeros(columns), np.zeros(columns), np.zeros((columns, columns))
    for start in range(0, count, block):
        values = features.evaluate(x[start : start + block]).reshape(-1, columns)
        if start == 0:
            origin = values[0] + (values - values[0]).mean(axis=0)
        values = values - origin
        total += values.sum(axis=0)
        gram += values.T @ values
    shift = total / count
    return Moments(origin + shift, gram / count - np.outer(shift, shift))
