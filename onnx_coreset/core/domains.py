"""Sets of inputs of a layer, for which something is claimed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, frozen

__all__ = ["BallDomain", "BoxDomain", "Domain", "EllipsoidDomain"]

SLACK = 1e-5
"""What single precision may add to the norm of a normalised row, in units of the root of d."""


TILT = 4e-6
"""What single precision may leave of the mean of a centred row, where its mean was at most 50 deviations."""

ENTRY = 2.0**-22
"""What the roundings of gain * u + shift in single precision may change an entry by, in units of its two terms."""


@dataclass(frozen=True)
class BallDomain:
    """The Euclidean ball of all x with ||x - centre|| <= radius.

    Attributes:
        centre: Centre, shape (d,).
        radius: Radius.
        proven: Whether the model itself proves that inputs lie in it.
    """

    centre: Array
    radius: float
    proven: bool = False


@dataclass(frozen=True)
class BoxDomain:
    """All x with low <= x <= high.

    Attributes:
        low: Lower ends, shape (d,).
        high: Upper ends, shape (d,), not below the lower ones.
        proven: Whether the model itself proves that inputs lie in it.
    """

    low: Array
    high: Array
    proven: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", frozen(self.low))
        object.__setattr__(self, "high", frozen(self.high))
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not np.all(self.low <= self.high):
            raise ValueError(f"low {self.low.shape} and high {self.high.shape} are no box")


@dataclass(frozen=True)
class EllipsoidDomain:
    """The ellipsoid of all x = gain u + shift with ||u|| <= radius, and sum u = 0 where it is centred.

    Attributes:
        gain: Factors of the entries of u, shape (d,), of either sign.
        shift: What is added: the centre, shape (d,).
        radius: Largest norm of u.
        centred: Whether sum u = 0.
        proven: Whether the model itself proves that inputs lie in it.
    """

    gain: Array
    shift: Array
    radius: float
    centred: bool = False
    proven: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", frozen(self.gain))
        object.__setattr__(self, "shift", frozen(self.shift))
        if self.gain.ndim != 1 or self.gain.shape != self.shift.shape or not self.radius >= 0:
            raise ValueError(f"gain {self.gain.shape}, shift {self.shift.shape} are no ellipsoid")

    @classmethod
    def normalised(cls, gamma: Array, beta: Array, centred: bool, proven: bool = True) -> EllipsoidDomain:
        """Return the ellipsoid that a normalisation of rows, gamma u + beta, gives whatever it reads.

        ||u||^2 <= d; the radius allows sqrt(d) (1 + 1e-5) for single precision. That holds where a row's mean, if it is
        subtracted, is at most 50 of the row's deviations: ONNX Runtime scales the row first, and subtracts the scaled
        mean, so that each entry of u is off by about 2^-24 times that ratio. Two things are true up to rounding alone,
        and no slack in ||u|| holds them: sum u, which is off by as much for each entry (`TILT`); and x itself, which is
        rounded after it was scaled and shifted (`ENTRY`).

        Args:
            gamma: Factors, shape (d,).
            beta: What is added, shape (d,).
            centred: Whether the normalisation subtracts the row's mean.
            proven: Whether it is computed in single precision at least.
        """
        return cls(gamma, beta, float(np.sqrt(gamma.size)) * (1.0 + SLACK), centred, proven)

    @property
    def centre(self) -> Array:
        """Centre, shape (d,)."""
        return self.shift

    @property
    def reach(self) -> float:
        """Radius of a ball around the centre that holds the ellipsoid."""
        return self.radius * float(np.abs(self.gain).max(initial=0.0))

    def inside(self, x: Array) -> NDArray[np.bool_]:
        """Return which rows of x (N, d) lie in it as far as single precision tells, shape (N,). O(N d).

        ||u|| <= radius and, where it is centred, |mean u| <= TILT, up to ENTRY for the rounding of every entry of x.
        Where a gain is 0, x has to be the shift itself.
        """
        moved = np.asarray(x, dtype=np.float64) - self.shift
        flat = self.gain == 0
        scale = np.where(flat, 1.0, self.gain)
        u, off = moved / scale, ENTRY * (np.abs(moved) + np.abs(self.shift)) / np.abs(scale)
        off[:, flat] = 0.0
        u[:, flat] = np.where(moved[:, flat] == 0, 0.0, np.inf)
        held = np.linalg.norm(u, axis=1) <= self.radius + np.linalg.norm(off, axis=1)
        if self.centred and not flat.any():
            held &= np.abs(u.mean(axis=1)) <= TILT + off.mean(axis=1)
        return np.asarray(held)

    def folded(self, incoming: Array, bias: Array) -> tuple[Array, Array]:
        """Return what neurons compute of u: the ellipsoid becomes the ball of `radius` around 0.

        Args:
            incoming: Incoming weights A of x, shape (n, d).
            bias: Biases b, shape (n,).

        Returns:
            Weights (n, d) and biases (n,) with the same pre-activations: A x + b = A' u + b'. Where sum u = 0, rows of
            A' have mean 0, which makes them as short as can be. O(n d).
        """
        weights = incoming * self.gain
        if self.centred:
            weights = weights - weights.mean(axis=1, keepdims=True)
        return weights, bias + incoming @ self.shift


Domain = BallDomain | BoxDomain | EllipsoidDomain
