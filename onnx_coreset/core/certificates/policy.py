"""Affine policies: how the slopes of negative terms follow the signs of positive ones, found by descent.

With weights of either sign, a form is

    lin . t' + sum_{a positive} |B_a . (y, 1)| - sum_{b negative} |N_b . (y, 1)|,    t' = rows y.

For slopes s_b = Z_0b + sum_a Z_ab s_a with s_a the signs of the positive terms, sum_r |Z_rb| <= 1 keeps |s_b| <= 1,
so that -|N_b . (y, 1)| <= -s_b N_b . (y, 1), and the form is at most row_0 + sum_a |B(Z)_a . (y, 1)| with
B(Z) = B - Z N: a two-stage problem whose second stage answers affinely. It is a convex function of Z, the largest over
signs and y. That is relaxed to unit vectors V_a for signs (V_0 = e0 for the constant 1) and a matrix W for y,
||W||_F <= 1 for the ball or unit rows for the box: alternately

    W = Y / ||Y||,  Y = B^T V;        V_a = B_a (W, e0) / || B_a (W, e0) ||,

while Z goes down the gradient -V (N (W, e0))^T and back to the columns' l1 balls, with momentum. Nothing here needs
to be exact: any Z within the l1 balls and any positive multipliers give a bound, which is then evaluated rigorously.
Outputs share the rows, so their products are one: O(K n d r) a step for K functions, and O(K n+ n- r) for the
policies. Where there are many positive terms, slopes follow the nearest ones alone (`nearest`).

Source: the relaxation is that of Burer and Monteiro for sums of absolute values (Nesterov's pi/2 theorem); affine
policies are those of Ben-Tal et al. 2004 for adjustable robust optimisation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.forms import Form
from onnx_coreset.core.certificates.nearest import free
from onnx_coreset.core.certificates.relaxed import Relaxed, Signs, Single, relaxed, units

__all__ = ["Policy", "descend", "project"]

_LAST = 40
_CURVATURE = 1.15
_FLOOR = 1e-2
_SHARE = 0.3
_EVERY = 10
_LEAST = 10


@dataclass(frozen=True)
class Policy:
    """What descent ends with, for K functions.

    Attributes:
        slopes: Z, shape (K, b, 1 + a); sum over the last axis of magnitudes at most 1, up to rounding.
        rows: Multipliers of the constant and of the positive terms, shape (K, 1 + a).
        columns: Multipliers of the coordinates of y, shape (K, d) for the box, (K, 1) for the ball.
        points: W, the relaxed worst y, shape (K, q, r), in the coordinates that descent used.
        values: What the bounds would be with the best multipliers, shape (K,).
    """

    slopes: Single
    rows: Array
    columns: Array
    points: Single
    values: Single


def project(slopes: Single) -> Single:
    """Return the closest point whose sums of magnitudes over the last axis are at most 1. O(size log size)."""
    magnitude = np.abs(slopes)
    over = magnitude.sum(axis=-1) > 1.0
    if not over.any():
        return slopes
    ordered = -np.sort(-magnitude, axis=-1)
    running = np.cumsum(ordered, axis=-1) - 1.0
    ranks = np.arange(1, slopes.shape[-1] + 1, dtype=np.float32)
    count = np.count_nonzero(ordered * ranks > running, axis=-1)
    cut = np.take_along_axis(running, np.maximum(count - 1, 0)[..., None], axis=-1) / np.maximum(count, 1)[..., None]
    cut = np.where(over[..., None], cut, 0.0).astype(np.float32)
    return np.asarray(np.copysign(np.maximum(magnitude - cut, 0.0), slopes))


def descend(
    form: Form,
    rows: Array,
    ball: bool,
    steps: int,
    rank: int,
    rng: np.random.Generator,
    which: Indices,
    until: float = float("inf"),
) -> tuple[Signs, Policy]:
    """Return policies and multipliers for some functions of a form.

    Args:
        form: The form.
        rows: Rows of the pre-activations, shape (n, q), in any coordinates: for the ball, any that keep products.
        ball: Whether the domain is the unit ball, otherwise the box.
        steps: Steps of descent.
        rank: Dimension r of the relaxation.
        rng: Where it starts.
        which: Indices of the functions, shape (K,).
        until: On the clock of `time.monotonic`: after it only the first few steps and rounds are made.

    Returns:
        The terms by sign, and the policies.
    """
    state = relaxed(form, rows, ball, which)
    count, up, down = which.size, state.up.shape[1], state.down.shape[1]
    vectors = np.zeros((count, 1 + up, rank), dtype=np.float32)
    vectors[:, 1:] = units(rng.standard_normal((count, up, rank), dtype=np.float32))[0] * (state.up > 0)[:, :, None]
    vectors[:, 0, 0] = 1.0
    last = best = np.zeros((count, down, 1 + up), dtype=np.float32)
    if down:
        last, best = _walk(state, vectors, last, steps, until)
    first = _settle(state, vectors, last, until)
    # Out of time, the last slopes have to do.
    second = first if best is last or time.monotonic() > until else _settle(state, vectors, best, until)
    chosen = np.where(first.values <= second.values, 0, 1)
    return state.signs, first if not chosen.any() else _either(first, second, chosen)


def _either(first: Policy, second: Policy, chosen: Indices) -> Policy:
    """Return the first policy for functions where `chosen` (K,) is 0, the second elsewhere."""
    at = np.arange(chosen.size)
    slopes, points = np.stack([first.slopes, second.slopes]), np.stack([first.points, second.points])
    rows, columns = np.stack([first.rows, second.rows]), np.stack([first.columns, second.columns])
    values = np.stack([first.values, second.values])[chosen, at]
    return Policy(slopes[chosen, at], rows[chosen, at], columns[chosen, at], points[chosen, at], values)


def _walk(state: Relaxed, vectors: Single, start: Single, steps: int, until: float) -> tuple[Single, Single]:
    """Return the last slopes of descent, and those of the least value in its second half; `vectors` are changed.

    Descent moves the entries of Z that are free, (K, b, t); products take all of them.
    """
    count, moving = start.shape[0], free(state)
    slopes = ahead = best = moving.of(start)
    full = start.copy()
    old = least = np.full(count, np.inf, dtype=np.float32)
    pace, bend, most = np.ones((3, count), dtype=np.float32)
    for step in range(steps):
        if step >= _LEAST and time.monotonic() > until:
            break
        reply = state.round(vectors, moving.place(ahead, full))
        if step % _EVERY == 0:
            most = np.maximum(most if step else 0.0 * most, reply.lengths.max(axis=1))
            bend = _bend(state, reply.lengths, most, vectors)
        if 2 * step >= steps or step + 1 == _LEAST:
            better = reply.value < least
            best = np.where(better[:, None, None], ahead, best)
            least = np.minimum(reply.value, least)
        vectors[:, 1:] = reply.vectors
        gradient = -moving.of(reply.negative @ vectors.transpose(0, 2, 1))
        new = project(ahead - gradient / bend[:, None, None])
        # Momentum starts again where the value rose.
        pace = np.where(reply.value > old, np.float32(1.0), pace)
        after = 0.5 + np.sqrt(0.25 + pace**2)
        ahead = new + ((pace - 1.0) / after)[:, None, None] * (new - slopes)
        slopes, pace, old = new, after, reply.value
    return moving.place(slopes, start.copy()), moving.place(project(best), start.copy())


def _bend(state: Relaxed, lengths: Single, most: Single, vectors: Single) -> Single:
    """Return the inverse of the step of every function, shape (K,)."""
    # Where everything cancels, lengths vanish, and with them the steps: not below a share of the largest met.
    largest = np.maximum(lengths.max(axis=1, keepdims=True), _SHARE * most[:, None])
    floor = np.maximum(lengths, (_SHARE if state.ball else _FLOOR) * largest)
    inverse = 1.0 / np.where(floor > 0, floor, 1.0)
    gram = vectors.transpose(0, 2, 1) @ vectors
    spectral = np.linalg.eigvalsh(gram)[:, -1]
    bend = _CURVATURE * spectral * state.curvature(np.broadcast_to(inverse, (inverse.shape[0], state.rows.shape[1])))
    return np.asarray(np.where(bend > 0, bend, 1.0), dtype=np.float32)


def _settle(state: Relaxed, vectors: Single, slopes: Single, until: float) -> Policy:
    """Return multipliers for fixed policies, by more rounds."""
    vectors = vectors.copy()
    reply = state.round(vectors, slopes)
    for count in range(_LAST):
        if count >= _LEAST and time.monotonic() > until:
            break
        vectors[:, 1:] = reply.vectors
        reply = state.round(vectors, slopes)
    # The constant's own row: the linear part, and every positive term's constant along its vector.
    last = np.take(state.offset, state.signs.positive) * state.up
    fixed = np.take(state.offset, state.signs.negative) * state.down
    moved = np.einsum("kb,kb->k", slopes[:, :, 0], reply.negative[:, :, 0] - fixed)
    last = last - np.einsum("kb,kba->ka", fixed, slopes[:, :, 1:])
    head = reply.linear - moved + np.einsum("ka,ka->k", last, reply.vectors[:, :, 0])
    rows = np.concatenate([np.maximum(head, 0.0)[:, None], reply.norms], axis=1).astype(np.float64)
    return Policy(slopes, rows, reply.lengths.astype(np.float64), reply.points, reply.value)
