"""Two networks of dense layers with the same inputs and outputs: an original and what it was shrunk to.

    h_0 = x,    t_l = W_l h_{l-1} + b_l,    h_l = f_l(t_l),    y = W_L h_{L-1} + b_L

for the original, and U_l, c_l, s_l, g_l, y' for the other one. A neuron of the shrunk network that stands for one of
the original and has the same function is its *twin*: f(s) - f(t) is then bounded by what s - t is. Which neurons are
twins is only a help; nothing that is proven depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.arrays import Array, Indices, frozen, frozen_indices
from onnx_coreset.core.features import Neurons

__all__ = ["FeedForward", "Pair"]


@dataclass(frozen=True)
class FeedForward:
    """A network of dense layers, weights as stored.

    Attributes:
        hidden: The hidden layers, the first one first; at least one.
        outgoing: Weights of the outputs, shape (k, n) for n neurons of the last hidden layer.
        constant: What is added to the outputs, shape (k,).
    """

    hidden: tuple[Neurons, ...]
    outgoing: Array
    constant: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "outgoing", frozen(self.outgoing))
        object.__setattr__(self, "constant", frozen(self.constant))
        widths = [layer.width for layer in self.hidden]
        reads = [layer.inputs for layer in self.hidden[1:]] + [self.outgoing.shape[-1]]
        if not widths or widths != reads or self.outgoing.shape[:1] != self.constant.shape:
            raise ValueError(f"layers of {widths} neurons do not fit layers that read {reads}")

    @property
    def inputs(self) -> int:
        """Number of inputs d."""
        return self.hidden[0].inputs

    @property
    def outputs(self) -> int:
        """Number of outputs k."""
        return int(self.constant.size)

    @property
    def depth(self) -> int:
        """Number of hidden layers L."""
        return len(self.hidden)

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(weights.size for weights, _ in self.affine)

    @cached_property
    def affine(self) -> tuple[tuple[Array, Array], ...]:
        """Weights (n, d) and biases (n,) of every layer, that of the outputs last."""
        return (*((layer.incoming, layer.bias) for layer in self.hidden), (self.outgoing, self.constant))

    def __call__(self, x: Array) -> Array:
        """Return the outputs (N, k) of inputs (N, d), in float64."""
        h = np.asarray(x, dtype=np.float64)
        for layer in self.hidden:
            h = layer.activation(h @ layer.incoming.T + layer.bias)
        return np.asarray(h @ self.outgoing.T + self.constant)


@dataclass(frozen=True)
class Pair:
    """An original and a shrunk network of as many layers.

    Attributes:
        before: The original.
        after: The shrunk one.
        kept: For each hidden layer, which of the original's neurons each of the m left stands for, shape (m,).
    """

    before: FeedForward
    after: FeedForward
    kept: tuple[Indices, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", tuple(frozen_indices(kept) for kept in self.kept))
        one, other = self.before, self.after
        if (one.inputs, one.outputs, one.depth) != (other.inputs, other.outputs, other.depth):
            raise ValueError("the networks have other inputs, outputs or numbers of layers")
        if len(self.kept) != one.depth:
            raise ValueError("one array of kept neurons a hidden layer")
        for old, new, kept in zip(one.hidden, other.hidden, self.kept, strict=True):
            fits = kept.size == new.width and np.unique(kept).size == kept.size
            if not fits or np.any(kept < 0) or np.any(kept >= old.width):
                raise ValueError("kept neurons are distinct neurons of the original, one for each that is left")

    @classmethod
    def of(cls, before: FeedForward, after: FeedForward, kept: Sequence[Indices]) -> Pair:
        """Return two networks as a pair."""
        return cls(before, after, tuple(kept))

    @property
    def depth(self) -> int:
        """Number of hidden layers L."""
        return self.before.depth

    @cached_property
    def twins(self) -> tuple[tuple[Indices, Indices], ...]:
        """For each hidden layer the twins: neurons of the shrunk network, and those of the original, (q,) each."""
        found = []
        for old, new, kept in zip(self.before.hidden, self.after.hidden, self.kept, strict=True):
            same = _same(old.activation.take(kept), new.activation, kept.size)
            own = np.flatnonzero(same)
            found.append((own, kept[own]))
        return tuple(found)


def _same(one: Activation, other: Activation, count: int) -> NDArray[np.bool_]:
    """Return which neurons have surely the same function, shape (count,)."""
    same = np.zeros(count, dtype=bool)
    if not (isinstance(one, Named) and isinstance(other, Named) and one.record is other.record):
        return same
    if len(one.parameters) != len(other.parameters):
        return same
    same[:] = True
    for a, b in zip(one.parameters, other.parameters, strict=True):
        same &= np.broadcast_to(a, count) == np.broadcast_to(b, count)
    return same
