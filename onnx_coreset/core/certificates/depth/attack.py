"""Inputs at which both networks differ much: what no bound of their difference may be below.

Ascent on +-(y_i' - y_i) over the unit ball or box that the domain is, from random points, corners and the middle: as
within one layer, steps get shorter, and the best point of every path counts. The value of a point is then an interval
of both networks there, evaluated so that rounding is inside, and the end closer to 0 is what counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.depth.networks import FeedForward, Pair
from onnx_coreset.core.certificates.depth.ranges import affine_range
from onnx_coreset.core.certificates.domains import BoxDomain, Domain, EllipsoidDomain, place
from onnx_coreset.core.certificates.rounding import UNIT

__all__ = ["Found", "attack", "enclosed", "starts", "surely"]

_STEP = 1e-4
_FIRST = 1.0
_LAST = 0.01
_SAMPLES = 2000
_MOST = 4_000_000
_PRODUCTS = 200_000_000
_FEW_STEPS, _LEAST_STEPS = 16, 4


@dataclass(frozen=True)
class Found:
    """The worst inputs found.

    Attributes:
        worst: One input of the domain for each output, shape (k, d).
        value: |y_i' - y_i| at it, rounded down, shape (k,).
    """

    worst: Array
    value: Array


def enclosed(network: FeedForward, low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds (N, k) of a network's outputs for x between low and high, (N, d) each, by interval arithmetic."""
    for layer in network.hidden:
        low, high = affine_range(layer.incoming, layer.bias, low, high)
        low, high = layer.activation.interval(low, high)
    return affine_range(network.outgoing, network.constant, low, high)


def surely(pair: Pair, domain: Domain, x: Array) -> Array:
    """Return |y' - y| rounded down, shape (N, k), for inputs (N, d) of a domain.

    Args:
        pair: The networks.
        domain: The domain; of an ellipsoid every x may be off by the rounding of gain * u + shift.
        x: Inputs.
    """
    loose = np.zeros(x.shape)
    if isinstance(domain, EllipsoidDomain):
        loose = 8.0 * UNIT * (np.abs(x) + np.abs(x - domain.shift) + np.abs(domain.shift))
    before, after = (enclosed(net, x - loose, x + loose) for net in (pair.before, pair.after))
    with np.errstate(all="ignore"):
        least = np.maximum(after[0] - before[1], before[0] - after[1])
        least = least - 4.0 * UNIT * np.abs(least)
    return np.maximum(np.where(np.isfinite(least), least, 0.0), 0.0)


def _gradient(network: FeedForward, x: Array, weights: Array) -> Array:
    """Return the gradients (N, d) of weights . y by the inputs (N, d), for weights (N, k)."""
    slopes = []
    h = x
    for layer in network.hidden:
        t = h @ layer.incoming.T + layer.bias
        step = _STEP * (1.0 + np.abs(t))
        slopes.append((layer.activation(t + step) - layer.activation(t - step)) / (2.0 * step))
        h = layer.activation(t)
    behind = weights @ network.outgoing
    for layer, slope in zip(reversed(network.hidden), reversed(slopes), strict=True):
        behind = (behind * slope) @ layer.incoming
    return np.asarray(behind)


def _scale(domain: Domain, size: int) -> Array:
    """Return the factor of each coordinate of the unit ball or box, shape (d,), up to rounding."""
    if isinstance(domain, BoxDomain):
        return 0.5 * domain.high - 0.5 * domain.low
    if isinstance(domain, EllipsoidDomain):
        return np.asarray(domain.gain * domain.radius)
    return np.full(size, float(domain.radius))


