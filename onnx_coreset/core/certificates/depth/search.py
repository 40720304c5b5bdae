"""Upper bounds of linear functions of both networks' outputs, by branch and bound over the inputs.

A box of few inputs is halved along the input that the worst bound leans on most, many boxes at once; the boxes left,
which cover the domain, bound the function by the largest of their bounds. A box is left alone once none of its bounds
is above the goal, which is a value that is known to be reached, or one that would be good enough. Rows that are linear
and exact are not the only ones that gain: half a box bends fewer neurons.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.depth.backward import Rows, magnitude, substitute
from onnx_coreset.core.certificates.depth.networks import Pair
from onnx_coreset.core.certificates.depth.ranges import Band, Ranges, ranges
from onnx_coreset.core.certificates.depth.regions import Boxes, Region
from onnx_coreset.core.certificates.depth.tuning import Effort, tuned
from onnx_coreset.core.certificates.rounding import gamma

__all__ = ["Functions", "Limits", "Proof", "prove"]

_FEW = 16
_NUMBERS = 1_500_000
_INNER, _OUTER = 16, 40
_SHARES = (0.5, 0.8)


@dataclass(frozen=True)
class Functions:
    """F linear functions before . y + after . y' of the outputs of both networks.

    Attributes:
        before: Coefficients of the original's outputs, shape (F, k).
        after: Coefficients of the shrunk network's, shape (F, k).
        goal: What each need not be shown to stay below, shape (F,).
    """

    before: Array
    after: Array
    goal: Array


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        seconds: Wall time after which no further boxes are halved.
        boxes: Most boxes that are looked at.
    """

    seconds: float = 10.0
    boxes: int = 100_000


@dataclass(frozen=True)
class Proof:
    """What branch and bound proved.

    Attributes:
        value: Upper bound of each function over the domain, shape (F,).
        first: The same without halving any box, shape (F,).
        boxes: Number of boxes looked at.
        root: Ranges of all neurons over the whole domain.
    """

    value: Array
    first: Array
    boxes: int
    root: Ranges


@dataclass(frozen=True)
class _Leaf:
    """A box (d,) each, the bounds of all functions on it (F,), its ranges and the input to halve."""

    low: Array
    high: Array
    value: Array
    bands: tuple[Band, ...]
    split: int


def output_rows(pair: Pair, found: Ranges, functions: Functions, parts: Indices, which: Indices) -> Rows:
    """Return functions of the outputs as rows of the last hidden layers' values.

    Args:
        pair: The networks.
        found: Their ranges over a region.
        functions: The functions.
        parts: For each row the part of the region, shape (R,).
        which: For each row the function, shape (R,).
    """
    (W, b), (U, c) = pair.before.affine[-1], pair.after.affine[-1]
    A, C = functions.before[which], functions.after[which]
    far = found.relaxed[-1].far
    with np.errstate(all="ignore"):
        loose = np.abs(A) * magnitude(W, b, far[0])[parts] + np.abs(C) * magnitude(U, c, far[1])[parts]
        slack = gamma(2 * b.size + 16) * np.where(np.isnan(loose), 0.0, loose).sum(axis=1)
        return Rows(A @ W, C @ U, A @ b + C @ c, slack, parts)


def _bounded(pair: Pair, region: Region, functions: Functions, known: tuple[Band, ...], ask: Array) -> _Batch:
    """Return bounds of the functions asked for, mask (B, F), on each part of a region."""
    found = ranges(pair, region, known)
    parts, which = np.nonzero(ask)
    rows = output_rows(pair, found, functions, parts, which)
    upper = substitute(pair, region, list(found.relaxed), found.far, rows)
    value = np.full(ask.shape, np.inf)
    value[parts, which] = upper.value
    linear = np.zeros((*ask.shape, upper.rows.shape[1]))
    linear[parts, which] = upper.rows
    return _Batch(found, value, linear)


@dataclass(frozen=True)
class _Batch:
    found: Ranges
    value: Array
    linear: Array


