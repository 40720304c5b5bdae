"""Following one neuron axis, from the linear operator that makes it to the linear operators that consume it.

From the producer's output the walk visits readers in the order of the graph, so that every operand that belongs to the
space is known when a node is reached: x * sigmoid(x) needs no rule of its own. It ends in linear operators that sum
over the axis, or at the first thing that is neither elementwise nor linear, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

import onnx_graphsurgeon as gs

from onnx_coreset.graph.consumers import Consumer, consumer
from onnx_coreset.graph.document import Document, Scope
from onnx_coreset.graph.producers import Producer, producer
from onnx_coreset.graph.region import Region
from onnx_coreset.graph.rules import Arrival, ConstantAt, Elementwise, Same, Value, outcome, stopped
from onnx_coreset.graph.skip import Skip, Stop


@dataclass(frozen=True)
class Space:
    """A neuron axis that can be narrowed.

    Attributes:
        name: The hidden tensor: what the first consumer reads.
        producer: The linear operator that makes the neurons.
        region: What stands between.
        consumers: The linear operators that sum over the neurons, with the number of the value each reads.
        width: Number of neurons n.
    """

    name: str
    producer: Producer
    region: Region
    consumers: tuple[tuple[Consumer, int], ...]
    width: int

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
        yield self.producer.dense.node
        yield from self.region.nodes
        for reader, _ in self.consumers:
            yield reader.dense.node
            bias = reader.bias()
            if bias is not None and bias.node is not reader.dense.node:
                yield bias.node

    def slots(self) -> Iterator[tuple[gs.Node, int]]:
        """Yield every constant the space owns, as (node, index of the input)."""
        yield self.producer.dense.node, self.producer.dense.weight
        if self.producer.dense.third() is not None:
            yield self.producer.dense.node, 2
        for step in self.region.steps:
            for operand in step.operands:
                if isinstance(operand, ConstantAt) and operand.per_neuron is not None:
                    yield operand.node, operand.index
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
    for scope in document.scopes:
        position = {id(node): index for index, node in enumerate(scope.graph.nodes)}
        for node in scope.graph.nodes:
            found = producer(document, node)
            if isinstance(found, Stop):
                yield Skip(node.outputs[0].name, found.reason, found.code)
            elif found is not None:
                yield follow(document, scope, found, position)


@dataclass
class _Walk:
    """What the walk has seen so far."""

    values: dict[int, Value]
    tensors: list[tuple[gs.Tensor, int]]
    steps: list[Elementwise]
    consumers: list[tuple[Consumer, int]]
    queue: list[tuple[int, gs.Node]]
    queued: set[int]
    nodes: list[gs.Node]


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
    walk = _Walk({}, [], list(start.steps), [], [], set(), [])
    width = start.width
    stop = _enter(document, walk, start.output, Value(len(start.steps), start.axis, start.rank), position)
    while stop is None and walk.queue:
        stop = _visit(document, walk, heappop(walk.queue)[1], width, position)
    if stop is None and not walk.consumers:
        stop = Stop("unused", "nothing reads the hidden tensor")
    if stop is None and width < 2:
        stop = Stop("width", "the layer has a single neuron")
    if stop is not None:
        return Skip(start.output.name, stop.reason, stop.code, width)
    name = walk.consumers[0][0].hidden.name
    return Space(
        name, start, Region(tuple(walk.steps), tuple(walk.tensors), tuple(walk.nodes)), tuple(walk.consumers), width
    )


def _enter(document: Document, walk: _Walk, tensor: gs.Tensor, value: Value, position: dict[int, int]) -> Stop | None:
    """Add `tensor` to the space and its readers to the queue."""
    if document.is_output(tensor):
        return Stop("output", f"{tensor.name} is an output of the model")
    walk.values[id(tensor)] = value
    walk.tensors.append((tensor, value.axis))
    for reader in tensor.outputs:
        if id(reader) not in position:
            return Stop("subgraph", f"a subgraph reads {tensor.name}")
        if id(reader) not in walk.queued:
            walk.queued.add(id(reader))
            heappush(walk.queue, (position[id(reader)], reader))
    return None


def _visit(document: Document, walk: _Walk, node: gs.Node, width: int, position: dict[int, int]) -> Stop | None:
    inside = {i: walk.values[id(t)] for i, t in enumerate(node.inputs) if id(t) in walk.values}
    if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
        return stopped(node)
    linear = consumer(document, node, inside)
    if isinstance(linear, Stop):
        return linear
    if linear is not None:
        walk.consumers.append((linear, inside[linear.dense.data].number))
        return None
    result = outcome(Arrival(document, node, inside, width))
    if isinstance(result, Stop):
        return result
    walk.nodes.append(node)
    if isinstance(result, Same):
        return _enter(document, walk, node.outputs[0], result.value, position)
    assert isinstance(result, Elementwise)
    walk.steps.append(result)
    value = Value(len(walk.steps), result.axis, result.rank)
    return _enter(document, walk, node.outputs[0], value, position)
