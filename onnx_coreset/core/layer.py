"""The hidden layer: the one object the mathematics sees.

A hidden layer has n neurons. Each readout r (a linear operator that consumes the hidden tensor, or several of them)
computes, for features h of shape (n, s),

    z_r = sum over neurons j and columns s of  outgoing_r[:, j, s] * h_r[j, s]  +  constant_r.

The plain case is z(x) = C f(A x + b) + c: one readout, s = 1, features `Neurons(A, b, f)`. A coreset keeps m of the n
neurons with new outgoing weights and a new constant; what belongs to the incoming side is only ever selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from onnx_coreset.core.arrays import Array, Indices, frozen, frozen_indices
from onnx_coreset.core.features import Columns, Features, Gated, Joint, Neurons, Part

__all__ = [
    "Columns",
    "Coreset",
    "Features",
    "Gated",
    "HiddenLayer",
    "Joint",
    "Neurons",
    "Outline",
    "Readout",
    "outline",
    "restrict",
    "shrink",
    "whole",
]


@dataclass(frozen=True)
class Readout:
    """One consumer of a hidden layer.

    Attributes:
        features: What this consumer sees of the hidden layer.
        outgoing: Outgoing weights, shape (k, n, s).
        constant: What is added to the sum, shape (k,).
        constant_allowed: Whether a coreset may change the constant.
    """

    features: Features
    outgoing: Array
    constant: Array
    constant_allowed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "outgoing", frozen(self.outgoing))
        object.__setattr__(self, "constant", frozen(self.constant))
        if self.outgoing.ndim != 3 or self.outgoing.shape[1:] != (self.features.width, self.features.columns):
            raise ValueError(f"outgoing {self.outgoing.shape} does not fit {self.features.width} neurons")
        if self.constant.shape != self.outgoing.shape[:1]:
            raise ValueError(f"constant {self.constant.shape} does not fit outgoing {self.outgoing.shape}")

    @property
    def outputs(self) -> int:
        """Number of outputs k."""
        return int(self.outgoing.shape[0])

    def apply(self, features: Array) -> Array:
        """Return the outputs (N, k) for features (N, n, s)."""
        count = features.shape[0]
        flat = self.outgoing.reshape(self.outputs, -1)
        return features.reshape(count, -1) @ flat.T + self.constant


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer of `width` neurons, read by one or more readouts over the same neurons.

    Attributes:
        width: Number of neurons n.
        readouts: The consumers; each sees features of the same n neurons.
    """

    width: int
    readouts: tuple[Readout, ...]

    def __post_init__(self) -> None:
        if not self.readouts:
            raise ValueError("a hidden layer needs a readout")
        if any(readout.features.width != self.width for readout in self.readouts):
            raise ValueError("every readout must see the same neurons")

    @property
    def inputs(self) -> int:
        """Number of inputs d."""
        return self.readouts[0].features.inputs

    @property
    def outputs(self) -> int:
        """Number of outputs k of all readouts together."""
        return sum(readout.outputs for readout in self.readouts)

    def evaluate(self, x: Array) -> tuple[Array, ...]:
        """Return each readout's outputs (N, k) of inputs (N, d)."""
        return tuple(readout.apply(readout.features.evaluate(x)) for readout in self.readouts)


@dataclass(frozen=True)
class Outline(HiddenLayer):
    """A hidden layer of which sizes and activations alone are known; its large arrays are NaN, and take no memory.

    Coresets of it are bare: they say which neurons stay, with the weights that these have in the model.
    """


def outline(layer: HiddenLayer) -> Outline:
    """Return the outline of a layer."""
    readouts = [
        replace(r, features=_outlined(r.features), outgoing=np.broadcast_to(np.nan, r.outgoing.shape))
        for r in layer.readouts
    ]
    return Outline(layer.width, tuple(readouts))


def _outlined(features: Features) -> Features:
    if isinstance(features, Neurons):
        return replace(features, incoming=np.broadcast_to(np.nan, features.incoming.shape))
    if isinstance(features, Gated):
        return Gated(cast(Neurons, _outlined(features.gate)), cast(Neurons, _outlined(features.up)))
    if isinstance(features, Joint):
        return replace(features, parts=tuple(cast(Neurons, _outlined(part)) for part in features.parts))
    if isinstance(features, Columns):
        return replace(features, parts=tuple(cast(Part, _outlined(part)) for part in features.parts))
    return features


