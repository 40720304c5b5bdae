"""Reading a hidden layer out of the graph, and writing a coreset back.

Two laws hold for every form: writing the coreset that keeps all neurons with their own weights changes nothing, and
read(write(space, coreset)) == shrink(read(space), coreset) up to one rounding of the stored dtype.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.activations.program import Program
from onnx_coreset.core.activations.records import recognise
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.fold import fold
from onnx_coreset.core.layer import Coreset, Features, Gated, HiddenLayer, Neurons, Readout
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.space import Space


def read(document: Document, space: Space) -> HiddenLayer:
    """Return the hidden layer that `space` is, in float64.

    Args:
        document: The model.
        space: A space of that model.

    Returns:
        The layer: one readout a consumer. O(parameters of the layer).
    """
    streams = _streams(space)
    readouts = []
    features: dict[int, Features] = {}
    for (consumer, value), layout in zip(space.consumers, space.layouts, strict=True):
        if value not in features:
            features[value] = _features(document, space, streams, value)
        outgoing, constant = consumer.read()
        own = outgoing[:, layout.block(space.width)]
        # A readout that others share is theirs too: its constant is left to nobody.
        readouts.append(Readout(features[value], own[:, :, None], constant, layout.plain))
    return HiddenLayer(space.width, tuple(readouts))


def _streams(space: Space) -> list[tuple[Array, Array]]:
    """Return incoming weights (n, d) and biases (n,) of every pre-activation."""
    found = []
    for producer in space.producers:
        incoming, bias = producer.read()
        for start in range(0, incoming.shape[0], space.width):
            rows = slice(start, start + space.width)
            found.append((incoming[rows], bias[rows]))
    return found


def _features(document: Document, space: Space, streams: list[tuple[Array, Array]], value: int) -> Features:
    def neurons(number: int, program: Program) -> Neurons:
        (stream,) = space.region.streams(number)
        program, weights, shift = fold(program, *streams[stream])
        return Neurons(weights, shift, recognise(program))

    region = space.region
    if len(region.streams(value)) == 1:
        return neurons(value, region.program(document, value))
    product, left, right = region.joint(value)
    # What scales the product scales one of its factors as well.
    one = neurons(left, region.program(document, value, {product: left}))
    other = neurons(right, region.program(document, right))
    return Gated(other, one) if one.activation.name == "Identity" else Gated(one, other)


def write(document: Document, space: Space, coreset: Coreset) -> None:
    """Narrow `space` to `coreset`: slice what belongs to the neurons, replace what reads them.

    Args:
        document: The model; it is edited. After an edit, spaces found before may be out of date: find them anew.
        space: A space of that model as it now is.
        coreset: A coreset for `read(document, space)`.
    """
    kept = np.asarray(coreset.kept)
    parts = zip(space.consumers, space.layouts, coreset.outgoing, coreset.constant, strict=True)
    for (consumer, _), layout, outgoing, constant in parts:
        columns, own = layout.indices(kept, space.width), outgoing[:, :, 0]
        if not layout.plain:
            block = layout.block(space.width)
            before = consumer.read()[0]
            own = np.concatenate([before[:, : block.start], own, before[:, block.stop :]], axis=1)
        consumer.write(own, constant, columns)
    for producer in space.producers:
        copies = producer.width // space.width
        producer.slice(np.concatenate([copy * space.width + kept for copy in range(copies)]))
    space.region.slice(document, kept)
