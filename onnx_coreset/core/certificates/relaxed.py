"""Signs and inputs relaxed to vectors: the terms of K functions, and one round of answers to one another.

For unit vectors V_a in r dimensions in place of the signs of the positive terms, e0 in place of 1, and slopes Z, the
best W in place of y follows from Y = B(Z)^T V, and the best V_a given W are along B(Z)_a (W, e0). B(Z) = B - Z N is
never formed: Y = P^T (c o V) with P the rows that all functions share, and c the weights, or minus the weights times
Z^T V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.forms import Form

__all__ = ["Relaxed", "Reply", "Signs", "Single", "ratio", "relaxed", "signs", "units"]

Single = NDArray[np.float32]


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
class Reply:
    """What a round ends with, for K functions.

    Attributes:
        lengths: Norm of Y, shape (K, 1), for the ball; of each of its rows, (K, q), for the box.
        points: W, shape (K, q, r).
        negative: Weighted negative terms at (W, e0), shape (K, b, r).
        vectors: New unit vectors of the positive terms, shape (K, a, r).
        norms: What each positive term comes to, shape (K, a).
        linear: The linear part at W along e0, shape (K,).
        value: The relaxed value, shape (K,): what the functions come to, constants left out.
    """

    lengths: Single
    points: Single
    negative: Single
    vectors: Single
    norms: Single
    linear: Single
    value: Single


@dataclass(frozen=True)
class Relaxed:
    """K functions in float32, with e0 the first of r dimensions.

    Attributes:
        lin: Coefficients of the rows, shape (K, n).
        offset: Shape (n,).
        rows: Shape (n, q).
        signs: The terms by sign.
        up: Weights of the positive ones, shape (K, a).
        down: Magnitudes of the weights of the negative ones, shape (K, b).
        ball: Whether the domain is the unit ball.
    """

    lin: Single
    offset: Single
    rows: Single
    signs: Signs
    up: Single
    down: Single
    ball: bool

    def _spread(self, vectors: Single, slopes: Single) -> Single:
        """Return Y = B^T V, shape (K, q, r), for unit vectors (K, 1 + a, r)."""
        count, _, rank = vectors.shape
        full = np.zeros((count, self.rows.shape[0], rank), dtype=np.float32)
        where = np.arange(count)[:, None]
        full[where, self.signs.positive] += self.up[:, :, None] * vectors[:, 1:]
        if self.down.shape[1]:
            full[where, self.signs.negative] -= self.down[:, :, None] * (slopes @ vectors)
        full[:, :, 0] += self.lin
        flat = full.transpose(1, 0, 2).reshape(self.rows.shape[0], -1)
        return np.asarray((self.rows.T @ flat).reshape(-1, count, rank).transpose(1, 0, 2))

    def _lengths(self, spread: Single) -> Single:
        """Return the norm of Y (K, 1) for the ball, or of each of its rows (K, q) for the box."""
        squares = np.einsum("kqr,kqr->kq", spread, spread)
        return np.asarray(np.sqrt(squares.sum(axis=1, keepdims=True) if self.ball else squares))

    def _answers(self, points: Single) -> tuple[Single, Single, Single]:
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

    def round(self, vectors: Single, slopes: Single) -> Reply:
        """Return the best W for vectors (K, 1 + a, r) and slopes (K, b, 1 + a), and the best vectors for that W."""
        spread = self._spread(vectors, slopes)
        lengths = self._lengths(spread)
        points = ratio(spread, lengths[:, :, None])
        found, positive, negative = self._answers(points)
        fresh, norms = units(positive - (slopes.transpose(0, 2, 1) @ negative)[:, 1:])
        linear = np.einsum("kn,kn->k", self.lin, found[:, :, 0])
        value = norms.sum(axis=1) + linear - np.einsum("kb,kb->k", slopes[:, :, 0], negative[:, :, 0])
        return Reply(lengths, points, negative, fresh, norms, linear, value)

    def curvature(self, inverse: Single) -> Single:
        """Return the largest eigenvalue of N diag(inverse) N^T, shape (K,), by a few power steps."""
        count = self.up.shape[0]
        vector = self.down[:, :, None].copy()
        value = np.ones(count, dtype=np.float32)
        where = np.arange(count)[:, None]
        for _ in range(12):
            norm = np.sqrt(np.einsum("kbr,kbr->k", vector, vector))
            vector = ratio(vector, norm[:, None, None])
            full = np.zeros((count, self.rows.shape[0]), dtype=np.float32)
            np.add.at(full, (where, self.signs.negative), self.down * vector[:, :, 0])
            moved = (full @ self.rows) * inverse
            back = np.take_along_axis(moved @ self.rows.T, self.signs.negative, axis=1)
            vector = np.asarray((back * self.down)[:, :, None])
            value = np.sqrt(np.einsum("kbr,kbr->k", vector, vector))
        return value


def ratio(values: Single, sizes: Single) -> Single:
    """Return values over sizes, and values where sizes are 0."""
    return np.asarray(values / np.where(sizes > 0, sizes, np.float32(1.0)), dtype=np.float32)


def units(vectors: Single) -> tuple[Single, Single]:
    """Return the vectors of length 1, or 0, and their lengths (K, a)."""
    norms = np.sqrt(np.einsum("kar,kar->ka", vectors, vectors))
    return ratio(vectors, norms[:, :, None]), norms


def relaxed(form: Form, rows: Array, ball: bool, which: Indices) -> Relaxed:
    """Return the functions `which` (K,) of a form over rows (n, q) of the unit ball or box."""
    sides = signs(form.weights[which])
    single = np.float32
    parts = (form.lin[which], form.offset, rows)
    lin, offset, short = (part.astype(single) for part in parts)
    return Relaxed(lin, offset, short, sides, sides.up.astype(single), sides.down.astype(single), ball)
