"""Slopes of the lines, for each row its own, by descent on the bound that they give.

The bound is piecewise smooth in every slope. Where the row's linear function of the input is largest, x, the values
of the lines there go through both networks once more; a slope v of a neuron with coefficient a then has the derivative
a (t - t*), t being the neuron's pre-activation on the way and t* where the line touches f. Whatever descent finds, the
offsets are evaluated anew, and the least bound counts.

Source: Xu et al., ICLR 2021 (alpha-CROWN), for two networks and their difference.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.depth.backward import Relaxed, Rows, Upper, substitute
from onnx_coreset.core.certificates.depth.lines import Lines, Pieces, pieces, steepness
from onnx_coreset.core.certificates.depth.networks import Pair
from onnx_coreset.core.certificates.depth.regions import Region, Repeated
from onnx_coreset.core.features import Neurons

__all__ = ["Effort", "tuned"]

_RATE, _FADE = 0.25, 0.93
_FIRST, _SECOND = 0.9, 0.99
_SMALL = 1e-6
_ROWS = 4_000_000


@dataclass(frozen=True)
class Effort:
    """How much is spent on slopes.

    Attributes:
        steps: Steps of descent, at least one.
        until: When to stop, on the clock of `time.monotonic`.
    """

    steps: int
    until: float = float("inf")


@dataclass
class _Side:
    """The slopes of one network's neurons in one layer, (R, n) for lines above and below, and how they move."""

    cut: Pieces
    least: Array
    most: Array
    slopes: list[Array]
    free: list[NDArray[np.bool_]]
    first: list[Array]
    second: list[Array]

    @classmethod
    def of(cls, layer: Neurons, ends: tuple[Array, Array], lines: Lines, rows: int) -> _Side:
        cut = pieces(layer.activation, *ends)
        least, most = steepness(layer.activation, *ends)
        known = np.isfinite(least) & np.isfinite(most)
        least, most = np.where(known, least, 0.0), np.where(known, most, 0.0)
        free = []
        sides = ((lines.up_slope, lines.up_offset, 1), (lines.down_slope, lines.down_offset, 0))
        with np.errstate(all="ignore"):
            for slope, offset, end in sides:
                # A line that meets f at both ends of its range is as good as can be.
                rest = [np.abs(slope * t + offset - f) <= 1e-9 * (1.0 + np.abs(f)) for t, f in (
                    (ends[0], cut.at_start[end][..., 0]), (ends[1], cut.at_stop[end][..., -1]))]  # fmt: skip
                free.append(np.asarray(known & (most > least) & ~(rest[0] & rest[1])))
        slopes = [np.repeat(values, rows, axis=0) for values in (lines.up_slope, lines.down_slope)]
        zeros = [np.zeros_like(values) for values in slopes]
        return cls(cut, least, most, slopes, free, zeros, [z.copy() for z in zeros])

    def lines(self) -> Lines:
        """Return the lines of these slopes."""
        up, down = self.slopes
        return Lines(up, self.cut.above(up), down, self.cut.below(down))

    def touching(self, coefficients: Array) -> Array:
        """Return where each line in use touches f, about, shape (R, n)."""
        step = _SMALL * (self.most - self.least) + 1e-12
        up, down = self.slopes
        above = (self.cut.above(up + step) - self.cut.above(up - step)) / (2.0 * step)
        below = (self.cut.below(down + step) - self.cut.below(down - step)) / (2.0 * step)
        return -np.where(coefficients > 0, above, below)

    def move(self, coefficients: Array, gradient: Array, count: int, rate: float) -> None:
        """Move the slopes of the lines in use against the gradient."""
        gradient = np.nan_to_num(gradient * (self.most - self.least))
        for side, used in enumerate((coefficients > 0, coefficients < 0)):
            own = np.where(used & self.free[side], gradient, 0.0)
            self.first[side] = _FIRST * self.first[side] + (1.0 - _FIRST) * own
            self.second[side] = _SECOND * self.second[side] + (1.0 - _SECOND) * own**2
            step = self.first[side] / (1.0 - _FIRST**count)
            step = step / (np.sqrt(self.second[side] / (1.0 - _SECOND**count)) + 1e-300)
            moved = self.slopes[side] - rate * (self.most - self.least) * step
            self.slopes[side] = np.clip(moved, self.least, self.most)


