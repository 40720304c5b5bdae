"""Where the inputs are: many boxes at once, or one ball or ellipsoid.

A region answers what a linear function is at most on it, rounded up, and where; rows come with the number of the part
of the region that each is meant for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.domains import BoxDomain, Domain, frame, magnitudes, place
from onnx_coreset.core.certificates.rounding import TINY, gamma

__all__ = ["Boxes", "Region", "Repeated", "Round", "region"]


class Region(Protocol):
    """B sets of inputs."""

    @property
    def parts(self) -> int:
        """Number of sets B."""

    def largest(self, rows: Array, owner: Indices) -> Array:
        """Return the largest rows . x over the set that owns each row, rounded up: (R, d), (R,) -> (R,)."""

    def farthest(self, weights: Array) -> Array:
        """Return the largest |w| . |x| over each set for rows w of weights (n, d), rounded up, shape (B, n)."""

    def point(self, rows: Array, owner: Indices) -> Array:
        """Return where rows . x is about largest, shape (R, d)."""


@dataclass(frozen=True)
class Boxes:
    """B boxes.

    Attributes:
        low: Lower ends, shape (B, d).
        high: Upper ends, shape (B, d).
    """

    low: Array
    high: Array

    @property
    def parts(self) -> int:
        """Number of boxes B."""
        return int(self.low.shape[0])

    def largest(self, rows: Array, owner: Indices) -> Array:
        """Return the largest rows . x over the box that owns each row, rounded up. O(R d)."""
        size = rows.shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            ends = np.maximum(rows * self.low[owner], rows * self.high[owner])
            loose = gamma(size + 4) * np.abs(ends).sum(axis=1) + size * TINY
            # A zero weight takes no part, however far the box goes.
            return np.asarray(ends.sum(axis=1) + loose * (1.0 + 1e-9))

    def farthest(self, weights: Array) -> Array:
        """Return the largest |w| . |x| over each box, rounded up. O(B n d)."""
        far = np.maximum(np.abs(self.low), np.abs(self.high))
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(far @ np.abs(weights).T * (1.0 + gamma(weights.shape[1] + 8)) + weights.shape[1] * TINY)

    def point(self, rows: Array, owner: Indices) -> Array:
        """Return the corner where rows . x is largest, shape (R, d)."""
        return np.where(rows > 0, self.high[owner], self.low[owner])


@dataclass(frozen=True)
class Round:
    """One ball or ellipsoid.

    Attributes:
        domain: The set.
    """

    domain: Domain

    @property
    def parts(self) -> int:
        """Number of sets: 1."""
        return 1

    def largest(self, rows: Array, owner: Indices) -> Array:
        """Return the largest rows . x over the set, rounded up. O(R d)."""
        found = frame(self.domain, rows, np.zeros(rows.shape[0]))
        with np.errstate(over="ignore", invalid="ignore"):
            total = found.offset + (found.reach + found.noise)
            return np.asarray(total + gamma(8) * (np.abs(found.offset) + found.reach + found.noise))

    def farthest(self, weights: Array) -> Array:
        """Return the largest |w| . |x| over the set, rounded up, shape (1, n). O(n d)."""
        return magnitudes(self.domain, weights)[None]

    def point(self, rows: Array, owner: Indices) -> Array:
        """Return where rows . x is about largest, shape (R, d)."""
        found = frame(self.domain, rows, np.zeros(rows.shape[0]))
        lengths = np.linalg.norm(found.rows, axis=1, keepdims=True)
        return place(self.domain, found.rows / np.where(lengths > 0, lengths, 1.0))


@dataclass(frozen=True)
class Repeated:
    """A region of one part, as many times as there are rows.

    Attributes:
        part: The region.
        parts: How many times.
    """

    part: Region
    parts: int

    def largest(self, rows: Array, owner: Indices) -> Array:
        """Return the largest rows . x, rounded up, shape (R,)."""
        return self.part.largest(rows, np.zeros_like(owner))

    def farthest(self, weights: Array) -> Array:
        """Return the largest |w| . |x|, rounded up, shape (parts, n)."""
        return self.part.farthest(weights).repeat(self.parts, axis=0)

    def point(self, rows: Array, owner: Indices) -> Array:
        """Return where rows . x is about largest, shape (R, d)."""
        return self.part.point(rows, np.zeros_like(owner))


def region(domain: Domain) -> Region:
    """Return a domain as a region of one part."""
    if isinstance(domain, BoxDomain):
        return Boxes(domain.low[None], domain.high[None])
    return Round(domain)
