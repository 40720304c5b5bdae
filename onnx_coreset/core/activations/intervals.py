"""Sound interval extensions of elementwise operators.

An extension takes an interval for each operand and returns one that holds every value the operator takes on them, both
in real arithmetic and as computed in float64: each result is moved outwards by more than the error of its last step, so
soundness carries from step to step. Ends may be infinite; no end is ever NaN. Where nothing better is known the answer
is the whole line. Where an operator is undefined on a part of its interval the bounds hold where it is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.activations.functions import Attributes, Function, clip, clip_operands, is_tanh, number, times
from onnx_coreset.core.arrays import Array

Interval = tuple[Array, Array]
Mask = NDArray[np.bool_]
Extension = Callable[[Sequence[Interval], Attributes], Interval]

EXACT = (0.0, 0.0)
"""No rounding at all: comparisons, selections, changes of sign."""
ROUNDED = (1e-15, 1e-300)
"""One correctly rounded operation: half a unit in the last place, 1.1e-16; gradual underflow below 1e-300."""
TRANSCENDENTAL = (4e-15, 4e-16)
"""A library function and the few operations around it, at most 18 units in the last place; where factors decay, the
relative error of a product grows like its exponent while the product shrinks faster: the absolute part covers it."""

LARGEST = float(np.finfo(np.float64).max)
GELU_MINIMUM = -0.7517915246935645
GELU_TANH_MINIMUM = -0.7524614220710163
SILU_MINIMUM = -1.2784645427610738
MISH_MINIMUM = -1.1924312145154952
HARD_SWISH_MINIMUM = -1.5


def outward(low: Array, high: Array, slack: tuple[float, float] = TRANSCENDENTAL) -> Interval:
    """Return the interval moved outwards, NaN replaced by the infinite end.

    Args:
        low: Lower ends, any shape.
        high: Upper ends, same shape.
        slack: Relative and absolute amount.

    Returns:
        Wider ends of the same shape.
    """
    relative, absolute = slack
    with np.errstate(invalid="ignore", over="ignore"):
        low = np.where(np.isnan(low), -np.inf, low)
        high = np.where(np.isnan(high), np.inf, high)
        if relative == 0 and absolute == 0:
            return low, high
        # An overflow: the true value is beyond the largest number, and so is its neighbourhood.
        low, high = np.minimum(low, LARGEST), np.maximum(high, -LARGEST)
        return low - (relative * np.abs(low) + absolute), high + (relative * np.abs(high) + absolute)


def whole_line(operands: Sequence[Interval]) -> Interval:
    """Return [-inf, inf] in the operands' common shape."""
    shape = np.broadcast_shapes(*(np.shape(low) for low, _ in operands))
    return np.full(shape, -np.inf), np.full(shape, np.inf)


def hull(values: Sequence[Array], slack: tuple[float, float]) -> Interval:
    """Return the smallest interval that holds all values, moved outwards; any NaN opens the line."""
    stack = np.stack(np.broadcast_arrays(*values))
    return outward(stack.min(axis=0), stack.max(axis=0), slack)


