"""Sample sizes from theory: how many i.i.d. draws make the sampled layer good to epsilon, every constant explicit.

Setting: sensitivities s_j >= max_i |w_ij| sup |f_j|, total t = sum of s_j, draws i.i.d. with probability s_j / t, and
z_i estimated by the mean over draws of w_i f / pr. Every summand lies in [-t, t].

Mussay et al., ICLR 2020, Theorems 5 and 7 and Corollaries 8 and 9, state a size proportional to (t / epsilon^2)
(d log t + log 1/delta) for all x at once. As stated that cannot hold:

- Outgoing weights times c multiply t, z and the error by c, so the size can depend on t / epsilon only.
  With orthonormal rows, weights c, radius 1 and x one of the rows, the variance of the estimate is c^2 n (1 - 1/n) / m,
  hence m must grow like c^2 n / epsilon^2 = c t / epsilon^2 at the least.
- log t is negative for t < 1, and epsilon in (0, 1) means nothing for outputs without a unit.
- The constant is not given, and the dimension d enters: by a net at least 8 d ln 9 draws, 13,800 for d = 785.

The statements here scale rightly, and the one for all x does not depend on the dimension. A layer narrower than such a
size is no worse for it: these are sizes that suffice for any layer, and a bound on the layer at hand is tighter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from onnx_coreset.core.arrays import Array

__all__ = [
    "UniformTotal",
    "draws_bernstein",
    "draws_hoeffding",
    "draws_uniform",
    "error_uniform",
    "uniform_total",
]


def _check(total: float, epsilon: float, outputs: int, delta: float) -> None:
    if not (total >= 0 and epsilon > 0 and outputs >= 1 and 0 < delta < 1):
        raise ValueError("total must be at least 0, epsilon positive, outputs at least 1, delta between 0 and 1")


def _at_least_one(draws: float) -> int:
    return max(1, int(np.ceil(draws)))


def draws_hoeffding(total: float, epsilon: float, outputs: int, delta: float, one_signed: bool = False) -> int:
    """Return how many draws suffice for one input and all outputs.

    m >= 2 (t / epsilon)^2 ln(2 k / delta); a quarter of it where all summands have one sign.

    Args:
        total: Sum t of the sensitivities, in units of the outputs.
        epsilon: Largest error of any output, same units.
        outputs: Number of outputs k.
        delta: Probability of failing, for an input fixed beforehand.
        one_signed: Whether f >= 0 and all outgoing weights of an output share one sign.

    Returns:
        Number of draws, at least 1.

    Raises:
        ValueError: An argument out of range.

    Source: Hoeffding's inequality for k outputs. Signed weights need no split into classes, as Mussay et al.,
    Corollary 8, asks for: bounded summands of both signs only widen the range from t to 2 t.
    """
    _check(total, epsilon, outputs, delta)
    return _at_least_one((0.5 if one_signed else 2.0) * (total / epsilon) ** 2 * np.log(2 * outputs / delta))


def draws_bernstein(total: float, epsilon: float, outputs: int, delta: float, absolute: float | None = None) -> int:
    """Return how many draws suffice for one input and all outputs, given what the neurons add up to there.

    m >= (2 t A / epsilon^2 + 4 t / (3 epsilon)) ln(2 k / delta).

    Args:
        total: Sum t of the sensitivities.
        epsilon: Largest error of any output.
        outputs: Number of outputs k.
        delta: Probability of failing, for an input fixed beforehand.
        absolute: Largest over outputs of A = sum over neurons of |w_ij f_j(x)|; None takes its bound t.

    Returns:
        Number of draws, at least 1.

    Raises:
        ValueError: An argument out of range.

    Source: Bernstein's inequality; the variance of a summand is at most t A, its distance from the mean at most 2 t.
    """
    _check(total, epsilon, outputs, delta)
    spread = total if absolute is None else absolute
    if not 0 <= spread <= total * (1 + 1e-12):
        raise ValueError("absolute must lie between 0 and total")
    size = 2 * total * spread / epsilon**2 + 4 * total / (3 * epsilon)
    return _at_least_one(size * np.log(2 * outputs / delta))


def error_uniform(total: float, draws: int, outputs: int, delta: float) -> float:
    """Return the error that all inputs of the ball and all outputs stay below, with probability 1 - delta.

    (t / sqrt m) (2 + sqrt(2 ln(2 k / delta))), with t and the probabilities of `uniform_total`.

    Args:
        total: Total t of `uniform_total`.
        draws: Number of i.i.d. draws m.
        outputs: Number of outputs k.
        delta: Probability of failing.

    Returns:
        Bound on max over outputs of sup over the ball of the error, in units of the outputs.

    Raises:
        ValueError: An argument out of range.

    Source: symmetrisation, contraction (Ledoux and Talagrand, Theorem 4.20; Meir and Zhang 2003) and McDiarmid's
    inequality. It takes the place of Mussay et al., Theorem 7, and does not depend on the dimension.
    """
    _check(total, 1.0, outputs, delta)
    if draws < 1:
        raise ValueError("at least one draw is needed")
    return float(total / np.sqrt(draws) * (2.0 + np.sqrt(2.0 * np.log(2 * outputs / delta))))


def draws_uniform(total: float, epsilon: float, outputs: int, delta: float) -> int:
    """Return how many draws suffice for all inputs of the ball and all outputs at once.

    m >= (t / epsilon)^2 (2 + sqrt(2 ln(2 k / delta)))^2: 28 to 48 times (t / epsilon)^2 for 1 to 1000 outputs.

    Args:
        total: Total t of `uniform_total`.
        epsilon: Largest error of any output for any input.
        outputs: Number of outputs k.
        delta: Probability of failing.

    Returns:
        Number of draws, at least 1.

    Raises:
        ValueError: An argument out of range.

    Source: as `error_uniform`, solved for m.
    """
    _check(total, epsilon, outputs, delta)
    return _at_least_one((error_uniform(total, 1, outputs, delta) / epsilon) ** 2)


@dataclass(frozen=True)
class UniformTotal:
    """What the statement for all inputs needs.

    Attributes:
        total: t = L sqrt(r^2 + kappa^2) times the sum of the scores, in units of the outputs.
        probabilities: The draws' probabilities, shape (n,), proportional to the scores
            max_i |w_ij| sqrt(||p_j||^2 + (b_j / kappa)^2).
        kappa: Length of the constant coordinate that carries the biases.
    """

    total: float
    probabilities: Array
    kappa: float


def uniform_total(incoming: Array, bias: Array, outgoing: Array, radius: float, lipschitz: float) -> UniformTotal:
    """Return total and probabilities for the statement that holds for all inputs of a ball around the origin.

    It needs f(0) = 0: otherwise sample f - f(0), whose constant part, sum over neurons of w_ij f(0), is known.

    Args:
        incoming: Incoming weights p, shape (n, d).
        bias: Biases b, shape (n,).
        outgoing: Outgoing weights w, shape (k, n).
        radius: Radius r of the ball, positive.
        lipschitz: Lipschitz constant L of f.

    Returns:
        The total at the best kappa that a one-dimensional search finds; any kappa would be valid.

    Raises:
        ValueError: The radius is not positive, or no neuron has any effect.
    """
    if not radius > 0:
        raise ValueError("the radius must be positive")
    weights = np.abs(outgoing).max(axis=0)
    squares = np.sum(np.square(incoming), axis=1)

    def scores(log_kappa: float) -> Array:
        return np.asarray(weights * np.sqrt(squares + np.square(bias / np.exp(log_kappa))))

    def total(log_kappa: float) -> float:
        return float(lipschitz * np.hypot(radius, np.exp(log_kappa)) * scores(log_kappa).sum())

    middle = np.log(radius)
    found = minimize_scalar(total, bounds=(middle - 14.0, middle + 14.0), method="bounded")
    best = float(found.x)
    score = scores(best)
    if not score.sum() > 0:
        raise ValueError("no neuron has any effect")
    return UniformTotal(total(best), score / score.sum(), float(np.exp(best)))
