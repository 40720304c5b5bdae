"""Reading a hidden layer out of the graph, and writing a coreset back.

Two laws hold for every form: writing the coreset that keeps all neurons with their own weights changes nothing, and
read(write(space, coreset)) == shrink(read(space), coreset) up to one rounding of the stored dtype.
"""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.activations.program import Program
from onnx_coreset.core.activations.records import recognise
from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.features import Part
from onnx_coreset.core.fold import fold, plain
from onnx_coreset.core.layer import Columns, Coreset, Features, Gated, HiddenLayer, Joint, Neurons, Readout
from onnx_coreset.graph.incoming import Factor, factors, replace_incoming
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.rules.layout import Layout
from onnx_coreset.graph.space import Space


def read(document: Document, space: Space, outgoing: bool = True) -> HiddenLayer:
    """Return the hidden layer that `space` is, in float64.

    Args:
        document: The model.
        space: A space of that model.
        outgoing: Whether outgoing weights are read; NaN stand in their place where they are not.

    Returns:
        The layer: one readout a consumer. O(parameters of the layer).
    """
    streams = _streams(space)
    readouts = []
    features: dict[tuple[tuple[int, ...], Layout], Features] = {}
    parts: dict[int, Part] = {}
    most = max(len(numbers) for _, numbers in space.consumers)
    for (consumer, numbers), layout in zip(space.consumers, space.layouts, strict=True):
        for number in numbers:
            if number not in parts:
                parts[number] = _part(document, space, streams, number)
        # Methods want as many columns of every reader: those that one lacks are seen by nobody.
        numbers += numbers[:1] * (most - len(numbers))
        where = _where(layout, space.width, most)
        # Readers that see the same of the neurons share their features, in whatever order they see them.
        key = (numbers, Layout(np.where(where >= 0, 0, -1), np.zeros_like(where)))
        if key not in features:
            features[key] = _features(tuple(parts[number] for number in numbers), where)
        if outgoing:
            weights = _outgoing(consumer.dense.matrix(), where)
        else:
            weights = np.broadcast_to(np.nan, (consumer.outputs, *where.shape))
        readouts.append(Readout(features[key], weights, consumer.constant()))
    return HiddenLayer(space.width, tuple(readouts))


def _outgoing(weights: Array, where: Indices) -> Array:
    """Return the weights (k, L) of the entries `where` (n, s), shape (k, n, s), 0 where there is none."""
    if where.shape == (weights.shape[1], 1) and np.array_equal(where[:, 0], np.arange(where.size)):
        return weights[:, :, None]
    return np.where(where >= 0, weights[:, where], 0.0)


def _where(layout: Layout, width: int, copies: int) -> Indices:
    """Return the entry of the axis that each copy of each neuron has, shape (n, s), -1 where there is none."""
    return np.stack([layout.where(width, copy) for copy in range(copies)], axis=-1)


def _features(parts: tuple[Part, ...], where: Indices) -> Features:
    if len(parts) == 1 and np.all(where >= 0):
        return parts[0]
    return Columns(parts, where >= 0)


def _streams(space: Space) -> list[tuple[Array, Array]]:
    """Return incoming weights (n, d) and biases (n,) of every pre-activation."""
    found = []
    for producer in space.producers:
        incoming, bias = producer.read()
        for start in range(0, incoming.shape[0], space.width):
            rows = slice(start, start + space.width)
            found.append((incoming[rows], bias[rows]))
    return found


def _part(document: Document, space: Space, streams: list[tuple[Array, Array]], value: int) -> Part:
    """Return what a value of the region is to the core: dense neurons, a product of two, or a function of several."""
    region = space.region

    def neurons(number: int, program: Program) -> Neurons:
        (stream,) = region.streams(number)
        program, weights, shift = fold(program, *streams[stream])
        return Neurons(weights, shift, recognise(program))

    if len(region.streams(value)) == 1:
        return neurons(value, region.program(document, value))
    found = region.product(value)
    if found is None:
        parts = tuple(Neurons(*streams[stream], recognise(Program())) for stream in sorted(region.streams(value)))
        return Joint(parts, plain(region.program(document, value)))
    product, left, right = found
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
    moved = _found(document, space) if coreset.incoming is not None else None
    if coreset.bare:
        for (consumer, _), layout in zip(space.consumers, space.layouts, strict=True):
            consumer.slice(layout.indices(kept))
    parts = zip(space.consumers, space.layouts, coreset.outgoing, coreset.constant, strict=not coreset.bare)
    for (consumer, _), layout, outgoing, constant in parts:
        entries, ranks = layout.placed(kept)
        own = outgoing[:, ranks, layout.copies[entries]]
        if np.any(ranks < 0):
            own = np.where(ranks >= 0, own, consumer.read()[0][:, entries])
        consumer.write(own, constant, entries)
    for producer in space.producers:
        copies = producer.width // space.width
        producer.slice(np.concatenate([copy * space.width + kept for copy in range(copies)]))
    space.region.slice(document, kept)
    if moved is not None and coreset.incoming is not None:
        places, biases = moved
        shifts = [b - old[kept] for (_, b), old in zip(coreset.incoming, biases, strict=True)]
        replace_incoming(places, coreset.incoming, shifts)


def _found(document: Document, space: Space) -> tuple[tuple[Factor, ...], list[Array]]:
    """Return where the incoming weights of a space stand, and its biases (n,) as they are now."""
    readout = read(document, space).readouts[0]
    places = factors(document, space, readout)
    if places is None:
        raise ValueError(f"the incoming weights of {space.name} cannot be replaced")
    parts = (readout.features.gate, readout.features.up) if isinstance(readout.features, Gated) else (readout.features,)
    return places, [part.bias for part in parts if isinstance(part, Neurons)]
