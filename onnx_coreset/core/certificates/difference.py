"""The difference of two layers as one layer: D(x) = c0 + sum over the union of their neurons of c_j f_j(t_j).

Neurons of either layer that compute the same, by equal incoming weights, bias and parameters of the activation, are
one neuron whose outgoing weights are subtracted: what was kept as it was leaves hardly anything. The union is brought
to the coordinates of the domain, t = rows . y + offset with y in the unit ball or box. All numbers are floats from
then on, and what they differ by from the stored weights' exact difference is carried along:

    |t - (rows . y + offset)| <= noise,      |c - weights| <= doubt.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Composite, Named
from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.domains import Domain, Frame, frame
from onnx_coreset.core.certificates.pieces import Split, lipschitz, slopes, split
from onnx_coreset.core.certificates.rounding import UNIT, gamma
from onnx_coreset.core.features import Neurons
from onnx_coreset.core.layer import Readout

__all__ = ["Difference", "Stack", "difference", "groups", "signature"]


@dataclass(frozen=True)
class Stack:
    """Activations of several groups of neurons, one after another.

    Attributes:
        parts: The functions.
        sizes: Number of neurons each is for; they sum to n.
    """

    parts: tuple[Activation, ...]
    sizes: tuple[int, ...]

    def _cut(self, values: Array) -> list[Array]:
        return np.split(values, np.cumsum(self.sizes)[:-1], axis=-1)

    def __call__(self, t: Array) -> Array:
        """Return f(t), shape (..., n), of pre-activations (..., n)."""
        return np.concatenate([part(own) for part, own in zip(self.parts, self._cut(t), strict=True)], axis=-1)

    def interval(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return bounds (..., n) of f on [low, high]."""
        ends = [p.interval(a, b) for p, a, b in zip(self.parts, self._cut(low), self._cut(high), strict=True)]
        return np.concatenate([a for a, _ in ends], axis=-1), np.concatenate([b for _, b in ends], axis=-1)

    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Return bounds (n,) of the slopes of chords on [low, high]."""
        ends = [slopes(p, a, b) for p, a, b in zip(self.parts, self._cut(low), self._cut(high), strict=True)]
        return np.concatenate([a for a, _ in ends]), np.concatenate([b for _, b in ends])

    def split(self, low: Array, high: Array) -> Split:
        """Return f on [low, high] as a linear part, a multiple of |t| and a rest."""
        found = [split(p, a, b) for p, a, b in zip(self.parts, self._cut(low), self._cut(high), strict=True)]
        fields = ([part.lin for part in found], [p.mag for p in found], [p.low for p in found], [p.high for p in found])
        return Split(*(np.concatenate(field) for field in fields))

    def lipschitz(self) -> Array:
        """Return Lipschitz constants (n,)."""
        return np.concatenate([lipschitz(p, size) for p, size in zip(self.parts, self.sizes, strict=True)])


@dataclass(frozen=True)
class Difference:
    """D(y) = constant + weights . f(frame.rows y + frame.offset), of n neurons and k outputs.

    Attributes:
        incoming: Incoming weights as stored, shape (n, d).
        bias: Biases as stored, shape (n,).
        activation: The functions f.
        weights: Shape (k, n).
        doubt: Largest error of a weight, shape (k, n).
        constant: Shape (k,).
        constant_doubt: Largest error of a constant, shape (k,).
        frame: The pre-activations in the domain's coordinates.
        low: Lower ends of the exact pre-activations over the domain, shape (n,).
        high: Upper ends, shape (n,).
    """

    incoming: Array
    bias: Array
    activation: Stack
    weights: Array
    doubt: Array
    constant: Array
    constant_doubt: Array
    frame: Frame
    low: Array
    high: Array

    @property
    def outputs(self) -> int:
        """Number of outputs k."""
        return int(self.weights.shape[0])


def difference(before: Readout, after: Readout, domain: Domain) -> Difference:
    """Return the difference of two readouts of dense neurons as one layer.

    Args:
        before: A readout of `Neurons`, k outputs.
        after: Another of as many inputs and outputs; its neurons may be other ones.
        domain: Where the inputs lie.

    Returns:
        What `before` gives minus what `after` gives. O(n d log n).

    Raises:
        ValueError: The readouts do not fit each other, or their features are not `Neurons`.
    """
    first, second = before.features, after.features
    if not (isinstance(first, Neurons) and isinstance(second, Neurons)):
        raise ValueError("the features are not dense neurons")
    if first.inputs != second.inputs or before.outputs != after.outputs:
        raise ValueError("the layers have other inputs or outputs")
    group, size = _same(first, second)
    outgoing = np.concatenate([before.outgoing[:, :, 0], -after.outgoing[:, :, 0]], axis=1)
    owner = np.full(size, group.size)
    np.minimum.at(owner, group, np.arange(group.size))
    order = np.sort(owner)
    place = np.empty(group.size, dtype=np.intp)
    place[order] = np.arange(size)
    target = place[owner[group]]
    weights, total = np.zeros((size, before.outputs)), np.zeros((size, before.outputs))
    np.add.at(weights, target, outgoing.T)
    np.add.at(total, target, np.abs(outgoing.T))
    # One rounding for two terms, relative to the sum; further ones relative to all terms.
    often = np.bincount(target, minlength=size)[:, None]
    doubt = np.where(often <= 2, (often - 1) * UNIT * np.abs(weights), 2.0 * often * UNIT * total)
    used = np.flatnonzero(np.any(weights != 0, axis=1) | np.any(doubt != 0, axis=1))
    order = order[used]
    early, late = order[order < first.width], order[order >= first.width] - first.width
    incoming = np.concatenate([first.incoming[early], second.incoming[late]])
    bias = np.concatenate([first.bias[early], second.bias[late]])
    parts = (first.activation.take(early), second.activation.take(late))
    constant = before.constant - after.constant
    found = frame(domain, incoming, bias)
    wide = (found.reach + found.noise) * (1.0 + gamma(8)) + UNIT * np.abs(found.offset) * 4.0
    return Difference(
        incoming,
        bias,
        Stack(parts, (early.size, late.size)),
        weights[used].T,
        doubt[used].T,
        constant,
        UNIT * np.abs(constant),
        found,
        np.where(wide > 0, found.offset - wide, found.offset),
        np.where(wide > 0, found.offset + wide, found.offset),
    )


def signature(activation: Activation, count: int) -> tuple[Hashable, Array]:
    """Return what two activations must share to be compared, and the parameters (n, q) of every neuron.

    An activation of unknown kind shares nothing with any other.
    """
    if isinstance(activation, Named):
        columns = [np.broadcast_to(p, count) for p in activation.parameters]
        return ("named", activation.record.name, len(columns)), _table(columns, count)
    if isinstance(activation, Composite):
        steps: list[Hashable] = []
        columns = []
        for step in activation.program.steps:
            steps.append((step.op, step.attributes, tuple(o if isinstance(o, int) else None for o in step.operands)))
            columns += [np.broadcast_to(o, count) for o in step.operands if not isinstance(o, int)]
        return ("composite", *steps), _table(columns, count)
    return ("other", id(activation)), _table([np.arange(count, dtype=np.float64)], count)


def _table(columns: list[Array], count: int) -> Array:
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0))


def _same(first: Neurons, second: Neurons) -> tuple[Indices, int]:
    """Return the number of every neuron's group of equal neurons, over both layers, and how many groups there are."""
    kinds, tables = zip(*(signature(part.activation, part.width) for part in (first, second)), strict=True)
    keys = [
        np.concatenate([part.incoming, part.bias[:, None], table], axis=1)
        for part, table in zip((first, second), tables, strict=True)
    ]
    if kinds[0] != kinds[1]:
        # Other functions: neurons are equal within a layer only.
        one, two = groups(keys[0]), groups(keys[1])
        count = int(one.max(initial=-1)) + 1
        return np.concatenate([one, two + count]), count + int(two.max(initial=-1)) + 1
    both = groups(np.concatenate(keys))
    return both, int(both.max(initial=-1)) + 1


def groups(keys: Array) -> Indices:
    """Return the number of each row's group of equal rows, shape (n,)."""
    # Adding 0 turns a negative zero into the other one.
    _, found = np.unique(np.ascontiguousarray(keys + 0.0), axis=0, return_inverse=True)
    return np.asarray(found, dtype=np.intp).reshape(-1)
