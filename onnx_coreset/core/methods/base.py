"""What a method is: a value that picks neurons of a hidden layer and gives them outgoing weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.gram import Moments
from onnx_coreset.core.laws import Law
from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons

__all__ = ["Context", "Method", "Ordered", "dense"]


@dataclass(frozen=True)
class Context:
    """What a method may know besides the layer itself.

    Attributes:
        law: How the layer's inputs are distributed.
        moments: Mean and covariance of each readout's features under the law, where they were computed.
        radius: Radius of a ball around the law's centre (the origin where it has none) that holds the inputs.
    """

    law: Law
    moments: tuple[Moments, ...] | None = None
    radius: float = 1.0


@runtime_checkable
class Method(Protocol):
    """A way to choose a coreset; a frozen value, safe to share."""

    @property
    def name(self) -> str:
        """Name for options and reports."""

    @property
    def requires(self) -> frozenset[str]:
        """What it needs: "neurons" (dense features of their own weights), "moments" (of the features)."""

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return a coreset of exactly `width` neurons, 1 <= width <= n."""


@runtime_checkable
class Ordered(Method, Protocol):
    """A method whose choices are nested: the neurons for a width are a prefix of one order."""

    def order(self, layer: HiddenLayer, context: Context, rng: np.random.Generator) -> Indices:
        """Return all n neurons, best first."""


def dense(layer: HiddenLayer) -> tuple[Neurons, ...]:
    """Return the features of every readout as dense neurons.

    Args:
        layer: The hidden layer.

    Returns:
        One `Neurons` a readout.

    Raises:
        ValueError: Some features are of another kind.
    """
    features = tuple(r.features for r in layer.readouts if isinstance(r.features, Neurons))
    if len(features) != len(layer.readouts):
        raise ValueError("this method needs dense neurons")
    return features


def check_width(layer: HiddenLayer, width: int) -> None:
    """Refuse a width that the layer cannot have.

    Raises:
        ValueError: `width` is not between 1 and n.
    """
    if not 1 <= width <= layer.width:
        raise ValueError(f"width {width} is not between 1 and {layer.width}")


def unit_maxima(parts: list[Array]) -> Array:
    """Return for every neuron the largest of several scores, each in units of its own largest.

    Args:
        parts: Scores of n neurons, shape (n,) each, not negative.

    Returns:
        Shape (n,); a single part keeps its own unit.
    """
    if len(parts) == 1:
        return parts[0]
    largest = [float(part.max(initial=0.0)) for part in parts]
    scaled = [part / unit if unit > 0 else part for part, unit in zip(parts, largest, strict=True)]
    return np.asarray(np.max(scaled, axis=0))
