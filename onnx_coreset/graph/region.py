"""What stands between the producer and the consumers: an elementwise program, by reference to the graph.

The constants of the steps are read when they are asked for, since cutting one layer changes the vectors of the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.activations.program import Operand, Program, Step
from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.graph.document import Document
from onnx_coreset.graph.rules import ConstantAt, Elementwise


@dataclass(frozen=True)
class Region:
    """The tensors and steps of a space.

    Attributes:
        steps: Elementwise steps; step i makes value i + 1, and value 0 is what the producer writes.
        tensors: Every tensor whose neurons run along an axis, with that axis, counted from the end.
        nodes: Every node between producer and consumers.
    """

    steps: tuple[Elementwise, ...]
    tensors: tuple[tuple[gs.Tensor, int], ...]
    nodes: tuple[gs.Node, ...]

    def program(self, document: Document, value: int) -> Program:
        """Return the program that computes `value` from the pre-activation, with its constants read.

        Args:
            document: The model.
            value: Number of the value a consumer reads.
        """
        needed = {value}
        for number in range(len(self.steps), 0, -1):
            if number in needed:
                needed.update(o for o in self.steps[number - 1].operands if isinstance(o, int))
        order = {0: 0}
        steps: list[Step] = []
        for number in sorted(needed - {0}):
            steps.append(_step(document, self.steps[number - 1], order))
            order[number] = len(steps)
        return Program(tuple(steps))

    def slice(self, document: Document, kept: Indices) -> None:
        """Keep the neurons `kept` (m,) of every constant and every declared shape.

        Args:
            document: The model; it is edited.
            kept: Strictly increasing indices.
        """
        for step in self.steps:
            for operand in step.operands:
                if isinstance(operand, ConstantAt) and operand.per_neuron is not None:
                    numbers = document.constant(operand.node.inputs[operand.index])
                    assert numbers is not None
                    if numbers.shape[operand.per_neuron] != kept.size:
                        document.assign(operand.node, operand.index, np.take(numbers, kept, axis=operand.per_neuron))
        for tensor, axis in self.tensors:
            if tensor.shape is not None and len(tensor.shape) >= -axis and isinstance(tensor.shape[axis], int):
                shape = list(tensor.shape)
                shape[axis] = int(kept.size)
                tensor.shape = shape


def _step(document: Document, step: Elementwise, order: dict[int, int]) -> Step:
    operands: list[Operand] = []
    for operand in step.operands:
        if isinstance(operand, int):
            operands.append(order[operand])
        else:
            operands.append(_constant(document, operand))
    return Step(step.op, tuple(operands), step.attributes)


def _constant(document: Document, at: ConstantAt) -> Array:
    """Return the constant as a number or a vector; only Clip has operands that can be left out: its bounds."""
    tensor = at.node.inputs[at.index]
    if not tensor.name:
        return np.full((), -np.inf if at.index == 1 else np.inf)
    numbers = document.constant(tensor)
    assert numbers is not None
    values = numbers.astype(np.float64)
    return values.reshape(-1) if at.per_neuron is not None else values.reshape(())
