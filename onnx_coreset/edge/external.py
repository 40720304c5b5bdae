"""External data: the bytes of tensors that lie in files beside the model.

Where they are few they are moved into the model. Where they are many, large tensors stay in their files, and the model
says where (see `ranges`). A model may be a link into a store, as download caches lay it out: its data are looked for
beside the link, then beside the file that the link leads to.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from onnx_coreset.edge.ranges import keep
from onnx_coreset.edge.tensors import Place, check, is_external, stored_bytes, walk
from onnx_coreset.errors import ModelError

__all__ = ["MANY", "resolve"]

MANY = 1 << 28
_LARGE = 1 << 16


@dataclass(frozen=True)
class _Stored:
    """Where a tensor's bytes were found: the file, its identity and size, and the range in it."""

    path: Path
    identity: tuple[int, int]
    size: int
    offset: int
    length: int


def resolve(model: onnx.ModelProto, place: Path, many: int = MANY) -> tuple[dict[Path, int], bool]:
    """Finds all external data, moves them into the model unless they are many, and checks the data of every tensor.

    Args:
        model: The model as parsed; it is changed. Afterwards it stands alone, or names its files by absolute paths.
        place: The model file. Its folder, and that of the file it is a link to, are the only bases of the locations,
            whatever the working directory is.
        many: From how many bytes of external data on large tensors stay in their files.

    Returns:
        The files that were found, each once however many names it has, with their sizes in bytes; and whether tensors
        stayed in them.

    Raises:
        ModelError: A location leaves the folder, a file is missing or too short, or data and shape disagree.
    """
    folders = [place.parent]
    # A link to a store: its data may be links, too, or lie in the store by their own names.
    if place.is_symlink() and place.resolve().parent != place.parent.resolve():
        folders.append(place.resolve().parent)
    found: list[tuple[Place, _Stored]] = []
    for tensor in walk(model):
        if is_external(tensor.tensor):
            found.append((tensor, _find(tensor, folders)))
        else:
            check(tensor)
    stays = sum(stored.length for _, stored in found) >= many
    kept = False
    for tensor, stored in found:
        plain = not tensor.sparse and stored_bytes(tensor) is not None and not tensor.tensor.HasField("segment")
        if (
            stays
            and plain
            and stored.length >= _LARGE
            and keep(tensor.tensor, stored.path, stored.offset, stored.length)
        ):
            kept = True
            continue
        tensor.tensor.raw_data = _read(tensor, stored)
        tensor.tensor.ClearField("data_location")
        tensor.tensor.ClearField("external_data")
        check(tensor)
    return dict({s.identity: (s.path, s.size) for _, s in reversed(found)}.values()), kept


def _find(place: Place, folders: Sequence[Path]) -> _Stored:
    """Return where the bytes of a tensor are; they are not read."""
    location = _location(place)
    paths = [folder / location for folder in folders]
    path = next((path for path in paths if os.path.lexists(path)), paths[0]) if len(paths) > 1 else paths[0]
    try:
        status = path.stat()
        # Looked at first: opening a pipe would wait for ever.
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{place.where} has its data in {path}, which is not a file; export the model again")
        if not os.access(path, os.R_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise _unreadable(place, path, error) from error
    offset, length = _range(place, path, status.st_size)
    return _Stored(path, (status.st_dev, status.st_ino), status.st_size, offset, length)


def _unreadable(place: Place, path: Path, error: OSError) -> ModelError:
    what = "which is missing" if isinstance(error, FileNotFoundError) else f"unreadable: {error.strerror}"
    return ModelError(f"{place.where} has its data in {path}, {what}; copy the file to the model's folder")


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


def _range(place: Place, path: Path, size: int) -> tuple[int, int]:
    """Return offset and length of a tensor's bytes in a file of `size` bytes."""
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
    return offset, length


def _read(place: Place, stored: _Stored) -> bytes:
    try:
        with stored.path.open("rb") as file:
            file.seek(stored.offset)
            data = file.read(stored.length)
    except OSError as error:
        raise _unreadable(place, stored.path, error) from error
    if len(data) != stored.length:
        raise ModelError(
            f"{place.where} could not be read from {stored.path}, which became shorter meanwhile; try again"
        )
    return data
