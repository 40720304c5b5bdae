"""An activation on an interval, as a linear part, a part that is a multiple of |t|, and a bounded rest.

    f(t) = lin t + mag |t| + r(t),      r(t) in [low, high]   for t in [l, u].

- f - t/2 even (ReLU, GELU, SiLU, HardSwish, softplus): f(t) = t/2 + |t|/2 + f(-|t|), so that r is f on the half-line.
- f homogeneous (LeakyRelu, PRelu): lin = (f(1) - f(-1)) / 2, mag = (f(1) + f(-1)) / 2, no rest. - ELU, CELU, SELU: a
multiple of t for t >= 0, and r(t) = f(min(t, 0)). Mish: likewise, with r in [-0.141, 0] for t > 0.

and around the middle t0 of the domain, for f with slopes in [g, h] between t0 and any t of the interval,

    f(t) = f(t0) + m (t - t0) + s |t - t0|,      m = (g + h) / 2,  |s| <= (h - g) / 2.

What has neither form is all rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy import special

from onnx_coreset.core.activations import functions as f
from onnx_coreset.core.activations.program import Activation
from onnx_coreset.core.activations.record import Named, Parameters
from onnx_coreset.core.arrays import Array

__all__ = ["Split", "lipschitz", "slopes", "split"]

_MISH_ABOVE = -0.141
"""Below the minimum, -0.14048, of mish(t) - t over t > 0, which is that of -2 t / ((1 + exp t)^2 + 1)."""
_SLACK = 1e-13
"""Far above the error of a derivative's closed form, and of its value where its turning point is off by 1e-9."""


@dataclass(frozen=True)
class Split:
    """f(t) = lin t + mag |t| + r, for n neurons.

    Attributes:
        lin: Shape (n,).
        mag: Shape (n,).
        low: Least value of r, shape (n,).
        high: Largest value of r, shape (n,).
    """

    lin: Array
    mag: Array
    low: Array
    high: Array


def lipschitz(activation: Activation, count: int) -> Array:
    """Return Lipschitz constants, shape (n,), infinite where none is known."""
    known = activation.properties.lipschitz if isinstance(activation, Named) else np.asarray(np.inf)
    return np.array(np.broadcast_to(known, count))


def split(activation: Activation, low: Array, high: Array) -> Split:
    """Return an activation of n neurons as a linear part, a multiple of |t| and a bounded rest.

    Args:
        activation: The function.
        low: Lower ends of the pre-activations, shape (n,).
        high: Upper ends, shape (n,).

    Returns:
        The parts; lin = mag = 0 where it has no such form.
    """
    count = low.size
    none = np.zeros(count)
    if isinstance(activation, Named):
        known = activation.properties
        if known.half_even:
            near = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
            rest = activation.interval(-np.maximum(np.abs(low), np.abs(high)), -near)
            # A gate's values far below 0 vanish; what is exactly 0 there (ReLU) has no rest.
            return Split(none + 0.5, none + 0.5, *rest)
        if known.homogeneous:
            up, down = activation(np.ones(count)), activation(-np.ones(count))
            return Split((up - down) / 2, (up + down) / 2, none, none)
        if activation.name in ("Elu", "Celu", "Selu", "Mish"):
            above = f.SELU_GAMMA if activation.name == "Selu" else 1.0
            below = activation.interval(np.minimum(low, 0.0), np.minimum(high, 0.0))
            floor = _MISH_ABOVE if activation.name == "Mish" else 0.0
            return Split(
                none + above / 2,
                none + above / 2,
                np.where(high > 0, np.minimum(np.where(low <= 0, below[0], floor), floor), below[0]),
                np.where(high > 0, np.maximum(np.where(low <= 0, below[1], 0.0), 0.0), below[1]),
            )
    return Split(none, none, *activation.interval(low, high))


Derivative = Callable[[Array, Parameters], Array]
Places = Callable[[Parameters], tuple[Array | float, ...]]


def _swish(t: Array, alpha: Array | float) -> Array:
    gate = special.expit(alpha * t)
    return np.asarray(gate + alpha * t * gate * special.expit(-alpha * t))


def _gelu(t: Array, parameters: Parameters) -> Array:
    return np.asarray(special.ndtr(t) + t * np.exp(-0.5 * np.square(t)) / np.sqrt(2.0 * np.pi))


def _gelu_tanh(t: Array, parameters: Parameters) -> Array:
    inner = 2.0 * f.GELU_SCALE * (t + f.GELU_CUBIC * t**3)
    rate = 2.0 * f.GELU_SCALE * (1.0 + 3.0 * f.GELU_CUBIC * t**2)
    return np.asarray(special.expit(inner) + t * rate * special.expit(inner) * special.expit(-inner))


def _mish(t: Array, parameters: Parameters) -> Array:
    squash = np.tanh(f.softplus(t))
    return np.asarray(squash + t * (1.0 - np.square(squash)) * special.expit(t))


