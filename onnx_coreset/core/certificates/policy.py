"""Affine policies: how the slopes of negative terms follow the signs of positive ones, found by descent.

With weights of either sign, a form is

    lin . t' + sum_{a positive} |B_a . (y, 1)| - sum_{b negative} |N_b . (y, 1)|,    t' = rows y.

For slopes s_b = Z_0b + sum_a Z_ab s_a with s_a the signs of the positive terms, sum_r |Z_rb| <= 1 keeps |s_b| <= 1,
so that -|N_b . (y, 1)| <= -s_b N_b . (y, 1), and the form is at most row_0 + sum_a |B(Z)_a . (y, 1)| with
B(Z) = B - Z N: a two-stage problem whose second stage answers affinely. A convex function of Z: the largest over signs s, y.
That largest value is relaxed to unit vectors V_a for signs (V_0 = e0 for the constant 1) and a matrix W for y,
||W||_F <= 1 for the ball or unit rows for the box: alternately

    W = Y / ||Y||,  Y = B^T V;        V_a = B_a (W, e0) / || B_a (W, e0) ||,

while Z goes down the gradient -V (N (W, e0))^T and back to the columns' l1 balls, with momentum. Nothing here needs
to be exact: any Z within the l1 balls and any positive multipliers give a bound, which is then evaluated rigorously.
Outputs share the rows, so their products are one: O(K n d r) a step for K functions, and O(K n+ n- r) for the
policies.

Source: the relaxation is that of Burer and Monteiro for sums of absolute values (Nesterov's pi/2 theorem); affine
policies are those of Ben-Tal et al. 2004 for adjustable robust optimisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.forms import Form

__all__ = ["Policy", "Signs", "descend", "signs"]

Single = NDArray[np.float32]

_LAST = 40
_CURVATURE = 1.15
_FLOOR = 1e-3


@dataclass(frozen=True)
class Signs:
    """The terms of K functions by sign, padded to equal numbers.

    Attributes:
        positive: Neurons of positive weight, shape (K, a); filled up with any.
        negative: Neurons of negative weight, shape (K, b).
        up: Their weights, 0 where filled up, shape (K, a).
        down: Their weights' magnitudes, 0 where filled up, shape (K, b).
    """

    positive: Indices
    negative: Indices
    up: Array
    down: Array


def signs(weights: Array) -> Signs:
    """Return the terms of functions of weights (K, n) by sign."""
    order = np.argsort(-weights, axis=1, kind="stable")
    most = int(np.count_nonzero(weights > 0, axis=1).max(initial=0))
    least = int(np.count_nonzero(weights < 0, axis=1).max(initial=0))
    positive, negative = order[:, :most], order[:, order.shape[1] - least :]
    up = np.maximum(np.take_along_axis(weights, positive, axis=1), 0.0)
    return Signs(positive, negative, up, np.maximum(-np.take_along_axis(weights, negative, axis=1), 0.0))


@dataclass(frozen=True)
class Policy:
    """What descent ends with, for K functions.

    Attributes:
        slopes: Z, shape (K, b, 1 + a); sum over the last axis of magnitudes at most 1, up to rounding.
        rows: Multipliers of the constant and of the positive terms, shape (K, 1 + a).
        columns: Multipliers of the coordinates of y, shape (K, d) for the box, (K, 1) for the ball.
        points: W, the relaxed worst y, shape (K, q, r), in the coordinates that descent used.
    """

    slopes: Single
    rows: Array
    columns: Array
    points: Single


@dataclass
class _State:
    """K functions in descent, float32, with e0 the first of r dimensions."""

    form_lin: Single
    offset: Single
    rows: Single
    signs: Signs
    up: Single
    down: Single
    ball: bool

    def spread(self, vectors: Single, slopes: Single) -> Single:
        """Return Y = B^T V, shape (K, q, r), for unit vectors (K, 1 + a, r)."""
        count, _, rank = vectors.shape
        full = np.zeros((count, self.rows.shape[0], rank), dtype=np.float32)
        where = np.arange(count)[:, None]
        full[where, self.signs.positive] += self.up[:, :, None] * vectors[:, 1:]
        if self.down.shape[1]:
            full[where, self.signs.negative] -= self.down[:, :, None] * (slopes @ vectors)
        full[:, :, 0] += self.form_lin
        flat = full.transpose(1, 0, 2).reshape(self.rows.shape[0], -1)
        return np.asarray((self.rows.T @ flat).reshape(-1, count, rank).transpose(1, 0, 2))

    def lengths(self, spread: Single) -> Single:
        """Return the norm of Y (K, 1) for the ball, or of each of its rows (K, q) for the box."""
        squares = np.einsum("kqr,kqr->kq", spread, spread)
        return np.asarray(np.sqrt(squares.sum(axis=1, keepdims=True) if self.ball else squares))

    def answers(self, points: Single) -> tuple[Single, Single, Single]:
        """Return rows (W, e0) for all neurons (K, n, r), and of the weighted positive and negative terms."""
        count, _, rank = points.shape
        flat = points.transpose(1, 0, 2).reshape(points.shape[1], -1)
        found = (self.rows @ flat).reshape(-1, count, rank).transpose(1, 0, 2)
        where = np.arange(count)[:, None]
        shift = np.zeros((1, self.offset.size, rank), dtype=np.float32)
        shift[0, :, 0] = self.offset
        placed = found + shift
        positive = placed[where, self.signs.positive] * self.up[:, :, None]
        return found, positive, placed[where, self.signs.negative] * self.down[:, :, None]

    def curvature(self, inverse: Single) -> Single:
        """Return the largest eigenvalue of N diag(inverse) N^T, shape (K,), by a few power steps."""
        count = self.up.shape[0]
        vector = self.down[:, :, None].copy()
        value = np.ones(count, dtype=np.float32)
        where = np.arange(count)[:, None]
        for _ in range(12):
            norm = np.sqrt(np.einsum("kbr,kbr->k", vector, vector))
            vector = _ratio(vector, norm[:, None, None])
            full = np.zeros((count, self.rows.shape[0]), dtype=np.float32)
            np.add.at(full, (where, self.signs.negative), self.down * vector[:, :, 0])
            moved = (full @ self.rows) * inverse
            back = np.take_along_axis(moved @ self.rows.T, self.signs.negative, axis=1)
            vector = np.asarray((back * self.down)[:, :, None])
            value = np.sqrt(np.einsum("kbr,kbr->k", vector, vector))
        return value


def _ratio(values: Single, sizes: Single) -> Single:
    """Return values over sizes, and values where sizes are 0."""
    return np.asarray(values / np.where(sizes > 0, sizes, np.float32(1.0)), dtype=np.float32)


def _units(vectors: Single) -> tuple[Single, Single]:
    """Return the vectors of length 1, or 0, and their lengths (K, a)."""
    norms = np.sqrt(np.einsum("kar,kar->ka", vectors, vectors))
    return _ratio(vectors, norms[:, :, None]), norms


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
    form: Form, rows: Array, ball: bool, steps: int, rank: int, rng: np.random.Generator, which: Indices
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

    Returns:
        The terms by sign, and the policies.
    """
    sides = signs(form.weights[which])
    single = np.float32
    state = _State(
        form.lin[which].astype(single),
        form.offset.astype(single),
        rows.astype(single),
        sides,
        sides.up.astype(single),
        sides.down.astype(single),
        ball,
    )
    count, up, down = which.size, sides.up.shape[1], sides.down.shape[1]
    vectors = np.zeros((count, 1 + up, rank), dtype=single)
    vectors[:, 1:] = _units(rng.standard_normal((count, up, rank), dtype=np.float32))[0] * (state.up > 0)[:, :, None]
    vectors[:, 0, 0] = 1.0
    slopes = np.zeros((count, down, 1 + up), dtype=single)
    ahead, old = slopes, np.full(count, np.inf, dtype=single)
    pace = np.ones(count, dtype=single)
    bend = np.ones(count, dtype=single)
    for step in range(steps if down else 0):
        spread = state.spread(vectors, ahead)
        lengths = state.lengths(spread)
        points = _ratio(spread, lengths[:, :, None])
        found, positive, negative = state.answers(points)
        if step % 10 == 0:
            bend = _bend(state, lengths, vectors)
        reply = positive - (ahead.transpose(0, 2, 1) @ negative)[:, 1:]
        fresh, norms = _units(reply)
        value = norms.sum(axis=1) + np.einsum("kn,kn->k", state.form_lin, found[:, :, 0])
        value -= np.einsum("kb,kb->k", ahead[:, :, 0], negative[:, :, 0])
        vectors[:, 1:] = fresh
        gradient = -(negative @ vectors.transpose(0, 2, 1))
        new = project(ahead - gradient / bend[:, None, None])
        # Momentum starts again where the value rose.
        rose = value > old
        pace = np.where(rose, 1.0, pace).astype(single)
        after = (0.5 + np.sqrt(0.25 + pace**2)).astype(single)
        ahead = new + ((pace - 1.0) / after)[:, None, None] * (new - slopes)
        slopes, pace, old = new, after, value
    return sides, _settle(state, vectors, slopes)


