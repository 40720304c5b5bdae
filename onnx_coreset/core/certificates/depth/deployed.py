"""How far a network as it runs, in floating point of some unit, is from the same in real numbers.

Layer by layer: values that are off by e make pre-activations that are off by |W| e and by gamma_{d+1} (|W| |h| + |b|),
those make values off by the steepest chord between t and what was computed for it, times that, and by a few units of
their own where f is more than comparing and selecting. The magnitudes, and where chords may lie, are those of the
values' ranges. Inputs are exact numbers of the dtype, or off by what stood before them. That such an f is computed to
16 units in the last place of its value, and of 1, is an assumption about the runtime.

Errors that go through several layers meet the products of their weights, not of the weights' magnitudes: with s the
slope of each chord, errors of outputs are W_L s W_{L-1} s ... times the rounding of each layer. The slopes are known up
to an interval each, the products as a middle and a radius. The least bound counts.

Bounds are made for the B parts of a region at once: on a small part neurons are surely on or off, and nothing that
rounds in front of one that is off gets through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.depth.lines import steepness
from onnx_coreset.core.certificates.depth.networks import FeedForward
from onnx_coreset.core.certificates.pieces import lipschitz
from onnx_coreset.core.certificates.rounding import gamma, vanishing
from onnx_coreset.core.features import Neurons

__all__ = ["SINGLE", "computed"]

SINGLE = 2.0**-24
"""Half a unit in the last place of float32, relative."""
_OWN = 16
_UP = 1.0 + 1e-9


@dataclass(frozen=True)
class _Layer:
    """What rounding does in one hidden layer: to pre-activations and values, (B, n) each, and the chords' slopes."""

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
    """Return how far each output as computed is from the same in real numbers, shape (B, k).

    Args:
        network: The network.
        far: Largest |x| on each part, shape (B, d), and largest |h| of every hidden layer, shape (B, n) each.
        ends: Least and largest pre-activations of every hidden layer, shape (B, n) each.
        unit: Largest relative error of one operation.
        off: How far the inputs as computed are off, shape (d,); by nothing unless it is given.

    Returns:
        The bound; infinite where an activation has no slope that is known. O(B k n^2) for each layer.
    """
    first = np.zeros(network.inputs) if off is None else off
    error = np.broadcast_to(first, far[0].shape)
    found = []
    with np.errstate(all="ignore"):
        for layer, reach, value, (low, high) in zip(network.hidden, far, far[1:], ends, strict=False):
            made = _rounded(layer.incoming, layer.bias, reach + error, unit)
            total = (error @ np.abs(layer.incoming).T + made) * _UP
            least, most = steepness(layer.activation, low - total * _UP, high + total * _UP)
            steep = np.maximum(np.abs(least), np.abs(most))
            steep = np.fmin(np.where(np.isnan(steep), np.inf, steep), lipschitz(layer.activation, layer.width))
            moved = np.where(total > 0, steep, 0.0) * total * _UP
            size = value + moved + _made_of(layer, np.maximum(np.abs(low), np.abs(high)) + total)
            own = np.zeros_like(moved) if _selects(layer) else gamma(_OWN, unit) * size * _UP
            found.append(_Layer(made, own, least, most))
            error = moved + own
        last = _rounded(network.outgoing, network.constant, far[-1] + error, unit)
        plain = (error @ np.abs(network.outgoing).T + last) * _UP
        joint = (_carried(network, found, first) + last) * _UP
    return np.where(np.isnan(np.fmin(plain, joint)), np.inf, np.fmin(plain, joint))


def _selects(layer: Neurons) -> bool:
    """Return whether an activation as it runs only compares and selects, which rounds nothing."""
    return isinstance(layer.activation, Named) and layer.activation.selects


def _made_of(layer: Neurons, reach: Array) -> Array | float:
    """Return magnitudes of what a value is made of, besides itself, for pre-activations at most `reach`, (B, n)."""
    cancels = layer.activation.cancels if isinstance(layer.activation, Named) else None
    return 1.0 if cancels is None else 1.0 + reach + cancels


def _rounded(weights: Array, bias: Array, reach: Array, unit: float) -> Array:
    """Return how far W h + b as computed from the h that was computed, at most `reach`, is off by this alone."""
    relative = gamma(weights.shape[1] + 1, unit) * (reach @ np.abs(weights).T + np.abs(bias))
    return np.asarray((relative + vanishing(2 * weights.shape[1] + 2, unit)) * _UP)


def _carried(network: FeedForward, layers: Sequence[_Layer], off: Array) -> Array:
    """Return what the rounding of hidden layers, and inputs that are off, make of the outputs, shape (B, k)."""
    middle = np.broadcast_to(network.outgoing, (layers[0].made.shape[0], *network.outgoing.shape))
    radius = np.zeros(middle.shape)
    total = np.zeros(middle.shape[:2])
    for layer, found in zip(reversed(network.hidden), reversed(layers), strict=True):
        total = total + _through(np.abs(middle) + radius, found.own)
        slope, wide = (0.5 * found.least + 0.5 * found.most)[:, None], (0.5 * (found.most - found.least))[:, None]
        radius = (np.abs(middle) * (wide + 4e-16 * np.abs(slope)) + radius * (np.abs(slope) + wide)) * _UP
        middle = middle * slope
        total = total + _through(np.abs(middle) + radius, found.made)
        size = np.abs(layer.incoming)
        radius = (radius + gamma(layer.width + 8) * np.abs(middle)) @ size * _UP
        middle = middle @ layer.incoming
    return np.asarray((total + (np.abs(middle) + radius) @ off) * _UP)


def _through(weights: Array, errors: Array) -> Array:
    """Return what errors (B, n) make of outputs with weights of these magnitudes (B, k, n), shape (B, k)."""
    return np.asarray((weights @ errors[:, :, None])[:, :, 0])
