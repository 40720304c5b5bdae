"""Which signs the slope of a negative term may follow, where there are many: those of the nearest positive terms.

Two terms |p . y + t| and |q . y + u| cancel best where their signs agree, which they do more the smaller the angle
between (p, t) and (q, u) is, or between one and minus the other. With slopes free along some tens of the nearest terms
alone a bound is one or two in a hundred above that with all of them, and what is done for each entry of Z is done for
a few of its columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Indices
from onnx_coreset.core.certificates.relaxed import Relaxed, Single, ratio

__all__ = ["Free", "free"]

_ENOUGH = 256
_NEAREST = 63
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Free:
    """Entries of Z (K, b, 1 + a) that are free, the others are 0.

    Attributes:
        index: For each negative term the free columns, shape (K, b, t), 0 for the constant among them; None where all
            are.
    """

    index: Indices | None

    def of(self, full: Single) -> Single:
        """Return the free entries of an array (K, b, 1 + a), shape (K, b, t)."""
        return full if self.index is None else np.take_along_axis(full, self.index, axis=2)

    def place(self, entries: Single, full: Single) -> Single:
        """Return an array (K, b, 1 + a) with these free entries; `full`, where others are 0, may be overwritten."""
        if self.index is None:
            return entries
        np.put_along_axis(full, self.index, entries, axis=2)
        return full


def free(state: Relaxed) -> Free:
    """Return the entries of Z that descent may move: all of them up to 256 positive terms.

    Args:
        state: K functions with a positive and b negative terms, over rows of q coordinates.

    Returns:
        The entries; O(K a b q) to find them.
    """
    count, up = state.up.shape
    down = state.down.shape[1]
    if up <= _ENOUGH or not down:
        return Free(None)
    rows = np.concatenate([state.rows, state.offset[:, None]], axis=1)
    rows = ratio(rows, np.sqrt(np.einsum("nq,nq->n", rows, rows))[:, None])
    index = np.zeros((count, down, 1 + _NEAREST), dtype=np.intp)
    block = max(_BLOCK // up, 1)
    for k in range(count):
        others = rows[state.signs.positive[k]].T
        # Terms that are filled up with weigh nothing.
        counts = state.up[k] > 0
        for start in range(0, down, block):
            own = rows[state.signs.negative[k, start : start + block]]
            close = np.where(counts, np.abs(own @ others), np.float32(-1.0))
            best = np.argpartition(close, up - _NEAREST, axis=1)[:, up - _NEAREST :]
            index[k, start : start + block, 1:] = 1 + best
    return Free(index)
