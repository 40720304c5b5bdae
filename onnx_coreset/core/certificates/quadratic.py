"""The bound of sums of gated neurons: one quadratic form for each output and sign, and its largest eigenvalue.

For any positive a and b the rest r of a product, |r| <= h |s| + k, of weight w' = |w| gives

    w (v + m s + r) u  <=  w (v + m s) u + w' h (a s^2 + u^2 / a) / 2 + w' k (b + u^2 / b) / 2,

so that a sum of products is at most (y, 1)^T H (y, 1) with one symmetric matrix H, in which products of either sign
cancel. With H's last entry apart, and for any positive f and h0,

    sup over y  <=  H_00 + l (sum f + h0),     l the largest eigenvalue of H, scaled by (f; h0)^(-1/2),

or 0 if that is negative: for the ball all f are equal, and their sum is one of them. For fixed a and b the best f and
h0 are exact for the ball. Everything may come from anywhere; `_solve` finds it in float32. X = V V^T in place of (y,
1) (y, 1)^T, of as many rows of V: a = |V u| / |V s| and b = |V u| are the best for X, what they leave is concave in
X, and V is moved along H V and brought back to the domain. What counts is evaluated in `_evaluate`, in float64, and
`level` proves the eigenvalue.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.eigen import level
from onnx_coreset.core.certificates.products import Products
from onnx_coreset.core.certificates.rounding import TINY, gamma

__all__ = ["quadratic"]

Single = NDArray[np.float32]
_FLOORS = (1e-8, 1e-5, 1e-2)
_NEAR = 0.02
_LEAST, _MOST = 1e-5, 1e5
_SHIFT = 0.5
_TOGETHER = 4_000_000
_STARTS = 4


@dataclass(frozen=True)
class _Found:
    """What was found for K functions: multipliers a, b, f and h0, values, and points.

    Attributes:
        a: Shape (K, n).
        b: Shape (K, n).
        columns: f, shape (K, d); for the ball each is what all are together.
        corner: h0, shape (K,).
        value: What the relaxed functions come to, shape (K,).
        points: V, shape (K, d, r).
    """

    a: Array
    b: Array
    columns: Array
    corner: Array
    value: Array
    points: Single


def quadratic(
    ready: Products,
    order: Indices,
    steps: int,
    rank: int,
    rng: np.random.Generator,
    until: float,
    goal: Array | None = None,
) -> tuple[Array, Array]:
    """Return what sums of products are at most, and where they may be so.

    Args:
        ready: The products in 2 k functions.
        order: Outputs in the order in which they are looked at, shape (k,).
        steps: Steps of ascent.
        rank: Number of columns r of V.
        rng: Where ascent starts, and for rounding its points.
        until: When no further outputs are begun, on the clock of `time.monotonic`.
        goal: What the functions are to stay below, shape (2 k,): those where it is infinite are left alone, and once
            one is above a finite one, all others are. As small as can be where it is minus infinity, or not given.

    Returns:
        Bounds, shape (2 k,), slack included and infinite where time was up, and points y of the domain, shape (2 k,
        S, d), to start an attack from. O(k n d (r steps + d)).
    """
    outputs, size = order.size, ready.gate.shape[1] - 1
    bounds, points = np.full(2 * outputs, np.inf), np.zeros((2 * outputs, _STARTS, size))
    arrays = (ready.gate, ready.up, ready.weights, ready.rest, ready.value, ready.slope, ready.half, ready.flat)
    if not all(np.isfinite(array).all() for array in arrays):
        return bounds, points[:, :0]
    goal = np.full(2 * outputs, -np.inf) if goal is None else goal
    part = int(np.clip(_TOGETHER // (2 * rank * (ready.value.size + size)), 1, outputs))
    for begin in range(0, outputs, part):
        if time.monotonic() > until:
            break
        both = np.concatenate([order[begin : begin + part], outputs + order[begin : begin + part]])
        both = both[goal[both] < np.inf]
        if not both.size:
            continue
        found = _solve(ready, both, steps, rank, rng, until)
        drawn = rng.standard_normal((found.points.shape[2], _STARTS))
        # The constant's own direction counts 1: the sign of the first coordinate is known.
        drawn[0] = np.abs(drawn[0])
        guesses = (found.points.astype(np.float64) @ drawn).transpose(0, 2, 1)
        lengths = np.linalg.norm(guesses, axis=2, keepdims=True)
        points[both] = guesses / np.where(lengths > 0, lengths, 1.0) if ready.ball else np.clip(guesses, -1.0, 1.0)
        for place, index in enumerate(both):
            if time.monotonic() > until:
                break
            bounds[index] = _evaluate(ready, int(index), found, place) * ready.unit[index] + ready.slack[index]
        if np.any((bounds[both] > goal[both]) & np.isfinite(goal[both])):
            break
    bounds = bounds + 8.0 * np.finfo(np.float64).eps * np.abs(bounds)
    return np.where(np.isnan(bounds), np.inf, bounds), points


def _root(vectors: Single) -> Single:
    """Return lengths (K, n) of vectors (K, n, r), not quite 0."""
    return np.asarray(np.sqrt(np.einsum("knr,knr->kn", vectors, vectors)) + np.float32(1e-12))


def _solve(ready: Products, which: Indices, steps: int, rank: int, rng: np.random.Generator, until: float) -> _Found:
    """Return multipliers for functions `which` (K,): untrusted."""
    size, count = ready.gate.shape[1] - 1, which.size
    gate, up = ready.gate.astype(np.float32), ready.up.astype(np.float32)
    weights = ready.weights[which].astype(np.float32)
    value, slope, half, flat = (
        array.astype(np.float32) for array in (ready.value, ready.slope, ready.half, ready.flat)
    )
    lin, cross = weights * (0.5 * value), weights * (0.5 * slope)
    left = ready.rest[which].astype(np.float32)
    bend, rest = left * (0.5 * half), left * (0.5 * flat)

    def spread(rows: Single, v: Single) -> Single:
        flat_v = v.transpose(1, 0, 2).reshape(size, -1)
        found = (rows[:, :size] @ flat_v).reshape(-1, count, rank).transpose(1, 0, 2).copy()
        found[:, :, 0] += rows[:, size]
        return np.asarray(found)

    def gather(rows: Single, terms: Single) -> Single:
        flat_t = terms.transpose(1, 0, 2).reshape(rows.shape[0], -1)
        return np.asarray((rows.T @ flat_t).reshape(size + 1, count, rank).transpose(1, 0, 2))

    v = _back(rng.standard_normal((count, size, rank), dtype=np.float32), ready.ball)
    for step in range(steps + 1):
        s, u = spread(gate, v), spread(up, v)
        far, high = _root(s), _root(u)
        a = np.clip(high / far, _LEAST, _MOST)
        b = np.clip(high, _LEAST, _MOST)
        along_s = cross[:, :, None] * u + (bend * a)[:, :, None] * s
        along_u = cross[:, :, None] * s + (bend / a + rest / b)[:, :, None] * u
        along_u[:, :, 0] += lin
        moved = gather(gate, along_s) + gather(up, along_u)
        whole = moved[:, size, 0] + np.einsum("kn,kn->k", lin, u[:, :, 0])
        moved = moved[:, :size]
        inner = np.einsum("kdr,kdr->k", moved, v)
        if step == steps or (step > 4 and time.monotonic() > until):
            break
        # H need not be positive: the shift keeps what is not from turning round.
        v = _back(moved + _SHIFT * _pace(v, moved, ready.ball), ready.ball)
    at_s, at_u = gate[:, size], up[:, size]
    last = 2.0 * (cross @ (at_s * at_u)) + 2.0 * (lin @ at_u)
    last = last + (bend * a) @ np.square(at_s) + (bend / a + rest / b) @ np.square(at_u)
    if ready.ball:
        columns = np.repeat(np.maximum(inner, 0.0)[:, None], size, axis=1)
    else:
        columns = np.sqrt(np.einsum("kdr,kdr->kd", moved, moved))
    total = inner + whole + (rest * b).sum(axis=1)
    corner = np.maximum(whole - last, 0.0)
    return _Found(_double(a), _double(b), _double(columns), _double(corner), _double(total), v)


def _double(values: Single) -> Array:
    return values.astype(np.float64)


def _pace(v: Single, moved: Single, ball: bool) -> Single:
    """Return v, as long as what it moved to: as a whole for the ball, row by row for the box."""
    squares = np.einsum("kdr,kdr->kd", moved, moved)
    lengths = np.sqrt(squares.sum(axis=1, keepdims=True) if ball else squares)
    return np.asarray(v * lengths[:, :, None])


def _back(v: Single, ball: bool) -> Single:
    """Return V (K, d, r) brought to length 1, as a whole for the ball, row by row for the box."""
    squares = np.einsum("kdr,kdr->kd", v, v)
    lengths = np.sqrt(squares.sum(axis=1, keepdims=True) if ball else squares)[:, :, None]
    return np.asarray(v / np.where(lengths > 0, lengths, np.float32(1.0)), dtype=np.float32)


def _evaluate(ready: Products, index: int, found: _Found, place: int) -> float:
    """Return the bound of one function in units of its own, rigorously."""
    gate, up, weights = ready.gate, ready.up, ready.weights[index]
    count, size = gate.shape[0], gate.shape[1] - 1
    a = np.where(np.isfinite(found.a[place]) & (found.a[place] > 0), found.a[place], 1.0)
    b = np.where(np.isfinite(found.b[place]) & (found.b[place] > 0), found.b[place], 1.0)
    left = ready.rest[index]
    bend, rest = 0.5 * left * ready.half, 0.5 * left * ready.flat
    cross, lin = 0.5 * weights * ready.slope, 0.5 * weights * ready.value
    one, two = bend * a, bend / a + rest / b
    # G^T (one G + cross U) + U^T (two U + cross G): both halves at once, and made symmetric.
    matrix = gate.T @ (one[:, None] * gate + (2.0 * cross)[:, None] * up) + up.T @ (two[:, None] * up)
    matrix = 0.5 * (matrix + matrix.T)
    line = lin @ up
    matrix[size] += line
    matrix[:, size] += line
    constant = float(matrix[size, size] + rest @ b)
    matrix[size, size] = 0.0
    far, high = ready.gate_size, ready.up_size
    magnitude = one @ np.square(far) + two @ np.square(high) + 2.0 * np.abs(cross) @ (far * high)
    magnitude = float(magnitude + 2.0 * np.abs(lin) @ high + rest @ b)
    loose = gamma(4 * count + 60) * magnitude * (1.0 + 1e-10) + count * TINY + 8.0 * gamma(4) * abs(constant)
    value = float("inf")
    for floor in _FLOORS:
        columns, corner = _multipliers(found, place, ready.ball, floor)
        scale = 1.0 / np.sqrt(np.append(columns, corner))
        # What the scales used stand for: their own rounding is none.
        budget = 1.0 / np.square(scale)
        total = float(budget[0] if ready.ball else budget[:-1].sum()) + float(budget[-1])
        top = level(matrix * scale[:, None] * scale, np.zeros((size + 1, 1)))
        value = min(value, constant + top * total * (1.0 + gamma(size + 20)) + loose)
        if value <= found.value[place] + _NEAR * abs(found.value[place]):
            break
    return value


def _multipliers(found: _Found, place: int, ball: bool, floor: float) -> tuple[Array, float]:
    """Return positive f (d,) and h0; for the ball each f is their sum."""
    columns, corner = found.columns[place], float(found.corner[place])
    share = 1.0 if ball else 1.0 / columns.size
    total = float(columns.sum()) * (1.0 / columns.size if ball else 1.0) + corner
    if not (np.isfinite(total) and total > 0):
        columns, corner, total = np.ones(columns.size), 1.0, 1.0
    return np.maximum(columns, floor * share * total), max(corner, floor * total)
