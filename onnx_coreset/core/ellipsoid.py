"""The Löwner ellipsoid of points and their mirror images, and a few points that stand for all of them.

For points y_j in d dimensions that span them, and weights u >= 0 of sum 1, let M = sum u_j y_j y_j^T. For every x

    x^T M x = sum u_j (y_j.x)^2 <= max_j (y_j.x)^2,

so that the ellipsoid y^T M^-1 y <= 1 lies in the convex hull of the points +-y_j. With leverages l_j = y_j^T M^-1 y_j
the ellipsoid y^T M^-1 y <= max l holds every point. Since sum u_j l_j = d, max l >= d; it is d exactly where det M is
largest (Kiefer and Wolfowitz), and then this is the smallest ellipsoid around the points. Where max l <= d (1 + t), its
volume is at most (1 + t)^(d/2) times the smallest: det M is never above the largest.

The d axes of the inner ellipsoid end in points b_i with M = sum b_i b_i^T. Each is a convex combination of at most d
of the points +-y_j (Carathéodory); let C be the points used. For every x

    max_j |y_j.x| <= sqrt(max l) sqrt(sum_i (b_i.x)^2) <= sqrt(d max l) max_i |b_i.x| <= d sqrt(1 + t) max_C |y_q.x|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr

from onnx_coreset.core.arrays import Array, Indices

__all__ = ["Ellipsoid", "loewner", "representatives"]

_REFRESH = 64
_MOST_STEPS = 100_000
_PART = 1e-12
_RESIDUAL = 1e-9


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid around points and their mirror images: all y of their span with y^T M^-1 y <= max leverage.

    Attributes:
        weights: Weights u of the points in M, shape (n,), not negative, of sum 1; all 0 where every point is 0.
        leverages: y_j^T M^-1 y_j, shape (n,).
        rank: Dimension d of the points' span.
    """

    weights: Array
    leverages: Array
    rank: int


def loewner(points: Array, tolerance: float = 0.01) -> Ellipsoid:
    """Return an ellipsoid around the points +-y_j of nearly the least volume.

    A step moves weight to the point of largest leverage, or takes it away from the point of positive weight whose
    leverage is least, whichever is further from d; how far is in closed form. It starts from d points that a pivoted QR
    picks, so that few points ever get weight.

    Args:
        points: Points y_j, shape (n, p), of any rank; n at least 1.
        tolerance: Where to stop: leverages are at most d (1 + tolerance), and at least d (1 - tolerance) on points of
            positive weight.

    Returns:
        The ellipsoid. O(n p^2) once (n p min(n, p)), then O(n d) a step; the number of steps is of order d / tolerance
        at worst, and the error falls geometrically in the end.

    Source: Khachiyan 1996; the first points after Kumar and Yildirim 2005, the steps away after Todd and Yildirim 2007.
    """
    basis = _basis(points)
    count, rank = basis.shape
    weights = np.zeros(count)
    if rank == 0:
        return Ellipsoid(weights, np.zeros(count), 0)
    if rank == 1:
        weights[np.argmax(np.abs(basis[:, 0]))] = 1.0
        return Ellipsoid(weights, basis[:, 0] ** 2 / float(np.max(basis[:, 0] ** 2)), 1)
    weights[qr(basis.T, mode="r", pivoting=True)[1][:rank]] = 1.0 / rank
    return _ascended(basis, weights, tolerance)


def _ascended(basis: Array, weights: Array, tolerance: float) -> Ellipsoid:
    """Return the ellipsoid that the steps lead to from `weights` (n,), for points `basis` (n, d) of rank d >= 2."""
    rank = basis.shape[1]
    inverse, leverages = np.zeros((rank, rank)), np.zeros(weights.size)
    for step in range(_MOST_STEPS):
        if step % _REFRESH == 0:
            # From scratch now and then: updates of an inverse gather rounding.
            inverse = np.asarray(np.linalg.inv((basis.T * weights) @ basis), dtype=np.float64)
            leverages = np.einsum("jd,jd->j", basis @ inverse, basis)
        top = int(np.argmax(leverages))
        low = int(np.argmin(np.where(weights > 0, leverages, np.inf)))
        above, below = leverages[top] / rank - 1.0, 1.0 - leverages[low] / rank
        if max(above, below) <= tolerance:
            break
        j = top if above >= below else low
        leverage, weight = float(leverages[j]), float(weights[j])
        # log det of (M + m y y^T) / (1 + m) is largest at this m; a weight cannot fall below 0.
        move = max((leverage - rank) / (leverage * (rank - 1)), -weight)
        column = inverse @ basis[j]
        change = move / (1.0 + move * leverage)
        inverse = (1.0 + move) * (inverse - change * np.outer(column, column))
        leverages = (1.0 + move) * (leverages - change * (basis @ column) ** 2)
        weights[j] = weight + move
        weights /= 1.0 + move
    return Ellipsoid(weights / weights.sum(), leverages, rank)


