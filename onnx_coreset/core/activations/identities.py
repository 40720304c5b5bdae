"""Elementary functions on normal forms, with the identities that bring their spellings together.

    piecewise linear   max(e, 0) of anything piecewise linear in e becomes constant + slope e + sum of a_k max(e - k, 0)
    steps              [e > k] e = max(e - k, 0) + k [e > k]; [e > k]^2 = [e > k]; [e < k] = 1 - [e >= k]
    exponentials       exp(a) exp(b) = exp(a + b); 1 / (1 + exp(u)) = sigmoid(-u); log(1 + exp(u)) = softplus(u)
    symmetry           sigmoid(-u) = 1 - sigmoid(u); softplus(-u) = softplus(u) - u; erf(-u) = -erf(u)

All of them hold for every real number; nothing is compared numerically.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onnx_coreset.core.activations.algebra import (
    ONE,
    Atom,
    Factors,
    Poly,
    Unnamed,
    add,
    atom,
    collect,
    constant,
    multiply,
    scale,
    sign,
    tidy,
)
from onnx_coreset.core.arrays import Array, frozen

STEPS = ("Above", "AtLeast")


def monomial(factors: Factors) -> Poly:
    """Return a product of atoms with coefficient 1."""
    return collect([(factors, frozen(1.0), frozen(1.0))])


def product(a: Poly, b: Poly) -> Poly:
    """Return the product in normal form."""
    return _settle(multiply(a, b))


def _settle(poly: Poly) -> Poly:
    """Apply the identities between atoms of one monomial until none applies."""
    parts = []
    for term in poly.terms:
        better = _rewrite(term.factors)
        parts.append(Poly((term,)) if better is None else scale(_settle(better), term.coefficient))
    return add(*parts)


def _rewrite(factors: Factors) -> Poly | None:
    """Return a simpler polynomial equal to the monomial, or None."""
    exponentials = [(a, p) for a, p in factors if a.kind == "Exp"]
    if len(exponentials) > 1 or any(p != 1 for _, p in exponentials):
        rest = tuple(pair for pair in factors if pair[0].kind != "Exp")
        return multiply(monomial(rest), exponential(add(*(scale(_argument(a), p) for a, p in exponentials))))
    for position, (factor, power) in enumerate(factors):
        others = factors[:position] + factors[position + 1 :]
        if factor.kind in STEPS:
            if power < 0:
                raise Unnamed("a step in a denominator")
            if power > 1:
                return monomial(tuple(sorted((*others, (factor, 1)), key=lambda pair: (pair[0].order, pair[1]))))
        for place, (other, exponent) in enumerate(others):
            if exponent > 0 and power == 1:
                pair = _pair(factor, other)
                if pair is not None:
                    lowered = ((other, exponent - 1),) if exponent > 1 else ()
                    rest = others[:place] + lowered + others[place + 1 :]
                    return multiply(monomial(rest), pair)
    return None


def _argument(factor: Atom) -> Poly:
    if factor.argument is None:
        raise Unnamed(f"{factor.kind} has no argument")
    return factor.argument


def _pair(a: Atom, b: Atom) -> Poly | None:
    """Return a simpler polynomial equal to a * b, or None."""
    if a.kind in STEPS:
        return _step_times(a, b)
    if a.kind == "Exp" and b.kind == "Sigmoid":
        u, v = _argument(a), _argument(b)
        shift = add(v, scale(u, -1.0))
        if shift.is_constant:
            return add(monomial(((a, 1),)), scale(monomial(((b, 1),)), -np.exp(-shift.constant)))
        shift = add(v, u)
        if shift.is_constant:
            return scale(add(ONE, scale(monomial(((b, 1),)), -1.0)), np.exp(shift.constant))
    return None


def _step_times(step: Atom, other: Atom) -> Poly | None:
    """Return a simpler form of a step times another atom, or None."""
    argument = _argument(step)
    alone = monomial(((step, 1),))
    if argument.key == monomial(((other, 1),)).key:
        return add(atom("Ramp", argument, step.knot), scale(alone, step.knot))
    if other.argument is None or other.argument.key != argument.key or other.kind not in (*STEPS, "Ramp"):
        return None
    ahead = sign(other.knot - step.knot)
    if other.kind in STEPS:
        keep_step = ahead < 0 or (ahead == 0 and step.kind == "Above")
        return alone if keep_step else monomial(((other, 1),))
    if ahead >= 0:
        return monomial(((other, 1),))
    return add(atom("Ramp", argument, step.knot), scale(alone, step.knot - other.knot))


def exponential(p: Poly) -> Poly:
    """Return exp(p)."""
    with np.errstate(over="ignore"):
        factor = tidy(np.exp(p.constant))
    return constant(factor) if p.is_constant else scale(atom("Exp", p.varying), factor)


def sigmoid(p: Poly) -> Poly:
    """Return 1 / (1 + exp(-p))."""
    if p.is_constant:
        return constant(1.0 / (1.0 + np.exp(-p.constant)))
    if sign(p.lead) < 0:
        return add(ONE, scale(atom("Sigmoid", scale(p, -1.0)), -1.0))
    return atom("Sigmoid", p)


def softplus(p: Poly) -> Poly:
    """Return log(1 + exp(p))."""
    if p.is_constant:
        return constant(np.logaddexp(0.0, p.constant))
    if sign(p.lead) < 0:
        return add(atom("Softplus", scale(p, -1.0)), p)
    return atom("Softplus", p)


def odd(kind: str, p: Poly) -> Poly:
    """Return an odd function of p, by name."""
    return scale(atom(kind, scale(p, -1.0)), -1.0) if sign(p.lead) < 0 else atom(kind, p)


def reciprocal(p: Poly) -> Poly:
    """Return 1 / p."""
    if not p.terms or np.any(p.terms[0].coefficient == 0):
        raise Unnamed("a division by 0")
    first = p.terms[0].coefficient
    sole = p.sole()
    if sole is not None:
        return _settle(scale(monomial(tuple((a, -power) for a, power in sole[0])), 1.0 / first))
    logistic = _one_plus_exponential(p)
    if logistic is not None:
        return scale(sigmoid(scale(logistic, -1.0)), 1.0 / first)
    return scale(atom("Reciprocal", scale(p, 1.0 / first)), 1.0 / first)


def _one_plus_exponential(p: Poly) -> Poly | None:
    """Return u where p = c (1 + exp(u)), c > 0 or c < 0, else None."""
    if len(p.terms) != 2 or p.terms[0].factors or [(a.kind, q) for a, q in p.terms[1].factors] != [("Exp", 1)]:
        return None
    ratio = p.terms[1].coefficient / p.constant
    if sign(ratio) < 0:
        return None
    return add(_argument(p.terms[1].factors[0][0]), constant(np.log(ratio)))


def logarithm(p: Poly) -> Poly:
    """Return log(p)."""
    if not p.terms or np.any(p.terms[0].coefficient <= 0):
        raise Unnamed("a logarithm of what may be negative")
    first = p.terms[0].coefficient
    offset = constant(np.log(first))
    if p.is_constant:
        return offset
    inner = _one_plus_exponential(p)
    if inner is not None:
        return add(offset, softplus(inner))
    unit = scale(p, 1.0 / first)
    sole = unit.sole()
    if sole is not None and len(sole[0]) == 1 and sole[0][0][1] == 1:
        factor = sole[0][0][0]
        if factor.kind == "Exp":
            return add(offset, _argument(factor))
        if factor.kind == "Sigmoid":
            return add(offset, scale(softplus(scale(_argument(factor), -1.0)), -1.0))
    rest = add(ONE, scale(unit, -1.0)).sole()
    if rest is not None and [(a.kind, q) for a, q in rest[0]] == [("Sigmoid", 1)] and np.all(rest[1] == 1):
        return add(offset, scale(softplus(_argument(rest[0][0][0])), -1.0))
    return add(offset, atom("Log", unit))


def step(p: Poly, strict: bool) -> Poly:
    """Return [p > 0] or, if not strict, [p >= 0]."""
    if p.is_constant:
        return constant(np.where(p.constant > 0 if strict else p.constant >= 0, 1.0, 0.0))
    unit, knot = _unit(p)
    if sign(p.lead) > 0:
        return atom("Above" if strict else "AtLeast", unit, knot)
    return add(ONE, scale(atom("AtLeast" if strict else "Above", unit, knot), -1.0))


def _unit(p: Poly) -> tuple[Poly, Array]:
    """Return e and k with p = lead (e - k), e without constant and with leading coefficient 1."""
    return scale(p.varying, 1.0 / p.lead), -p.constant / p.lead


def ramp(p: Poly) -> Poly:
    """Return max(p, 0)."""
    if p.is_constant:
        return constant(np.maximum(p.constant, 0.0))
    pieces = _pieces(p)
    if pieces is not None:
        return _positive_part(*pieces)
    unit, knot = _unit(p)
    rising = scale(atom("Ramp", unit, knot), np.abs(p.lead))
    return add(rising, scale(p, np.where(p.lead < 0, 1.0, 0.0)))


def _pieces(p: Poly) -> tuple[Poly, Array, Array, list[tuple[Array, Array]]] | None:
    """Return e, c, s, [(k, a), ...] where p = c + s e + sum of a max(e - k, 0) has at least one ramp, else None."""
    ramps = [t for t in p.terms if len(t.factors) == 1 and t.factors[0][1] == 1 and t.factors[0][0].kind == "Ramp"]
    if not ramps:
        return None
    unit = _argument(ramps[0].factors[0][0])
    if any(_argument(t.factors[0][0]).key != unit.key for t in ramps):
        return None
    rest = Poly(tuple(t for t in p.terms if t not in ramps))
    slope = frozen(0.0) if rest.is_constant else rest.varying.terms[0].coefficient
    remainder = add(rest, scale(unit, -slope))
    if not remainder.is_constant:
        return None
    knots = sorted(((t.factors[0][0].knot, t.coefficient) for t in ramps), key=lambda pair: float(np.min(pair[0])))
    return unit, remainder.constant, slope, knots


def _snapped(value: Array, size: Array | float) -> int:
    """Return the common sign of a value that may carry the rounding of numbers of the given size."""
    return sign(np.where(np.abs(value) <= 1e-14 * size, 0.0, value))


def _positive_part(unit: Poly, c: Array, s: Array, ramps: list[tuple[Array, Array]]) -> Poly:
    """Return max(g, 0) of the piecewise linear g = c + s e + sum of a max(e - k, 0)."""
    for (k, _), (later, _) in pairwise(ramps):
        if sign(later - k) <= 0:
            raise Unnamed("the order of kinks differs between neurons")
    knots = [k for k, _ in ramps]
    slopes = [s + sum(a for _, a in ramps[:i]) for i in range(len(ramps) + 1)]
    values = [c + s * k + sum(a * (k - q) for q, a in ramps if np.all(q < k)) for k in knots]
    steepness = np.max(np.abs(s)) + sum(np.max(np.abs(a)) for _, a in ramps)
    size = np.max(np.abs(c)) + steepness * max(np.max(np.abs(k)) for k in knots)
    signs = [_snapped(v, size) for v in values]
    left = [-_snapped(slopes[0], steepness) or signs[0], *signs]
    right = [*signs, _snapped(slopes[-1], steepness) or signs[-1]]
    zero = frozen(0.0)
    breaks: list[tuple[Array, Array]] = []
    first = slopes[0] if left[0] > 0 or (left[0] == 0 and right[0] > 0) else zero
    for i, (before, after) in enumerate(zip(left, right, strict=True)):
        if i:
            breaks.append((knots[i - 1], slopes[i] if before > 0 or (before == 0 and after > 0) else zero))
        if before * after < 0:
            anchor = max(i - 1, 0)
            breaks.append((knots[anchor] - values[anchor] / slopes[i], slopes[i] if after > 0 else zero))
    # The first break is a zero of g, or the first kink: that fixes the constant.
    level = zero if left[0] * right[0] < 0 else np.maximum(values[0], 0.0)
    level = level - first * breaks[0][0]
    parts, slope = [constant(level), scale(unit, first)], first
    for knot, after_slope in breaks:
        parts.append(scale(atom("Ramp", unit, knot), after_slope - slope))
        slope = after_slope
    return add(*parts)
