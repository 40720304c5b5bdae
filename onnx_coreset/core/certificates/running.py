"""Running error analysis of a program of elementwise steps as a machine computes it.

Every value of the program is carried as the range of its exact value and the largest error of the computed one. A step
with exact operands in [l, u] and errors e gives

    error  <=  min(slope error, jump)  +  16 units of the result, and of 1 where the operator is no arithmetic:

*slope error* is what the operator's slopes over the ranges, widened by the errors, make of the operands' errors; *jump*
is the width of the operator's range over the widened operands, which bounds how far two of its values are apart
whatever it does there: for operators that jump (Greater, Sign, Floor), and for those without slopes. It is 0 where
the widened operands miss the jump.

Beside this stands a second bound, relative |x| + floor, that exponentials, products and sums of one sign hand on: of
log(1 + exp t) the error is small although that of exp t alone is large. `LEAST` is the floor, below every normal number
of float32 and bfloat16; float16 is not thought of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.activations import functions as f
from onnx_coreset.core.activations.intervals import Interval
from onnx_coreset.core.activations.operators import ELEMENTWISE, SELECTING
from onnx_coreset.core.activations.program import Program, Step
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.rounding import gamma

__all__ = ["OWN", "Running", "running"]

OWN = 16
"""How many units of its value, and of 1, an elementwise function is off by: an assumption about the runtime."""
LEAST = 2.0**-126
"""What underflow adds to one operation at most."""


@dataclass(frozen=True)
class Running:
    """A value x of n neurons as computed: off by at most `error`, and by at most `relative` |x| + `floor`.

    Attributes:
        low: Lower ends of the exact value, shape () or (n,).
        high: Upper ends.
        error: Largest error of the computed value.
        relative: Largest relative error, up to the floor.
        floor: The floor.
    """

    low: Array
    high: Array
    error: Array
    relative: Array | float = np.inf
    floor: Array | float = 0.0

    @property
    def wide(self) -> Interval:
        """Bounds of the exact and the computed value."""
        ratio = self.ratio
        low, high = self.low - self.error, self.high + self.error
        # What is surely off by less than itself keeps its sign.
        above, below = (self.low > 0) & (ratio < 1), (self.high < 0) & (ratio < 1)
        low = np.where(above, np.fmax(low, self.low * (1.0 - ratio)), low)
        return low, np.where(below, np.fmin(high, self.high * (1.0 - ratio)), high)

    @property
    def ratio(self) -> Array:
        """Largest error in units of the exact value, infinite where that may be 0."""
        away = np.where(self.low > 0, self.low, np.where(self.high < 0, -self.high, 0.0))
        found = np.fmin(self.relative + self.floor / away, self.error / away)
        return np.asarray(np.where(np.isnan(found) | (away == 0), np.inf, found))

    @property
    def size(self) -> Array:
        """Largest magnitude of the exact and the computed value."""
        return np.maximum(np.abs(self.low), np.abs(self.high)) + self.error


Rule = Callable[[Sequence[Running], f.Attributes], Array]


def _steep(limit: float) -> Rule:
    """Return the rule of an operator of one operand with a Lipschitz constant."""
    return lambda o, a: limit * o[0].error


def _largest(o: Sequence[Running], attributes: f.Attributes) -> Array:
    """Return the rule of selections without jumps: the largest error of an operand."""
    return np.asarray(np.max(np.stack(np.broadcast_arrays(*(own.error for own in o))), axis=0))


def _total(o: Sequence[Running], attributes: f.Attributes) -> Array:
    return np.asarray(np.sum(np.stack(np.broadcast_arrays(*(own.error for own in o))), axis=0))


def _product(o: Sequence[Running], attributes: f.Attributes) -> Array:
    one, two = o
    return f.times(one.size, two.error) + f.times(two.size, one.error)


def _away(own: Running) -> Array:
    """Return the least magnitude of the exact and the computed value, 0 where it may vanish."""
    low, high = own.wide
    return np.where(low > 0, low, np.where(high < 0, -high, 0.0))


def _quotient(o: Sequence[Running], attributes: f.Attributes) -> Array:
    one, two = o
    away = _away(two)
    return (one.error + f.times(one.size / away, two.error)) / away


def _where(o: Sequence[Running], attributes: f.Attributes) -> Array:
    condition, one, two = o
    # A condition that is computed exactly chooses the same branch; otherwise only the jump is a bound, unless it is
    # certain.
    low, high = condition.wide
    certain = np.where(low > 0, one.error, np.where(high < 1, two.error, np.inf))
    return np.where(condition.error == 0, np.maximum(one.error, two.error), certain)


def _power(o: Sequence[Running], attributes: f.Attributes) -> Array:
    base, exponent = o
    p = exponent.low
    known = (exponent.high == p) & (exponent.error == 0)
    # p |x|^(p-1) is largest at one of the ends; a base that may vanish or change its sign needs a whole power.
    whole = known & (p >= 1) & (p == np.floor(p))
    steep = np.where(whole, np.power(base.size, p - 1.0), np.inf)
    apart = np.maximum(np.power(base.size, p - 1.0), np.power(_away(base), p - 1.0))
    steep = np.where(known & (base.wide[0] > 0), np.minimum(steep, apart), steep)
    return f.times(np.abs(p) * steep, base.error)


def _root(o: Sequence[Running], attributes: f.Attributes) -> Array:
    # What may be computed as a negative number has no root.
    steep = np.minimum(np.sqrt(o[0].error), o[0].error / np.sqrt(_away(o[0])))
    return np.where(o[0].wide[0] >= 0, steep, np.inf)


def _leaky(o: Sequence[Running], attributes: f.Attributes) -> Array:
    if len(o) > 1:
        return np.maximum(1.0, o[1].size) * o[0].error + f.times(o[0].size, o[1].error)
    return max(1.0, abs(f.number(attributes, "alpha"))) * o[0].error


def _elu(o: Sequence[Running], attributes: f.Attributes) -> Array:
    return max(1.0, abs(f.number(attributes, "alpha"))) * o[0].error


_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(("Relu", "Abs", "Identity", "Neg", "Clip", "Min", "Max"), _largest),
        **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), _total),
        **{name: _steep(1.0) for name in ("Tanh", "Softplus", "Softsign", "Celu", "Sin", "Cos", "Atan")},
        **{name: _steep(1.13) for name in ("Gelu", "Mish")},
        "Sigmoid": _steep(0.25),
        "HardSwish": _steep(1.51),
        "Erf": _steep(1.13),
        "Swish": _steep(1.1),
        "QuickGelu": _steep(1.1),
        "Selu": _steep(1.76),
        "HardSigmoid": lambda o, a: abs(f.number(a, "alpha")) * o[0].error,
        "LeakyRelu": _leaky,
        "PRelu": _leaky,
        "Elu": _elu,
        "Exp": lambda o, a: f.times(np.exp(o[0].wide[1]), o[0].error),
        "Log": lambda o, a: np.fmin(o[0].error / _away(o[0]), -np.log1p(-np.minimum(o[0].ratio, 1.0))),
        "Sqrt": _root,
        "Reciprocal": lambda o, a: o[0].error / np.square(_away(o[0])),
        "Mul": _product,
        "Div": _quotient,
        "Pow": _power,
        "Where": _where,
    }
)
"""What each operator makes of its operands' errors; NaN and infinity where it cannot tell."""
_ARITHMETIC = ("LeakyRelu", "PRelu", "Add", "Sub", "Mul", "Div", "Sum", "Mean", "Sqrt", "Reciprocal", "Pow", "Exp")
"""Operators that are off by units of their value alone."""


