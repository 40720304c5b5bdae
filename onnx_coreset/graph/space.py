"""Following one neuron axis, from the linear operators that make it to the linear operators that consume it.

From the producer's output the walk visits readers in the order of the graph, so that every operand that belongs to the
space is known when a node is reached: x * sigmoid(x) needs no rule of its own. It ends in linear operators that sum
over the axis, or at the first thing that is neither elementwise nor a move of whole neurons, with the reason. Where
that is a product with another layer of the same input, or a cut into halves, the walk starts again with both as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import onnx
import onnx_graphsurgeon as gs

from onnx_coreset.graph.consumers import Consumer
from onnx_coreset.graph.model.document import Document, Scope
from onnx_coreset.graph.model.equal import equal_to
from onnx_coreset.graph.producers import Producer, producer
from onnx_coreset.graph.region import Region
from onnx_coreset.graph.rules.layout import Layout
from onnx_coreset.graph.rules.values import Halved, Joined
from onnx_coreset.graph.skip import Skip, Stop
from onnx_coreset.graph.walk import Walk

# An index array of more is no plan for a layer but for a machine to run out of memory.
_WIDEST = 1 << 24


@dataclass(frozen=True)
class Space:
    """A neuron axis that can be narrowed.

    Attributes:
        name: The hidden tensor: what the first consumer reads, or what enters the Concat that it reads; with the name
            of the branch where other branches have a tensor of that name too.
        producers: The linear operators that make the neurons: one, or several that are combined, as a gate and factor.
        region: What stands between.
        consumers: The linear operators that sum over the neurons, with the numbers of the values each reads.
        layouts: For each consumer, where the neurons stand among its inputs.
        width: Number of neurons n.
    """

    name: str
    producers: tuple[Producer, ...]
    region: Region
    consumers: tuple[tuple[Consumer, tuple[int, ...]], ...]
    layouts: tuple[Layout, ...]
    width: int

    @property
    def producer(self) -> Producer:
        """The first producer."""
        return self.producers[0]

    @property
    def input_axis(self) -> int:
        """Axis of the layer's input, counted from the end, that its features run along."""
        return self.producer.dense.axes.data_axis

    @property
    def input_rank(self) -> int | None:
        """Number of axes that the linear operators want their data to have, or None for any."""
        products = (self.producer.dense, *(reader.dense for reader, _ in self.consumers))
        return next((p.axes.rank for p in products if p.axes.rank is not None), None)

    def nodes(self) -> Iterator[gs.Node]:
        """Yield every node between the layer's input and its readouts' outputs, both ends included."""
        for maker in self.producers:
            yield maker.dense.node
        yield from self.region.nodes
        for reader, _ in self.consumers:
            yield reader.dense.node
            bias = reader.bias()
            if bias is not None and bias.node is not reader.dense.node:
                yield bias.node

    def slots(self) -> Iterator[tuple[gs.Node, int]]:
        """Yield every constant the space owns, as (node, index of the input)."""
        for maker in self.producers:
            yield maker.dense.node, maker.dense.weight
            if maker.dense.third() is not None:
                yield maker.dense.node, 2
        for at in self.region.constants():
            yield at.node, at.index
        for group in self.region.counts():
            if not group[0].attribute and group[0].index < len(group[0].node.inputs):
                yield group[0].node, group[0].index
        for choice in self.region.choices():
            yield choice.node, choice.index
        for reader, _ in self.consumers:
            yield reader.dense.node, reader.dense.weight
            bias = reader.bias()
            if bias is not None:
                yield bias.node, bias.index


def spaces(document: Document) -> Iterator[Space | Skip]:
    """Yield every neuron axis of the model, in the order of the graph, as a Space or as a Skip with the reason.

    Args:
        document: The model; its graphs must be topologically sorted. O(nodes).
    """
    functions = _layered(document)
    names: set[str] = set()
    for scope in document.scopes:
        position = {id(node): index for index, node in enumerate(scope.graph.nodes)}
        taken: set[int] = set()
        for node in scope.graph.nodes:
            if (node.domain or "", node.op) in functions and node.outputs:
                yield Skip(node.outputs[0].name, "inside a model-local function: use --inline-functions", "function")
                continue
            found = None if id(node) in taken else producer(document, node)
            if isinstance(found, Stop):
                yield Skip(node.outputs[0].name, found.reason, found.code)
            elif found is not None:
                place = follow(document, scope, found, position)
                if isinstance(place, Space):
                    taken.update(id(maker.dense.node) for maker in place.producers)
                    place = replace(place, name=_unlike(place.name, scope, names))
                    names.add(place.name)
                yield place


