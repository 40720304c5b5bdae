"""Parabolas beside an activation on an interval: what a layer is replaced by where its inputs are few.

    f(t) = at + slope (t - t0) + bend (t - t0)^2 + r,      |r| <= rest,      t in [l, u].

The parabola meets f at the middle and at the nodes that are best for one. The rest is evaluated on pieces: chords of f
minus a parabola have slopes between those of f less the parabola's at either end. Where slopes of f are not known, the
parabola is a constant and the rest half the range.

A sum of parabolas keeps what a sum of lines above or below loses: bends of either sign cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.depth.lines import Pieces, pieces
from onnx_coreset.core.certificates.rounding import TINY, UNIT

__all__ = ["Curves", "curves"]

_PIECES = 8
_NODE = 0.75**0.5
_SMALL = 1e-9
_SLACK = 64.0 * UNIT


@dataclass(frozen=True)
class Curves:
    """f(t) is within `rest` of at + slope (t - t0) + bend (t - t0)^2; arrays of one shape."""

    at: Array
    slope: Array
    bend: Array
    rest: Array


def curves(activation: Activation, low: Array, high: Array, around: Array) -> Curves:
    """Return a parabola beside an activation of n neurons on each of B x n intervals.

    Args:
        activation: The functions.
        low: Lower ends, shape (B, n).
        high: Upper ends, shape (B, n).
        around: The t0 of each, shape (B, n).
    """
    cut = pieces(activation, low, high, _PIECES)
    middle, node = 0.5 * low + 0.5 * high, _NODE * (0.5 * high - 0.5 * low)
    with np.errstate(all="ignore"):
        known = np.asarray((np.isfinite(cut.least) & np.isfinite(cut.most)).all(axis=-1))
        left, centre, right = activation(np.stack([middle - node, middle, middle + node]))
        bend = (right - 2.0 * centre + left) / (2.0 * node * node)
        slope = (right - left) / (2.0 * node) + 2.0 * bend * (around - middle)
        fine = known & (node > _SMALL * (1.0 + np.abs(middle))) & np.isfinite(bend) & np.isfinite(slope)
        bend, slope = np.where(fine, bend, 0.0), np.where(fine, slope, 0.0)
        away = (cut.start - around[..., None], cut.stop - around[..., None])
        tilts = [slope[..., None] + 2.0 * bend[..., None] * x for x in away]
        taken = [(slope[..., None] + bend[..., None] * x) * x for x in away]
        unknown = np.where(known[..., None], np.inf, np.maximum(np.abs(cut.inside[0]), np.abs(cut.inside[1])))
        left_over = Pieces(
            cut.start,
            cut.stop,
            np.where(known[..., None], cut.least - np.maximum(*tilts), cut.least),
            np.where(known[..., None], cut.most - np.minimum(*tilts), cut.most),
            (cut.at_start[0] - taken[0], cut.at_start[1] - taken[0]),
            (cut.at_stop[0] - taken[1], cut.at_stop[1] - taken[1]),
            (np.where(known[..., None], -unknown, cut.inside[0]), np.where(known[..., None], unknown, cut.inside[1])),
        )
        top, bottom = left_over.above(np.zeros(low.shape)), left_over.below(np.zeros(low.shape))
        at = np.where(np.isfinite(top) & np.isfinite(bottom), 0.5 * top + 0.5 * bottom, 0.0)
        rest = np.maximum(top - at, at - bottom)
        steep = np.where(known, np.maximum(np.abs(cut.least), np.abs(cut.most)).max(axis=-1), 0.0)
        wide = np.maximum(np.abs(low), np.abs(high)) + np.abs(around)
        size = np.maximum(np.abs(top), np.abs(bottom))
        rest = rest + _SLACK * (size + (np.abs(slope) + np.abs(bend) * wide + steep) * wide) + TINY
    return Curves(at, slope, bend, np.where(np.isnan(rest), np.inf, rest))
