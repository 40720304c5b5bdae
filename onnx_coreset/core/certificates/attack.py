"""Inputs of a domain at which two layers differ much: a lower bound of what any certificate may say.

Ascent on D over the unit ball or box from many starts, all outputs and both signs at once: the first third of the
steps goes where the gradient is steepest from the middle, x = g / ||g|| or sign(g); the others move by .3, then .06
of it and less, and come back into the domain. The best point of every start's path counts. A convex function would be
climbed by the first kind of step alone; D is none, and there they cycle.

The value of a point is computed in float64 in the layers' own coordinates, at an input that lies in the domain for
sure, and what rounding may have added is taken off: an interval of D(x) is evaluated, and its closer end counts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.difference import Difference
from onnx_coreset.core.certificates.domains import Domain, place, sizes
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma

__all__ = ["Attack", "attack", "moved", "surely"]

Single = NDArray[np.float32]

_FIRST, _SECOND = 0.3, 0.06
_LAST = 0.05
_FAR = 1e-3
_MOST = 4_000_000
_CHEAP = 2e8
_MOST_RESTARTS = 64
_POOL = 64


@dataclass(frozen=True)
class Attack:
    """The worst inputs found.

    Attributes:
        worst: One input for each output, shape (k, d), inside the domain.
        value: |D_i| at it, rounded down, shape (k,).
    """

    worst: Array
    value: Array


def surely(layer: Difference, domain: Domain, x: Array) -> Array:
    """Return |D_i(x)| rounded down, for inputs of a domain.

    Args:
        layer: The difference, k outputs.
        domain: The domain; of an ellipsoid every x may be off by the rounding of gain * u + shift.
        x: Inputs, shape (N, d).

    Returns:
        Shape (N, k), not negative. O(N n (d + k)).
    """
    size = x.shape[1]
    magnitude = sizes(domain, x)
    with np.errstate(all="ignore"):
        t = x @ layer.incoming.T + layer.bias
        off = gamma(size + 12) * (magnitude @ np.abs(layer.incoming).T + np.abs(layer.bias)) + TINY
        low, high = layer.activation.interval(t - off, t + off)
        middle, half = 0.5 * low + 0.5 * high, 0.5 * (high - low)
        value = middle @ layer.weights.T + layer.constant
        size = low.shape[1]
        largest = np.maximum(np.abs(low), np.abs(high))
        absolute = np.abs(layer.weights)
        loose = half @ absolute.T + largest @ (gamma(size + 12) * absolute + 2.0 * layer.doubt).T
        loose = loose + 2.0 * layer.constant_doubt + 4.0 * UNIT * np.abs(layer.constant)
        found = np.abs(value) - loose * (1.0 + 1e-10) - 4.0 * UNIT * np.abs(value)
    return np.maximum(np.where(np.isfinite(found), found, 0.0), 0.0)


def attack(
    layer: Difference,
    domain: Domain,
    steps: int,
    restarts: int,
    rng: np.random.Generator,
    starts: Mapping[int, Array] | None = None,
    deadline: float = float("inf"),
    order: Indices | None = None,
) -> Attack:
    """Return the worst inputs that a search finds.

    Args:
        layer: The difference of two layers, k outputs, in the domain's coordinates.
        domain: The domain.
        steps: Steps from every start.
        restarts: Random starts for every output and sign, at least; more where they are cheap.
        rng: For the starts.
        starts: Further starts by function, 0 to k - 1 for D and k to 2 k - 1 for -D: points of the unit ball or box,
            shape (S, d) each.
        deadline: On the clock of `time.monotonic`: after it nothing is searched for further outputs.
        order: In which order the outputs are searched for, shape (k,); those left over when time is out are looked at
            where the others' worst inputs are.

    Returns:
        What it found; the middle of the domain is always looked at. O(k restarts steps n d).
    """
    size, outputs = layer.frame.rows.shape[1], layer.outputs
    reduced = _Ascent.of(layer)
    starts = {} if starts is None else starts
    given = max((points.shape[0] for points in starts.values()), default=0)
    # Small layers are searched from more starts: it costs nothing.
    work = 2.0 * outputs * steps * max(1, layer.low.size) * size
    restarts = int(np.clip(_CHEAP / max(work, 1.0), restarts, max(restarts, _MOST_RESTARTS)))
    part = max(1, _MOST // (2 * max(1, restarts + given) * max(1, layer.low.size + size)))
    order = np.arange(outputs) if order is None else order
    # The middle is always looked at.
    middle = place(domain, np.zeros((1, size)))
    worst, value = np.repeat(middle, outputs, axis=0), surely(layer, domain, middle)[0]
    for begin in range(0, outputs, part):
        late = begin > 0 and time.monotonic() > deadline
        if late:
            # What was searched for others is all there is.
            pool, rest = worst[order[:begin][:_POOL]], order[begin:]
            values = surely(layer, domain, pool)[:, rest]
        else:
            rest = order[begin : begin + part]
            both = np.concatenate([rest, outputs + rest])
            first = _starts(reduced, both, restarts, given, starts, rng)
            # Both signs' points are looked at in the layers' own coordinates.
            pool = place(domain, reduced.to_full(reduced.climb(both, first, steps, deadline)))
            values = surely(_few(layer, rest), domain, pool)
        chosen = np.argmax(values, axis=0)
        found = values[chosen, np.arange(rest.size)]
        better = found > value[rest]
        worst[rest[better]], value[rest] = pool[chosen[better]], np.maximum(found, value[rest])
        if late:
            break
    return Attack(worst, value)


def _few(layer: Difference, which: Indices) -> Difference:
    """Return the difference of some outputs only."""
    weights, doubt = layer.weights[which], layer.doubt[which]
    constant, off = layer.constant[which], layer.constant_doubt[which]
    return replace(layer, weights=weights, doubt=doubt, constant=constant, constant_doubt=off)


def _starts(
    reduced: _Ascent, both: Indices, restarts: int, given: int, starts: Mapping[int, Array], rng: np.random.Generator
) -> Single:
    """Return points to start from for some functions, those given first, in the coordinates of the ascent."""
    ball = reduced.layer.frame.ball
    shape = (both.size, given + restarts, reduced.layer.frame.rows.shape[1])
    first = rng.standard_normal(shape) if ball else rng.uniform(-1.0, 1.0, shape)
    for row, function in enumerate(both.tolist()):
        if function in starts:
            first[row, : starts[function].shape[0]] = starts[function]
    if ball:
        lengths = np.linalg.norm(first, axis=2, keepdims=True)
        first = first / np.where(lengths > 0, lengths, 1.0)
    return reduced.to_reduced(first)


@dataclass(frozen=True)
class _Ascent:
    """Ascent in fewer coordinates, float32; the values are only compared."""

    layer: Difference
    rows: Single
    offset: Single
    weights: Single
    basis: Array | None

    @classmethod
    def of(cls, layer: Difference) -> _Ascent:
        """Return the ascent of a difference; for the ball in the span of its rows."""
        rows, basis = layer.frame.rows, None
        if layer.frame.ball and rows.shape[1] > rows.shape[0] > 0 and np.isfinite(rows).all():
            basis, upper = np.linalg.qr(rows.T)
            rows = upper.T
        with np.errstate(over="ignore", invalid="ignore"):
            largest = np.max(np.abs(layer.weights), axis=1, keepdims=True, initial=0.0)
            weights = layer.weights / np.where(largest > 0, largest, 1.0)
            both = np.concatenate([weights, -weights]).astype(np.float32)
            return cls(layer, rows.astype(np.float32), layer.frame.offset.astype(np.float32), both, basis)

    def to_reduced(self, points: Array) -> Single:
        """Return points (..., d) in these coordinates, (..., q)."""
        return (points if self.basis is None else points @ self.basis).astype(np.float32)

    def to_full(self, points: Single) -> Array:
        """Return points (..., q) in the domain's coordinates, (..., d)."""
        full = points.astype(np.float64)
        return full if self.basis is None else full @ self.basis.T

    def look(self, which: Indices, points: Single) -> tuple[Single, Single]:
        """Return values (K, S) and gradients (K, S, q) of functions `which` (K,) at points (K, S, q)."""
        weights = self.weights[which]
        count, starts, size = points.shape
        with np.errstate(all="ignore"):
            t = (points.reshape(-1, size) @ self.rows.T + self.offset).astype(np.float64)
            step = _FAR * (1.0 + np.abs(t))
            after, before = self.layer.activation(t + step), self.layer.activation(t - step)
            slope = ((after - before) / (2.0 * step)).astype(np.float32).reshape(count, starts, self.offset.size)
            middle = self.layer.activation(t).astype(np.float32).reshape(count, starts, self.offset.size)
            values = np.einsum("ksn,kn->ks", middle, weights)
            gradient = (slope * weights[:, None]).reshape(count * starts, self.offset.size) @ self.rows
            gradient = np.where(np.isfinite(gradient), gradient, np.float32(0.0)).reshape(points.shape)
            # The largest entry is 1: squares neither overflow nor vanish.
            largest = np.max(np.abs(gradient), axis=2, keepdims=True, initial=0.0)
            gradient = gradient / np.where(largest > 0, largest, np.float32(1.0))
        values = np.where(np.isnan(values), np.float32(-np.inf), values)
        return np.asarray(values, dtype=np.float32), np.asarray(gradient, dtype=np.float32)

    def climb(self, which: Indices, points: Single, steps: int, deadline: float) -> Single:
        """Return the best point of every function's paths, shape (K, q)."""
        count = points.shape[0]
        best, top = points[:, 0].copy(), np.full(count, -np.inf, dtype=np.float32)
        for step in range(steps + 1):
            values, gradient = self.look(which, points)
            lead = np.argmax(values, axis=1)
            reached = values[np.arange(count), lead]
            better = reached > top
            best[better], top[better] = points[np.arange(count), lead][better], reached[better]
            if step == steps or (step and time.monotonic() > deadline):
                break
            # Steps shrink in the last third: the worst point may lie inside the domain, or on a smooth border.
            late = 3 * step - 2 * steps
            size = 0.0 if 3 * step < steps else _FIRST if late < 0 else _SECOND * _LAST ** (late / steps)
            ball = self.layer.frame.ball
            after = moved(points, gradient, size, ball)
            if size == 0:
                # Every other start stays near where it began: there are peaks inside the domain, too.
                after[:, 1::2] = moved(points[:, 1::2], gradient[:, 1::2], _FIRST, ball)
            points = after
        return best


def moved(points: Single, gradient: Single, size: float, ball: bool) -> Single:
    """Return the next points of an ascent in the unit ball or box.

    Args:
        points: Points, shape (K, R, d).
        gradient: Where it is steepest at them, shape (K, R, d).
        size: Length of the step; 0 stands for all the way to the border.
        ball: Whether the points lie in the unit ball, otherwise in the unit box.
    """
    if not ball:
        way = np.sign(gradient)
        after = way if size == 0 else np.clip(points + 3.0 * size * np.clip(8.0 * gradient, -1.0, 1.0), -1.0, 1.0)
        return np.asarray(after, dtype=np.float32)
    lengths = np.linalg.norm(gradient, axis=2, keepdims=True)
    way = gradient / np.where(lengths > 0, lengths, 1.0)
    after = way if size == 0 else points + size * way
    lengths = np.linalg.norm(after, axis=2, keepdims=True)
    return np.asarray(after / np.maximum(lengths, 1.0 if size else 1e-30), dtype=np.float32)
