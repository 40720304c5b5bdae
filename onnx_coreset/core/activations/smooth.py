"""Records of smooth activations, and of the three that are exponential on one side."""

from __future__ import annotations

import numpy as np
from scipy import special

from onnx_coreset.core.activations import functions as f
from onnx_coreset.core.activations import intervals as i
from onnx_coreset.core.activations.algebra import Poly
from onnx_coreset.core.activations.program import Program
from onnx_coreset.core.activations.record import Parameters, Properties, Record, properties
from onnx_coreset.core.activations.spell import spell
from onnx_coreset.core.arrays import Array, frozen

__all__ = ["SMOOTH"]

# Largest slopes and least values, rounded outwards in the last digit or two.
SILU_LIPSCHITZ = 1.0998393201288671
GELU_LIPSCHITZ = 1.1289041451851550
GELU_TANH_LIPSCHITZ = 1.1289930686587720
MISH_LIPSCHITZ = 1.0884981612517280
SILU_LEAST = -0.2784645427610741
GELU_LEAST = -0.1699712074799038
GELU_TANH_LEAST = -0.1700407505712542
MISH_LEAST = -0.3088434130172506


def _half(x: float) -> float:
    return float(np.float16(x))


def _brain(x: float) -> float:
    """Round to bfloat16, ties to even."""
    bits = int(np.float32(x).view(np.uint32))
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return float(np.uint32(bits).view(np.float32))


def _exactly(x: float) -> float:
    return x


ROUNDINGS = (_exactly, _half, _brain)
"""How a model may have stored the constants of a record; float32 is within the tolerance of the comparison."""


def _slope(form: Poly, *kinds: str) -> Parameters | None:
    """Return the coefficient of x in the argument of the first atom of one of the kinds."""
    for kind in kinds:
        found = form.find(kind)
        if found is not None and found.argument is not None:
            slope = found.argument.coefficient(("x", 1))
            return (slope,) if np.all(slope > 0) else None
    return None


def _read_exponential_side(form: Poly) -> Parameters | None:
    """Return alpha of ELU or CELU: minus the constant term."""
    alpha = -form.constant
    return (alpha,) if form.find("Exp") is not None and np.all(alpha > 0) else None


def _minus_one(exponent: object) -> tuple[object, ...]:
    return ("Sub", ("Exp", exponent), 1.0)


def _elu_spellings(alpha: Array | float, scale: Array | float = 1.0, rate: Array | float = 1.0) -> tuple[Program, ...]:
    """Return programs of scale (max(x, 0) + alpha (exp(rate min(x, 0)) - 1)); alpha stands outside scale."""
    low, inner = _minus_one(("Mul", ("Min", "x", 0.0), rate)), _minus_one(("Mul", "x", rate))
    positive = ("Mul", ("Relu", "x"), scale)
    return (
        spell(("Add", positive, ("Mul", low, alpha))),
        spell(("Add", positive, ("Mul", ("Min", inner, 0.0), alpha))),
        spell(("Where", ("Greater", "x", 0.0), ("Mul", "x", scale), ("Mul", inner, alpha))),
        spell(("Where", ("GreaterOrEqual", "x", 0.0), ("Mul", "x", scale), ("Mul", inner, alpha))),
    )


def _selu_spellings(parameters: Parameters) -> tuple[Program, ...]:
    gamma, alpha = f.SELU_GAMMA, f.SELU_ALPHA
    pairs = [(q(gamma), q(gamma) * q(alpha)) for q in ROUNDINGS] + [(q(gamma), q(gamma * alpha)) for q in ROUNDINGS]
    return tuple(program for scale, product in pairs for program in _elu_spellings(product, scale))


def _gelu_spellings(parameters: Parameters) -> tuple[Program, ...]:
    scales = [q(np.sqrt(0.5)) for q in ROUNDINGS] + [1.0 / q(np.sqrt(2.0)) for q in ROUNDINGS]
    return tuple(spell(("Mul", ("Mul", "x", 0.5), ("Add", ("Erf", ("Mul", "x", s)), 1.0))) for s in scales)


def _gelu_tanh_spellings(parameters: Parameters) -> tuple[Program, ...]:
    def one(scale: float, cubic: float) -> Program:
        inner = ("Add", "x", ("Mul", ("Pow", "x", 3.0), cubic))
        return spell(("Mul", "x", ("Sigmoid", ("Mul", inner, 2.0 * scale))))

    return tuple(one(q(f.GELU_SCALE), q(f.GELU_CUBIC)) for q in ROUNDINGS)


def _hard_swish_spellings(parameters: Parameters) -> tuple[Program, ...]:
    sixths = [q(1.0 / 6.0) for q in ROUNDINGS]
    inside = (("Clip", ("Add", ("Mul", "x", s), 0.5), 0.0, 1.0) for s in sixths)
    outside = (("Mul", ("Clip", ("Add", "x", 3.0), 0.0, 6.0), s) for s in sixths)
    return tuple(spell(("Mul", "x", gate)) for gate in (*inside, *outside))


def _soft_clip_spellings(parameters: Parameters) -> tuple[Program, ...]:
    alpha = parameters[0]
    x, shifted = ("Mul", "x", alpha), ("Sub", ("Mul", "x", alpha), alpha)
    ratio = ("Div", ("Add", ("Exp", x), 1.0), ("Add", ("Exp", shifted), 1.0))
    return (
        spell(("Div", ("Sub", ("Softplus", x), ("Softplus", shifted)), alpha)),
        spell(("Div", ("Log", ratio), alpha)),
    )


def _softplus_spellings(parameters: Parameters) -> tuple[Program, ...]:
    stable = ("Add", ("Relu", "x"), ("Log", ("Add", ("Exp", ("Neg", ("Abs", "x"))), 1.0)))
    return spell(("Softplus", "x")), spell(stable)


