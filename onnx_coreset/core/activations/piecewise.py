"""Records of piecewise linear activations, steps and polynomials: their normal form shows the parameters."""

from __future__ import annotations

import numpy as np

from onnx_coreset.core.activations import functions as f
from onnx_coreset.core.activations.algebra import Poly
from onnx_coreset.core.activations.program import Program
from onnx_coreset.core.activations.record import Parameters, Properties, Record, properties
from onnx_coreset.core.activations.spell import spell
from onnx_coreset.core.arrays import Array, frozen

__all__ = ["PIECEWISE"]

MOST_DEGREE = 8


def _ramps(form: Poly) -> list[tuple[Array, Array]] | None:
    """Return (knot, coefficient) of every ramp of a piecewise linear form in x, knots ascending, else None."""
    found = []
    for term in form.terms:
        if not term.factors:
            continue
        if len(term.factors) > 1 or term.factors[0][1] != 1:
            return None
        factor = term.factors[0][0]
        if factor.kind == "Ramp" and factor.argument is not None and factor.argument.sole() is not None:
            found.append((factor.knot, term.coefficient))
        elif factor.kind != "x":
            return None
    return sorted(found, key=lambda pair: float(np.min(pair[0])))


def _read_slope(form: Poly) -> Array | None:
    ramps = _ramps(form)
    return form.coefficient(("x", 1)) if ramps is not None and len(ramps) == 1 else None


def _read_leaky(form: Poly) -> Parameters | None:
    slope = _read_slope(form)
    return (slope,) if slope is not None and slope.ndim == 0 else None


def _read_prelu(form: Poly) -> Parameters | None:
    slope = _read_slope(form)
    return (slope,) if slope is not None and slope.ndim == 1 else None


def _read_clip(form: Poly) -> Parameters | None:
    ramps = _ramps(form)
    if ramps is None or len(ramps) not in (1, 2):
        return None
    if len(ramps) == 2:
        return ramps[0][0], ramps[1][0]
    rises = np.all(ramps[0][1] > 0)
    return (ramps[0][0], frozen(np.inf)) if rises else (frozen(-np.inf), ramps[0][0])


def _read_hard_sigmoid(form: Poly) -> Parameters | None:
    ramps = _ramps(form)
    if ramps is None or len(ramps) != 2 or not np.all(ramps[0][1] > 0):
        return None
    knot, alpha = ramps[0]
    return alpha, -alpha * knot


def _read_threshold(form: Poly) -> Parameters | None:
    found = form.find("Above")
    return None if found is None else (found.knot,)


def _read_step(form: Poly) -> Parameters | None:
    found = form.find("Above") or form.find("AtLeast")
    if found is None:
        return None
    low = form.constant
    middle = low + form.coefficient(("AtLeast", 1))
    return found.knot, low, middle, middle + form.coefficient(("Above", 1))


def _read_polynomial(form: Poly) -> Parameters | None:
    if any(len(t.factors) > 1 or (t.factors and t.factors[0][0].kind != "x") for t in form.terms):
        return None
    powers = {t.factors[0][1] if t.factors else 0: t.coefficient for t in form.terms}
    if not powers or min(powers) < 0 or not 1 <= max(powers) <= MOST_DEGREE or any(c.ndim for c in powers.values()):
        return None
    return tuple(powers.get(power, frozen(0.0)) for power in range(max(powers) + 1))


def _horner(t: Array, coefficients: Parameters) -> Array:
    value = np.broadcast_to(coefficients[-1], np.shape(t))
    for coefficient in coefficients[-2::-1]:
        value = f.times(value, t) + coefficient
    return value


def _polynomial_noise(t: Array, coefficients: Parameters) -> Array:
    # Horner's rule: at most 2 * degree roundings of the sum of magnitudes (Higham, section 5.1), doubled.
    return 4.5e-16 * len(coefficients) * _horner(np.abs(t), tuple(np.abs(c) for c in coefficients))


def _polynomial_properties(coefficients: Parameters) -> Properties:
    numbers = np.array([float(c) for c in coefficients])
    derivative = numbers[1:] * np.arange(1, numbers.size)
    roots = np.roots(derivative[::-1])
    # A root that is real up to rounding counts: one place too many never hurts.
    places = np.sort(roots.real[np.abs(roots.imag) <= 1e-6 * (1.0 + np.abs(roots))])
    values = _horner(places, coefficients) if places.size else numbers[:1]
    noise = np.max(_polynomial_noise(places, coefficients)) if places.size else 0.0
    even = numbers.size % 2 == 1
    # A double root is found with half of the digits; the values there differ by its square.
    least = np.min(values) - noise if even and numbers[-1] > 0 else -np.inf
    greatest = np.max(values) + noise if even and numbers[-1] < 0 else np.inf
    return properties(
        np.inf if numbers.size > 2 else abs(numbers[1]),
        least,
        greatest,
        tuple(float(p) for p in places),
        odd=bool(np.all(numbers[::2] == 0)),
        monotone=not even and places.size == 0 and bool(numbers[-1] > 0),
        half_even=numbers.size > 1 and bool(numbers[1] == 0.5 and np.all(numbers[3::2] == 0)),
    )


def _power_sum(coefficients: Parameters) -> tuple[Program, ...]:
    terms = [("Mul", ("Pow", "x", float(power)), c) for power, c in enumerate(coefficients) if power]
    return (spell(("Sum", coefficients[0], *terms)),)


def _leaky_properties(parameters: Parameters) -> Properties:
    slope = parameters[0]
    return properties(
        np.maximum(1.0, np.abs(slope)),
        np.where(slope > 0, -np.inf, 0.0),
        critical=(0.0,),
        monotone=bool(np.all(slope >= 0)),
        odd=bool(np.all(slope == 1)),
        half_even=bool(np.all(slope == 0)),
        homogeneous=True,
    )


