"""Which tensors surely hold the same numbers in the same places, although they are computed twice.

An exporter or an optimiser may give each reader of a tensor its own Identity, Cast or Reshape of it. Two tensors are
equal where equal nodes make them of equal tensors; only what moves numbers or changes their type is looked through.
"""

from __future__ import annotations

from collections.abc import Hashable

import onnx_graphsurgeon as gs

from onnx_coreset.graph.model.document import Document

_MOVES = frozenset({"Cast", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_DEEPEST = 8


def equal_to(document: Document, tensor: gs.Tensor, depth: int = 0) -> Hashable:
    """Return a value that is the same for two tensors only where they are equal.

    Args:
        document: The model.
        tensor: Any tensor.
        depth: How many nodes have been looked through.
    """
    numbers = document.constant(tensor) if depth else None
    if numbers is not None:
        return numbers.dtype.str, numbers.shape, numbers.tobytes()
    if depth > _DEEPEST or len(tensor.inputs) != 1:
        return id(tensor)
    node = tensor.inputs[0]
    if node.domain not in (None, "", "ai.onnx"):
        return id(tensor)
    if node.op == "Identity":
        return equal_to(document, node.inputs[0], depth + 1)
    if node.op not in _MOVES:
        return id(tensor)
    inputs = tuple(equal_to(document, source, depth + 1) for source in node.inputs)
    attributes = tuple(sorted((name, repr(value)) for name, value in node.attrs.items()))
    return node.op, attributes, inputs
