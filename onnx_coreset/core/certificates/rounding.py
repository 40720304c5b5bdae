"""Constants of floating-point error analysis: u = 2^-53, and gamma_k = k u / (1 - k u) for k operations in a row.

A sum of k products, in any order, with or without fused operations, is off by at most gamma_k times the sum of their
magnitudes (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1). What underflows adds at most
`TINY` an operation, far more than 2^-1074, as long as factors stay below 1e10.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.arrays import Array

__all__ = ["TINY", "UNIT", "gamma", "norms", "vanishing"]

UNIT = 2.0**-53
"""Half a unit in the last place of float64, relative."""
TINY = 1e-300
"""An absolute amount above every underflow."""


def gamma(operations: int, unit: float = UNIT) -> float:
    """Return gamma_k, rounded up, for k operations of the given unit.

    Args:
        operations: Number of roundings k.
        unit: Largest relative error of one rounding: 2^-53 for float64, 2^-24 for float32.

    Returns:
        The bound; infinite where k u reaches 1.
    """
    product = operations * unit
    return product / (1.0 - product) * (1.0 + 4.0 * UNIT) if product < 1.0 else float("inf")


def vanishing(operations: int, unit: float) -> float:
    """Return what underflow adds at most to a sum of products of so many operations.

    Args:
        operations: Number of roundings.
        unit: Largest relative error of one rounding, which tells the type: what becomes too small for a normal number
            of float32 or bfloat16 may be set to 0; of float16, whose subnormal numbers are kept, it is rounded to one.
    """
    least = 2.0**-1022 if unit <= 2.0**-50 else 2.0**-24 if unit == 2.0**-11 else 2.0**-126
    return operations * least


def norms(rows: Array, round_domain: bool) -> Array:
    """Return the largest value of each row's product with a point of the unit ball or box, rounded up.

    Args:
        rows: Shape (..., d).
        round_domain: Whether the unit ball is meant (Euclidean norms), otherwise the box [-1, 1]^d (sums of absolute
            values).

    Returns:
        Shape (...,); infinite where a square overflows.
    """
    size = rows.shape[-1]
    if not round_domain:
        total = np.abs(rows).sum(axis=-1)
        return np.asarray(np.where(total > 0, total * (1.0 + gamma(size + 4)) + size * TINY, total))
    # In units of the largest entry: squares neither overflow nor vanish.
    largest = np.max(np.abs(rows), axis=-1, initial=0.0)
    unit = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    squares = np.square(rows / unit[..., None]).sum(axis=-1)
    return np.asarray(np.where(largest > 0, np.sqrt(squares) * unit * (1.0 + gamma(size + 8)) + TINY, largest))
