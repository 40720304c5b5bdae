"""Bytes to a model: what protobuf accepts but is no model is refused here, in one line."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_coreset.errors import ModelError

__all__ = ["parse"]

_Name = str | bytes


def parse(data: bytes, path: object) -> onnx.ModelProto:
    """Parses a model.

    Args:
        data: The bytes of a model file.
        path: What to call the file in errors.

    Returns:
        The model; external data are not looked at.

    Raises:
        ModelError: The bytes are no model: empty, truncated, something else, or with names that are no text.
    """
    if not data:
        raise ModelError(f"{path} is empty; copy or export the model again")
    try:
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except Exception as error:  # protobuf's error class depends on its implementation
        raise ModelError(
            f"{path} is not an ONNX file (not a model, or a truncated one); copy or export the model again"
        ) from error
    # Protobuf takes some junk, and any prefix that ends between two fields, for a message with few fields set.
    if model.ir_version <= 0 or not model.HasField("graph") or not (model.opset_import or model.graph.node):
        raise ModelError(f"{path} holds no ONNX graph, or only part of one; copy or export the model again")
    if any(isinstance(name, bytes) for name in _names(model)):
        raise ModelError(f"{path} has a name that is not UTF-8 text: the file is damaged; copy or export it again")
    return model


def _names(model: onnx.ModelProto) -> Iterator[_Name]:
    """Yields every name that reading a graph needs; protobuf hands one that is not UTF-8 over as bytes."""
    rooms: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for info in model.training_info:
        rooms += [info.initialization, info.algorithm]
    yield from (opset.domain for opset in model.opset_import)
    while rooms:
        room = rooms.pop()
        if isinstance(room, onnx.GraphProto):
            yield from (tensor.name for tensor in room.initializer)
            yield from (sparse.values.name for sparse in room.sparse_initializer)
            for values in (room.input, room.output, room.value_info):
                for value in values:
                    yield value.name
                    yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
        else:
            yield from (room.name, room.domain, *room.input, *room.output, *room.attribute)
        for node in room.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            for attribute in node.attribute:
                yield attribute.name
                yield attribute.ref_attr_name
                if attribute.HasField("g"):
                    rooms.append(attribute.g)
                rooms.extend(attribute.graphs)
