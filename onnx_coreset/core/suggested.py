"""What the first layer of a model suggests of the inputs that it was trained on.

Correlations: a trained first layer points where its inputs vary together, so the correlations of the columns of its
weights W resemble those of the inputs. Place: neurons are trained to have their kinks or their steepest places among
the inputs, so a point where W x + b = 0 is a place among them; where a standardisation was folded into the layer, that
is how far off the origin it is. Firing: most neurons are off, or on, on many inputs at once, so that inputs vary more
than by chance along the direction u that drives all of them together. Inputs are then drawn as

    x = c + s k (M g + .7 h u),        k = max(1, 3 rms c),

with c that centre, M the root of that covariance, g ~ N(0, I), h ~ N(0, 1) and s one of a few scales. A rescaling
between the model's input and its first layer is undone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from onnx_coreset.core.arrays import Array, frozen

__all__ = ["Suggested", "centre", "common", "correlation_root", "suggested"]

_MANY = 64
_RIDGE = 1e-5
_WHITE = 0.1
_WIDE = 3.0
_COMMON = 0.7


@dataclass(frozen=True)
class Suggested:
    """A broad law of one input.

    Attributes:
        centre: Where inputs lie, shape (d,).
        root: Root of their covariance at scale 1, shape (d, q).
        scale: What the scales of a mixture are multiplied by.
    """

    centre: Array
    root: Array
    scale: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", frozen(self.centre))
        object.__setattr__(self, "root", frozen(self.root))

    @property
    def size(self) -> int:
        """Number of inputs d."""
        return int(self.centre.size)


def suggested(weights: Array, bias: Array, factor: float = 1.0, shift: float = 0.0) -> Suggested | None:
    """Return what first-layer weights suggest, or None where they say nothing.

    Args:
        weights: Incoming weights of all layers that read the input first, shape (n, d).
        bias: Their biases, shape (n,).
        factor: The layers read factor * x + shift, where x is the model's input; not 0.
        shift: The same number for every entry.

    Returns:
        The law of x. O(n d min(n, d) + d^3).
    """
    root = correlation_root(weights)
    if root is None or not np.isfinite(bias).all():
        return None
    middle = centre(weights, bias)
    scale = max(1.0, _WIDE * float(np.sqrt(np.mean(middle**2))))
    root = np.concatenate([root, _COMMON * common(weights, root)[:, None]], axis=1)
    found = Suggested((middle - shift) / factor, root, scale / abs(factor))
    return found if np.isfinite(found.centre).all() and np.isfinite(found.scale) else None


def centre(weights: Array, bias: Array) -> Array:
    """Return the shortest point c with W c + b about 0, shape (d,).

    The least squares are damped by 1e-5 of (a bound on) the largest eigenvalue of W W^T: directions in which W hardly
    looks do not carry c away.

    Args:
        weights: W, shape (n, d).
        bias: b, shape (n,).
    """
    count, size = weights.shape
    gram = weights @ weights.T if count <= size else weights.T @ weights
    largest = float(np.abs(gram).sum(axis=1).max())
    if largest == 0.0:
        return np.zeros(size)
    gram[np.diag_indices_from(gram)] += _RIDGE * largest
    factor = cho_factor(gram)
    found = weights.T @ cho_solve(factor, bias) if count <= size else cho_solve(factor, weights.T @ bias)
    return np.asarray(-found)


def common(weights: Array, root: Array) -> Array:
    """Return the direction u that drives all neurons together, by about a standard deviation each, shape (d,).

    Among u = M v, that with the least |A v - 1|^2 + |v|^2, where the rows of A are those of W M at length one: what no
    direction does to many neurons alike stays small.

    Args:
        weights: W, shape (n, d).
        root: M, shape (d, d).
    """
    rows = weights @ root
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    gram = rows.T @ rows
    gram[np.diag_indices_from(gram)] += 1.0
    return np.asarray(root @ cho_solve(cho_factor(gram), rows.sum(axis=0)))


def correlation_root(weights: Array) -> Array | None:
    """Return a square root of the covariance that first-layer weights suggest for their inputs.

    A trained first layer points where its inputs vary together: the correlation of the weights' columns resembles that
    of the inputs. With R the correlation matrix of the columns, and each column's liveness
    l_j = min(1, (v_j - v0) / median)^(1/2), where v_j is its variance and v0 the variance of a column that training
    left alone, S = (diag(l) R diag(l))^(1/2): the weights exaggerate correlations, and the root tempers them. The
    covariance is a multiple of .9 S + .1 tr(S) / d I, so that no direction is still; the multiple is the one that gives
    the pre-activations as much power as white inputs do.

    Args:
        weights: Incoming weights of the first layer, shape (n, d).

    Returns:
        A symmetric matrix M of shape (d, d); g M has that covariance for rows g ~ N(0, I). None where the weights say
        nothing: fewer than two neurons, no variation, or values that are not finite. O(n d^2 + d^3).
    """
    count, size = weights.shape
    if count < 2 or size < 2 or not np.isfinite(weights).all():
        return None
    centred = weights - weights.mean(axis=0)
    variance = np.mean(centred**2, axis=0)
    # The usual initialisation is uniform with variance 1 / (3 d); with weight decay even dead columns have less. Among
    # few columns, the one that varies least is not for that reason dead.
    dead = min(1.0 / (3.0 * size), float(np.quantile(variance, 0.02))) if size >= _MANY else 0.0
    excess = np.maximum(variance - dead, 0.0)
    middle = float(np.median(excess))
    if middle <= 0:
        return None
    live = np.sqrt(np.minimum(1.0, excess / middle))
    scaled = centred * (live / np.sqrt(np.where(variance > 0, count * variance, 1.0)))
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    tempered = np.sqrt(np.maximum(values, 0.0))
    covariance = (1.0 - _WHITE) * tempered + _WHITE * tempered.mean()
    root = (vectors * np.sqrt(covariance)) @ vectors.T
    power = float(np.linalg.norm(weights @ root))
    return None if power == 0 else np.asarray(root * (np.linalg.norm(weights) / power))
