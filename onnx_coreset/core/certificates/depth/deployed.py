"""How far a network as it runs, in floating point of some unit, is from the same in real numbers.

Layer by layer: values that are off by e make pre-activations that are off by |W| e and by gamma_{d+1} (|W| |h| + |b|),
those make values off by the slope of f times that, and by a few units of their own. The magnitudes are those of the
values' ranges. Inputs are exact numbers of the dtype, or off by what stood before them. That f itself is computed to 16
units in the last place of its value, and of 1, is an assumption about the runtime.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.depth.networks import FeedForward
from onnx_coreset.core.certificates.pieces import lipschitz
from onnx_coreset.core.certificates.rounding import gamma

__all__ = ["SINGLE", "computed"]

SINGLE = 2.0**-24
"""Half a unit in the last place of float32, relative."""
_OWN = 16


def computed(network: FeedForward, far: tuple[Array, ...], unit: float = SINGLE, off: Array | None = None) -> Array:
    """Return how far each output as computed is from the same in real numbers, shape (k,).

    Args:
        network: The network.
        far: Largest |x|, shape (d,), and largest |h| of every hidden layer, shape (n,) each.
        unit: Largest relative error of one operation.
        off: How far the inputs as computed are off, shape (d,); by nothing unless it is given.

    Returns:
        The bound; infinite where an activation has no slope that is known.
    """
    off = np.zeros(network.inputs) if off is None else off
    with np.errstate(all="ignore"):
        for layer, reach, value in zip(network.hidden, far, far[1:], strict=False):
            made = _affine(layer.incoming, layer.bias, reach, off, unit)
            slope = np.where(made > 0, lipschitz(layer.activation, layer.width), 0.0) * made
            off = slope + gamma(_OWN, unit) * (value + slope + 1.0)
        found = _affine(network.outgoing, network.constant, far[-1], off, unit)
    return np.where(np.isnan(found), np.inf, found)


def _affine(weights: Array, bias: Array, reach: Array, off: Array, unit: float) -> Array:
    """Return how far W h + b as computed is off, shape (n,), for |h| at most `reach` that is off by `off`, (d,)."""
    absolute = np.abs(weights)
    rounded = gamma(weights.shape[1] + 1, unit) * (absolute @ (reach + off) + np.abs(bias))
    return np.asarray((absolute @ off + rounded) * (1.0 + 1e-9))
