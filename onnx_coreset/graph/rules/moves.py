"""How a neuron axis passes operators that only move it: reshapes, transpositions, expansions.

The axis stays whole or the walk ends: a Reshape must be seen, size by size, to leave the neurons together. Integers
that spell out the number of neurons are noted as `Count`s, to be rewritten when it changes; sizes computed from the
tensor's own shape must come out right for every number of neurons.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Indices
from onnx_coreset.graph.rules.layout import Layout
from onnx_coreset.graph.rules.sizes import Literal, Reader, Size, Sizes, same_product
from onnx_coreset.graph.rules.values import Arrival, Count, Moved, Outcome, Value
from onnx_coreset.graph.skip import Stop

LARGE = 2**30


def mixed(node: gs.Node) -> Stop:
    """Return the reason why neurons do not pass an operator that rearranges them."""
    return Stop("reshape", f"{node.op} rearranges the neurons")


def sizes_of(arrival: Arrival) -> Reader:
    """Return a reader of the sizes that the graph computes."""
    return Reader(arrival.document, arrival.values, arrival.width)


def rank_of(arrival: Arrival) -> int | None:
    """Return the number of axes of the first input, or None where that is not known or it is not the space's."""
    value = arrival.inside.get(0)
    known = value is None or value.rank is not None
    return (
        (value.rank if value is not None else None) if known else arrival.document.shapes.rank(arrival.node.inputs[0])
    )


def placed(value: Value, axis: int, rank: int | None) -> Value:
    """Return `value` with its neurons at another axis."""
    return Value(value.numbers, axis, rank, value.layout, value.name)


def integers(arrival: Arrival, name: str, index: int = 1) -> list[int] | None:
    """Return a list of integers that is an attribute, or since later versions a constant input; None where neither."""
    node = arrival.node
    if name in node.attrs:
        return [int(v) for v in np.asarray(node.attrs[name]).reshape(-1)]
    if len(node.inputs) <= index or not node.inputs[index].name:
        return None
    numbers = arrival.document.constant(node.inputs[index])
    return None if numbers is None else [int(v) for v in numbers.reshape(-1)]


def rewritten(
    literal: Literal | None, node: gs.Node, layout: Layout, stop: int | None = None
) -> tuple[Count, ...] | None:
    """Return what has to be rewritten where the number of the entries before `stop` is written at `literal`.

    None where that cannot be done.
    """
    if literal is None:
        return None
    direct = literal.node is node or any(out is t for out in literal.node.outputs for t in node.inputs)
    return (Count(literal.node, literal.index, literal.position, layout, 0, stop),) if direct else None


def reshape(arrival: Arrival) -> Outcome:
    """Reshape, where the neurons stay together."""
    node, value = arrival.node, arrival.inside.get(0)
    if value is None or len(node.inputs) < 2:
        return mixed(node)
    reader = sizes_of(arrival)
    source, target = reader.shape(node.inputs[0]), reader.entries(node, 1)
    totals = value.layout.totals(arrival.width)
    ranked = source is not None
    if source is None and value.axis == -1:
        source = (Size.unknown(), Size(along=totals))
    if totals is None:
        return Stop("reshape", f"{node.op} rearranges some of the neurons")
    if source is None or target is None:
        return Stop("reshape", "Reshape has sizes that cannot be told")
    if node.attrs.get("allowzero", 0) and any(size.value == 0 for size in target):
        return Stop("reshape", "Reshape makes a tensor without entries")
    place = len(source) + value.axis
    for axis in range(len(target)):
        if not _whole(source, place, target, axis, totals, ranked):
            continue
        counts: tuple[Count, ...] | None = ()
        if target[axis].value == value.layout.size:
            counts = rewritten(target[axis].literal, node, value.layout)
        if counts is not None:
            return Moved((placed(value, axis - len(target), len(target)),), counts)
    return mixed(node)


