"""How a neuron axis passes operators that take entries of it, in any order, or join further entries to it.

    Slice, Split, Gather     some entries; who reads them sees some of the neurons, or sees them in another order
    Concat                   entries of others, or the neurons once more

A fused product makes a gate and what it multiplies at once. What takes it apart is met a first time as one that takes
some of the neurons; where parts with different neurons are then combined, the walk ends as `Halved`, and starts again
with the neurons standing on the axis several times.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Indices
from onnx_coreset.graph.rules import moves
from onnx_coreset.graph.rules.layout import Layout, arranged, others
from onnx_coreset.graph.rules.moves import LARGE, integers, mixed, placed, rank_of, rewritten, sizes_of
from onnx_coreset.graph.rules.sizes import Size
from onnx_coreset.graph.rules.values import Arrival, Choice, Count, Halved, Moved, Outcome, Value
from onnx_coreset.graph.skip import Stop


def _taken(value: Value, entries: Indices, rank: int) -> Value | None:
    """Return what an operator makes that takes `entries` of the axis; None where none of them is the space's."""
    part = Layout(value.layout.neurons[entries], value.layout.copies[entries])
    numbers, layout = arranged([(value.numbers, part)])
    return Value(numbers, value.axis, rank, layout, value.name) if numbers else None


def cut(arrival: Arrival) -> Outcome:
    """Slice: of other axes, of neighbouring entries of the neurons' axis, or of all of them backwards."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    if value is None or set(arrival.inside) != {0}:
        return mixed(node)
    starts, ends = _ends(arrival)
    axes = integers(arrival, "axes", 3)
    if axes is None and starts is not None and (len(node.inputs) < 4 or not node.inputs[3].name):
        axes = list(range(len(starts)))
    steps = integers(arrival, "steps", 4)
    if axes is None or rank is None:
        return mixed(node)
    here = [i for i, axis in enumerate(axes) if axis % rank == rank + value.axis]
    rest = [s for sizes in (starts, ends) for i, s in enumerate(sizes or ()) if i not in here]
    if any(s.along is not None for s in rest):
        return mixed(node)
    if not here:
        return Moved((placed(value, value.axis, rank),))
    if starts is None or ends is None or len(here) != 1:
        return mixed(node)
    return _stretch(
        arrival, value, here[0], (starts[here[0]], ends[here[0]]), 1 if steps is None else steps[here[0]], rank
    )


def _ends(arrival: Arrival) -> tuple[tuple[Size, ...] | None, tuple[Size, ...] | None]:
    """Return the bounds of a Slice, which were attributes before version 10."""
    node, reader = arrival.node, sizes_of(arrival)
    if arrival.document.opset < 10:
        written = [tuple(Size(value=int(n)) for n in node.attrs.get(name, ())) for name in ("starts", "ends")]
        return written[0], written[1]
    return reader.entries(node, 1), reader.entries(node, 2)


def _stretch(arrival: Arrival, value: Value, place: int, ends: tuple[Size, Size], step: int, rank: int) -> Outcome:
    """Return the entries between two bounds, which stand at `place` of the bounds of all axes."""
    node, layout = arrival.node, value.layout
    if step == -1 and ends[0].value == -1 and (ends[1].value or 0) <= -LARGE:
        backwards = np.arange(layout.size)[::-1]
        return Moved((_taken(value, backwards, rank),), (), (backwards,))
    bounds = [_bound(size, layout) for size in ends]
    if step != 1 or bounds[0] is None or bounds[1] is None:
        return mixed(node)
    entries = np.arange(bounds[0], max(bounds[0], bounds[1]))
    known = [(size, bound) for size, bound in zip(ends, bounds, strict=True) if bound is not None]
    found = [
        _followed(size, bound, node, layout)
        if arrival.document.opset >= 10
        else _attribute(name, place, size, bound, node, layout)
        for name, (size, bound) in zip(("starts", "ends"), known, strict=True)
    ]
    if any(counts is None for counts in found):
        copies = layout.size // max(entries.size, 1)
        even = copies > 1 and copies * entries.size == layout.size == arrival.width
        return Halved("reshape", "Slice takes some of the neurons", copies) if even else mixed(node)
    counts = tuple(count for part in found for count in part or ())
    return Moved((_taken(value, entries, rank),), counts, (entries,))


def _bound(size: Size, layout: Layout) -> int | None:
    """Return the entry that a bound of a slice names, or None where that is not known."""
    bound = int(size.along[-1]) if size.along is not None else size.value
    if bound is None:
        return None
    return min(max(bound + layout.size if bound < 0 else bound, 0), layout.size)


def _followed(size: Size, bound: int, node: gs.Node, layout: Layout) -> tuple[Count, ...] | None:
    """Return what to rewrite so that a bound stays where it is among the neurons, or None where that cannot be done."""
    if size.along is not None:
        before = Layout(layout.neurons[:bound], layout.copies[:bound]).totals(size.along.size)
        return () if before is not None and np.array_equal(size.along, before) else None
    if size.value == 0 or (size.value is not None and size.value >= layout.size and size.value >= LARGE):
        return ()
    return rewritten(size.literal, node, layout, bound)


def _attribute(name: str, place: int, size: Size, bound: int, node: gs.Node, layout: Layout) -> tuple[Count, ...]:
    """Return what to rewrite where bounds are attributes."""
    if size.value == 0 or (size.value is not None and size.value >= LARGE):
        return ()
    return (Count(node, -1 - ("starts", "ends").index(name), place, layout, 0, bound, name),)


def split(arrival: Arrival) -> Outcome:
    """Split: along other axes, or of the neurons into parts."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    if value is None or rank is None:
        return mixed(node)
    if int(node.attrs.get("axis", 0)) % rank != rank + value.axis:
        given = sizes_of(arrival).entries(node, 1) if len(node.inputs) > 1 else ()
        if given is None or any(size.along is not None for size in given):
            return mixed(node)
        return Moved(tuple(placed(value, value.axis, rank) for _ in node.outputs))
    lengths = _lengths(arrival, value)
    if lengths is None or sum(lengths) != value.layout.size:
        return mixed(node)
    ends = np.cumsum([0, *lengths])
    entries = tuple(np.arange(a, b) for a, b in pairwise(ends))
    attribute = "split" if arrival.document.opset < 13 else ""
    counts = tuple(
        Count(node, -1 if attribute else 1, i, value.layout, int(ends[i]), int(ends[i + 1]), attribute)
        for i in range(len(lengths))
    )
    if "split" not in node.attrs and not _given(node):
        # Parts that are equal whatever neurons there are need no sizes.
        owners = [value.layout.neurons[part] for part in entries]
        counts = () if all(np.array_equal(owner, owners[0]) for owner in owners) else counts
    return Moved(tuple(_taken(value, part, rank) for part in entries), counts, entries)