def _swish_properties(alpha: Array | float) -> Properties:
    return properties(
        SILU_LIPSCHITZ, np.divide(SILU_LEAST, alpha), critical=(np.divide(i.SILU_MINIMUM, alpha),), half_even=True
    )


def _numbers(*values: object) -> Parameters:
    return tuple(frozen(np.asarray(value, dtype=np.float64)) for value in values)


def _dip(lipschitz: float, least: float, place: float, half_even: bool) -> Properties:
    """Return properties of a function with one minimum and no upper bound."""
    return properties(lipschitz, least, critical=(place,), half_even=half_even)


def _sided() -> tuple[Record, ...]:
    """Exponential below 0."""
    steep = f.SELU_GAMMA * f.SELU_ALPHA
    return (
        Record(
            "Elu",
            lambda t, p: f.elu(t, p[0]),
            lambda p: properties(np.maximum(1.0, p[0]), -p[0], critical=(0.0,), monotone=True),
            lambda p: _elu_spellings(p[0]),
            _read_exponential_side,
            ("alpha",),
            (_numbers(1.0), _numbers(0.5), _numbers([0.5, 1.0, 2.0])),
        ),
        Record(
            "Selu",
            lambda t, p: f.selu(t),
            lambda p: properties(steep * (1 + 4e-16), -steep * (1 + 4e-16), critical=(0.0,), monotone=True),
            _selu_spellings,
        ),
        Record(
            "Celu",
            lambda t, p: f.celu(t, p[0]),
            lambda p: properties(1.0, -p[0], critical=(0.0,), monotone=True),
            lambda p: _elu_spellings(p[0], 1.0, 1.0 / p[0]),
            _read_exponential_side,
            ("alpha",),
            (_numbers(0.5), _numbers(2.0)),
        ),
    )


def _gates() -> tuple[Record, ...]:
    """x times a gate."""
    return (
        Record(
            "Gelu",
            lambda t, p: f.gelu(t),
            lambda p: _dip(GELU_LIPSCHITZ, GELU_LEAST, i.GELU_MINIMUM, True),
            _gelu_spellings,
        ),
        Record(
            "GeluTanh",
            lambda t, p: f.gelu_tanh(t),
            lambda p: _dip(GELU_TANH_LIPSCHITZ, GELU_TANH_LEAST, i.GELU_TANH_MINIMUM, True),
            _gelu_tanh_spellings,
        ),
        Record(
            "Silu",
            lambda t, p: f.swish(t, 1.0),
            lambda p: _swish_properties(1.0),
            lambda p: (spell(("Mul", "x", ("Sigmoid", "x"))),),
        ),
        Record(
            "QuickGelu",
            lambda t, p: f.swish(t, p[0]),
            lambda p: _swish_properties(p[0]),
            lambda p: (spell(("Mul", "x", ("Sigmoid", ("Mul", "x", p[0])))),),
            lambda form: _slope(form, "Sigmoid"),
            ("alpha",),
            (_numbers(1.702), _numbers(2.0), _numbers([0.5, 1.0, 3.0])),
        ),
        Record(
            "HardSwish",
            lambda t, p: f.hard_swish(t),
            # 1.5 is approached from inside the last parabola; the minimum -0.375 is exact.
            lambda p: _dip(1.5, -0.375, i.HARD_SWISH_MINIMUM, True),
            _hard_swish_spellings,
            noise=lambda t, p: 2e-15,
        ),
        Record(
            "Mish",
            lambda t, p: f.mish(t),
            lambda p: _dip(MISH_LIPSCHITZ, MISH_LEAST, i.MISH_MINIMUM, False),
            lambda p: (spell(("Mish", "x")),),
        ),
    )


def _shapes() -> tuple[Record, ...]:
    """Bounded ones and those built from exponentials."""
    return (
        Record(
            "Sigmoid",
            lambda t, p: np.asarray(special.expit(t)),
            lambda p: properties(0.25, 0.0, 1.0, monotone=True),
            lambda p: (spell(("Sigmoid", "x")),),
        ),
        Record(
            "Tanh",
            lambda t, p: np.tanh(t),
            lambda p: properties(1.0, -1.0, 1.0, monotone=True, odd=True),
            lambda p: (spell(("Tanh", "x")),),
        ),
        Record(
            "Softplus",
            lambda t, p: f.softplus(t),
            lambda p: properties(1.0, 0.0, monotone=True, half_even=True),
            _softplus_spellings,
        ),
        Record(
            "Softsign",
            lambda t, p: f.softsign(t),
            lambda p: properties(1.0, -1.0, 1.0, monotone=True, odd=True),
            lambda p: (spell(("Softsign", "x")),),
        ),
        Record(
            "Gaussian",
            lambda t, p: np.exp(-np.square(t)),
            lambda p: properties(np.sqrt(2.0 / np.e) * (1 + 4e-16), 0.0, 1.0, (0.0,)),
            lambda p: (spell(("Exp", ("Neg", ("Mul", "x", "x")))),),
        ),
        Record(
            "SoftClip",
            lambda t, p: f.soft_clip(t, p[0]),
            lambda p: properties(np.tanh(p[0] / 4.0) * (1 + 4e-16), 0.0, 1.0, monotone=True),
            _soft_clip_spellings,
            lambda form: _slope(form, "Softplus", "Sigmoid"),
            ("alpha",),
            (_numbers(1.0), _numbers(5.0), _numbers([2.0, 10.0, 50.0])),
            lambda t, p: 1e-15 * (1.0 + 1.0 / p[0]),
        ),
    )


SMOOTH: tuple[Record, ...] = (*_shapes(), *_gates(), *_sided())
"""In this order: an earlier record names what a later one could name too."""
