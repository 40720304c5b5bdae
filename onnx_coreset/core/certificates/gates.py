"""The gate of a gated neuron f(g) u as a line and a rest, and the product as rows of a quadratic form.

With s = g - t for an anchor t, on the domain

    f(g) = a + b s + r,   |r| <= h |s| + k,       so that       f(g) u = a u + b s u + r u.

- From 0: for ReLU, GELU, SiLU and their like the chord (f(g) - f(0)) / g rises from 0 to 1, so that t = 0, and b +- h
  are its values at the ends of the domain. For homogeneous f it is one of two slopes.
- From the middle of the domain, t: b +- h are the least and the largest slope.
- Flat: b = h = 0, and a +- k is the range of f.

Each neuron takes the one whose rest is least where g is as far from its middle as it may well be at a worst input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.domains import Frame
from onnx_coreset.core.certificates.pieces import lipschitz, slopes
from onnx_coreset.core.certificates.rounding import UNIT
from onnx_coreset.core.certificates.terms import Term
from onnx_coreset.core.features import Gated, Neurons

__all__ = ["FLAT", "Line", "Rows", "best", "chords", "far", "is_product", "outwards", "rows"]

_RISING = ("Relu", "Gelu", "GeluTanh", "Silu", "QuickGelu", "HardSwish", "Softplus", "Mish")
_FAR = 3.0
FLAT = 2
"""The number of the flat line."""


def is_product(term: Term) -> bool:
    """Return whether a term's features are f(g) u with u affine."""
    part = term.part
    return isinstance(part, Gated) and _named(part.up) == "Identity"


def _named(part: Neurons) -> str:
    return part.activation.name if isinstance(part.activation, Named) else ""


@dataclass(frozen=True)
class Line:
    """f(g) = value + slope (g - anchor) + r, |r| <= half |g - anchor| + flat; `error` is that of the value."""

    anchor: Array
    value: Array
    error: Array
    slope: Array
    half: Array
    flat: Array


def outwards(middle: Array, low: Array, high: Array) -> Array:
    """Return the largest distance of a number between low and high from the middle, rounded up, shape (n,)."""
    return np.asarray(np.maximum(high - middle, middle - low) * (1.0 + 4.0 * UNIT))


def _line(gate: Neurons, anchor: Array, least: Array, most: Array) -> Line:
    """Return the line through an anchor whose chords have slopes between two numbers."""
    low, high = gate.activation.interval(anchor, anchor)
    value, slope = 0.5 * low + 0.5 * high, 0.5 * least + 0.5 * most
    half = outwards(slope, least, most)
    error = np.maximum(high - value, value - low) * (1.0 + 4.0 * UNIT)
    return Line(anchor, value, error, slope, half, np.zeros(anchor.size))


