"""What can be dropped without any error: constant, duplicate, collinear, unread, and on a domain stable neurons.

    constant    incoming weights are zero: f(b) moves to the constant, where it is 0 or every readout may change its own
    duplicate   same incoming weights, bias and activation parameters: outgoing weights are added up
    collinear   incoming weights and bias r times another's, where f(r t) is a multiple of f(t), up to the rounding of
                float32, in which they were stored: outgoing weights are added up, times that multiple
    stable      on a domain that all inputs lie in, constant there, or linear there and spanned by other linear ones
    unread      every outgoing weight is zero

A product or another function of several neurons is constant where all are, a product also where one is constantly
zero; it is a duplicate where all are. All of it is exact in real arithmetic, whatever the inputs are (of the domain,
where there is one), collinear and stable neurons to the last digit or two of float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.domains import Domain
from onnx_coreset.core.collinear import align
from onnx_coreset.core.duplicates import Column, columns_of, merge
from onnx_coreset.core.layer import Coreset, Gated, HiddenLayer, shrink
from onnx_coreset.core.stable import Range, ranges, settled, span


def lossless(layer: HiddenLayer, domain: Domain | None = None) -> Coreset:
    """Return the smallest coreset that the exact rules give.

    Args:
        layer: The hidden layer, n neurons.
        domain: Where all of its inputs lie, those that a shrunk model computes included; None: anywhere.

    Returns:
        A coreset that computes what the layer computes; at least one neuron is kept. O(n (d + k)), and on a domain also
        O(m d min(m, d)) for m neurons that are linear there.

    Raises:
        ValueError: The domain has another number of inputs.
    """
    outgoing = [np.array(readout.outgoing) for readout in layer.readouts]
    constant = [np.array(readout.constant) for readout in layer.readouts]
    alive = np.ones(layer.width, dtype=np.bool_)
    columns = [columns_of(readout.features) for readout in layer.readouts]
    if all(columns):
        factors = [part for each in columns for column in each for part in column.factors]
        over = None if domain is None else ranges(factors, domain)
        fixed = _constants(layer, columns, over, outgoing, constant)
        alive[fixed] = False
        merge(layer.width, columns, alive, outgoing)
        align(layer, alive, outgoing)
        if domain is not None and over is not None:
            span(layer, domain, over, alive, outgoing, constant)
    alive &= np.any([np.any(w != 0, axis=(0, 2)) for w in outgoing], axis=0)
    if not alive.any():
        alive[0] = True
    kept = np.flatnonzero(alive)
    return Coreset(kept, tuple(w[:, kept] for w in outgoing), tuple(constant), "lossless")


def _constants(
    layer: HiddenLayer,
    columns: list[tuple[Column, ...]],
    over: Mapping[int, Range] | None,
    outgoing: list[Array],
    constant: list[Array],
) -> Indices:
    """Move neurons that do not depend on the input to the constants; return them."""
    known = [[_known(column, over) for column in each] for each in columns]
    fixed = np.all([held for each in known for held, _ in each], axis=0)
    if not all(readout.constant_allowed for readout in layer.readouts):
        fixed &= np.all([value == 0 for each in known for _, value in each], axis=0)
    gone = np.flatnonzero(fixed)
    for each, weights, shift in zip(known, outgoing, constant, strict=True):
        values = np.stack([value for _, value in each], axis=-1)
        shift += np.einsum("kjs,js->k", weights[:, gone], values[gone])
        weights[:, gone] = 0.0
    return gone


def _known(column: Column, over: Mapping[int, Range] | None) -> tuple[Array, Array]:
    """Return which entries (n,) of a column do not depend on the input, and what those are (n,)."""
    held = np.array([~part.incoming.any(axis=1) for part in column.factors])
    nothing = ~column.seen
    origin = np.zeros((1, column.features.inputs))
    if isinstance(column.features, Gated):
        nothing = nothing | np.any(
            [h & (p.evaluate(origin)[0, :, 0] == 0) for h, p in zip(held, column.factors, strict=True)], axis=0
        )
    fixed = np.all(held, axis=0) | nothing
    value = np.where(fixed & ~nothing, column.features.evaluate(origin)[0, :, 0], 0.0)
    if over is None:
        return fixed, value
    still, there = settled(column, over)
    return fixed | still, np.where(fixed, value, there)


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


def reduced(layer: HiddenLayer, domain: Domain | None = None) -> tuple[Coreset, HiddenLayer]:
    """Return the lossless coreset of `layer`, on a domain where one is given, and the layer it leaves."""
    base = lossless(layer, domain)
    return base, shrink(layer, base)
