"""One walk: from the neurons' producers, reader by reader, until linear operators or an obstacle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

import onnx_graphsurgeon as gs

from onnx_coreset.graph.consumers import Consumer, consumer
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.producers import Producer
from onnx_coreset.graph.region import Region
from onnx_coreset.graph.rules.layout import Layout
from onnx_coreset.graph.rules.sizes import COMPUTES, Reader
from onnx_coreset.graph.rules.table import outcome, stopped
from onnx_coreset.graph.rules.values import Arrival, Aside, Elementwise, Moved, Same, Steps, Value
from onnx_coreset.graph.skip import Stop

_TAKES_SIZES = frozenset({"Reshape", "Expand", "Slice", "Split"})


@dataclass
class Walk:
    """What a walk has seen so far.

    Attributes:
        document: The model.
        position: Index of each node of the graph, by identity.
        width: Number of neurons n.
    """

    document: Document
    position: dict[int, int]
    width: int
    values: dict[int, Value] = field(default_factory=dict)
    streams: list[frozenset[int]] = field(default_factory=list)
    tensors: list[gs.Tensor] = field(default_factory=list)
    steps: tuple[Elementwise, ...] = ()
    consumers: list[tuple[Consumer, Value]] = field(default_factory=list)
    nodes: list[gs.Node] = field(default_factory=list)
    moved: dict[int, Moved] = field(default_factory=dict)
    aside: list[gs.Node] = field(default_factory=list)
    _queue: list[tuple[int, gs.Node]] = field(default_factory=list)
    _queued: set[int] = field(default_factory=set)
    _sinks: list[gs.Node] = field(default_factory=list)

    def run(self, makers: Sequence[Producer], copies: int) -> Stop | None:
        """Follow the neurons of all producers.

        Args:
            makers: The producers.
            copies: How often the neurons stand on the axis of what each makes.

        Returns:
            Where the walk had to end, or None.
        """
        self.streams = [frozenset({number}) for number in range(len(makers) * copies)]
        for index, maker in enumerate(makers):
            numbers: tuple[int, ...] = tuple(range(index * copies, (index + 1) * copies))
            layout = Layout.of(self.width, copies)
            for step in maker.steps:
                steps = tuple(replace(step, operands=(number,)) for number in numbers)
                numbers = self._add(Steps(steps, layout))
            stop = self._enter(maker.output, Value(numbers, maker.axis, maker.rank, layout))
            if stop is not None:
                return stop
        while self._queue:
            stop = self._visit(heappop(self._queue)[1])
            if stop is not None:
                return stop
        members = {id(node) for node in self.nodes}
        for node in self._sinks:
            if id(node) not in members:
                return Stop("reshape", f"{node.op} of another tensor depends on the number of neurons")
        return None if self.consumers else Stop("unused", "nothing reads the hidden tensor")

    def region(self, arity: int) -> Region:
        """Return what stands between."""
        found = [self.values[id(tensor)] for tensor in self.tensors]
        return Region(
            self.steps,
            tuple((tensor, value.axis) for tensor, value in zip(self.tensors, found, strict=True)),
            tuple(self.nodes),
            tuple(value.layout for value in found),
            self.moved,
            tuple(self.aside),
            arity,
            self.width,
        )

    def _enter(self, tensor: gs.Tensor, value: Value) -> Stop | None:
        """Add `tensor` to the space and its readers to the queue."""
        if self.document.is_output(tensor):
            return Stop("output", f"{tensor.name} is an output of the model")
        self.values[id(tensor)] = value
        self.tensors.append(tensor)
        for reader in tensor.outputs:
            if id(reader) not in self.position:
                return Stop("subgraph", f"a subgraph reads {tensor.name}")
            if id(reader) not in self._queued:
                self._queued.add(id(reader))
                heappush(self._queue, (self.position[id(reader)], reader))
        return None

    def _visit(self, node: gs.Node) -> Stop | None:
        inside = {i: self.values[id(t)] for i, t in enumerate(node.inputs) if id(t) in self.values}
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            return stopped(node)
        linear = consumer(self.document, node, inside)
        if isinstance(linear, Stop):
            return linear
        if linear is not None:
            return self._consume(linear, inside[linear.dense.data])
        result = outcome(Arrival(self.document, node, inside, self.width, self.values, tuple(self.streams)))
        if isinstance(result, Stop):
            return result
        if isinstance(result, Aside):
            self.aside.append(node)
            return self._sizes(node)
        self.nodes.append(node)
        if isinstance(result, Same):
            return self._enter(node.outputs[0], result.value)
        if isinstance(result, Moved):
            if len(result.values) != len(node.outputs):
                # More or fewer outputs than the operator has: what they would be nobody knows.
                return stopped(node)
            self.moved[id(node)] = result
            made = [(t, v) for t, v in zip(node.outputs, result.values, strict=True) if t.name and v is not None]
            stops = [self._enter(tensor, value) for tensor, value in made]
            return next((stop for stop in stops if stop is not None), None)
        return self._step(node, inside, result)

    def _consume(self, linear: Consumer, value: Value) -> Stop | None:
        if linear.dense.inputs != value.layout.size:
            return Stop("reshape", "a linear operator sums over another axis than the neurons")
        self.consumers.append((linear, value))
        return None

    def _step(self, node: gs.Node, inside: dict[int, Value], result: Steps) -> Stop | None:
        numbers = self._add(result)
        first = result.steps[0]
        name = next((value.name for value in inside.values()), None)
        return self._enter(node.outputs[0], Value(numbers, first.axis, first.rank, result.layout, name))

    def _add(self, result: Steps) -> tuple[int, ...]:
        """Append steps and return the numbers of the values they make."""
        numbers = tuple(range(len(self.streams), len(self.streams) + len(result.steps)))
        for step in result.steps:
            used = [self.streams[operand] for operand in step.operands if isinstance(operand, int)]
            self.streams.append(frozenset().union(*used))
        self.steps += result.steps
        return numbers

    def _sizes(self, start: gs.Node) -> Stop | None:
        """Follow sizes that depend on the neurons to where they are used: only a move of the neurons may."""
        reader = Reader(self.document, self.values, self.width)
        waiting, seen = [start], {id(start)}
        while waiting:
            node = waiting.pop()
            stop = Stop("reshape", f"{node.op} computes with the number of neurons")
            sizes = reader.made(node)
            if sizes is None:
                return stop
            if all(size.along is None for size in sizes):
                continue
            for made in node.outputs:
                if self.document.is_output(made) or any(id(user) not in self.position for user in made.outputs):
                    return stop
                for user in made.outputs:
                    if user.op in _TAKES_SIZES and user.inputs[0] is not made:
                        self._sinks.append(user)
                    elif user.op not in COMPUTES:
                        return Stop("reshape", f"{user.op} computes with the number of neurons")
                    elif id(user) not in seen:
                        seen.add(id(user))
                        waiting.append(user)
        return None