def extremal(
    function: Function,
    points: Callable[[Attributes], Sequence[float]] = lambda attributes: (),
    slack: tuple[float, float] = TRANSCENDENTAL,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Extension:
    """Return the exact extension of a function of its first operand that is monotone between the given points.

    Args:
        function: The operator; further operands, where it has any, enter linearly (the slope of PRelu).
        points: Where it may turn.
        slack: Outward rounding.
        bounds: Smallest and largest value the function ever takes, to keep rounding inside the range.

    Returns:
        The extension.
    """

    def extension(operands: Sequence[Interval], attributes: Attributes) -> Interval:
        low, high = operands[0]
        rest: list[list[Array]] = [[]]
        for ends in operands[1:]:
            rest = [[*chosen, end] for chosen in rest for end in ends]
        places = [low, high, *(np.clip(point, low, high) for point in points(attributes))]
        with np.errstate(all="ignore"):
            values = [function([place, *chosen], attributes) for place in places for chosen in rest]
        lower, upper = hull(values, slack)
        return np.clip(lower, *bounds), np.clip(upper, *bounds)

    return extension


def at(*points: float) -> Callable[[Attributes], Sequence[float]]:
    """Return fixed turning points."""
    return lambda attributes: points


def swish_points(attributes: Attributes) -> Sequence[float]:
    """Return the turning point of x sigmoid(alpha x)."""
    alpha = number(attributes, "alpha")
    return () if alpha == 0 else (SILU_MINIMUM / alpha,)


def gelu_points(attributes: Attributes) -> Sequence[float]:
    """Return the turning point of either GELU."""
    return (GELU_TANH_MINIMUM if is_tanh(attributes) else GELU_MINIMUM,)


def monotone_in_each(function: Function, slack: tuple[float, float]) -> Extension:
    """Return the extension of a function that does not decrease in any operand."""

    def extension(operands: Sequence[Interval], attributes: Attributes) -> Interval:
        with np.errstate(all="ignore"):
            low = function([low for low, _ in operands], attributes)
            high = function([high for _, high in operands], attributes)
        return outward(low, high, slack)

    return extension


def subtract(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Sub."""
    (a, b), (c, d) = operands
    with np.errstate(all="ignore"):
        return outward(np.asarray(a - d), np.asarray(b - c), ROUNDED)


def multiply(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Mul: the hull of the four corners."""
    (a, b), (c, d) = operands
    with np.errstate(all="ignore"):
        return hull([times(a, c), times(a, d), times(b, c), times(b, d)], ROUNDED)


def reciprocal(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Reciprocal: the whole line where 0 lies strictly inside, a half-line where it is an end."""
    low, high = operands[0]
    with np.errstate(all="ignore"):
        lower, upper = np.divide(1.0, high), np.divide(1.0, low)
    lower = np.where((high == 0) | ((low < 0) & (high > 0)), -np.inf, lower)
    upper = np.where((low == 0) | ((low < 0) & (high > 0)), np.inf, upper)
    return outward(lower, upper, ROUNDED)


def divide(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Div, as a product with the reciprocal."""
    return multiply([operands[0], reciprocal([operands[1]], attributes)], attributes)


def power(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Pow: exact for one whole exponent or a positive base, else the whole line."""
    (low, high), (least, most) = np.broadcast_arrays(*operands[0]), operands[1]
    open_low, open_high = whole_line(operands)
    with np.errstate(all="ignore"):
        corners = [np.power(base, p) for base in (low, high) for p in (least, most)]
        positive = (low > 0) | ((low == 0) & (least > 0))
        lower, upper = hull(corners, TRANSCENDENTAL)
        whole = (least == most) & (least == np.floor(least)) & (least >= 0)
        zero = np.power(np.clip(0.0, low, high), least)
        whole_low, whole_high = hull([corners[0], corners[2], zero], TRANSCENDENTAL)
    lower = np.where(positive, lower, np.where(whole, whole_low, open_low))
    return lower, np.where(positive, upper, np.where(whole, whole_high, open_high))


def wave(shift: float) -> Extension:
    """Return the extension of sin(x + shift)."""

    def extension(operands: Sequence[Interval], attributes: Attributes) -> Interval:
        low, high = operands[0]
        # A crest that is missed by rounding would be unsound, one that is met too early only widens.
        wide = ~((high - low < 2 * np.pi) & (np.maximum(np.abs(low), np.abs(high)) < 1e6))
        start, stop = np.where(wide, 0.0, low) + shift, np.where(wide, 0.0, high) + shift

        def meets(place: float) -> Mask:
            turn = np.ceil((start - 1e-7 - place) / (2 * np.pi))
            return np.asarray(place + 2 * np.pi * turn <= stop + 1e-7)

        lower, upper = np.minimum(np.sin(start), np.sin(stop)), np.maximum(np.sin(start), np.sin(stop))
        # The shift costs an absolute error of the argument, up to one unit in its last place at 1e6.
        lower = np.where(wide | meets(-np.pi / 2), -1.0, lower - 3e-10)
        return np.maximum(lower, -1.0), np.minimum(np.where(wide | meets(np.pi / 2), 1.0, upper + 3e-10), 1.0)

    return extension


def compare(certain: Callable[[Array, Array], Mask], excluded: Callable[[Array, Array], Mask]) -> Extension:
    """Return the extension of a comparison of two operands.

    Args:
        certain: Takes (low, high) differences first - second and says where it surely holds.
        excluded: Says where it surely does not.
    """

    def extension(operands: Sequence[Interval], attributes: Attributes) -> Interval:
        (a, b), (c, d) = operands
        with np.errstate(invalid="ignore"):
            # Differences only carry the sign, which subtraction in floating point keeps.
            low, high = np.where(a == d, 0.0, a - d), np.where(b == c, 0.0, b - c)
        return certain(low, high).astype(np.float64), 1.0 - excluded(low, high).astype(np.float64)

    return extension


greater = compare(lambda low, high: low > 0, lambda low, high: high <= 0)
greater_equal = compare(lambda low, high: low >= 0, lambda low, high: high < 0)
less = compare(lambda low, high: high < 0, lambda low, high: low >= 0)
less_equal = compare(lambda low, high: high <= 0, lambda low, high: low > 0)
equal = compare(lambda low, high: (low == 0) & (high == 0), lambda low, high: (low > 0) | (high < 0))


def select(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Where: one branch where the condition is certain, the hull elsewhere."""
    (never, always), (a, b), (c, d) = operands
    low = np.where(never > 0, a, np.where(always < 1, c, np.minimum(a, c)))
    return low, np.where(never > 0, b, np.where(always < 1, d, np.maximum(b, d)))


def negate_boolean(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Not."""
    low, high = operands[0]
    return 1.0 - high, 1.0 - low


def clip_interval(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """Clip: monotone in the value and in both bounds."""
    low = clip(*clip_operands([low for low, _ in operands], attributes))
    return low, clip(*clip_operands([high for _, high in operands], attributes))


def thresholded_interval(operands: Sequence[Interval], attributes: Attributes) -> Interval:
    """ThresholdedRelu, which jumps at its threshold."""
    alpha = number(attributes, "alpha")
    low, high = operands[0]
    lower = np.where(low > alpha, low, np.minimum(0.0, np.where(high > alpha, alpha, 0.0)))
    return lower, np.where(high > alpha, np.where(low > alpha, high, np.maximum(high, 0.0)), 0.0)
