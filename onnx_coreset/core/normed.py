"""The law of rows behind a normalisation, x = gamma u + beta, read off its parameters.

A normalisation of rows leaves u on the sphere ||u||^2 = d v / (v + eps), nearly d, and with sum u = 0 where it
subtracts the mean. Nothing else is known of u, so every direction is equally likely: u has mean 0 and covariance I, or
(I - 1 1^T / d) d / (d - 1) in the plane sum u = 0. A BatchNormalization gives what the model learned from mean beta and
deviation |gamma| in every column; u is normal there, and bounded by nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, frozen
from onnx_coreset.core.domains import EllipsoidDomain
from onnx_coreset.core.laws import Gaussian

__all__ = ["Normed"]

_NEARLY_NORMAL = 64


@dataclass(frozen=True)
class Normed:
    """Inputs gamma u + beta, u of every direction alike.

    Attributes:
        gamma: Factors, shape (d,).
        beta: What is added, shape (d,).
        centred: Whether sum u = 0.
        bounded: Whether ||u|| is the root of d; otherwise u is normal.
        proven: Whether the model itself proves that bound.
        name: Where it comes from, for a report.
    """

    gamma: Array
    beta: Array
    centred: bool
    bounded: bool = True
    proven: bool = True
    name: str = "norm in front"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", frozen(self.gamma))
        object.__setattr__(self, "beta", frozen(self.beta))
        if self.gamma.ndim != 1 or self.gamma.shape != self.beta.shape:
            raise ValueError(f"gamma {self.gamma.shape} does not fit beta {self.beta.shape}")

    @property
    def dimension(self) -> int:
        """Number of inputs d."""
        return int(self.gamma.size)

    @property
    def domain(self) -> EllipsoidDomain | None:
        """The ellipsoid in which every input lies, or None where u is not bounded."""
        if not self.bounded:
            return None
        return EllipsoidDomain.normalised(self.gamma, self.beta, self.centred, self.proven)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Return `count` inputs, shape (count, d); none leaves the domain, if there is one."""
        u = rng.standard_normal((count, self.dimension))
        if self.centred:
            u -= u.mean(axis=1, keepdims=True)
        if self.bounded:
            norms = np.linalg.norm(u, axis=1, keepdims=True)
            u *= np.sqrt(self.dimension) / np.where(norms > 0, norms, 1.0)
        return np.asarray(self.gamma * u + self.beta)

    def components(self) -> tuple[Gaussian, ...] | None:
        """Return the normal distribution of the same mean and covariance.

        Projections of a sphere in d dimensions are normal up to about 1 / d: None where d is below 64 and u on one.
        O(d^2).
        """
        size = self.dimension
        if self.bounded and size < _NEARLY_NORMAL:
            return None
        root = np.diag(self.gamma)
        if not self.centred:
            return (Gaussian(1.0, self.beta, root),)
        return (Gaussian(1.0, self.beta, root - self.gamma[:, None] / size, float(np.sqrt(size / max(size - 1, 1)))),)
