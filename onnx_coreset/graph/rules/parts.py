"""How a neuron axis passes operators that cut along it or join other entries to it.

A fused product makes a gate and what it multiplies at once; a Slice or Split that takes it apart is met a first time
with the neurons on the axis once, and ends the walk as `Halved`, and a second time with both halves known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.graph.rules.moves import LARGE, integers, mixed, placed, rank_of, rewritten, sizes_of
from onnx_coreset.graph.rules.sizes import Size
from onnx_coreset.graph.rules.values import PLAIN, Arrival, Count, Halved, Layout, Moved, Outcome, Value
from onnx_coreset.graph.skip import Stop


def cut(arrival: Arrival) -> Outcome:
    """Slice: of other axes, or one half of the neurons of a fused product."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    if value is None or set(arrival.inside) != {0} or arrival.document.opset < 10:
        return mixed(node)
    reader = sizes_of(arrival)
    starts, ends = reader.entries(node, 1), reader.entries(node, 2)
    axes = integers(arrival, "axes", 3)
    if axes is None and starts is not None and (len(node.inputs) < 4 or not node.inputs[3].name):
        axes = list(range(len(starts)))
    steps = integers(arrival, "steps", 4)
    if axes is None or rank is None:
        return mixed(node)
    here = [i for i, axis in enumerate(axes) if axis % rank == rank + value.axis]
    others = [s for sizes in (starts, ends) for i, s in enumerate(sizes or ()) if i not in here]
    if any(s.along is not None for s in others):
        return mixed(node)
    if not here:
        return Moved((placed(value, value.axis, rank),))
    if starts is None or ends is None or len(here) != 1 or (steps is not None and steps[here[0]] != 1):
        return mixed(node)
    return _part(arrival, value, (starts[here[0]], ends[here[0]]), rank)


def _part(arrival: Arrival, value: Value, ends: tuple[Size, Size], rank: int) -> Outcome:
    """Return which copy of the neurons a slice takes."""
    node, width = arrival.node, arrival.width
    if value.layout == PLAIN and len(value.numbers) == 1:
        now = [int(s.along[-1]) if s.along is not None else s.value for s in ends]
        if width % 2 == 0 and now[0] in (0, width // 2) and now[1] is not None and now[1] in (width // 2, width):
            return Halved("reshape", "Slice takes some of the neurons")
        halves = now[0] == width // 2 and now[1] is not None and now[1] > width
        return Halved("reshape", "Slice takes some of the neurons") if halves else mixed(node)
    if value.layout != Layout(copies=len(value.numbers)):
        return mixed(node)
    for copy, number in enumerate(value.numbers):
        last = copy == len(value.numbers) - 1
        found = [_bound(s, node, copy + i, width, last and i == 1) for i, s in enumerate(ends)]
        if all(counts is not None for counts in found):
            counts = tuple(count for part in found for count in part or ())
            return Moved((Value((number,), value.axis, rank),), counts, (copy,))
    return mixed(node)


def _bound(size: Size, node: gs.Node, factor: int, width: int, end: bool) -> tuple[Count, ...] | None:
    """Return what to rewrite so that a bound of a slice stays `factor` times the number of neurons, or None."""
    if size.along is not None:
        return () if np.array_equal(size.along, factor * np.arange(1, width + 1)) else None
    if size.value is not None and end and size.value >= LARGE:
        return ()
    if size.value != factor * width:
        return None
    return () if factor == 0 else rewritten(size.literal, node, factor, 0)


def split(arrival: Arrival) -> Outcome:
    """Split: along other axes, or into the halves of a fused product."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    if value is None or rank is None or arrival.document.opset < 10:
        return mixed(node)
    if int(node.attrs.get("axis", 0)) % rank != rank + value.axis:
        given = sizes_of(arrival).entries(node, 1) if len(node.inputs) > 1 else ()
        if given is None or any(size.along is not None for size in given):
            return mixed(node)
        return Moved(tuple(placed(value, value.axis, rank) for _ in node.outputs))
    parts = len(node.outputs)
    if value.layout == PLAIN and len(value.numbers) == 1 and parts == 2 and arrival.width % 2 == 0:
        return Halved("reshape", "Split cuts the neurons into parts")
    if len(value.numbers) != parts or value.layout != Layout(copies=parts):
        return mixed(node)
    counts: tuple[Count, ...] = ()
    if "split" in node.attrs:
        sizes = [Size(value=int(n)) for n in node.attrs["split"]]
        counts = tuple(Count(node, -1, i, attribute="split") for i in range(parts))
    elif len(node.inputs) > 1 and node.inputs[1].name:
        sizes = list(sizes_of(arrival).entries(node, 1) or ())
        direct = all(s.literal is not None and s.literal.node is node for s in sizes)
        counts = tuple(Count(node, 1, i) for i in range(parts))
        if not direct:
            return mixed(node)
    else:
        sizes = [Size(value=arrival.width)] * parts
    if [s.value for s in sizes] != [arrival.width] * parts:
        return mixed(node)
    return Moved(tuple(Value((number,), value.axis, rank) for number in value.numbers), counts, tuple(range(parts)))


def concat(arrival: Arrival) -> Outcome:
    """Concat of the neurons with entries of others, along their axis."""
    node = arrival.node
    if len(arrival.inside) != 1:
        return Stop("reshape", "Concat joins two arrangements of the neurons")
    ((index, value),) = arrival.inside.items()
    rank = value.rank if value.rank is not None else arrival.document.shapes.rank(node.inputs[index])
    axis = int(node.attrs.get("axis", 1))
    if rank is None:
        return mixed(node)
    if axis % rank != rank + value.axis:
        return Stop("reshape", "Concat joins the neurons with other tensors along another axis")
    sides = (node.inputs[:index], node.inputs[index + 1 :])
    sizes = [_lengths(arrival, tensors, value.axis) for tensors in sides]
    before, after = sizes
    if before is None or after is None:
        return Stop("reshape", "Concat joins the neurons with a tensor of unknown size")
    layout = Layout(value.layout.copies, value.layout.before + before, value.layout.after + after)
    name = value.name or node.inputs[index].name
    return Moved((Value(value.numbers, value.axis, rank, layout, name),))


def _lengths(arrival: Arrival, tensors: Sequence[gs.Tensor], axis: int) -> int | None:
    """Return how long tensors are together along an axis, or None where that is not known."""
    total = 0
    for tensor in tensors:
        shape = arrival.document.constant_shape(tensor) or arrival.document.shapes.of(tensor)
        length = shape[axis] if shape is not None and len(shape) >= -axis else None
        if not isinstance(length, int):
            return None
        total += length
    return total