def _clip_spellings(parameters: Parameters) -> tuple[Program, ...]:
    low, high = parameters
    lowered: object = "x" if np.all(low == -np.inf) else ("Max", "x", low)
    return (spell(lowered if np.all(high == np.inf) else ("Min", lowered, high)),)


def _step_values(t: Array, parameters: Parameters) -> Array:
    threshold, low, middle, high = parameters
    return np.where(t > threshold, high, np.where(t < threshold, low, middle))


def _step_properties(parameters: Parameters) -> Properties:
    threshold, low, middle, high = parameters
    return properties(
        np.inf,
        np.minimum(np.minimum(low, middle), high),
        np.maximum(np.maximum(low, middle), high),
        (threshold,),
        monotone=bool(np.all((low <= middle) & (middle <= high))),
        odd=bool(np.all((threshold == 0) & (middle == 0) & (low == -high))),
    )


def _step_spellings(parameters: Parameters) -> tuple[Program, ...]:
    threshold, low, middle, high = parameters
    reached = ("Mul", ("GreaterOrEqual", "x", threshold), middle - low)
    passed = ("Mul", ("Greater", "x", threshold), high - middle)
    return (spell(("Sum", low, reached, passed)),)


def _numbers(*values: object) -> Parameters:
    return tuple(frozen(np.asarray(value, dtype=np.float64)) for value in values)


def _threshold_properties(p: Parameters) -> Properties:
    # Just above a threshold the value is the threshold itself; it is the infimum where that is negative.
    above = np.nextafter(p[0], np.inf)
    homogeneous = bool(np.all(p[0] == 0))
    return properties(
        np.where(p[0] == 0, 1.0, np.inf),
        np.minimum(p[0], 0.0),
        critical=(p[0], above, np.maximum(p[0], 0.0)),
        monotone=bool(np.all(p[0] >= 0)),
        homogeneous=homogeneous,
    )


PIECEWISE: tuple[Record, ...] = (
    Record(
        "Identity",
        lambda t, p: t,
        lambda p: properties(1.0, monotone=True, odd=True, homogeneous=True),
        lambda p: (spell("x"),),
        exact=True,
    ),
    Record(
        "Relu",
        lambda t, p: f.relu(t),
        lambda p: properties(1.0, 0.0, critical=(0.0,), monotone=True, half_even=True, homogeneous=True),
        lambda p: (spell(("Relu", "x")),),
        exact=True,
    ),
    Record(
        "Abs",
        lambda t, p: np.abs(t),
        lambda p: properties(1.0, 0.0, critical=(0.0,), homogeneous=True),
        lambda p: (spell(("Abs", "x")),),
        exact=True,
    ),
    Record(
        "LeakyRelu",
        lambda t, p: f.leaky(t, p[0]),
        _leaky_properties,
        lambda p: (spell(("PRelu", "x", p[0])),),
        _read_leaky,
        ("slope",),
        (_numbers(0.01), _numbers(0.3), _numbers(-0.2), _numbers(1.5)),
    ),
    Record(
        "PRelu",
        lambda t, p: f.leaky(t, p[0]),
        _leaky_properties,
        lambda p: (spell(("PRelu", "x", p[0])),),
        _read_prelu,
        ("slope",),
        (_numbers([0.1, 0.25, 0.7]), _numbers([-0.5, 0.0, 2.0])),
    ),
    Record(
        "Clip",
        lambda t, p: f.clip(t, p[0], p[1]),
        lambda p: properties(1.0, p[0], p[1], monotone=True, odd=bool(np.all(p[0] == -p[1]))),
        _clip_spellings,
        _read_clip,
        ("low", "high"),
        (_numbers(0, 6), _numbers(-1, 1), _numbers(-np.inf, 2), _numbers(0.5, np.inf), _numbers([-1, 0, 1], 3)),
        exact=True,
    ),
    Record(
        "HardSigmoid",
        lambda t, p: f.hard_sigmoid(t, p[0], p[1]),
        lambda p: properties(np.abs(p[0]), 0.0, 1.0, monotone=bool(np.all(p[0] >= 0))),
        lambda p: (spell(("Clip", ("Add", ("Mul", "x", p[0]), p[1]), 0.0, 1.0)),),
        _read_hard_sigmoid,
        ("alpha", "beta"),
        (_numbers(0.2, 0.5), _numbers(1 / 6, 0.5)),
        lambda t, p: 4e-16 * (1.0 + np.abs(p[1])),
    ),
    Record(
        "ThresholdedRelu",
        lambda t, p: f.thresholded(t, p[0]),
        _threshold_properties,
        lambda p: (spell(("Mul", "x", ("Greater", "x", p[0]))),),
        _read_threshold,
        ("alpha",),
        (_numbers(1.0), _numbers(0.4), _numbers(-0.5)),
        exact=True,
    ),
    Record(
        "Step",
        _step_values,
        _step_properties,
        _step_spellings,
        _read_step,
        ("threshold", "low", "middle", "high"),
        (_numbers(0, 0, 0, 1), _numbers(0, 0, 1, 1), _numbers(0, -1, 0, 1), _numbers(0.5, 2, 1, -1)),
        exact=True,
    ),
    Record(
        "Polynomial",
        _horner,
        _polynomial_properties,
        _power_sum,
        _read_polynomial,
        (),
        (_numbers(0, 0, 1), _numbers(1, -2, 0.5), _numbers(0, 1, 0, 0.3), _numbers(0.2, 0.5, 0.3)),
        _polynomial_noise,
    ),
)
"""In this order: an earlier record names what a later one could name too."""
