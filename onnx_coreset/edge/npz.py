"""A user's samples, from a file that anybody may have written."""

from __future__ import annotations

import os
import stat
from typing import Any

import numpy as np

from onnx_coreset.errors import CoresetError, MachineError, UsageError

__all__ = ["load_arrays"]


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Reads a user's samples.

    Args:
        path: An ``.npz`` file as ``numpy.savez`` writes it; no Python objects are unpickled.

    Returns:
        The arrays by their names, each in the machine's byte order.

    Raises:
        UsageError: The file is missing or unreadable, is no ``.npz``, is damaged, or holds no arrays or Python objects.
        MachineError: The arrays do not fit into memory.
    """
    advice = "write it with numpy.savez(FILE, NAME=array, ...)"
    try:
        # Looked at first: opening a pipe would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{path} cannot be read (not a file); {advice}")
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UsageError(f"{path} is not an .npz file but a single array; {advice}")
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except CoresetError:
        raise
    except MemoryError as error:
        raise MachineError(f"the samples of {path} do not fit into memory; give fewer") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}); check the path of the samples") from error
    except Exception as error:  # zipfile, zlib, struct and numpy each have their own for a damaged file
        raise UsageError(f"{path} is not a readable .npz file; {advice}") from error
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise UsageError(f"{path} holds no arrays, or something else beside them; {advice}")
    return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
