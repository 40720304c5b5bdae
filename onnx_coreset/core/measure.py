"""The local error of a coreset: the table of differences, samples x outputs, and its norms.

`rms`, `p99` and `max` are norms over all entries of the difference. The spread of a readout is the root of the mean
over outputs of the variance over samples; where it is 0 the unit is 1. With several readouts each is divided by its own
spread first, and the spread of the whole is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_coreset.core.arrays import Array


@dataclass(frozen=True)
class Errors:
    """Norms of a table of differences, in the layer's own numbers.

    Attributes:
        rms: Root mean square over all entries.
        p99: 99th percentile of the absolute entries.
        max: Largest absolute entry.
        spread: What relative errors are divided by; 0 where the outputs do not vary.
        worst_output: Largest rms of one output, over the spread.
        samples: Number of rows N.
        row_squares: Mean square of each row, shape (N,): what the sampling error of rms is computed from.
        exceeding: Absolute entries, largest of each row, shape (N,).
        p99_low: Least value of p99 that sampling rows allows, at three standard errors.
    """

    rms: float
    p99: float
    max: float
    spread: float
    worst_output: float
    samples: int
    row_squares: Array
    exceeding: Array
    p99_low: float

    @property
    def unit(self) -> float:
        """The spread, or 1 where it is 0."""
        return self.spread if self.spread > 0 else 1.0

    def norm(self, name: str, absolute: bool) -> float:
        """Return the norm called `name` ("rms", "p99" or "max"), over the unit unless `absolute`."""
        value = float(getattr(self, name))
        return value if absolute else value / self.unit

    def explained(self, name: str, absolute: bool, eps: float) -> bool:
        """Return whether the norm is at most eps, or above it by no more than sampling explains.

        For rms: three standard errors of its mean of squares. For p99: three standard errors of the share of entries
        above it, rows being what was drawn, and three rows. For max: three rows. What is not finite is never explained.

        Args:
            name: "rms", "p99" or "max".
            absolute: Whether eps is in the layer's own numbers.
            eps: The bound.
        """
        if self.norm(name, absolute) <= eps:
            return True
        if not np.isfinite(self.max):
            return False
        limit = eps if absolute else eps * self.unit
        count = max(self.samples, 1)
        if name == "rms":
            error = float(np.std(self.row_squares)) / np.sqrt(count)
            return bool(self.rms**2 - 3.0 * error <= limit**2)
        if name == "p99":
            return self.p99_low <= limit
        return int(np.count_nonzero(self.exceeding > limit)) <= 3


def spread(outputs: Array) -> float:
    """Return the root of the mean over outputs of the variance over samples, of a table (N, k); 0 where none varies."""
    if not outputs.size:
        return 0.0
    # A mean is rounded; taken from the first row, it is exact for outputs that are constant.
    moved = np.asarray(outputs, dtype=np.float64) - outputs[0]
    return float(np.sqrt(np.mean(np.var(moved, axis=0))))


def errors(before: Sequence[Array], after: Sequence[Array]) -> Errors:
    """Return the norms of the difference of each readout's outputs.

    Args:
        before: Outputs of the layer, one (N, k) a readout.
        after: Outputs of the narrower layer, of the same shapes.

    Returns:
        The norms. O(N k).
    """
    scales = [spread(table) for table in before]
    tables = [np.subtract(b, a, dtype=np.float64) for b, a in zip(after, before, strict=True)]
    own = scales[0]
    if len(tables) > 1:
        tables = [table / (scale or 1.0) for table, scale in zip(tables, scales, strict=True)]
        own = 1.0
    table = np.abs(np.concatenate(tables, axis=1))
    squares = table**2
    rms = float(np.sqrt(squares.mean())) if table.size else 0.0
    # Between infinities there is nothing to interpolate.
    method: Literal["linear", "higher"] = "linear" if np.isfinite(squares).all() else "higher"
    p99 = float(np.quantile(table, 0.99, method=method)) if table.size else 0.0
    by_output = np.sqrt(squares.mean(axis=0)) if table.size else np.zeros(1)
    return Errors(
        rms=rms,
        p99=p99,
        max=float(table.max(initial=0.0)),
        spread=own,
        worst_output=float(by_output.max(initial=0.0)) / (own or 1.0),
        samples=int(table.shape[0]),
        row_squares=squares.sum(axis=1) / max(table.shape[1], 1),
        exceeding=table.max(axis=1, initial=0.0),
        p99_low=_least_p99(table, p99),
    )


def row_errors(before: Sequence[Array], after: Sequence[Array], scales: Array) -> Array:
    """Return the largest absolute error of each row, each output's over a scale that is not made from these rows.

    Args:
        before: Outputs of the layer, one (N, k) a readout.
        after: Outputs of the narrower layer, of the same shapes.
        scales: What the errors of all outputs are divided by, in the order of the readouts, shape (sum of k,).

    Returns:
        Errors, shape (N,). O(N k).
    """
    tables = [np.subtract(b, a, dtype=np.float64) for b, a in zip(after, before, strict=True)]
    return np.asarray(np.max(np.abs(np.concatenate(tables, axis=1)) / scales, axis=1, initial=0.0))


def _least_p99(table: Array, p99: float) -> float:
    """Return the lower end of an interval for p99: Woodruff's, with rows as the clusters that were drawn.

    Args:
        table: Absolute entries, shape (N, k).
        p99: Its 99th percentile.
    """
    if not table.size or not np.isfinite(p99):
        return p99
    count = table.shape[0]
    share = 0.01 + 3.0 * float(np.std((table > p99).mean(axis=1))) / np.sqrt(count) + 3.0 / count
    return float(np.quantile(table, max(1.0 - share, 0.0)))
