"""A model file in pieces, so that tensors go into it from other files and never through memory.

A message is its fields one after the other; a field that is a message, or bytes, is a tag, a length and as many bytes.
Once the lengths are known, everything but the large tensors can be written out, and those copied in between:

    model = fields before the graph | tag, length, graph | fields behind it
    graph = nodes, name | tag, length, tensor | ... | the rest
    tensor = dims, type, name | tag, length, raw data | the rest
"""

from __future__ import annotations

from typing import Any

import onnx

from onnx_coreset.edge.light import copied, copy_fields, varint
from onnx_coreset.edge.ranges import Range, reference, take_in
from onnx_coreset.edge.tensors import walk

__all__ = ["Piece", "in_pieces", "varint"]

Piece = bytes | Range

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_ELSEWHERE = ("external_data", "data_location")


def in_pieces(model: onnx.ModelProto) -> list[Piece]:
    """Return what a model file holds: the bytes that `SerializeToString` gives of the model with all its tensors in it.

    Args:
        model: A model; it is not changed. Of tensors that are in other files, those of the main graph become ranges,
            and others are read.
    """
    own = copied(model, lambda tensor, target: reference(tensor) is not None)
    for place in walk(own):
        found = reference(place.tensor)
        if found is not None and not any(place.tensor is tensor for tensor in own.graph.initializer):
            take_in(place.tensor, found)
    inner: list[Piece] = [_part(own.graph, None, _INITIALIZER)]
    for tensor in own.graph.initializer:
        inner += _nested(_INITIALIZER, _tensor(tensor))
    inner.append(_part(own.graph, _INITIALIZER, None))
    return [_part(own, None, _GRAPH), *_nested(_GRAPH, inner), _part(own, _GRAPH, None)]


def _tensor(tensor: onnx.TensorProto) -> list[Piece]:
    found = reference(tensor)
    if found is None:
        return [tensor.SerializeToString()]
    plain = type(tensor)()
    copy_fields(tensor, plain, lambda field: field.name not in _ELSEWHERE)
    return [_part(plain, None, _RAW_DATA), *_nested(_RAW_DATA, [found]), _part(plain, _RAW_DATA, None)]


def _part(message: Any, above: int | None, below: int | None) -> bytes:
    """Return the fields of a message whose numbers are above and below others."""
    part = type(message)()
    copy_fields(
        message,
        part,
        lambda field: (above is None or field.number > above) and (below is None or field.number < below),
    )
    data: bytes = part.SerializeToString()
    return data


def _nested(number: int, pieces: list[Piece]) -> list[Piece]:
    """Return pieces as a field of a message around them."""
    length = sum(piece.length if isinstance(piece, Range) else len(piece) for piece in pieces)
    return [varint(number << 3 | 2) + varint(length), *pieces]