def representatives(points: Array, tolerance: float = 0.01) -> Indices:
    """Return points that stand for all of them, up to a factor, in every direction.

    Args:
        points: Points y_j, shape (n, p), n at least 1.
        tolerance: Of the ellipsoid.

    Returns:
        Increasing indices C, at most d^2 of them for points of rank d, and at most as many as have weight in the
        ellipsoid: max_j |y_j.x| <= d sqrt(1 + tolerance) max_C |y_q.x| for every x (p,). None where every point is 0.
        The cost is that of `loewner` and O(d^2 s^2) for s points of positive weight.

    Source: Carathéodory's theorem, by the steps of its proof.
    """
    found = loewner(points, tolerance)
    used = np.flatnonzero(found.weights)
    if used.size <= found.rank:
        return np.asarray(used)
    root = np.sqrt(found.weights[used])
    left = np.linalg.svd(root[:, None] * points[used], full_matrices=False)[0][:, : found.rank]
    # With the ends b_i of the axes for a basis, the points are the rows of left / root, and the ends unit vectors. That
    # they lie in the hull is seen at once: b_i = sum_j root_j left_ji y_j, and sum_j root_j |left_ji| <= 1.
    return np.asarray(used[_needed((left / root[:, None]).T, (root[:, None] * left).T)])


def _needed(terms: Array, shares: Array) -> Array:
    """Return which points are needed when each of several combinations of them is reduced to at most d points.

    Points are taken up one by one against a basis of d of them. A combination of d + 1 points is moved along the null
    vector, the way on which the sum of absolute values does not rise, until one of them has no share.

    Args:
        terms: Points of rank d in columns, shape (d, s).
        shares: Combinations: shares @ terms.T is to stay as it is, shape (e, s).

    Returns:
        Mask, shape (s,); all where rounding spoilt it. O(e d s^2).
    """
    first = qr(terms, mode="r", pivoting=True)[1][: terms.shape[0]]
    ends = np.arange(shares.shape[0])
    table = np.repeat(np.linalg.solve(terms[:, first], terms)[None], ends.size, axis=0)
    basis = np.tile(first, (ends.size, 1))
    held = shares[:, first]
    for q in np.setdiff1d(np.arange(terms.shape[1]), first):
        column, share = table[:, :, q], shares[:, q]
        slope = np.einsum("er,er->e", np.sign(held), column) - np.sign(share)
        way = np.where(slope == 0, np.sign(share), -np.sign(slope))
        push = way[:, None] * column
        closing = (np.abs(push) > _PART) & (push * held <= 0)
        room = np.divide(np.abs(held), np.abs(push), out=np.full(held.shape, np.inf), where=closing)
        row = np.argmin(room, axis=1)
        own = np.where(way * share > 0, np.abs(share), np.inf)
        moved = np.minimum(room[ends, row], own)
        moved = np.where((share != 0) & np.isfinite(moved), moved, 0.0)
        held = held + moved[:, None] * push
        # Where another point than q gave up its share, q takes its place in the basis.
        out = np.flatnonzero((share != 0) & (room[ends, row] < own))
        held[out, row[out]] = (share - moved * way)[out]
        basis[out, row[out]] = q
        pivot = table[out, row[out]] / column[out, row[out], None]
        table[out] -= column[out][:, :, None] * pivot[:, None]
        table[out, row[out]] = pivot
    found = np.einsum("der,er->ed", terms[:, basis], held)
    if not np.max(np.abs(found - shares @ terms.T), initial=0.0) <= _RESIDUAL:
        return np.ones(terms.shape[1], dtype=bool)
    needed = np.zeros(terms.shape[1], dtype=bool)
    needed[basis[np.abs(held) > _PART]] = True
    return needed


def _basis(points: Array) -> Array:
    """Return coordinates (n, d) of the points in a basis of their span in which the columns are orthonormal."""
    largest = float(np.max(np.abs(points), initial=0.0))
    if largest == 0.0:
        return np.zeros((points.shape[0], 0))
    # In units of the largest number: squares neither overflow nor vanish.
    left, values, _ = np.linalg.svd(points / largest, full_matrices=False)
    rank = int(np.count_nonzero(values > values[0] * max(points.shape) * np.finfo(np.float64).eps))
    return np.asarray(left[:, :rank])