def _soft_clip(t: Array, parameters: Parameters) -> Array:
    return np.asarray(special.expit(parameters[0] * t) - special.expit(parameters[0] * (t - 1.0)))


def _elu(t: Array, parameters: Parameters) -> Array:
    return np.asarray(np.where(t > 0, 1.0, parameters[0] * np.exp(np.minimum(t, 0.0))))


def _selu(t: Array, parameters: Parameters) -> Array:
    below = f.SELU_GAMMA * f.SELU_ALPHA * np.exp(np.minimum(t, 0.0))
    return np.asarray(np.where(t > 0, f.SELU_GAMMA, below))


def _celu(t: Array, parameters: Parameters) -> Array:
    return np.asarray(np.exp(np.minimum(t, 0.0) / parameters[0]))


# A jump of the derivative is met from both sides: the places on either side of it.
_BOTH = (-5e-324, 5e-324)
_SIX = tuple(float(np.nextafter(side, way)) for side in (-3.0, 3.0) for way in (-np.inf, np.inf))
_DERIVATIVES: Mapping[str, tuple[Derivative, Places]] = MappingProxyType(
    {
        "Sigmoid": (lambda t, p: special.expit(t) * special.expit(-t), lambda p: (0.0,)),
        "Tanh": (lambda t, p: 1.0 - np.square(np.tanh(t)), lambda p: (0.0,)),
        "Softplus": (lambda t, p: special.expit(t), lambda p: ()),
        "Softsign": (lambda t, p: 1.0 / np.square(1.0 + np.abs(t)), lambda p: (0.0,)),
        "Gaussian": (lambda t, p: -2.0 * t * np.exp(-np.square(t)), lambda p: (-np.sqrt(0.5), np.sqrt(0.5))),
        "SoftClip": (_soft_clip, lambda p: (0.5,)),
        "Gelu": (_gelu, lambda p: (-np.sqrt(2.0), np.sqrt(2.0))),
        "GeluTanh": (_gelu_tanh, lambda p: (-1.4185040087908283, 1.4185040087908283)),
        "Silu": (lambda t, p: _swish(t, 1.0), lambda p: (-2.3993572805154677, 2.3993572805154677)),
        "QuickGelu": (
            lambda t, p: _swish(t, p[0]),
            lambda p: (-2.3993572805154677 / p[0], 2.3993572805154677 / p[0]),
        ),
        "HardSwish": (
            lambda t, p: np.where(t <= -3.0, 0.0, np.where(t >= 3.0, 1.0, t / 3.0 + 0.5)),
            lambda p: _SIX,
        ),
        "Mish": (_mish, lambda p: (-2.25637639636079312, 1.4905711794854285)),
        "Elu": (_elu, lambda p: _BOTH),
        "Selu": (_selu, lambda p: _BOTH),
        "Celu": (_celu, lambda p: ()),
    }
)
"""Derivatives, and where they turn or jump: between two of these places each is monotone."""


def slopes(activation: Activation, low: Array, high: Array) -> tuple[Array, Array]:
    """Return bounds of the slopes of an activation's chords on an interval.

    Args:
        activation: The function of n neurons.
        low: Lower ends, shape (n,).
        high: Upper ends, shape (n,).

    Returns:
        Least and largest slope of f between any two points of [low, high], shape (n,) each; infinite where none is
        known.
    """
    count = low.size
    limit = lipschitz(activation, count)
    if not isinstance(activation, Named):
        return -limit, limit
    known = activation.properties
    if known.homogeneous:
        up, down = activation(np.ones(count)), -activation(-np.ones(count))
        ends = np.where(low >= 0, up, np.minimum(up, down)), np.where(low >= 0, up, np.maximum(up, down))
        return np.where(high <= 0, down, ends[0]), np.where(high <= 0, down, ends[1])
    if activation.name == "Clip":
        bottom, top = activation.parameters
        flat = (high <= bottom) | (low >= top) | (bottom >= top)
        return np.where((low >= bottom) & (high <= top) & ~flat, 1.0, 0.0), np.where(flat, 0.0, 1.0)
    found = _DERIVATIVES.get(activation.name)
    if found is None:
        return (np.zeros(count) if known.monotone else -limit), limit
    derivative, places = found
    points = [low, high, *(np.clip(place, low, high) for place in places(activation.parameters))]
    with np.errstate(all="ignore"):
        values = np.stack([np.broadcast_to(derivative(point, activation.parameters), count) for point in points])
    largest = np.max(np.abs(values), axis=0)
    slack = _SLACK * (1.0 + largest)
    least, most = values.min(axis=0) - slack, values.max(axis=0) + slack
    bounded = np.isfinite(least) & np.isfinite(most)
    return np.where(bounded, np.maximum(least, -limit), -limit), np.where(bounded, np.minimum(most, limit), limit)
