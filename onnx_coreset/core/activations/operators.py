"""The table of elementwise operators: ONNX name -> what it computes and how it maps intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from scipy import special

from onnx_coreset.core.activations import functions as f
from onnx_coreset.core.activations import intervals as i
from onnx_coreset.core.arrays import Array

__all__ = ["ELEMENTWISE", "SELECTING", "Operator"]


@dataclass(frozen=True)
class Operator:
    """An elementwise operator.

    Attributes:
        name: ONNX name.
        function: What it computes in float64.
        extension: Its sound interval extension.
        least: Least number of operands.
        most: Largest number of operands.
        defaults: Every attribute it knows, with ONNX's default.
    """

    name: str
    function: f.Function
    extension: i.Extension
    least: int = 1
    most: int = 1
    defaults: f.Attributes = field(default_factory=lambda: MappingProxyType({}))

    def _complete(self, count: int, attributes: f.Attributes) -> f.Attributes:
        """Fill in defaults; refuse what would be misunderstood."""
        if not self.least <= count <= self.most:
            raise ValueError(f"{self.name} takes {self.least} to {self.most} operands, not {count}")
        unknown = sorted(set(attributes) - set(self.defaults))
        if unknown:
            raise ValueError(f"{self.name} has no attribute {', '.join(unknown)}")
        return {**self.defaults, **attributes}

    def __call__(self, operands: Sequence[Array], attributes: f.Attributes = MappingProxyType({})) -> Array:
        """Return the operator's values.

        Args:
            operands: Arrays that broadcast; booleans are 0.0 and 1.0.
            attributes: Attributes that differ from ONNX's defaults.

        Returns:
            float64 array of the broadcast shape, booleans as 0.0 and 1.0.

        Raises:
            ValueError: Too many or too few operands, or an attribute the operator does not have.
        """
        complete = self._complete(len(operands), attributes)
        with np.errstate(all="ignore"):
            return np.asarray(self.function([np.asarray(o, dtype=np.float64) for o in operands], complete))

    def interval(self, operands: Sequence[i.Interval], attributes: f.Attributes = MappingProxyType({})) -> i.Interval:
        """Return bounds of the operator on intervals of its operands.

        Args:
            operands: Lower and upper ends, arrays that broadcast; infinite ends are allowed.
            attributes: Attributes that differ from ONNX's defaults.

        Returns:
            Lower and upper ends, never NaN, that hold every value, rounding included.

        Raises:
            ValueError: As for a call.
        """
        complete = self._complete(len(operands), attributes)
        with np.errstate(all="ignore"):
            low, high = self.extension([(np.asarray(a), np.asarray(b)) for a, b in operands], complete)
        return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


def _attributes(**values: f.Attribute) -> f.Attributes:
    return MappingProxyType(values)


def _increasing(
    name: str, function: f.Function, slack: tuple[float, float], low: float = -np.inf, high: float = np.inf
) -> Operator:
    """Return a record of a monotone operator of one operand with the given range."""
    return Operator(name, function, i.extremal(function, slack=slack, bounds=(low, high)))


def _pieces() -> tuple[Operator, ...]:
    """Piecewise linear operators of one pre-activation and what else is monotone between a few points."""
    leaky: f.Function = lambda o, a: f.leaky(o[0], f.number(a, "alpha"))  # noqa: E731
    prelu: f.Function = lambda o, a: f.leaky(o[0], o[1])  # noqa: E731
    hard: f.Function = lambda o, a: f.hard_sigmoid(o[0], f.number(a, "alpha"), f.number(a, "beta"))  # noqa: E731
    threshold: f.Function = lambda o, a: f.thresholded(o[0], f.number(a, "alpha"))  # noqa: E731
    return (
        _increasing("Relu", f.unary(f.relu), i.EXACT),
        Operator("LeakyRelu", leaky, i.extremal(leaky, i.at(0.0), i.ROUNDED), defaults=_attributes(alpha=0.01)),
        Operator("PRelu", prelu, i.extremal(prelu, i.at(0.0), i.ROUNDED), 2, 2),
        Operator("ThresholdedRelu", threshold, i.thresholded_interval, defaults=_attributes(alpha=1.0)),
        Operator("Clip", f.clip_operator, i.clip_interval, 1, 3, _attributes(min=-np.inf, max=np.inf)),
        Operator("HardSigmoid", hard, i.extremal(hard, bounds=(0, 1)), defaults=_attributes(alpha=0.2, beta=0.5)),
        Operator("Abs", f.unary(np.abs), i.extremal(f.unary(np.abs), i.at(0.0), i.EXACT)),
        _increasing("Identity", f.unary(np.asarray), i.EXACT),
        _increasing("Neg", f.unary(np.negative), i.EXACT),
        _increasing("Sign", f.unary(np.sign), i.EXACT),
        _increasing("Floor", f.unary(np.floor), i.EXACT),
        _increasing("Ceil", f.unary(np.ceil), i.EXACT),
        _increasing("Round", f.unary(np.rint), i.EXACT),
    )


def _smooth() -> tuple[Operator, ...]:
    """Smooth operators of one pre-activation."""
    elu: f.Function = lambda o, a: f.elu(o[0], f.number(a, "alpha"))  # noqa: E731
    celu: f.Function = lambda o, a: f.celu(o[0], f.number(a, "alpha"))  # noqa: E731
    selu: f.Function = lambda o, a: f.selu(o[0], f.number(a, "alpha"), f.number(a, "gamma"))  # noqa: E731
    swish: f.Function = lambda o, a: f.swish(o[0], f.number(a, "alpha"))  # noqa: E731
    hard, mish = f.unary(f.hard_swish), f.unary(f.mish)
    return (
        _increasing("Sigmoid", f.unary(special.expit), i.TRANSCENDENTAL, 0, 1),
        _increasing("Tanh", f.unary(np.tanh), i.TRANSCENDENTAL, -1, 1),
        _increasing("Softplus", f.unary(f.softplus), i.TRANSCENDENTAL, 0),
        _increasing("Softsign", f.unary(f.softsign), i.TRANSCENDENTAL, -1, 1),
        Operator("Elu", elu, i.extremal(elu, i.at(0.0)), defaults=_attributes(alpha=1.0)),
        Operator(
            "Selu", selu, i.extremal(selu, i.at(0.0)), defaults=_attributes(alpha=f.SELU_ALPHA, gamma=f.SELU_GAMMA)
        ),
        Operator("Celu", celu, i.extremal(celu, i.at(0.0)), defaults=_attributes(alpha=1.0)),
        Operator(
            "Gelu",
            f.gelu_operator,
            i.extremal(f.gelu_operator, i.gelu_points),
            defaults=_attributes(approximate="none"),
        ),
        Operator("HardSwish", hard, i.extremal(hard, i.at(i.HARD_SWISH_MINIMUM))),
        Operator("Mish", mish, i.extremal(mish, i.at(i.MISH_MINIMUM))),
        Operator("Swish", swish, i.extremal(swish, i.swish_points), defaults=_attributes(alpha=1.0)),
        Operator("QuickGelu", swish, i.extremal(swish, i.swish_points), defaults=_attributes(alpha=1.702)),
        _increasing("Erf", f.unary(special.erf), i.TRANSCENDENTAL, -1, 1),
        _increasing("Exp", f.unary(np.exp), i.TRANSCENDENTAL, 0),
        _increasing("Log", f.unary(np.log), i.TRANSCENDENTAL),
        _increasing("Sqrt", f.unary(np.sqrt), i.TRANSCENDENTAL, 0),
        Operator("Reciprocal", f.unary(np.reciprocal), i.reciprocal),
        Operator("Sin", f.unary(np.sin), i.wave(0.0)),
        Operator("Cos", f.unary(np.cos), i.wave(np.pi / 2)),
        _increasing("Atan", f.unary(np.arctan), i.TRANSCENDENTAL),
    )


def _several() -> tuple[Operator, ...]:
    """Operators of several operands."""
    add, least, greatest = f.variadic(np.add), f.variadic(np.minimum), f.variadic(np.maximum)
    many = 2**31 - 1
    return (
        Operator("Add", add, i.monotone_in_each(add, i.ROUNDED), 2, 2),
        Operator("Sub", f.binary(np.subtract), i.subtract, 2, 2),
        Operator("Mul", f.binary(np.multiply), i.multiply, 2, 2),
        Operator("Div", f.binary(np.divide), i.divide, 2, 2),
        Operator("Pow", f.binary(np.power), i.power, 2, 2),
        Operator("Sum", add, _sum(False), 1, many),
        Operator("Mean", f.mean, _sum(True), 1, many),
        Operator("Min", least, i.monotone_in_each(least, i.EXACT), 1, many),
        Operator("Max", greatest, i.monotone_in_each(greatest, i.EXACT), 1, many),
        Operator("Greater", f.binary(np.greater), i.greater, 2, 2),
        Operator("GreaterOrEqual", f.binary(np.greater_equal), i.greater_equal, 2, 2),
        Operator("Less", f.binary(np.less), i.less, 2, 2),
        Operator("LessOrEqual", f.binary(np.less_equal), i.less_equal, 2, 2),
        Operator("Equal", f.binary(np.equal), i.equal, 2, 2),
        Operator("And", least, i.monotone_in_each(least, i.EXACT), 2, 2),
        Operator("Or", greatest, i.monotone_in_each(greatest, i.EXACT), 2, 2),
        Operator("Not", f.unary(lambda x: 1.0 - x), i.negate_boolean),
        Operator("Where", f.where, i.select, 3, 3),
    )


def _sum(mean: bool) -> i.Extension:
    """Return the extension of Sum or Mean: additions one by one, each rounded outwards."""

    def extension(operands: Sequence[i.Interval], attributes: f.Attributes) -> i.Interval:
        low, high = operands[0]
        for more_low, more_high in operands[1:]:
            low, high = i.outward(low + more_low, high + more_high, i.ROUNDED)
        return i.outward(low / len(operands), high / len(operands), i.ROUNDED) if mean else (low, high)

    return extension


ELEMENTWISE: Mapping[str, Operator] = MappingProxyType(
    {operator.name: operator for operator in (*_pieces(), *_smooth(), *_several())}
)
"""Every elementwise operator that a region between two linear operators may hold, by ONNX name."""
SELECTING = (
    *("Relu", "Abs", "Identity", "Neg", "Clip", "Min", "Max", "ThresholdedRelu", "Sign", "Floor", "Ceil", "Round"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Not", "Where"),
)
"""Those that only compare and select: nothing is rounded."""