def attack(
    pair: Pair,
    domain: Domain,
    rng: np.random.Generator,
    steps: int = 40,
    restarts: int = 8,
    seconds: float = float("inf"),
) -> Found:
    """Return the inputs of a domain at which a search found the networks to differ most.

    Args:
        pair: The networks.
        domain: Where the inputs are.
        rng: For the starts.
        steps: Steps from every start.
        restarts: Starts for every output and sign, the best of many random points among them.
        seconds: After which no further step is made.

    Returns:
        One input for each output. O(steps restarts k) runs of both networks and their gradients.
    """
    until = time.monotonic() + seconds
    size, outputs = pair.before.inputs, pair.before.outputs
    ball = not isinstance(domain, BoxDomain)
    points = starts(size, ball, rng, pair.before.size + pair.after.size)
    with np.errstate(all="ignore"):
        x = place(domain, points)
        apart = np.nan_to_num(pair.after(x) - pair.before(x))
    sides = np.concatenate([np.eye(outputs), -np.eye(outputs)])
    order = np.argsort(-(apart @ sides.T), axis=0)
    scale = _scale(domain, size)
    each = _each(pair, domain, points[order[0]], sides)
    restarts, steps = _fitting(restarts, steps, (until - time.monotonic()) / each)
    sign, y = np.repeat(sides, restarts, axis=0), points[order[:restarts].T.ravel()]
    best, reached = y.copy(), np.full(len(y), -np.inf)
    for step in range(steps):
        with np.errstate(all="ignore"):
            x = place(domain, y)
            value = np.nan_to_num(((pair.after(x) - pair.before(x)) * sign).sum(axis=1))
            better = value > reached
            best[better], reached[better] = y[better], value[better]
            if time.monotonic() > until:
                break
            slope = (_gradient(pair.after, x, sign) - _gradient(pair.before, x, sign)) * scale
            length = _FIRST * (_LAST / _FIRST) ** (step / steps)
            y = _moved(y, np.nan_to_num(slope), length, ball)
    inputs = place(domain, np.concatenate([best, np.zeros((1, size))]))
    values = surely(pair, domain, inputs)
    chosen = np.argmax(values, axis=0)
    return Found(inputs[chosen], values[chosen, np.arange(outputs)])


def _each(pair: Pair, domain: Domain, y: Array, sign: Array) -> float:
    """Return how many seconds a step from one start for every output and sign takes."""
    begun = time.monotonic()
    x = place(domain, y)
    with np.errstate(all="ignore"):
        for net in (pair.before, pair.after):
            net(x)
            _gradient(net, x, sign)
    return max(time.monotonic() - begun, 1e-6)


def _fitting(restarts: int, steps: int, rounds: float) -> tuple[int, int]:
    """Return how many starts and steps fit into as many rounds of one step: fewer starts first, then fewer steps."""
    if rounds >= restarts * steps:
        return restarts, steps
    restarts = int(np.clip(rounds / min(steps, _FEW_STEPS), 1, restarts))
    return restarts, int(np.clip(rounds / restarts, _LEAST_STEPS, steps))


def starts(size: int, ball: bool, rng: np.random.Generator, cost: int) -> Array:
    """Return random points of the unit ball or box, corners among them, shape (N, d).

    Args:
        size: Number of inputs d.
        ball: Whether the ball is meant.
        rng: Where they come from.
        cost: Weights that each point meets: of large networks there are fewer.
    """
    count = max(16, min(_SAMPLES, _MOST // size, _PRODUCTS // max(cost, 1)))
    drawn = rng.standard_normal((count, size))
    if ball:
        return np.asarray(drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-300))
    inner = rng.uniform(-1.0, 1.0, (count, size))
    return np.concatenate([np.sign(drawn), inner])


def _moved(y: Array, slope: Array, step: float, ball: bool) -> Array:
    """Return points moved by a step along the slope, inside the unit ball or box."""
    if not ball:
        return np.clip(y + step * np.sign(slope), -1.0, 1.0)
    lengths = np.linalg.norm(slope, axis=1, keepdims=True)
    moved = y + step * slope / np.where(lengths > 0, lengths, 1.0)
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1.0))
