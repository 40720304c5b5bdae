"""Pivoted Cholesky factorisation, in blocks, with pivots that know what has to be approximated.

Forward selection and backward elimination are the same computation. With a matrix M, rows P and pivots J so far,

    S = M - M_:J M_JJ^{-1} M_J:,      Q = P - P_:J M_JJ^{-1} M_J:,      score of j = |Q_:j|^2 / S_jj.

Forward, M = R + r I and P = A M: the score is what the error of the ridge problem falls by when neuron j is added.
Backward, M = (R + r I)^{-1} and P = A: it is what the error rises by when neuron j goes. One wants the largest score
next, the other the smallest. For neurons of s columns S_jj is a block and the score is |Q_:j S_jj^{-1/2}|^2.

Scores of all neurons cost little, and so does the choice of a block of b pivots: within a pool of the 2 b best ones it
is exact, on matrices of 2 b rows. Rows of the factor are then added b at a time by matrix products; S itself is never
formed. Columns of pivots are dropped when there are enough of them to be worth a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dgemm

from onnx_coreset.core.arrays import Array, Indices

_WORTH_A_COPY = 0.75


class Factor:
    """A partial factorisation M = L L^T + S, over the neurons that are no pivots yet.

    L has a column for each column of a pivot; a neuron is a block of s rows.
    """

    def __init__(self, matrix: Array, rows: Array, columns: int, floor: float, shift: float = 0.0) -> None:
        """Start without pivots.

        Args:
            matrix: M but for the shift, shape (n s, n s), symmetric; it is only read.
            rows: P, shape (k, n s), C-contiguous; it is overwritten.
            columns: Number of columns s of a neuron.
            floor: A bound from below on the diagonal of every S; rounding does not pass it.
            shift: What is added to the diagonal of the matrix; the sum is positive definite.
        """
        self._matrix, self._missing, self._columns = matrix, rows, columns
        self._floor, self._shift = floor, shift
        self._left = np.arange(matrix.shape[0])
        self._factor = np.empty(matrix.shape)
        self._count = 0
        own = np.arange(matrix.shape[0]).reshape(-1, columns)
        self._pivots = matrix[own[:, :, None], own[:, None, :]] + shift * np.eye(columns)

    @property
    def missing(self) -> Array:
        """Q: what the pivots leave of P, shape (k, n s), over the neurons that are left."""
        return self._missing

    def scores(self) -> Array:
        """Return the score of every neuron that is left, shape (n,). O(k n s)."""
        if self._columns == 1:
            return np.asarray(np.einsum("kp,kp->p", self._missing, self._missing) / self._pivots[:, 0, 0])
        blocks = self._missing.reshape(self._missing.shape[0], -1, self._columns).transpose(1, 0, 2)
        return _scores(self._pivots, blocks.transpose(0, 2, 1) @ blocks)

    def pool(self, neurons: Indices) -> tuple[Array, Array, float]:
        """Return S and Q^T Q of some neurons, shape (c s, c s) each, and the floor. O((c s)^2 (t + k)) after t rows."""
        at = self._expand(neurons)
        done, missing, ids = self._factor[at, : self._count], self._missing[:, at], self._left[at]
        covariance: Array = self._matrix[np.ix_(ids, ids)] - done @ done.T
        covariance[np.diag_indices_from(covariance)] += self._shift
        _raise(covariance, self._floor)
        return covariance, missing.T @ missing, self._floor

    def take(self, neurons: Indices) -> None:
        """Make some neurons pivots. O(b s n s (t + k)) after t rows."""
        at = self._expand(neurons)
        rest: Array = self._matrix[np.ix_(self._left[at], self._left)]
        rest[np.arange(at.size), at] += self._shift
        done = self._factor[:, : self._count]
        rest -= done[at] @ done.T
        root = _root(rest[:, at], self._floor)
        rows = np.ascontiguousarray(solve_triangular(root, rest, lower=True, check_finite=False))
        part = solve_triangular(root, self._missing[:, at].T, lower=True, check_finite=False)
        # P -= part^T rows, in place: BLAS counts columns first.
        dgemm(-1.0, rows.T, part, 1.0, self._missing.T, overwrite_c=1)
        blocks = rows.reshape(at.size, -1, self._columns)
        self._pivots -= np.einsum("bns,bnt->nst", blocks, blocks)
        own = np.arange(self._columns)
        self._pivots[:, own, own] = np.maximum(self._pivots[:, own, own], self._floor)
        self._factor[:, self._count : self._count + at.size] = rows.T
        self._count += at.size

    def keep(self, neurons: Indices) -> None:
        """Forget all neurons but some."""
        at = self._expand(neurons)
        factor: Array = np.empty((at.size, self._matrix.shape[0]))
        factor[:, : self._count] = self._factor[at, : self._count]
        self._factor, self._left, self._pivots = factor, self._left[at], self._pivots[neurons]
        self._missing = np.take(self._missing, at, axis=1)

    def _expand(self, neurons: Indices) -> Indices:
        return np.asarray((neurons[:, None] * self._columns + np.arange(self._columns)).reshape(-1))


def pivots(
    parts: Sequence[Factor], width: int, columns: int, count: int, block: Callable[[int], int], largest: bool
) -> Indices:
    """Return the first pivots, in order.

    Args:
        parts: Factorisations over the same neurons, none with pivots yet; scores add up.
        width: Number of neurons n.
        columns: Number of columns s of a neuron.
        count: Number of pivots wanted. The order does not depend on it.
        block: How many pivots are chosen at once, given how many neurons are left.
        largest: Whether the largest score is taken next, or the smallest.

    Returns:
        Indices, shape (count,). O(s^3 n^2 m + k n m s^2) for m pivots.
    """
    left, alive = np.arange(width), np.ones(width, dtype=bool)
    order: list[Indices] = []
    found = 0
    while found < count:
        size = min(max(1, block(int(alive.sum()))), int(alive.sum()))
        scores = np.sum([part.scores() for part in parts], axis=0)
        ranks = np.where(alive, -scores if largest else scores, np.inf)
        best = np.argsort(ranks, kind="stable")[: min(2 * size, int(alive.sum()))]
        chosen = best[:1] if size == 1 else best[_within([p.pool(best) for p in parts], columns, size, largest)]
        order.append(left[chosen])
        found += chosen.size
        alive[chosen] = False
        stay = np.flatnonzero(alive)
        if found >= count:
            break
        for part in parts:
            part.take(chosen)
            if stay.size <= _WORTH_A_COPY * alive.size:
                part.keep(stay)
        if stay.size <= _WORTH_A_COPY * alive.size:
            left, alive = left[stay], np.ones(stay.size, dtype=bool)
    return np.concatenate([np.empty(0, dtype=np.intp), *order])[:count]


def _scores(blocks: Array, squares: Array) -> Array:
    """Return tr(S_jj^{-1} Q_jj) of blocks (c, s, s)."""
    return np.asarray(np.trace(np.linalg.solve(blocks, squares), axis1=1, axis2=2))


def _within(pools: list[tuple[Array, Array, float]], columns: int, count: int, largest: bool) -> Indices:
    """Return the best `count` neurons of a pool, one after the other, every score exact.

    Args:
        pools: S and Q^T Q of the pool and the floor of S, one a part; overwritten.
        columns: Number of columns of a neuron.
        count: How many are wanted.
        largest: Whether the largest score is the best.
    """
    size = pools[0][0].shape[0] // columns
    own = np.arange(size * columns).reshape(size, columns)
    cells = own[:, :, None], own[:, None, :]
    alive, chosen = np.ones(size, dtype=bool), []
    for _ in range(count):
        if columns == 1:
            scores = sum(np.diag(q) / np.diag(s) for s, q, _ in pools)
        else:
            scores = sum(_scores(s[cells], q[cells]) for s, q, _ in pools)
        ranks = np.where(alive, -scores if largest else scores, np.inf)
        j = int(np.argmin(ranks))
        alive[j] = False
        chosen.append(j)
        for covariance, squares, floor in pools:
            _eliminate(covariance, squares, own[j], floor)
    return np.array(chosen, dtype=np.intp)


def _raise(covariance: Array, floor: float) -> None:
    """Raise the diagonal to the floor where rounding has taken it below."""
    own = np.diag_indices_from(covariance)
    covariance[own] = np.maximum(covariance[own], floor)


def _eliminate(covariance: Array, squares: Array, at: Indices, floor: float) -> None:
    """Make one neuron of a pool, its columns at `at`, a pivot."""
    if at.size == 1:
        half = 1.0 / np.sqrt(covariance[at, at])[:, None]
    else:
        values, vectors = np.linalg.eigh(covariance[np.ix_(at, at)])
        half = vectors / np.sqrt(np.maximum(values, floor))
    row = covariance[:, at] @ half
    cross = squares[:, at] @ half - row @ (half.T @ squares[np.ix_(at, at)] @ half / 2.0)
    both = cross @ row.T
    squares -= both
    squares -= both.T
    covariance -= row @ row.T
    _raise(covariance, floor)


def _root(matrix: Array, floor: float) -> Array:
    """Return the lower Cholesky factor, of the matrix plus as little of the identity as rounding demands."""
    shift = 0.0
    while True:
        try:
            return np.asarray(np.linalg.cholesky(matrix + shift * np.eye(matrix.shape[0])), dtype=np.float64)
        except np.linalg.LinAlgError:
            shift = max(10.0 * shift, 1e-3 * floor)
