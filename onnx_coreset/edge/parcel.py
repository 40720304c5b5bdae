"""Values on their way to another process: small bytes, and files for the arrays among them that are large.

Whoever opens a parcel maps those files and reads what is looked at. Memory order is kept: a product of the same numbers
in another order may differ in its last bits.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_coreset.edge.light import copied
from onnx_coreset.edge.ranges import Range, refer
from onnx_coreset.errors import MachineError

__all__ = ["Known", "opened", "packed"]

_LARGE = 1 << 14
_ALIGNED = 64


@dataclass(frozen=True)
class _Held:
    """An array in a file.

    Attributes:
        place: Where its numbers are, in the order in which memory had them.
        dtype: Their type.
        shape: The shape that they have there.
        axes: For each axis of the array, which one it is there.
    """

    place: Range
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axes: tuple[int, ...]


Known = dict[int, tuple[NDArray[Any], _Held]]
"""Arrays that are in files already, by their identity."""


class _Pickler(pickle.Pickler):
    def __init__(self, target: io.BytesIO, path: str, known: Known) -> None:
        super().__init__(target, protocol=5)
        self._path, self._known = path, known
        self._file: io.FileIO | None = None

    def persistent_id(self, value: Any) -> Any:
        """Put large arrays into the file."""
        if type(value) is not np.ndarray or value.nbytes < _LARGE or value.dtype.hasobject:
            return None
        if id(value) not in self._known:
            # Met again, it is the same array; as long as it is noted, no other one has its identity.
            self._known[id(value)] = value, self._held(value)
        return self._known[id(value)][1]

    def reducer_override(self, value: Any) -> Any:
        """Put large tensors of models into the file."""
        if not isinstance(value, onnx.ModelProto):
            return NotImplemented
        taken: list[tuple[onnx.TensorProto, Range]] = []

        def take(tensor: onnx.TensorProto, target: onnx.TensorProto) -> bool:
            if not tensor.HasField("raw_data") or math.prod(tensor.dims) < _LARGE // 4:
                return False
            taken.append((target, self._append(memoryview(tensor.raw_data))))
            return True

        copy = copied(value, take)
        for target, place in taken:
            refer(target, place)
        return onnx.ModelProto.FromString, (copy.SerializeToString(),)

    def _held(self, value: NDArray[Any]) -> _Held:
        order = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
        plain = np.ascontiguousarray(value.transpose(order))
        place = self._append(plain.reshape(-1).view(np.uint8).data)
        return _Held(place, value.dtype, plain.shape, tuple(order.index(axis) for axis in range(value.ndim)))

    def _append(self, data: memoryview) -> Range:
        if self._file is None:
            self._file = io.FileIO(self._path, "x")
        start = -(-self._file.tell() // _ALIGNED) * _ALIGNED
        self._file.seek(start)
        length = data.nbytes
        while data:
            data = data[self._file.write(data) :]
        return Range(self._path, start, length)

    def close(self) -> None:
        """Leave the file."""
        if self._file is not None:
            self._file.close()


class _Unpickler(pickle.Unpickler):
    def __init__(self, source: io.BytesIO, known: Known) -> None:
        super().__init__(source)
        self._known = known
        self._maps: dict[str, mmap.mmap] = {}
        self._made: dict[_Held, NDArray[Any]] = {}

    def persistent_load(self, held: Any) -> Any:
        """Map an array."""
        if held not in self._made:
            path = held.place.path
            if path not in self._maps:
                with open(path, "rb") as file:
                    self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            flat = np.frombuffer(self._maps[path], held.dtype, math.prod(held.shape), held.place.offset)
            self._made[held] = array = flat.reshape(held.shape).transpose(held.axes)
            self._known[id(array)] = array, held
        return self._made[held]


def packed(value: Any, folder: str, known: Known | None = None) -> bytes:
    """Return a value as small bytes, its large arrays in a new file of a folder.

    Args:
        value: Anything that can be pickled.
        folder: Where the file goes; those who open the parcel must see it under the same path.
        known: Arrays that are in files already, and stay there.

    Raises:
        MachineError: The folder is full or gone.
        Exception: Whatever pickle says of a value that it cannot take.
    """
    target = io.BytesIO()
    path = os.path.join(folder, f"parcel-{secrets.token_hex(8)}")
    pickler = _Pickler(target, path, {} if known is None else known)
    try:
        pickler.dump(value)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        raise MachineError(f"{folder} has no room for what workers need ({error.strerror}); make room") from error
    finally:
        pickler.close()
    return target.getvalue()


def opened(data: bytes, known: Known | None = None) -> Any:
    """Return the value that `packed` made bytes of; large arrays are read-only.

    Args:
        data: What `packed` returned. Bytes of strangers are not for this.
        known: Is told which arrays are in files.

    Raises:
        MachineError: The folder of its files is not seen here.
    """
    try:
        return _Unpickler(io.BytesIO(data), {} if known is None else known).load()
    except OSError as error:
        raise MachineError(
            f"a worker cannot read {error.filename} ({error.strerror}): "
            "the folder of OUT, or without OUT that of temporary files, must be one that all workers share"
        ) from error
