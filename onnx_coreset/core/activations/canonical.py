"""From a program to its normal form: every operator as sums, products and a few elementary functions.

An operator without a row here, or a program whose constants make an identity inapplicable, has no normal form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType

import numpy as np

from onnx_coreset.core.activations import identities as e
from onnx_coreset.core.activations.algebra import ONE, Poly, Unnamed, add, atom, constant, scale
from onnx_coreset.core.activations.functions import GELU_CUBIC, GELU_SCALE, Attributes, clip_operands, is_tanh, number
from onnx_coreset.core.activations.operators import ELEMENTWISE
from onnx_coreset.core.activations.program import Program, Step
from onnx_coreset.core.arrays import Array

__all__ = ["canonical"]

Rule = Callable[[Sequence[Poly], Attributes], Poly]
MOST_POWER = 8


def _minus(a: Poly, b: Poly) -> Poly:
    return add(a, scale(b, -1.0))


def _maximum(a: Poly, b: Poly) -> Poly:
    return add(b, e.ramp(_minus(a, b)))


def _minimum(a: Poly, b: Poly) -> Poly:
    return _minus(a, e.ramp(_minus(a, b)))


def _tanh(p: Poly) -> Poly:
    return _minus(scale(e.sigmoid(scale(p, 2.0)), 2.0), ONE)


def _limit(p: Poly, low: Array | float, high: Array | float) -> Poly:
    """Return min(max(p, low), high), infinite bounds left out."""
    if np.all(low == -np.inf) and np.all(high == np.inf):
        return p
    if np.all(np.isfinite(low)):
        p = _maximum(p, constant(low))
    if np.all(np.isfinite(high)):
        p = _minimum(p, constant(high))
    if np.any(np.isinf(low) != np.all(np.isinf(low))) or np.any(np.isinf(high) != np.all(np.isinf(high))):
        raise Unnamed("a bound is missing for some neurons")
    return p


def _leaky(p: Poly, slope: Poly) -> Poly:
    return add(e.ramp(p), e.product(slope, _minus(p, e.ramp(p))))


def _pow(operands: Sequence[Poly], attributes: Attributes) -> Poly:
    base, exponent = operands
    if base.is_constant and np.all(base.constant > 0):
        return e.exponential(scale(exponent, np.log(base.constant)))
    power = float(exponent.constant) if exponent.is_constant and exponent.constant.ndim == 0 else np.nan
    if not (power == round(power) if np.isfinite(power) else False) or abs(power) > MOST_POWER:
        raise Unnamed("a power that is not a small whole number")
    result = reduce(e.product, [base] * abs(int(power)), ONE)
    return e.reciprocal(result) if power < 0 else result


def _choose(operands: Sequence[Poly], attributes: Attributes) -> Poly:
    condition, yes, no = operands
    if any(factor.kind not in e.STEPS for term in condition.terms for factor, _ in term.factors):
        raise Unnamed("a condition that is no comparison")
    return add(e.product(condition, yes), e.product(_minus(ONE, condition), no))


def _clip(operands: Sequence[Poly], attributes: Attributes) -> Poly:
    if not all(bound.is_constant for bound in operands[1:]):
        raise Unnamed("a bound that is no constant")
    _, low, high = clip_operands([p.constant for p in operands], attributes)
    return _limit(operands[0], low, high)


def _gelu(operands: Sequence[Poly], attributes: Attributes) -> Poly:
    x = operands[0]
    if not is_tanh(attributes):
        return scale(e.product(x, add(ONE, e.odd("Erf", scale(x, np.sqrt(0.5))))), 0.5)
    cubic = add(x, scale(e.product(x, e.product(x, x)), GELU_CUBIC))
    return e.product(x, e.sigmoid(scale(cubic, 2.0 * GELU_SCALE)))


def _elu(p: Poly, alpha: float, gamma: float = 1.0, inner: float = 1.0) -> Poly:
    below = _minus(e.exponential(scale(_minus(p, e.ramp(p)), inner)), ONE)
    return scale(add(e.ramp(p), scale(below, alpha)), gamma)


def _hard_sigmoid(p: Poly, alpha: float, beta: float) -> Poly:
    return _limit(add(scale(p, alpha), constant(beta)), 0.0, 1.0)


def _threshold(operands: Sequence[Poly], attributes: Attributes) -> Poly:
    p = operands[0]
    return e.product(p, e.step(_minus(p, constant(number(attributes, "alpha"))), True))


def _swish(operands: Sequence[Poly], attributes: Attributes) -> Poly:
    return e.product(operands[0], e.sigmoid(scale(operands[0], number(attributes, "alpha"))))


def _one(rule: Callable[[Poly], Poly]) -> Rule:
    return lambda operands, attributes: rule(operands[0])


def _two(rule: Callable[[Poly, Poly], Poly]) -> Rule:
    return lambda operands, attributes: rule(operands[0], operands[1])


def _many(rule: Callable[[Poly, Poly], Poly]) -> Rule:
    return lambda operands, attributes: reduce(rule, operands)


_ARITHMETIC: Mapping[str, Rule] = MappingProxyType(
    {
        "Identity": _one(lambda p: p),
        "Add": _many(add),
        "Sum": _many(add),
        "Mean": lambda operands, attributes: scale(add(*operands), 1.0 / len(operands)),
        "Sub": _two(_minus),
        "Neg": _one(lambda p: scale(p, -1.0)),
        "Mul": _two(e.product),
        "Div": _two(lambda a, b: e.product(a, e.reciprocal(b))),
        "Reciprocal": _one(e.reciprocal),
        "Pow": _pow,
        "Max": _many(_maximum),
        "Min": _many(_minimum),
        "Abs": _one(lambda p: _minus(scale(e.ramp(p), 2.0), p)),
        "Greater": _two(lambda a, b: e.step(_minus(a, b), True)),
        "GreaterOrEqual": _two(lambda a, b: e.step(_minus(a, b), False)),
        "Less": _two(lambda a, b: e.step(_minus(b, a), True)),
        "LessOrEqual": _two(lambda a, b: e.step(_minus(b, a), False)),
        "Equal": _two(lambda a, b: _minus(e.step(_minus(a, b), False), e.step(_minus(a, b), True))),
        "Sign": _one(lambda p: add(e.step(p, True), e.step(p, False), constant(-1.0))),
        "Not": _one(lambda p: _minus(ONE, p)),
        "And": _two(e.product),
        "Or": _two(lambda a, b: _minus(add(a, b), e.product(a, b))),
        "Where": _choose,
    }
)
_FUNCTIONS: Mapping[str, Rule] = MappingProxyType(
    {
        "Relu": _one(e.ramp),
        "LeakyRelu": lambda o, a: _leaky(o[0], constant(number(a, "alpha"))),
        "PRelu": _two(_leaky),
        "ThresholdedRelu": _threshold,
        "Clip": _clip,
        "Sigmoid": _one(e.sigmoid),
        "HardSigmoid": lambda o, a: _hard_sigmoid(o[0], number(a, "alpha"), number(a, "beta")),
        "Tanh": _one(_tanh),
        "Softplus": _one(e.softplus),
        "Softsign": _one(lambda p: e.product(p, e.reciprocal(add(ONE, scale(e.ramp(p), 2.0), scale(p, -1.0))))),
        "Elu": lambda o, a: _elu(o[0], number(a, "alpha")),
        "Selu": lambda o, a: _elu(o[0], number(a, "alpha"), number(a, "gamma")),
        "Celu": lambda o, a: _elu(o[0], number(a, "alpha"), inner=1.0 / number(a, "alpha")),
        "Gelu": _gelu,
        "HardSwish": _one(lambda p: e.product(p, _hard_sigmoid(p, 1.0 / 6.0, 0.5))),
        "Mish": _one(lambda p: e.product(p, _tanh(e.softplus(p)))),
        "Swish": _swish,
        "QuickGelu": _swish,
        "Erf": _one(lambda p: e.odd("Erf", p)),
        "Exp": _one(e.exponential),
        "Log": _one(e.logarithm),
    }
)


def canonical(program: Program) -> Poly:
    """Return the normal form of a program of one pre-activation.

    Args:
        program: A program of arity 1.

    Returns:
        A polynomial over atoms; equal functions written differently usually give equal polynomials, and equal
        polynomials always mean equal functions up to the rounding of constants.

    Raises:
        Unnamed: There is no normal form.
    """
    if program.arity != 1:
        raise Unnamed("more than one pre-activation")
    values = [atom("x")]
    for step in program.steps:
        values.append(_apply(step, [values[o] if isinstance(o, int) else _operand(step, o) for o in step.operands]))
    return values[-1]


def _operand(step: Step, value: Array) -> Poly:
    """Return a constant operand; Clip and Max know what infinite bounds mean."""
    if step.op == "Clip" and not np.all(np.isfinite(value)):
        return constant(np.where(np.isnan(value), np.nan, np.clip(value, -1e300, 1e300)))
    return constant(value)


def _apply(step: Step, operands: list[Poly]) -> Poly:
    operator = ELEMENTWISE.get(step.op)
    if operator is None:
        raise Unnamed(f"{step.op} is not elementwise")
    if all(p.is_constant for p in operands):
        return constant(operator([p.constant for p in operands], dict(step.attributes)))
    rule = _ARITHMETIC.get(step.op) or _FUNCTIONS.get(step.op)
    if rule is None:
        raise Unnamed(f"{step.op} has no normal form")
    with np.errstate(all="ignore"):
        return rule(operands, {**operator.defaults, **dict(step.attributes)})
