"""What the two networks differ by beyond their real-number difference, because each is computed in floating point.

A layer computed with unit roundoff v gives, in place of t = p . x + b, one that is off by at most gamma_{d+1} (|p| .
|x| + |b|), in place of f(t) one that is off by the slope of f times that and by a few units of its own value, and in
place of the sum another gamma_{n+1} of the magnitudes of its terms; gamma_k = k v / (1 - k v) as ever. The first
bound holds for any order of summation, with fused operations or without. That f itself is computed to 16 units in the
last place of its value, of 1, and of what it is made of (the powers of a polynomial, the two sides of a difference),
is an assumption about the runtime.

Where f has no slope, or jumps, the error of f(t) is at most the width of its range over [l, u], widened by the error
of t; and where it jumps at places that are known, 0 if they are missed. A program is followed step by step, and the
error of a product f g is at most |f| times that of g, |g| times that of f, and their product."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_coreset.core.activations import functions as f
from onnx_coreset.core.activations.intervals import multiply
from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Composite, Named
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.domains import Domain, frame, magnitudes
from onnx_coreset.core.certificates.mixture import items
from onnx_coreset.core.certificates.pieces import lipschitz
from onnx_coreset.core.certificates.rounding import gamma, vanishing
from onnx_coreset.core.certificates.running import OWN, Running, running
from onnx_coreset.core.features import Gated, Neurons, Part
from onnx_coreset.core.layer import Readout

__all__ = ["SINGLE", "deployed"]

SINGLE = 2.0**-24
"""Half a unit in the last place of float32, relative."""


def deployed(readout: Readout, domain: Domain, unit: float = SINGLE) -> Array:
    """Return how far a readout as computed is from the same in real numbers, at any input of a domain.

    Args:
        readout: A readout of k outputs.
        domain: Where its inputs, exact numbers of the dtype, lie.
        unit: Largest relative error of one operation.

    Returns:
        Shape (k,); infinite where the range of a feature is. O(n (d + k)).

    Raises:
        ValueError: The features are of a kind that is not known.
    """
    parts = items(readout.features, readout.outgoing)
    count = sum(part.width for part, _ in parts)
    carried, sizes = np.zeros(readout.outputs), np.abs(readout.constant)
    # Columns share features, and a feature is computed once.
    known: dict[int, Running] = {}
    with np.errstate(all="ignore"):
        for part, outgoing in parts:
            if id(part) not in known:
                known[id(part)] = _features(part, domain, unit)
            found = known[id(part)]
            absolute = np.abs(outgoing)
            # What no output reads counts for nothing, however large.
            carried = carried + np.where(absolute > 0, absolute * found.error, 0.0).sum(axis=1)
            sizes = sizes + np.where(absolute > 0, absolute * found.size, 0.0).sum(axis=1)
        total = (carried + gamma(count + 1, unit) * sizes + vanishing(2 * count + 2, unit)) * (1.0 + 1e-9)
    return np.asarray(np.where(np.isnan(total), np.inf, total))


def _features(part: Part, domain: Domain, unit: float) -> Running:
    """Return features (n,) as computed."""
    if isinstance(part, Neurons):
        return _applied(part.activation, _preactivations(part, domain, unit), unit)
    if isinstance(part, Gated):
        first, second = (_features(own, domain, unit) for own in (part.gate, part.up))
        low, high = multiply([(first.low, first.high), (second.low, second.high)], {})
        moved = f.times(first.size, second.error) + f.times(second.size, first.error)
        return Running(low, high, moved + gamma(1, unit) * f.times(first.size, second.size))
    return running(part.program, [_preactivations(own, domain, unit) for own in part.parts], unit)


def _preactivations(part: Neurons, domain: Domain, unit: float) -> Running:
    found = frame(domain, part.incoming, part.bias)
    near = found.reach + found.noise
    off = gamma(part.inputs + 1, unit) * (magnitudes(domain, part.incoming) + np.abs(part.bias))
    off = off + vanishing(2 * part.inputs + 2, unit)
    return Running(found.offset - near, found.offset + near, off)


def _applied(activation: Activation, t: Running, unit: float) -> Running:
    """Return an activation's values as computed."""
    if isinstance(activation, Composite):
        return running(activation.program, (t,), unit)
    low, high = activation.interval(t.low, t.high)
    wide_low, wide_high = activation.interval(*t.wide)
    width = np.where(t.error > 0, wide_high - wide_low, 0.0)
    slope, jump = _slope(activation, t)
    moved = np.fmin(np.where(t.error > 0, slope * t.error, 0.0) + jump, width)
    size = np.maximum(np.abs(low), np.abs(high)) + moved
    return Running(low, high, moved + gamma(OWN, unit) * (size + 1.0 + _made_of(activation, t)))


def _slope(activation: Activation, t: Running) -> tuple[Array, Array]:
    """Return the largest slope near the values of t, apart from jumps, and the jumps that may be met, (n,) each."""
    count, none = t.low.size, np.zeros(t.low.size)
    low, high = t.wide
    if isinstance(activation, Named) and activation.name == "Step":
        threshold, *levels = activation.parameters
        met = (low <= threshold) & (threshold <= high) & (t.error > 0)
        heights = np.stack([np.broadcast_to(level, count) for level in levels])
        return none, np.where(met, np.ptp(heights, axis=0), 0.0)
    if isinstance(activation, Named) and activation.name == "ThresholdedRelu":
        threshold = activation.parameters[0]
        met = (low <= threshold) & (threshold <= high) & (t.error > 0)
        return none + 1.0, np.where(met, np.abs(threshold), 0.0)
    if isinstance(activation, Named) and activation.name == "Polynomial":
        rates = [abs(float(c)) * power for power, c in enumerate(activation.parameters)]
        return np.asarray(sum((rate * t.size ** (power - 1) for power, rate in enumerate(rates) if power), none)), none
    return lipschitz(activation, count), none


def _made_of(activation: Activation, t: Running) -> Array | float:
    """Return magnitudes of what cancels in a value, beyond the value and 1."""
    if not isinstance(activation, Named):
        return 0.0
    if activation.cancels is not None:
        return t.size + activation.cancels + _made_of(replace(activation, cancels=None), t)
    if activation.name == "Polynomial":
        size = t.size
        return sum((np.abs(c) * size**power for power, c in enumerate(activation.parameters)), np.zeros(size.size))
    if activation.name in ("Elu", "Celu"):
        return np.abs(activation.parameters[0])
    if activation.name == "SoftClip":
        return t.size + 1.0 / np.abs(activation.parameters[0])
    return np.abs(activation.parameters[1]) if activation.name == "HardSigmoid" else 0.0
