"""What the two networks differ by beyond their real-number difference, because each is computed in floating point.

A layer computed with unit roundoff v gives, in place of t = p . x + b, one that is off by at most gamma_{d+1} (|p| .
|x| + |b|), in place of f(t) one that is off by the slope of f times that and by a few units of its own value, and in
place of the sum another gamma_{n+1} of the magnitudes of its terms; gamma_k = k v / (1 - k v) as ever. The first
bound holds for any order of summation, with fused operations or without. That f itself is computed to 16 units in the
last place of its value, and of 1, is an assumption about the runtime."""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.difference import Stack
from onnx_coreset.core.certificates.domains import Domain, frame, magnitudes
from onnx_coreset.core.certificates.rounding import gamma
from onnx_coreset.core.features import Neurons
from onnx_coreset.core.layer import Readout

__all__ = ["SINGLE", "deployed"]

SINGLE = 2.0**-24
"""Half a unit in the last place of float32, relative."""
_OWN = 16


def deployed(readout: Readout, domain: Domain, unit: float = SINGLE) -> Array:
    """Return how far a readout of dense neurons as computed is from the same in real numbers, at any input of a domain.

    Args:
        readout: A readout of `Neurons`, k outputs.
        domain: Where its inputs, exact numbers of the dtype, lie.
        unit: Largest relative error of one operation.

    Returns:
        Shape (k,); infinite where the activation has no slope that is known. O(n (d + k)).

    Raises:
        ValueError: The features are not `Neurons`.
    """
    part = readout.features
    if not isinstance(part, Neurons):
        raise ValueError("the features are not dense neurons")
    found = frame(domain, part.incoming, part.bias)
    with np.errstate(over="ignore", invalid="ignore"):
        near = found.reach + found.noise
        low, high = found.offset - near, found.offset + near
        stack = Stack((part.activation,), (part.width,))
        off = gamma(part.inputs + 1, unit) * (magnitudes(domain, part.incoming) + np.abs(part.bias))
        value_low, value_high = stack.interval(low, high)
        value = np.maximum(np.abs(value_low), np.abs(value_high))
        slope = np.where(off > 0, stack.lipschitz(), 0.0) * off
        own = gamma(_OWN, unit) * (value + slope + 1.0)
        absolute = np.abs(readout.outgoing[:, :, 0])
        carried = absolute @ (slope + own)
        summed = gamma(part.width + 1, unit) * (absolute @ (value + slope + own) + np.abs(readout.constant))
        return np.asarray((carried + summed) * (1.0 + 1e-9))