def prove(pair: Pair, region: Region, functions: Functions, limits: Limits) -> Proof:
    """Return upper bounds of linear functions of the outputs over a region of one part.

    Args:
        pair: The networks.
        region: Where the inputs are.
        functions: The functions.
        limits: When to stop; a region that is no box, or one of more than 16 inputs that vary, is not halved.
    """
    until = time.monotonic() + limits.seconds
    count = functions.goal.size
    batch = _bounded(pair, region, functions, (), np.ones((1, count), dtype=bool))
    first = batch.value[0]
    if not isinstance(region, Boxes) or np.count_nonzero(region.high > region.low) > _FEW:
        value, found = _steeper(pair, batch.found, functions, until)
        return Proof(np.minimum(first, value), first, 1, found)
    unit = np.where(np.isfinite(first), np.maximum(np.abs(first - functions.goal), 1e-300), 1.0)
    done = np.full(count, -np.inf)
    heap: list[tuple[float, int, _Leaf]] = []
    looked, root = 1, batch.found
    leaves = _leaves(region, batch, np.full((1, count), np.inf), functions)
    together = max(1, _NUMBERS // max(1, _size(pair)))
    while True:
        for leaf in leaves:
            above = float(np.max((leaf.value - functions.goal) / unit, initial=-np.inf))
            if above <= 0 or leaf.split < 0:
                done = np.maximum(done, leaf.value)
            else:
                looked += 1
                heapq.heappush(heap, (-above, looked, leaf))
        if not heap or time.monotonic() >= until or looked >= limits.boxes:
            break
        taken = [heapq.heappop(heap)[2] for _ in range(min(len(heap), together))]
        boxes, bands, before = _halves(taken)
        ask = before > np.maximum(functions.goal, done)
        batch = _bounded(pair, boxes, functions, bands, ask)
        leaves = _leaves(boxes, batch, before, functions)
    for _, _, leaf in heap:
        done = np.maximum(done, leaf.value)
    return Proof(np.minimum(done, first), first, looked, root)


def _steeper(pair: Pair, found: Ranges, functions: Functions, until: float) -> tuple[Array, Ranges]:
    """Return bounds over a region that is not halved, and its ranges, with slopes of every row's own."""
    started = time.monotonic()
    for share in _SHARES:
        # What is known better makes better lines, and those make more known.
        stop = started + share * (until - started)
        if time.monotonic() < stop:
            found = ranges(pair, found.region, found.bands, Effort(_INNER, stop))
    which = np.arange(functions.goal.size)
    rows = output_rows(pair, found, functions, np.zeros_like(which), which)
    ends = [(band.before, band.after) for band in found.bands]
    return tuned(pair, found.region, list(found.relaxed), ends, found.far, rows, Effort(_OUTER, until)), found


def _size(pair: Pair) -> int:
    """Return about how many numbers one box takes on the way."""
    widths = [a.width + b.width for a, b in zip(pair.before.hidden, pair.after.hidden, strict=True)]
    return 4 * max(widths) * max(widths)


def _leaves(boxes: Boxes, batch: _Batch, before: Array, functions: Functions) -> list[_Leaf]:
    value = np.minimum(batch.value, before)
    worst = np.argmax(np.where(np.isfinite(batch.value), batch.value - functions.goal, -np.inf), axis=1)
    wide = boxes.high - boxes.low
    leans = np.abs(batch.linear[np.arange(worst.size), worst]) * wide
    # What no row leans on may bend neurons all the same.
    leans = np.where(np.isfinite(leans), leans, 0.0) + 1e-3 * np.max(leans, axis=1, initial=0.0, keepdims=True) * (
        wide / np.maximum(wide.max(axis=1, keepdims=True), 1e-300)
    )
    middle = 0.5 * boxes.low + 0.5 * boxes.high
    leans = np.where((middle > boxes.low) & (middle < boxes.high), leans + 1e-300, -1.0)
    split = np.argmax(leans, axis=1)
    return [
        _Leaf(
            boxes.low[i],
            boxes.high[i],
            value[i],
            tuple(band.part(i) for band in batch.found.bands),
            int(split[i]) if leans[i, split[i]] > 0 else -1,
        )
        for i in range(value.shape[0])
    ]


def _halves(taken: list[_Leaf]) -> tuple[Boxes, tuple[Band, ...], Array]:
    """Return both halves of each box, what is known of its ranges, and of the functions."""
    low = np.repeat(np.stack([leaf.low for leaf in taken]), 2, axis=0)
    high = np.repeat(np.stack([leaf.high for leaf in taken]), 2, axis=0)
    place = np.arange(len(taken))
    split = np.array([leaf.split for leaf in taken])
    middle = 0.5 * low[2 * place, split] + 0.5 * high[2 * place, split]
    high[2 * place, split] = middle
    low[2 * place + 1, split] = middle
    twice = [leaf for leaf in taken for _ in range(2)]
    bands = tuple(Band.joined([leaf.bands[level] for leaf in twice]) for level in range(len(taken[0].bands)))
    return Boxes(low, high), bands, np.repeat(np.stack([leaf.value for leaf in taken]), 2, axis=0)