def _unlike(name: str, scope: Scope, names: set[str]) -> str:
    """Return a name for a layer that no other has: branches may give their tensors the same names."""
    label = name if name not in names or not scope.path else f"{name} ({scope.path[-1][1]})"
    found, count = label, 2
    while found in names:
        found, count = f"{label} #{count}", count + 1
    return found


def _layered(document: Document) -> frozenset[tuple[str, str]]:
    """Return the model-local functions that hold linear layers, as (domain, name)."""
    bodies = {(f.domain, f.name): f for f in document.proto.functions}
    found: set[tuple[str, str]] = set()
    while True:
        more = {key for key, body in bodies.items() if key not in found and _holds_layer(body.node, found)}
        if not more:
            return frozenset(found)
        found |= more


def _holds_layer(nodes: Iterable[onnx.NodeProto], known: set[tuple[str, str]]) -> bool:
    return any(
        node.op_type in ("Gemm", "MatMul", "Conv", "ConvTranspose")
        or (node.domain, node.op_type) in known
        or any(_holds_layer(a.g.node, known) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
        for node in nodes
    )


def follow(document: Document, scope: Scope, start: Producer, position: dict[int, int]) -> Space | Skip:
    """Follow the neurons that `start` makes.

    Args:
        document: The model.
        scope: The graph that `start` is in.
        start: The producer.
        position: Index of each node of that graph, by identity.

    Returns:
        The space, or the reason why the neurons cannot be narrowed.
    """
    if start.width > _WIDEST:
        return Skip(start.output.name, f"the layer has more than {_WIDEST} neurons", "width", start.width)
    makers: tuple[Producer, ...] = (start,)
    copies = 1
    found = _walked(document, makers, copies, position)
    if isinstance(found, Halved) and start.width % found.copies == 0:
        copies = found.copies
        found = _walked(document, makers, copies, position)
    while isinstance(found, Joined) and found.tensor is not None and copies == 1:
        other = _partner(document, makers, found.tensor, position)
        if other is None:
            break
        makers = tuple(sorted((*makers, other), key=lambda maker: position[id(maker.dense.node)]))
        found = _walked(document, makers, copies, position)
    width = start.width // copies
    if not isinstance(found, Stop) and width < 2:
        found = Stop("width", "the layer has a single neuron")
    if isinstance(found, Stop):
        return Skip(start.output.name, found.reason, found.code, start.width)
    first, value = found.consumers[0]
    consumers = tuple((linear, seen.numbers) for linear, seen in found.consumers)
    layouts = tuple(seen.layout for _, seen in found.consumers)
    region = found.region(len(makers) * copies)
    return Space(value.name or first.hidden.name, makers, region, consumers, layouts, width)


def _walked(document: Document, makers: tuple[Producer, ...], copies: int, position: dict[int, int]) -> Walk | Stop:
    walk = Walk(document, position, makers[0].width // copies)
    return walk.run(makers, copies) or walk


def _partner(
    document: Document, makers: tuple[Producer, ...], tensor: gs.Tensor, position: dict[int, int]
) -> Producer | None:
    """Return a further layer of the same width and input that `tensor` comes from, or None. O(nodes)."""
    start = makers[0]
    known = {id(maker.dense.node) for maker in makers}
    before: dict[int, gs.Node] = {}
    waiting = list(tensor.inputs)
    while waiting:
        node = waiting.pop()
        if id(node) not in before and id(node) in position:
            before[id(node)] = node
            waiting += [maker for read in node.inputs for maker in read.inputs]
    wanted = equal_to(document, start.input)
    for node in sorted(before.values(), key=lambda node: -position[id(node)]):
        other = None if id(node) in known else producer(document, node)
        if not isinstance(other, Producer) or other.width != start.width:
            continue
        if other.dense.axes.data_axis == start.dense.axes.data_axis and equal_to(document, other.input) == wanted:
            return other
    return None
