"""Widths for many chains at once: error is spent where it saves most parameters, or the other way round.

The error at the model's outputs is modelled by chains that err independently,

    loss(m) = sum over chains c of phi(g_c, e_c(m_c)),      phi(g, e) = g^2 (e^2 + 4 max(e - 1/2, 0)^2),

with e_c(m) the relative local error of chain c at m neurons and g_c its gain: how much of that arrives at the outputs.
The second term is a penalty: where a layer errs by half its spread and more, the linear model is too kind to it. It is
convex, nothing below 1/2, and doubles the loss of a layer whose error is all of its spread.

For a price p of a parameter, loss + p numbers(m) is minimised chain by chain: numbers() is linear in each width, so
each step is an argmin over one curve, and the sum never rises. Bisection finds the price; what is left is then spent
width by width, on whatever gains most for what it costs, and where there are few chains, widths are exchanged in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.arrays import Array, Indices
from onnx_coreset.core.tally import Tally

_STEPS = 24
_SWEEPS = 12
_FILLS = 128
_FINEST = 2.0**-80
_WORST = 1e12
_FEW = 12
_ROUNDS = 3
_WINDOW = 6


@dataclass(frozen=True)
class Curve:
    """What a chain may become.

    Attributes:
        widths: Widths that it may have, increasing, shape (w,); the last is n where nothing forbids that.
        losses: phi of each, shape (w,), finite.
    """

    widths: Indices
    losses: Array


def phi(gain: float, errors: Array) -> Array:
    """Return the loss of relative local errors, of any shape; errors that are not finite count as very large."""
    known = np.nan_to_num(errors, nan=_WORST, posinf=_WORST)
    known = np.minimum(known, _WORST)
    return np.asarray(gain**2 * (known**2 + 4.0 * np.maximum(known - 0.5, 0.0) ** 2))


def predicted(curves: Sequence[Curve], widths: Sequence[int]) -> float:
    """Return the root of the loss at some widths, each one of its curve's."""
    plan = [int(np.searchsorted(curve.widths, width)) for curve, width in zip(curves, widths, strict=True)]
    return float(np.sqrt(_loss(curves, plan)))


def within_parameters(curves: Sequence[Curve], tally: Tally, most: int) -> tuple[int, ...]:
    """Return widths of small loss with which the model holds at most `most` numbers.

    Args:
        curves: What each chain may become.
        tally: What widths cost.
        most: The budget.

    Returns:
        One width a chain; the least ones where the budget cannot be met. O(24 sweeps of argmins), deterministic.
    """

    def fits(plan: list[int]) -> bool:
        return tally.count(_widths(curves, plan)) <= most

    def value(plan: list[int]) -> tuple[float, float]:
        return _loss(curves, plan), tally.count(_widths(curves, plan))

    best = _bisected(curves, tally, fits, value, cheap_first=True)
    if best is None:
        return _widths(curves, [0] * len(curves))

    def better(losses: Array, costs: Array) -> int | None:
        return _least(losses, costs <= most)

    return _widths(curves, _exchanged(curves, tally, _spent(curves, tally, best, most), value, better))


def within_error(curves: Sequence[Curve], tally: Tally, most: float) -> tuple[int, ...]:
    """Return widths of few parameters whose predicted error at the outputs is at most `most`.

    Args:
        curves: What each chain may become.
        tally: What widths cost.
        most: Bound on the root of the loss.

    Returns:
        One width a chain; the widest ones where the bound cannot be met.
    """

    def fits(plan: list[int]) -> bool:
        return _loss(curves, plan) <= most**2

    def value(plan: list[int]) -> tuple[float, float]:
        return tally.count(_widths(curves, plan)), _loss(curves, plan)

    best = _bisected(curves, tally, fits, value, cheap_first=False)
    if best is None:
        return _widths(curves, [len(curve.widths) - 1 for curve in curves])

    def better(losses: Array, costs: Array) -> int | None:
        return _least(costs, losses <= most**2)

    return _widths(curves, _exchanged(curves, tally, _saved(curves, tally, best, most**2), value, better))


def _widths(curves: Sequence[Curve], plan: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(curve.widths[i]) for curve, i in zip(curves, plan, strict=True))


def _loss(curves: Sequence[Curve], plan: Sequence[int]) -> float:
    return float(sum(curve.losses[i] for curve, i in zip(curves, plan, strict=True)))


