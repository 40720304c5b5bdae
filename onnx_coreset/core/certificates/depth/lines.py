"""Lines above and below an activation on an interval: what a network is replaced by, neuron by neuron.

The interval is cut into pieces [a, b]. With slopes of chords in [g, h] on a piece and any point m of it,

    f(t) <= f(a) + h (t - a)   for t in [a, m],        f(t) <= f(b) - g (b - t)   for t in [m, b],

so that for a slope v the offset max (f(t) - v t) is at most the largest of four numbers, the values of these lines at
their ends; m is best where the lines cross. For a piecewise linear f with a cut at each kink this is exact; otherwise
it is off by (h - g) (b - a) / 4 at most. Where slopes are not known, the range of f on the piece is all there is.

For f(s) - f(t) with s - t = e in [l, u], chords give it between g e and h e: convex above, concave below, and a line
over either is tried at l, u alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.pieces import slopes
from onnx_coreset.core.certificates.rounding import TINY, UNIT

__all__ = ["Lines", "Pieces", "difference_lines", "lines", "pieces", "steepness"]

_PIECES = 12
_SLACK = 32.0 * UNIT


@dataclass(frozen=True)
class Lines:
    """down_slope t + down_offset <= f(t) <= up_slope t + up_offset, arrays of one shape."""

    up_slope: Array
    up_offset: Array
    down_slope: Array
    down_offset: Array


@dataclass(frozen=True)
class Pieces:
    """An activation on intervals cut into M pieces; arrays of shape (..., M).

    Attributes:
        start: Where each piece begins.
        stop: Where it ends.
        least: Least slope of a chord on it.
        most: Largest one.
        at_start: Lower and upper bound of f where it begins.
        at_stop: The same where it ends.
        inside: Lower and upper bound of f on the piece.
    """

    start: Array
    stop: Array
    least: Array
    most: Array
    at_start: tuple[Array, Array]
    at_stop: tuple[Array, Array]
    inside: tuple[Array, Array]

    def above(self, slope: Array) -> Array:
        """Return offsets (...) such that f(t) <= slope t + offset on the whole interval, for slopes (...)."""
        return _offset(
            self.start, self.stop, self.least, self.most, self.at_start[1], self.at_stop[1], self.inside[1], slope
        )

    def below(self, slope: Array) -> Array:
        """Return offsets (...) such that f(t) >= slope t + offset on the whole interval, for slopes (...)."""
        ends = (-self.at_start[0], -self.at_stop[0], -self.inside[0])
        return -_offset(self.start, self.stop, -self.most, -self.least, *ends, -slope)


def _offset(
    start: Array, stop: Array, least: Array, most: Array, first: Array, last: Array, top: Array, slope: Array
) -> Array:
    """Return the largest f(t) - slope t, rounded up, from what is known of each piece."""
    v = slope[..., None]
    with np.errstate(all="ignore"):
        known = np.isfinite(least) & np.isfinite(most)
        g, h = np.where(known, least, 0.0), np.where(known, most, 0.0)
        cross = (last - first - g * stop + h * start) / (h - g)
        middle = np.clip(np.where(np.isfinite(cross), cross, start), start, stop)
        found = np.maximum(first - v * start, last - v * stop)
        found = np.maximum(found, first + h * (middle - start) - v * middle)
        found = np.maximum(found, last - g * (stop - middle) - v * middle)
        plain = top - np.minimum(v * start, v * stop)
        found = np.where(known, np.minimum(found, plain), plain)
        size = np.abs(first) + np.abs(last) + np.where(known, 0.0, np.abs(top))
        size = size + (np.abs(g) + np.abs(h) + np.abs(v)) * (np.abs(start) + np.abs(stop))
        found = found + _SLACK * size + TINY
        found = np.where(np.isnan(found), np.inf, found).max(axis=-1)
    return np.asarray(found)


def _cuts(activation: Activation, low: Array, high: Array, number: int | None) -> Array:
    """Return where intervals (N,) are cut, ascending, both ends included, shape (M + 1, N)."""
    zero = np.clip(0.0, low, high)
    if not isinstance(activation, Named):
        return np.stack([low, high])
    if number is None and activation.properties.homogeneous:
        return np.stack([low, zero, high])
    width, each = high - low, number or _PIECES
    inner = [np.clip(low + width * (i / each), low, high) for i in range(1, each)]
    kinks: list[Array] = [zero]
    if activation.name == "Clip":
        inner, kinks = inner if number else [], [np.clip(end, low, high) for end in activation.parameters]
    kinks += [np.clip(point, low, high) for point in activation.properties.critical]
    return np.sort(np.stack([low, high, *inner, *kinks]), axis=0)


def _tiled(activation: Activation, copies: int, count: int) -> Activation:
    return activation if copies == 1 else activation.take(np.tile(np.arange(count), copies))


def pieces(activation: Activation, low: Array, high: Array, number: int | None = None) -> Pieces:
    """Return an activation of n neurons on intervals, cut into pieces.

    Args:
        activation: The functions.
        low: Lower ends, shape (B, n), finite.
        high: Upper ends, shape (B, n).
        number: Into how many pieces, besides those at kinks; unless it is given, as many as lines need.
    """
    shape = low.shape
    batch, count = shape
    cuts = _cuts(_tiled(activation, batch, count), low.ravel(), high.ravel(), number)
    found = cuts.shape[0] - 1
    start, stop = cuts[:-1].ravel(), cuts[1:].ravel()
    whole = _tiled(activation, batch * found, count)
    ends = _tiled(activation, batch * (found + 1), count).interval(cuts.ravel(), cuts.ravel())
    least, most = slopes(whole, start, stop)
    inside = whole.interval(start, stop)

    def split(values: Array) -> Array:
        return np.moveaxis(values.reshape(found, *shape), 0, -1)

    first = tuple(split(e.reshape(found + 1, -1)[:-1]) for e in ends)
    last = tuple(split(e.reshape(found + 1, -1)[1:]) for e in ends)
    return Pieces(
        split(start),
        split(stop),
        split(least),
        split(most),
        (first[0], first[1]),
        (last[0], last[1]),
        (split(inside[0]), split(inside[1])),
    )


def steepness(activation: Activation, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the least and largest slope of chords on intervals (B, n), shape (B, n) each; infinite where unknown."""
    least, most = slopes(_tiled(activation, *low.shape), low.ravel(), high.ravel())
    return least.reshape(low.shape), most.reshape(low.shape)


