"""What every bound starts from: the difference of two layers, output by output, as a sum of absolute values.

    s D_i(y) <= constant + lin . (rows y) + sum_j weights_j |rows_j . y + offset_j|       for all y, s = +-1.

Three ways lead to it. *Interval*: nothing but the constant. *Even*: f = lin t + mag |t| + rest, where neurons that
keep their sign on the domain are linear. *Local*: around the middle of the domain, f(t) - f(t0) = m (t - t0) + s |t -
t0| with |s| at most half the range of slopes, so that all weights are positive and D(0) is exact; for activations
without an even part, and for small domains.

Every float of a form is what it says. How it differs from the stored weights' difference is bounded once, in `slack`:
each coefficient went through a few roundings, and t and c are known up to noise and doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.difference import Difference
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma

__all__ = ["Form", "both_signs", "even", "interval", "local", "slack", "worst"]


@dataclass(frozen=True)
class Form:
    """Upper bounds of K = 2 k functions, D_i for the first k and -D_i for the others, over n neurons.

    Attributes:
        constant: Shape (K,).
        lin: Coefficients of rows . y, shape (K, n).
        weights: Coefficients of |rows . y + offset|, of either sign, shape (K, n).
        offset: Shape (n,).
        slack: What has to be added for every rounding until here, shape (K,).
    """

    constant: Array
    lin: Array
    weights: Array
    offset: Array
    slack: Array


def both_signs(values: Array) -> Array:
    """Return what belongs to D and, below it, to -D: shape (2 k, ...) of values (k, ...)."""
    return np.concatenate([values, -values])


def worst(weights: Array, low: Array, high: Array) -> Array:
    """Return the largest sum of weights (K, n) times numbers between low and high (n,), term by term."""
    with np.errstate(invalid="ignore", over="ignore"):
        terms = np.maximum(weights * low, weights * high)
        return np.asarray(np.where(weights == 0, 0.0, terms).sum(axis=1))


def slack(layer: Difference, magnitude: Array, known: NDArray[np.bool_]) -> Array:
    """Return what roundings and unknowns may add to a form, shape (K,).

    Args:
        layer: The difference.
        magnitude: Largest sum of the magnitudes of the terms that a neuron is written as, shape (n,).
        known: Whether the form takes a neuron's pre-activation for exact: then its noise counts, times its slope.
    """
    size = layer.low.size
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = np.abs(layer.weights)
        steep = np.where(known & (layer.frame.noise > 0), layer.activation.lipschitz(), 0.0) * layer.frame.noise
        terms = (gamma(2 * size + 60) * absolute + layer.doubt * (1.0 + 1e-10)) * magnitude
        terms = terms + (absolute + layer.doubt) * (steep + TINY)
        terms = np.where((absolute == 0) & (layer.doubt == 0), 0.0, terms)
        total = terms.sum(axis=1) + gamma(2 * size + 60) * np.abs(layer.constant) + 2.0 * layer.constant_doubt
    return np.concatenate([total, total]) * (1.0 + 1e-10)


def interval(layer: Difference) -> Form:
    """Return the form that replaces every neuron by its range. O(n k)."""
    low, high = layer.activation.interval(layer.low, layer.high)
    weights = both_signs(layer.weights)
    magnitude = np.maximum(np.abs(low), np.abs(high))
    loose = slack(layer, magnitude, np.zeros(low.size, dtype=bool))
    none = np.zeros(weights.shape)
    return Form(both_signs(layer.constant) + worst(weights, low, high), none, none, layer.frame.offset, loose)


def even(layer: Difference) -> Form:
    """Return the form of even parts: linear where a neuron keeps its sign, weights of both signs elsewhere. O(n k)."""
    found = layer.activation.split(layer.low, layer.high)
    rest_low, rest_high = found.low, found.high
    # Without a slope to multiply its noise by, a neuron is its range, noise included.
    steep = np.isfinite(layer.activation.lipschitz())
    low, high = layer.activation.interval(layer.low, layer.high)
    lin, mag = np.where(steep, found.lin, 0.0), np.where(steep, found.mag, 0.0)
    rest_low, rest_high = np.where(steep, rest_low, low), np.where(steep, rest_high, high)
    sign = np.where(layer.low >= 0, 1.0, np.where(layer.high <= 0, -1.0, 0.0))
    lin, mag = lin + sign * mag, np.where(sign == 0, mag, 0.0)
    size = layer.frame.reach + np.abs(layer.frame.offset)
    weights = both_signs(layer.weights)
    constant = both_signs(layer.constant) + weights @ (lin * layer.frame.offset) + worst(weights, rest_low, rest_high)
    magnitude = 2.0 * (np.abs(found.lin) + np.abs(found.mag)) * size + np.maximum(np.abs(rest_low), np.abs(rest_high))
    loose = slack(layer, magnitude, steep)
    return Form(constant, weights * lin, weights * mag, layer.frame.offset, loose)


def local(layer: Difference) -> Form:
    """Return the form around the middle of the domain: all weights are positive. O(n k)."""
    least, most = layer.activation.slopes(layer.low, layer.high)
    offset = layer.frame.offset
    steep = np.isfinite(least) & np.isfinite(most)
    at_low, at_high = layer.activation.interval(offset, offset)
    low, high = layer.activation.interval(layer.low, layer.high)
    least, most = np.where(steep, least, 0.0), np.where(steep, most, 0.0)
    middle = 0.5 * least + 0.5 * most
    half = np.maximum(most - middle, middle - least) * (1.0 + 4.0 * UNIT)
    weights = both_signs(layer.weights)
    constant = both_signs(layer.constant) + worst(weights, np.where(steep, at_low, low), np.where(steep, at_high, high))
    magnitude = 2.0 * (np.abs(middle) + half) * layer.frame.reach + np.maximum(np.abs(low), np.abs(high))
    loose = slack(layer, magnitude, steep)
    return Form(constant, weights * middle, np.abs(weights) * half, np.zeros(offset.size), loose)
