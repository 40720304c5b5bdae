"""What the layers that read a model's inputs first suggest of them."""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.layer import Columns, Features, Gated, Joint, Neurons
from onnx_coreset.core.suggested import Suggested, suggested
from onnx_coreset.graph.first import First, first_layers
from onnx_coreset.graph.lens import read
from onnx_coreset.graph.space import Space
from onnx_coreset.stages.opening import Opened

_LARGEST = 2048


def hints(opened: Opened) -> dict[str, Suggested]:
    """Return, for model inputs that meet a linear layer first, what its weights and biases suggest.

    Args:
        opened: The model.
    """
    made = {
        id(producer.dense.node): space
        for space in (*opened.spaces, *opened.left_out.values())
        for producer in space.producers
    }
    found = {first.name: _hint(first, made, opened) for first in first_layers(opened.document, _LARGEST)}
    return {name: hint for name, hint in found.items() if hint is not None}


def _hint(first: First, made: dict[int, Space], opened: Opened) -> Suggested | None:
    """Return what the first layers of one input suggest; hidden ones with all that is folded into their biases."""
    weights: list[Array] = []
    biases: list[Array] = []
    spaces: dict[str, Space] = {}
    for layer in first.layers:
        space = made.get(id(layer.dense.node))
        if space is not None:
            spaces[space.name] = space
        else:
            rows, bias = layer.read()
            weights.append(rows)
            biases.append(bias)
    for space in spaces.values():
        for part in _neurons(read(opened.document, space).readouts[0].features):
            weights.append(part.incoming)
            biases.append(part.bias)
    return suggested(np.concatenate(weights), np.concatenate(biases), first.scale, first.shift)


def _neurons(features: Features) -> tuple[Neurons, ...]:
    """Return the dense neurons that features consist of."""
    if isinstance(features, Neurons):
        return (features,)
    if isinstance(features, Gated):
        return (features.gate, features.up)
    if isinstance(features, Columns | Joint):
        return tuple(neurons for part in features.parts for neurons in _neurons(part))
    return ()
