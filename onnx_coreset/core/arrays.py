"""Array types of the package, and the habit that what flows between stages is read-only."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


def frozen(values: ArrayLike) -> Array:
    """Return `values` as a read-only float64 array of the same shape (a view where it already is one).

    Args:
        values: Numbers of any shape.

    Returns:
        The same numbers, float64, not writeable.
    """
    array = np.asarray(values, dtype=np.float64)
    view = array.view()
    view.flags.writeable = False
    return view


def frozen_indices(values: ArrayLike) -> Indices:
    """Return `values` as a read-only one-dimensional array of indices.

    Args:
        values: Integers, shape (m,).

    Returns:
        The same integers, `intp`, not writeable.
    """
    view = np.asarray(values, dtype=np.intp).reshape(-1).view()
    view.flags.writeable = False
    return view