def _given(node: gs.Node) -> bool:
    return len(node.inputs) > 1 and bool(node.inputs[1].name)


def _lengths(arrival: Arrival, value: Value) -> list[int] | None:
    """Return how many entries each output of a Split takes, or None where that is not known, or not written there."""
    node, parts = arrival.node, len(arrival.node.outputs)
    if "split" in node.attrs:
        return [int(n) for n in node.attrs["split"]]
    if not _given(node):
        most = -(-value.layout.size // parts)
        return [most] * (parts - 1) + [value.layout.size - most * (parts - 1)]
    sizes = sizes_of(arrival).entries(node, 1)
    if sizes is None or any(s.literal is None or s.literal.node is not node for s in sizes):
        return None
    return [size.value for size in sizes if size.value is not None]


def gather(arrival: Arrival) -> Outcome:
    """Gather along other axes, or of neurons by constant indices."""
    node, value, rank = arrival.node, arrival.inside.get(0), rank_of(arrival)
    if value is None or rank is None or set(arrival.inside) != {0}:
        return mixed(node)
    if int(node.attrs.get("axis", 0)) % rank != rank + value.axis:
        return moves.gather(arrival)
    indices = arrival.document.constant(node.inputs[1])
    if indices is None or indices.ndim != 1:
        return mixed(node)
    named = indices.astype(np.intp)
    entries = np.where(named < 0, named + value.layout.size, named)
    made = _taken(value, entries, rank)
    result = made.layout if made is not None else others(entries.size)
    return Moved((made,), (), (entries,), Choice(node, 1, value.layout, result, entries))


def concat(arrival: Arrival) -> Outcome:
    """Concat of the neurons, once or several times, with entries of others, along their axis."""
    node, values = arrival.node, list(arrival.inside.values())
    value = values[0]
    index = next(iter(arrival.inside))
    rank = value.rank if value.rank is not None else arrival.document.shapes.rank(node.inputs[index])
    axis = int(node.attrs.get("axis", 1))
    if rank is None or any(other.axis != value.axis for other in values):
        return mixed(node)
    if axis % rank != rank + value.axis:
        same = all((other.numbers, other.layout) == (value.numbers, value.layout) for other in values)
        if same and len(values) == len(node.inputs):
            return Moved((placed(value, value.axis, rank),))
        return Stop("reshape", "Concat joins the neurons with other tensors along another axis")
    axes: list[tuple[tuple[int, ...], Layout]] = []
    for place, tensor in enumerate(node.inputs):
        inside = arrival.inside.get(place)
        length = 0 if inside is not None else _length(arrival, tensor, value.axis)
        if length is None:
            return Stop("reshape", "Concat joins the neurons with a tensor of unknown size")
        axes.append((inside.numbers, inside.layout) if inside is not None else ((), others(length)))
    numbers, layout = arranged(axes)
    return Moved((Value(numbers, value.axis, rank, layout, value.name or node.inputs[index].name),), joins=True)


def _length(arrival: Arrival, tensor: gs.Tensor, axis: int) -> int | None:
    """Return how long a tensor is along an axis, or None where that is not known."""
    shape = arrival.document.constant_shape(tensor) or arrival.document.shapes.of(tensor)
    length = shape[axis] if shape is not None and len(shape) >= -axis else None
    return length if isinstance(length, int) else None
