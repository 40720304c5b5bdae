"""What runs that were killed left behind, and nobody else could want, is removed by the next one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import onnx

from onnx_coreset.edge.temporary import dead
from onnx_coreset.edge.tensors import walk

__all__ = ["clear", "data_of"]

_READABLE = 1 << 28


def clear(folder: Path) -> None:
    """Remove the temporary files and folders of runs that were killed; those of living ones stay.

    A data file that got its name already, while the model that was to name it never came, has a second one that is
    temporary: both go, unless a model names it.

    Args:
        folder: Where to look. What cannot be removed stays.
    """
    for path in dead(folder):
        with suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                continue
            for twin in _twins(path):
                twin.unlink()
            path.unlink()


def _twins(path: Path) -> Iterator[Path]:
    """Yield data files that are the same file as a temporary one, if no model of theirs names them."""
    status = path.stat()
    if status.st_nlink < 2:
        return
    for other in path.parent.glob("*.data"):
        owner = re.fullmatch(r"(.+?)(-\d+)?\.data", other.name)
        same = owner is not None and not other.is_symlink() and os.path.samestat(other.stat(), status)
        if owner is None or not same:
            continue
        models = {other.with_name(owner[1]), other.with_name(owner[1] + (owner[2] or ""))}
        if not any(other in data_of(model) for model in models):
            yield other


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
