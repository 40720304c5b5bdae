"""Linear functions of both networks' values, substituted backwards until they are linear in the input.

A row p . h_l + q . g_l + c, an upper bound of something, stays one when every activation is replaced by a line above
it where its coefficient is positive, and below where it is negative. Where the coefficients p of a neuron and q of its
twin have other signs, what they have in common is a multiple of the difference of both values,

    p f(t) + q f(s) = (p + c) f(t) + (q - c) f(s) + c (f(s) - f(t)),     c = q if |q| <= |p|, else -p,

and a line over the difference in terms of s - t keeps what cancels between the networks. Then t = W h + b and s = U g
+ c one layer further down, and so on.

Floats: a product of a row with W in float64 differs from the exact one by gamma |p| |W|, coefficient by coefficient,
which counts as much as h is large; every such term is added to the bound. What a row, as floats, says is thus true for
real numbers at every stage.

Source: Singh et al., POPL 2019; Zhang et al., NeurIPS 2018; for differences Paulsen et al., ICSE 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.depth.lines import Lines
from onnx_coreset.core.certificates.depth.networks import Pair
from onnx_coreset.core.certificates.depth.regions import Region
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma

__all__ = ["Passed", "Relaxed", "Rows", "Upper", "magnitude", "substitute"]


@dataclass(frozen=True)
class Relaxed:
    """The neurons of one hidden layer of both networks, over B parts of a region, replaced by lines.

    Attributes:
        before: Lines of the original's n neurons, shape (B, n).
        after: Lines of the shrunk network's m neurons, shape (B, m).
        gap: Lines of f(s) - f(t) in s - t for the q twins, shape (B, q).
        joint: Whether twins are replaced together, shape (B, q).
        far: Largest |h| of the original's neurons, and of the shrunk network's, shapes (B, n) and (B, m).
        size: Largest sum of the magnitudes of all terms that a neuron of either is written as, same shapes.
    """

    before: Lines
    after: Lines
    gap: Lines
    joint: Array
    far: tuple[Array, Array]
    size: tuple[Array, Array]


@dataclass(frozen=True)
class Rows:
    """Functions p . h + q . g + constant, each at least something on its part of the region if slack is added.

    Attributes:
        before: Coefficients p of the original's values, shape (R, n).
        after: Coefficients q of the shrunk network's values, shape (R, m).
        constant: Shape (R,).
        slack: Shape (R,).
        owner: The part of the region that each row is for, shape (R,).
    """

    before: Array
    after: Array
    constant: Array
    slack: Array
    owner: Indices


@dataclass(frozen=True)
class Passed:
    """Coefficients that met lines on their way through one hidden layer.

    Attributes:
        before: Of the original's values, shape (R, n).
        after: Of the shrunk network's, shape (R, m).
        gap: Of the differences of twins, shape (R, q).
    """

    before: Array
    after: Array
    gap: Array


@dataclass(frozen=True)
class Upper:
    """Upper bounds of R functions.

    Attributes:
        value: Shape (R,); infinite where something overflowed.
        rows: The linear functions of the input that they are, shape (R, d).
        passed: What was replaced by lines, for each hidden layer.
    """

    value: Array
    rows: Array
    passed: tuple[Passed, ...]


def magnitude(weights: Array, bias: Array, far: Array) -> Array:
    """Return at least |W| far + |b|, for weights (n, d), bias (n,) and far (B, d), shape (B, n)."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = far @ np.abs(weights).T + np.abs(bias)
        return np.asarray(total * (1.0 + gamma(weights.shape[1] + 8)) + weights.shape[1] * TINY)


def _dot(coefficients: Array, values: Array) -> Array:
    """Return row-wise sums of products, zero coefficients meeting whatever they meet: (R, n), (R, n) -> (R,)."""
    return np.asarray(np.where(coefficients == 0, 0.0, coefficients * values).sum(axis=1))


