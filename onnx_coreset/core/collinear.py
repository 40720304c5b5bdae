"""Neurons that are multiples of each other, of the same sign or of either.

    homogeneous    f(r t) = r f(t) for r > 0:  every positive multiple is one neuron, times r
    and odd        f(-t) = -f(t):              a negative multiple too, times r < 0
    and even       f(-t) = f(t):               a negative multiple too, times |r|
    odd            f(-t) = -f(t):              the multiple -1, exactly, times -1

So of the neurons of one line through the origin, ReLU(r t) and ReLU(-r t) for any r > 0, at most two are left: they
span |t| and t. Multiples are equal up to the rounding of float32, in which they were stored.

Neighbours are found by sorting projections, one pass over the weights, and compared entry by entry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.duplicates import moved
from onnx_coreset.core.features import Seen
from onnx_coreset.core.layer import HiddenLayer, Neurons

__all__ = ["align", "shared"]

_MULTIPLE = 2.0**-22
"""Largest difference of two directions, in units of their largest entry, that rounding to float32 explains."""
_ROUNDING = 1e-12


def shared(layer: HiddenLayer) -> Neurons | None:
    """Return the dense neurons that every readout sees alone, or None where there are none such."""
    first = layer.readouts[0].features
    if any(readout.features is not first for readout in layer.readouts):
        return None
    return first if isinstance(first, Neurons) else None


def align(layer: HiddenLayer, alive: Seen, outgoing: list[Array]) -> None:
    """Add the outgoing weights of multiples to those of one neuron of their direction.

    Args:
        layer: The hidden layer, n neurons.
        alive: Which neurons are left, shape (n,); those that go are cleared.
        outgoing: Outgoing weights of each readout, (k, n, s); they are edited.
    """
    neurons = shared(layer)
    if neurons is None or not isinstance(neurons.activation, Named):
        return
    activation, known = neurons.activation, neurons.activation.properties
    # Neurons with slopes of their own (PRelu) are left to the selection.
    if any(np.ndim(parameter) for parameter in activation.parameters) or not (known.homogeneous or known.odd):
        return
    up, down = (float(activation(np.array([t]))[0]) for t in (1.0, -1.0))
    symmetric = known.odd or (known.homogeneous and up == down)
    lines = _lines(neurons, np.flatnonzero(alive), known.homogeneous, symmetric)
    lead = _leaders(lines)
    gone = np.flatnonzero(lead != np.arange(lead.size))
    factors = lines.size[gone] / lines.size[lead[gone]]
    if known.odd:
        factors *= lines.sign[gone] * lines.sign[lead[gone]]
    moved(lines.ids[gone], lines.ids[lead[gone]], factors, alive, outgoing)


@dataclass(frozen=True)
class _Lines:
    """Directions of c neurons: (incoming, bias) = sign * size * direction.

    Attributes:
        neurons: All neurons.
        ids: Which of them, shape (c,).
        size: Shape (c,).
        sign: Shape (c,).
        places: Two projections of each direction, shape (2, c).
        slack: How far the projections of equal directions may be apart.
        tolerance: How far entries of equal directions may be apart.
    """

    neurons: Neurons
    ids: Indices
    size: Array
    sign: Array
    places: Array
    slack: float
    tolerance: float

    def same(self, one: int, other: int) -> bool:
        """Return whether two directions are equal."""
        rows, biases = self.neurons.incoming, self.neurons.bias
        i, j = self.ids[one], self.ids[other]
        a, b = self.sign[one] * self.size[one], self.sign[other] * self.size[other]
        apart = np.abs(rows[i] / a - rows[j] / b).max(initial=abs(biases[i] / a - biases[j] / b))
        return bool(apart <= self.tolerance)


def _lines(neurons: Neurons, ids: Indices, scaled: bool, symmetric: bool) -> _Lines:
    """Return the directions of some neurons, in units of their largest entries where `scaled`."""
    rows, biases = neurons.incoming, neurons.bias
    size = np.maximum(np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)), np.abs(biases))
    ids = ids[size[ids] > 0]
    size = size[ids]
    angles = np.arange(neurons.inputs + 1) + 1.0
    axes = np.stack([np.cos(angles), np.sin(angles * angles)])
    places = (rows @ axes[:, :-1].T + biases[:, None] * axes[:, -1])[ids].T
    slack = float(np.abs(axes).sum(axis=1).max())
    if scaled:
        places, slack = places / size, slack * (_MULTIPLE + _ROUNDING)
    else:
        slack *= _ROUNDING * float(size.max(initial=0.0))
    sign = np.where(places[0] < 0, -1.0, 1.0) if symmetric else np.ones(ids.size)
    unit = size if scaled else np.ones(ids.size)
    return _Lines(neurons, ids, unit, sign, places * sign, slack, _MULTIPLE if scaled else 0.0)


def _leaders(lines: _Lines) -> Indices:
    """Return for each direction one that stands for it, itself or one that it is equal to, shape (c,)."""
    lead, leads = np.arange(lines.ids.size), np.zeros(lines.ids.size, dtype=np.bool_)
    first, second = lines.places
    left, lag = np.argsort(first, kind="stable"), 1
    while lag < left.size:
        one, other = left[:-lag], left[lag:]
        near = first[other] - first[one] <= lines.slack
        if not near.any():
            break
        near &= np.abs(second[other] - second[one]) <= lines.slack
        for i, j in zip(one[near], other[near], strict=True):
            # Who leads others stays: they are equal to it, and need not be to its own leader.
            front = lead[i]
            if lead[j] == j and not leads[j] and front != j and lines.same(front, j):
                lead[j], leads[front] = front, True
        left, lag = left[lead[left] == left], lag + 1
    return lead
