"""The linear operator that makes the neurons: reading and slicing its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.graph.dense import Dense, dense
from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.rules.values import Elementwise
from onnx_coreset.graph.skip import Stop


@dataclass(frozen=True)
class Producer:
    """A linear operator as the maker of neurons.

    Attributes:
        dense: The matrix product.
        axis: Axis of the neurons in the output, counted from the end.
        rank: Rank of the output, where known.
    """

    dense: Dense
    axis: int
    rank: int | None

    @property
    def output(self) -> gs.Tensor:
        """What the operator writes."""
        return self.dense.output

    @property
    def input(self) -> gs.Tensor:
        """What the operator reads: the inputs of the hidden layer."""
        return self.dense.node.inputs[self.dense.data]

    @property
    def steps(self) -> tuple[Elementwise, ...]:
        """What the operator itself does to the neurons it makes."""
        fused = self.dense.fused
        return () if fused is None else (Elementwise(fused.op, (0,), self.axis, self.rank, fused.attributes),)

    @property
    def width(self) -> int:
        """Number of neurons n."""
        return self.dense.outputs

    def read(self) -> tuple[Array, Array]:
        """Return incoming weights (n, d) and biases (n,), float64."""
        return self.dense.matrix(), self.bias()

    def bias(self) -> Array:
        """Return biases (n,), float64."""
        bias = np.zeros(self.width)
        tensor = self.dense.bias_input()
        if tensor is not None:
            numbers = self.dense.document.constant(tensor)
            assert numbers is not None
            values = numbers.astype(np.float64).reshape(-1)
            bias = bias + np.multiply(self.dense.beta, values)
        return bias

    def slice(self, kept: Indices) -> None:
        """Keep the rows `kept` (m,) of weights and biases; the document is edited."""
        if kept.size == self.width:
            return
        document, node = self.dense.document, self.dense.node
        tensor = self.dense.third()
        if tensor is not None:
            numbers = document.constant(tensor)
            assert numbers is not None
            if numbers.ndim >= -self.axis and numbers.shape[self.axis] == self.width:
                document.assign(node, 2, np.take(numbers, kept, axis=self.axis))
        taken = np.take(self.dense.stored, kept, axis=self.dense.axes.out_axis)
        document.assign(node, self.dense.weight, taken)


def producer(document: Document, node: gs.Node) -> Producer | Stop | None:
    """Return `node` as a producer.

    Args:
        document: The model.
        node: Any node.

    Returns:
        The producer; a Stop where it is a layer whose neurons cannot be read; None where it makes no neurons.
    """
    product = dense(document, node)
    if isinstance(product, Stop):
        # A product of two tensors made at run time is no layer; any other obstacle is worth naming.
        return None if product.code == "dynamic-weight" else product
    if product is None:
        return _other(document, node)
    if document.opset < 7:
        return Stop("opset", "the model's operator set is older than version 7")
    tensor = product.third()
    if tensor is not None:
        shape = document.constant_shape(tensor)
        if shape is None:
            code = "overridable" if tensor.name in document.overridable else "merge"
            return Stop(code, f"the bias {tensor.name} is not a constant")
        if product.beta != 0 and varies(shape, product.axes.axis):
            return Stop("varying-constant", f"the bias {tensor.name} of shape {list(shape)} differs between rows")
    rank = product.axes.rank
    if rank is None and node.outputs[0].shape is not None:
        rank = len(node.outputs[0].shape)
    return Producer(product, product.axes.axis, rank)


def varies(shape: tuple[int, ...], axis: int) -> bool:
    """Return whether a constant of `shape` may differ along another axis than `axis`, counted from the end."""
    return any(size != 1 for index, size in enumerate(shape) if index - len(shape) != axis)


def _other(document: Document, node: gs.Node) -> Stop | None:
    """Name layers of other kinds, so that a map of the model shows them."""
    if node.op in ("Conv", "ConvTranspose") and (
        isinstance(node.inputs[1], gs.Constant) or document.constant_shape(node.inputs[1]) is not None
    ):
        return Stop("convolution", f"{node.op} is a convolution")
    return None
