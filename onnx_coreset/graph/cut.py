"""Writing many coresets into one model.

Each coreset was made for the layer as it stands in the original. Chains are written in topological order: the consumer
of one is often the producer of the next, and what is inserted behind the first stands in front of the second, so a
space is followed anew when its turn comes. Where a Concat brings several chains to one consumer, what each adds to the
consumer's constant is added up. A chain whose cut would not leave fewer parameters in the file stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.layer import Coreset
from onnx_coreset.graph.lens import write
from onnx_coreset.graph.model.codec import decode, encode
from onnx_coreset.graph.model.document import Document, Numbers
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.graph.producers import Producer, producer
from onnx_coreset.graph.space import Space, follow, spaces

Store = Callable[[str, Numbers], onnx.TensorProto | None]


def cut(
    model: onnx.ModelProto,
    coresets: Mapping[str, Coreset],
    constant_inputs: bool = False,
    store: Store | None = None,
) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Return `model` with every coreset written that makes it smaller.

    Args:
        model: The original model, in topological order; it is not changed.
        coresets: Coreset by name of the space, made for the original.
        constant_inputs: As for `decode`.
        store: Where numbers are put as soon as they are written, as for `put_away`; None to hold them in memory.

    Returns:
        The narrower model, and the names of the chains left whole: cutting them would not leave fewer parameters.
    """
    wanted = dict(coresets)
    document = decode(model, constant_inputs)
    places = _called_for(document, wanted)
    doubtful = _doubtful(document, places, wanted)
    result = _written(document, places, wanted, store)
    dropped: set[str] = set()
    for group in doubtful:
        rest = {name: coreset for name, coreset in wanted.items() if name not in group}
        without = written(model, rest, constant_inputs, store)
        if parameters(result) >= parameters(without):
            result, wanted = without, rest
            dropped |= group
    return result, frozenset(dropped)


def written(
    model: onnx.ModelProto,
    coresets: Mapping[str, Coreset],
    constant_inputs: bool = False,
    store: Store | None = None,
) -> onnx.ModelProto:
    """Return `model` with every coreset written, whether that makes it smaller or not.

    Args:
        model: As for `cut`.
        coresets: As for `cut`.
        constant_inputs: As for `decode`.
        store: As for `cut`.
    """
    document = decode(model, constant_inputs)
    return _written(document, _called_for(document, coresets), coresets, store)


def _written(
    document: Document, places: Sequence[Space], coresets: Mapping[str, Coreset], store: Store | None
) -> onnx.ModelProto:
    """Write the coresets of places of a document, which is of no use afterwards."""
    before = {space.name: _constants(space) for space in places}
    for space in _current(document, places):
        coreset = coresets[space.name]
        moved = [new - old for new, old in zip(_constants(space), before[space.name], strict=True)]
        if not coreset.bare and any(shift.any() for shift in moved):
            constant = tuple(c + shift for c, shift in zip(coreset.constant, moved, strict=True))
            coreset = replace(coreset, constant=constant)
        write(document, space, coreset)
        if store is not None:
            document.put_away(store)
    return encode(document, spent=True)


def _constants(space: Space) -> list[Array]:
    """Return the constant of each consumer as it now is."""
    return [consumer.constant() for consumer, _ in space.consumers]


def current(document: Document, names: Container[str]) -> Iterator[Space]:
    """Yield the spaces called for, each as the graph is when its turn comes."""
    yield from _current(document, _called_for(document, names))


def _current(document: Document, places: Sequence[Space]) -> Iterator[Space]:
    for space in places:
        node = space.producer.dense.node
        scope = document.scope_of(node)
        again = producer(document, node)
        assert scope is not None and isinstance(again, Producer)
        position = {id(n): index for index, n in enumerate(scope.graph.nodes)}
        now = follow(document, scope, again, position)
        assert isinstance(now, Space)
        yield replace(now, name=space.name)


def _called_for(document: Document, names: Container[str]) -> list[Space]:
    return [space for space in spaces(document) if isinstance(space, Space) and space.name in names]


def _doubtful(document: Document, places: Sequence[Space], coresets: Mapping[str, Coreset]) -> list[set[str]]:
    """Return groups of chains whose cut may not pay: they copy a shared constant, or insert one."""
    groups: list[tuple[set[str], set[int]]] = []
    for space in places:
        slots = [(document.source(node.inputs[i]), document.shared(node, i)) for node, i in space.slots()]
        shared = {id(source.root) for source, others in slots if source is not None and others}
        if not shared and not _inserts(space, coresets[space.name]):
            continue
        members = {space.name}
        for group in [g for g in groups if g[1] & shared]:
            groups.remove(group)
            members |= group[0]
            shared |= group[1]
        groups.append((members, shared))
    return [members for members, _ in groups]


def _inserts(space: Space, coreset: Coreset) -> bool:
    """Return whether writing `coreset` adds a constant, or makes one larger."""
    if coreset.bare:
        return False
    for (consumer, _), constant in zip(space.consumers, coreset.constant, strict=True):
        bias = consumer.bias()
        small = bias is None or int(np.prod(bias.shape)) < consumer.outputs
        if small and not np.array_equal(constant, consumer.constant()):
            return True
    return False
