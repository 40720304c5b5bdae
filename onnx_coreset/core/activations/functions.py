"""Elementwise operators of ONNX as float64 numpy functions, with the limits at plus and minus infinity.

Every function takes its operands, arrays that broadcast, and its attributes with ONNX's defaults filled in. Booleans
are 0.0 and 1.0. Where a formula meets 0 * inf the value is its limit, so that bounds on half-lines are no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
from scipy import special

from onnx_coreset.core.arrays import Array

Attribute = float | int | str
Attributes = Mapping[str, Attribute]
Function = Callable[[Sequence[Array], Attributes], Array]

FLOAT32_MAX = 3.4028234663852886e38
"""Bounds of a Clip at or beyond this magnitude are no bounds (its defaults before opset 11)."""
SELU_ALPHA = 1.67326319217681884765625
SELU_GAMMA = 1.05070102214813232421875
GELU_CUBIC = 0.044715
GELU_SCALE = 0.79788456080286535588


def number(attributes: Attributes, name: str) -> float:
    """Return a numeric attribute."""
    return float(attributes[name])


def times(a: Array | float, b: Array | float) -> Array:
    """Return a * b with 0 * inf = 0: the limit wherever the zero is exact or decays faster than any power."""
    product = np.multiply(a, b)
    return np.asarray(np.where(np.isnan(product) & (np.equal(a, 0) | np.equal(b, 0)), 0.0, product))


def unary(function: Callable[[Array], Array]) -> Function:
    """Return an operator of one operand and no attributes."""
    return lambda operands, attributes: np.asarray(function(operands[0]), dtype=np.float64)


def binary(function: Callable[[Array, Array], Array]) -> Function:
    """Return an operator of two operands and no attributes."""
    return lambda operands, attributes: np.asarray(function(operands[0], operands[1]), dtype=np.float64)


def variadic(function: Callable[[Array, Array], Array]) -> Function:
    """Return an operator that folds one or more operands."""
    return lambda operands, attributes: np.asarray(reduce(function, operands), dtype=np.float64)


def leaky(x: Array, slope: Array | float) -> Array:
    """Return x where x >= 0, slope * x elsewhere."""
    return np.where(x < 0, times(x, slope), x)


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    return np.maximum(x, 0.0)


def clip(x: Array, low: Array | float, high: Array | float) -> Array:
    """Return min(max(x, low), high)."""
    return np.minimum(np.maximum(x, low), high)


def softplus(x: Array) -> Array:
    """Return log(1 + exp(x)) without overflow."""
    return np.logaddexp(0.0, x)


def softsign(x: Array) -> Array:
    """Return x / (1 + |x|)."""
    finite = np.where(np.isinf(x), 0.0, x)
    return np.where(np.isinf(x), np.sign(x), finite / (1.0 + np.abs(finite)))


def elu(x: Array, alpha: Array | float) -> Array:
    """Return x where x >= 0, alpha (exp(x) - 1) elsewhere."""
    return np.where(x < 0, times(np.expm1(np.minimum(x, 0.0)), alpha), x)


def celu(x: Array, alpha: Array | float) -> Array:
    """Return max(x, 0) + min(0, alpha (exp(x / alpha) - 1))."""
    return np.maximum(x, 0.0) + np.minimum(0.0, times(alpha, np.expm1(np.minimum(x, 0.0) / alpha)))


def selu(x: Array, alpha: float = SELU_ALPHA, gamma: float = SELU_GAMMA) -> Array:
    """Return gamma times elu(x, alpha)."""
    return gamma * elu(x, alpha)


def gelu(x: Array) -> Array:
    """Return x Phi(x), Phi the standard normal distribution function."""
    return times(x, special.ndtr(x))


def gelu_tanh(x: Array) -> Array:
    """Return the tanh approximation of GELU, x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)): off by up to 4.7e-4."""
    return times(x, special.expit(2.0 * GELU_SCALE * (x + GELU_CUBIC * x * x * x)))


def swish(x: Array, alpha: Array | float) -> Array:
    """Return x sigmoid(alpha x)."""
    return times(x, special.expit(times(alpha, x)))


def hard_swish(x: Array) -> Array:
    """Return x min(max(x / 6 + 1/2, 0), 1)."""
    return times(x, clip(x / 6.0 + 0.5, 0.0, 1.0))


def mish(x: Array) -> Array:
    """Return x tanh(softplus(x))."""
    return times(x, np.tanh(softplus(x)))


def soft_clip(x: Array, alpha: Array | float) -> Array:
    """Return (softplus(alpha x) - softplus(alpha (x - 1))) / alpha, a smooth step from 0 to 1 over [0, 1].

    Both sides of 1/2 are computed from the side that does not cancel: f(x) = 1 - f(1 - x).
    """
    y = np.minimum(x, 1.0 - x)
    left = (softplus(alpha * y) - softplus(alpha * (y - 1.0))) / alpha
    left = np.where(np.isinf(y), 0.0, left)
    return np.where(x > 0.5, 1.0 - left, left)


def clip_operands(operands: Sequence[Array], attributes: Attributes) -> tuple[Array, Array, Array]:
    """Return value, lower and upper bound of a Clip: bounds are operands, attributes (before opset 11) or absent.

    A lower bound that is absent while an upper one is given is written as the constant -inf.
    """
    low = operands[1] if len(operands) > 1 else np.asarray(number(attributes, "min"))
    high = operands[2] if len(operands) > 2 else np.asarray(number(attributes, "max"))
    low = np.where(low <= -FLOAT32_MAX, -np.inf, low)
    return operands[0], low, np.where(high >= FLOAT32_MAX, np.inf, high)


def clip_operator(operands: Sequence[Array], attributes: Attributes) -> Array:
    """Clip."""
    return clip(*clip_operands(operands, attributes))


def gelu_operator(operands: Sequence[Array], attributes: Attributes) -> Array:
    """Gelu of either kind."""
    return gelu_tanh(operands[0]) if is_tanh(attributes) else gelu(operands[0])


def is_tanh(attributes: Attributes) -> bool:
    """Return whether a Gelu is the tanh approximation.

    Raises:
        ValueError: `approximate` is neither "none" nor "tanh".
    """
    kind = attributes["approximate"]
    if kind not in ("none", "tanh"):
        raise ValueError(f"Gelu has no approximation {kind!r}")
    return kind == "tanh"


def hard_sigmoid(x: Array, alpha: Array | float, beta: Array | float) -> Array:
    """Return min(max(alpha x + beta, 0), 1)."""
    return clip(times(alpha, x) + beta, 0.0, 1.0)


def thresholded(x: Array, alpha: Array | float) -> Array:
    """Return x where x > alpha, 0 elsewhere."""
    return np.where(x > alpha, x, 0.0)


def where(operands: Sequence[Array], attributes: Attributes) -> Array:
    """Where: the second operand where the first is not 0, else the third."""
    return np.where(operands[0] != 0, operands[1], operands[2])


def mean(operands: Sequence[Array], attributes: Attributes) -> Array:
    """Mean of all operands."""
    return np.asarray(reduce(np.add, operands) / len(operands))
