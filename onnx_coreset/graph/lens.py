"""Reading a hidden layer out of the graph, and writing a coreset back.

Two laws hold for every form: writing the coreset that keeps all neurons with their own weights changes nothing, and
read(write(space, coreset)) == shrink(read(space), coreset) up to one rounding of the stored dtype.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.activations.records import recognise
from onnx_coreset.core.fold import fold
from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons, Readout
from onnx_coreset.graph.document import Document
from onnx_coreset.graph.space import Space


def read(document: Document, space: Space) -> HiddenLayer:
    """Return the hidden layer that `space` is, in float64.

    Args:
        document: The model.
        space: A space of that model.

    Returns:
        The layer: one readout a consumer. O(parameters of the layer).
    """
    incoming, bias = space.producer.read()
    readouts = []
    features: dict[int, Neurons] = {}
    for consumer, value in space.consumers:
        if value not in features:
            program, weights, shift = fold(space.region.program(document, value), incoming, bias)
            features[value] = Neurons(weights, shift, recognise(program))
        outgoing, constant = consumer.read()
        readouts.append(Readout(features[value], outgoing[:, :, None], constant))
    return HiddenLayer(space.width, tuple(readouts))


def write(document: Document, space: Space, coreset: Coreset) -> None:
    """Narrow `space` to `coreset`: slice what belongs to the neurons, replace what reads them.

    Args:
        document: The model; it is edited. After an edit, spaces found before may be out of date: find them anew.
        space: A space of that model as it now is.
        coreset: A coreset for `read(document, space)`.
    """
    kept = np.asarray(coreset.kept)
    for (consumer, _), outgoing, constant in zip(space.consumers, coreset.outgoing, coreset.constant, strict=True):
        consumer.write(outgoing[:, :, 0], constant, kept)
    space.producer.slice(kept)
    space.region.slice(document, kept)
