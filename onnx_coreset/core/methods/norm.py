"""The neurons of largest incoming norm: the baseline that looks at one side only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Indices
from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict
from onnx_coreset.core.methods.base import Context, check_width, dense, unit_maxima

__all__ = ["Norm"]


@dataclass(frozen=True)
class Norm:
    """The m neurons of largest norm of (incoming weights, bias); outgoing weights unchanged.

    Source: Mussay et al., ICLR 2020, baseline "percentile". The published code leaves the bias out of the norm; here it
    is in. With several readouts over different features: the largest norm, each in units of the features' largest.
    """

    name: str = "norm"
    requires: frozenset[str] = frozenset({"neurons"})

    def order(self, layer: HiddenLayer, context: Context, rng: np.random.Generator) -> Indices:
        """Return all neurons by decreasing norm, equal ones by index.

        Args:
            layer: The hidden layer, n dense neurons.
            context: Not used.
            rng: Not used.

        Returns:
            Indices, shape (n,).

        Raises:
            ValueError: The features are not dense neurons.
        """
        norms = [np.sqrt(np.einsum("nd,nd->n", f.incoming, f.incoming) + f.bias**2) for f in dense(layer)]
        return np.argsort(-unit_maxima(norms), kind="stable")

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return the coreset of the first `width` neurons of the order with their own outgoing weights.

        Raises:
            ValueError: The features are not dense neurons, or `width` is not between 1 and n.
        """
        check_width(layer, width)
        return restrict(layer, np.sort(self.order(layer, context, rng)[:width]), self.name)