def _bisected(
    curves: Sequence[Curve],
    tally: Tally,
    fits: Callable[[list[int]], bool],
    value: Callable[[list[int]], tuple[float, float]],
    cheap_first: bool,
) -> list[int] | None:
    """Return the plan of least value among those that fit, over prices found by bisection; None where none fits."""
    largest = max((float(curve.losses.max(initial=0.0)) for curve in curves), default=0.0) or 1.0
    ends = [[len(curve.widths) - 1 for curve in curves], [0] * len(curves)]
    found = [plan for plan in ends if fits(plan)]
    # Chains that share a weight only pay when cut together: the descent from the narrow end sees that.
    starts = ends if tally.shares else ends[1:]
    low, high = float(np.log(largest * _FINEST)), float(np.log(2.0 * largest))
    for _ in range(_STEPS):
        price = float(np.exp((low + high) / 2))
        plans = [_descended(curves, tally, price, list(start)) for start in starts]
        fitting = [plan for plan in plans if fits(plan)]
        found += fitting
        # A budget of parameters is met by a high enough price, a bound on the error by a low enough one.
        if bool(fitting) == cheap_first:
            high = (low + high) / 2
        else:
            low = (low + high) / 2
    return min(found, key=value) if found else None


def _descended(curves: Sequence[Curve], tally: Tally, price: float, plan: list[int]) -> list[int]:
    """Return a plan at which no single chain lowers loss + price * numbers, reached from `plan`."""
    widths = list(_widths(curves, plan))
    waiting = set(range(len(curves)))
    for _ in range(_SWEEPS):
        if not waiting:
            break
        turn, waiting = sorted(waiting), set()
        for chain in turn:
            curve = curves[chain]
            index = int(np.argmin(curve.losses + price * _cost(curve, tally, chain, widths)))
            if index != plan[chain]:
                plan[chain], widths[chain] = index, int(curve.widths[index])
                waiting |= tally.partners[chain]
    return plan


def _cost(curve: Curve, tally: Tally, chain: int, widths: Sequence[int]) -> Array:
    """Return the numbers that the model holds at each width of one chain, up to a constant, shape (w,)."""
    start, slope, uncut = tally.line(chain, widths)
    cost = start + slope * np.asarray(curve.widths, dtype=np.float64)
    if curve.widths[-1] == tally.full[chain]:
        cost[-1] = uncut
    return cost


def _spent(curves: Sequence[Curve], tally: Tally, plan: list[int], most: int) -> list[int]:
    """Widen chains while the budget lasts, each time where the loss falls most for a parameter."""
    for _ in range(_FILLS):
        widths = _widths(curves, plan)
        left = most - tally.count(widths)
        best: tuple[float, int, int] | None = None
        for chain, curve in enumerate(curves):
            cost = _cost(curve, tally, chain, widths)
            more = cost - cost[plan[chain]]
            less = curve.losses[plan[chain]] - curve.losses
            rate = np.where((more <= left) & (less > 0), less / np.maximum(more, 1e-9), 0.0)
            index = int(np.argmax(rate))
            if rate[index] > 0 and (best is None or rate[index] > best[0]):
                best = float(rate[index]), chain, index
        if best is None:
            break
        plan[best[1]] = best[2]
    return plan


def _saved(curves: Sequence[Curve], tally: Tally, plan: list[int], most: float) -> list[int]:
    """Narrow chains while the loss stays within its bound, each time where most parameters go for it."""
    for _ in range(_FILLS):
        widths = _widths(curves, plan)
        left = most - _loss(curves, plan)
        best: tuple[float, int, int] | None = None
        for chain, curve in enumerate(curves):
            cost = _cost(curve, tally, chain, widths)
            more = curve.losses - curve.losses[plan[chain]]
            less = cost[plan[chain]] - cost
            rate = np.where((more <= left) & (less > 0), less / np.maximum(more, 1e-300), 0.0)
            index = int(np.argmax(rate))
            if rate[index] > 0 and (best is None or rate[index] > best[0]):
                best = float(rate[index]), chain, index
        if best is None:
            break
        plan[best[1]] = best[2]
    return plan


def _least(values: Array, allowed: NDArray[np.bool_]) -> int | None:
    """Return the index of the least value among those allowed, or None where none is."""
    return int(np.argmin(np.where(allowed, values, np.inf))) if allowed.any() else None


def _exchanged(
    curves: Sequence[Curve],
    tally: Tally,
    plan: list[int],
    value: Callable[[list[int]], tuple[float, float]],
    better: Callable[[Array, Array], int | None],
) -> list[int]:
    """Move one chain by a few widths, and another to what is then best for it, while that lowers the value.

    A price alone finds corners of the convex hull; with few chains, what lies between two of them is worth finding.
    """
    if not 2 <= len(curves) <= _FEW:
        return plan
    best = value(plan)
    for _ in range(_ROUNDS):
        before = list(plan)
        for one, other in permutations(range(len(curves)), 2):
            for index in range(plan[one] - _WINDOW, plan[one] + _WINDOW + 1):
                if not 0 <= index < len(curves[one].widths):
                    continue
                trial = list(plan)
                trial[one] = index
                widths = _widths(curves, trial)
                cost, losses = _cost(curves[other], tally, other, widths), curves[other].losses
                costs = cost - cost[trial[other]] + tally.count(widths)
                found = better(losses - losses[trial[other]] + _loss(curves, trial), costs)
                if found is None:
                    continue
                trial[other] = found
                if value(trial) < best:
                    plan, best = trial, value(trial)
        if plan == before:
            break
    return plan
