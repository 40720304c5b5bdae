"""What stands between the producers and the consumers: an elementwise program, by reference to the graph.

The constants of the steps are read when they are asked for, since cutting one layer changes the vectors of the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.activations.program import Operand, Program, Step
from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.rules.layout import Layout
from onnx_coreset.graph.rules.values import Choice, ConstantAt, Count, Elementwise, Moved


@dataclass(frozen=True)
class Region:
    """The tensors and steps of a space.

    Attributes:
        steps: Elementwise steps; values 0 .. arity-1 are the pre-activations, and step i makes value arity + i.
        tensors: Every tensor whose neurons run along an axis, with that axis, counted from the end.
        nodes: Every node between producers and consumers.
        layouts: How the neurons' axis of each tensor is filled.
        moved: The nodes that move the neurons, by identity.
        aside: Nodes that read the shape of a tensor alone.
        arity: Number of pre-activations.
        width: Number of neurons n.
    """

    steps: tuple[Elementwise, ...]
    tensors: tuple[tuple[gs.Tensor, int], ...]
    nodes: tuple[gs.Node, ...]
    layouts: tuple[Layout, ...]
    moved: dict[int, Moved] = field(default_factory=dict)
    aside: tuple[gs.Node, ...] = ()
    arity: int = 1
    width: int = 0

    def streams(self, value: int) -> frozenset[int]:
        """Return the pre-activations that `value` depends on."""
        return frozenset(n for n in self._needed(value) if n < self.arity)

    def product(self, value: int) -> tuple[int, int, int] | None:
        """Return the number of the product that `value` is, or scales, and its two factors; None where it is neither.

        Each factor depends on one pre-activation.
        """
        while value >= self.arity:
            step = self.steps[value - self.arity]
            operands = [o for o in step.operands if isinstance(o, int)]
            scales = step.op == "Mul" or (step.op == "Div" and isinstance(step.operands[0], int))
            if len(operands) == 1 and scales:
                value = operands[0]
            elif len(operands) == 2 and step.op == "Mul" and all(len(self.streams(o)) == 1 for o in operands):
                return value, operands[0], operands[1]
            else:
                return None
        return None

    def _needed(self, value: int, aliases: dict[int, int] | None = None) -> set[int]:
        needed = {value}
        for number in range(len(self.steps) + self.arity - 1, self.arity - 1, -1):
            if number in needed and number in (aliases or {}):
                needed.add((aliases or {})[number])
            elif number in needed:
                needed.update(o for o in self.steps[number - self.arity].operands if isinstance(o, int))
        return needed

    def program(self, document: Document, value: int, aliases: dict[int, int] | None = None) -> Program:
        """Return the program that computes `value` from its pre-activations, in their order, with its constants read.

        Args:
            document: The model.
            value: Number of the value a consumer reads.
            aliases: Values to be taken for earlier ones.
        """
        aliases = aliases or {}
        steps: list[Step] = []
        needed = sorted(self._needed(value, aliases))
        order = {stream: place for place, stream in enumerate(n for n in needed if n < self.arity)}
        arity = len(order)
        for number in needed[arity:]:
            if number in aliases:
                order[number] = order[aliases[number]]
            else:
                steps.append(self._step(document, self.steps[number - self.arity], order))
                order[number] = arity + len(steps) - 1
        return Program(tuple(steps), arity)

    def constants(self) -> Iterator[ConstantAt]:
        """Yield every constant that has an entry for each neuron, once."""
        seen: set[tuple[int, int]] = set()
        for step in self.steps:
            for operand in step.operands:
                if isinstance(operand, ConstantAt) and operand.per_neuron is not None:
                    if (id(operand.node), operand.index) not in seen:
                        yield operand
                    seen.add((id(operand.node), operand.index))

    def choices(self) -> Iterator[Choice]:
        """Yield the constants that name entries of an axis."""
        for moved in self.moved.values():
            if moved.choice is not None:
                yield moved.choice

    def counts(self) -> Iterator[list[Count]]:
        """Yield the integers that count neurons, those of one constant or attribute together."""
        groups: dict[tuple[int, int], dict[int, Count]] = {}
        for moved in self.moved.values():
            for count in moved.counts:
                groups.setdefault((id(count.node), count.index), {})[count.position] = count
        for group in groups.values():
            yield list(group.values())

    def columns(self, kept: Indices) -> dict[int, Indices]:
        """Return the entries that stay of each tensor whose neurons run along the last axis, by identity."""
        last = [(t, layout) for (t, axis), layout in zip(self.tensors, self.layouts, strict=True) if axis == -1]
        return {id(tensor): layout.indices(kept) for tensor, layout in last}

    def slice(self, document: Document, kept: Indices) -> None:
        """Keep the neurons `kept` (m,) of every constant, every count and every declared shape.

        Args:
            document: The model; it is edited.
            kept: Strictly increasing indices.
        """
        for at in self.constants():
            numbers = document.constant(at.node.inputs[at.index])
            assert numbers is not None and at.per_neuron is not None and at.layout is not None
            indices = at.layout.indices(kept)
            if numbers.shape[at.per_neuron] != indices.size:
                document.assign(at.node, at.index, np.take(numbers, indices, axis=at.per_neuron))
        if kept.size != self.width:
            for group in self.counts():
                self._recount(document, group, kept)
            for choice in self.choices():
                self._renumber(document, choice, kept)
        for (tensor, axis), layout in zip(self.tensors, self.layouts, strict=True):
            size = layout.indices(kept).size
            document.shapes.narrow(tensor, axis, size)
            if tensor.shape is not None and len(tensor.shape) >= -axis and isinstance(tensor.shape[axis], int):
                shape = list(tensor.shape)
                shape[axis] = size
                tensor.shape = shape

    def _recount(self, document: Document, group: list[Count], kept: Indices) -> None:
        """Rewrite integers of one constant; a node that computes sizes for others too gets a copy of its own."""
        node, index, attribute = group[0].node, group[0].index, group[0].attribute
        sizes = {count.position: _counted(count, kept) for count in group}
        if attribute:
            given = node.attrs.get(attribute, range(len(sizes)))
            node.attrs[attribute] = [sizes.get(i, n) for i, n in enumerate(given)]
            return
        if index >= len(node.inputs) or not node.inputs[index].name:
            # A Split without sizes: its parts were equal, and are not any more.
            node.attrs.pop("num_outputs", None)
            document.assign(node, index, np.array([sizes[i] for i in range(len(sizes))], dtype=np.int64))
            return
        if not any(node is member for member in self.nodes):
            node = self._own(document, node)
        numbers = document.constant(node.inputs[index])
        assert numbers is not None
        changed = numbers.copy()
        for position, size in sizes.items():
            changed.reshape(-1)[position] = size
        document.assign(node, index, changed)

    def _renumber(self, document: Document, choice: Choice, kept: Indices) -> None:
        """Rewrite the indices of a Gather, which name entries by where they stand."""
        entries, ranks = choice.source.placed(kept)
        wanted, wanted_ranks = choice.result.placed(kept)
        keys, size = entries * (kept.size + 1) + ranks, choice.entries[wanted] * (kept.size + 1) + wanted_ranks
        order = np.argsort(keys)
        numbers = document.constant(choice.node.inputs[choice.index])
        assert numbers is not None
        document.assign(choice.node, choice.index, order[np.searchsorted(keys[order], size)].astype(numbers.dtype))

    def _own(self, document: Document, node: gs.Node) -> gs.Node:
        """Return `node`, or a copy of it for this space where others read what it makes."""
        made = node.outputs[0]
        members = {id(member) for member in self.nodes}
        readers = [reader for reader in made.outputs if id(reader) in members]
        if len(readers) == len(made.outputs) and not document.is_output(made):
            return node
        scope = document.scope_of(node)
        assert scope is not None
        output = gs.Variable(document.fresh(f"{made.name}_own"), dtype=made.dtype, shape=made.shape)
        name = document.fresh(f"{node.name or made.name}_own")
        copy = gs.Node(node.op, name=name, attrs=dict(node.attrs), inputs=list(node.inputs), outputs=[output])
        scope.graph.nodes.insert(next(i for i, n in enumerate(scope.graph.nodes) if n is node) + 1, copy)
        for reader in readers:
            for index in [i for i, tensor in enumerate(reader.inputs) if tensor is made]:
                reader.inputs[index] = output
        return copy

    def _step(self, document: Document, step: Elementwise, order: dict[int, int]) -> Step:
        operands: list[Operand] = []
        for operand in step.operands:
            operands.append(order[operand] if isinstance(operand, int) else self._constant(document, operand))
        return Step(step.op, tuple(operands), step.attributes)

    def _constant(self, document: Document, at: ConstantAt) -> Array:
        """Return the constant as a number or a vector; only Clip has operands that can be left out: its bounds."""
        tensor = at.node.inputs[at.index]
        if not tensor.name:
            return np.full((), -np.inf if at.index == 1 else np.inf)
        numbers = document.constant(tensor)
        assert numbers is not None
        values = numbers.astype(np.float64).reshape(-1)
        if at.per_neuron is None or at.layout is None:
            return values.reshape(())
        where = at.layout.where(self.width, at.copy)
        # What is done to a neuron that does not stand there is not seen by anybody.
        return np.where(where >= 0, values[where], 1.0)


def _counted(count: Count, kept: Indices) -> int:
    """Return how many entries there are between two, where the neurons `kept` stay."""
    entries = count.layout.indices(kept)
    stop = count.layout.size if count.stop is None else count.stop
    return int(np.count_nonzero((entries >= count.start) & (entries < stop)))
