"""Covariance of continuous piecewise linear features of normal pre-activations.

Such a function is a constant, a slope and a sum of ramps, all of which may differ between neurons:

    f_i(t) = c_i + a_i t + sum over a of b_ia max(t - k_ia, 0).

With t_i of mean m_i, deviation s_i and correlation r_ij, and h_ia = (m_i - k_ia) / s_i, bilinearity and Stein's lemma
(the linear part of a ramp is its mean slope) give

    E f_i = c_i + a_i m_i + sum of b_ia s_i (phi(h) + h Phi(h)),      E f_i' = a_i + sum of b_ia Phi(h_ia),
    Cov(f_i, f_j) / (s_i s_j) = r E f_i' E f_j' + sum over a, b of b_ia b_jb I(h_ia, h_jb; r),
    I(h, k; r) = (1 / 2 pi) * integral from 0 to r of (r - v) exp(-E) / sqrt(1 - v^2) dv,
    E = ((h^2 + k^2) / 2 - h k v) / (1 - v^2).

I is Price's theorem integrated twice. The substitution v = r (1 - y^2) makes the integrand smooth up to |r| = 1 and
leaves r^2 in front: nothing cancels, and no bivariate distribution function is needed. With 16 Gauss-Legendre nodes
in y the error of I is at most 1.2e-7, reached only where |r| is near 1 and h and k differ little but do differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from onnx_coreset.core.activations.algebra import Poly, Unnamed
from onnx_coreset.core.activations.canonical import canonical
from onnx_coreset.core.activations.program import Activation, Program
from onnx_coreset.core.activations.record import Composite, Named
from onnx_coreset.core.arrays import Array

NODES = 16
FURTHEST = 1e9
"""Knots further out, as bounds that stand for infinity have, would leave no digits to what lies between them."""
STRAIGHT = 38.0
"""Beyond so many standard deviations the normal density is 0: a ramp is a straight line, or nothing."""


@dataclass(frozen=True)
class Ramps:
    """A continuous piecewise linear function for each of n neurons.

    Attributes:
        constant: c, shape (n,).
        slope: a, shape (n,).
        knots: k, shape (q, n).
        rises: b, by how much the slope rises at the knots, shape (q, n).
    """

    constant: Array
    slope: Array
    knots: Array
    rises: Array


@dataclass(frozen=True)
class RampCovariance:
    """Moments of piecewise linear features under one normal law.

    Attributes:
        mean: E f, shape (n,).
        tail: What is added to the variances: 0, shape (n,).
        slope: Mean slopes times deviations, shape (n,).
        places: h, shape (q, n).
        rises: b times deviations, shape (q, n).
    """

    mean: Array
    tail: Array
    slope: Array
    places: Array
    rises: Array

    def tile(self, rows: slice, columns: slice, correlation: Array) -> Array:
        """Return covariances of two ranges of neurons, in the shape of their correlations. O(16 q^2) an entry."""
        result = correlation * self.slope[rows, None]
        result *= self.slope[columns]
        bent = _bends(self, rows, columns, correlation)
        if bent is not None:
            np.square(correlation, out=correlation)
            bent *= correlation
            result += bent
        return np.asarray(result)


def ramps(activation: Activation, width: int) -> Ramps | None:
    """Return an activation as a sum of ramps, if that is what its normal form is.

    Args:
        activation: The activation of n neurons.
        width: Number of neurons n.

    Returns:
        The sum, or None for any other activation; decided by the form of its program, never by its values.
    """
    program = _program(activation)
    if program is None:
        return None
    try:
        form = canonical(program)
    except Unnamed:
        return None
    constant, slope = np.zeros(width), np.zeros(width)
    knots: list[Array] = []
    rises: list[Array] = []
    for term in form.terms:
        factors, value = term.factors, np.broadcast_to(term.coefficient, width)
        if not factors:
            constant = constant + value
            continue
        (atom, power), *others = factors
        if others or power != 1:
            return None
        if atom.kind == "x":
            slope = slope + value
        elif atom.kind == "Ramp" and _is_x(atom.argument):
            knots.append(np.broadcast_to(atom.knot, width))
            rises.append(value)
        else:
            return None
    places = np.array(knots).reshape(-1, width)
    if np.any(np.abs(places) > FURTHEST):
        return None
    return Ramps(constant, slope, places, np.array(rises).reshape(-1, width))


def _is_x(form: Poly | None) -> bool:
    sole = None if form is None else form.sole()
    return sole is not None and [(a.kind, p) for a, p in sole[0]] == [("x", 1)] and bool(np.all(sole[1] == 1))


def _program(activation: Activation) -> Program | None:
    if isinstance(activation, Composite):
        return activation.program
    if isinstance(activation, Named):
        return activation.record.spellings(activation.parameters)[0]
    return None


def ramp_covariance(function: Ramps, mean: Array, deviation: Array) -> RampCovariance:
    """Return the moments of piecewise linear features.

    Args:
        function: What the n neurons compute.
        mean: Means of the pre-activations, shape (n,).
        deviation: Their standard deviations, shape (n,); 0 for neurons that do not vary.
    """
    ahead = mean - function.knots
    live = np.broadcast_to(deviation > 0, ahead.shape)
    with np.errstate(over="ignore"):
        places = np.divide(ahead, deviation, out=np.zeros_like(ahead), where=live)
    share = np.where(live, ndtr(places), ahead > 0)
    density = np.exp(-0.5 * np.square(np.clip(places, -STRAIGHT, STRAIGHT))) / np.sqrt(2.0 * np.pi)
    middle = np.where(live, deviation * density + ahead * share, np.maximum(ahead, 0.0))
    return RampCovariance(
        mean=function.constant + function.slope * mean + (function.rises * middle).sum(axis=0),
        tail=np.zeros_like(mean),
        slope=deviation * (function.slope + (function.rises * share).sum(axis=0)),
        places=np.clip(places, -STRAIGHT, STRAIGHT),
        rises=deviation * function.rises,
    )


def _bends(part: RampCovariance, rows: slice, columns: slice, correlation: Array) -> Array | None:
    """Return the sum over a, b of b_ia b_jb I(h_ia, h_jb; r) / r^2, or None where there is no ramp."""
    pairs = [
        (a, b)
        for a in range(part.places.shape[0])
        for b in range(part.places.shape[0])
        if part.rises[a, rows].any() and part.rises[b, columns].any()
    ]
    if not pairs:
        return None
    half = 0.5 * np.square(part.places)
    sums = [half[a, rows, None] + half[b, columns] for a, b in pairs]
    products = [part.places[a, rows, None] * part.places[b, columns] for a, b in pairs]
    totals = [np.zeros_like(correlation) for _ in pairs]
    place, sharp, root, work = (np.empty_like(correlation) for _ in range(4))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    for y, weight in zip((nodes + 1.0) / 2.0, weights / 2.0, strict=True):
        np.multiply(correlation, 1.0 - y * y, out=place)
        np.square(place, out=sharp)
        np.subtract(1.0, sharp, out=sharp)
        np.divide(1.0, sharp, out=sharp)
        np.sqrt(sharp, out=root)
        root *= weight * y**3 / np.pi
        for total, both, product in zip(totals, sums, products, strict=True):
            np.multiply(product, place, out=work)
            work -= both
            work *= sharp
            np.exp(work, out=work)
            work *= root
            total += work
    for (a, b), total in zip(pairs, totals, strict=True):
        total *= part.rises[a, rows, None]
        total *= part.rises[b, columns]
    return np.asarray(np.sum(totals, axis=0) if len(totals) > 1 else totals[0])
