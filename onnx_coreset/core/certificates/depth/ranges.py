"""What every neuron of both networks can be over a region, layer by layer from the first to the last.

For each layer the ranges of t, of s and of s - t for twins: by interval arithmetic from the layer before, and, where an
activation bends on its range, by substitution back to the input. Ranges known from a larger region hold too. Then the
layer is replaced by lines, and the next one follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.depth.backward import Relaxed, Rows, magnitude, substitute
from onnx_coreset.core.certificates.depth.lines import Lines, difference_lines, lines, pieces, steepness
from onnx_coreset.core.certificates.depth.networks import Pair
from onnx_coreset.core.certificates.depth.regions import Boxes, Region
from onnx_coreset.core.certificates.depth.tuning import Effort, tuned
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma
from onnx_coreset.core.features import Neurons

__all__ = ["Band", "Mask", "Ranges", "affine_range", "ranges"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Band:
    """Ranges of one layer's pre-activations over B parts of a region: lower and upper ends.

    Attributes:
        before: Of the original's neurons, shape (B, n) each.
        after: Of the shrunk network's, shape (B, m) each.
        gap: Of s - t for the q twins, shape (B, q) each.
    """

    before: tuple[Array, Array]
    after: tuple[Array, Array]
    gap: tuple[Array, Array]

    def part(self, index: int) -> Band:
        """Return the ranges of one part of the region, as a region of one part."""

        def cut(pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return pair[0][index : index + 1], pair[1][index : index + 1]

        return Band(cut(self.before), cut(self.after), cut(self.gap))

    @classmethod
    def joined(cls, bands: list[Band]) -> Band:
        """Return the ranges of several regions, one after another."""

        def join(pairs: list[tuple[Array, Array]]) -> tuple[Array, Array]:
            return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])

        return cls(join([b.before for b in bands]), join([b.after for b in bands]), join([b.gap for b in bands]))


@dataclass(frozen=True)
class Ranges:
    """Both networks over a region.

    Attributes:
        pair: The networks.
        region: Where the inputs are.
        far: Largest |x|, shape (B, d).
        bands: Ranges of every hidden layer.
        relaxed: Every hidden layer as lines.
    """

    pair: Pair
    region: Region
    far: Array
    bands: tuple[Band, ...]
    relaxed: tuple[Relaxed, ...]


def affine_range(weights: Array, bias: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds of W h + b for h between low and high, (B, d) each, by interval arithmetic, shape (B, n) each."""
    with np.errstate(all="ignore"):
        middle = 0.5 * low + 0.5 * high
        half = np.maximum(high - middle, middle - low)
        far = np.maximum(np.abs(low), np.abs(high))
        loose = gamma(2 * weights.shape[1] + 16) * magnitude(weights, bias, far)
        centre, wide = middle @ weights.T + bias, half @ np.abs(weights).T + loose
        least, most = centre - wide, centre + wide
    return np.where(np.isnan(least), -np.inf, least), np.where(np.isnan(most), np.inf, most)


def ranges(pair: Pair, region: Region, known: tuple[Band, ...] = (), effort: Effort | None = None) -> Ranges:
    """Return what the neurons of both networks can be over a region.

    Args:
        pair: The networks.
        region: Where the inputs are, B parts.
        known: Ranges that hold for each part already, for every layer, or none.
        effort: How much is spent on slopes of every row's own; none unless it is given, and for one part alone.

    Returns:
        The ranges, and the layers as lines. O(B L n^3) for L layers where every activation bends.
    """
    with np.errstate(all="ignore"):
        far = region.farthest(np.eye(pair.before.inputs)) if not isinstance(region, Boxes) else _farthest(region)
    bands: list[Band] = []
    relaxed: list[Relaxed] = []
    values: tuple[tuple[Array, Array], tuple[Array, Array]] | None = None
    for level in range(pair.depth):
        band = _plain(pair, level, region, values, known[level] if known else None)
        band = _refined(_So(pair, region, far, bands, relaxed, effort), level, band)
        layer, values = _relaxed(pair, level, band)
        bands.append(band)
        relaxed.append(layer)
    return Ranges(pair, region, far, tuple(bands), tuple(relaxed))


def _farthest(boxes: Boxes) -> Array:
    return np.maximum(np.abs(boxes.low), np.abs(boxes.high))


