"""How many threads work on one thing.

Sums of products differ in their last bits with the number of threads that share them. What is to come out the same
wherever it is computed gets one thread of BLAS, and other cores get other layers.

Some libraries have a limit for each thread that calls them, others one for the whole process, which threadpoolctl lets
one thread alone change. So everybody sets their own, and as long as anybody wants it, a thread that does nothing else
holds the one of the process: else who is done first would lift it for the others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

__all__ = ["cores", "one_thread"]


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Keeper:
    """A limit of the whole process, set for the first of those who want it and lifted for the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                ready, self._done = threading.Event(), threading.Event()
                self._thread = threading.Thread(target=_hold, args=(ready, self._done), daemon=True)
                self._thread.start()
                ready.wait()
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._thread is not None:
                self._done.set()
                self._thread.join()


def _hold(ready: threading.Event, done: threading.Event) -> None:
    try:
        with threadpool_limits(1):
            ready.set()
            done.wait()
    finally:
        ready.set()


_KEEPER = _Keeper()


@contextmanager
def one_thread() -> Iterator[None]:
    """Give BLAS one thread, in all of this process, as long as anybody in it wants that."""
    _KEEPER.enter()
    try:
        with threadpool_limits(1):
            yield
    finally:
        _KEEPER.leave()
