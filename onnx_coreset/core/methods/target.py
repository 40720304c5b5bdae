"""What a selection on moments works on: standardised features, and outgoing weights in units of the layer's spread.

Readouts that see the same features are stacked (those that may change their constant apart from those that may not), so
that most layers come down to one correlation matrix R (p, p) and one matrix A (k, p) with E |A (a - mean)|^2 = 1, of
which a selection loses as little as it can. A neuron with s columns is a block of s rows and columns of R.

With M = R + r I = L L^T in the order in which neurons come, and T = A L, the error of the ridge problem with the first
m neurons is the sum of what stands behind them,

    J(m) = sum over columns t of neurons later than the m-th of |T_:t|^2,

so that one factorisation gives the errors of every width, and no difference of two large numbers is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.gram import Moments, spreads
from onnx_coreset.core.layer import Coreset, HiddenLayer
from onnx_coreset.core.methods.base import Context
from onnx_coreset.core.refit import RIDGE, refit, seen, standardise


@dataclass(frozen=True)
class Target:
    """Features of one kind and everything that reads them.

    Attributes:
        correlation: Correlation matrix R of the features, shape (n s, n s).
        weights: Outgoing weights in units of standard deviation and spread, shape (k, n s).
        columns: Number of columns s of a neuron.
        cross: A R, shape (k, n s), where it is known already.
    """

    correlation: Array
    weights: Array
    columns: int = 1
    cross: Array | None = None

    @property
    def width(self) -> int:
        """Number of neurons n."""
        return int(self.correlation.shape[0]) // self.columns


def targets(layer: HiddenLayer, moments: tuple[Moments, ...], alike: bool = True) -> tuple[Target, ...]:
    """Return what a selection has to approximate, one target for each kind of features.

    Args:
        layer: The hidden layer, n neurons.
        moments: Moments of each readout's features.
        alike: Whether every readout counts the same; otherwise every output does, and all of them have power 1.

    Returns:
        The targets. O(p^2 k) where a readout has more outputs than its p = n s features have columns.
    """
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, readout in enumerate(layer.readouts):
        groups.setdefault((id(readout.features), readout.constant_allowed), []).append(index)
    found = []
    for (_, constant_allowed), members in groups.items():
        correlation, deviation = standardise(seen(moments[members[0]], constant_allowed))
        columns = layer.readouts[members[0]].features.columns
        if alike and len(layer.readouts) == 1:
            # No other readout to be weighed against: a spread would change nothing, and costs a product.
            weights = _reduced(layer.readouts[0].outgoing.reshape(-1, deviation.size) * deviation)
            return (Target(correlation, weights / (np.linalg.norm(weights) or 1.0), columns),)
        parts = []
        for i in members:
            count = layer.readouts[i].outputs if alike else layer.outputs
            weights = layer.readouts[i].outgoing.reshape(-1, deviation.size) * deviation
            parts.append(
                _in_units(weights, correlation, None if constant_allowed else _spread(layer, moments, i), count)
            )
        found.append(_stacked(correlation, parts, columns))
    return tuple(found)


def _spread(layer: HiddenLayer, moments: tuple[Moments, ...], index: int) -> float:
    return spreads(HiddenLayer(layer.width, (layer.readouts[index],)), (moments[index],))[0]


def _in_units(weights: Array, correlation: Array, spread: float | None, count: int) -> tuple[Array, Array]:
    """Return A and A R in units of the spread of its outputs, which is read off the product where it is not given."""
    outputs = max(weights.shape[0], 1)
    weights = _reduced(weights)
    cross = weights @ correlation
    if spread is None:
        power = float(np.einsum("kp,kp->", weights, cross)) / outputs
        spread = float(np.sqrt(power)) if power > 0 else 1.0
    scale = spread * np.sqrt(max(count, 1))
    return weights / scale, cross / scale


def _reduced(weights: Array) -> Array:
    """Return weights with the same W^T W, all that a norm of W depends on, and at most as many rows as columns."""
    if weights.shape[0] <= weights.shape[1]:
        return weights
    return np.asarray(np.linalg.qr(weights, mode="r"), dtype=np.float64)


def _stacked(correlation: Array, parts: list[tuple[Array, Array]], columns: int) -> Target:
    weights, cross = parts[0] if len(parts) == 1 else (np.concatenate([p[i] for p in parts]) for i in range(2))
    reduced = _reduced(weights)
    return Target(correlation, reduced, columns, cross if reduced is weights else None)


def error_path(layer: HiddenLayer, moments: tuple[Moments, ...], order: Indices) -> Array:
    """Return the error of the refit for every prefix of an order.

    Args:
        layer: The hidden layer, n neurons.
        moments: Moments of each readout's features.
        order: All neurons, best first, shape (n,).

    Returns:
        Shape (n,): entry m - 1 is the rms error over all outputs, each in units of its readout's spread, with the first
        m neurons kept and refitted. It never increases and ends with 0. The ridge's own term r |U - A|^2 is part of
        its square, so that it is an upper bound. O(p^3 / 3 + k p^2), p = n s.

    Raises:
        FloatingPointError: A moment is not finite.
    """
    total = np.zeros(layer.width)
    for part in targets(layer, moments, alike=False):
        columns = (np.asarray(order)[:, None] * part.columns + np.arange(part.columns)).reshape(-1)
        factor = _factor(part.correlation[np.ix_(columns, columns)], RIDGE)
        explained = part.weights[:, columns] @ factor
        total += np.einsum("kp,kp->p", explained, explained).reshape(-1, part.columns).sum(axis=1)
    behind = np.cumsum(total[::-1])[::-1]
    return np.asarray(np.sqrt(np.append(behind[1:], 0.0)))


def _factor(matrix: Array, ridge: float) -> Array:
    """Return the lower Cholesky factor of matrix + r I with the smallest r of ridge, 10 ridge, ... that has one."""
    while True:
        shifted = matrix.copy()
        shifted[np.diag_indices_from(shifted)] += ridge
        try:
            return np.asarray(cholesky(shifted, lower=True, overwrite_a=True, check_finite=False))
        except np.linalg.LinAlgError:
            ridge *= 10.0


class OnMoments(ABC):
    """A method that ranks neurons by the moments of their features alone, once for all widths."""

    name: str
    requires: frozenset[str] = frozenset({"moments"})

    @abstractmethod
    def rank(self, parts: tuple[Target, ...], count: int | None = None) -> Indices:
        """Return the neurons, given what has to be approximated.

        Args:
            parts: One target for each kind of features.
            count: How many are wanted: the first `count` are they, in any order. None: all n, best first.
        """

    def order(self, layer: HiddenLayer, context: Context, rng: np.random.Generator) -> Indices:
        """Return all neurons, best first; every prefix is the choice for its width.

        Args:
            layer: The hidden layer, n neurons.
            context: Moments of the readouts' features.
            rng: Not used: the choice is deterministic.

        Returns:
            Indices, shape (n,).
        """
        assert context.moments is not None
        return self.rank(targets(layer, context.moments))

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return the coreset of the first `width` neurons of the order, refitted."""
        assert context.moments is not None
        kept = np.sort(self.rank(targets(layer, context.moments), width)[:width])
        return refit(layer, kept, context.moments, method=self.name)
