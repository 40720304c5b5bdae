"""Everything that touches a disk: models and samples are read here, models and reports are written here.

A file is written under a temporary name in its folder and then renamed over the old one, so that a crash leaves the old
file or the new one and never half of either. What cannot be written is found out before the work, where it can be.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_coreset.edge.external import MANY, resolve
from onnx_coreset.edge.parse import parse
from onnx_coreset.edge.temporary import held, new_file, sync_folder
from onnx_coreset.errors import MachineError, ModelError, UsageError

__all__ = ["AnyPath", "Loaded", "check_output", "check_report", "load", "save", "serialised"]

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Loaded:
    """A model as it lies on a disk.

    Attributes:
        model: The model, every tensor's data as many as its shape needs; external data were moved into it, or where
            they are many, are named by absolute paths.
        path: Where the model file is.
        bytes: The size of the model file and of its external data files together.
        sha256: Of the model file alone, in hexadecimal.
        data: The external data files, in no promised order.
        large: Whether tensors stayed in their files.
    """

    model: onnx.ModelProto
    path: Path
    bytes: int
    sha256: str
    data: tuple[Path, ...] = ()
    large: bool = False


def load(path: AnyPath, many: int = MANY) -> Loaded:
    """Reads a model and its external data.

    Args:
        path: The model file. Its folder is the base of all external data, whatever the working directory is.
        many: From how many bytes of external data on large tensors stay in their files.

    Returns:
        The model, and what the files were.

    Raises:
        ModelError: A file is missing or unreadable, is no model, or a tensor's data do not fit its shape.
        MachineError: The model does not fit into memory.
    """
    place = Path(path)
    try:
        content = _content(place)
        model = parse(content, place)
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        del content
        try:
            data, large = resolve(model, place, many)
        except ModelError as error:
            raise ModelError(f"{place}: {error}") from error
    except MemoryError as error:
        raise MachineError(f"{place} does not fit into memory; free some, or use a machine with more") from error
    return Loaded(model, place, size + sum(data.values()), digest, tuple(data), large)


def _content(path: Path) -> bytes:
    try:
        # Looked at first: opening a pipe would wait for ever.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a file"
            raise ModelError(f"{path} is {what}; give the path of an .onnx file")
        if status.st_size >= 2**31:
            raise ModelError(f"{path} has 2 GB or more, which no ONNX file can: export with external data")
        with path.open("rb") as file:
            # No message begins with a zero, and a file of them may be long.
            if file.read(1) == b"\0":
                return b"\0"
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{path} does not exist; check the path of the model") from error
    except PermissionError as error:
        raise ModelError(f"{path} may not be read by you; change its permissions") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({_why(error)}); check the path of the model") from error


def _why(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _status(path: Path) -> os.stat_result | None:
    """What a path leads to, links followed; None where nothing is there."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise MachineError(f"{path} cannot be looked at ({_why(error)}); change its folder's permissions") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no usable path ({_why(error)}); choose another") from error


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, through links of either kind too; or would be, once they exist."""
    first, second = _status(one), _status(other)
    if first is not None and second is not None:
        return os.path.samestat(first, second)
    return os.path.realpath(one) == os.path.realpath(other)


def _target(path: AnyPath, what: str) -> Path:
    """The path of a file that is to be written, once its folder has been found fit for it."""
    place = Path(path)
    status = _status(place)
    if (status is not None and stat.S_ISDIR(status.st_mode)) or str(path).endswith(("/", os.sep)):
        raise UsageError(f"{what} {path} is a folder; give the path of a file in it")
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{what} {path} is not a regular file; give the path of another")
    folder = _status(place.parent)
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise UsageError(f"the folder of {what} {path} does not exist; make it first: {place.parent}")
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise MachineError(f"the folder of {what} {path} is not writable; change its permissions or choose another")
    return place


def _spare_input(place: Path, what: str, source: Loaded | AnyPath | None) -> None:
    model = source.path if isinstance(source, Loaded) else source
    if model is not None and _same(place, Path(model)):
        raise UsageError(f"{what} {place} is the input model, which is never written over; choose another path")
    for data in source.data if isinstance(source, Loaded) else ():
        if _same(place, data):
            raise UsageError(f"{what} {place} holds weights of the input model, which are never written over")


def check_output(out: AnyPath, source: Loaded | AnyPath | None, overwrite: bool) -> None:
    """Checks, before any work, that the result can be written where the user wants it.

    Args:
        out: Where the new model is to go.
        source: The input model, its path where it is not loaded yet (its data files are then not known), or None where
            it came as an object.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UsageError: Something is there, a folder included, and may not be replaced; it is the input or one of its data
            files, through links too; its folder does not exist.
        MachineError: The folder cannot be written to.
    """
    place = _target(out, "OUT")
    _spare_input(place, "OUT", source)
    # A link that leads nowhere is something, too.
    if os.path.lexists(place) and not overwrite:
        raise UsageError(f"OUT {out} exists; choose another path or allow replacing it with --overwrite")


def check_report(path: AnyPath, source: Loaded | AnyPath | None, out: AnyPath | None) -> None:
    """Checks, before any work, that the report can be written; an older report may be replaced.

    Args:
        path: Where the report is to go.
        source: The input model, its path, or None where it came as an object.
        out: Where the new model is to go, or None where none is written.

    Raises:
        UsageError: It is a folder, the input, one of its data files or OUT, or its folder does not exist.
        MachineError: The folder cannot be written to.
    """
    place = _target(path, "the report")
    _spare_input(place, "the report", source)
    if out is not None and _same(place, Path(out)):
        raise UsageError(f"the report {path} would go to the same file as the model; choose another path")


def serialised(model: onnx.ModelProto, out: AnyPath) -> bytes:
    """Returns the bytes of a model file.

    Args:
        model: The model, no external data.
        out: Where it will go, for errors.

    Raises:
        MachineError: Memory is full, or the model is too large for a file.
    """
    try:
        content: bytes = model.SerializeToString()
    except MemoryError as error:
        raise MachineError(f"{out} was not written: memory is full; free some and try again") from error
    except Exception as error:  # protobuf's error class depends on its implementation
        raise MachineError(
            f"{out} was not written: one .onnx file cannot hold 2 GB or more, and the result has as much; "
            "shrink it further, or split the model"
        ) from error
    return content


def save(contents: Mapping[AnyPath, bytes | Path]) -> None:
    """Writes files: the whole of each and all of them, or nothing.

    Args:
        contents: What to write, or a temporary file that holds it, by where to; what is there is replaced (a link
            itself, not what it leads to) and keeps its permissions. The last one counts most: nothing can fail once it
            is there.

    Raises:
        MachineError: The disk is full or a folder cannot be written to.
    """
    staged: dict[Path, Path] = {}
    undo: list[Path] = []
    path = Path()
    with ExitStack() as locks:
        try:
            for path, content in ((Path(name), content) for name, content in contents.items()):
                if isinstance(content, bytes):
                    # What is replaced has permissions of its own, and until then nobody else has any.
                    mode = 0o600 if os.path.lexists(path) else 0o666
                    staged[path] = locks.enter_context(held(new_file(path.parent, mode)))
                    undo.append(staged[path])
                else:
                    staged[path] = content
                _write(path, staged[path], content)
            for path, temporary in staged.items():
                undo += () if os.path.lexists(path) else (path,)
                os.replace(temporary, path)
        except BaseException as error:
            for leftover in undo:
                with suppress(OSError):
                    leftover.unlink()
            if isinstance(error, OSError):
                raise MachineError(
                    f"{path} was not written ({_why(error)}); make room, check the permissions, "
                    "or choose another folder"
                ) from error
            raise
    for folder in {path.parent for path in staged}:
        sync_folder(folder)


def _write(path: Path, temporary: Path, content: bytes | Path) -> None:
    """Fills a file that will take the place of `path`, with its permissions."""
    kept = _status(path)
    if isinstance(content, bytes):
        with open(temporary, "r+b") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if kept is not None:
        temporary.chmod(stat.S_IMODE(kept.st_mode) & 0o777)
