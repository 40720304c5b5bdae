"""Gated neurons f(g) u, g and u affine, as a quadratic function and a rest that is small where g or u is.

With s = g - t for an anchor t, on the domain

    f(g) = a + b s + r,   |r| <= h |s| + k,       so that       f(g) u = a u + b s u + r u.

- From 0: for ReLU, GELU, SiLU and their like the chord (f(g) - f(0)) / g rises from 0 to 1, so that t = 0, and b +- h
  are its values at the ends of the domain. For homogeneous f it is one of two slopes.
- From the middle of the domain, t: b +- h are the least and the largest slope.
- Flat: b = h = 0, and a +- k is the range of f.

Each neuron takes the one whose rest is least where g is as far from its middle as it may well be at a worst input. All
are scaled by powers of two, which is exact: s and u are of size about 1, and so are a, b, h and k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.pieces import lipschitz, slopes
from onnx_coreset.core.certificates.rounding import UNIT
from onnx_coreset.core.certificates.terms import Term
from onnx_coreset.core.features import Gated, Neurons

__all__ = ["Products", "is_product", "power", "products"]

_RISING = ("Relu", "Gelu", "GeluTanh", "Silu", "QuickGelu", "HardSwish", "Softplus", "Mish")
_FAR = 3.0


@dataclass(frozen=True)
class Products:
    """n products (value + slope s + r) u with |r| <= half |s| + flat, s = gate . (y, 1), u = up . (y, 1).

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
    unit: Array
    slack: Array
    ball: bool


def is_product(term: Term) -> bool:
    """Return whether a term's features are f(g) u with u affine."""
    part = term.part
    return isinstance(part, Gated) and _named(part.up) == "Identity"


def _named(part: Neurons) -> str:
    return part.activation.name if isinstance(part.activation, Named) else ""


def power(values: Array) -> Array:
    """Return powers of two near positive numbers, 1 for others."""
    safe = np.where((values > 0) & np.isfinite(values), values, 1.0)
    return np.asarray(np.exp2(np.clip(np.round(np.log2(safe)), -500, 500)))


@dataclass(frozen=True)
class _Line:
    """f(g) = value + slope (g - anchor) + r, |r| <= half |g - anchor| + flat; `error` is that of the value."""

    anchor: Array
    value: Array
    error: Array
    slope: Array
    half: Array
    flat: Array


def _line(gate: Neurons, anchor: Array, least: Array, most: Array) -> _Line:
    """Return the line through an anchor whose chords have slopes between two numbers."""
    low, high = gate.activation.interval(anchor, anchor)
    value, slope = 0.5 * low + 0.5 * high, 0.5 * least + 0.5 * most
    half = np.maximum(most - slope, slope - least) * (1.0 + 4.0 * UNIT)
    error = np.maximum(high - value, value - low) * (1.0 + 4.0 * UNIT)
    return _Line(anchor, value, error, slope, half, np.zeros(anchor.size))


