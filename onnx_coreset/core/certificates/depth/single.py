"""How far one layer and its shrunk self are apart where few inputs vary, by parabolas on boxes that are halved.

In the domain's coordinates, y = m + z on a box |z| <= h, every neuron of the difference is a parabola of its
pre-activation and a rest, and their sum a quadratic function

    D(y) <= a + g . z + z^T H z + rest,      H = sum over neurons of weight bend row row^T.

Where the domain is a ball, v (1 - |y|^2) >= 0 is added for some v >= 0: another quadratic function. On a box

    g . z + z^T H z <= sum_l max (g_l z_l + H_ll z_l^2) + sum over l != l' of |H_ll'| h_l h_l'.

The box on which a bound is furthest above what is reached is halved next, along the input that the error of the
parabolas and the terms off the diagonal lean on most. Of a box that meets a ball only the smallest box around what
they have in common is looked at. Neurons that both layers have are one, and those that were moved a little have
parabolas that nearly cancel; no mapping between them is asked for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.depth.curves import Curves, curves
from onnx_coreset.core.certificates.difference import Difference
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma

__all__ = ["FEW", "few", "halved"]

FEW = 16
"""Most inputs that vary for which boxes are halved."""
_BOXES = 20_000
_NUMBERS = 40_000
_TOGETHER = 256
_SLACK = 0.01
_GOLDEN, _SECTIONS = 0.5 * (5.0**0.5 - 1.0), 8
_UP = 1.0 + 1e-9
_WIDE = (0.9, 0.45)
_VANISHED = 1e-150
"""Above the norm of a row whose squares vanish."""


@dataclass(frozen=True)
class _Boxes:
    """B boxes of inputs y, (B, d) each, with bounds of D and -D on each, (B, 2 k), and the input to halve, (B,)."""

    low: Array
    high: Array
    value: Array
    split: Indices

    def take(self, index: Indices) -> _Boxes:
        return _Boxes(self.low[index], self.high[index], self.value[index], self.split[index])

    def joined(self, other: _Boxes) -> _Boxes:
        return _Boxes(
            np.concatenate([self.low, other.low]),
            np.concatenate([self.high, other.high]),
            np.concatenate([self.value, other.value]),
            np.concatenate([self.split, other.split]),
        )


@dataclass(frozen=True)
class _Quadratic:
    """constant + linear . z + z^T curved z, for B boxes and k outputs, off by at most rest.

    Attributes:
        constant: Shape (B, k).
        linear: Shape (B, k, d).
        curved: Shape (B, k, d, d).
        rest: Shape (B, k).
        blame: What each neuron's rest is, shape (B, n).
    """

    constant: Array
    linear: Array
    curved: Array
    rest: Array
    blame: Array


def few(layer: Difference) -> bool:
    """Return whether few enough inputs of a difference vary for boxes of them to be halved."""
    return int(np.count_nonzero(np.any(layer.frame.rows != 0, axis=0))) <= FEW


def halved(
    layer: Difference,
    known: Array | None = None,
    seconds: float = float("inf"),
    boxes: int = _BOXES,
    enough: Array | None = None,
) -> Array:
    """Return upper bounds of D and -D over the domain, shape (2 k,).

    Args:
        layer: The difference of two layers, k outputs, in the domain's coordinates.
        known: Bounds that hold already, shape (2 k,).
        seconds: When to stop; the last boxes may take longer.
        boxes: Most boxes that are looked at.
        enough: Values below which no bound is sought, shape (2 k,).

    Returns:
        The bounds, in real arithmetic; infinite where nothing is known and more than 16 inputs vary or something
        overflows. O(n (d^2 k + pieces)) for each box.
    """
    until = time.monotonic() + seconds
    least = np.full(2 * layer.outputs, np.inf) if known is None else known
    rows = layer.frame.rows
    live = np.flatnonzero(np.any(rows != 0, axis=0))
    if live.size > FEW or not all(np.isfinite(v).all() for v in (rows, layer.low, layer.high, layer.weights)):
        return least
    rows = rows[:, live]
    found, reached = _looked(layer, rows, -np.ones((1, live.size)), np.ones((1, live.size)), least[None], None)
    done, looked = np.full(2 * layer.outputs, -np.inf), 1
    together = int(np.clip(_NUMBERS // max(1, rows.shape[0]), 1, _TOGETHER))
    while found.split.size:
        goal = np.maximum(np.tile(np.max(reached.reshape(2, -1), axis=0), 2) * (1.0 + _SLACK), done)
        goal = goal if enough is None else np.maximum(goal, enough)
        above = np.max(found.value - goal, axis=1)
        closed = (above <= 0) | (found.split < 0)
        done = np.maximum(done, found.value[closed].max(axis=0, initial=-np.inf))
        found, above = found.take(np.flatnonzero(~closed)), above[~closed]
        if looked >= boxes or time.monotonic() >= until or not above.size:
            break
        order = np.argsort(-above, kind="stable")
        low, high, value = _halves(found.take(order[:together]), layer.frame.ball)
        looked += value.shape[0]
        children, seen = _looked(layer, rows, low, high, value, goal)
        found = found.take(order[together:]).joined(children)
        reached = np.maximum(reached, seen)
    return np.asarray(np.minimum(least, np.maximum(done, found.value.max(axis=0, initial=-np.inf))))


def _halves(boxes: _Boxes, ball: bool) -> tuple[Array, Array, Array]:
    """Return both halves of each box, and what is known on them; without what lies outside the unit ball."""
    low, high = np.repeat(boxes.low, 2, axis=0), np.repeat(boxes.high, 2, axis=0)
    place = np.arange(boxes.split.size)
    middle = 0.5 * boxes.low[place, boxes.split] + 0.5 * boxes.high[place, boxes.split]
    high[2 * place, boxes.split] = middle
    low[2 * place + 1, boxes.split] = middle
    value = np.repeat(boxes.value, 2, axis=0)
    if not ball:
        return low, high, value
    near = np.square(np.maximum(np.maximum(low, -high), 0.0))
    # What the other coordinates leave of the square of each, and more than rounding takes off.
    left = np.maximum(1.0 - (near.sum(axis=1, keepdims=True) - near), 0.0) + 1e-13
    most = np.sqrt(left) * (1.0 + 1e-12)
    low, high = np.maximum(low, -most), np.minimum(high, most)
    inside = np.all(low <= high, axis=1)
    return low[inside], high[inside], value[inside]


def _looked(
    layer: Difference, rows: Array, low: Array, high: Array, known: Array, goal: Array | None
) -> tuple[_Boxes, Array]:
    """Return boxes with their bounds, and the largest D and -D seen on them, about, shape (2 k,)."""
    middle = 0.5 * low + 0.5 * high
    half = np.nextafter(np.maximum(high - middle, middle - low), np.inf)
    with np.errstate(all="ignore"):
        found = _quadratic(layer, rows, middle, half)
        upper = np.concatenate([_largest(found, middle, half, layer.frame.ball, sign) for sign in (1.0, -1.0)], axis=1)
        value = np.fmin(upper, known)
        target = value if goal is None else value - goal
        worst = np.argmax(target, axis=1) % layer.outputs
        place = np.arange(worst.size)
        lost = np.abs(found.curved[place, worst]) * half[:, :, None] * half[:, None, :]
        leans = lost.sum(axis=2) - 0.5 * np.einsum("bdd->bd", lost)
        blame = np.abs(layer.weights[worst]) * found.blame
        share = np.abs(rows)[None] * half[:, None, :]
        share = share / np.maximum(share.sum(axis=2, keepdims=True), TINY)
        leans = leans + np.einsum("bn,bnd->bd", blame, share) * 3.0
        leans = leans + 0.05 * np.abs(found.linear[place, worst]) * half
        leans = np.nan_to_num(leans, nan=0.0, posinf=1e300) + 1e-300 * half
        inner = (middle > low) & (middle < high)
        leans = np.where(inner, leans, -1.0)
        split = np.argmax(leans, axis=1) if rows.shape[1] else np.full(worst.size, -1)
        split = np.where(inner.any(axis=1), split, -1)
        reached = _at(layer, rows, middle)
    return _Boxes(low, high, value, split), reached


def _at(layer: Difference, rows: Array, points: Array) -> Array:
    """Return the largest D and -D at points drawn into the domain, about, shape (2 k,)."""
    if layer.frame.ball:
        points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1.0)
    value = layer.activation(points @ rows.T + layer.frame.offset) @ layer.weights.T + layer.constant
    both = np.concatenate([value, -value], axis=1)
    return np.asarray(np.nan_to_num(both, nan=-np.inf, posinf=-np.inf).max(axis=0, initial=-np.inf))


def _quadratic(layer: Difference, rows: Array, middle: Array, half: Array) -> _Quadratic:
    """Return D on boxes as a quadratic function of z = y - middle."""
    size, (count, inputs) = np.abs(rows), rows.shape
    around = middle @ rows.T + layer.frame.offset
    off = layer.frame.noise + gamma(inputs + 4) * (np.abs(middle) @ size.T + np.abs(layer.frame.offset)) * _UP
    wide = half @ size.T * (1.0 + gamma(inputs + 8)) + off + TINY
    wide = wide + 4.0 * UNIT * (np.abs(around) + wide)
    low, high = np.maximum(around - wide, layer.low), np.minimum(around + wide, layer.high)
    if layer.frame.ball:
        low, high = _met(layer, rows, middle, half, low, high)
    # Where nothing is left no input of the domain lies in the box, and whatever is said holds.
    found = _curves(layer, np.minimum(low, high), np.maximum(low, high), around)
    slope, bend = np.abs(found.slope), np.abs(found.bend)
    blame = (found.rest + slope * off + bend * (2.0 * wide + off) * off) * _UP
    total = np.abs(found.at) + (slope + bend * wide) * wide + blame
    weights = np.abs(layer.weights)
    rest = blame @ weights.T + total @ layer.doubt.T + gamma(2 * count + 2 * inputs + 64) * (total @ weights.T)
    rest = (rest + layer.constant_doubt + gamma(count + 8) * np.abs(layer.constant)) * _UP
    outer = (rows[:, :, None] * rows[:, None, :]).reshape(count, inputs * inputs)
    return _Quadratic(
        found.at @ layer.weights.T + layer.constant,
        (found.slope[:, None] * layer.weights) @ rows,
        ((found.bend[:, None] * layer.weights) @ outer).reshape(middle.shape[0], layer.outputs, inputs, inputs),
        rest,
        blame,
    )


def _met(layer: Difference, rows: Array, middle: Array, half: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return ranges of pre-activations where boxes meet the unit ball, (B, n) each: wide coordinates share a norm."""
    near = np.square(np.maximum(np.abs(middle) - half, 0.0))
    for wide in _WIDE:
        loose = half >= wide
        fixed = np.where(loose, 0.0, 1.0)
        # A norm of what is left of 1, and more than rounding takes off.
        length = np.sqrt(np.maximum(1.0 - (near * fixed).sum(axis=1), 0.0) + 1e-13) * (1.0 + 1e-12)
        reach = np.sqrt(np.square(rows) @ (1.0 - fixed).T).T * length[:, None] + (half * fixed) @ np.abs(rows).T
        centre = (middle * fixed) @ rows.T + layer.frame.offset
        size = np.abs(middle) @ np.abs(rows).T + np.abs(layer.frame.offset) + reach
        reach = reach + layer.frame.noise + gamma(2 * rows.shape[1] + 16) * size * _UP + _VANISHED
        low, high = np.maximum(low, centre - reach), np.minimum(high, centre + reach)
    return low, high


