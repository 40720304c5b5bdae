"""Upper bounds of linear functions of both networks' outputs, by branch and bound over the inputs.

A box of few inputs is halved along the input that the worst bound leans on most, many boxes at once; the boxes left,
which cover the domain, bound the function by the largest of their bounds. A box is left alone once none of its bounds
is above the goal, which is a value that is known to be reached, or one that would be good enough. Rows that are linear
and exact are not the only ones that gain: half a box bends fewer neurons. Anything else that the ranges of the neurons
on a box bound, such as rounding, can be bounded besides, box by box; what then counts is the largest over the boxes.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.depth.backward import Rows, magnitude, substitute
from onnx_coreset.core.certificates.depth.networks import Pair
from onnx_coreset.core.certificates.depth.ranges import Band, Mask, Ranges, ranges
from onnx_coreset.core.certificates.depth.regions import Boxes, Region
from onnx_coreset.core.certificates.depth.tuning import Effort, tuned
from onnx_coreset.core.certificates.rounding import gamma

__all__ = ["Besides", "Functions", "Limits", "Proof", "prove"]

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
class Besides:
    """E numbers that are bounded besides.

    Attributes:
        bound: Takes the ranges over the B parts of a region, and returns bounds on each, shape (B, E).
        goal: What each need not be shown to stay below, shape (E,).
    """

    bound: Callable[[Ranges], Array] = lambda found: np.zeros((found.region.parts, 0))
    goal: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class Proof:
    """What branch and bound proved.

    Attributes:
        value: Upper bound of each function over the domain, shape (F,).
        first: The same without halving any box, shape (F,).
        besides: Upper bounds of what was bounded besides, shape (E,).
        boxes: Number of boxes looked at.
        root: Ranges of all neurons over the whole domain.
    """

    value: Array
    first: Array
    besides: Array
    boxes: int
    root: Ranges


@dataclass(frozen=True)
class _Leaf:
    """A box (d,) each, the bounds on it of all functions and besides, (F + E,), its ranges and the input to halve."""

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


@dataclass(frozen=True)
class _Asked:
    """What is bounded: functions, and what is bounded besides."""

    functions: Functions
    besides: Besides

    @property
    def goal(self) -> Array:
        """What each need not be shown to stay below, shape (F + E,)."""
        return np.concatenate([self.functions.goal, self.besides.goal])

    @property
    def count(self) -> int:
        """Number of functions F."""
        return int(self.functions.goal.size)


@dataclass(frozen=True)
class _Batch:
    """Bounds on B boxes (B, F + E), as linear functions (B, F, d) where they are of functions, and all ranges."""

    found: Ranges
    value: Array
    linear: Array


def _bounded(pair: Pair, region: Region, asked: _Asked, known: tuple[Band, ...], ask: Mask) -> _Batch:
    """Return bounds on each part of a region, of functions where the mask (B, F) says so."""
    found = ranges(pair, region, known)
    parts, which = np.nonzero(ask)
    rows = output_rows(pair, found, asked.functions, parts, which)
    upper = substitute(pair, region, list(found.relaxed), found.far, rows)
    value = np.full(ask.shape, np.inf)
    value[parts, which] = upper.value
    linear = np.zeros((*ask.shape, pair.before.inputs))
    linear[parts, which] = upper.rows
    return _Batch(found, np.concatenate([value, asked.besides.bound(found)], axis=1), linear)


def prove(pair: Pair, region: Region, functions: Functions, limits: Limits, besides: Besides | None = None) -> Proof:
    """Return upper bounds of linear functions of the outputs over a region of one part.

    Args:
        pair: The networks.
        region: Where the inputs are.
        functions: The functions.
        limits: When to stop; a region that is no box, or one of more than 16 inputs that vary, is not halved.
        besides: What else is bounded; nothing unless it is given.
    """
    until = time.monotonic() + limits.seconds
    asked = _Asked(functions, besides or Besides())
    goal, count = asked.goal, asked.count
    batch = _bounded(pair, region, asked, (), np.ones((1, count), dtype=bool))
    first = batch.value[0]
    if not isinstance(region, Boxes) or np.count_nonzero(region.high > region.low) > _FEW:
        value, found = _steeper(pair, batch.found, functions, until)
        value = np.minimum(first, np.concatenate([value, asked.besides.bound(found)[0]]))
        return Proof(value[:count], first[:count], value[count:], 1, found)
    unit = np.where(np.isfinite(first), np.maximum(np.abs(first - goal), 1e-300), 1.0)
    # What is infinite besides stays so on every box, more or less, and would hide which box is worst.
    asks = np.isfinite(first) | (np.arange(goal.size) < count)
    done = np.full(goal.size, -np.inf)
    heap: list[tuple[float, int, _Leaf]] = []
    looked, root = 1, batch.found
    pull = sum(np.abs(net.hidden[0].incoming).sum(axis=0) for net in (pair.before, pair.after))
    leaves = _leaves(region, batch, np.full((1, goal.size), np.inf), asked, np.asarray(pull))
    together = max(1, _NUMBERS // max(1, _size(pair)))
    while True:
        for leaf in leaves:
            above = float(np.max((leaf.value - goal)[asks] / unit[asks], initial=-np.inf))
            if above <= 0 or leaf.split < 0:
                done = np.maximum(done, leaf.value)
            else:
                looked += 1
                heapq.heappush(heap, (-above, looked, leaf))
        if not heap or time.monotonic() >= until or looked >= limits.boxes:
            break
        taken = [heapq.heappop(heap)[2] for _ in range(min(len(heap), together))]
        boxes, bands, before = _halves(taken)
        ask = (before > np.maximum(goal, done))[:, :count]
        batch = _bounded(pair, boxes, asked, bands, ask)
        leaves = _leaves(boxes, batch, before, asked, np.asarray(pull))
    for _, _, leaf in heap:
        done = np.maximum(done, leaf.value)
    done = np.minimum(done, first)
    return Proof(done[:count], first[:count], done[count:], looked, root)


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


def _leaves(boxes: Boxes, batch: _Batch, before: Array, asked: _Asked, pull: Array) -> list[_Leaf]:
    """Return the boxes with what is known of them; inputs move first neurons by `pull` (d,), all together."""
    value = np.minimum(batch.value, before)
    known = batch.value[:, : asked.count]
    worst = np.argmax(np.where(np.isfinite(known), known - asked.functions.goal, -np.inf), axis=1)
    wide = (boxes.high - boxes.low) * np.where(pull > 0, pull, 1e-3 * max(pull.max(initial=0.0), 1e-300))
    leans = np.abs(batch.linear[np.arange(worst.size), worst]) * (boxes.high - boxes.low)
    # What no row leans on may bend neurons all the same; where no row was asked for, that is all there is.
    leans = np.where(np.isfinite(leans), leans, 0.0)
    least = np.maximum(1e-3 * np.max(leans, axis=1, initial=0.0, keepdims=True), 1e-200)
    leans = leans + least * (wide / np.maximum(wide.max(axis=1, keepdims=True), 1e-300))
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
