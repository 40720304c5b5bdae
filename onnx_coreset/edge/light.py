"""A model without the bytes of its large tensors, for those who look at everything else: the checker does.

It looks at names, types and operators, and at shapes only where data should fit them: an empty tensor will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx

from onnx_coreset.edge.tensors import is_external, walk

__all__ = ["copied", "copy_fields", "light", "varint"]

_FEW = 1 << 12

Take = Callable[[onnx.TensorProto, onnx.TensorProto], bool]


def copied(model: onnx.ModelProto, take: Take) -> onnx.ModelProto:
    """Return a copy of a model without the raw data that somebody takes.

    Args:
        model: Any model; it is not changed.
        take: Called for each initializer of the main graph with the initializer and its copy, which has everything but
            raw data; says whether these are to stay away.

    Returns:
        The copy. O(bytes of the copy).
    """
    copy = onnx.ModelProto()
    _copy(model, copy, "graph")
    copy.graph.SetInParent()
    _copy(model.graph, copy.graph, "initializer")
    for tensor in model.graph.initializer:
        target = copy.graph.initializer.add()
        _copy(tensor, target, "raw_data")
        if not take(tensor, target) and tensor.HasField("raw_data"):
            target.raw_data = tensor.raw_data
    return copy


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose tensors are empty where their bytes are elsewhere, or many and in the main graph.

    Args:
        model: Any model; it is not changed.

    Returns:
        The copy. O(bytes of the copy).
    """
    copy = copied(model, _emptied)
    for place in walk(copy):
        if is_external(place.tensor):
            place.tensor.ClearField("external_data")
            place.tensor.ClearField("data_location")
            _empty(place.tensor)
    return copy


def _emptied(tensor: onnx.TensorProto, target: onnx.TensorProto) -> bool:
    large = bool(tensor.HasField("raw_data")) and math.prod(tensor.dims) > _FEW
    if large:
        _empty(target)
    return large


def _empty(tensor: onnx.TensorProto) -> None:
    del tensor.dims[:]
    tensor.dims.append(0)
    tensor.raw_data = b""


def copy_fields(source: Any, target: Any, wanted: Callable[[Any], bool]) -> None:
    """Copy fields of a message to an empty one of its type.

    Args:
        source: The message.
        target: Where they go.
        wanted: Takes the description of a field and says whether it is copied.
    """
    # Fields are asked for one by one: whoever lists them all makes a copy of the raw data, wanted or not.
    for field in source.DESCRIPTOR.fields:
        if not wanted(field):
            continue
        value = getattr(source, field.name)
        if isinstance(value, bytes) and field.type == field.TYPE_STRING:
            # Text that is not UTF-8 can be read and written, but not set.
            target.MergeFromString(varint(field.number << 3 | 2) + varint(len(value)) + value)
        elif isinstance(value, int | float | str | bytes):
            if source.HasField(field.name):
                setattr(target, field.name, value)
        elif hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif source.HasField(field.name):
            getattr(target, field.name).CopyFrom(value)


def _copy(source: Any, target: Any, without: str) -> None:
    copy_fields(source, target, lambda field: field.name != without)


def varint(number: int) -> bytes:
    """Return a number as messages hold it: seven bits a byte, low ones first, the top bit set on all but the last."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