def _curves(layer: Difference, low: Array, high: Array, around: Array) -> Curves:
    """Return the parabolas of all neurons, shape (B, n) each."""
    ends = np.cumsum((0, *layer.activation.sizes))
    found = [
        curves(part, low[:, a:b], high[:, a:b], around[:, a:b])
        for part, a, b in zip(layer.activation.parts, ends[:-1], ends[1:], strict=True)
        if b > a
    ]
    if not found:
        return Curves(low, low, low, low)
    return Curves(*(np.concatenate([getattr(one, name) for one in found], axis=1) for name in _FIELDS))


_FIELDS = ("at", "slope", "bend", "rest")


def _largest(found: _Quadratic, middle: Array, half: Array, ball: bool, sign: float) -> Array:
    """Return upper bounds of sign * D on boxes, shape (B, k)."""
    h, m = half[:, None], middle[:, None]
    linear, own = sign * found.linear, sign * np.einsum("bkdd->bkd", found.curved)
    size = np.abs(found.curved) * h[..., None] * h[..., None, :]
    beside = size.sum(axis=3) - np.einsum("bkdd->bkd", size)
    # |z_l z_l'| is at most the mean of (h_l' / h_l) z_l^2 and the like for l'.
    diagonal = own + np.where(h > 0, beside / np.square(np.maximum(h, 1e-150)), 0.0)
    magnitude = np.abs(found.constant) + (np.abs(linear) * h).sum(axis=2) + 2.0 * size.sum(axis=(2, 3))
    best = _separate(linear, diagonal, h)
    if ball:
        room, far = 1.0 - np.square(m).sum(axis=2), np.square(np.abs(m) + h).sum(axis=2)

        def at(v: Array) -> Array:
            more = v * room + 1e-13 * v * (1.0 + far)
            return np.asarray(more + _separate(linear - 2.0 * v[..., None] * m, diagonal - v[..., None], h))

        # Convex in v: a golden section.
        start = np.zeros(best.shape)
        stop = 1.5 * np.linalg.norm(linear, axis=2) + 2.0 * np.maximum(diagonal, 0.0).max(axis=2, initial=0.0)
        inner = [stop - _GOLDEN * stop, _GOLDEN * stop]
        values = [at(v) for v in inner]
        for _ in range(_SECTIONS):
            first = values[0] <= values[1]
            start, stop = np.where(first, start, inner[0]), np.where(first, inner[1], stop)
            new = np.where(first, stop - _GOLDEN * (stop - start), start + _GOLDEN * (stop - start))
            seen = at(new)
            best = np.fmin(best, np.fmin(seen, np.fmin(*values)))
            inner = [np.where(first, new, inner[1]), np.where(first, inner[0], new)]
            values = [np.where(first, seen, values[1]), np.where(first, values[0], seen)]
    value = sign * found.constant + best
    value = value + found.rest + gamma(half.shape[1] ** 2 + 64) * (magnitude + found.rest) * _UP + TINY
    return np.asarray(np.where(np.isnan(value), np.inf, value))


def _separate(linear: Array, diagonal: Array, half: Array) -> Array:
    """Return the sum over l of the largest linear_l z_l + diagonal_l z_l^2 for |z_l| <= half_l."""
    steep = np.abs(linear)
    end = (steep + diagonal * half) * half
    inner = (diagonal < 0) & (steep < -2.0 * diagonal * half)
    return np.asarray(np.where(inner, np.square(steep) / (-4.0 * np.where(inner, diagonal, -1.0)), end).sum(axis=2))
