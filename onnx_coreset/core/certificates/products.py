"""Products of gated neurons in units in which all are of size about 1: powers of two, which is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.gates import best, rows
from onnx_coreset.core.certificates.pairing import paired
from onnx_coreset.core.certificates.terms import Term

__all__ = ["Products", "power", "products"]


@dataclass(frozen=True)
class Products:
    """n products w (value + slope s) u + rest r u, |r| <= half |s| + flat; s = gate . (y, 1), u = up . (y, 1).

    Attributes:
        gate: Shape (n, d + 1); the last entry is the constant.
        up: Shape (n, d + 1).
        gate_size: Largest |s| over the domain, rounded up, shape (n,).
        up_size: Largest |u|, shape (n,).
        value: Shape (n,).
        slope: Shape (n,).
        half: Shape (n,), not negative.
        flat: Shape (n,), not negative.
        weights: Weights of the products in 2 k functions, shape (2 k, n).
        rest: Weights of r u, not negative, shape (2 k, n).
        unit: What each function was divided by, shape (2 k,).
        slack: What roundings and unknowns until here may add, not divided, shape (2 k,).
        ball: Whether y lies in the unit ball, otherwise in the unit box.
    """

    gate: Array
    up: Array
    gate_size: Array
    up_size: Array
    value: Array
    slope: Array
    half: Array
    flat: Array
    weights: Array
    rest: Array
    unit: Array
    slack: Array
    ball: bool


def power(values: Array) -> Array:
    """Return powers of two near positive numbers, 1 for others."""
    safe = np.where((values > 0) & np.isfinite(values), values, 1.0)
    return np.asarray(np.exp2(np.clip(np.round(np.log2(safe)), -500, 500)))


def products(terms: Sequence[Term]) -> Products:
    """Return the products of terms whose features are f(g) u, all together, for D and -D. O(n (d + k) + n^2 d).

    Args:
        terms: The terms, n neurons together; at least one.

    Raises:
        ValueError: Their features are not products.
    """
    with np.errstate(all="ignore"):
        found = paired(*terms) if len(terms) == 2 else None
        if found is None:
            found = [rows(term, *best(term)) for term in terms]
        fields = ("gate", "up", "gate_size", "up_size", "value", "slope", "half", "flat")
        gate, up, far, high, value, slope, half, flat = (
            np.concatenate([getattr(own, name) for own in found]) for name in fields
        )
        weights, rest = (np.concatenate([getattr(own, name) for own in found], axis=1) for name in ("weights", "rest"))
        slack = np.sum([own.slack for own in found], axis=0) * (1.0 + 1e-10)
        one, two = power(far), power(high)
        slope, half, value, flat = slope * one * two, half * one * two, value * two, flat * two
        scale = power(np.abs(slope) + half + np.abs(value) + flat)
        weights, rest = weights * scale, rest * scale
        unit = power(np.max(np.maximum(np.abs(weights), rest), axis=1, initial=0.0))
        weights, rest = weights / unit[:, None], rest / unit[:, None]
    return Products(
        gate / one[:, None],
        up / two[:, None],
        far / one,
        high / two,
        value / scale,
        slope / scale,
        half / scale,
        flat / scale,
        np.concatenate([weights, -weights]),
        np.concatenate([rest, rest]),
        np.concatenate([unit, unit]),
        np.concatenate([slack, slack]),
        terms[0].frames[0].ball,
    )
