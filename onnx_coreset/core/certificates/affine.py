"""The affine-policy bound: policies and multipliers from descent, evaluated so that rounding cannot make it false.

For any policies Z with columns in the l1 ball, a form is at most row_0 + sum_a |B_a . (y, 1)|, and for any positive
d, h and f

    sum over signs and y  <=  (l / 2) (sum d + h + sum f),

where l is the largest eigenvalue of the symmetric matrix of the bilinear form, scaled by (d, h; f)^(-1/2): with s,
the constant 1 and y it is v^T M v / 2 <= (l / 2) v^T diag(d, h, f) v. For the ball all f are equal, and their sum is
one of them. Z, d, h and f may come from anywhere. What counts is only evaluated here, in full dimension and float64:

- columns of Z are scaled down until their l1 norms are surely at most 1;
- B = B0 - Z N is off by at most gamma times |B0| + |Z| |N|, which the l1 norms bound by the sum of all terms;
- multipliers are taken to be what the scales used stand for, 1 / scale^2, so that their own rounding is none;
- the eigenvalue is `level`'s.

Neurons and functions are first scaled by powers of two, which is exact, so that nothing over- or underflows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.certificates.eigen import level
from onnx_coreset.core.certificates.forms import Form
from onnx_coreset.core.certificates.policy import Policy, descend
from onnx_coreset.core.certificates.relaxed import Signs
from onnx_coreset.core.certificates.rounding import TINY, gamma, norms

__all__ = ["Scaled", "affine", "scaled"]

_FLOORS = (1e-7, 1e-5, 1e-3, 1e-2)
_NEAR = 0.02
_COLUMN_FLOOR = 1e-3
_STARTS = 8


@dataclass(frozen=True)
class Scaled:
    """A form in which every neuron and every function is of size about 1.

    Attributes:
        form: The form, whose constants and slacks are 0.
        rows: Rows of the pre-activations, shape (n, d).
        size: Largest |rows . y| + |offset| over the domain, rounded up, shape (n,).
        short: The same rows in fewer coordinates, shape (n, q): products of rows are kept up to rounding.
        basis: Orthonormal columns with rows = short basis^T, shape (d, q), or None where they are the same.
        ball: Whether the domain is the unit ball.
        unit: What functions were divided by, powers of two, shape (K,).
    """

    form: Form
    rows: Array
    size: Array
    short: Array
    basis: Array | None
    ball: bool
    unit: Array


def _power(values: Array) -> Array:
    """Return powers of two near positive numbers, 1 for others."""
    safe = np.where((values > 0) & np.isfinite(values), values, 1.0)
    return np.asarray(np.exp2(np.clip(np.round(np.log2(safe)), -1000, 1000)))


def scaled(form: Form, rows: Array, reach: Array, ball: bool) -> Scaled:
    """Return a form with neurons and functions scaled to size 1.

    Args:
        form: The form.
        rows: Rows of the pre-activations, shape (n, d).
        reach: Their norms over the domain, rounded up, shape (n,).
        ball: Whether the domain is the unit ball.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        own = _power(reach + np.abs(form.offset))
        small, offset = rows / own[:, None], form.offset / own
        lin, weights = form.lin * own, form.weights * own
        unit = _power(np.max(np.abs(lin) + np.abs(weights), axis=1, initial=0.0))
        lin, weights = lin / unit[:, None], weights / unit[:, None]
    none = np.zeros(unit.size)
    short, basis = small, None
    if ball and rows.shape[1] > rows.shape[0] and np.isfinite(small).all():
        basis, upper = np.linalg.qr(small.T)
        short = upper.T
    size = norms(small, ball) + np.abs(offset)
    return Scaled(Form(none, lin, weights, offset, none), small, size, short, basis, ball, unit)


