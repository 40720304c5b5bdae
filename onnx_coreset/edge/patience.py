"""Ctrl-C and native code: runs of a model that can be ended, also where they may never end, and imports that cannot.

The call runs in a thread of its own while the caller's waits; the library looks at a flag between two nodes, and
between two rounds of a loop.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["Impatient", "Patience", "may_never_end", "runs_within", "timed", "uninterrupted"]

_T = TypeVar("_T")
_LOOP_SECONDS = 30.0
# The field of a node that says it is a Loop: the only operator that may run for ever. Weights look like it by chance
# once in 2**48 bytes, and are then run with a limit.
_LOOP = b"\x22\x04Loop"


class Impatient(Exception):
    """A run took longer than it may; the message says so."""


def may_never_end(data: bytes) -> bool:
    """Return whether a serialised model holds a loop."""
    return _LOOP in data


def timed(call: Callable[[], _T]) -> tuple[_T, float]:
    """Return what a call returns, and how many seconds it took."""
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def runs_within(seconds: float, each: float) -> int:
    """Return how many runs take about so long: a power of two, so that it rarely varies, and at least one.

    Args:
        seconds: How long all may take.
        each: How long one took, in seconds.
    """
    return int(2 ** math.floor(math.log2(max(seconds / max(each, 1e-6), 1.0))))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the context ends: a native library that is interrupted while it is imported seems broken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        # None: whoever set it was no Python code.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


class Patience:
    """Waits for the runs of one session, one at a time.

    Attributes:
        seconds: How long one may take, or None for as long as it likes.
    """

    def __init__(self, limited: bool) -> None:
        """Start no thread yet.

        Args:
            limited: Whether a run may never end.
        """
        self.seconds = _LOOP_SECONDS if limited else None
        self._thread = ThreadPoolExecutor(1, "onnx-coreset-run")

    def wait(self, call: Callable[[Any], _T], options: Any) -> _T:
        """Make a call and wait for what it returns.

        Args:
            call: Takes `options`.
            options: Of the run: its attribute `terminate` is set to end it.

        Raises:
            Impatient: It took too long.
        """
        running: Future[_T] = self._thread.submit(call, options)
        try:
            return running.result(self.seconds)
        except BaseException as error:
            if running.done():
                raise
            options.terminate = True
            # Whatever it says now is the answer to being ended.
            running.exception()
            if isinstance(error, TimeoutError):
                raise Impatient(f"a run took more than {self.seconds:g} s: a loop of the model may never end") from None
            raise
