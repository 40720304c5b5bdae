"""A copy of a model without its numbers, for graph surgery.

The graph library drops what it does not know and fails on what it cannot decode. It is therefore given a skeleton: the
same nodes, names and shapes in the same order, tensors by shape alone, and none of the attributes that cannot matter to
a walk. Numbers are read from the original messages, and the original messages are what is written back.
"""

from __future__ import annotations

import onnx

_PLAIN_TYPES = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT64,
        onnx.TensorProto.INT32,
        onnx.TensorProto.BOOL,
    }
)
_PLAIN_ATTRIBUTES = frozenset(
    {
        onnx.AttributeProto.FLOAT,
        onnx.AttributeProto.INT,
        onnx.AttributeProto.FLOATS,
        onnx.AttributeProto.INTS,
    }
)


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with the nodes, names and shapes of `model` and none of its numbers.

    Args:
        model: Any model; it is not changed.

    Returns:
        A model whose graphs list the same nodes in the same order, at every depth.
    """
    bare = onnx.ModelProto()
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    _graph(model.graph, bare.graph)
    return bare


def _graph(source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    target.name = _text(source.name)
    seen: set[str] = set()
    for tensor in source.initializer:
        if tensor.name not in seen:
            seen.add(tensor.name)
            _tensor(tensor, target.initializer.add())
    for field in ("value_info", "input", "output"):
        for value in getattr(source, field):
            _value(value, getattr(target, field).add())
    for node in source.node:
        bare = target.node.add()
        bare.op_type, bare.name, bare.domain = node.op_type, node.name, node.domain
        bare.input.extend(node.input)
        bare.output.extend(node.output)
        for attribute in node.attribute:
            _attribute(attribute, bare)


def _text(name: str | bytes) -> str:
    """Return a name that nothing needs, of a graph or of a tensor in an attribute: what is no UTF-8 cannot be set."""
    return name if isinstance(name, str) else ""


def _tensor(source: onnx.TensorProto, target: onnx.TensorProto) -> None:
    target.name = _text(source.name)
    target.dims.extend(source.dims)
    target.data_type = source.data_type if source.data_type in _PLAIN_TYPES else onnx.TensorProto.FLOAT


def _value(source: onnx.ValueInfoProto, target: onnx.ValueInfoProto) -> None:
    target.name = source.name
    if source.type.HasField("tensor_type"):
        known = source.type.tensor_type.elem_type
        target.type.tensor_type.elem_type = known if known in _PLAIN_TYPES else onnx.TensorProto.FLOAT
        if source.type.tensor_type.HasField("shape"):
            target.type.tensor_type.shape.CopyFrom(source.type.tensor_type.shape)


def _attribute(source: onnx.AttributeProto, node: onnx.NodeProto) -> None:
    if source.ref_attr_name:
        return
    if source.type in _PLAIN_ATTRIBUTES:
        node.attribute.add().CopyFrom(source)
    elif source.type == onnx.AttributeProto.STRING:
        try:
            source.s.decode()
        except UnicodeDecodeError:
            return
        node.attribute.add().CopyFrom(source)
    elif source.type == onnx.AttributeProto.TENSOR:
        target = node.attribute.add()
        target.name, target.type = source.name, source.type
        _tensor(source.t, target.t)
    elif source.type == onnx.AttributeProto.GRAPH:
        target = node.attribute.add()
        target.name, target.type = source.name, source.type
        _graph(source.g, target.g)
