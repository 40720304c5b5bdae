"""The linear operator that makes the neurons: reading and slicing its rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.graph.dense import Dense, dense
from onnx_coreset.graph.document import Document
from onnx_coreset.graph.skip import Stop


@dataclass(frozen=True)
class Producer:
    """A Gemm or MatMul as the maker of neurons.

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
    def width(self) -> int:
        """Number of neurons n."""
        return self.dense.outputs

    def read(self) -> tuple[Array, Array]:
        """Return incoming weights (n, d) and biases (n,), float64."""
        bias = np.zeros(self.width)
        tensor = self.dense.bias_input()
        if tensor is not None:
            numbers = self.dense.document.constant(tensor)
            assert numbers is not None
            values = numbers.astype(np.float64).reshape(-1)
            bias = bias + np.multiply(self.dense.beta, values)
        return self.dense.matrix(), bias

    def slice(self, kept: Indices) -> None:
        """Keep the rows `kept` (m,) of weights and biases; the document is edited."""
        if kept.size == self.width:
            return
        document, node = self.dense.document, self.dense.node
        tensor = self.dense.third()
        if tensor is not None:
            numbers = document.constant(tensor)
            assert numbers is not None
            if numbers.ndim and numbers.shape[-1] == self.width:
                document.assign(node, 2, np.take(numbers, kept, axis=-1))
        document.assign(node, self.dense.weight, np.take(self.dense.stored, kept, axis=self.dense.out_axis))


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
        if product.beta != 0 and any(size != 1 for size in shape[:-1]):
            return Stop("varying-constant", f"the bias {tensor.name} of shape {list(shape)} differs between rows")
    rank = 2 if node.op == "Gemm" else None
    if rank is None and node.outputs[0].shape is not None:
        rank = len(node.outputs[0].shape)
    return Producer(product, -1, rank)


def _other(document: Document, node: gs.Node) -> Stop | None:
    """Name layers of other kinds, so that a map of the model shows them."""
    if node.op in ("Conv", "ConvTranspose") and (
        isinstance(node.inputs[1], gs.Constant) or document.constant_shape(node.inputs[1]) is not None
    ):
        return Stop("convolution", f"{node.op} is a convolution")
    if node.op in ("MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv", "QGemm", "MatMulNBits"):
        return Stop("quantized", f"{node.op} is quantized: prune first, then quantize")
    return None
