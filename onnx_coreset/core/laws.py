"""The law of a layer's inputs, as a value.

    ball      ||x - centre|| <= radius: directions uniform, radii a mixture of .1, .3 and 1 of the radius
    mixture   x = s g with g ~ N(0, I) and s drawn from a few scales: broad and zero-mean
    normal    x = mean + root g, or one of several such components
    empirical rows of a table, drawn without replacement as long as there are enough
    normed    what a normalisation in front of the layer gives: see `normed.py`

Broad zero-mean laws are meant: a uniform box makes most gates deterministic, so that neurons look linear and a refit
merges what differs on real inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.domains import BallDomain, EllipsoidDomain

__all__ = [
    "SCALES",
    "Ball",
    "BallDomain",
    "EllipsoidDomain",
    "Empirical",
    "Gaussian",
    "Law",
    "Mixture",
    "Normal",
]

SCALES = (0.1, 0.3, 1.0)
"""Scales of the broad mixture: as wide as trained layers meet, narrow enough to see biases."""


@dataclass(frozen=True)
class Gaussian:
    """One component x = mean + scale root g, g ~ N(0, I), of a mixture.

    Attributes:
        weight: Its probability; the components of a mixture sum to 1.
        mean: Mean, shape (d,), or None for 0.
        root: Square root of the covariance over scale^2, shape (d, q), or None for the identity. Components that share
            one root, the same array, share their correlations.
        scale: What the root is multiplied by.
    """

    weight: float
    mean: Array | None = None
    root: Array | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "root"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, frozen(value))


class Law(Protocol):
    """How the inputs of a layer are distributed."""

    @property
    def name(self) -> str:
        """Name for a report."""

    @property
    def domain(self) -> BallDomain | EllipsoidDomain | None:
        """A set that holds every sample, or None where none is known."""

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Return `count` inputs, shape (count, d)."""

    def components(self) -> tuple[Gaussian, ...] | None:
        """Return the normal distributions it is a mixture of, at least nearly, or None where it is none."""


@dataclass(frozen=True)
class Ball:
    """Inputs in a ball around the origin; they never leave it.

    Attributes:
        radius: Radius of the ball.
        dimension: Number of inputs d.
        scales: Radii of the mixture, in units of the radius, each at most 1.
        origin: Where the radius comes from, for a report; "" for nothing to say.
    """

    radius: float
    dimension: int
    scales: tuple[float, ...] = SCALES
    origin: str = ""

    @property
    def name(self) -> str:
        """Name for a report."""
        return f"ball of radius {self.radius:.4g}" + (f" ({self.origin})" if self.origin else "")

    @property
    def domain(self) -> BallDomain:
        """The ball itself."""
        return BallDomain(frozen(np.zeros(self.dimension)), self.radius)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Return `count` inputs, shape (count, d), each of norm at most the radius."""
        x = rng.standard_normal((count, self.dimension))
        norms = np.linalg.norm(x, axis=1)
        scales = np.asarray(self.scales)[rng.integers(len(self.scales), size=count)]
        # Inwards by more than half a unit of float32, so that no rounding, to float32 included, puts a sample outside.
        return np.asarray(x * (self.radius * (1 - 1e-7) * scales / np.where(norms > 0, norms, 1.0))[:, None])

    def components(self) -> None:
        """None: spheres are not normal; their projections nearly are where d is large, but that is no identity."""
        return None


@dataclass(frozen=True)
class Mixture:
    """Isotropic normal inputs of several scales.

    Attributes:
        dimension: Number of inputs d.
        scales: Standard deviations of the components, equally likely.
    """

    dimension: int
    scales: tuple[float, ...] = SCALES

    @property
    def name(self) -> str:
        """Name for a report."""
        return "synthetic"

    @property
    def domain(self) -> None:
        """None: normal inputs lie in no bounded set."""
        return None

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Return `count` inputs, shape (count, d)."""
        scales = np.asarray(self.scales)[rng.integers(len(self.scales), size=count)]
        return np.asarray(rng.standard_normal((count, self.dimension)) * scales[:, None])

    def components(self) -> tuple[Gaussian, ...]:
        """Return one isotropic component a scale."""
        return tuple(Gaussian(1.0 / len(self.scales), scale=scale) for scale in self.scales)


@dataclass(frozen=True)
class Normal:
    """Normal inputs with given means and covariances: one component, or a mixture of several.

    Attributes:
        dimension: Number of inputs d.
        parts: The components; their weights sum to 1.
        name: Where they come from, for a report.
    """

    dimension: int
    parts: tuple[Gaussian, ...]
    name: str = "normal"

    def __post_init__(self) -> None:
        if not self.parts or abs(sum(part.weight for part in self.parts) - 1.0) > 1e-9:
            raise ValueError("the weights of the components must sum to 1")
        for part in self.parts:
            if part.mean is not None and part.mean.shape != (self.dimension,):
                raise ValueError(f"mean {part.mean.shape} does not fit {self.dimension} inputs")
            if part.root is not None and part.root.shape[:1] != (self.dimension,):
                raise ValueError(f"root {part.root.shape} does not fit {self.dimension} inputs")

    @property
    def domain(self) -> None:
        """None: normal inputs lie in no bounded set."""
        return None

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Return `count` inputs, shape (count, d), in random order of the components. O(count d q)."""
        weights = np.array([part.weight for part in self.parts])
        which = rng.choice(weights.size, size=count, p=weights / weights.sum())
        x = np.empty((count, self.dimension))
        for index, part in enumerate(self.parts):
            rows = np.flatnonzero(which == index)
            size = self.dimension if part.root is None else part.root.shape[1]
            drawn = part.scale * rng.standard_normal((rows.size, size))
            mixed = drawn if part.root is None else drawn @ part.root.T
            x[rows] = mixed if part.mean is None else mixed + part.mean
        return x

    def components(self) -> tuple[Gaussian, ...]:
        """Return the components."""
        return self.parts


@dataclass(frozen=True)
class Empirical:
    """Inputs that were collected.

    Attributes:
        rows: The inputs, shape (N, d).
        name: Where they came from, for a report.
    """

    rows: Array
    name: str = "empirical"

    @property
    def domain(self) -> None:
        """None: more inputs could lie anywhere."""
        return None

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Return `count` rows, shape (count, d): distinct ones as long as there are enough."""
        have = self.rows.shape[0]
        return np.asarray(self.rows[rng.choice(have, size=count, replace=count > have)], dtype=np.float64)

    def components(self) -> None:
        """None: the rows are the law."""
        return None
