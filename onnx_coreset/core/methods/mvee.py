"""Importance sampling by convex geometry: Löwner ellipsoids, Carathéodory points, peeling.

A neuron matters where few others can stand for it. Take one vector y_j for each neuron: its incoming weights and bias
times its largest outgoing weight. Points that stand for all of them in every direction, up to a factor f, are those on
which the ends of the Löwner ellipsoid's axes rest (`core/ellipsoid.py`); call them layer 1, take them off, find layer 2
of what is left, and so on. For a neuron of layer i and any x each of the layers 1, ..., i holds a q with
|y_q.x| >= |y_j.x| / f, so that

    |y_j.x| <= (f / i) sum_q |y_q.x|        for every x: f / i bounds the sensitivity of neuron j.

Source: Tukan, Mualem and Maalouf, "Pruning neural networks via coresets and convex geometry: towards no assumptions",
NeurIPS 2022. A reconstruction: the text was not at hand and no code is public. Its abstract names the importance of a
neuron for the output of the following layer, the Löwner ellipsoid and Carathéodory's theorem. How they go together
follows the published code of a sibling work of its first author ("New coresets for projective clustering and
applications", 2022): ellipsoid, its axes' ends, Carathéodory, peeling, sensitivity f / i. Neither says the rest:

- Points and their mirror images are taken together. The statement above is about |y_j.x|, which is twice the even part
  of a ReLU; about the output of a ReLU layer it proves nothing.
- The outgoing weight goes into the point, as a positive factor goes through a ReLU. For other activations that is a
  heuristic.
- A layer of points holds up to d^2 of them, so peeling says nothing unless n is far above d^2, which layers of networks
  are not: the first layer would be everything and the choice uniform. Points are therefore projected first, onto the
  r <= sqrt(n) / 2 directions in which they are largest for inputs of the ball: a heuristic too.
- The factor f = r sqrt(1 + tolerance) is this package's, by the symmetric argument; it cancels in the probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.ellipsoid import representatives
from onnx_coreset.core.layer import Coreset, HiddenLayer, Neurons, restrict
from onnx_coreset.core.methods.base import Context, check_width, dense, unit_maxima
from onnx_coreset.core.methods.sensitivity import inclusion, systematic

__all__ = ["Mvee", "peeled", "sampled"]

_MOST_LAYERS = 64


@dataclass(frozen=True)
class Mvee:
    """Sampling without replacement by sensitivities that peeling gives; those above the threshold stay for certain.

    Attributes:
        dimensions: Number r of dimensions after the projection, at least 1; None takes sqrt(n) / 2. It is never more
            than the points have.
        tolerance: Of the ellipsoids.
        radius: Radius of the ball of inputs; None takes the context's.
    """

    dimensions: int | None = None
    tolerance: float = 0.01
    radius: float | None = None
    name: str = "mvee"
    requires: frozenset[str] = frozenset({"neurons"})

    def sensitivities(self, layer: HiddenLayer, context: Context) -> Array:
        """Return f / i for the neurons of layer i, on the projection; 0 for neurons that nothing reads.

        Several readouts: the largest over them, each in units of its own largest.

        Args:
            layer: The hidden layer, n dense neurons of d inputs.
            context: Law and radius.

        Returns:
            Shape (n,). O(n d min(n, d)) for the projection; then for each of at most 64 layers an ellipsoid of n points
            in r dimensions, O(n r) a step, and O(r^6) at worst for the points that its axes rest on.

        Raises:
            ValueError: The features are not dense neurons.
        """
        radius = context.radius if self.radius is None else self.radius
        domain = context.law.domain
        centre = None if domain is None else domain.centre
        most = max(1, math.isqrt(layer.width) // 2) if self.dimensions is None else self.dimensions
        parts = []
        for features, readout in zip(dense(layer), layer.readouts, strict=True):
            read = np.abs(readout.outgoing).max(axis=(0, 2), initial=0.0)
            points = _projected(read[:, None] * _rows(features, radius, centre), most)
            factor = points.shape[1] * math.sqrt(1.0 + self.tolerance)
            parts.append(np.where(read > 0, factor / peeled(points, self.tolerance), 0.0))
        return unit_maxima(parts)

    def select(self, layer: HiddenLayer, width: int, context: Context, rng: np.random.Generator) -> Coreset:
        """Return a coreset of exactly `width` neurons.

        Neuron j stays with probability min(1, t s_j), t such that `width` are expected, by systematic sampling, and its
        outgoing weights are divided by that probability: every output is unbiased for every input. Where no more than
        `width` neurons are read at all, they stay as they are and nothing is random.

        Args:
            layer: The hidden layer, n dense neurons.
            width: Number of neurons to keep.
            context: Law and radius.
            rng: Source of the draw.

        Returns:
            Coreset of `width` neurons; constants unchanged.

        Raises:
            ValueError: The features are not dense neurons, or `width` is not between 1 and n.
        """
        check_width(layer, width)
        return sampled(layer, self.sensitivities(layer, context), width, rng, self.name)


def sampled(layer: HiddenLayer, score: Array, width: int, rng: np.random.Generator, name: str) -> Coreset:
    """Return a sample of `width` neurons without replacement, with probabilities proportional to a score, at most 1.

    Args:
        layer: The hidden layer, n neurons.
        score: Shape (n,), not negative; positive for every neuron that is to count.
        width: Number of neurons to keep.
        rng: Source of the draw.
        name: Name of the method, to record.

    Returns:
        Coreset of `width` neurons, outgoing weights divided by the probability of staying: unbiased. Where no more than
        `width` scores are positive, those neurons stay as they are.
    """
    if np.count_nonzero(score) <= width:
        return restrict(layer, np.sort(np.argsort(-score, kind="stable")[:width]), name)
    include = inclusion(score, width)
    kept = systematic(include, rng)
    outgoing = tuple(r.outgoing[:, kept] / include[kept][None, :, None] for r in layer.readouts)
    return Coreset(kept, outgoing, tuple(r.constant for r in layer.readouts), name)


def peeled(points: Array, tolerance: float = 0.01, most: int = _MOST_LAYERS) -> Indices:
    """Return the number of the layer that each point is peeled off with, 1 for the first.

    Args:
        points: Points y_j, shape (n, r).
        tolerance: Of the ellipsoids.
        most: Number of layers after which it stops.

    Returns:
        Shape (n,). The points that are left when no more than 2 r are, or only zeros, or after `most` layers, share the
        last number.
    """
    count, size = points.shape
    number = np.ones(count, dtype=np.intp)
    left = np.arange(count)
    for found in range(1, most + 1):
        number[left] = found
        layer = representatives(points[left], tolerance) if left.size > 2 * size else np.zeros(0, dtype=np.intp)
        if layer.size == 0:
            break
        left = np.delete(left, layer)
    return number


def _rows(features: Neurons, radius: float, centre: Array | None) -> Array:
    """Return rows (n, d + 1) whose products with (u, 1) are pre-activations, u of mean square 1 on the sphere."""
    middle = features.bias if centre is None else features.bias + features.incoming @ centre
    return np.column_stack([features.incoming * (radius / math.sqrt(max(features.inputs, 1))), middle])


def _projected(points: Array, most: int) -> Array:
    """Return coordinates (n, r) of points on the r <= `most` directions in which they are largest."""
    largest = float(np.max(np.abs(points), initial=0.0))
    if largest == 0.0:
        return np.zeros((points.shape[0], 1))
    left, values, _ = np.linalg.svd(points / largest, full_matrices=False)
    rank = int(np.count_nonzero(values > values[0] * max(points.shape) * np.finfo(np.float64).eps))
    return np.asarray(left[:, : min(rank, most)] * values[: min(rank, most)])