def _lined(coefficients: Array, found: Lines, owner: Indices) -> tuple[Array, Array, Array]:
    """Return the coefficients by pre-activation (R, n), the constants (R,), and the magnitude of those."""
    up = coefficients > 0
    slope = np.where(up, found.up_slope[owner], found.down_slope[owner])
    offset = np.where(up, found.up_offset[owner], found.down_offset[owner])
    terms = np.where(coefficients == 0, 0.0, coefficients * offset)
    return coefficients * slope, terms.sum(axis=1), np.abs(terms).sum(axis=1)


def _through(rows: Rows, relaxed: Relaxed, twins: tuple[Indices, Indices]) -> tuple[Rows, Passed]:
    """Return rows in terms of pre-activations, and the coefficients that were replaced by lines."""
    own, of = twins
    p, q, owner = rows.before.copy(), rows.after.copy(), rows.owner
    slack = gamma(2 * (p.shape[1] + q.shape[1]) + 32) * (
        _dot(np.abs(p), relaxed.size[0][owner]) + _dot(np.abs(q), relaxed.size[1][owner])
    )
    constant = rows.constant
    size = np.abs(constant)
    moved, slope = np.zeros((owner.size, 0)), None
    if own.size:
        left, right = p[:, of], q[:, own]
        meet = ((left > 0) & (right < 0)) | ((left < 0) & (right > 0))
        common = np.where(np.abs(right) <= np.abs(left), right, -left)
        moved = np.where(meet & (relaxed.joint[owner] > 0), common, 0.0)
        p[:, of] = left + moved
        q[:, own] = right - moved
        slope, fixed, terms = _lined(moved, relaxed.gap, owner)
        constant, size = constant + fixed, size + terms
    passed = Passed(p, q, moved)
    p, fixed, terms = _lined(p, relaxed.before, owner)
    constant, size = constant + fixed, size + terms
    q, fixed, terms = _lined(q, relaxed.after, owner)
    constant, size = constant + fixed, size + terms
    if slope is not None:
        p[:, of] -= slope
        q[:, own] += slope
    return Rows(p, q, constant, rows.slack + slack + gamma(8) * size, owner), passed


def substitute(pair: Pair, region: Region, relaxed: list[Relaxed], far: Array, rows: Rows) -> Upper:
    """Return upper bounds of functions of a hidden layer's values, or of the inputs.

    Args:
        pair: The networks.
        region: Where the inputs are.
        relaxed: The hidden layers up to the one whose values the rows speak of; none where they speak of inputs.
        far: Largest |x| over each part of the region, shape (B, d).
        rows: The functions.

    Returns:
        The bounds. O(R sum of n_l n_{l-1}) over the layers.
    """
    passed: list[Passed] = []
    with np.errstate(all="ignore"):
        for level in range(len(relaxed) - 1, -1, -1):
            rows, one = _through(rows, relaxed[level], pair.twins[level])
            passed.insert(0, one)
            (W, b), (U, c) = pair.before.affine[level], pair.after.affine[level]
            below = (far, far) if level == 0 else relaxed[level - 1].far
            loose = _dot(np.abs(rows.before), magnitude(W, b, below[0])[rows.owner])
            loose = loose + _dot(np.abs(rows.after), magnitude(U, c, below[1])[rows.owner])
            fixed = rows.before @ b + rows.after @ c
            constant = rows.constant + fixed
            slack = rows.slack + gamma(W.shape[0] + U.shape[0] + 16) * loose + 4.0 * UNIT * np.abs(rows.constant)
            rows = Rows(rows.before @ W, rows.after @ U, constant, slack, rows.owner)
        total = rows.before + rows.after
        loose = _dot(np.abs(rows.before) + np.abs(rows.after), far[rows.owner])
        most = region.largest(total, rows.owner)
        slack = (rows.slack + 4.0 * UNIT * loose) * (1.0 + 1e-9) + TINY
        value = rows.constant + most + slack
        value = value + 8.0 * UNIT * (np.abs(rows.constant) + np.abs(most) + slack)
    return Upper(np.where(np.isnan(value), np.inf, value), total, tuple(passed))
