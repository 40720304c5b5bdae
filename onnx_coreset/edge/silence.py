"""Keeps a library quiet that writes to the terminal from Python and from native code, and listens to what it says."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO

__all__ = ["one_line", "silenced"]

# A message this long already says it.
_LONGEST_MESSAGE = 400
_LONGEST_TEXT = 4000
# File descriptors belong to the process: two threads that redirect them at once would restore each other's redirection.
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def silenced() -> Iterator[io.StringIO]:
    """Redirects stdout and stderr, of Python and of the process, for as short as it may be.

    What other threads write meanwhile is lost too, so only what is known to be noisy and quick belongs inside.

    Yields:
        A buffer that holds all that was said, once the context has ended.
    """
    said = io.StringIO()
    with _ONE_AT_A_TIME, _heap() as heap:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):
                stream.flush()
        saved: dict[int, int] = {}
        try:
            for descriptor in (1, 2):
                with suppress(OSError):
                    saved[descriptor] = os.dup(descriptor)
                    os.dup2(heap.fileno(), descriptor)
            with redirect_stdout(said), redirect_stderr(said):
                yield said
        finally:
            for descriptor, old in saved.items():
                os.dup2(old, descriptor)
                os.close(old)
            heap.seek(0)
            said.write(heap.read().decode("utf-8", "replace"))


def _heap() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "w+b")


def one_line(text: str) -> str:
    """Makes one line of what ONNX Runtime says, for a person.

    Args:
        text: A message of the library.

    Returns:
        The message without line breaks, error numbers and the places in the library's own source, cut where it is long.
    """
    # A model can hold names of any length, and what looks for places in them takes the square of it.
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(text[:_LONGEST_TEXT].split()))
    text = re.sub(r"\S*/onnxruntime/\S+\.(?:cc|h|cu):\d+ [^()]*\([^()]*\)(?: const)? ", "", text)
    return text[:_LONGEST_MESSAGE].strip()
