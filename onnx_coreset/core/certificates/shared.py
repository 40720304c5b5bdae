"""One eigenvalue for all outputs: the cheapest bound that knows that neurons cannot all be large at once.

Around the middle of the domain a neuron moves by at most L_j |q_j . y| with L_j its steepest chord, so that for any
positive d_j, by Cauchy and Schwarz,

    D_i(y) - D_i(0) <= sum_j |c_ij| L_j |q_j . y| <= ( sum_j (c_ij L_j)^2 / d_j )^(1/2) | diag(d)^(1/2) Q y |,

and the last factor, at most the spectral norm of diag(d)^(1/2) Q over the unit ball, is the same for all outputs i. For
the box Q y = (Q F^(-1/2)) (F^(1/2) y), whose last factor is at most the root of sum f. With d_j the mean of |c_ij| L_j
over i, divided by the norm of q_j, terms of all neurons count about equally. Sums of ranges and of lines grow with n,
this one with about the root of n as long as there are as many inputs: for thousands of neurons it is several times
below them.

Source: the l2 bound of all outputs at once, with weights that are fixed and not sought.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.eigen import level
from onnx_coreset.core.certificates.forms import Form
from onnx_coreset.core.certificates.rounding import TINY, gamma

__all__ = ["Common", "common", "shared"]

_FLOOR = 1e-3


@dataclass(frozen=True)
class Common:
    """What all outputs share.

    Attributes:
        scale: Roots of the multipliers d, positive, shape (n,).
        norm: Largest length of diag(scale) Q y over the domain, rounded up.
    """

    scale: Array
    norm: float


def common(form: Form, rows: Array, ball: bool) -> Common:
    """Return the multipliers that suit some functions, and the norm that they give.

    Args:
        form: A form around the middle of the domain, of any of the functions.
        rows: Rows of the pre-activations, shape (n, d).
        ball: Whether the domain is the unit ball, otherwise the unit box.

    Returns:
        What holds for every function of these rows. O(n d min(n, d)).
    """
    with np.errstate(all="ignore"):
        mean = (np.abs(form.lin) + np.abs(form.weights)).mean(axis=0)
        lengths = np.sqrt(np.square(rows).sum(axis=1))
        live = (mean > 0) & (lengths > 0) & np.isfinite(mean) & np.isfinite(lengths)
        scale = np.where(live, np.sqrt(mean / np.where(live, lengths, 1.0)), 0.0)
        scale = np.maximum(scale, _FLOOR * float(scale.max(initial=0.0)))
        scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
        return Common(scale, _norm(rows * scale[:, None], ball))


def shared(form: Form, base: Common) -> Array:
    """Return upper bounds of a form over the unit ball or box, shape (K,), slack included.

    Args:
        form: The form around the middle of the domain: weights are not negative, offsets are 0.
        base: What all its functions share.

    Returns:
        The bounds, infinite where they cannot be shown. O(K n).
    """
    with np.errstate(all="ignore"):
        weights = np.abs(form.lin) + np.abs(form.weights)
        size = weights.shape[1]
        # Squares that vanish add up to less than this; the norm may be large.
        far = np.sqrt(np.square(weights / base.scale).sum(axis=1)) + np.sqrt(size + 1.0) * 1e-150
        far = far * base.norm * (1.0 + gamma(size + 20)) + TINY
        found = form.constant + form.slack + far
        found = found + gamma(8) * (np.abs(form.constant) + far)
    return np.where(np.isnan(found), np.inf, found)


def _norm(rows: Array, ball: bool) -> float:
    """Return the largest length of rows . y over the domain, rounded up; entries may be off by gamma_2."""
    factor = 1.0
    if not ball:
        columns = _lengths(rows)
        rows = rows / np.sqrt(columns)
        factor = float(np.sqrt(columns.sum())) * (1.0 + gamma(columns.size + 8))
    if rows.shape[0] > rows.shape[1]:
        rows = rows.T
    return level(np.zeros((rows.shape[0], rows.shape[0])), rows) * factor * (1.0 + gamma(8))


def _lengths(rows: Array) -> Array:
    """Return positive multipliers of the coordinates of a box, shape (d,): the lengths of columns, none far below."""
    lengths = np.sqrt(np.square(rows).sum(axis=0))
    largest = float(lengths.max(initial=0.0))
    return np.maximum(lengths, _FLOOR * largest) if largest > 0 else np.ones(lengths.shape)