def _alike(o: Sequence[Running]) -> NDArray[np.bool_]:
    """Return where all operands have one sign."""
    lows, highs = (np.stack(np.broadcast_arrays(*ends)) for ends in ([x.low for x in o], [x.high for x in o]))
    return np.asarray(np.all(lows >= 0, axis=0) | np.all(highs <= 0, axis=0))


def _relative(op: str, o: Sequence[Running]) -> tuple[Array | float, Array | float]:
    """Return the relative error and the floor of an operator's exact value at computed operands."""
    first = o[0]
    if op == "Exp":
        return np.expm1(first.error), 0.0
    if op in ("Neg", "Abs", "Identity", "Relu"):
        return first.relative, first.floor
    if op in ("Add", "Sum"):
        ratios = np.stack(np.broadcast_arrays(*(np.broadcast_to(own.relative, own.low.shape) for own in o)))
        floors = np.stack(np.broadcast_arrays(*(np.broadcast_to(own.floor, own.low.shape) for own in o)))
        # Exact operands have no relative error at all.
        exact = np.stack(np.broadcast_arrays(*(own.error == 0 for own in o)))
        worst = np.max(np.where(exact, 0.0, ratios), axis=0)
        return np.where(_alike(o), worst, np.inf), np.where(exact, 0.0, floors).sum(axis=0)
    if op == "Mul":
        return (1.0 + first.ratio) * (1.0 + o[1].ratio) - 1.0, 0.0
    if op in ("Div", "Reciprocal"):
        last = o[-1].ratio
        top = 1.0 + (first.ratio if op == "Div" else 0.0)
        return np.where(last < 1, (top + last) / (1.0 - np.minimum(last, 1.0)) - 1.0, np.inf), 0.0
    return np.inf, 0.0