def _bend(state: _State, lengths: Single, vectors: Single) -> Single:
    """Return the inverse of the step of every function, shape (K,)."""
    largest = lengths.max(axis=1, keepdims=True)
    floor = np.maximum(lengths, _FLOOR * largest)
    inverse = 1.0 / np.where(floor > 0, floor, 1.0)
    gram = vectors.transpose(0, 2, 1) @ vectors
    spectral = np.linalg.eigvalsh(gram)[:, -1]
    bend = _CURVATURE * spectral * state.curvature(np.broadcast_to(inverse, (inverse.shape[0], state.rows.shape[1])))
    return np.asarray(np.where(bend > 0, bend, 1.0), dtype=np.float32)


def _settle(state: _State, vectors: Single, slopes: Single) -> Policy:
    """Return multipliers for fixed policies, by more steps of V."""
    lengths = norms = head = np.zeros(0, dtype=np.float32)
    points = np.zeros((0, 0, 0), dtype=np.float32)
    for _ in range(_LAST):
        spread = state.spread(vectors, slopes)
        lengths = state.lengths(spread)
        points = _ratio(spread, lengths[:, :, None])
        found, positive, negative = state.answers(points)
        reply = positive - (slopes.transpose(0, 2, 1) @ negative)[:, 1:]
        vectors[:, 1:], norms = _units(reply)
        head = np.einsum("kn,kn->k", state.form_lin, found[:, :, 0])
        # The constant coordinate's own row: the linear part, and every term's constant times its unit vector.
        moved = negative.copy()
        moved[:, :, 0] -= np.take(state.offset, state.signs.negative) * state.down
        head = head - np.einsum("kb,kb->k", slopes[:, :, 0], moved[:, :, 0])
        last = np.take(state.offset, state.signs.positive) * state.up
        fixed = np.take(state.offset, state.signs.negative) * state.down
        last = last - np.einsum("kb,kba->ka", fixed, slopes[:, :, 1:])
        head = head + np.einsum("ka,ka->k", last, vectors[:, 1:, 0])
    rows = np.concatenate([np.maximum(head, 0.0)[:, None], norms], axis=1).astype(np.float64)
    return Policy(slopes, rows, lengths.astype(np.float64), points)
