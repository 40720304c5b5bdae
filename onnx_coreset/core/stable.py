"""Neurons that stay on one piece of their activation for every input of a domain: constant, or linear.

On the domain x = middle + scale * y a pre-activation is t = q . y + t0, with |t - t0| at most its reach. A neuron is

    constant     where f hardly varies on [t0 - reach, t0 + reach]: f(t0) moves to the constant (a dead ReLU has 0)
    linear       where the slopes of f hardly differ there: h = f(t0) + a q . y

and m linear neurons of which r span the rest are those r: with rows V = diag(a) Q, V_gone = M V_base,

    h_gone = f(t0_gone) + M (h_base - f(t0_base)),

so that outgoing weights U_base = W_base + W_gone M and a constant do what all of them did. r is at most the number of
directions in which inputs vary; only where the constant may not change f(t0) is one more column of V. Base neurons are
the pivots of a QR factorisation. Ranks are those up to the rounding of float32, in which weights were stored.

"Hardly" is 2^-30 of the largest pre-activation times the steepest slope, a share of what float32 makes of the
pre-activation itself. Where f may jump nothing is allowed, and the pre-activation's rounding in float32 counts too.

Source: neurons stable over an input set, Serra, Kumar & Ramalingam 2020 (Lossless compression of deep neural networks),
who prove stability with integer programs, and for ReLU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr, solve_triangular

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.domains import Domain, frame, magnitudes
from onnx_coreset.core.certificates.pieces import lipschitz, slopes
from onnx_coreset.core.certificates.rounding import gamma
from onnx_coreset.core.collinear import shared
from onnx_coreset.core.duplicates import Column
from onnx_coreset.core.features import Seen
from onnx_coreset.core.layer import Gated, HiddenLayer, Joint, Neurons

__all__ = ["Range", "ranges", "settled", "span"]

_SINGLE = 2.0**-24
_HARDLY = 2.0**-30
_RANK = 2.0**-22
"""Share of a row that the rounding of float32 explains."""
_GROWTH = 16.0
"""Largest growth of the sum of terms of an output: 16 units in the last place of float32 are 1e-6."""


_BLOCK = 1024


@dataclass(frozen=True)
class Range:
    """Pre-activations of n neurons over a domain.

    Attributes:
        middle: The value in the middle, shape (n,).
        low: Least value, but for what cannot matter, shape (n,).
        high: Largest value likewise, shape (n,).
        allowed: By how much a value may be off, shape (n,).
        size: Largest magnitude times the steepest slope of f, 0 where it has none, shape (n,).
    """

    middle: Array
    low: Array
    high: Array
    allowed: Array
    size: Array


def ranges(parts: Iterable[Neurons], domain: Domain) -> Mapping[int, Range]:
    """Return the pre-activations of dense neurons over a domain, by the identity of each part. O(n d) a part."""
    return {key: _range(part, domain) for key, part in {id(part): part for part in parts}.items()}


def _range(part: Neurons, domain: Domain) -> Range:
    blocks = [slice(start, start + _BLOCK) for start in range(0, part.width, _BLOCK)]
    found = [frame(domain, part.incoming[rows], part.bias[rows]) for rows in blocks]
    middle = np.concatenate([block.offset for block in found])
    near = np.concatenate([block.reach + block.noise for block in found])
    steep = lipschitz(part.activation, part.width)
    smooth, margin = np.isfinite(steep), np.zeros(part.width)
    with np.errstate(over="ignore", invalid="ignore"):
        if not smooth.all():
            margin = gamma(part.inputs + 1, _SINGLE) * (magnitudes(domain, part.incoming) + np.abs(part.bias))
        largest = near + np.abs(middle)
        # Ends may be a little inside: a neuron that only touches a kink stays on its piece.
        margin = np.where(smooth, -0.25 * _HARDLY * largest, margin)
        low = np.minimum(middle - near - margin, middle)
        high = np.maximum(middle + near + margin, middle)
        size = np.where(smooth, steep * largest, 0.0)
    return Range(middle, low, high, np.where(np.isfinite(size), _HARDLY * size, 0.0), size)


def settled(column: Column, known: Mapping[int, Range]) -> tuple[Seen, Array]:
    """Return which entries of a column do not vary on a domain, and what they are there.

    Args:
        column: A column of the features of n neurons.
        known: Ranges of its factors over the domain.

    Returns:
        Shape (n,) each; functions of several pre-activations other than products never count. O(n).
    """
    part = column.features
    if isinstance(part, Joint):
        return np.zeros(part.width, dtype=np.bool_), np.zeros(part.width)
    found = [known[id(factor)] for factor in column.factors]
    ends = [f.activation.interval(r.low, r.high) for f, r in zip(column.factors, found, strict=True)]
    values = [f.activation(r.middle) for f, r in zip(column.factors, found, strict=True)]
    (low, high), value, allowed = ends[0], values[0], found[0].allowed
    if isinstance(part, Gated):
        with np.errstate(over="ignore", invalid="ignore"):
            corners = np.stack([a * b for a in ends[0] for b in ends[1]])
            low, high = corners.min(axis=0), corners.max(axis=0)
            value, allowed = values[0] * values[1], _HARDLY * found[0].size * found[1].size
    with np.errstate(invalid="ignore"):
        still = np.isfinite(low) & np.isfinite(high) & (high - low <= allowed)
    return still, np.where(still, np.clip(value, low, high), 0.0)


def span(
    layer: HiddenLayer,
    domain: Domain,
    known: Mapping[int, Range],
    alive: Seen,
    outgoing: list[Array],
    constant: list[Array],
) -> None:
    """Express linear neurons by as few of them as span the others.

    Args:
        layer: The hidden layer, n neurons.
        domain: Where inputs lie.
        known: Ranges of its neurons over the domain.
        alive: Which neurons are left, shape (n,); those that go are cleared.
        outgoing: Outgoing weights of each readout, (k, n, 1); they are edited.
        constant: Constants of each readout, (k,); they are edited.
    """
    neurons = shared(layer)
    if neurons is None:
        return
    found = known[id(neurons)]
    least, most = slopes(neurons.activation, found.low, found.high)
    with np.errstate(invalid="ignore", over="ignore"):
        bend, slope = most - least, 0.5 * least + 0.5 * most
        # What hardly varies at all has no slope to speak of.
        linear = (bend * (found.high - found.low) <= found.allowed) & (bend <= _RANK * np.abs(slope))
    on = np.flatnonzero(alive & linear & np.isfinite(found.size) & np.isfinite(slope))
    middle = neurons.activation(found.middle)[on]
    rows = slope[on, None] * frame(domain, neurons.incoming[on], neurons.bias[on]).rows
    free = all(readout.constant_allowed for readout in layer.readouts)
    basis, rest, mixing = _basis(rows if free else np.concatenate([rows, middle[:, None]], axis=1))
    if not rest.size:
        return
    shift = middle[rest] - mixing @ middle[basis] if free else np.zeros(rest.size)
    top = np.abs(middle) + found.size[on]
    base, gone = on[basis], on[rest]
    made = [
        (weights[:, base, 0] + weights[:, gone, 0] @ mixing, own + weights[:, gone, 0] @ shift)
        for weights, own in zip(outgoing, constant, strict=True)
    ]
    for (new, moved), weights, own in zip(made, outgoing, constant, strict=True):
        before = np.abs(weights[:, on, 0]) @ top + np.abs(own)
        if not np.all(np.abs(new) @ top[basis] + np.abs(moved) <= _GROWTH * before):
            return
    for (new, moved), weights, own in zip(made, outgoing, constant, strict=True):
        weights[:, base, 0], weights[:, gone], own[:] = new, 0.0, moved
    alive[gone] = False


def _basis(rows: Array) -> tuple[Indices, Indices, Array]:
    """Return rows that span the others, the others, and what multiples of the first they are.

    Args:
        rows: Shape (m, q).

    Returns:
        Indices (r,) and (m - r,), and M of shape (m - r, r) with rows[others] = M rows[basis]. O(m q min(m, q)).
    """
    norms = np.linalg.norm(rows, axis=1)
    if not rows.size or not np.isfinite(norms).all():
        return np.arange(len(rows)), np.empty(0, dtype=np.intp), np.zeros((0, len(rows)))
    unit = np.where(norms > 0, norms, 1.0)
    triangle, pivots = qr((rows / unit[:, None]).T, mode="r", pivoting=True, overwrite_a=True, check_finite=False)
    rank = int(np.count_nonzero(np.abs(np.diag(triangle)) > _RANK))
    mixing = solve_triangular(triangle[:rank, :rank], triangle[:rank, rank:]).T
    basis, rest = pivots[:rank].astype(np.intp), pivots[rank:].astype(np.intp)
    return basis, rest, np.asarray(mixing * unit[rest, None] / unit[basis])
