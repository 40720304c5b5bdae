"""Where a model keeps its tensors, and whether their bytes are all there.

``onnx.checker`` lets tensors pass whose bytes are missing or too short, and reading one then fails far from its cause.
Everything that reads a model therefore walks all its tensors once and compares bytes with shape and element type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx

from onnx_coreset.errors import ModelError

__all__ = ["Place", "check", "check_all", "is_external", "stored_bytes", "walk"]

_T = onnx.TensorProto

# By number where an older onnx has no name for the type.
_BITS: Mapping[int, int] = MappingProxyType(
    {
        **dict.fromkeys((_T.UINT8, _T.INT8, _T.BOOL, 17, 18, 19, 20, 24), 8),
        **dict.fromkeys((_T.UINT16, _T.INT16, _T.FLOAT16, _T.BFLOAT16), 16),
        **dict.fromkeys((_T.FLOAT, _T.INT32, _T.UINT32), 32),
        **dict.fromkeys((_T.DOUBLE, _T.INT64, _T.UINT64, _T.COMPLEX64), 64),
        _T.COMPLEX128: 128,
        **dict.fromkeys((21, 22, 23), 4),
        **dict.fromkeys((25, 26), 2),
        **dict.fromkeys((27, 28), 6),
    }
)
_FIELDS: Mapping[int, str] = MappingProxyType(
    {
        _T.FLOAT: "float_data",
        _T.COMPLEX64: "float_data",
        _T.DOUBLE: "double_data",
        _T.COMPLEX128: "double_data",
        _T.INT64: "int64_data",
        _T.UINT32: "uint64_data",
        _T.UINT64: "uint64_data",
        _T.STRING: "string_data",
    }
)


@dataclass(frozen=True)
class Place:
    """A tensor and the words that name it to a person.

    Attributes:
        where: Such as ``initializer 'fc1.weight'`` or ``attribute 'value' of node 'Constant_3'``.
        tensor: The message inside the model, not a copy.
        sparse: Whether it is a part of a sparse tensor.
    """

    where: str
    tensor: onnx.TensorProto
    sparse: bool = False


def walk(model: onnx.ModelProto) -> Iterator[Place]:
    """Finds every tensor that a model stores.

    Initializers, sparse ones included (their values and their indices), and the tensors in attributes of nodes: in the
    main graph, in graphs inside nodes at any depth, in model-local functions and their defaults, in training graphs.

    Args:
        model: Any model, valid or not.

    Yields:
        Each tensor once, in no promised order.
    """
    rooms: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for info in model.training_info:
        rooms += [info.initialization, info.algorithm]
    while rooms:
        room = rooms.pop()
        if isinstance(room, onnx.GraphProto):
            for tensor in room.initializer:
                yield Place(f"initializer {tensor.name!r}", tensor)
            for sparse in room.sparse_initializer:
                yield from _of_sparse(f"sparse initializer {sparse.values.name!r}", sparse)
        else:
            for attribute in room.attribute_proto:
                yield from _of_attribute(attribute, f"function {room.name!r}", rooms)
        for node in room.node:
            if node.attribute:
                owner = f"node {node.name or next(iter(node.output), '') or node.op_type!r}"
                for attribute in node.attribute:
                    yield from _of_attribute(attribute, owner, rooms)


def _of_attribute(
    attribute: onnx.AttributeProto, owner: str, rooms: list[onnx.GraphProto | onnx.FunctionProto]
) -> Iterator[Place]:
    where = f"attribute {attribute.name!r} of {owner}"
    if attribute.HasField("t"):
        yield Place(where, attribute.t)
    for tensor in attribute.tensors:
        yield Place(where, tensor)
    if attribute.HasField("sparse_tensor"):
        yield from _of_sparse(where, attribute.sparse_tensor)
    for sparse in attribute.sparse_tensors:
        yield from _of_sparse(where, sparse)
    if attribute.HasField("g"):
        rooms.append(attribute.g)
    rooms.extend(attribute.graphs)


def _of_sparse(where: str, sparse: onnx.SparseTensorProto) -> Iterator[Place]:
    if sparse.HasField("values"):
        yield Place(f"values of {where}", sparse.values, True)
    if sparse.HasField("indices"):
        yield Place(f"indices of {where}", sparse.indices, True)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's bytes lie in another file.

    Args:
        tensor: Any tensor.

    Returns:
        True where the tensor says so.
    """
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def stored_bytes(place: Place) -> int | None:
    """The number of bytes that a tensor's shape and element type need in ``raw_data`` or in a data file.

    Args:
        place: A tensor; whether its data are there does not matter.

    Returns:
        The number of bytes, types below a byte packed; None for strings and for element types of a later ONNX.

    Raises:
        ModelError: A dimension is negative.
    """
    elements = _elements(place)
    bits = _BITS.get(place.tensor.data_type)
    return None if bits is None else -(-elements * bits // 8)


def _elements(place: Place) -> int:
    dims = tuple(place.tensor.dims)
    if any(dim < 0 for dim in dims):
        raise ModelError(f"{place.where} has a negative dimension in its shape {dims}; export the model again")
    return math.prod(dims)


def check(place: Place) -> None:
    """Checks that the inline data of a tensor are as many as its shape and element type say.

    Args:
        place: A tensor whose data are not external.

    Raises:
        ModelError: Data are missing, too few or too many, or kept in a way that nothing reads.
    """
    tensor = place.tensor
    elements = _elements(place)
    if tensor.HasField("segment"):
        raise ModelError(f"{place.where} is stored in segments, which nothing reads; export the model again")
    has_raw = tensor.HasField("raw_data")
    if tensor.data_type == onnx.TensorProto.UNDEFINED and (has_raw or (tensor.dims and elements)):
        raise ModelError(f"{place.where} has no element type; export the model again")
    needed = stored_bytes(place)
    if has_raw and tensor.data_type != onnx.TensorProto.STRING:
        found, unit = len(tensor.raw_data), "bytes"
    elif needed is not None or tensor.data_type == onnx.TensorProto.STRING:
        found, needed, unit = *_typed(tensor, elements), "values"
    else:
        return
    if needed is not None and found != needed:
        shape = "x".join(map(str, tensor.dims)) or "()"
        raise ModelError(
            f"{place.where} has {found} {unit} of data where its shape {shape} needs {needed}; "
            "the file is damaged or its weights were stripped: export the model again"
        )


def _typed(tensor: onnx.TensorProto, elements: int) -> tuple[int, int]:
    """How many values a tensor has in the field of its type, and how many it needs there."""
    kind = tensor.data_type
    found = len(getattr(tensor, _FIELDS.get(kind, "int32_data")))
    if kind in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return found, 2 * elements
    bits = _BITS.get(kind, 8)
    return found, -(-elements * bits // 8) if bits in (2, 4) else elements


def check_all(model: onnx.ModelProto) -> None:
    """Checks every tensor of a model that came as an object instead of from a file.

    Args:
        model: A model that must stand alone: nothing knows the folder of its external data any more.

    Raises:
        ModelError: A tensor's data are missing, too few or too many, or lie in another file.
    """
    for place in walk(model):
        if is_external(place.tensor):
            raise ModelError(
                f"{place.where} keeps its data in another file; give the path of the model, "
                "or load it with onnx.load, which reads external data"
            )
        check(place)