def chords(activation: Activation, low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds of (f(g) - f(0)) / g for g in [low, high], infinite where none are known."""
    none = np.full(low.size, np.inf)
    if not isinstance(activation, Named):
        return -none, none
    if activation.properties.homogeneous:
        return slopes(activation, low, high)
    rises = activation.name in _RISING and all(np.all(value > 0) for value in activation.parameters)
    if not rises:
        return -none, none
    start = activation.interval(np.zeros(low.size), np.zeros(low.size))[0]
    left, right = activation.interval(low, low)[1], activation.interval(high, high)[1]
    with np.errstate(all="ignore"):
        # Chords rise, and are 1/2 or a little more at 0: Mish has 3/5 there.
        least = np.where(low < 0, (left - start) / low, 0.5)
        most = np.where(high > 0, (right - start) / high, 0.61)
        least, most = least - 1e-14 * (1.0 + np.abs(least)), most + 1e-14 * (1.0 + np.abs(most))
    least = np.where(np.isfinite(least), np.clip(least, 0.0, 0.5), 0.0)
    return least, np.where(np.isfinite(most), np.clip(most, 0.5, 1.0), 1.0)


def _lines(gate: Neurons, term: Term) -> list[Line]:
    """Return the ways to write the gate: from 0, from the middle, and flat."""
    (low, high), offset = term.ends[0], term.frames[0].offset
    bottom, top = gate.activation.interval(low, high)
    middle = 0.5 * bottom + 0.5 * top
    flat = outwards(middle, bottom, top)
    none = np.zeros(low.size)
    return [
        _line(gate, none, *chords(gate.activation, low, high)),
        _line(gate, offset, *slopes(gate.activation, low, high)),
        Line(none, middle, none, none, none, flat),
    ]


def far(found: Frame, anchor: Array | float = 0.0) -> Array:
    """Return how far pre-activations may well be from an anchor at a worst input, shape (n,): a guess."""
    share = min(1.0, _FAR / np.sqrt(max(1, found.rows.shape[1])))
    reach = found.reach * share if found.ball else np.linalg.norm(found.rows, axis=1)
    return np.asarray(np.hypot(found.offset - anchor, reach))


def best(term: Term) -> tuple[Line, Indices]:
    """Return for every neuron of products the line of the least rest, and which it is (n,).

    Raises:
        ValueError: The features are not gated.
    """
    if not isinstance(term.part, Gated):
        raise ValueError("the features are not gated")
    lines = _lines(term.part.gate, term)
    with np.errstate(invalid="ignore"):
        rests = np.stack([line.half * far(term.frames[0], line.anchor) + line.flat for line in lines])
    which = np.argmin(np.where(np.isfinite(rests), rests, np.inf), axis=0)
    # Without any finite rest, flat is as good as another.
    which = np.where(np.isfinite(rests).any(axis=0), which, len(lines) - 1)
    fields = ("anchor", "value", "error", "slope", "half", "flat")
    chosen = (np.choose(which, [getattr(line, name) for line in lines]) for name in fields)
    return Line(*chosen), which


@dataclass(frozen=True)
class Rows:
    """n products w (value + slope s) u + rest r u, |r| <= half |s| + flat, in k functions; nothing is scaled.

    Attributes:
        gate: s = gate . (y, 1), shape (n, d + 1).
        up: u = up . (y, 1), shape (n, d + 1).
        gate_size: Largest |s| over the domain, rounded up, shape (n,).
        up_size: Largest |u|, shape (n,).
        value: Shape (n,).
        slope: Shape (n,).
        half: Shape (n,), not negative.
        flat: Shape (n,), not negative.
        weights: w, shape (k, n).
        rest: Weights of what is left over, not negative, shape (k, n).
        slack: What roundings and unknowns until here may add to a function or take off, shape (k,).
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
    slack: Array


def rows(term: Term, line: Line, which: Indices) -> Rows:
    """Return the rows of a term whose features are f(g) u.

    Args:
        term: The term, n neurons.
        line: The gate as a line.
        which: Which line it is, shape (n,).

    Raises:
        ValueError: The features are not products of a gate and an affine function.
    """
    part, frames = term.part, term.frames
    if not (isinstance(part, Gated) and is_product(term)):
        raise ValueError("the features are not products of a gate and an affine function")
    gate = part.gate
    low, high = gate.activation.interval(*term.ends[0])
    most = np.maximum(np.abs(low), np.abs(high))
    at = frames[0].offset - line.anchor
    gate_size = frames[0].reach + np.abs(at)
    up_size = frames[1].reach + np.abs(frames[1].offset)
    reach = up_size + frames[1].noise
    steep = np.where((which == FLAT) | (frames[0].noise == 0), 0.0, lipschitz(gate.activation, gate.width))
    error = (np.where(steep > 0, steep * frames[0].noise, 0.0) + line.error) * reach + most * frames[1].noise
    error = error * (1.0 + 1e-10)
    absolute = np.abs(term.weights)
    slack = np.where(absolute > 0, absolute * error, 0.0).sum(axis=1)
    slack = slack + np.where(term.doubt > 0, 2.0 * term.doubt * most * reach, 0.0).sum(axis=1)
    return Rows(
        np.concatenate([frames[0].rows, at[:, None]], axis=1),
        np.concatenate([frames[1].rows, frames[1].offset[:, None]], axis=1),
        gate_size,
        up_size,
        line.value,
        line.slope,
        line.half,
        line.flat,
        term.weights,
        absolute,
        slack,
    )
