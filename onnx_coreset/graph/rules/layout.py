"""How an axis is filled that neurons run along.

Every entry of the axis belongs to a neuron, or to nobody of the space: what a Concat puts beside the neurons. A neuron
may stand on the axis several times, each time with another value of the program or with the same once more: the copies.

    h = n neurons              0 1 2         all of copy 0
    a fused gate and factor    0 1 2 0 1 2   copies 0 0 0 1 1 1
    Concat(x, h)               - - 0 1 2
    Gather(h, [2, 0])          2 0

Where only some neurons stay, entries stay with them. A stretch of entries along which the neurons of one copy increase
keeps the order that the neurons are kept in; stretches keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Indices, frozen_indices


@dataclass(frozen=True, eq=False)
class Layout:
    """How an axis of L entries is filled.

    Attributes:
        neurons: The neuron that each entry belongs to, -1 where it is not the space's; shape (L,).
        copies: Which copy of that neuron it is, shape (L,); 0 where it is not the space's.
    """

    neurons: Indices
    copies: Indices

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", frozen_indices(self.neurons))
        object.__setattr__(self, "copies", frozen_indices(self.copies))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layout):
            return NotImplemented
        return np.array_equal(self.neurons, other.neurons) and np.array_equal(self.copies, other.copies)

    def __hash__(self) -> int:
        return hash((self.neurons.tobytes(), self.copies.tobytes()))

    @staticmethod
    def of(width: int, copies: int = 1) -> Layout:
        """Return the axis on which `width` neurons stand, `copies` times over."""
        return Layout(np.tile(np.arange(width), copies), np.repeat(np.arange(copies), width))

    @property
    def size(self) -> int:
        """Number of entries L."""
        return int(self.neurons.size)

    @property
    def own(self) -> Indices:
        """The entries that are the space's, increasing."""
        return np.flatnonzero(self.neurons >= 0)

    def where(self, width: int, copy: int = 0) -> Indices:
        """Return the entry of one copy of each of `width` neurons, -1 where there is none."""
        found = np.full(width, -1)
        here = np.flatnonzero((self.neurons >= 0) & (self.copies == copy))
        found[self.neurons[here]] = here
        return found

    def totals(self, width: int) -> Indices | None:
        """Return L for 1 .. `width` neurons, or None where that depends on which neurons there are."""
        own = self.neurons[self.own]
        counts = np.bincount(own, minlength=width)
        if np.any(counts != counts[0]):
            return None
        return np.asarray(self.size - own.size + counts[0] * np.arange(1, width + 1), dtype=np.intp)

    def placed(self, kept: Indices) -> tuple[Indices, Indices]:
        """Return the entries that stay where the neurons `kept` stay, in their new order.

        Args:
            kept: Neurons, shape (m,); one that is named twice stands twice.

        Returns:
            Entry, and position in `kept` of its neuron (-1 for others), of each entry there is then. O(L log L).
        """
        kept = np.asarray(kept, dtype=np.intp)
        order = np.argsort(kept, kind="stable")
        own = self.neurons >= 0
        first = np.searchsorted(kept[order], self.neurons, "left")
        times = np.where(own, np.searchsorted(kept[order], self.neurons, "right") - first, 1)
        entries = np.repeat(np.arange(self.size), times)
        within = np.arange(entries.size) - np.repeat(np.cumsum(times) - times, times)
        place = np.where(own[entries], first[entries] + within, 0)
        ranks = np.where(own[entries], order[np.minimum(place, kept.size - 1)], -1)
        breaks = np.diff(self.neurons) <= 0
        breaks |= (np.diff(self.copies) != 0) | (np.diff(own.astype(np.intp)) != 0)
        breaks &= own[1:] | own[:-1]
        stretch = np.concatenate([[0], np.cumsum(breaks)])[: self.size][entries]
        turn = np.lexsort((ranks, stretch))
        return entries[turn], ranks[turn]

    def indices(self, kept: Indices) -> Indices:
        """Return the entries that stay where the neurons `kept` (m,) stay, in their new order."""
        return self.placed(kept)[0]


def arranged(parts: Sequence[tuple[tuple[int, ...], Layout]]) -> tuple[tuple[int, ...], Layout]:
    """Return what axes make one behind the other, as the values of its copies and how it is filled.

    Entries of one neuron with the same value are copies of their own; otherwise there are as few copies as values.

    Args:
        parts: Each axis, with the number of the value of each of its copies.
    """
    neurons = np.concatenate([layout.neurons for _, layout in parts])
    numbers = np.concatenate([np.asarray([*values, -1], dtype=np.intp)[layout.copies] for values, layout in parts])
    own = np.flatnonzero(neurons >= 0)
    order = own[np.lexsort((own, neurons[own], numbers[own]))]
    fresh = np.ones(order.size, dtype=bool)
    fresh[1:] = (np.diff(numbers[order]) != 0) | (np.diff(neurons[order]) != 0)
    starts = np.flatnonzero(fresh)
    again = np.arange(order.size) - np.repeat(starts, np.diff([*starts, order.size]))
    keys = np.stack([again, numbers[order]], axis=1)
    # Copies are numbered in the order in which they first stand on the axis.
    pairs, inverse = np.unique(keys, axis=0, return_inverse=True)
    earliest = np.full(len(pairs), neurons.size)
    np.minimum.at(earliest, inverse.reshape(-1), order)
    ranking = np.argsort(earliest, kind="stable")
    label = np.empty_like(ranking)
    label[ranking] = np.arange(ranking.size)
    copies = np.zeros(neurons.size, dtype=np.intp)
    copies[order] = label[inverse.reshape(-1)]
    return tuple(int(n) for n in pairs[ranking, 1]), Layout(neurons, copies)


def others(count: int) -> Layout:
    """Return `count` entries that are not the space's."""
    return Layout(np.full(count, -1), np.zeros(count, dtype=np.intp))
