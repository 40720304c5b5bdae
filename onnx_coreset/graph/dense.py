"""The matrix product of a Gemm or MatMul node, wherever its operands stand.

Gemm     Y = alpha A B + beta C     B is (d, n), or (n, d) with transB; alpha belongs to the weights
MatMul   Y = A B                    B is (d, n), with leading axes of size one allowed
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array
from onnx_coreset.graph.document import Document, Numbers
from onnx_coreset.graph.skip import Stop

STANDARD = (None, "", "ai.onnx")


@dataclass(frozen=True)
class Dense:
    """A node that multiplies its data by a constant matrix.

    Attributes:
        document: The model it is in.
        node: The Gemm or MatMul node.
        data: Index of the data input.
        weight: Index of the weight input.
        out_axis: Axis of the weights (from the end) that the outputs run along.
        in_axis: Axis of the weights (from the end) that is summed over.
    """

    document: Document
    node: gs.Node
    data: int
    weight: int
    out_axis: int
    in_axis: int

    @property
    def output(self) -> gs.Tensor:
        """The product."""
        return self.node.outputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored weights."""
        shape = self.document.constant_shape(self.node.inputs[self.weight])
        assert shape is not None
        return shape

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.shape[self.out_axis]

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.shape[self.in_axis]

    @property
    def alpha(self) -> float:
        """Factor of the weights."""
        return float(self.node.attrs.get("alpha", 1.0)) if self.node.op == "Gemm" else 1.0

    @property
    def beta(self) -> float:
        """Factor of the bias input."""
        return float(self.node.attrs.get("beta", 1.0))

    @property
    def stored(self) -> Numbers:
        """The weights as they are stored."""
        numbers = self.document.constant(self.node.inputs[self.weight])
        assert numbers is not None
        return numbers

    def matrix(self) -> Array:
        """Return the weights as (outputs, inputs), float64, alpha included."""
        flat = self.stored.reshape(self.shape[-2:]).astype(np.float64)
        return np.multiply(flat if self.out_axis == -2 else flat.T, self.alpha)

    def store(self, matrix: Array) -> Numbers:
        """Return `matrix` (outputs, inputs) as it would be stored: alpha taken out, transposed, in the dtype."""
        plain = matrix / self.alpha
        laid = plain if self.out_axis == -2 else plain.T
        stored = self.stored
        return laid.reshape(*stored.shape[:-2], *laid.shape).astype(stored.dtype)

    def third(self) -> gs.Tensor | None:
        """Return the Gemm's bias input, or None where it has none; with beta = 0 only its shape matters."""
        inputs = self.node.inputs
        return inputs[2] if self.node.op == "Gemm" and len(inputs) > 2 and inputs[2].name else None

    def bias_input(self) -> gs.Tensor | None:
        """Return the Gemm's bias input, or None where it has none or ignores it."""
        return self.third() if self.beta != 0 else None


def dense(document: Document, node: gs.Node) -> Dense | Stop | None:
    """Return the matrix product that `node` is.

    Args:
        document: The model.
        node: Any node.

    Returns:
        The product; a Stop where it is one whose weights cannot be used; None where the node is something else.
    """
    if node.domain not in STANDARD or node.op not in ("Gemm", "MatMul") or len(node.inputs) < 2:
        return None
    shapes = [document.constant_shape(tensor) for tensor in node.inputs[:2]]
    if all(shape is not None for shape in shapes):
        return None
    if shapes[1] is None:
        for tensor in node.inputs[:2]:
            if tensor.name in document.overridable:
                return Stop("overridable", f"the weight {tensor.name} is also a model input that a caller may replace")
        if shapes[0] is not None and len(shapes[0]) >= 2:
            return Stop("operator", f"the weights of {node.op} stand on the left of its data")
        return Stop("dynamic-weight", f"the weights of {node.op} are computed at run time")
    shape = shapes[1]
    if len(shape) < 2 or any(size != 1 for size in shape[:-2]) or 0 in shape:
        return Stop("dynamic-weight", f"the weights of {node.op} are not a matrix, but of shape {list(shape)}")
    transposed = bool(node.attrs.get("transB", 0)) if node.op == "Gemm" else False
    if node.op == "Gemm" and (node.attrs.get("transA", 0) or float(node.attrs.get("alpha", 1.0)) == 0.0):
        return Stop("operator", "the Gemm transposes its data or ignores its weights")
    product = Dense(document, node, 0, 1, *((-2, -1) if transposed else (-1, -2)))
    if product.stored.dtype.kind != "f" and product.stored.dtype.name != "bfloat16":
        return Stop("dtype", f"the weights of {node.op} are {product.stored.dtype}, not floating point")
    return product
