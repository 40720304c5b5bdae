"""The difference of two readouts of any features: one sum over the union of their neurons, kind by kind.

    D(x) = c0 + sum over terms and neurons of c_j F_j(t_j1, ..., t_jr)

Neurons of either readout that compute the same are one neuron, whose outgoing weights are subtracted. Columns are
features of their own: those of one neuron that readers do not see are left out. Where every term is dense, the sum is a
`Difference`, for which there are better bounds.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.difference import Difference, Stack, groups
from onnx_coreset.core.certificates.domains import BoxDomain, Domain, Frame, frame, sizes
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma
from onnx_coreset.core.certificates.terms import Term, affine_parts, enclosure, key
from onnx_coreset.core.features import Columns, Features, Gated, Joint, Neurons, Part
from onnx_coreset.core.layer import Readout

__all__ = ["Mixture", "dense", "items", "mixture", "ranges", "surely"]


@dataclass(frozen=True)
class Mixture:
    """D(x) = constant + sum over terms, of k outputs.

    Attributes:
        terms: The terms.
        constant: Shape (k,).
        doubt: Largest error of a constant, shape (k,).
        inputs: Number of inputs d.
        ball: Whether the domain's coordinates are the unit ball's; otherwise the unit box's.
    """

    terms: tuple[Term, ...]
    constant: Array
    doubt: Array
    inputs: int
    ball: bool

    @property
    def outputs(self) -> int:
        """Number of outputs k."""
        return int(self.constant.size)


def items(features: Features, outgoing: Array) -> list[tuple[Part, Array]]:
    """Return features (n, s) as those of one column each, with their outgoing weights (k, m) out of (k, n, s).

    Raises:
        ValueError: They are of a kind that is not known.
    """
    if isinstance(features, Columns):
        seen = [np.flatnonzero(features.seen[:, place]) for place in range(features.columns)]
        return [
            (part if rows.size == part.width else part.take(rows), outgoing[:, rows, place])
            for place, (part, rows) in enumerate(zip(features.parts, seen, strict=True))
            if rows.size
        ]
    if isinstance(features, Neurons | Gated | Joint):
        return [(features, outgoing[:, :, 0])]
    raise ValueError(f"features of the kind {features.name!r} are not known")


def mixture(before: Readout, after: Readout, domain: Domain) -> Mixture:
    """Return the difference of two readouts of any features.

    Args:
        before: A readout of k outputs.
        after: Another of as many inputs and outputs.
        domain: Where the inputs lie.

    Returns:
        What `before` gives minus what `after` gives. O(n d log n).

    Raises:
        ValueError: The readouts do not fit each other, or their features are of an unknown kind.
    """
    inputs, outputs = before.features.inputs, before.outputs
    if after.features.inputs != inputs or after.outputs != outputs:
        raise ValueError("the layers have other inputs or outputs")
    found = items(before.features, before.outgoing)
    found += [(part, -weights) for part, weights in items(after.features, after.outgoing)]
    kinds: dict[Hashable, list[tuple[Part, Array, Array]]] = {}
    for part, weights in found:
        kind, numbers = key(part)
        kinds.setdefault(kind, []).append((part, weights, numbers))
    terms = [term for same in kinds.values() for term in _merged(same, domain)]
    constant = before.constant - after.constant
    ball = not isinstance(domain, BoxDomain)
    return Mixture(tuple(terms), constant, UNIT * np.abs(constant), inputs, ball)


def _merged(same: list[tuple[Part, Array, Array]], domain: Domain) -> list[Term]:
    """Return terms of one kind, equal neurons merged into the first of them."""
    group = groups(np.concatenate([numbers for _, _, numbers in same]))
    outgoing = np.concatenate([weights for _, weights, _ in same], axis=1).T
    size = int(group.max(initial=-1)) + 1
    owner = np.full(size, group.size)
    np.minimum.at(owner, group, np.arange(group.size))
    weights, total = np.zeros((size, outgoing.shape[1])), np.zeros((size, outgoing.shape[1]))
    np.add.at(weights, group, outgoing)
    np.add.at(total, group, np.abs(outgoing))
    # One rounding for two terms, relative to the sum; further ones relative to all terms.
    often = np.bincount(group, minlength=size)[:, None]
    doubt = np.where(often <= 2, (often - 1) * UNIT * np.abs(weights), 2.0 * often * UNIT * total)
    live = np.any(weights != 0, axis=1) | np.any(doubt != 0, axis=1)
    terms, begin = [], 0
    for part, _, _ in same:
        places = np.arange(begin, begin + part.width)
        own = group[places]
        first = (owner[own] == places) & live[own]
        begin += part.width
        if first.any():
            taken = part if first.all() else part.take(np.flatnonzero(first))
            terms.append(_term(taken, weights[own[first]].T, doubt[own[first]].T, domain))
    return terms


def _term(part: Part, weights: Array, doubt: Array, domain: Domain) -> Term:
    frames = tuple(frame(domain, own.incoming, own.bias) for own in affine_parts(part))
    ends = []
    for found in frames:
        wide = (found.reach + found.noise) * (1.0 + gamma(8)) + UNIT * np.abs(found.offset) * 4.0
        low = np.where(wide > 0, found.offset - wide, found.offset)
        ends.append((low, np.where(wide > 0, found.offset + wide, found.offset)))
    return Term(part, weights, doubt, frames, tuple(ends))


def dense(layer: Mixture, most: int) -> Difference | None:
    """Return a mixture of dense neurons alone, `most` of them at most, as a difference of dense layers, else None."""
    parts = [term.part for term in layer.terms if isinstance(term.part, Neurons)]
    if len(parts) != len(layer.terms) or not 0 < sum(part.width for part in parts) <= most:
        return None
    own = [term.frames[0] for term in layer.terms]
    joined = Frame(
        layer.ball,
        np.concatenate([one.rows for one in own]),
        np.concatenate([one.offset for one in own]),
        np.concatenate([one.reach for one in own]),
        np.concatenate([one.noise for one in own]),
    )
    return Difference(
        np.concatenate([part.incoming for part in parts]),
        np.concatenate([part.bias for part in parts]),
        Stack(tuple(part.activation for part in parts), tuple(part.width for part in parts)),
        np.concatenate([term.weights for term in layer.terms], axis=1),
        np.concatenate([term.doubt for term in layer.terms], axis=1),
        layer.constant,
        layer.doubt,
        joined,
        np.concatenate([term.ends[0][0] for term in layer.terms]),
        np.concatenate([term.ends[0][1] for term in layer.terms]),
    )


def ranges(terms: tuple[Term, ...], outputs: int) -> Array:
    """Return upper bounds (2 k,) of some terms and of minus them, every neuron replaced by its range. O(n k)."""
    total = np.zeros(2 * outputs)
    for term in terms:
        low, high = term.range
        largest = np.maximum(np.abs(low), np.abs(high))
        with np.errstate(invalid="ignore", over="ignore"):
            both = np.concatenate([term.weights, -term.weights])
            worst = np.where(both == 0, 0.0, np.maximum(both * low, both * high))
            absolute = np.abs(term.weights)
            loose = (gamma(low.size + 12) * absolute + 2.0 * term.doubt) * largest + absolute * TINY
            loose = np.where((absolute == 0) & (term.doubt == 0), 0.0, loose).sum(axis=1)
            total = total + worst.sum(axis=1) + np.concatenate([loose, loose]) * (1.0 + 1e-10)
            total = total + 4.0 * UNIT * np.abs(total)
    return np.where(np.isnan(total), np.inf, total)


def surely(layer: Mixture, domain: Domain, x: Array) -> Array:
    """Return |D_i(x)| rounded down, for inputs of a domain.

    Args:
        layer: The difference, k outputs.
        domain: The domain; of an ellipsoid every x may be off by the rounding of gain * u + shift.
        x: Inputs, shape (N, d).

    Returns:
        Shape (N, k), not negative. O(N n (d + k)).
    """
    magnitude = sizes(domain, x)
    value = np.zeros((x.shape[0], layer.outputs)) + layer.constant
    loose = np.zeros(value.shape) + 2.0 * layer.doubt + 4.0 * UNIT * np.abs(layer.constant)
    steps = gamma(4 * len(layer.terms) + 8)
    with np.errstate(all="ignore"):
        for term in layer.terms:
            ends = []
            for own in affine_parts(term.part):
                t = x @ own.incoming.T + own.bias
                off = gamma(x.shape[1] + 12) * (magnitude @ np.abs(own.incoming).T + np.abs(own.bias)) + TINY
                ends.append((t - off, t + off))
            low, high = enclosure(term.part, ends)
            absolute = np.abs(term.weights)
            largest = np.maximum(np.abs(low), np.abs(high))
            value = value + (0.5 * low + 0.5 * high) @ term.weights.T
            loose = loose + (0.5 * (high - low)) @ absolute.T
            errors = gamma(low.shape[1] + 12) * absolute + 2.0 * term.doubt
            loose = loose + largest @ (errors + steps * absolute).T
        loose = loose + steps * np.abs(layer.constant)
        found = np.abs(value) - loose * (1.0 + 1e-10) - 4.0 * UNIT * np.abs(value)
    return np.maximum(np.where(np.isfinite(found), found, 0.0), 0.0)