def _step(step: Step, operands: Sequence[Running], unit: float) -> Running:
    """Return the value of one step."""
    operator = ELEMENTWISE[step.op]
    attributes = {**operator.defaults, **dict(step.attributes)}
    low, high = operator.interval([(own.low, own.high) for own in operands], dict(step.attributes))
    wide_low, wide_high = operator.interval([own.wide for own in operands], dict(step.attributes))
    jump = np.where(wide_high > wide_low, wide_high - wide_low, 0.0)
    rule = _RULES.get(step.op)
    slope = np.full(low.shape, np.inf) if rule is None else np.broadcast_to(rule(operands, attributes), low.shape)
    moved = np.fmin(np.where(np.isnan(slope), np.inf, slope), jump)
    # Without any error of the operands there is none of the operator.
    alike = np.all(np.stack(np.broadcast_arrays(*(own.error == 0 for own in operands))), axis=0)
    moved = np.where(alike, 0.0, moved)
    relative, floor = _relative(step.op, operands)
    if step.op in SELECTING:
        return Running(low, high, moved, relative, floor)
    size = np.maximum(np.abs(low), np.abs(high)) + moved
    own = gamma(max(OWN, len(operands)), unit) * (size + (0.0 if step.op in _ARITHMETIC else 1.0))
    if step.op == "Mean" or step.op == "Sum":
        own = own + gamma(len(operands), unit) * np.sum([np.max(one.size) for one in operands])
    units = gamma(max(OWN, 4 * len(operands)), unit)
    relative = np.where(step.op in _ARITHMETIC, relative + units * (1.0 + relative), np.inf) * (1.0 + 1e-10)
    return Running(low, high, (moved + own) * (1.0 + 1e-10) + LEAST, relative, (1.0 + units) * floor + LEAST)


def running(program: Program, inputs: Sequence[Running], unit: float) -> Running:
    """Return the range of a program's result, and the largest error of the computed one.

    Args:
        program: The program, of arity a.
        inputs: Its a pre-activations, shape (n,) each.
        unit: Largest relative error of one operation.

    Returns:
        The result; its error is infinite where its range is. Constants are exact.
    """
    known = list(inputs)
    with np.errstate(all="ignore"):
        for step in program.steps:
            operands = [
                known[own] if isinstance(own, int) else Running(own, own, np.zeros(np.shape(own)))
                for own in step.operands
            ]
            known.append(_step(step, operands, unit))
        last = known[-1]
        shape = np.broadcast_shapes(last.low.shape, *(own.low.shape for own in inputs))
        error = np.where(np.isnan(last.error), np.inf, last.error)
        ends = (np.array(np.broadcast_to(array, shape)) for array in (last.low, last.high, error))
    return Running(*ends)
