"""The form of broken lines: smooth activations are written as lines with a few kinks, and little is left over.

On [l, u], with knots l = x_0 < x_1 < ... < x_q < x_{q+1} = u and p the broken line through the values of f there,

    f(t) = p(t) + r(t),   p(t) = e + g t + sum_i m_i |t - x_i|,   m_i = (s_i - s_{i-1}) / 2,   g = (s_0 + s_q) / 2,

where s_i is the slope of the i-th piece. Each neuron becomes q terms |rows . y + offset - x_i|, of the same row and of
weights c m_i of either sign, so that affine policies cancel them against one another. The even part alone, one kink at
0, leaves up to 0.17 for every GELU of negative weight; four kinks leave about a tenth of that. Knots lie where f bends:
at equal shares of the root of its curvature, which makes the rests of all pieces about equal (de Boor).

The rest is bounded cell by cell: with slopes of f in [a, b] on a cell of width h and p straight there,

    r <= max(r at both ends) + h (b - a) / 4,

since r rises at most as fast as b - s from the left end and s - a from the right one, and the lower bound likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.difference import Difference
from onnx_coreset.core.certificates.forms import Form, both_signs, slack, worst
from onnx_coreset.core.certificates.pieces import slopes
from onnx_coreset.core.certificates.rounding import TINY, gamma

__all__ = ["Broken", "broken", "kinked"]

_SAMPLES = 96
_CELLS = 24
_THIN = 1e-6


@dataclass(frozen=True)
class Broken:
    """Broken lines of n neurons with q kinks each, and what is left: f(t) = lin t + sum_i mags_i |t - knots_i| + r.

    Attributes:
        lin: Shape (n,).
        mags: Shape (n, q).
        knots: Shape (n, q).
        low: Least value of r, constants included, shape (n,).
        high: Its largest value, shape (n,).
    """

    lin: Array
    mags: Array
    knots: Array
    low: Array
    high: Array


def _value(t: Array, lin: Array, mags: Array, knots: Array) -> tuple[Array, Array]:
    """Return p(t) without its constant for t (m, n), and what rounding may have done to it."""
    value, size = lin * t, np.abs(lin * t)
    for m, x in zip(mags.T, knots.T, strict=True):
        value = value + m * np.abs(t - x)
        size = size + np.abs(m) * (np.abs(t) + np.abs(x))
    return value, gamma(2 * knots.shape[1] + 8) * size + TINY


def _nodes(layer: Difference, low: Array, high: Array, count: int) -> Array:
    """Return the ends and `count` knots between them, increasing, shape (n, count + 2)."""
    share = np.linspace(0.0, 1.0, _SAMPLES + 1)
    grid = low[:, None] + (high - low)[:, None] * share
    values = np.stack([layer.activation(t) for t in grid.T], axis=1)
    bend = np.sqrt(np.abs(np.diff(values, 2, axis=1)))
    # A little everywhere, so that knots never meet.
    bend += 1e-3 * bend.sum(axis=1, keepdims=True) / bend.shape[1] + 1e-300
    mass = np.concatenate([np.zeros((low.size, 1)), np.cumsum(bend, axis=1)], axis=1)
    mass /= mass[:, -1:]
    wanted = np.arange(1, count + 1) / (count + 1.0)
    middles = 0.5 * (grid[:, :-1] + grid[:, 1:])
    knots = np.stack([np.interp(wanted, own, at) for own, at in zip(mass, middles, strict=True)])
    return np.concatenate([low[:, None], knots, high[:, None]], axis=1)


def broken(layer: Difference, count: int) -> Broken:
    """Return broken lines of `count` kinks for every neuron; its range where slopes are not known. O(n count)."""
    with np.errstate(all="ignore"):
        width = layer.high - layer.low
        least, most = layer.activation.slopes(layer.low, layer.high)
        known = np.isfinite(least) & np.isfinite(most) & np.isfinite(layer.activation.lipschitz())
        known &= width > _THIN * (1.0 + np.maximum(np.abs(layer.low), np.abs(layer.high)))
        low, high = np.where(known, layer.low, 0.0), np.where(known, layer.high, 1.0)
        nodes = _nodes(layer, low, high, count)
        known &= np.all(np.diff(nodes, axis=1) > 0, axis=1)
        values = np.stack([layer.activation(t) for t in nodes.T], axis=1)
        rates = np.clip(np.diff(values, axis=1) / np.diff(nodes, axis=1), least[:, None], most[:, None])
        rates = np.where(known[:, None], rates, 0.0)
        lin, mags, knots = 0.5 * (rates[:, 0] + rates[:, -1]), 0.5 * np.diff(rates, axis=1), nodes[:, 1:-1]
        # Cells end in knots exactly: p is straight in each.
        share = np.arange(_CELLS)[:, None] / _CELLS
        pieces = [np.clip(a + (b - a) * share, a, b) for a, b in zip(nodes.T[:-1], nodes.T[1:], strict=True)]
        borders = np.concatenate([*pieces, nodes.T[-1:]])
        below, above = _rest(layer, borders, lin, mags, knots)
        steep = _slopes(layer, borders[:-1], borders[1:])
        more = 0.25 * np.diff(borders, axis=0) * (steep[1] - steep[0]) * (1.0 + 1e-10) + TINY
        under = (np.minimum(below[:-1], below[1:]) - more).min(axis=0)
        over = (np.maximum(above[:-1], above[1:]) + more).max(axis=0)
        known &= np.isfinite(under) & np.isfinite(over)
        plain = layer.activation.interval(layer.low, layer.high)
    lin, mags = np.where(known, lin, 0.0), np.where(known[:, None], mags, 0.0)
    return Broken(lin, mags, knots, np.where(known, under, plain[0]), np.where(known, over, plain[1]))


def _slopes(layer: Difference, low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds (m, n) of the slopes of chords on m cells [low, high] (m, n) of every neuron."""
    stack = layer.activation
    cuts = np.cumsum(stack.sizes)[:-1]
    ends = []
    for part, own, a, b in zip(
        stack.parts, stack.sizes, np.split(low, cuts, axis=1), np.split(high, cuts, axis=1), strict=True
    ):
        tiled = part.take(np.tile(np.arange(own), low.shape[0]))
        ends.append([found.reshape(a.shape) for found in slopes(tiled, a.ravel(), b.ravel())])
    return np.concatenate([a for a, _ in ends], axis=1), np.concatenate([b for _, b in ends], axis=1)


