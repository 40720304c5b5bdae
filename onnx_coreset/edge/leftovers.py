"""What runs that were killed left behind, and nobody else could want, is removed by the next one."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import onnx

from onnx_coreset.edge.temporary import dead
from onnx_coreset.edge.tensors import walk

__all__ = ["clear", "data_of", "note"]

_READABLE = 1 << 28
_LONGEST_NOTES = 1 << 16
_NOTE = "data of onnx-coreset"


def clear(folder: Path) -> None:
    """Remove the temporary files and folders of runs that were killed; those of living ones stay.

    Where a killed run noted data files, they go too, unless a model names them.

    Args:
        folder: Where to look. What cannot be removed stays.
    """
    for path in dead(folder):
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                continue
            for data in _noted(path):
                if not _named(data):
                    data.unlink()
            path.unlink()


def note(notes: Path, data: Path, name: str) -> None:
    """Note a data file that is of no use unless a model names it; a second name would do, but readers refuse those.

    Args:
        notes: A temporary file in its folder that holds notes alone.
        data: The file.
        name: What it is called, or will be.

    Raises:
        OSError: The disk is full.
    """
    status = data.stat()
    line = json.dumps([_NOTE, name, status.st_ino, status.st_size, status.st_mtime_ns])
    with open(notes, "ab") as file:
        file.write(f"{line}\n".encode())


def _noted(notes: Path) -> Iterator[Path]:
    """Yield the files that a temporary file notes, as far as they are still what they were."""
    status = notes.lstat()
    # Opening a pipe would wait for ever.
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_NOTES:
        return
    for line in notes.read_bytes().splitlines():
        with suppress(ValueError, TypeError, OSError):
            mark, name, *was = json.loads(line)
            data = notes.with_name(name)
            found = data.lstat()
            if mark == _NOTE and data.name == name and was == [found.st_ino, found.st_size, found.st_mtime_ns]:
                yield data


def _named(data: Path) -> bool:
    """Return whether a model names a data file, of a name that we give, as its own."""
    owner = re.fullmatch(r"(.+?)(-\d+)?\.data", data.name)
    if owner is None:
        return True
    models = {data.with_name(owner[1]), data.with_name(owner[1] + (owner[2] or ""))}
    return any(data in data_of(model) for model in models)


def data_of(out: Path) -> list[Path]:
    """Return the data files, of names that we give, of the model that OUT is now."""
    pattern = re.compile(re.escape(out.name) + r"(-\d+)?\.data")
    model = onnx.ModelProto()
    try:
        if not out.is_file() or out.is_symlink() or out.stat().st_size > _READABLE:
            return []
        model.ParseFromString(out.read_bytes())
    except Exception:  # no model of ours, whatever it is: protobuf's error class depends on its implementation
        return []
    names = {e.value for p in walk(model) for e in p.tensor.external_data if e.key == "location"}
    found = [out.with_name(name) for name in sorted(names) if isinstance(name, str) and pattern.fullmatch(name)]
    return [path for path in found if path.is_file()]
