"""What a model does to each input before the first layer, entry by entry, done to a box of inputs.

    sum: x + v        difference: x - v        product: x v        quotient: x / v

Ends are rounded outwards. What a runtime's own rounding adds is carried along: an operation of unit v gives a result
that is off by at most v times its magnitude, and what was off before is scaled with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.certificates.domains import BoxDomain
from onnx_coreset.core.certificates.rounding import TINY, UNIT

__all__ = ["Scaling", "scaled_box"]

Kind = Literal["sum", "difference", "product", "quotient"]


@dataclass(frozen=True)
class Scaling:
    """One operation on every entry of the input.

    Attributes:
        kind: Which one.
        values: The other operand, shape (d,).
    """

    kind: Kind
    values: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen(self.values))

    def __call__(self, x: Array) -> Array:
        """Return the result (..., d) for inputs (..., d), in float64."""
        with np.errstate(all="ignore"):
            if self.kind == "sum":
                return np.asarray(x + self.values)
            if self.kind == "difference":
                return np.asarray(x - self.values)
            return np.asarray(x * self.values if self.kind == "product" else x / self.values)


def scaled_box(box: BoxDomain, steps: Sequence[Scaling], unit: float) -> tuple[BoxDomain, Array]:
    """Return the box that operations make of a box, and how far its entries as computed may be off, shape (d,).

    Args:
        box: All inputs of the model.
        steps: The operations, the first one first.
        unit: Largest relative error of one operation as it runs.

    Raises:
        ValueError: An operation has no finite result on the box, or is for another number of inputs.
    """
    low, high, off = box.low, box.high, np.zeros(box.low.size)
    for step in steps:
        if step.values.shape != low.shape:
            raise ValueError(f"an operation on {step.values.size} inputs does not fit a box of {low.size}")
        one, other = step(low), step(high)
        low, high = np.minimum(one, other), np.maximum(one, other)
        far = np.maximum(np.abs(low), np.abs(high))
        with np.errstate(all="ignore"):
            if step.kind in ("product", "quotient"):
                factor = np.abs(step.values) if step.kind == "product" else 1.0 / np.abs(step.values)
                off = off * factor * (1.0 + 4.0 * UNIT)
            off = off + unit * (far + off) * (1.0 + 1e-9)
            low, high = low - (2.0 * UNIT * np.abs(low) + TINY), high + (2.0 * UNIT * np.abs(high) + TINY)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and np.isfinite(off).all()):
            raise ValueError("what stands before the first layer has no finite result on the box")
    return BoxDomain(low, high, box.proven), off
