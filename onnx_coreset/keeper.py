"""The program in a process of its own, watched by the one that was started.

The native libraries that read a model end their process on some hostile or damaged ones, and the system ends one that
takes the last of its memory. Whoever started the program then still gets a line, an exit code and a clean folder: its
process does nothing but start the other one, before anything is imported that could not stand a fork, pass signals on,
and wait. On systems without what that takes, the program runs as it is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["kept"]

_CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_FROM_TERMINAL = 0x80  # the terminal sends its signals to both
_DIE_WITH_PARENT = 1


def kept(work: Callable[[], int], crashed: Callable[[str], int], folders: Callable[[], Iterable[str]]) -> int:
    """Do the work in a child process.

    Args:
        work: The program; returns its exit code.
        crashed: Called with the name of the signal that ended it, where that is a fault; says so and returns a code.
        folders: Where the program may have left temporary files, if it was ended by a signal.

    Returns:
        The exit code: in the child the work's, in the parent that of the child.
    """
    if sys.platform != "linux":
        return work()
    handled = {getattr(signal, name) for name in _PASSED_ON} | {signal.SIGCHLD}
    # Ignored by those who started us: then nobody could be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError:
        # No room for another process: then without.
        child = -1
    if child <= 0:
        if child == 0:
            _die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return work()
    status = _waited(child, handled)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    ended = signal.Signals(os.WTERMSIG(status))
    _clear(folders)
    if ended.name in _CRASHES or ended == signal.SIGKILL:
        return crashed(ended.name)
    # Somebody ended the child, or both: this process ends the same way.
    signal.signal(ended, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.kill(parent, ended)
    return 128 + ended


def _die_with(parent: int) -> None:
    """Let this process be killed when its parent ends, however that ends: nobody would wait for it."""
    with suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _waited(child: int, handled: set[signal.Signals]) -> int:
    """Wait for a process and pass on to it what somebody sends to this one; return its status."""
    if sys.platform != "linux":
        raise AssertionError
    while True:
        info = signal.sigwaitinfo(handled)
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != _FROM_TERMINAL:
                with suppress(ProcessLookupError):
                    os.kill(child, info.si_signo)
            continue
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status


def _clear(folders: Callable[[], Iterable[str]]) -> None:
    from onnx_coreset.edge.leftovers import clear

    with suppress(Exception):
        for folder in folders():
            clear(Path(folder))