def _whole(source: Sizes, place: int, target: Sizes, axis: int, totals: Indices, ranked: bool) -> bool:
    """Return whether a Reshape surely takes axis `place` of `source` to axis `axis` of `target`, as a whole."""
    size, guess = target[axis], next((i for i, s in enumerate(target) if s.value == -1), None)
    if size.along is not None:
        here = np.array_equal(size.along, totals)
    else:
        here = guess == axis or (size.value == 0 and ranked and axis == place) or size.value == totals[-1]
    out = [
        (source[i] if ranked and i < len(source) else Size.unknown()) if s.value == 0 else s
        for i, s in enumerate(target)
    ]
    sides = [(source[:place], out[:axis]), (source[place + 1 :], out[axis + 1 :])]
    if not here or any(s.along is not None for _, after in sides for s in after):
        return False
    equal = [same_product(before, after) for before, after in sides]
    if guess is None:
        return any(equal)
    return all(equal) if guess == axis else equal[1] if guess < axis else equal[0]


def flatten(arrival: Arrival) -> Outcome:
    """Flatten, where every other axis that it merges with the neurons' has size one."""
    node, value = arrival.node, arrival.inside[0]
    source = sizes_of(arrival).shape(node.inputs[0])
    if source is None:
        return Stop("reshape", "Flatten has sizes that cannot be told")
    cut = int(node.attrs.get("axis", 1))
    cut += len(source) if cut < 0 else 0
    place = len(source) + value.axis
    group = source[:cut] if place < cut else source[cut:]
    if any(size.value != 1 for size in group if size.along is None):
        return mixed(node)
    return Moved((placed(value, -2 if place < cut else -1, 2),))


def transpose(arrival: Arrival) -> Outcome:
    """Transpose: the axis has another place."""
    value = arrival.inside[0]
    order, rank = integers(arrival, "perm", LARGE), rank_of(arrival)
    if order is None and rank is not None:
        order = list(range(rank))[::-1]
    if order is None:
        return Stop("reshape", "Transpose has a rank that cannot be told")
    if len(order) + value.axis not in order:
        return Stop("reshape", "Transpose has an order that is none")
    axis = order.index(len(order) + value.axis)
    return Moved((placed(value, axis - len(order), len(order)),))


def squeeze(arrival: Arrival) -> Outcome:
    """Squeeze of named axes, none of them the neurons'."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    axes = integers(arrival, "axes")
    if len(node.inputs) < 2 and "axes" not in node.attrs:
        return Stop("reshape", "Squeeze names no axes: where one neuron is left, it would remove theirs too")
    if value is None or axes is None or rank is None:
        return mixed(node)
    gone = {axis % rank for axis in axes}
    place = rank + value.axis
    if place in gone:
        return mixed(node)
    return Moved((placed(value, value.axis + sum(axis > place for axis in gone), rank - len(gone)),))


def unsqueeze(arrival: Arrival) -> Outcome:
    """Unsqueeze: further axes of size one."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    axes = integers(arrival, "axes")
    if value is None or axes is None or rank is None:
        return mixed(node)
    new = {axis % (rank + len(axes)) for axis in axes}
    left = [i for i in range(rank + len(axes)) if i not in new]
    place = left[rank + value.axis]
    return Moved((placed(value, place - rank - len(axes), rank + len(axes)),))


def expand(arrival: Arrival) -> Outcome:
    """Expand along other axes than the neurons'."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    reader = sizes_of(arrival)
    target = reader.entries(node, 1) if value is not None else None
    if value is None or target is None or rank is None:
        return Stop("reshape", "Expand has sizes that cannot be told")
    counts: tuple[Count, ...] | None = ()
    if len(target) >= -value.axis:
        size, layout = target[value.axis], value.layout
        totals = layout.totals(arrival.width)
        if any(s.along is not None for s in target if s is not size):
            return mixed(node)
        if size.along is not None:
            counts = () if totals is not None and np.array_equal(size.along, totals) else None
        elif size.value != 1:
            counts = rewritten(size.literal, node, layout) if size.value == layout.size else None
    if counts is None:
        return mixed(node)
    return Moved((placed(value, value.axis, max(rank, len(target))),), counts)


def gather(arrival: Arrival) -> Outcome:
    """Gather along another axis than the neurons'."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    if value is None or rank is None or 1 in arrival.inside:
        return mixed(node)
    shape = arrival.document.constant_shape(node.inputs[1])
    indices = len(shape) if shape is not None else arrival.document.shapes.rank(node.inputs[1])
    axis, place = int(node.attrs.get("axis", 0)) % rank, rank + value.axis
    if indices is None or axis == place:
        return mixed(node)
    new = rank + indices - 1
    return Moved((placed(value, value.axis if axis < place else value.axis - indices + 1, new),))