def _rest(layer: Difference, t: Array, lin: Array, mags: Array, knots: Array) -> tuple[Array, Array]:
    """Return bounds of r, constants included, at t (m, n)."""
    low, high = layer.activation.interval(t, t)
    value, off = _value(t, lin, mags, knots)
    return low - value - off, high - value + off


def kinked(layer: Difference, count: int) -> tuple[Form, Array, Array]:
    """Return the form of broken lines, and rows (n', d) and reach (n',) of its terms, those of some neurons often.

    Args:
        layer: The difference, of n neurons.
        count: Kinks of a neuron.
    """
    found, frame = broken(layer, count), layer.frame
    weights = both_signs(layer.weights)
    constant = both_signs(layer.constant) + weights @ (found.lin * frame.offset) + worst(weights, found.low, found.high)
    size = frame.reach + np.abs(frame.offset)
    bends = (np.abs(found.mags) * (size[:, None] + np.abs(found.knots))).sum(axis=1)
    ends = np.maximum(np.abs(found.low), np.abs(found.high))
    loose = slack(
        layer, 2.0 * (np.abs(found.lin) * size + bends) + ends, np.any(found.mags != 0, axis=1) | (found.lin != 0)
    )
    # A term for every kink that is one; the first one of a neuron carries its linear part.
    used = found.mags != 0
    used[:, 0] = True
    owner, which = np.nonzero(used)
    lin = np.where(which == 0, found.lin[owner], 0.0)
    offset = frame.offset[owner] - found.knots[owner, which]
    form = Form(constant, weights[:, owner] * lin, weights[:, owner] * found.mags[owner, which], offset, loose)
    return form, frame.rows[owner], frame.reach[owner]