def tuned(
    pair: Pair,
    region: Region,
    relaxed: list[Relaxed],
    ends: list[tuple[tuple[Array, Array], tuple[Array, Array]]],
    far: Array,
    rows: Rows,
    effort: Effort,
) -> Array:
    """Return upper bounds of functions with slopes of their own, shape (R,).

    Args:
        pair: The networks.
        region: Where the inputs are, one part.
        relaxed: The hidden layers up to the one whose values the rows speak of.
        ends: For each of them the ranges of both networks' pre-activations.
        far: Largest |x|, shape (1, d).
        rows: The functions.
        effort: When to stop.
    """
    width = max(a.width + b.width for a, b in zip(pair.before.hidden, pair.after.hidden, strict=True))
    together = max(1, _ROWS // (16 * width))
    parts = []
    for start in range(0, rows.constant.size, together):
        own = slice(start, start + together)
        part = Rows(rows.before[own], rows.after[own], rows.constant[own], rows.slack[own], rows.owner[own])
        parts.append(_descended(pair, region, relaxed, ends, far, part, effort))
    return np.concatenate(parts) if parts else np.zeros(0)


def _descended(
    pair: Pair,
    region: Region,
    relaxed: list[Relaxed],
    ends: list[tuple[tuple[Array, Array], tuple[Array, Array]]],
    far: Array,
    rows: Rows,
    effort: Effort,
) -> Array:
    count = rows.constant.size
    rows = replace(rows, owner=np.arange(count))
    repeated = Repeated(region, count)
    far = np.repeat(far, count, axis=0)
    sides = [
        (
            _Side.of(pair.before.hidden[level], ends[level][0], layer.before, count),
            _Side.of(pair.after.hidden[level], ends[level][1], layer.after, count),
        )
        for level, layer in enumerate(relaxed)
    ]
    fixed = [_repeated(layer, count) for layer in relaxed]
    best = np.full(count, np.inf)
    with np.errstate(all="ignore"):
        for step in range(1, effort.steps + 1):
            now = [
                replace(layer, before=one.lines(), after=other.lines())
                for layer, (one, other) in zip(fixed, sides, strict=True)
            ]
            found = substitute(pair, repeated, now, far, rows)
            best = np.fmin(best, found.value)
            if step == effort.steps or time.monotonic() >= effort.until:
                break
            _move(pair, now, found, repeated.point(found.rows, rows.owner), sides, step)
    return best


def _used(coefficients: Array, lines: Lines, values: Array) -> Array:
    """Return what the lines in use give at `values`, shape (R, n)."""
    up = coefficients > 0
    return np.where(up, lines.up_slope, lines.down_slope) * values + np.where(up, lines.up_offset, lines.down_offset)


def _move(pair: Pair, now: list[Relaxed], found: Upper, x: Array, sides: list[tuple[_Side, _Side]], step: int) -> None:
    """Take one step with all slopes, at the points x (R, d) where the bounds are largest."""
    h, g = x, x
    rate = _RATE * _FADE**step
    for level, (layer, passed) in enumerate(zip(now, found.passed, strict=True)):
        (W, b), (U, c) = pair.before.affine[level], pair.after.affine[level]
        t, s = h @ W.T + b, g @ U.T + c
        h, g = _used(passed.before, layer.before, t), _used(passed.after, layer.after, s)
        for side, coefficients, at in zip(sides[level], (passed.before, passed.after), (t, s), strict=True):
            side.move(coefficients, coefficients * (at - side.touching(coefficients)), step, rate)
        own, of = pair.twins[level]
        if own.size:
            # Where a coefficient was taken to its twin, the other network's value and the difference stand for it.
            apart = _used(passed.gap, layer.gap, s[:, own] - t[:, of])
            rest = passed.after[:, own] == 0
            one, other = h[:, of], g[:, own]
            g[:, own] = np.where((passed.gap != 0) & rest, one + apart, other)
            h[:, of] = np.where((passed.gap != 0) & ~rest, other - apart, one)


def _repeated(layer: Relaxed, count: int) -> Relaxed:
    """Return a layer as lines, for each row the same."""

    def rep(values: Array) -> Array:
        return np.repeat(values, count, axis=0)

    lines = layer.gap
    gap = Lines(rep(lines.up_slope), rep(lines.up_offset), rep(lines.down_slope), rep(lines.down_offset))
    far, size = (rep(layer.far[0]), rep(layer.far[1])), (rep(layer.size[0]), rep(layer.size[1]))
    return Relaxed(layer.before, layer.after, gap, rep(layer.joint), far, size)
