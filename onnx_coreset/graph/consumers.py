"""A linear operator that sums over the neurons: reading and replacing its weights and its constant.

The constant of a readout is what the operator adds: a Gemm's bias input, or the constant of an Add or Sub that alone
reads a product. Where there is none and one is needed, an Add is inserted and the output keeps its name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.graph.dense import GEMMS, STANDARD, Dense, dense
from onnx_coreset.graph.model.document import Document, Numbers
from onnx_coreset.graph.producers import varies
from onnx_coreset.graph.rules.values import Value
from onnx_coreset.graph.skip import Stop


@dataclass(frozen=True)
class Bias:
    """Where the constant of a readout stands.

    Attributes:
        node: The node that reads it.
        index: Index of that input.
        factor: What the node multiplies it by.
        shape: Its shape.
    """

    node: gs.Node
    index: int
    factor: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Consumer:
    """A linear operator as a reader of neurons.

    Attributes:
        dense: The matrix product.
        hidden: The tensor of neurons it reads.
    """

    dense: Dense
    hidden: gs.Tensor

    @property
    def output(self) -> gs.Tensor:
        """What the readout gives to the rest of the model, its constant included."""
        bias = self.bias()
        return self.dense.output if bias is None else bias.node.outputs[0]

    @property
    def outputs(self) -> int:
        """Number of outputs k."""
        return self.dense.outputs

    def bias(self) -> Bias | None:
        """Return where the constant stands, or None where there is none that could be changed."""
        document, node = self.dense.document, self.dense.node
        own = self.dense.bias_input()
        if own is not None:
            shape = document.constant_shape(own)
            assert shape is not None
            return Bias(node, 2, self.dense.beta, shape)
        after = self.dense.output
        if self.dense.fused is not None:
            return None
        if len(after.outputs) != 1 or document.is_output(after):
            return None
        reader = after.outputs[0]
        if reader.op not in ("Add", "Sub") or reader.domain not in STANDARD or len(reader.inputs) != 2:
            return None
        index = 1 if reader.inputs[0] is after else 0
        shape, axis = document.constant_shape(reader.inputs[index]), self.dense.axes.axis
        if shape is None or (reader.op == "Sub" and index == 0) or varies(shape, axis):
            return None
        if len(shape) >= -axis and shape[axis] not in (1, self.outputs):
            return None
        if document.scope_of(reader) is not document.scope_of(node):
            return None
        return Bias(reader, index, -1.0 if reader.op == "Sub" else 1.0, shape)

    def read(self) -> tuple[Array, Array]:
        """Return outgoing weights (k, n) and constant (k,), float64; where it differs between rows, the first row's."""
        return self.dense.matrix(), self.constant()

    def constant(self) -> Array:
        """Return the constant alone, as `read` does."""
        bias = self.bias()
        constant = np.zeros(self.outputs)
        if bias is not None:
            constant = constant + np.multiply(bias.factor, _first_row(self._stored(bias), self.dense.axes.axis))
        return constant

    def write(self, outgoing: Array, constant: Array, kept: Indices) -> None:
        """Replace weights and constant; what does not change is sliced, not recomputed.

        Args:
            outgoing: New outgoing weights, shape (k, m).
            constant: New constant, shape (k,).
            kept: The neurons kept, shape (m,).
        """
        weights, before = self.read()
        if np.array_equal(outgoing, weights[:, kept]):
            self.slice(kept)
        else:
            self.dense.document.assign(self.dense.node, self.dense.weight, self.dense.store(outgoing))
        if not np.array_equal(constant, before):
            self._write_constant(constant)

    def slice(self, kept: Indices) -> None:
        """Keep the weights of the neurons `kept` (m,) as they are stored; the document is edited."""
        dense = self.dense
        if kept.size != dense.inputs:
            dense.document.assign(dense.node, dense.weight, np.take(dense.stored, kept, axis=dense.axes.in_axis))

    def _stored(self, bias: Bias) -> Numbers:
        numbers = self.dense.document.constant(bias.node.inputs[bias.index])
        assert numbers is not None
        return numbers

    def _write_constant(self, constant: Array) -> None:
        document, node = self.dense.document, self.dense.node
        bias, dtype = self.bias(), self.dense.stored.dtype
        if bias is not None:
            stored, axis = self._stored(bias), self.dense.axes.axis
            values: Array = self.dense.along(np.divide(constant, bias.factor)).astype(np.float64)
            if varies(tuple(stored.shape), axis):
                first = _first_row(stored, axis)
                old = self.dense.along(np.broadcast_to(first, constant.shape)).astype(np.float64)
                values = (stored.astype(np.float64) - old) + values
            elif stored.ndim > values.ndim:
                values = values.reshape(*[1] * (stored.ndim - values.ndim), *values.shape)
            document.assign(bias.node, bias.index, values.astype(stored.dtype))
        elif node.op in GEMMS and self.dense.bias_input() is None:
            node.attrs["beta"] = 1.0
            document.assign(node, 2, self.dense.along(constant.astype(dtype)))
        else:
            self._insert_add(self.dense.along(constant.astype(dtype)))

    def _insert_add(self, constant: Numbers) -> None:
        """Add `constant` behind the product; the sum takes over the product's name."""
        document, node = self.dense.document, self.dense.node
        scope = document.scope_of(node)
        assert scope is not None
        total = node.outputs[0]
        product = gs.Variable(document.fresh(f"{total.name}_product"), dtype=total.dtype)
        numbers = gs.Constant(document.fresh(f"{total.name}_constant"), constant)
        node.outputs[0] = product
        name = document.fresh(f"{node.name or total.name}_add")
        added = gs.Node("Add", name=name, inputs=[product, numbers], outputs=[total])
        scope.graph.nodes.insert(next(i for i, n in enumerate(scope.graph.nodes) if n is node) + 1, added)


def _first_row(numbers: Numbers, axis: int) -> Array:
    """Return what a bias of any broadcastable shape adds to the first row, shape (k,), (1,) or ()."""
    place = tuple(slice(None) if index - numbers.ndim == axis else 0 for index in range(numbers.ndim))
    return np.asarray(numbers[place], dtype=np.float64)


def consumer(document: Document, node: gs.Node, inside: dict[int, Value]) -> Consumer | Stop | None:
    """Return `node` as a consumer of the neurons that reach it.

    Args:
        document: The model.
        node: A node that reads the hidden tensor.
        inside: Its inputs that belong to the space, by index.

    Returns:
        The consumer; a Stop where it is a linear operator that cannot be used; None where it is something else.
    """
    if node.op.startswith("QLinear"):
        return Stop("quantized", f"{node.op} is quantized: prune first, then quantize")
    ranks = {v.rank if v.rank is not None else 2 if v.axis < -1 else None for i, v in inside.items() if i < 2}
    product = dense(document, node, ranks.pop() if len(ranks) == 1 else None)
    if product is None or isinstance(product, Stop):
        return product
    if set(inside) != {product.data} or inside[product.data].axis != product.axes.data_axis:
        return Stop("reshape", f"{node.op} sums over another axis than the neurons")
    third = product.third()
    if third is not None and document.constant_shape(third) is None:
        code = "overridable" if third.name in document.overridable else "merge"
        return Stop(code, f"the bias {third.name} of the next layer is not a constant")
    if third is not None and 0 in (document.constant_shape(third) or ()):
        return Stop("merge", f"the bias {third.name} of the next layer holds nothing")
    return Consumer(product, node.inputs[product.data])
