"""Layers of which only the weights are looked at: no inputs, and neurons in the order that the method gives alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_coreset.core.domains import BallDomain
from onnx_coreset.core.laws import Mixture
from onnx_coreset.core.layer import HiddenLayer, outline, whole
from onnx_coreset.core.methods import Method
from onnx_coreset.core.methods.base import Context, Ordered
from onnx_coreset.edge.statistics import Samples
from onnx_coreset.plan import Candidates
from onnx_coreset.stages.domains import Stated
from onnx_coreset.stages.sampling import LayerInputs


def unsampled(layer: HiddenLayer) -> LayerInputs:
    """Return the inputs of a layer that nobody looks at: none, of no law in particular."""
    none = np.empty((0, layer.inputs))
    radius = float(np.sqrt(layer.inputs))
    anywhere = Stated(BallDomain(np.zeros(layer.inputs), radius), "not looked at")
    return LayerInputs(Mixture(layer.inputs), none, none, Samples(none, 2), radius, anywhere)


def by_weights(
    layer: HiddenLayer, inputs: LayerInputs, method: Method, generator: Callable[[int], np.random.Generator]
) -> Candidates:
    """Return the coresets that a method gives for a layer by its weights alone.

    Args:
        layer: The hidden layer.
        inputs: What `unsampled` gives.
        method: What orders neurons; it needs no inputs.
        generator: Makes the source of randomness for a width; 0 is for the order.

    Returns:
        Bare coresets, of the layer's outline: its numbers were only needed for the order.
    """
    context = Context(law=inputs.law, radius=inputs.radius)
    order = method.order(layer, context, generator(0)) if isinstance(method, Ordered) else None
    known = outline(layer)
    return Candidates(known, whole(known, method.name), known, (), method, context, order, False, generator)