def _both(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return what two ranges have in common."""
    return np.maximum(one[0], other[0]), np.minimum(one[1], other[1])


def _sum(one: tuple[Array, Array], other: tuple[Array, Array], sign: float = 1.0) -> tuple[Array, Array]:
    """Return the range of a sum, or of a difference where the sign is -1, rounded outwards."""
    with np.errstate(all="ignore"):
        first, second = (other[0], other[1]) if sign > 0 else (-other[1], -other[0])
        low, high = one[0] + first, one[1] + second
        low = low - 2.0 * UNIT * np.abs(low) - TINY
        high = high + 2.0 * UNIT * np.abs(high) + TINY
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


def _plain(
    pair: Pair,
    level: int,
    region: Region,
    values: tuple[tuple[Array, Array], tuple[Array, Array]] | None,
    known: Band | None,
) -> Band:
    """Return ranges by interval arithmetic from the values (low, high) of the layer before, in both networks."""
    own, of = pair.twins[level]
    found = []
    for side, net in enumerate((pair.before, pair.after)):
        W, b = net.affine[level]
        if values is None:
            line = np.full((region.parts, W.shape[0]), np.inf)
            found.append((-line, line))
        else:
            found.append(affine_range(W, b, *values[side]))
    if known is not None:
        found = [_both(found[0], known.before), _both(found[1], known.after)]
    before, after = found
    gap = _sum((after[0][:, own], after[1][:, own]), (before[0][:, of], before[1][:, of]), -1.0)
    return Band(before, after, gap if known is None else _both(gap, known.gap))


def _bends(layer: Neurons, low: Array, high: Array) -> Mask:
    """Return where an activation is no line on its range."""
    least, most = steepness(layer.activation, low, high)
    return np.asarray(~(least == most))


@dataclass(frozen=True)
class _So:
    """What is known before a layer."""

    pair: Pair
    region: Region
    far: Array
    bands: list[Band]
    relaxed: list[Relaxed]
    effort: Effort | None

    def upper(self, rows: Rows) -> Array:
        """Return upper bounds of rows."""
        if self.effort is None or not self.relaxed or self.region.parts > 1:
            return substitute(self.pair, self.region, self.relaxed, self.far, rows).value
        ends = [(band.before, band.after) for band in self.bands]
        return tuned(self.pair, self.region, self.relaxed, ends, self.far, rows, self.effort)


def _refined(so: _So, level: int, band: Band) -> Band:
    """Return ranges made tighter by substitution, where that matters."""
    pair = so.pair
    own, of = pair.twins[level]
    (W, b), (U, c) = pair.before.affine[level], pair.after.affine[level]
    bends = [
        np.ones(ends[0].shape, dtype=bool) if level == 0 else _bends(net.hidden[level], *ends)
        for net, ends in ((pair.before, band.before), (pair.after, band.after))
    ]
    meets = bends[0][:, of] | bends[1][:, own]
    zero_p, zero_q = np.zeros_like(W), np.zeros_like(U)
    with np.errstate(all="ignore"):
        shift = c[own] - b[of]
    kinds = (
        (W, zero_q[:1].repeat(W.shape[0], axis=0), b, np.zeros(b.shape)),
        (zero_p[:1].repeat(U.shape[0], axis=0), U, c, np.zeros(c.shape)),
        (-W[of], U[own], shift, 2.0 * UNIT * np.abs(shift)),
    )
    masks = (bends[0], bends[1], meets)
    places = [np.nonzero(mask) for mask in masks]
    rows = [
        Rows(p[i], q[i], constant[i], slack[i], part)
        for (p, q, constant, slack), (part, i) in zip(kinds, places, strict=True)
    ]
    low, high = _ends(so, rows)
    ends = []
    start = 0
    for (least, most), (part, i) in zip((band.before, band.after, band.gap), places, strict=True):
        least, most = least.copy(), most.copy()
        stop = start + i.size
        least[part, i] = np.maximum(least[part, i], low[start:stop])
        most[part, i] = np.minimum(most[part, i], high[start:stop])
        ends.append((least, most))
        start = stop
    before, after, gap = ends
    told = _sum((before[0][:, of], before[1][:, of]), gap)
    after[0][:, own], after[1][:, own] = _both((after[0][:, own], after[1][:, own]), told)
    return Band(before, after, gap)


def _ends(so: _So, kinds: list[Rows]) -> tuple[Array, Array]:
    """Return lower and upper bounds of all rows."""
    rows = Rows(
        np.concatenate([kind.before for kind in kinds]),
        np.concatenate([kind.after for kind in kinds]),
        np.concatenate([kind.constant for kind in kinds]),
        np.concatenate([kind.slack for kind in kinds]),
        np.concatenate([kind.owner for kind in kinds]),
    )
    other = Rows(-rows.before, -rows.after, -rows.constant, rows.slack, rows.owner)
    return -so.upper(other), so.upper(rows)


def _relaxed(pair: Pair, level: int, band: Band) -> tuple[Relaxed, tuple[tuple[Array, Array], tuple[Array, Array]]]:
    """Return a layer as lines, and the ranges of its values in both networks."""
    own, of = pair.twins[level]
    sides = ((pair.before.hidden[level], band.before), (pair.after.hidden[level], band.after))
    found, values, far, size = [], [], [], []
    for layer, (low, high) in sides:
        found.append(lines(pieces(layer.activation, low, high)))
        least, most = layer.activation.interval(low, high)
        values.append((least, most))
        far.append(np.maximum(np.abs(least), np.abs(most)))
        chords = steepness(layer.activation, low, high)
        size.append(_most(found[-1], chords, far[-1], np.maximum(np.abs(low), np.abs(high))))
    before, after = found
    hull = (
        np.minimum(band.before[0][:, of], band.after[0][:, own]),
        np.maximum(band.before[1][:, of], band.after[1][:, own]),
    )
    chords = steepness(pair.before.hidden[level].activation.take(of), *hull)
    gap = difference_lines(*chords, *band.gap)
    with np.errstate(all="ignore"):
        apart = _width(before, band.before)[:, of] + _width(after, band.after)[:, own]
        joint = np.where(_width(gap, band.gap) < apart, 1.0, 0.0)
        reach = sum(np.maximum(np.abs(low), np.abs(high)) for low, high in (_at(band.before, of), _at(band.after, own)))
        more = np.where(joint > 0, _size(gap, np.asarray(reach)), 0.0)
        size[0][:, of] += size[1][:, own] + more
        size[1][:, own] = size[0][:, of]
    return Relaxed(before, after, gap, joint, (far[0], far[1]), (size[0], size[1])), (values[0], values[1])


def _at(ends: tuple[Array, Array], index: Indices) -> tuple[Array, Array]:
    return ends[0][:, index], ends[1][:, index]


def _most(found: Lines, chords: tuple[Array, Array], far: Array, reach: Array) -> Array:
    """Return the magnitude of the terms of a line over f with any slope that f has, f at most `far`, t at most `reach`.

    An offset is at most |f| + |slope t|.
    """
    with np.errstate(all="ignore"):
        known = np.isfinite(chords[0]) & np.isfinite(chords[1])
        steep = np.where(known, np.maximum(np.abs(chords[0]), np.abs(chords[1])), 0.0)
        steep = np.maximum(steep, np.maximum(np.abs(found.up_slope), np.abs(found.down_slope)))
        total = (2.0 * far + 2.0 * steep * reach) * (1.0 + 1e-9) + TINY
        total = total + np.maximum(np.abs(found.up_offset), np.abs(found.down_offset))
    return np.where(np.isnan(total), np.inf, total)


def _size(found: Lines, reach: Array) -> Array:
    """Return the magnitude of a line's terms where its variable is at most `reach`."""
    with np.errstate(all="ignore"):
        slope = np.maximum(np.abs(found.up_slope), np.abs(found.down_slope))
        total = slope * reach + np.maximum(np.abs(found.up_offset), np.abs(found.down_offset))
    return np.where(np.isnan(total), np.inf, total)


def _width(found: Lines, ends: tuple[Array, Array]) -> Array:
    """Return how far the lines are apart in the middle of the range."""
    middle = 0.5 * ends[0] + 0.5 * ends[1]
    total = (found.up_slope - found.down_slope) * middle + (found.up_offset - found.down_offset)
    return np.where(np.isnan(total), np.inf, total)
