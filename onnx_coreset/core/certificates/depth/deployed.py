"""How far a network as it runs, in floating point of some unit, is from the same in real numbers.

Layer by layer: values that are off by e make pre-activations that are off by |W| e and by gamma_{d+1} (|W| |h| + |b|),
those make values off by the slope of f times that, and by a few units of their own. The magnitudes are those of the
values' ranges. Inputs are exact numbers of the dtype, or off by what stood before them. That f itself is computed to 16
units in the last place of its value, and of 1, is an assumption about the runtime.

Errors that go through several layers meet the products of their weights, not of the weights' magnitudes: with s the
slope of each chord from t to what was computed for it, errors of outputs are W_L s W_{L-1} s ... times the rounding of
each layer. The slopes are known up to an interval each, the products as a middle and a radius. The least bound counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.depth.lines import steepness
from onnx_coreset.core.certificates.depth.networks import FeedForward
from onnx_coreset.core.certificates.pieces import lipschitz
from onnx_coreset.core.certificates.rounding import gamma
from onnx_coreset.core.features import Neurons

__all__ = ["SINGLE", "computed"]

SINGLE = 2.0**-24
"""Half a unit in the last place of float32, relative."""
_OWN = 16
_UP = 1.0 + 1e-9


@dataclass(frozen=True)
class _Layer:
    """What rounding does in one hidden layer: to pre-activations and values, (n,) each, and the chords' slopes."""

    made: Array
    own: Array
    least: Array
    most: Array


def computed(
    network: FeedForward,
    far: Sequence[Array],
    ends: Sequence[tuple[Array, Array]],
    unit: float = SINGLE,
    off: Array | None = None,
) -> Array:
    """Return how far each output as computed is from the same in real numbers, shape (k,).

    Args:
        network: The network.
        far: Largest |x|, shape (d,), and largest |h| of every hidden layer, shape (n,) each.
        ends: Least and largest pre-activations of every hidden layer, shape (n,) each.
        unit: Largest relative error of one operation.
        off: How far the inputs as computed are off, shape (d,); by nothing unless it is given.

    Returns:
        The bound; infinite where an activation has no slope that is known. O(k n^2) for each layer.
    """
    first = np.zeros(network.inputs) if off is None else off
    error = first
    found = []
    with np.errstate(all="ignore"):
        for layer, reach, value, (low, high) in zip(network.hidden, far, far[1:], ends, strict=False):
            made = _rounded(layer.incoming, layer.bias, reach + error, unit)
            total = (np.abs(layer.incoming) @ error + made) * _UP
            slope = np.where(total > 0, lipschitz(layer.activation, layer.width), 0.0) * total
            own = gamma(_OWN, unit) * (value + slope + 1.0) * _UP
            found.append(_Layer(made, own, *_chords(layer, low - total * _UP, high + total * _UP)))
            error = slope + own
        last = _rounded(network.outgoing, network.constant, far[-1] + error, unit)
        plain = (np.abs(network.outgoing) @ error + last) * _UP
        joint = (_carried(network, found, first) + last) * _UP
    return np.where(np.isnan(np.fmin(plain, joint)), np.inf, np.fmin(plain, joint))


def _rounded(weights: Array, bias: Array, reach: Array, unit: float) -> Array:
    """Return how far W h + b as computed from the h that was computed, at most `reach`, is off by this alone."""
    return np.asarray(gamma(weights.shape[1] + 1, unit) * (np.abs(weights) @ reach + np.abs(bias)) * _UP)


def _chords(layer: Neurons, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the least and largest slope of chords between pre-activations of these ranges, shape (n,) each."""
    least, most = steepness(layer.activation, low[None], high[None])
    return least[0], most[0]


def _carried(network: FeedForward, layers: Sequence[_Layer], off: Array) -> Array:
    """Return what the rounding of hidden layers, and inputs that are off, make of the outputs, shape (k,)."""
    middle, radius = network.outgoing, np.zeros_like(network.outgoing)
    total = np.zeros(network.outputs)
    for layer, found in zip(reversed(network.hidden), reversed(layers), strict=True):
        total = total + (np.abs(middle) + radius) @ found.own
        slope, wide = 0.5 * found.least + 0.5 * found.most, 0.5 * (found.most - found.least)
        radius = (np.abs(middle) * (wide + 4e-16 * np.abs(slope)) + radius * (np.abs(slope) + wide)) * _UP
        middle = middle * slope
        total = total + (np.abs(middle) + radius) @ found.made
        size = np.abs(layer.incoming)
        radius = (radius + gamma(layer.width + 8) * np.abs(middle)) @ size * _UP
        middle = middle @ layer.incoming
    return np.asarray((total + (np.abs(middle) + radius) @ off) * _UP)
