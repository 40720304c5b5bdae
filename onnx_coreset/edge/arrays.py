"""Arrays as ONNX Runtime takes and gives them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["BY_ADDRESS", "Array", "InputSpec", "fetched", "plain", "specified"]

Array = np.ndarray[Any, np.dtype[Any]]

_DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        f"tensor({name})": np.dtype(dtype)
        for name, dtype in (
            ("float", np.float32),
            ("double", np.float64),
            ("float16", np.float16),
            ("bfloat16", ml_dtypes.bfloat16),
            ("float8e4m3fn", ml_dtypes.float8_e4m3fn),
            ("float8e4m3fnuz", ml_dtypes.float8_e4m3fnuz),
            ("float8e5m2", ml_dtypes.float8_e5m2),
            ("float8e5m2fnuz", ml_dtypes.float8_e5m2fnuz),
            ("bool", np.bool_),
            *((name, name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
        )
    }
)
# Types that numpy itself does not know: the library takes and gives them as addresses only. Numbers as in ONNX.
BY_ADDRESS: Mapping[np.dtype[Any], int] = MappingProxyType(
    {
        _DTYPES["tensor(bfloat16)"]: 16,
        _DTYPES["tensor(float8e4m3fn)"]: 17,
        _DTYPES["tensor(float8e4m3fnuz)"]: 18,
        _DTYPES["tensor(float8e5m2)"]: 19,
        _DTYPES["tensor(float8e5m2fnuz)"]: 20,
    }
)


@dataclass(frozen=True)
class InputSpec:
    """An input or an output of a session.

    Attributes:
        name: Its name in the graph.
        dtype: Its element type; None for what is no array of numbers (strings, sequences, maps, optionals).
        type: ONNX Runtime's word for its type, such as ``tensor(float)``.
        shape: A number, a symbol or None (unknown) for each axis. ``()`` is a scalar, or an array of unknown rank:
            the runtime makes no difference.
    """

    name: str
    dtype: np.dtype[Any] | None
    type: str
    shape: tuple[int | str | None, ...]


def fetched(value: Any, dtype: np.dtype[Any] | None) -> Array:
    """Takes an array out of one of the library's own values.

    Args:
        value: An ``OrtValue`` that holds a tensor.
        dtype: Its element type, or None where that is none of numbers.

    Returns:
        The array; a copy of its own where only its address is known.

    Raises:
        ValueError: Only its address is known, and that is on another device.
    """
    if dtype is None or dtype not in BY_ADDRESS:
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    if value.device_name().lower() != "cpu":
        raise ValueError(f"a result of type {dtype} stayed on the device, where it cannot be read")
    return np.frombuffer(bytearray(ctypes.string_at(value.data_ptr(), size)), dtype).reshape(shape)


def plain(array: Array) -> Array:
    """Lays an array out as the library reads it: it takes another byte order for its own, without a word.

    Args:
        array: Any array, or a scalar of numpy.

    Returns:
        The same numbers in the machine's byte order, rows first; the array itself where it is so already.
    """
    array = np.asarray(array, order="C")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def specified(argument: Any) -> InputSpec:
    """Describes an input or output.

    Args:
        argument: The library's ``NodeArg``.

    Returns:
        The same as plain data.
    """
    known = (axis if isinstance(axis, str) or (axis is not None and axis >= 0) else None for axis in argument.shape)
    return InputSpec(argument.name, _DTYPES.get(argument.type), argument.type, tuple(known))
