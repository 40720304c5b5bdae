"""The linear layers that a model input meets first, through nothing but changes of shape and scale."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnx_coreset.core.arrays import Array
from onnx_coreset.graph.dense import Dense, dense
from onnx_coreset.graph.model.document import Document

_SHAPES = frozenset(["Flatten", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Dropout"])
_SCALES = frozenset(["Add", "Sub", "Mul", "Div"])


def first_weights(document: Document, largest: int) -> dict[str, Array]:
    """Return the incoming weights of the layers that read each model input first.

    Args:
        document: The model.
        largest: Inputs with more entries than this are left out.

    Returns:
        Weights by input name, shape (n, d): rows of all such layers. Inputs that meet something else first are left
        out.
    """
    found: dict[str, Array] = {}
    for tensor in document.graph.inputs:
        layers = _layers(document, tensor)
        size = layers[0].inputs if layers else 0
        if 1 < size <= largest and all(layer.inputs == size for layer in layers):
            found[tensor.name] = np.concatenate([layer.matrix() for layer in layers])
    return found


def _layers(document: Document, start: gs.Tensor) -> list[Dense]:
    layers: list[Dense] = []
    seen = {id(start)}
    queue = [start]
    while queue:
        tensor = queue.pop()
        for node in tensor.outputs:
            product = dense(document, node)
            if isinstance(product, Dense) and node.inputs[product.data] is tensor:
                layers.append(product)
            elif node.op in _SHAPES or (node.op in _SCALES and _one_number(document, node, tensor)):
                queue += [out for out in node.outputs[:1] if id(out) not in seen]
                seen.update(id(out) for out in node.outputs[:1])
    return layers


def _one_number(document: Document, node: gs.Node, tensor: gs.Tensor) -> bool:
    """Return whether all other operands are single constants."""
    shapes = [document.constant_shape(other) for other in node.inputs if other is not tensor]
    return all(shape is not None and int(np.prod(shape)) == 1 for shape in shapes)
