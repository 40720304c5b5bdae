"""Products of two tensors that are made at run time, and why they are: quantized, overridable, or computed."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_coreset.graph.model.document import Document
from onnx_coreset.graph.model.sources import moving_node
from onnx_coreset.graph.skip import Stop

__all__ = ["no_weights"]

_DEQUANTIZERS = frozenset(
    ["DequantizeLinear", "QuantizeLinear", "DequantizeBFP", "DequantizeWithOrder", "Quant", "BipolarQuant", "Trunc"]
)


def no_weights(document: Document, node: gs.Node) -> Stop:
    """Return why neither operand of a product is a constant.

    Args:
        document: The model.
        node: A node of two operands.
    """
    roots = [_root(tensor) for tensor in node.inputs[:2]]
    for root in roots:
        if root.name in document.overridable:
            return Stop("overridable", f"the weight {root.name} is also a model input that a caller may replace")
    writer = roots[1].inputs[0] if len(roots[1].inputs) == 1 else None
    if writer is not None and writer.op in _DEQUANTIZERS and _stored(document, writer):
        return Stop("quantized", f"the weights of {node.op} are quantized: prune first, then quantize")
    return Stop("dynamic-weight", f"the weights of {node.op} are computed at run time")


def _root(tensor: gs.Tensor) -> gs.Tensor:
    """Return the tensor whose numbers a tensor holds, as far as nodes only move them."""
    while (between := moving_node(tensor)) is not None:
        tensor = between.inputs[0]
    return tensor


def _stored(document: Document, node: gs.Node) -> bool:
    """Return whether a chain of quantizing nodes begins at a constant."""
    tensor = node.inputs[0]
    if document.constant_shape(tensor) is not None:
        return True
    writer = tensor.inputs[0] if len(tensor.inputs) == 1 else None
    return writer is not None and writer.op in _DEQUANTIZERS and _stored(document, writer)
