"""What can be dropped without any error: constant, duplicate, collinear and unread neurons.

    constant    incoming weights are zero: f(b) moves to the constant, where every readout may change its own
    duplicate   same incoming weights, bias and activation parameters: outgoing weights are added up
    collinear   incoming weights and bias r > 0 times another's, where f(r t) = r f(t), up to the rounding of float32,
                in which they were stored: outgoing weights are added up, times r
    unread      every outgoing weight is zero

A product or another function of several neurons is constant where all are, a product also where one is constantly
zero; it is a duplicate where all are. All of it is exact in real arithmetic, whatever the inputs are, collinear neurons
to the last digit or two of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import numpy as np

from onnx_coreset.core.activations.record import Named
from onnx_coreset.core.arrays import Array, Indices, frozen
from onnx_coreset.core.features import Part, Seen
from onnx_coreset.core.layer import Columns, Coreset, Features, Gated, HiddenLayer, Joint, Neurons, shrink

_MULTIPLE = 2.0**-22
"""Largest difference of two directions, in units of their largest entry, that rounding to float32 explains."""

_PROBES = (-7.3, -2.1, -0.9, -0.31, -0.04, 0.0, 0.02, 0.27, 0.83, 1.9, 3.7, 8.1)


def lossless(layer: HiddenLayer) -> Coreset:
    """Return the smallest coreset that the exact rules give.

    Args:
        layer: The hidden layer, n neurons.

    Returns:
        A coreset that computes what the layer computes; at least one neuron is kept. O(n (d + k) log n).
    """
    outgoing = [np.array(readout.outgoing) for readout in layer.readouts]
    constant = [np.array(readout.constant) for readout in layer.readouts]
    alive = np.ones(layer.width, dtype=bool)
    columns = [_columns(readout.features) for readout in layer.readouts]
    if all(columns):
        fixed = _constants(layer, columns, outgoing, constant)
        alive[fixed] = False
        _merge(layer.width, columns, alive, outgoing)
        _align(layer, alive, outgoing)
    alive &= np.any([np.any(w != 0, axis=(0, 2)) for w in outgoing], axis=0)
    if not alive.any():
        alive[0] = True
    kept = np.flatnonzero(alive)
    return Coreset(kept, tuple(w[:, kept] for w in outgoing), tuple(constant), "lossless")


@dataclass(frozen=True)
class _Column:
    """One column of some features, and which of them readers see, shape (n,)."""

    features: Part
    seen: Seen

    @property
    def factors(self) -> tuple[Neurons, ...]:
        """The dense neurons that it is a function of."""
        if isinstance(self.features, Gated):
            return self.features.gate, self.features.up
        return self.features.parts if isinstance(self.features, Joint) else (self.features,)


def _columns(features: Features) -> tuple[_Column, ...]:
    """Return the columns of features that are made of dense neurons; none where they are something else."""
    if isinstance(features, Columns):
        parts = tuple(zip(features.parts, features.seen.T, strict=True))
    elif isinstance(features, Neurons | Gated | Joint):
        parts = ((features, np.ones(features.width, dtype=np.bool_)),)
    else:
        return ()
    return tuple(_Column(part, seen) for part, seen in parts)


def _constants(
    layer: HiddenLayer, columns: list[tuple[_Column, ...]], outgoing: list[Array], constant: list[Array]
) -> Indices:
    """Move neurons that do not depend on the input to the constants; return them."""
    if not all(readout.constant_allowed for readout in layer.readouts):
        return np.empty(0, dtype=np.intp)
    known = [[_known(column) for column in each] for each in columns]
    fixed = np.flatnonzero(np.all([held for each in known for held, _ in each], axis=0))
    if fixed.size:
        for each, weights, shift in zip(known, outgoing, constant, strict=True):
            values = np.stack([value for _, value in each], axis=-1)
            shift += np.einsum("kjs,js->k", weights[:, fixed], values[fixed])
            weights[:, fixed] = 0.0
    return fixed


def _known(column: _Column) -> tuple[Array, Array]:
    """Return which entries (n,) of a column do not depend on the input, and what those are (n,)."""
    held = np.array([~part.incoming.any(axis=1) for part in column.factors])
    nothing = ~column.seen
    origin = np.zeros((1, column.features.inputs))
    if isinstance(column.features, Gated):
        nothing = nothing | np.any(
            [h & (p.evaluate(origin)[0, :, 0] == 0) for h, p in zip(held, column.factors, strict=True)], axis=0
        )
    fixed = np.all(held, axis=0) | nothing
    return fixed, np.where(fixed & ~nothing, column.features.evaluate(origin)[0, :, 0], 0.0)


def _merge(width: int, columns: list[tuple[_Column, ...]], alive: Array, outgoing: list[Array]) -> None:
    """Add the outgoing weights of duplicates to those of the first one."""
    keys = [frozen(column.seen[:, None]) for each in columns for column in each]
    for neurons in {id(part): part for each in columns for column in each for part in column.factors}.values():
        # An activation that shows no parameters still shows what it does to a few pre-activations.
        probed = neurons.activation(np.repeat(np.array(_PROBES)[:, None], width, axis=1)).T
        keys += [neurons.incoming, neurons.bias[:, None], probed, *_parameters(neurons.activation, width)]
    for each in columns:
        keys += [key for c in each if isinstance(c.features, Joint) for key in _parameters(c.features.program, width)]
    rows = np.ascontiguousarray(np.concatenate(keys, axis=1) + 0.0)
    packed = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
    _, first, group = np.unique(packed, return_index=True, return_inverse=True)
    leader = first[group.reshape(-1)]
    extra = np.flatnonzero(alive & (leader != np.arange(width)))
    for weights in outgoing:
        np.add.at(weights.transpose(1, 0, 2), leader[extra], weights.transpose(1, 0, 2)[extra])
        weights[:, extra] = 0.0
    alive[extra] = False


def _align(layer: HiddenLayer, alive: Array, outgoing: list[Array]) -> None:
    """Add the outgoing weights of positive multiples to those of the first neuron of their direction.

    Directions are sorted by a projection of their own: multiples are neighbours there, and are compared entry by entry.
    """
    first = layer.readouts[0].features
    if any(readout.features is not first for readout in layer.readouts) or not isinstance(first, Neurons):
        return
    # Neurons with slopes of their own (PRelu) are left to the selection.
    if not isinstance(first.activation, Named) or not first.activation.properties.homogeneous:
        return
    if any(np.ndim(parameter) for parameter in first.activation.parameters):
        return
    rows = np.concatenate([first.incoming, first.bias[:, None]], axis=1)
    size = np.abs(rows).max(axis=1)
    live = np.flatnonzero(alive & (size > 0))
    units = rows[live] / size[live, None]
    order = np.argsort(units @ np.cos(np.arange(rows.shape[1]) + 1.0), kind="stable")
    units, live = units[order], live[order]
    fresh = np.abs(np.diff(units, axis=0, prepend=np.inf)).max(axis=1, initial=0.0) > _MULTIPLE
    lead = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
    extra = np.flatnonzero(~fresh & (np.abs(units - units[lead]).max(axis=1, initial=0.0) <= _MULTIPLE))
    one, other = live[lead[extra]], live[extra]
    for weights in outgoing:
        moved = weights[:, other] * (size[other] / size[one])[:, None]
        np.add.at(weights.transpose(1, 0, 2), one, moved.transpose(1, 0, 2))
        weights[:, other] = 0.0
    alive[other] = False


def _parameters(value: object, width: int) -> Iterator[Array]:
    """Yield, as columns (n, 1), whatever in an activation has one entry for each neuron."""
    if isinstance(value, np.ndarray):
        if value.shape == (width,):
            yield np.asarray(value, dtype=np.float64)[:, None]
    elif isinstance(value, tuple):
        for part in value:
            yield from _parameters(part, width)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parameters(getattr(value, field.name), width)


def compose(layer: HiddenLayer, base: Coreset, inner: Coreset) -> Coreset:
    """Return the coreset of `layer` that applies `base` and then `inner` to what is left.

    Args:
        layer: The hidden layer, n neurons.
        base: A coreset of it.
        inner: A coreset of `shrink(layer, base)`.
    """
    return Coreset(base.kept[inner.kept], inner.outgoing, inner.constant, inner.method, inner.seed)


def widened(layer: HiddenLayer, base: Coreset, width: int) -> Coreset:
    """Return `base` with further neurons, at outgoing weight zero, so that it has `width` of them.

    Args:
        layer: The hidden layer, n neurons.
        base: A coreset of it; it stays as it is where it is as wide already.
        width: Number of neurons wanted.
    """
    others = np.setdiff1d(np.arange(layer.width), base.kept)[: max(width - base.width, 0)]
    kept = np.sort(np.concatenate([base.kept, others]))
    outgoing = []
    for readout, weights in zip(layer.readouts, base.outgoing, strict=True):
        grown = np.zeros((readout.outputs, kept.size, readout.features.columns))
        grown[:, np.searchsorted(kept, base.kept)] = weights
        outgoing.append(grown)
    return Coreset(kept, tuple(outgoing), base.constant, base.method, base.seed)


def reduced(layer: HiddenLayer) -> tuple[Coreset, HiddenLayer]:
    """Return the lossless coreset of `layer` and the layer it leaves."""
    base = lossless(layer)
    return base, shrink(layer, base)
