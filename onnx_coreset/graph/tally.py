"""What the widths of chains cost in parameters, found by writing every chain once with half of its neurons.

Written in place into one document, each cut shows on its own which constants it changes, along which axis and by how
much; no rule about where a layer keeps its numbers has to be repeated. Where some neurons are read more often than
others, the cost depends on which ones stay, and the tally is a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_coreset.core.layer import Coreset, HiddenLayer, restrict
from onnx_coreset.core.tally import Axis, Reader, Tally, Tensor
from onnx_coreset.graph.cut import current
from onnx_coreset.graph.lens import write
from onnx_coreset.graph.model.codec import decode
from onnx_coreset.graph.model.document import Document, Numbers, constant_node
from onnx_coreset.graph.model.facts import parameters
from onnx_coreset.graph.space import Space

_FEW = 1024


@dataclass
class _Slot:
    """One constant that chains may change, by where it is read.

    Attributes:
        node: The reader, held so that its identity stays its own.
        index: Which of its inputs.
        root: What stored the numbers; None for a constant that a cut inserted.
        size: How many were stored.
        lengths: Its axes where no chain is cut along them.
        cuts: (axis, chain, entries that go with a neuron).
        chains: The chains that change it.
    """

    node: gs.Node
    index: int
    root: gs.Tensor | None
    size: int
    lengths: tuple[int, ...]
    cuts: list[tuple[int, int, float]] = field(default_factory=list)
    chains: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _State:
    """What a slot holds at one time; the numbers only where something else reads them too, or where they are few."""

    root: gs.Tensor
    shape: tuple[int, ...]
    numbers: Numbers | None


def tally(model: onnx.ModelProto, layers: Mapping[str, HiddenLayer], constant_inputs: bool = False) -> Tally:
    """Return the parameters of the written model as a function of the widths of chains.

    Args:
        model: The original, in topological order; it is not changed.
        layers: The layers that may be cut, by name of the space; chain c is the c-th of them.
        constant_inputs: As for `decode`.

    Returns:
        The tally. O(parameters of the layers).
    """
    document = decode(model, constant_inputs)
    names = {name: index for index, name in enumerate(layers)}
    slots: dict[tuple[int, int], _Slot] = {}
    for space in current(document, names):
        _probe(document, space, layers[space.name], names[space.name], slots)
    return Tally(tuple(layer.width for layer in layers.values()), parameters(model), _tensors(document, slots))


def fewer(layer: HiddenLayer, width: int, shift: float = 1.0) -> Coreset:
    """Return a coreset of the first `width` neurons, its constants moved by `shift` wherever they may change."""
    plain = restrict(layer, np.arange(width))
    moved = tuple(c + shift * r.constant_allowed for c, r in zip(plain.constant, layer.readouts, strict=True))
    return Coreset(plain.kept, plain.outgoing, moved)


def _probe(
    document: Document, space: Space, layer: HiddenLayer, chain: int, slots: dict[tuple[int, int], _Slot]
) -> None:
    """Write a chain with half of its neurons, and note what that changes."""
    before = []
    for node, index in space.slots():
        known = slots.get((id(node), index))
        state = _state(document, node, index, known is not None and known.root is None)
        if state is not None:
            slot = _Slot(node, index, state.root, _counted(state), state.shape)
            before.append((slots.setdefault((id(node), index), slot), state))
    bare = [consumer for consumer, _ in space.consumers if consumer.bias() is None]
    width = (layer.width + 1) // 2
    # Layers that are read together share a constant: what one wrote is not what the next one writes.
    write(document, space, fewer(layer, width, 1.0 + chain))
    for slot, state in before:
        after = _state(document, slot.node, slot.index, state.numbers is not None)
        if after is not None:
            _note(slot, chain, layer.width - width, state, after)
    for consumer in bare:
        bias = consumer.bias()
        if bias is not None:
            slots[id(bias.node), bias.index] = _Slot(bias.node, bias.index, None, 0, bias.shape, chains={chain})


def _state(document: Document, node: gs.Node, index: int, asked: bool = False) -> _State | None:
    source = document.source(node.inputs[index])
    if source is None:
        return None
    asked |= math.prod(source.shape) <= _FEW or document.shared(node, index)
    return _State(source.root, source.shape, document.constant(node.inputs[index]) if asked else None)


def _counted(state: _State) -> int:
    """Return how many parameters of the original a slot reads; lists of plain numbers in a node are none."""
    holder = constant_node(state.root)
    return 0 if holder is not None and "value" not in holder.attrs else math.prod(state.shape)


def _note(slot: _Slot, chain: int, gone: int, before: _State, after: _State) -> None:
    """Note what a cut that took `gone` neurons away did to a constant."""
    if math.prod(after.shape) > math.prod(before.shape):
        # A bias that was one number for all outputs.
        slot.lengths = after.shape
    elif before.shape != after.shape:
        # An inserted constant that is cut belongs to the layer in front, which is what inserts it.
        if slot.root is not None:
            slot.chains.add(chain)
        sizes = enumerate(zip(before.shape, after.shape, strict=True))
        slot.cuts += [(axis, chain, (old - new) / gone) for axis, (old, new) in sizes if old != new]
        return
    elif before.root is after.root and _equal(before.numbers, after.numbers):
        return
    slot.chains.add(chain)


def _equal(before: Numbers | None, after: Numbers | None) -> bool:
    """Return whether numbers are the same, as far as they were looked at."""
    return before is None or after is None or np.array_equal(before, after)


def _tensors(document: Document, slots: Mapping[tuple[int, int], _Slot]) -> tuple[Tensor, ...]:
    """Return the stored tensors, once every chain is written."""
    groups: dict[int, list[_Slot]] = {}
    for slot in slots.values():
        groups.setdefault(id(slot if slot.root is None else slot.root), []).append(slot)
    sources = [document.source(slot.node.inputs[slot.index]) for slot in slots.values()]
    read = {id(source.root) for source in sources if source is not None}
    tensors = []
    for group in groups.values():
        root = group[0].root
        left = root is not None and id(root) not in read and (bool(root.outputs) or document.is_output(root))
        tensors.append(Tensor(group[0].size, tuple(map(_reader, group)), left))
    return tuple(tensors)


def _reader(slot: _Slot) -> Reader:
    axes = [
        Axis(length, tuple((chain, each) for at, chain, each in slot.cuts if at == axis))
        for axis, length in enumerate(slot.lengths)
    ]
    return Reader(tuple(axes), frozenset(slot.chains))
