"""Temporary names beside what will be written: made so that nobody else takes them, and removed when their run is dead.

A name says which machine made it. Whoever makes a file or folder of such a name holds a lock on it that the system
drops when the process ends, however it ends. What nobody holds any more is therefore left over from a run that was
killed, and the next run into the same folder removes it; what another run holds is never touched. Where there are no
such locks, nothing is taken for left over.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from platform import node

if sys.platform != "win32":
    import fcntl

__all__ = ["Held", "dead", "held", "new_file", "new_folder", "sync_folder"]

_LOCKS = sys.platform != "win32"
_TRIES = 100


@dataclass
class Held:
    """A temporary file or folder that is this process's own.

    Attributes:
        path: Where it is.
    """

    path: Path
    _lock: int | None

    def release(self) -> None:
        """Hold it no longer; it stays where it is, if it is still there."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def new_file(folder: Path, mode: int = 0o666) -> Held:
    """Make an empty file.

    Args:
        folder: Where.
        mode: Its permissions, less what the process masks.

    Raises:
        OSError: It cannot be made.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
    for _ in range(_TRIES):
        path = _name(folder)
        handle = os.open(path, flags, mode)
        if not _LOCKS:
            os.close(handle)
            return Held(path, None)
        if _locked(handle, path, True):
            return Held(path, handle)
        os.close(handle)
    raise FileExistsError(17, "no name is free", str(folder))


def new_folder(folder: Path) -> Held:
    """Make an empty folder that only its owner may look into.

    Args:
        folder: Where.

    Raises:
        OSError: It cannot be made.
    """
    for _ in range(_TRIES):
        path = _name(folder)
        path.mkdir(mode=0o700)
        if not _LOCKS:
            return Held(path, None)
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            if _locked(handle, path, True):
                return Held(path, handle)
            os.close(handle)
    raise FileExistsError(17, "no name is free", str(folder))


@contextmanager
def held(thing: Held) -> Iterator[Path]:
    """Hold a thing that was made as long as the context lasts."""
    try:
        yield thing.path
    finally:
        thing.release()


def dead(folder: Path) -> Iterator[Path]:
    """Find what runs on this machine that were killed left in a folder.

    Args:
        folder: Where to look; what cannot be looked at is passed over.

    Yields:
        Files and folders that nobody holds, each held for as long as the caller looks at it.
    """
    if not _LOCKS:
        return
    pattern = re.compile(re.escape(_stem()) + r"[0-9a-f]{16}\.tmp")
    try:
        names = sorted(name for name in os.listdir(folder) if pattern.fullmatch(name))
    except OSError:
        return
    for path in (folder / name for name in names):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if _locked(handle, path, False):
                yield path
        finally:
            os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can: the file is there either way."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _locked(handle: int, path: Path, otherwise: bool) -> bool:
    """Lock what was opened; return whether it is ours now and still there, `otherwise` where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    # Somebody may have taken it for left over between its making and the lock.
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    return False


def _stem() -> str:
    return f".onnx-coreset-{zlib.crc32(node().encode()):08x}-"


def _name(folder: Path) -> Path:
    return folder / f"{_stem()}{secrets.token_hex(8)}.tmp"
