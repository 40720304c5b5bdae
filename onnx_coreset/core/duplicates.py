"""Neurons that compute the same: equal incoming weights, biases and parameters, for every readout.

Rows are told apart by an integer hash of their bits, one pass over the weights, and compared entry by entry only where
hashes agree: what is merged is equal, bit for bit but for the sign of zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices, frozen
from onnx_coreset.core.features import Part, Seen
from onnx_coreset.core.layer import Columns, Features, Gated, Joint, Neurons

__all__ = ["Column", "columns_of", "leaders", "merge", "moved"]

_PROBES = (-7.3, -2.1, -0.9, -0.31, -0.04, 0.0, 0.02, 0.27, 0.83, 1.9, 3.7, 8.1)
_BLOCK = 256
_GOLDEN = 0x9E3779B97F4A7C15
_STIRS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Column:
    """One column of some features, and which of them readers see, shape (n,)."""

    features: Part
    seen: Seen

    @property
    def factors(self) -> tuple[Neurons, ...]:
        """The dense neurons that it is a function of."""
        if isinstance(self.features, Gated):
            return self.features.gate, self.features.up
        return self.features.parts if isinstance(self.features, Joint) else (self.features,)


def columns_of(features: Features) -> tuple[Column, ...]:
    """Return the columns of features that are made of dense neurons; none where they are something else."""
    if isinstance(features, Columns):
        parts = tuple(zip(features.parts, features.seen.T, strict=True))
    elif isinstance(features, Neurons | Gated | Joint):
        parts = ((features, np.ones(features.width, dtype=np.bool_)),)
    else:
        return ()
    return tuple(Column(part, seen) for part, seen in parts)


def merge(width: int, columns: Sequence[tuple[Column, ...]], alive: Seen, outgoing: list[Array]) -> None:
    """Add the outgoing weights of duplicates to those of the first one.

    Args:
        width: Number of neurons n.
        columns: The columns of each readout's features.
        alive: Which neurons are left, shape (n,); those that go are cleared.
        outgoing: Outgoing weights of each readout, (k, n, s); they are edited.
    """
    keys = [frozen(column.seen[:, None]) for each in columns for column in each]
    for neurons in {id(part): part for each in columns for column in each for part in column.factors}.values():
        # An activation that shows no parameters still shows what it does to a few pre-activations.
        probed = neurons.activation(np.repeat(np.array(_PROBES)[:, None], width, axis=1)).T
        keys += [neurons.incoming, neurons.bias[:, None], probed, *_parameters(neurons.activation, width)]
    for each in columns:
        keys += [key for c in each if isinstance(c.features, Joint) for key in _parameters(c.features.program, width)]
    lead = leaders(keys)
    extra = np.flatnonzero(alive & (lead != np.arange(width)))
    moved(extra, lead[extra], np.ones(extra.size), alive, outgoing)


def moved(gone: Indices, onto: Indices, factors: Array, alive: Seen, outgoing: list[Array]) -> None:
    """Add the outgoing weights of some neurons, times a factor each, to those of others.

    Args:
        gone: Neurons that go, shape (g,).
        onto: For each, the neuron that takes its place.
        factors: How many of that it was.
        alive: Which neurons are left, shape (n,); it is edited.
        outgoing: Outgoing weights of each readout, (k, n, s); they are edited.
    """
    for weights in outgoing:
        added = weights[:, gone] * factors[:, None]
        np.add.at(weights.transpose(1, 0, 2), onto, added.transpose(1, 0, 2))
        weights[:, gone] = 0.0
    alive[gone] = False


def leaders(keys: Sequence[Array]) -> Indices:
    """Return, for every row, the first row that is equal to it in all keys, shape (n,).

    Args:
        keys: Matrices of n rows each.
    """
    lead = np.arange(keys[0].shape[0])
    left, hashes = lead, _hashes(keys)
    while left.size:
        _, first, group = np.unique(hashes[left], return_index=True, return_inverse=True)
        front = left[first][group.reshape(-1)]
        other = front != left
        same = _equal(keys, front[other], left[other])
        lead[left[other][same]] = front[other][same]
        # Rows of equal hash that differ all the same are looked at among themselves.
        left = left[other][~same]
    return lead


def _equal(keys: Sequence[Array], one: Indices, other: Indices) -> Seen:
    """Return whether pairs of rows are equal in all keys."""
    blocks = [slice(start, start + _BLOCK) for start in range(0, one.size, _BLOCK)]
    found = [np.all([np.all(key[one[b]] == key[other[b]], axis=1) for key in keys], axis=0) for b in blocks]
    return np.concatenate([np.empty(0, dtype=np.bool_), *found])


def _hashes(keys: Sequence[Array]) -> Hashes:
    """Return a sum of odd multiples of each row's bits, modulo 2^64, shape (n,). O(1) an entry."""
    total, before = np.zeros(keys[0].shape[0], dtype=np.uint64), 0
    for key in keys:
        factors = _multipliers(before, key.shape[1])
        for start in range(0, key.shape[0], _BLOCK):
            # Adding 0 makes -0 equal to 0.
            bits = (np.ascontiguousarray(key[start : start + _BLOCK], dtype=np.float64) + 0.0).view(np.uint64)
            # What was stored in float32 has only zeros in its lower half.
            bits ^= bits >> np.uint64(32)
            total[start : start + _BLOCK] += bits @ factors
        before += key.shape[1]
    return total


def _multipliers(before: int, count: int) -> Hashes:
    """Return odd numbers without any pattern, those from `before` on, shape (count,): Steele's splitmix64."""
    state = np.arange(before + 1, before + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    for shift, factor in _STIRS:
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(state | np.uint64(1))


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
