"""Synaptic flow of a neuron: what passes through it when every weight is positive and every activation is linear.

With P the incoming weights, b the biases and W the outgoing weights, all inputs 1 and everything replaced by its
absolute value, the layer's outputs sum to

    R = sum over neurons j of  (sum_i |P_ji| + |b_j|) (sum_o |W_oj|),

and the score of a parameter is t dR/dt. Over the outgoing weights of neuron j these scores sum to its term of R, over
its incoming weights and bias too: flow is conserved. That term is the neuron's score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.layer import Coreset, Features, Gated, HiddenLayer, Neurons, restrict
from onnx_coreset.core.methods.base import Context, check_width

__all__ = ["Synflow", "flows"]


@dataclass(frozen=True)
class Synflow:
    """The m neurons of largest synaptic flow; outgoing weights unchanged.

    A product of two neurons passes on the product of what both do. The outputs of several readouts are outputs like any
    other: R is the sum over all of them.

    Source: Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving
    synaptic flow", NeurIPS 2020. What departs from it:

    - Theirs is a score of single weights; here scores are summed by neuron.
    - Theirs is the flow through the whole network; here the layer is taken alone, with a flow of 1 into each of its
      inputs and out of each of its outputs.
    - R of the paper has no biases; in the published code they count as here, like weights of one more input.
    - Theirs prunes in a hundred rounds, because a score changes when other weights leave. Where whole neurons leave a
      single layer no other score changes: one round is all of them.
    """

    name: str = "synflow"
    requires: frozenset[str] = frozenset()

    def order(self, layer: HiddenLayer, context: Context, rng: np.random.Generator) -> Indices:
        """Return all neurons by decreasing flow, equal ones by index. O(n (d + k)).

        Args:
            layer: The hidden layer, n dense or gated neurons.
            context: Not used.
            rng: Not used.

        Returns:
            Indices, shape (n,).

        Raises:
            ValueError: The features are of another kind.
        """
        return np.argsort(-flows(layer), kind="stable")

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return the coreset of the first `width` neurons of the order with their own outgoing weights.

        Raises:
            ValueError: The features are of another kind, or `width` is not between 1 and n.
        """
        check_width(layer, width)
        return restrict(layer, np.sort(self.order(layer, context, rng)[:width]), self.name)


def flows(layer: HiddenLayer) -> Array:
    """Return the synaptic flow through every neuron, shape (n,), not negative.

    Args:
        layer: The hidden layer, n dense or gated neurons.

    Raises:
        ValueError: The features are of another kind.
    """
    parts = [_into(r.features) * np.abs(r.outgoing).sum(axis=(0, 2)) for r in layer.readouts]
    return np.asarray(np.sum(parts, axis=0))


def _into(features: Features) -> Array:
    """Return what the neurons pass on, shape (n,), when every input is 1."""
    if isinstance(features, Gated):
        return _into(features.gate) * _into(features.up)
    if isinstance(features, Neurons):
        return np.asarray(np.abs(features.incoming).sum(axis=1) + np.abs(features.bias))
    raise ValueError("this method needs dense or gated neurons")