def _chords(gate: Neurons, low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds of (f(g) - f(0)) / g for g in [low, high], infinite where none are known."""
    none = np.full(low.size, np.inf)
    name = _named(gate)
    if isinstance(gate.activation, Named) and gate.activation.properties.homogeneous:
        return slopes(gate.activation, low, high)
    if name not in _RISING or (name == "QuickGelu" and not np.all(gate.activation.parameters[0] > 0)):  # type: ignore[attr-defined]
        return -none, none
    start = gate.activation.interval(np.zeros(low.size), np.zeros(low.size))[0]
    left, right = gate.activation.interval(low, low)[1], gate.activation.interval(high, high)[1]
    with np.errstate(all="ignore"):
        # Chords rise, and are 1/2 or a little more at 0: Mish has 3/5 there.
        least = np.where(low < 0, (left - start) / low, 0.5)
        most = np.where(high > 0, (right - start) / high, 0.61)
        least, most = least - 1e-14 * (1.0 + np.abs(least)), most + 1e-14 * (1.0 + np.abs(most))
    least = np.where(np.isfinite(least), np.clip(least, 0.0, 0.5), 0.0)
    return least, np.where(np.isfinite(most), np.clip(most, 0.5, 1.0), 1.0)


def _lines(gate: Neurons, term: Term) -> list[_Line]:
    """Return the ways to write the gate: from 0, from the middle, and flat."""
    (low, high), offset = term.ends[0], term.frames[0].offset
    bottom, top = gate.activation.interval(low, high)
    middle = 0.5 * bottom + 0.5 * top
    flat = np.maximum(top - middle, middle - bottom) * (1.0 + 4.0 * UNIT)
    none = np.zeros(low.size)
    return [
        _line(gate, none, *_chords(gate, low, high)),
        _line(gate, offset, *slopes(gate.activation, low, high)),
        _Line(none, middle, none, none, none, flat),
    ]


def _best(lines: list[_Line], term: Term) -> tuple[_Line, Array]:
    """Return for every neuron the line of the least rest, and which it is (n,)."""
    found = term.frames[0]
    share = min(1.0, _FAR / np.sqrt(found.rows.shape[1])) if found.ball else 1.0
    far = found.reach * share if found.ball else np.linalg.norm(found.rows, axis=1)
    with np.errstate(invalid="ignore"):
        rests = np.stack([line.half * np.hypot(found.offset - line.anchor, far) + line.flat for line in lines])
    which = np.argmin(np.where(np.isfinite(rests), rests, np.inf), axis=0)
    # Without any finite rest, flat is as good as another.
    which = np.where(np.isfinite(rests).any(axis=0), which, len(lines) - 1)
    fields = ("anchor", "value", "error", "slope", "half", "flat")
    chosen = (np.choose(which, [getattr(line, name) for line in lines]) for name in fields)
    return _Line(*chosen), which


@dataclass(frozen=True)
class _Raw:
    """The products of one term before they are scaled; `slack` is for D and -D alike, shape (k,)."""

    gate: Array
    up: Array
    gate_size: Array
    up_size: Array
    value: Array
    slope: Array
    half: Array
    flat: Array
    weights: Array
    slack: Array


def _raw(term: Term) -> _Raw:
    part, frames = term.part, term.frames
    if not (isinstance(part, Gated) and is_product(term)):
        raise ValueError("the features are not products of a gate and an affine function")
    gate = part.gate
    line, which = _best(_lines(gate, term), term)
    low, high = gate.activation.interval(*term.ends[0])
    most = np.maximum(np.abs(low), np.abs(high))
    at = frames[0].offset - line.anchor
    gate_size = frames[0].reach + np.abs(at)
    up_size = frames[1].reach + np.abs(frames[1].offset)
    reach = up_size + frames[1].noise
    steep = np.where((which == 2) | (frames[0].noise == 0), 0.0, lipschitz(gate.activation, gate.width))
    error = (np.where(steep > 0, steep * frames[0].noise, 0.0) + line.error) * reach + most * frames[1].noise
    error = error * (1.0 + 1e-10)
    absolute = np.abs(term.weights)
    slack = np.where(absolute > 0, absolute * error, 0.0).sum(axis=1)
    slack = slack + np.where(term.doubt > 0, 2.0 * term.doubt * most * reach, 0.0).sum(axis=1)
    return _Raw(
        np.concatenate([frames[0].rows, at[:, None]], axis=1),
        np.concatenate([frames[1].rows, frames[1].offset[:, None]], axis=1),
        gate_size,
        up_size,
        line.value,
        line.slope,
        line.half,
        line.flat,
        term.weights,
        slack,
    )


def products(terms: Sequence[Term]) -> Products:
    """Return the products of terms whose features are f(g) u, all together, for D and -D. O(n (d + k)).

    Args:
        terms: The terms, n neurons together; at least one.

    Raises:
        ValueError: Their features are not products.
    """
    with np.errstate(all="ignore"):
        raw = [_raw(term) for term in terms]
        gate, up = (np.concatenate([getattr(own, name) for own in raw]) for name in ("gate", "up"))
        far, high = (np.concatenate([getattr(own, name) for own in raw]) for name in ("gate_size", "up_size"))
        fields = ("value", "slope", "half", "flat")
        value, slope, half, flat = (np.concatenate([getattr(own, name) for own in raw]) for name in fields)
        weights = np.concatenate([own.weights for own in raw], axis=1)
        slack = np.sum([own.slack for own in raw], axis=0) * (1.0 + 1e-10)
        one, two = power(far), power(high)
        slope, half, value, flat = slope * one * two, half * one * two, value * two, flat * two
        own = power(np.abs(slope) + half + np.abs(value) + flat)
        weights = weights * own
        unit = power(np.max(np.abs(weights), axis=1, initial=0.0))
        weights = weights / unit[:, None]
    return Products(
        gate / one[:, None],
        up / two[:, None],
        far / one,
        high / two,
        value / own,
        slope / own,
        half / own,
        flat / own,
        np.concatenate([weights, -weights]),
        np.concatenate([unit, unit]),
        np.concatenate([slack, slack]),
        terms[0].frames[0].ball,
    )
