"""What the machine has: memory, and a fair share of it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["SESSION_FACTOR", "bound_memory", "fair_share", "memory"]

# A session holds the weights, and kernels a rearranged copy of them; the original and the result are run side by side.
SESSION_FACTOR = 4
_UNKNOWN = 8 << 30
_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory() -> int:
    """Return the bytes of memory that this process may have: the machine's, or its container's where that is less."""
    found = [_physical()]
    for place in _GROUPS:
        # "max" stands for no limit.
        with suppress(OSError, ValueError):
            found.append(int(Path(place).read_text("ascii")))
    return min(found)


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN


def bound_memory() -> None:
    """Let this process have no more memory than there is: asking for more then fails, which can be said in a line.

    Otherwise the system hands it out, and ends a process once it is used. Where a graphics card maps its memory into
    the process there is no bound.
    """
    if sys.platform != "linux" or Path("/dev/nvidiactl").exists():
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory() if soft == resource.RLIM_INFINITY else min(soft, memory())
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def fair_share() -> int:
    """Return how much memory running whole models may take where nobody says: half."""
    return memory() // 2
