"""What a tensor differs by between two models, added up run by run: no run is remembered.

Over N rows the squares of the deviations from the mean are added block by block: blocks of n and m rows with means a
and b and sums of squares S and T together have S + T + (a - b)**2 n m / (n + m). Rows are counted from the first one,
so that outputs that are constant vary by exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Differences", "TensorError", "stays_finite"]

_NUMBERS = 1 << 20


@dataclass(frozen=True)
class TensorError:
    """The error at one tensor of the whole model, over the samples where it is finite; NaN where it never is.

    Attributes:
        name: The tensor.
        max: Largest absolute difference.
        rms: Root mean square of the difference.
        spread: Root of the mean over entries of the variance over samples.
    """

    name: str
    max: float
    rms: float
    spread: float


def stays_finite(before: NDArray[np.generic], after: NDArray[np.generic]) -> bool:
    """Return whether values are finite wherever they were.

    Args:
        before: Values of any shape, floating point of any kind.
        after: Values of the same shape.
    """
    old, new = before.reshape(1, -1), after.reshape(1, -1)
    return not any((_isfinite(old[:, part]) & ~_isfinite(new[:, part])).any() for part in _parts(old))


def _isfinite(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    # Types that numpy does not know have no more numbers than float32.
    return np.asarray(np.isfinite(values.astype(np.float32) if values.dtype.kind == "V" else values))


def _parts(table: NDArray[np.generic]) -> Iterator[slice]:
    """Yield slices of columns of a table (n, k), so that copies of one are small."""
    step = max(_NUMBERS // max(table.shape[0], 1), 1)
    return (slice(start, start + step) for start in range(0, table.shape[1], step))


def _finite(table: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return which rows of a table (n, k) are finite, shape (n,)."""
    found = np.ones(len(table), dtype=np.bool_)
    for part in _parts(table):
        finite = _isfinite(table[:, part])
        found &= finite[:, 0] if finite.shape[1] == 1 else finite.all(axis=1)
    return found


class Differences:
    """The values of one tensor in both models, run by run: O(k) memory for runs of k values a sample.

    Runs of different sizes are pooled: every value counts as a sample of one.
    """

    def __init__(self) -> None:
        """Start with no runs."""
        self._width: int | None = None
        self._rows, self._entries = 0, 0
        self._largest, self._errors = 0.0, 0.0
        self._first = self._mean = self._squares = np.zeros(0)

    @property
    def empty(self) -> bool:
        """Whether there was no run."""
        return self._width is None

    def add(self, old: NDArray[np.generic], new: NDArray[np.generic]) -> None:
        """Add a run: values in both models, of one shape. Samples that are not finite in both are left out.

        Args:
            old: In the original, samples first; any shape, floating point of any kind.
            new: In the other model.
        """
        samples = len(old) if old.ndim > 1 else 1
        width = old.size // samples if samples else math.prod(old.shape[1:])
        if self._width is None:
            self._width = width
        elif self._width != width:
            self._pool()
        old, new = old.reshape(samples, width), new.reshape(samples, width)
        rows = _finite(old) & _finite(new)
        if not rows.all():
            old, new = old[rows], new[rows]
        if old.size:
            self._add(old.reshape(-1, self._width), new.reshape(-1, self._width))

    def _add(self, old: NDArray[np.generic], new: NDArray[np.generic]) -> None:
        count, width = old.shape
        if not self._rows:
            self._first = old[0].astype(np.float64)
            self._mean, self._squares = np.zeros(width), np.zeros(width)
        total = self._rows + count
        for part in _parts(old):
            values = old[:, part].astype(np.float64)
            error = new[:, part].astype(np.float64)
            error -= values
            self._errors += float(np.vdot(error, error))
            self._largest = max(self._largest, float(np.abs(error, out=error).max()))
            values -= self._first[part]
            mean = values.mean(axis=0)
            values -= mean
            apart = mean - self._mean[part]
            self._squares[part] += np.einsum("nk,nk->k", values, values) + apart**2 * (self._rows * count / total)
            self._mean[part] += apart * (count / total)
        self._entries += old.size
        self._rows = total

    def _pool(self) -> None:
        """Count every value that was added as a sample of one."""
        if self._width != 1 and self._rows:
            values = self._mean + (self._first - self._first[0])
            middle = values.mean()
            squares = self._squares.sum() + self._rows * np.sum((values - middle) ** 2)
            self._first, self._mean, self._squares = self._first[:1], np.array([middle]), np.array([squares])
            self._rows *= values.size
        self._width = 1

    def error(self, name: str) -> TensorError:
        """Return the error over all runs.

        Args:
            name: The tensor.
        """
        if not self._entries:
            return TensorError(name, np.nan, np.nan, np.nan)
        spread = float(np.sqrt(np.mean(self._squares) / self._rows))
        return TensorError(name, self._largest, float(np.sqrt(self._errors / self._entries)), spread)
