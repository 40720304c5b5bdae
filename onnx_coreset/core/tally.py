"""How many numbers a model holds, as a function of the widths of its chains.

A stored tensor is read by one or more operators; each reader may be cut along several axes by several chains:

    numbers(reader) = product over its axes of (L - sum over chains c of d_c (n_c - m_c)).

A tensor with one reader is edited in place. One that several read is copied for each reader that a cut changes, and
stays as long as a reader is left that none does: cutting one of two layers that share a weight makes the file larger.
Where no tensor is shared and no bias inserted, the whole is linear in each width: the product of two widths appears
where the reader of one chain makes the neurons of the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Axis:
    """An axis of a stored tensor.

    Attributes:
        length: Entries L where no chain is cut.
        cuts: (chain, entries d that go with each of its neurons).
    """

    length: int
    cuts: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Reader:
    """What one input of one operator makes of a stored tensor.

    Attributes:
        axes: Its axes.
        chains: The chains whose cut changes it.
    """

    axes: tuple[Axis, ...]
    chains: frozenset[int]

    def numbers(self, widths: Sequence[int], full: Sequence[int]) -> float:
        """Return how many numbers it holds once a cut changed it."""
        return math.prod(a.length - sum(d * (full[c] - widths[c]) for c, d in a.cuts) for a in self.axes)


@dataclass(frozen=True)
class Tensor:
    """A stored tensor.

    Attributes:
        size: Numbers it holds in the original; 0 for a constant that a cut inserts.
        readers: What chains may change of it.
        others: Whether anything else reads it.
    """

    size: int
    readers: tuple[Reader, ...]
    others: bool = False

    @cached_property
    def chains(self) -> frozenset[int]:
        """The chains on whose widths its numbers depend."""
        along = {c for reader in self.readers for axis in reader.axes for c, _ in axis.cuts}
        return frozenset(along.union(*(reader.chains for reader in self.readers)))

    def numbers(self, widths: Sequence[int], full: Sequence[int]) -> float:
        """Return how many numbers the file holds for it."""
        changed = [reader for reader in self.readers if any(widths[c] < full[c] for c in reader.chains)]
        stays = self.others or len(changed) < len(self.readers)
        return self.size * stays + sum(reader.numbers(widths, full) for reader in changed)


@dataclass(frozen=True)
class Tally:
    """The numbers of a model.

    Attributes:
        full: Width n of each chain.
        total: Numbers of the original.
        tensors: The tensors that chains change.
    """

    full: tuple[int, ...]
    total: int
    tensors: tuple[Tensor, ...]

    def count(self, widths: Sequence[int]) -> int:
        """Return the numbers of the model in which chain c keeps widths[c] neurons. O(tensors)."""
        held = sum(tensor.numbers(widths, self.full) for tensor in self.tensors)
        return round(self.total - sum(tensor.size for tensor in self.tensors) + held)

    def line(self, chain: int, widths: Sequence[int]) -> tuple[float, float, float]:
        """Return what the width of one chain, of at least two neurons, costs while the others stay.

        Args:
            chain: The chain c.
            widths: Widths of all.

        Returns:
            (a, b, w): the tensors that it changes hold a + b m numbers where m < n neurons stay, and w where all do.
        """
        tried = list(widths)
        found = []
        for width in (0, 1, self.full[chain]):
            tried[chain] = width
            found.append(sum(tensor.numbers(tried, self.full) for tensor in self._touched[chain]))
        return found[0], found[1] - found[0], found[2]

    @cached_property
    def shares(self) -> bool:
        """Whether several readers share a tensor."""
        return any(len(tensor.readers) > 1 for tensor in self.tensors)

    @cached_property
    def partners(self) -> tuple[frozenset[int], ...]:
        """For each chain, the others whose cost depends on its width."""
        found: list[set[int]] = [set() for _ in self.full]
        for tensor in self.tensors:
            for chain in tensor.chains:
                found[chain] |= tensor.chains - {chain}
        return tuple(map(frozenset, found))

    @cached_property
    def _touched(self) -> tuple[tuple[Tensor, ...], ...]:
        touched: list[list[Tensor]] = [[] for _ in self.full]
        for tensor in self.tensors:
            for chain in tensor.chains:
                touched[chain].append(tensor)
        return tuple(map(tuple, touched))
