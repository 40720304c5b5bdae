"""Which integers an input may hold: those that index the table of the Gather they reach."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_coreset.graph.model.document import Document

_CARRIES = frozenset(
    {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Slice", "Transpose", "Expand", "Concat"}
    | {"Split", "Tile", "Abs", "Clip"}
)


def valid_ranges(document: Document) -> dict[str, tuple[int, int]]:
    """Return, for each model input that indexes a table, the half-open range of valid indices.

    Args:
        document: The model. O(nodes) an input.

    Returns:
        Range by input name; inputs that index nothing are left out.
    """
    found: dict[str, tuple[int, int]] = {}
    for tensor in document.graph.inputs:
        sizes = _tables(document, tensor)
        if sizes:
            found[tensor.name] = (0, max(1, min(sizes)))
    return found


def _tables(document: Document, start: gs.Tensor) -> list[int]:
    sizes: list[int] = []
    seen: set[int] = set()
    queue = [start]
    while queue:
        tensor = queue.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        for node in tensor.outputs:
            size = _table_size(document, node, tensor)
            if size is not None:
                sizes.append(size)
            elif node.op in _CARRIES and node.inputs and (node.inputs[0] is tensor or node.op == "Concat"):
                queue.extend(node.outputs)
    return sizes


def _table_size(document: Document, node: gs.Node, tensor: gs.Tensor) -> int | None:
    """Return the number of rows that `tensor` indexes in `node`, or None where it is no index."""
    if node.op == "Gather" and len(node.inputs) > 1 and node.inputs[1] is tensor:
        shape = document.constant_shape(node.inputs[0])
        axis = int(node.attrs.get("axis", 0))
        return None if not shape else shape[axis]
    if node.op == "EmbedLayerNormalization":
        for index, table in ((0, 2), (1, 3)):
            if node.inputs[index] is tensor and len(node.inputs) > table:
                shape = document.constant_shape(node.inputs[table])
                return None if not shape else shape[0]
    if node.op == "OneHot" and node.inputs[0] is tensor:
        depth = document.constant(node.inputs[1])
        return None if depth is None else int(depth.reshape(-1)[0])
    return None
