"""Mean and covariance of dense features under mixtures of normal laws, without samples.

For components of probability p_k, with means a_k and covariances G_k of the features,

    mean a = sum of p_k a_k,      G = sum of p_k (G_k + (a_k - a)(a_k - a)^T).

The pre-activations of a component have mean A m + b and correlations F F^T with F the rows of A root, each of norm 1.
Components that differ in mean and scale alone share F. G is made strip by strip, each from its diagonal on and then
mirrored, so that besides G and F only a few small tiles are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.gram.hermite import series
from onnx_coreset.core.gram.moments import Moments
from onnx_coreset.core.gram.ramps import ramp_covariance, ramps
from onnx_coreset.core.laws import Gaussian
from onnx_coreset.core.layer import Features, Neurons

ROWS = 64
COLUMNS = 512
"""Size of a tile: a few of them stay in a processor's cache."""


class Covariance(Protocol):
    """Moments of n features under one normal law."""

    @property
    def mean(self) -> Array:
        """Means, shape (n,)."""

    @property
    def tail(self) -> Array:
        """What is added to the variances, shape (n,)."""

    def tile(self, rows: slice, columns: slice, correlation: Array) -> Array:
        """Return covariances of two ranges of neurons, given their correlations, which it may overwrite."""


def closed(features: Features, components: tuple[Gaussian, ...]) -> Moments | None:
    """Return the moments of features in closed form.

    Args:
        features: Features of n neurons.
        components: The normal distributions that the inputs are a mixture of.

    Returns:
        The moments, or None: the features are no dense neurons, their activation has neither kinks alone nor a short
        Hermite series, or something is not finite. Covariances are off by at most 1.2e-7 of the deviations times the
        slopes for piecewise linear activations, `hermite.AIM` to `hermite.TAIL` of the variances for others; the matrix
        is symmetric, and positive semidefinite up to n times that. O(n^2 q) with q columns of the roots for each root,
        and O(16 r^2 n^2) or O(K n^2) for each component, r being the number of kinks; memory n^2 + O(n q).
    """
    if not isinstance(features, Neurons) or not components:
        return None
    with np.errstate(all="ignore"):
        factors, means, deviations = _preactivations(features, components)
        parts = _covariances(features, components, means, deviations)
        if parts is None:
            return None
        return _mixed([part.weight for part in components], factors, parts)


def _preactivations(
    features: Neurons, components: tuple[Gaussian, ...]
) -> tuple[list[Array], list[Array], list[Array]]:
    """Return, for each component, the factor F (n, q) of the correlations, means (n,) and deviations (n,)."""
    known: dict[object, tuple[Array, Array]] = {}
    factors, means, deviations = [], [], []
    for part in components:
        key = None if part.root is None else (part.root.__array_interface__["data"], part.root.shape, part.root.strides)
        if key not in known:
            rows = features.incoming if part.root is None else features.incoming @ part.root
            norms = np.linalg.norm(rows, axis=1)
            known[key] = rows / np.where(norms > 0, norms, 1.0)[:, None], norms
        factor, norms = known[key]
        factors.append(factor)
        means.append(features.bias if part.mean is None else features.bias + features.incoming @ part.mean)
        deviations.append(abs(part.scale) * norms)
    return factors, means, deviations


def _covariances(
    features: Neurons, components: tuple[Gaussian, ...], means: Sequence[Array], deviations: Sequence[Array]
) -> Sequence[Covariance] | None:
    function = ramps(features.activation, features.width)
    if function is not None:
        return [ramp_covariance(function, m, s) for m, s in zip(means, deviations, strict=True)]
    return series(features.activation, means, deviations, [part.weight for part in components])


def _mixed(weights: Sequence[float], factors: Sequence[Array], parts: Sequence[Covariance]) -> Moments | None:
    """Return the moments of a mixture, or None where they are not finite."""
    width = parts[0].mean.size
    # From the first mean on: features that are the same everywhere do not vary.
    mean = parts[0].mean + sum((w * (p.mean - parts[0].mean) for w, p in zip(weights, parts, strict=True)), np.zeros(1))
    shifts = np.array([np.sqrt(w) * (p.mean - mean) for w, p in zip(weights, parts, strict=True)])
    if len(parts) == 1:
        shifts = shifts[:0]
    tail = sum((w * p.tail for w, p in zip(weights, parts, strict=True)), np.zeros(width))
    gram = np.empty((width, width))
    for start in range(0, width, ROWS):
        rows = slice(start, min(start + ROWS, width))
        strip = shifts[:, rows].T @ shifts[:, start:]
        for factor in {id(f): f for f in factors}.values():
            correlation = np.clip(factor[rows] @ factor[start:].T, -1.0, 1.0)
            same = [(w, p) for w, p, f in zip(weights, parts, factors, strict=True) if f is factor]
            _add(strip, rows, correlation, same)
        square = strip[:, : rows.stop - start]
        square[:] = (square + square.T) / 2
        square[np.diag_indices_from(square)] += tail[rows]
        if not np.isfinite(strip).all():
            return None
        gram[rows, start:] = strip
        gram[rows.stop :, rows] = strip[:, rows.stop - start :].T
    return Moments(mean, gram) if np.isfinite(mean).all() else None


def _add(strip: Array, rows: slice, correlation: Array, parts: Sequence[tuple[float, Covariance]]) -> None:
    """Add the covariances of components that share correlations to a strip that begins at the diagonal."""
    for first in range(0, strip.shape[1], COLUMNS):
        last = min(first + COLUMNS, strip.shape[1])
        columns = slice(rows.start + first, rows.start + last)
        for weight, part in parts:
            tile = part.tile(rows, columns, np.array(correlation[:, first:last]))
            tile *= weight
            strip[:, first:last] += tile
