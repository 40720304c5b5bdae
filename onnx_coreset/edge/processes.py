"""An executor of processes on this machine.

They are started as `python -c`, and not by `multiprocessing`: nothing is forked under running threads, and the script
that asks for them is not run again in each, so it needs no `if __name__ == "__main__"`. They are out of reach of the
terminal's Ctrl-C, end with this process, and are killed where it is interrupted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from onnx_coreset.edge.worker import ENTRY, receive, send

__all__ = ["Processes"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ONE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Processes(Executor):
    """Some processes, each of which does one thing at a time with one thread of BLAS."""

    def __init__(self, count: int) -> None:
        """Start them.

        Args:
            count: How many.
        """
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="onnx-coreset")
        try:
            for _ in range(count):
                self._start()
        except BaseException:
            self.kill()
            raise

    def _start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", ENTRY, *(os.path.abspath(place) for place in sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(_ONE, "1"),
            start_new_session=True,
        )
        self._all.append(process)
        self._idle.put(process)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Let one of them call a function of a module with arguments that can be pickled, given by position."""
        assert not kwargs
        return self._threads.submit(self._call, fn, args)

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._idle.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            send(process.stdin, (function, arguments))
            done, value = receive(process.stdout)
        except (OSError, EOFError) as error:
            raise BrokenExecutor("a worker process ended before it was done") from error
        finally:
            # One that ended is put back, too: whoever gets it is told the same.
            self._idle.put(process)
        if not done:
            raise value
        return value

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End them, when they have done what was submitted."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            self._end()

    def kill(self) -> None:
        """End them now, whatever they do."""
        for process in self._all:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._end()

    def _end(self) -> None:
        for process in self._all:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            process.wait()