@dataclass(frozen=True)
class Coreset:
    """The neurons that stay, and what the readouts make of them.

    Attributes:
        kept: Indices of the neurons kept, strictly increasing, shape (m,).
        outgoing: New outgoing weights, one (k, m, s) for each readout; none at all in a bare coreset, whose neurons
            keep theirs.
        constant: New constants, one (k,) for each readout; none at all in a bare coreset.
        method: Name of the method that chose them.
        seed: Seed of the run, for the record.
        incoming: New incoming weights (m, d) and biases (m,) of every factor of the neurons (one, or gate and up), or
            None where they are those that the neurons had.
    """

    kept: Indices
    outgoing: tuple[Array, ...]
    constant: tuple[Array, ...]
    method: str = ""
    seed: int = 0
    incoming: tuple[tuple[Array, Array], ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept", frozen_indices(self.kept))
        object.__setattr__(self, "outgoing", tuple(frozen(w) for w in self.outgoing))
        object.__setattr__(self, "constant", tuple(frozen(c) for c in self.constant))
        if self.incoming is not None:
            object.__setattr__(self, "incoming", tuple((frozen(w), frozen(b)) for w, b in self.incoming))
        if self.kept.size == 0 or np.any(np.diff(self.kept) <= 0) or self.kept[0] < 0:
            raise ValueError("kept must be non-empty, non-negative and strictly increasing")
        if len(self.outgoing) != len(self.constant):
            raise ValueError("one outgoing matrix and one constant a readout")

    @property
    def width(self) -> int:
        """Number of neurons kept, m."""
        return int(self.kept.size)

    @property
    def bare(self) -> bool:
        """Whether it only says which neurons stay."""
        return not self.outgoing


def whole(layer: HiddenLayer, method: str = "", seed: int = 0) -> Coreset:
    """Return the coreset that keeps every neuron with its own outgoing weights.

    Args:
        layer: The layer, n neurons.
        method: Name to record.
        seed: Seed to record.

    Returns:
        A coreset of width n whose `shrink` is the layer itself.
    """
    return restrict(layer, np.arange(layer.width), method, seed)


def restrict(layer: HiddenLayer, kept: Indices, method: str = "", seed: int = 0) -> Coreset:
    """Return the coreset that drops all but `kept` and changes no weight.

    Args:
        layer: The layer, n neurons.
        kept: Strictly increasing indices, shape (m,).
        method: Name to record.
        seed: Seed to record.

    Returns:
        The coreset with the readouts' own columns and constants; a bare one for an outline.
    """
    if isinstance(layer, Outline):
        return Coreset(kept, (), (), method, seed)
    outgoing = tuple(readout.outgoing[:, kept] for readout in layer.readouts)
    return Coreset(kept, outgoing, tuple(readout.constant for readout in layer.readouts), method, seed)


def shrink(layer: HiddenLayer, coreset: Coreset) -> HiddenLayer:
    """Return the layer that `coreset` describes.

    Args:
        layer: The layer the coreset was made for.
        coreset: Its kept neurons (m) and new outgoing weights.

    Returns:
        A hidden layer of m neurons with the same inputs and outputs. Readouts that shared features still do.

    Raises:
        ValueError: The coreset does not fit the layer.
    """
    if len(coreset.outgoing) != len(layer.readouts) or coreset.kept[-1] >= layer.width:
        raise ValueError("the coreset was made for another layer")
    parts: Sequence[tuple[Readout, Array, Array]] = tuple(
        zip(layer.readouts, coreset.outgoing, coreset.constant, strict=True)
    )
    if any(outgoing.shape[:1] != readout.constant.shape for readout, outgoing, _ in parts):
        raise ValueError("the coreset was made for a layer with other outputs")
    taken = {id(readout.features): readout.features for readout in layer.readouts}
    taken = {key: _moved(features.take(coreset.kept), coreset) for key, features in taken.items()}
    readouts = tuple(
        Readout(taken[id(readout.features)], outgoing, constant, readout.constant_allowed)
        for readout, outgoing, constant in parts
    )
    return HiddenLayer(coreset.width, readouts)


def _moved(features: Features, coreset: Coreset) -> Features:
    """Return features with the incoming weights of the coreset, where it has any."""
    if coreset.incoming is None:
        return features
    parts: tuple[Neurons, ...] = (features,) if isinstance(features, Neurons) else ()
    if isinstance(features, Gated):
        parts = (features.gate, features.up)
    if len(parts) != len(coreset.incoming):
        raise ValueError("the coreset was made for features of another kind")
    new = [replace(part, incoming=w, bias=b) for part, (w, b) in zip(parts, coreset.incoming, strict=True)]
    return new[0] if len(new) == 1 else Gated(new[0], new[1])
