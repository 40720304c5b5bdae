"""Sets of inputs that a bound is stated for, and the change of coordinates that makes each a unit ball or box.

    ball       x = centre + radius y,           ||y|| <= 1
    box        x = middle + half * y,           |y_l| <= 1
    ellipsoid  x = gain * u + shift, ||u|| <= radius (and sum u = 0, where u is centred):  u = radius y,  ||y|| <= 1

A pre-activation t = p . x + b becomes t = q . y + t0 with q = radius p, half * p or radius gain * p, and t0 its value
at the middle. Where u is centred, q . y = (q - mean(q)) . y, and every y of the ball may be taken: its centred part
lies in the ball too. The ellipsoid is what a LayerNorm or RMSNorm in front proves: its normalised vector has norm at
most sqrt(d), and sum 0 for a LayerNorm. What rounding does to q and t0 is returned as the largest error of t, with what
single precision leaves of sum u and makes of each entry of an ellipsoid's x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.rounding import TINY, UNIT, gamma, norms
from onnx_coreset.core.domains import ENTRY, TILT, BallDomain, BoxDomain, Domain, EllipsoidDomain

__all__ = [
    "BallDomain",
    "BoxDomain",
    "Domain",
    "EllipsoidDomain",
    "Frame",
    "contains",
    "frame",
    "magnitudes",
    "place",
    "sizes",
]

_SHRINKS = (2.0**-45, 2.0**-40, 1e-10, 1e-7, 1e-4, 1e-2, 1.0)


@dataclass(frozen=True)
class Frame:
    """Pre-activations t = rows . y + offset in coordinates in which the domain is the unit ball or the unit box.

    Attributes:
        ball: Whether y lies in the unit ball; otherwise in [-1, 1]^d.
        rows: Shape (n, d).
        offset: Shape (n,).
        reach: Largest |rows . y| over the domain, rounded up, shape (n,).
        noise: Largest error of t from the rounding of rows and offset, shape (n,).
    """

    ball: bool
    rows: Array
    offset: Array
    reach: Array
    noise: Array


def _axes(domain: Domain) -> tuple[Array, Array]:
    """Return middle and scale, (d,) each, with x = middle + scale * y for y in the unit ball or box."""
    if isinstance(domain, BallDomain):
        return domain.centre, np.full(domain.centre.shape, float(domain.radius))
    if isinstance(domain, EllipsoidDomain):
        return domain.shift, domain.gain * domain.radius
    middle = 0.5 * domain.low + 0.5 * domain.high
    half = np.maximum(domain.high - middle, middle - domain.low)
    # Upwards, so that the box of the coordinates holds the one that is meant; a fixed coordinate stays fixed.
    return middle, np.where(domain.low == domain.high, 0.0, np.nextafter(half, np.inf))


def frame(domain: Domain, incoming: Array, bias: Array) -> Frame:
    """Return the pre-activations of neurons in the coordinates of a domain.

    Args:
        domain: The domain, of d inputs.
        incoming: Incoming weights p, shape (n, d).
        bias: Biases, shape (n,).

    Returns:
        The frame. O(n d).

    Raises:
        ValueError: The domain has another number of inputs, or its radius is negative.
    """
    middle, scale = _axes(domain)
    size = incoming.shape[1]
    if middle.shape != (size,):
        raise ValueError(f"a domain of {middle.shape[0]} inputs does not fit {size}")
    ball = not isinstance(domain, BoxDomain)
    if isinstance(domain, BallDomain) and not domain.radius >= 0:
        raise ValueError("the radius must not be negative")
    with np.errstate(over="ignore", invalid="ignore"):
        rows = incoming * scale
        moved = np.abs(incoming) @ np.abs(middle)
        noise = np.where(moved > 0, gamma(size + 4) * (moved + np.abs(bias)), 0.0)
        noise = (noise + 4.0 * UNIT * norms(rows, ball)) * (1.0 + 1e-10)
        if isinstance(domain, EllipsoidDomain):
            noise += ENTRY * (norms(rows, ball) + moved) * (1.0 + 1e-10)
        if isinstance(domain, EllipsoidDomain) and domain.centred:
            noise += TILT * (np.abs((incoming * domain.gain).sum(axis=1)) + gamma(size + 2) * norms(rows, False))
            # The mean is off by gamma times the mean magnitude, which counts sqrt(d) times in the norm.
            noise += 4.0 * gamma(size + 6) * norms(rows, ball)
            rows = rows - rows.mean(axis=1, keepdims=True)
        noise = np.where(norms(incoming, ball) * np.max(np.abs(scale), initial=0.0) + moved > 0, noise + TINY, 0.0)
        offset = incoming @ middle + bias
        reach = norms(rows, ball)
    return Frame(ball, rows, offset, reach, noise)


def place(domain: Domain, points: Array) -> Array:
    """Return inputs inside the domain for points of its coordinates.

    Args:
        domain: The domain, of d inputs.
        points: Points y, shape (N, d), of the unit ball or box up to rounding.

    Returns:
        Inputs, shape (N, d), each inside the domain as `contains` finds; drawn towards the middle by as little as that
        takes. O(N d).
    """
    middle, scale = _axes(domain)
    if isinstance(domain, EllipsoidDomain) and domain.centred:
        points = points - points.mean(axis=1, keepdims=True)
    if isinstance(domain, BoxDomain):
        return np.asarray(np.clip(middle + scale * points, domain.low, domain.high))
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    points = points / np.maximum(lengths, 1.0)
    placed = np.repeat(middle[None], points.shape[0], axis=0)
    left = np.ones(points.shape[0], dtype=bool)
    for shrink in _SHRINKS:
        tried = middle + scale * (points[left] * (1.0 - shrink))
        inside = contains(domain, tried)
        placed[np.flatnonzero(left)[inside]] = tried[inside]
        left[np.flatnonzero(left)[inside]] = False
        if not left.any():
            break
    return placed


def contains(domain: Domain, x: Array) -> NDArray[np.bool_]:
    """Return whether inputs lie in the domain, surely: those closer to its border than rounding count as outside.

    Args:
        domain: The domain, of d inputs.
        x: Inputs, shape (N, d).

    Returns:
        Shape (N,). Of an ellipsoid's points every coordinate may be off by the rounding of gain * u + shift.
    """
    if isinstance(domain, BoxDomain):
        return np.asarray(np.all((x >= domain.low) & (x <= domain.high), axis=1))
    if isinstance(domain, BallDomain):
        away = x - domain.centre
        return np.asarray(norms(away, True) * (1.0 + 4.0 * UNIT) <= domain.radius)
    live = domain.gain != 0
    slack = 4.0 * UNIT * (np.abs(x) + np.abs(domain.shift))
    away = np.where(live, x - domain.shift, 0.0)
    u = np.divide(away, domain.gain, out=np.zeros(x.shape), where=live)
    off = np.divide(slack, np.abs(domain.gain), out=np.zeros(x.shape), where=live)
    inside = norms(u, True) <= domain.radius + norms(off, True)
    if domain.centred:
        # Where a gain is 0, u is whatever makes the sum 0, if its norm allows.
        free = np.count_nonzero(~live)
        total = np.abs(u.sum(axis=1)) - off.sum(axis=1) - gamma(x.shape[1]) * np.abs(u).sum(axis=1)
        total = np.maximum(total, 0.0)
        inside &= (total == 0) if free == 0 else np.hypot(norms(u, True), total / np.sqrt(free)) <= domain.radius
    return np.asarray(inside & np.all(live | (np.abs(x - domain.shift) <= slack), axis=1))


def sizes(domain: Domain, x: Array) -> Array:
    """Return what the rounding of inputs x (N, d) is counted by, (N, d): every entry of an ellipsoid's x is a sum."""
    if isinstance(domain, EllipsoidDomain):
        return np.abs(x) + np.abs(x - domain.shift) + np.abs(domain.shift)
    return np.abs(x)


def magnitudes(domain: Domain, incoming: Array) -> Array:
    """Return the largest |p| . |x| over the domain for rows p of `incoming` (n, d), rounded up, shape (n,). O(n d)."""
    middle, scale = _axes(domain)
    with np.errstate(over="ignore", invalid="ignore"):
        if isinstance(domain, BoxDomain):
            farthest = np.maximum(np.abs(domain.low), np.abs(domain.high))
            return norms(incoming * farthest, False) * (1.0 + 4.0 * UNIT)
        near = norms(incoming * middle, False) + norms(incoming * scale, True)
    return np.asarray(near * (1.0 + 8.0 * UNIT))
