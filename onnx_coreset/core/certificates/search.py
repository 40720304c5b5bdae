"""Inputs at which two layers of any features differ much: ascent from samples of the domain, all functions at once.

A step goes along the gradient, taken from chords of the features in each pre-activation: first all the way to the
border, then by shares of the domain that shrink. Every other start stays near where it began. Only the values of the
best points count, and those are computed by `surely`: intervals of the features, rounded down.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.attack import Attack, moved
from onnx_coreset.core.certificates.domains import Domain, place
from onnx_coreset.core.certificates.mixture import Mixture, surely
from onnx_coreset.core.certificates.terms import Term, values

__all__ = ["search"]

Single = NDArray[np.float32]
_FAR = 1e-3
_SAMPLES = 200
_MOST = 2_000_000
_FIRST, _LAST = 0.3, 0.003
_MOST_RESTARTS = 32
_CHEAP = 1e8


@dataclass(frozen=True)
class _Climber:
    """Terms in float32: pre-activations' rows and offsets, and weights of 2 k functions."""

    layer: Mixture
    rows: tuple[tuple[Single, ...], ...]
    offsets: tuple[tuple[Single, ...], ...]
    weights: tuple[Single, ...]

    @classmethod
    def of(cls, layer: Mixture) -> _Climber:
        """Return the climber of a difference; functions are scaled to weights of at most 1."""
        largest = np.full((layer.outputs, 1), 1e-300)
        for term in layer.terms:
            largest = np.maximum(largest, np.max(np.abs(term.weights), axis=1, keepdims=True, initial=0.0))
        with np.errstate(all="ignore"):
            scaled = [term.weights / largest for term in layer.terms]
            return cls(
                layer,
                tuple(tuple(own.rows.astype(np.float32) for own in term.frames) for term in layer.terms),
                tuple(tuple(own.offset.astype(np.float32) for own in term.frames) for term in layer.terms),
                tuple(np.concatenate([own, -own]).astype(np.float32) for own in scaled),
            )

    def look(self, which: Indices, points: Single) -> tuple[Single, Single]:
        """Return values (K, S) and gradients (K, S, d) of functions `which` (K,) at points (K, S, d)."""
        count, starts, size = points.shape
        total, gradient = np.zeros((count, starts), np.float32), np.zeros((count * starts, size), np.float32)
        flat = points.reshape(-1, size)
        for index, term in enumerate(self.layer.terms):
            weights = self.weights[index][which][:, None]
            t = [flat @ p.T + b for p, b in zip(self.rows[index], self.offsets[index], strict=True)]
            here = np.nan_to_num(values(term.part, t).astype(np.float32)).reshape(count, starts, -1)
            total += (here * weights).sum(axis=2)
            for number, slope in enumerate(_slopes(term, t)):
                pulled = (slope.reshape(count, starts, -1) * weights).reshape(count * starts, -1)
                gradient += pulled @ self.rows[index][number]
        largest = np.max(np.abs(gradient), axis=1, keepdims=True, initial=0.0)
        gradient = np.where(np.isfinite(gradient), gradient, 0.0) / np.where(largest > 0, largest, 1.0)
        total = np.where(np.isfinite(total), total, -np.inf)
        return total.astype(np.float32), np.nan_to_num(gradient).astype(np.float32).reshape(points.shape)

    def climb(self, which: Indices, points: Single, steps: int, deadline: float) -> Single:
        """Return the best point of every function's paths, shape (K, d)."""
        at = np.arange(points.shape[0])
        best, top = points[:, 0].copy(), np.full(at.size, -np.inf, dtype=np.float32)
        for step in range(steps + 1):
            reached, gradient = self.look(which, points)
            lead = np.argmax(reached, axis=1)
            better = reached[at, lead] > top
            best[better], top[better] = points[at, lead][better], reached[at, lead][better]
            if step == steps or time.monotonic() > deadline:
                break
            size = 0.0 if 3 * step < steps else _FIRST * (_LAST / _FIRST) ** (1.5 * step / steps - 0.5)
            after = moved(points, gradient, size, self.layer.ball)
            if size == 0:
                after[:, 1::2] = moved(points[:, 1::2], gradient[:, 1::2], _FIRST, self.layer.ball)
            points = after
        return best


