"""Those who work on chains: this process alone, processes of its own, or an executor of the caller's.

What one chain needs goes to a worker as a parcel, and so does what it becomes: their large arrays are files of the
scratch folder, which workers on other machines must see, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from onnx_coreset.edge.parcel import Known, opened, packed
from onnx_coreset.edge.processes import Processes
from onnx_coreset.edge.scratch import Scratch
from onnx_coreset.edge.silence import one_line
from onnx_coreset.edge.threads import cores, one_thread
from onnx_coreset.errors import CoresetError, MachineError, UsageError

__all__ = ["Crew", "crew"]

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Crew:
    """Who works on chains.

    Attributes:
        executor: Who does; None for this process.
        room: Where parcels are put.
        count: How many of them there are, as far as that is known.
        threads: How many threads one of them may use besides BLAS's; None for as many as there are cores.
    """

    executor: Executor | None = None
    room: Scratch | None = None
    count: int = 1
    threads: int | None = None
    _known: Known = field(default_factory=dict)

    def map(self, work: Callable[[_T], _R], tasks: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
        """Yield each task and what work makes of it, in their order.

        Args:
            work: A function of a module. BLAS has one thread while it runs.
            tasks: What it is called with; the next one is not asked for before the work on the last one began.

        Yields:
            The task, its large arrays mapped from files where others work, and the result.

        Raises:
            MachineError: A worker failed, or does not see the files.
            Exception: What the work raised.
        """
        if self.executor is None:
            with one_thread():
                for task in tasks:
                    yield task, work(task)
            return
        # Workers may be threads of this process.
        with one_thread():
            yield from self._shared(work, tasks)

    def _shared(self, work: Callable[[_T], _R], tasks: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
        assert self.room is not None
        folder = str(self.room.folder)
        waiting: list[tuple[_T, Future[bytes]]] = []
        try:
            for task in tasks:
                data = _sent(task, folder, dict(self._known))
                waiting.append((opened(data, self._known), self._submit(work, data, folder)))
                del task
            waiting.reverse()
            while waiting:
                given, future = waiting.pop()
                yield given, self._came(future)
        finally:
            for _, future in waiting:
                future.cancel()

    def _submit(self, work: Callable[[Any], Any], data: bytes, folder: str) -> Future[bytes]:
        assert self.executor is not None
        try:
            return self.executor.submit(_perform, work, data, folder)
        except RuntimeError as error:
            raise MachineError(f"the executor takes no work ({one_line(str(error))})") from error

    def _came(self, future: Future[bytes]) -> Any:
        """Return what a piece of work gave."""
        try:
            data = future.result()
        except Exception as error:
            reason = one_line(str(error)) or type(error).__name__
            raise MachineError(
                f"a worker failed ({reason}); its machine may be out of memory: use fewer workers, or none"
            ) from error
        done, value = opened(data, self._known)
        if not done:
            raise value
        return value


def _sent(task: Any, folder: str, known: Known) -> bytes:
    try:
        return packed(task, folder, known)
    except CoresetError:
        raise
    except Exception as error:
        raise UsageError(
            f"what workers need cannot be sent to them ({one_line(str(error))}): "
            "a method of your own must be of a class that a module defines"
        ) from error


def _perform(work: Callable[[Any], Any], data: bytes, folder: str) -> bytes:
    """Do a piece of work in whatever process this is; what it raises is sent back, too."""
    known: Known = {}
    try:
        with one_thread(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            answer: tuple[bool, Any] = True, work(opened(data, known))
        return packed(answer, folder, known)
    except Exception as error:
        try:
            return packed((False, error), folder)
        except Exception:
            return packed((False, MachineError(f"a worker failed ({type(error).__name__}: {error})")), folder)


@contextmanager
def crew(executor: Executor | None, jobs: int, room: Scratch | None) -> Iterator[Crew]:
    """Gather those who work on chains, and let those go who were started for it.

    Args:
        executor: The caller's, which is left as it is; or None.
        jobs: How many processes to start where there is none, from two on.
        room: Where parcels are put; needed where others than this process work.

    Raises:
        UsageError: Both were asked for.
        MachineError: Processes cannot be started.
    """
    if executor is not None and jobs > 1:
        raise UsageError("an executor and jobs are two ways to share work: give one of them")
    if executor is not None or jobs <= 1:
        yield Crew(executor, room)
        return
    try:
        own = Processes(jobs)
    except OSError as error:
        raise MachineError(f"worker processes cannot be started ({error.strerror}); leave --jobs out") from error
    try:
        yield Crew(own, room, jobs, max(1, cores() // jobs))
    finally:
        own.kill()