def lines(cut: Pieces) -> Lines:
    """Return a line above and one below on each interval: those that are closest to f at its middle.

    Args:
        cut: The activation on intervals (..., M).
    """
    low, high = cut.start[..., 0], cut.stop[..., -1]
    middle = 0.5 * low + 0.5 * high
    with np.errstate(all="ignore"):
        chord = (0.5 * (cut.at_stop[0] + cut.at_stop[1])[..., -1] - cut.at_start[0][..., 0]) / (high - low)
        half = cut.start.shape[-1] // 2
        tries = [chord, cut.least.min(axis=-1), cut.most.max(axis=-1)]
        tries += [0.5 * (cut.least + cut.most)[..., half], np.zeros(low.shape)]
        best = [np.zeros(low.shape), np.full(low.shape, np.inf), np.zeros(low.shape), np.full(low.shape, -np.inf)]
        for tried in tries:
            slope = np.where(np.isfinite(tried), tried, 0.0)
            above, below = cut.above(slope), cut.below(slope)
            better = above + slope * middle < best[1] + best[0] * middle
            best[0], best[1] = np.where(better, slope, best[0]), np.where(better, above, best[1])
            better = below + slope * middle > best[3] + best[2] * middle
            best[2], best[3] = np.where(better, slope, best[2]), np.where(better, below, best[3])
    return Lines(best[0], best[1], best[2], best[3])


def difference_lines(least: Array, most: Array, low: Array, high: Array) -> Lines:
    """Return lines above and below f(s) - f(t) in e = s - t.

    Args:
        least: Least slope of f's chords where s and t may lie.
        most: Largest one, of one shape.
        low: Least e.
        high: Largest e.
    """
    with np.errstate(all="ignore"):
        top = [np.maximum(least * e, most * e) for e in (low, high)]
        bottom = [np.minimum(least * e, most * e) for e in (low, high)]
        width = high - low
        up = np.clip((top[1] - top[0]) / width, least, most)
        down = np.clip((bottom[1] - bottom[0]) / width, least, most)
        up, down = (np.where(np.isfinite(v), v, 0.0) for v in (up, down))
        slack = _SLACK * (np.abs(least) + np.abs(most)) * (np.abs(low) + np.abs(high)) + TINY
        above = np.maximum(top[0] - up * low, top[1] - up * high) + slack
        below = np.minimum(bottom[0] - down * low, bottom[1] - down * high) - slack
        above = np.where(np.isnan(above), np.inf, above)
        below = np.where(np.isnan(below), -np.inf, below)
    return Lines(up, above, down, below)
