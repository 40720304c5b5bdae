"""Room on a disk for what a run needs later and memory should not hold until then.

Arrays are appended to files of a folder that goes away with the run, and come back as read-only arrays over maps of
those files: the pages come from the disk when somebody looks at them, and are given back by `forget`.
"""

from __future__ import annotations

import io
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_coreset.edge.leftovers import clear
from onnx_coreset.edge.ranges import Range, refer
from onnx_coreset.edge.temporary import held, new_folder
from onnx_coreset.errors import MachineError

__all__ = ["Scratch", "scratch"]

_T = TypeVar("_T")
_FILE = 1 << 30
_LARGE = 1 << 18
_ALIGNED = 64
_TRIES = 3


@dataclass
class _Part:
    """A file of the folder, as long as it will ever be, and a map of it."""

    path: str
    file: io.FileIO
    map: mmap.mmap
    size: int
    used: int = 0


@dataclass
class Scratch:
    """Files that hold arrays.

    Attributes:
        folder: Where they are.
    """

    folder: Path
    _parts: list[_Part] = field(default_factory=list)

    def keep(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the same array, read-only, held by a file.

        Raises:
            MachineError: The disk is full.
        """
        part, start = self._append(array)
        held = np.frombuffer(part.map, array.dtype, array.size, start)
        return held.reshape(array.shape)

    def message(self, name: str, array: NDArray[Any]) -> onnx.TensorProto | None:
        """Return a tensor whose bytes are held by a file, or None for an array that is small or of an odd type.

        Raises:
            MachineError: The disk is full.
        """
        if array.nbytes < _LARGE or (array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16"):
            return None
        part, start = self._append(array)
        tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        refer(tensor, Range(part.path, start, array.nbytes))
        self.forget()
        return tensor

    def shelved(self, value: _T) -> _T:
        """Return the same value with its large arrays held by a file.

        Args:
            value: Nested dataclasses, tuples and arrays; what is met twice is one thing afterwards, too.
        """
        known: dict[int, tuple[Any, Any]] = {}
        result: _T = self._shelved(value, known)
        return result

    def _shelved(self, value: Any, known: dict[int, tuple[Any, Any]]) -> Any:
        if id(value) in known:
            return known[id(value)][1]
        result = value
        if isinstance(value, np.ndarray):
            result = self.keep(value) if value.nbytes >= _LARGE and value.dtype.kind != "O" else value
        elif isinstance(value, tuple) and type(value) is tuple:
            items = tuple(self._shelved(item, known) for item in value)
            result = value if all(a is b for a, b in zip(items, value, strict=True)) else items
        elif is_dataclass(value) and not isinstance(value, type):
            result = self._rebuilt(value, known)
        known[id(value)] = (value, result)
        return result

    def _rebuilt(self, value: Any, known: dict[int, tuple[Any, Any]]) -> Any:
        """Return a dataclass with its fields shelved; it was checked when it was made, and is not checked again."""
        before = {item.name: getattr(value, item.name) for item in fields(value)}
        after = {name: self._shelved(item, known) for name, item in before.items()}
        if all(after[name] is item for name, item in before.items()):
            return value
        copy = object.__new__(type(value))
        for name, item in after.items():
            object.__setattr__(copy, name, item)
        return copy

    def forget(self) -> None:
        """Give back the memory of all pages that were looked at; they are still in their files."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for part in self._parts:
                part.map.madvise(mmap.MADV_DONTNEED)

    def _append(self, array: NDArray[Any]) -> tuple[_Part, int]:
        """Write an array; return its file and where it starts there."""
        plain = np.ascontiguousarray(array)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False) if plain.dtype.kind != "V" else plain
        try:
            part = self._room(plain.nbytes)
            start = part.used
            view = memoryview(plain.reshape(-1).view(np.uint8).data)
            part.file.seek(start)
            while view:
                view = view[part.file.write(view) :]
            part.used = -(-(start + plain.nbytes) // _ALIGNED) * _ALIGNED
        except OSError as error:
            raise MachineError(
                f"{self.folder} has no room for what this run must remember ({error.strerror}); make room"
            ) from error
        return part, start

    def _room(self, size: int) -> _Part:
        """Return a file with so many bytes left."""
        if not self._parts or self._parts[-1].used + size > self._parts[-1].size:
            length = max(size, _FILE)
            path = self.folder / str(len(self._parts))
            file = io.FileIO(path, "x+")
            try:
                file.truncate(length)
                mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
            except BaseException:
                file.close()
                raise
            self._parts.append(_Part(str(path), file, mapped, length))
        return self._parts[-1]

    def close(self) -> None:
        """Remove everything; arrays that are still about keep their map, and their pages, until they go."""
        for part in self._parts:
            part.file.close()
            with suppress(BufferError):
                part.map.close()
        self._parts.clear()
        for _ in range(_TRIES):
            # A worker that was not waited for may have put something there meanwhile.
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break


@contextmanager
def scratch(beside: str | os.PathLike[str] | None) -> Iterator[Scratch]:
    """Open a scratch folder and remove it in the end; nothing is made on the disk before it is needed.

    Args:
        beside: A file in whose folder it is made, or None for the system's folder of temporary files.

    Raises:
        MachineError: It cannot be made.
    """
    base = Path(tempfile.gettempdir()) if beside is None else Path(os.path.abspath(beside)).parent
    clear(base)
    try:
        own = new_folder(base)
    except OSError as error:
        raise MachineError(f"{base} cannot be written to ({error.strerror}); choose another folder") from error
    with held(own) as folder:
        room = Scratch(folder)
        try:
            yield room
        finally:
            room.close()
