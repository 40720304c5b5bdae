"""What samples say of a draw that was not seen.

Order statistic: of N independent draws of an error let e be the r-th largest. Then, whatever the law of the error is,

    P( P(error > e) > p )  <=  P( Binomial(N, p) <= r - 1 ),

since e lies below the (1 - p)-quantile only where at most r - 1 draws reach it. Where the right side is at most delta,
"a fresh draw exceeds e with probability at most p" holds with confidence 1 - delta. For the largest, r = 1, that is
p = 1 - delta^(1/N).

Split conformal: where N held-back draws and a fresh one are exchangeable, the fresh one exceeds the r-th largest of
them with probability at most r / (N + 1): the quantile of rank ceil((N + 1)(1 - p)). No confidence is attached to it;
it holds on average over what was held back.

Clopper-Pearson: the shares q for which neither tail of Binomial(N, q) beyond the count is rarer than delta / 2.

Errors that decided which layer they are the errors of are no independent draws: use others.

Source: Clopper and Pearson, Biometrika 1934; Wilks, Ann. Math. Stat. 1941; Papadopoulos et al., ECML 2002. The nested
form of the first, for all laws and not only continuous ones, is shown above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv

from onnx_coreset.core.arrays import Array

__all__ = ["Claim", "clopper_pearson", "conformal_claim", "draws_for", "exceedance", "order_claim", "rank_for"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Claim:
    """A fresh draw errs by more than `exceeds` with probability at most `probability`.

    Attributes:
        probability: Largest probability, between 0 and 1.
        exceeds: The error, in the unit of the errors it was made from.
    """

    probability: float
    exceeds: float


def exceedance(count: int, delta: float, rank: int = 1) -> float:
    """Return the least p for which a fresh draw exceeds the rank-th largest of `count` with probability at most p.

    Args:
        count: Number of independent draws N, at least 1.
        delta: Probability that the statement is wrong, in (0, 1).
        rank: r: 1 for the largest; at most N.

    Raises:
        ValueError: A number is out of its range.
    """
    _check(count, delta)
    if not 1 <= rank <= count:
        raise ValueError("the rank must lie between 1 and the number of draws")
    # The quantile is solved for iteratively: a little above it is on the safe side.
    return min(1.0, float(betaincinv(rank, count - rank + 1, 1.0 - delta)) * (1.0 + _ROUNDING))


def rank_for(count: int, delta: float, probability: float) -> int | None:
    """Return the largest r whose draw a fresh one exceeds with at most that probability, or None where there is none.

    Args:
        count: Number of independent draws N, at least 1.
        delta: Probability that the statement is wrong, in (0, 1).
        probability: p, in (0, 1).

    Raises:
        ValueError: A number is out of its range.
    """
    _check(count, delta)
    _check(count, probability)
    tails = bdtr(np.arange(count, dtype=np.float64), count, probability)
    rank = int(np.searchsorted(tails, delta / (1.0 + _ROUNDING), side="right"))
    return rank or None


def draws_for(probability: float, delta: float) -> int:
    """Return how many independent draws it takes until the largest is exceeded with at most that probability.

    N >= ln(delta) / ln(1 - p): 6,905 for p = delta = .001.

    Args:
        probability: p, in (0, 1).
        delta: Probability that the statement is wrong, in (0, 1).

    Raises:
        ValueError: A number is out of its range.
    """
    _check(1, delta)
    _check(1, probability)
    return max(1, math.ceil(math.log(delta) / math.log1p(-probability)))


def clopper_pearson(hits: int, count: int, delta: float) -> tuple[float, float]:
    """Return an interval that holds the share a count was drawn with, with confidence 1 - delta.

    Args:
        hits: How many of the draws counted.
        count: Number of independent draws N, at least 1.
        delta: Probability that the interval misses the share, in (0, 1).

    Returns:
        Its ends, both in [0, 1].

    Raises:
        ValueError: A number is out of its range.
    """
    _check(count, delta)
    if not 0 <= hits <= count:
        raise ValueError("the hits must lie between 0 and the number of draws")
    low = 0.0 if hits == 0 else float(betaincinv(hits, count - hits + 1, delta / 2.0))
    high = 1.0 if hits == count else float(betaincinv(hits + 1, count - hits, 1.0 - delta / 2.0))
    return low * (1.0 - _ROUNDING), min(1.0, high * (1.0 + _ROUNDING))


def order_claim(errors: Array, delta: float, probability: float | None = None) -> Claim | None:
    """Return what independent draws of an error claim of a fresh one, with confidence 1 - delta.

    Args:
        errors: The draws, shape (N,).
        delta: Probability that the claim is wrong, in (0, 1).
        probability: The probability to claim; None for the least that any error has, which is that of the largest.

    Returns:
        The claim; None where there are too few draws for it. O(N log N).
    """
    if not errors.size:
        return None
    if probability is None:
        return Claim(exceedance(errors.size, delta), float(errors.max()))
    rank = rank_for(errors.size, delta, probability)
    return None if rank is None else Claim(probability, _largest(errors, rank))


def conformal_claim(errors: Array, probability: float | None = None) -> Claim | None:
    """Return what held-back draws of an error claim of a fresh one that is exchangeable with them.

    Args:
        errors: The draws, shape (N,).
        probability: The probability to claim; None for the least that any error has, 1 / (N + 1).

    Returns:
        The claim; None where there are too few draws for it. O(N log N).
    """
    if not errors.size:
        return None
    if probability is None:
        return Claim(1.0 / (errors.size + 1), float(errors.max()))
    rank = math.floor(probability * (errors.size + 1))
    return None if rank < 1 else Claim(probability, _largest(errors, min(rank, errors.size)))


def _largest(errors: Array, rank: int) -> float:
    return float(np.sort(errors)[errors.size - rank])


def _check(count: int, share: float) -> None:
    if count < 1 or not 0.0 < share < 1.0:
        raise ValueError("there must be a draw, and probabilities lie between 0 and 1")