def _slopes(term: Term, given: list[Single]) -> list[Single]:
    """Return slopes of chords of the features in each pre-activation, shape (N, n) each."""
    t, found = [own.astype(np.float64) for own in given], []
    for index, own in enumerate(t):
        step = _FAR * (1.0 + np.abs(own))
        after = values(term.part, [*t[:index], own + step, *t[index + 1 :]])
        before = values(term.part, [*t[:index], own - step, *t[index + 1 :]])
        with np.errstate(all="ignore"):
            found.append(np.nan_to_num((after - before) / (2.0 * step)).astype(np.float32))
    return found


def _lengths(points: Array) -> Array:
    """Return norms (..., 1) of points (..., d), 1 where they are 0."""
    lengths = np.linalg.norm(points, axis=-1, keepdims=True)
    return np.asarray(np.where(lengths > 0, lengths, 1.0))


def search(
    layer: Mixture,
    domain: Domain,
    steps: int,
    restarts: int,
    rng: np.random.Generator,
    starts: Array,
    order: Indices,
    deadline: float,
) -> Attack:
    """Return the worst inputs that a search finds.

    Args:
        layer: The difference of two layers, k outputs.
        domain: The domain.
        steps: Steps from every start.
        restarts: Random starts for every output and sign, at least; more where they are cheap.
        rng: For samples and starts.
        starts: Further starts, points of the unit ball or box for both signs of every output, shape (2 k, S, d).
        order: Outputs in the order in which they are climbed for, shape (k,).
        deadline: On the clock of `time.monotonic`: after it no further outputs are climbed for.

    Returns:
        What it found; a few hundred samples and the middle of the domain are always looked at, for every output.
        O(k restarts steps n d).
    """
    outputs, size = layer.outputs, layer.inputs
    drawn = rng.standard_normal((_SAMPLES, size)) if layer.ball else rng.uniform(-1.0, 1.0, (_SAMPLES, size))
    border = drawn[: _SAMPLES // 2]
    drawn[: _SAMPLES // 2] = border / _lengths(border) if layer.ball else np.sign(border)
    worst, value = _best(layer, domain, np.concatenate([np.zeros((1, size)), drawn]))
    climber = _Climber.of(layer)
    neurons = sum(term.weights.shape[1] * len(term.frames) for term in layer.terms)
    work = 2.0 * outputs * steps * max(1, neurons) * max(1, size)
    restarts = int(np.clip(_CHEAP / work, restarts, max(restarts, _MOST_RESTARTS)))
    part = max(1, _MOST // (2 * (restarts + starts.shape[1]) * max(1, neurons + size)))
    for begin in range(0, outputs, part):
        if time.monotonic() > deadline:
            break
        own = order[begin : begin + part]
        both = np.concatenate([own, outputs + own])
        shape = (both.size, restarts, size)
        first = rng.standard_normal(shape) if layer.ball else rng.uniform(-1.0, 1.0, shape)
        first = np.concatenate([starts[both], first], axis=1)
        if layer.ball:
            first = first / _lengths(first)
        with np.errstate(all="ignore"):
            found = climber.climb(both, first.astype(np.float32), steps, deadline)
        inputs, reached = _best(layer, domain, found.astype(np.float64))
        better = reached > value
        worst[better], value[better] = inputs[better], reached[better]
    return Attack(worst, value)


def _best(layer: Mixture, domain: Domain, points: Array) -> tuple[Array, Array]:
    """Return for every output the worst of some points of the unit ball or box, (k, d), and its value (k,)."""
    inputs = place(domain, points)
    reached = surely(layer, domain, inputs)
    chosen = np.argmax(reached, axis=0)
    return inputs[chosen], reached[chosen, np.arange(layer.outputs)]
