"""Covariance of any elementwise features of normal pre-activations, by their Hermite series.

With t_i = m_i + s_i u, u standard normal, He_r the Hermite polynomials and r_ij the correlation of two pre-activations,

    c_r(i) = E f_i(m_i + s_i u) He_r(u) / sqrt(r!),      Cov(f_i, f_j) = sum over r >= 1 of r_ij^r c_r(i) c_r(j).

The mean is c_0. After K terms the tail tau_i = Var f_i - sum of c_r(i)^2 is left; what is missing of a covariance is at
most |r_ij|^(K+1) sqrt(tau_i tau_j). The tail is put on the diagonal, where it belongs in full: the sum stays positive
semidefinite. Coefficients come from the trapezoidal rule, which converges faster than any power of the step for smooth
functions, and like its square at kinks; it is halved until nothing moves.

Source: Mehler's formula; the dual activation of Daniely, Frostig and Singer, NIPS 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.arrays import Array, Indices

MOST_TERMS = 48
AIM = 1e-6
"""Terms are added until the tail is this share of the variances, averaged over neurons, or there are `MOST_TERMS`."""
TAIL = 1e-3
"""A larger share in the tail after `MOST_TERMS` terms means that the function has no use for a series."""
REACH = 9.5
STEP = 0.1
MOST_POINTS = 2**14
BUDGET = 2**21
SETTLED = 1e-6
"""Change of a coefficient, in units of the root mean square, below which the trapezoidal rule is done."""
OUTSIDE = 1e-9
"""Largest share of the mean square, a unit of length, that may stand at the ends of the grid."""
_ROUNDING = 1e-14
_FAINT = 1e-12
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class Expansion:
    """The Hermite series of n features under one normal law.

    Attributes:
        mean: E f, shape (n,).
        variance: Var f, shape (n,).
        terms: c_1, ..., c_K, shape (K, n).
    """

    mean: Array
    variance: Array
    terms: Array


@dataclass(frozen=True)
class SeriesCovariance:
    """Moments of features by K terms of their series.

    Attributes:
        mean: E f, shape (n,).
        tail: What the terms leave of the variances, shape (n,).
        terms: c_1, ..., c_K, shape (K, n).
        left: Largest share of a variance that is left after 0, 1, ..., K terms, shape (K + 1,).
    """

    mean: Array
    tail: Array
    terms: Array
    left: Array

    def tile(self, rows: slice, columns: slice, correlation: Array) -> Array:
        """Return covariances of two ranges of neurons, in the shape of their correlations. O(K) an entry.

        Where all correlations are small, later terms do not matter: they are left out when what they add is below 1e-12
        of the standard deviations.
        """
        largest = max(float(np.max(correlation, initial=0.0)), -float(np.min(correlation, initial=0.0)))
        missing = self.left * largest ** np.arange(1, self.left.size + 1)
        enough = np.flatnonzero(missing <= _NEGLIGIBLE)
        count = int(enough[0]) if enough.size else self.terms.shape[0]
        result, product = np.zeros_like(correlation), np.empty_like(correlation)
        for term in self.terms[:count][::-1]:
            np.multiply(term[rows, None], term[columns], out=product)
            result += product
            result *= correlation
        return result


def series(
    activation: Activation, means: Sequence[Array], deviations: Sequence[Array], weights: Sequence[float]
) -> tuple[SeriesCovariance, ...] | None:
    """Return the covariances of features under every component of a mixture, all with the same number of terms.

    Args:
        activation: The elementwise function of n neurons.
        means: Means of the pre-activations, shape (n,), one a component.
        deviations: Their standard deviations, shape (n,), one a component; 0 for neurons that do not vary.
        weights: Probabilities of the components.

    Returns:
        One covariance a component, or None: the tail is too large, or the function has no moments to speak of.
    """
    found = []
    for mean, deviation in zip(means, deviations, strict=True):
        part = expand(activation, mean, deviation)
        if part is None:
            return None
        found.append(part)
    variance = sum((w * part.variance for w, part in zip(weights, found, strict=True)), np.zeros(()))
    tails = [_tails(part) for part in found]
    live = variance > _FAINT * np.max(variance, initial=0.0)
    count = 0
    if live.any():
        rest = sum((w * tail for w, tail in zip(weights, tails, strict=True)), np.zeros(()))
        share = np.mean(rest[:, live] / variance[live], axis=1)
        enough = np.flatnonzero(share <= AIM)
        count = int(enough[0]) if enough.size else MOST_TERMS
        if share[count] > TAIL:
            return None
    return tuple(_cut(part, tail, count) for part, tail in zip(found, tails, strict=True))


def _tails(part: Expansion) -> Array:
    """Return what 0, 1, ... terms leave of the variances, shape (K + 1, n), never negative."""
    explained = np.concatenate([np.zeros((1, part.mean.size)), np.cumsum(part.terms**2, axis=0)])
    return np.asarray(np.maximum(part.variance - explained, 0.0))


def _cut(part: Expansion, tails: Array, count: int) -> SeriesCovariance:
    live = part.variance > _FAINT * np.max(part.variance, initial=0.0)
    left = np.zeros(count + 1)
    if live.any():
        left = np.max(tails[: count + 1, live] / part.variance[live], axis=1)
    return SeriesCovariance(part.mean, tails[count], part.terms[:count], left)


def expand(activation: Activation, mean: Array, deviation: Array) -> Expansion | None:
    """Return mean, variance and Hermite coefficients of features.

    Args:
        activation: The elementwise function of n neurons.
        mean: Means of the pre-activations, shape (n,).
        deviation: Their standard deviations, shape (n,).

    Returns:
        The expansion, or None: values are not finite, too much stands in the far tails of the normal law, or the
        function varies too fast for the grid. O(K n) for each of some 200 to `MOST_POINTS` points.
    """
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        return None
    sums, squares = np.zeros((MOST_TERMS + 1, mean.size)), np.zeros(mean.size)
    origin = activation(mean[None, :])[0]
    left, halvings = np.argsort(-deviation, kind="stable"), 0
    while left.size:
        again, start = [], 0
        while start < left.size:
            step = min(STEP, 0.25 / max(float(deviation[left[start]]), 1e-300)) / 2**halvings
            reach = int(min(np.ceil(REACH / step), MOST_POINTS))
            if 2 * reach + 1 > MOST_POINTS:
                return None
            grid = step * np.arange(-reach, reach + 1)
            chunk = left[start : start + max(1, BUDGET // grid.size)]
            part = _integrate(activation.take(chunk), mean[chunk], deviation[chunk], origin[chunk], grid)
            if part is None:
                return None
            sums[:, chunk], squares[chunk], settled = part
            again.append(chunk[~settled])
            start += chunk.size
        left, halvings = np.concatenate(again), halvings + 1
    return Expansion(origin + sums[0], np.maximum(squares - sums[0] ** 2, 0.0), sums[1:])


def _integrate(
    activation: Activation, mean: Array, deviation: Array, origin: Array, grid: Array
) -> tuple[Array, Array, Indices] | None:
    """Return coefficients (K + 1, n), mean squares (n,) of f - f(mean), and which of the n have settled.

    None where nothing will settle: values are not finite, or too much stands outside of the grid.
    """
    # Values are taken from the one at the mean: what does not vary gives 0 exactly, and what hardly does keeps digits.
    values = activation(mean + deviation * grid[:, None]) - origin
    if not np.isfinite(values).all():
        return None
    basis = _basis(grid)
    even, odd = basis[:, ::2] @ values[::2], basis[:, 1::2] @ values[1::2]
    largest = np.max(np.abs(values), axis=0)
    np.square(values, out=values)
    squares = basis[0] @ values
    if np.any(basis[0, 0] * np.maximum(values[0], values[-1]) > OUTSIDE * (grid[1] - grid[0]) * squares):
        return None
    # Two rules of twice the step: where they agree, their mean is far better still.
    change = np.max(np.abs(even - odd), axis=0)
    noise = _ROUNDING * (largest + np.abs(origin))
    settled = change <= SETTLED * np.sqrt(squares) + noise
    terms = even + odd
    if not settled.all() and _hopeless(terms, squares):
        return None
    return terms, squares, settled


def _hopeless(terms: Array, squares: Array) -> bool:
    """Return whether the tail is so large that more digits would not bring it below `TAIL`."""
    power = np.maximum(squares - terms[0] ** 2, 0.0)
    live = power > _FAINT * np.max(power, initial=0.0)
    rest = power - np.sum(terms[1:] ** 2, axis=0)
    return bool(live.any() and np.mean(rest[live] / power[live]) > 10.0 * TAIL)


def _basis(grid: Array) -> Array:
    """Return density times He_r / sqrt(r!) times the step, r = 0, ..., K, shape (K + 1, points)."""
    basis = np.empty((MOST_TERMS + 1, grid.size))
    basis[0] = np.exp(-0.5 * grid**2) * ((grid[1] - grid[0]) / np.sqrt(2.0 * np.pi))
    basis[1] = grid * basis[0]
    for r in range(1, MOST_TERMS):
        basis[r + 1] = (grid * basis[r] - np.sqrt(r) * basis[r - 1]) / np.sqrt(r + 1)
    return basis