def affine(
    ready: Scaled, which: Indices, steps: int, rank: int, rng: np.random.Generator, until: float = float("inf")
) -> tuple[Array, Array]:
    """Return what some functions of a form are at most, without its constants and slacks, and where they may be so.

    Args:
        ready: The form, scaled.
        which: Indices of the functions, shape (K,).
        steps: Steps of descent.
        rank: Dimension of the relaxation.
        rng: For where descent starts, and for rounding its points.
        until: When descent stops, on the clock of `time.monotonic`.

    Returns:
        Bounds, shape (K,), and points y of the domain, shape (K, S, d), to start an attack from.
    """
    sides, policy = descend(ready.form, ready.short, ready.ball, steps, rank, rng, which, until)
    values = np.array([_evaluate(ready, index, sides, policy, place) for place, index in enumerate(which)])
    drawn = rng.standard_normal((rank, _STARTS))
    # The constant's own direction counts 1: the sign of the first coordinate is known.
    drawn[0] = np.abs(drawn[0])
    points = policy.points.transpose(0, 2, 1).astype(np.float64)
    guesses = drawn.T @ points
    if not ready.ball:
        guesses = np.sign(guesses)
    elif ready.basis is not None:
        guesses = guesses @ ready.basis.T
    lengths = np.linalg.norm(guesses, axis=2, keepdims=True) if ready.ball else np.ones((1, 1, 1))
    return values * ready.unit[which], guesses / np.where(lengths > 0, lengths, 1.0)


def _evaluate(ready: Scaled, index: int, sides: Signs, policy: Policy, place: int) -> float:
    """Return the bound of one function, rigorously, in units of its own."""
    form, rows = ready.form, ready.rows
    some, less = sides.up[place] > 0, sides.down[place] > 0
    up, down = sides.up[place][some], sides.down[place][less]
    plus, minus = sides.positive[place][some], sides.negative[place][less]
    slopes = policy.slopes[place][less][:, np.concatenate([[True], some])].astype(np.float64)
    if not np.isfinite(slopes).all():
        slopes = np.zeros(slopes.shape)
    total = np.abs(slopes).sum(axis=1, keepdims=True)
    slopes *= (1.0 - 1e-12 - gamma(8 * (up.size + 8))) / np.maximum(1.0, total)
    below = down[:, None] * rows[minus]
    head = form.lin[index] @ rows - slopes[:, 0] @ below
    body = up[:, None] * rows[plus] - slopes[:, 1:].T @ below
    fixed = down * form.offset[minus]
    last = up * form.offset[plus] - slopes[:, 1:].T @ fixed
    magnitude = float((np.abs(form.lin[index]) + np.abs(form.weights[index])) @ ready.size)
    loose = gamma(2 * rows.shape[0] + 40) * magnitude + rows.size * TINY
    whole = np.concatenate([head[None], body])
    constant = float(loose - slopes[:, 0] @ fixed)
    value = float("inf")
    for floor in _FLOORS:
        row_scale, column_scale = _scales(policy, place, some, ready.ball, floor)
        corner = np.zeros((1 + up.size, 1 + up.size))
        corner[0, 1:] = corner[1:, 0] = last * row_scale[0] * row_scale[1:]
        budget = float(np.sum(1.0 / np.square(row_scale)) + np.sum(1.0 / np.square(column_scale)))
        top = level(corner, whole * row_scale[:, None] * column_scale)
        value = min(value, constant + 0.5 * top * budget * (1.0 + gamma(rows.shape[1] + up.size + 20)))
        # Single precision leaves small multipliers too small: then others, a little too large, do better.
        if value <= policy.values[place] + _NEAR * abs(policy.values[place]):
            break
    return value


def _scales(policy: Policy, place: int, some: NDArray[np.bool_], ball: bool, floor: float) -> tuple[Array, Array]:
    """Return (1 + a,) and (1,) or (d,) positive scales, one over the roots of the multipliers."""
    rows = policy.rows[place][np.concatenate([[True], some])]
    columns = policy.columns[place]
    total = float(rows.sum() + columns.sum())
    if not (np.isfinite(total) and total > 0):
        rows, columns, total = np.ones(rows.shape), np.ones(columns.shape), 2.0
    rows = np.maximum(rows, floor * total)
    least = 0.0 if ball else _COLUMN_FLOOR * float(columns.max())
    columns = np.maximum(columns, max(least, floor * total / columns.size))
    return 1.0 / np.sqrt(rows), 1.0 / np.sqrt(columns)
