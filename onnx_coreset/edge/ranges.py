"""Tensors whose bytes stay in their file until somebody needs them.

Such a tensor names a file by its absolute path, an offset and a length, in the fields that ONNX has for external data.
References of this kind are made here alone, for files and sizes that were checked before; they live in memory only, and
what is written never holds one. Bytes are read and not mapped, but for the runtime, which wants a buffer: a map of a
file that somebody truncates meanwhile ends the process.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_coreset.edge.light import copied
from onnx_coreset.edge.machine import fair_share
from onnx_coreset.edge.tensors import Place, is_external, stored_bytes, walk
from onnx_coreset.errors import MachineError, ModelError

__all__ = ["Range", "bring", "content", "files", "keep", "mapped", "numbers", "refer", "reference", "take_in", "weight"]

_LARGEST = 2**31 - 1
_KINDS = frozenset(helper.get_all_tensor_dtypes())


@dataclass(frozen=True)
class Range:
    """Where the bytes of a tensor are.

    Attributes:
        path: Absolute path of a file.
        offset: Its first byte there.
        length: How many bytes there are.
    """

    path: str
    offset: int
    length: int


def refer(tensor: onnx.TensorProto, place: Range) -> None:
    """Let a tensor's bytes be those of a file; what it held before is dropped.

    Args:
        tensor: The tensor; it is changed.
        place: Where its bytes are, as many as its shape needs.
    """
    for field in ("raw_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place.path), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))


def reference(tensor: onnx.TensorProto) -> Range | None:
    """Return where a tensor's bytes are, or None where the tensor itself holds them."""
    if not is_external(tensor):
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return Range(entries["location"], int(entries["offset"]), int(entries["length"]))


def content(place: Range) -> bytes:
    """Read the bytes of a range.

    Raises:
        ModelError: The file went away or became shorter since it was looked at.
        MachineError: They take more than half of the memory that there is.
    """
    if place.length > fair_share():
        raise MachineError(f"a tensor of {place.length / 2**30:.3g} GiB in {place.path} does not fit into memory")
    try:
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            data = file.read(place.length)
    except OSError as error:
        raise ModelError(f"{place.path} cannot be read any more ({error.strerror}); try again") from error
    if len(data) != place.length:
        raise ModelError(f"{place.path} became shorter meanwhile; try again")
    return data


def take_in(tensor: onnx.TensorProto, place: Range) -> None:
    """Let a tensor hold its bytes itself.

    Args:
        tensor: The tensor; it is changed.
        place: Where its bytes are.

    Raises:
        ModelError: The file went away or became shorter.
    """
    tensor.raw_data = content(place)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def numbers(tensor: onnx.TensorProto) -> NDArray[Any]:
    """Return the numbers of a tensor, wherever they are, read-only where they were not there as they are.

    Raises:
        ModelError: The file with its bytes went away or became shorter.
    """
    place = reference(tensor)
    if place is None:
        return numpy_helper.to_array(tensor)
    data, shape = content(place), tuple(tensor.dims)
    if tensor.data_type in _KINDS:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if int(np.prod(shape, dtype=np.int64)) * kind.itemsize == place.length:
            return np.frombuffer(
                data, kind if kind.itemsize == 1 or kind.kind == "V" else kind.newbyteorder("<")
            ).reshape(shape)
    # Types below a byte are packed.
    whole = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=data)
    return numpy_helper.to_array(whole)


def files(model: onnx.ModelProto) -> set[str]:
    """Return the paths of the files that hold tensors of a model."""
    return {place.path for place in _references(model)}


@contextmanager
def mapped(path: str) -> Iterator[mmap.mmap]:
    """Map a file for reading, for those who want all of it as one buffer, and end that afterwards.

    Raises:
        OSError: The file went away, or is empty.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        yield whole


def weight(model: onnx.ModelProto) -> int:
    """Return the bytes of a model with all its tensors in it, without writing them out to count them.

    Exact where all tensors are in the model; of those that are not, the few bytes that say where they are count, too.
    """
    taken: list[tuple[onnx.TensorProto, int]] = []

    def take(tensor: onnx.TensorProto, target: onnx.TensorProto) -> bool:
        if tensor.HasField("raw_data"):
            # Raw data are as many as the shape needs, and to ask for them is to copy them.
            known = stored_bytes(Place("", tensor))
            taken.append((target, len(tensor.raw_data) if known is None else known))
            return True
        return False

    copy = copied(model, take)
    grown = 0
    for target, length in taken:
        before = target.ByteSize()
        after = before + 1 + _varint(length) + length
        grown += after + _varint(after) - before - _varint(before)
    inner = copy.graph.ByteSize()
    grown += _varint(inner + grown) - _varint(inner)
    return int(copy.ByteSize()) + grown + sum(place.length for place in _references(copy))


def _varint(number: int) -> int:
    """Return how many bytes a length takes in a message."""
    return max(1, -(-number.bit_length() // 7))


def _references(model: onnx.ModelProto) -> Iterator[Range]:
    for place in walk(model):
        found = reference(place.tensor)
        if found is not None:
            yield found


def bring(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with all its tensors in it.

    Args:
        model: A model; it is not changed.

    Returns:
        The model itself where it has no references, otherwise a copy.

    Raises:
        MachineError: It has 2 GB or more, which no model in memory can have.
    """
    if next(_references(model), None) is None:
        return model
    if weight(model) > _LARGEST:
        raise MachineError("a model of 2 GB or more cannot be held in memory; give the path of a file to write it to")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for place in walk(copy):
        found = reference(place.tensor)
        if found is not None:
            take_in(place.tensor, found)
    return copy


def keep(tensor: onnx.TensorProto, path: str | os.PathLike[str], offset: int, length: int) -> bool:
    """Let a tensor's bytes stay where they are, if its path can be written down.

    Args:
        tensor: The tensor; it is changed.
        path: The file.
        offset: The first byte.
        length: How many there are.

    Returns:
        Whether that was possible: a path that is not text has no place in a message.
    """
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    refer(tensor, Range(name, offset, length))
    return True
