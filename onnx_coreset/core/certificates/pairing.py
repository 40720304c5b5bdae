"""Gated neurons that were moved a little, next to what they were: their rests nearly cancel.

Two neurons of one function f, f(g) = a + b s + r(g) with the same a, b and anchor, and weights w and v of opposite
signs. With S the largest slope of r on both ranges,

    w r(g) u + v r(g') u' = w (r(g) - r(g')) u + w r(g') (u - u') + (w + v) r(g') u',
    |r(g) - r(g')| <= S |g - g'|,      |r(g')| <= h |s'| + k,

three products of which each has a small factor. Each neuron of the second layer is put next to the nearest of the
first; they are a pair where that makes the rests smaller.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.domains import Frame
from onnx_coreset.core.certificates.gates import FLAT, Line, Rows, best, chords, far, outwards, rows
from onnx_coreset.core.certificates.pieces import slopes
from onnx_coreset.core.certificates.rounding import norms
from onnx_coreset.core.certificates.terms import Term, key
from onnx_coreset.core.features import Gated

__all__ = ["paired"]

_MOST = 50_000_000


def paired(first: Term, second: Term) -> list[Rows] | None:
    """Return the rows of two terms of gated neurons, those of pairs together.

    Args:
        first: A term of n neurons, f(g) u.
        second: Another of m.

    Returns:
        Rows of both, of the differences of gates and of the differences of the other factors; None where their
        functions have nothing in common. O(n m d).
    """
    one, two = first.part, second.part
    if not (isinstance(one, Gated) and isinstance(two, Gated)) or one.width * two.width > _MOST:
        return None
    (kind, _), (other, _) = key(one.take(np.arange(1))), key(two.take(np.arange(1)))
    if kind != other or any(np.ndim(p) for p in getattr(one.gate.activation, "parameters", ())):
        return None
    (line, which), (own, own_which) = best(first), best(second)
    mine, theirs = _nearest(first, second)
    if not mine.size:
        return None
    moved, steep = _moved(first, second, line, which, mine, theirs)
    chosen = _worth(first, second, (line, own, moved), steep, mine, theirs)
    mine, theirs = mine[chosen], theirs[chosen]
    new = {name: np.array(getattr(own, name)) for name in _FIELDS}
    for name in _FIELDS:
        new[name][theirs] = getattr(moved, name)[chosen]
    # A flat line needs no slope, but the difference of two does: the noise of their gates counts.
    first_which, own_which = which.copy(), own_which.copy()
    first_which[mine] = own_which[theirs] = 0
    a, b = rows(first, line, first_which), rows(second, Line(**new), own_which)
    rest_a, rest_b, weights = a.rest.copy(), b.rest.copy(), np.abs(first.weights[:, mine])
    rest_a[:, mine] = 0.0
    rest_b[:, theirs] = np.abs(first.weights[:, mine] + second.weights[:, theirs])
    (gate, gate_size), (up, up_size) = (_apart(first.frames[i], second.frames[i], mine, theirs) for i in (0, 1))
    none, empty, still = np.zeros(mine.size), np.zeros(weights.shape), np.zeros(weights.shape[0])
    return [
        replace(a, rest=rest_a),
        replace(b, rest=rest_b),
        Rows(gate, a.up[mine], gate_size, a.up_size[mine], none, none, steep[chosen], none, empty, weights, still),
        Rows(
            b.gate[theirs],
            up,
            b.gate_size[theirs],
            up_size,
            none,
            none,
            b.half[theirs],
            b.flat[theirs],
            empty,
            weights,
            still,
        ),
    ]


_FIELDS = ("anchor", "value", "error", "slope", "half", "flat")


def _full(found: Frame) -> Array:
    return np.concatenate([found.rows, found.offset[:, None]], axis=1)


def _apart(one: Frame, two: Frame, mine: Indices, theirs: Indices) -> tuple[Array, Array]:
    """Return rows (p, d + 1) of differences of pre-activations, and how large those are at most (p,)."""
    difference = _full(one)[mine] - _full(two)[theirs]
    return difference, norms(difference[:, :-1], one.ball) + np.abs(difference[:, -1])


def _nearest(first: Term, second: Term) -> tuple[Indices, Indices]:
    """Return neurons of the first term and of the second that are nearest to one another, (p,) each, each once."""
    total = np.zeros((second.part.width, first.part.width))
    for one, two in zip(first.frames, second.frames, strict=True):
        a, b = _full(one), _full(two)
        long, short = np.einsum("nd,nd->n", a, a), np.einsum("nd,nd->n", b, b)
        squares = np.maximum(long + short[:, None] - 2.0 * (b @ a.T), 0.0)
        total += np.sqrt(squares / np.maximum(long + short[:, None], 1e-300))
    near = np.argmin(np.where(np.isfinite(total), total, np.inf), axis=1)
    distance = total[np.arange(near.size), near]
    order = np.argsort(distance, kind="stable")
    mine, places = np.unique(near[order], return_index=True)
    return mine, order[places]


def _moved(first: Term, second: Term, line: Line, which: Indices, mine: Indices, theirs: Indices) -> tuple[Line, Array]:
    """Return the second term's neurons with the lines of the first's, and the slopes S of what is left, (p,) each."""
    assert isinstance(first.part, Gated)
    activation = first.part.gate.activation.take(mine)
    anchor, slope, value = line.anchor[mine], line.slope[mine], line.value[mine]
    low, high = (ends[theirs] for ends in second.ends[0])
    least, most = (ends[mine] for ends in first.ends[0])
    steep = outwards(slope, *slopes(activation, np.minimum(low, least), np.maximum(high, most)))
    from_zero = outwards(slope, *chords(activation, low, high))
    around = outwards(slope, *slopes(activation, np.minimum(low, anchor), np.maximum(high, anchor)))
    level = outwards(value, *activation.interval(low, high))
    kind = which[mine]
    half = np.choose(kind, [from_zero, around, np.zeros(mine.size)])
    return Line(anchor, value, line.error[mine], slope, half, np.where(kind == FLAT, level, 0.0)), steep


def _worth(
    first: Term, second: Term, lines: tuple[Line, Line, Line], steep: Array, mine: Indices, theirs: Indices
) -> Indices:
    """Return the pairs (q,) whose rests are smaller together than apart, for all outputs together."""
    line, own, moved = lines
    one, two = np.abs(first.weights[:, mine]), np.abs(second.weights[:, theirs])
    both = np.abs(first.weights[:, mine] + second.weights[:, theirs])
    here, there = far(first.frames[1])[mine], far(second.frames[1])[theirs]
    gates, ups = (np.linalg.norm(_apart(first.frames[i], second.frames[i], mine, theirs)[0], axis=1) for i in (0, 1))
    share = [far(first.frames[i])[mine] / np.linalg.norm(_full(first.frames[i])[mine], axis=1) for i in (0, 1)]
    left = moved.half * far(second.frames[0], 0.0)[theirs] + moved.flat
    alone = (line.half * far(first.frames[0], line.anchor) + line.flat)[mine] * here
    other = (own.half * far(second.frames[0], own.anchor) + own.flat)[theirs] * there
    together = (
        one.sum(axis=0) * (steep * gates * share[0] * here + left * ups * share[1]) + both.sum(axis=0) * left * there
    )
    apart = one.sum(axis=0) * alone + two.sum(axis=0) * other
    return np.flatnonzero(np.isfinite(together) & (together < apart))
