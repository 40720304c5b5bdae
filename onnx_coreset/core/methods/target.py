"""What a selection on moments works on: standardised features, and outgoing weights in units of the layer's spread.

Readouts that see the same features are stacked (those that may change their constant apart from those that may not), so
that most layers come down to one correlation matrix R (p, p) and one matrix A (k, p) with E |A (a - mean)|^2 = 1, of
which a selection loses as little as it can.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.gram import Moments, spreads
from onnx_coreset.core.layer import Coreset, HiddenLayer
from onnx_coreset.core.methods.base import Context
from onnx_coreset.core.refit import refit, seen, standardise


@dataclass(frozen=True)
class Target:
    """Features of one kind and everything that reads them.

    Attributes:
        correlation: Correlation matrix R of the features, shape (n, n).
        weights: Outgoing weights in units of standard deviation and spread, shape (k, n).
    """

    correlation: Array
    weights: Array


def targets(layer: HiddenLayer, moments: tuple[Moments, ...]) -> tuple[Target, ...]:
    """Return what a selection has to approximate, one target for each kind of features.

    Args:
        layer: The hidden layer; features with one column.
        moments: Moments of each readout's features.
    """
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, readout in enumerate(layer.readouts):
        groups.setdefault((id(readout.features), readout.constant_allowed), []).append(index)
    scale = spreads(layer, moments)
    found = []
    for (_, constant_allowed), members in groups.items():
        correlation, deviation = standardise(seen(moments[members[0]], constant_allowed))
        # The norm of W only depends on W^T W: a square root of that is as good, and smaller where k > n.
        rows = [layer.readouts[i].outgoing[:, :, 0] / (scale[i] * np.sqrt(layer.readouts[i].outputs)) for i in members]
        weights = np.concatenate(rows) * deviation
        if weights.shape[0] > weights.shape[1]:
            weights = np.asarray(np.linalg.qr(weights, mode="r"), dtype=np.float64)
        found.append(Target(correlation, weights))
    return tuple(found)


class OnMoments(ABC):
    """A method that ranks neurons by the moments of their features alone, once for all widths."""

    name: str
    requires: frozenset[str] = frozenset({"moments"})

    @abstractmethod
    def rank(self, parts: tuple[Target, ...]) -> Indices:
        """Return all n neurons, best first, given what has to be approximated."""

    def order(self, layer: HiddenLayer, context: Context, rng: np.random.Generator) -> Indices:
        """Return all neurons, best first; every prefix is the choice for its width.

        Args:
            layer: The hidden layer, n neurons with one column.
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
        kept = np.sort(self.order(layer, context, rng)[:width])
        return refit(layer, kept, context.moments, method=self.name)
