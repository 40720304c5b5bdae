"""External data: the bytes of tensors that lie in files beside the model."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import onnx

from onnx_coreset.edge.tensors import Place, check, is_external, stored_bytes, walk
from onnx_coreset.errors import ModelError

__all__ = ["inline"]


def inline(model: onnx.ModelProto, folder: Path) -> dict[Path, int]:
    """Moves all external data into the model and checks the data of every tensor.

    Args:
        model: The model as parsed; it is changed, and stands alone afterwards.
        folder: The folder of the model file: the only base of the locations, whatever the working directory is.

    Returns:
        The files that were read, each once however many names it has, with their sizes in bytes.

    Raises:
        ModelError: A location leaves the folder, a file is missing or too short, or data and shape disagree.
    """
    files: dict[tuple[int, int], tuple[Path, int]] = {}
    for place in walk(model):
        if is_external(place.tensor):
            path = folder / _location(place)
            try:
                with _open(path, place) as file:
                    status = os.fstat(file.fileno())
                    files.setdefault((status.st_dev, status.st_ino), (path, status.st_size))
                    data = _read(file, status.st_size, place, path)
            except OSError as error:
                what = "which is missing" if isinstance(error, FileNotFoundError) else f"unreadable: {error.strerror}"
                raise ModelError(
                    f"{place.where} has its data in {path}, {what}; copy the file to the model's folder"
                ) from error
            place.tensor.raw_data = data
            place.tensor.ClearField("data_location")
            place.tensor.ClearField("external_data")
        check(place)
    return dict(files.values())


def _open(path: Path, place: Place) -> BinaryIO:
    # Looked at first: opening a pipe would wait for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelError(f"{place.where} has its data in {path}, which is not a file; export the model again")
    return path.open("rb")


def _entry(place: Place, key: str) -> str | None:
    for entry in place.tensor.external_data:
        if entry.key == key:
            value: str = entry.value
            return value
    return None


def _location(place: Place) -> str:
    location = _entry(place, "location")
    # Protobuf hands text that is not UTF-8 over as bytes.
    if not isinstance(location, str) or not location or "\0" in location:
        raise ModelError(f"{place.where} is external but names no data file; export the model again")
    absolute = bool(Path(location).anchor) or any(
        kind(location).is_absolute() for kind in (PurePosixPath, PureWindowsPath)
    )
    if absolute or ".." in re.split(r"[\\/]", location):
        raise ModelError(
            f"{place.where} has its data in {location!r}, outside the model's folder; "
            "put model and data in one folder and export or save the model again"
        )
    return location


def _number(place: Place, key: str, path: Path) -> int | None:
    text = _entry(place, key)
    if text is None or text == "":
        return None
    if not (isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 20):
        raise ModelError(f"{place.where} has the {key} {text!r} in {path}, which is no number; export the model again")
    return int(text)


def _read(file: BinaryIO, size: int, place: Place, path: Path) -> bytes:
    needed = stored_bytes(place)
    if place.tensor.data_type == onnx.TensorProto.STRING:
        raise ModelError(f"{place.where} is a tensor of strings with external data, which ONNX does not have")
    offset = _number(place, "offset", path) or 0
    length = _number(place, "length", path)
    if length is None:
        length = max(size - offset, 0) if needed is None else needed
    if needed is not None and length != needed:
        shape = "x".join(map(str, place.tensor.dims)) or "()"
        raise ModelError(
            f"{place.where} has {length} bytes of data in {path} where its shape {shape} needs {needed}; "
            "export the model again"
        )
    if offset > size or offset + length > size:
        raise ModelError(
            f"{place.where} has its data at bytes {offset} to {offset + length} of {path}, which has {size}; "
            "the file is truncated or another model's: copy it again"
        )
    file.seek(offset)
    data = file.read(length)
    if len(data) != length:
        raise ModelError(f"{place.where} could not be read from {path}, which became shorter meanwhile; try again")
    return data
