"""Neurons of any kind as functions of pre-activations: h = F(t_1, ..., t_r), each t_i = p_i . x + b_i.

    Neurons   F(t) = f(t)               Gated   F(t_1, t_2) = f_1(t_1) f_2(t_2)          Joint   F = a program

Everything that a bound or a search needs of a kind is its affine parts, its values and its ranges.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_coreset.core.activations.evaluate import enclose, run
from onnx_coreset.core.activations.intervals import Interval, multiply
from onnx_coreset.core.activations.record import Composite
from onnx_coreset.core.arrays import Array
from onnx_coreset.core.certificates.difference import signature
from onnx_coreset.core.certificates.domains import Frame
from onnx_coreset.core.features import Gated, Neurons, Part

__all__ = ["Term", "affine_parts", "enclosure", "key", "values"]


def affine_parts(part: Part) -> tuple[Neurons, ...]:
    """Return the neurons whose incoming weights and biases make the pre-activations of some features."""
    if isinstance(part, Neurons):
        return (part,)
    return (part.gate, part.up) if isinstance(part, Gated) else part.parts


def values(part: Part, given: Sequence[Array | NDArray[np.float32]]) -> Array:
    """Return features (..., n) of their pre-activations, (..., n) each, in float64."""
    t = [np.asarray(own, dtype=np.float64) for own in given]
    with np.errstate(all="ignore"):
        if isinstance(part, Neurons):
            return part.activation(t[0])
        if isinstance(part, Gated):
            return np.asarray(part.gate.activation(t[0]) * part.up.activation(t[1]))
        return run(part.program, t)


def enclosure(part: Part, ends: Sequence[Interval]) -> Interval:
    """Return bounds of features on intervals of their pre-activations, rounded outwards.

    Args:
        part: The features, n neurons.
        ends: Lower and upper ends of each pre-activation, shape (..., n).

    Returns:
        Lower and upper ends, shape (..., n), never NaN.
    """
    if isinstance(part, Neurons):
        return part.activation.interval(*ends[0])
    if isinstance(part, Gated):
        factors = [part.gate.activation.interval(*ends[0]), part.up.activation.interval(*ends[1])]
        with np.errstate(all="ignore"):
            return multiply(factors, {})
    return enclose(part.program, ends)


def key(part: Part) -> tuple[Hashable, Array]:
    """Return what features must share to be compared, and numbers (n, q) that equal neurons share.

    Neurons of one kind with equal numbers compute the same.
    """
    kinds: list[Hashable] = [type(part).__name__]
    columns = []
    for own in affine_parts(part):
        kind, table = signature(own.activation, own.width)
        kinds.append(kind)
        columns += [own.incoming, own.bias[:, None], table]
    if not isinstance(part, Neurons | Gated):
        kind, table = signature(Composite(part.program), part.width)
        kinds.append(kind)
        columns.append(table)
    return tuple(kinds), np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class Term:
    """Features of one kind in the coordinates of a domain, with their outgoing weights.

    Attributes:
        part: The features, n neurons.
        weights: Shape (k, n).
        doubt: Largest error of a weight, shape (k, n).
        frames: Each pre-activation in the domain's coordinates.
        ends: Lower and upper ends of each exact pre-activation over the domain, shape (n,).
    """

    part: Part
    weights: Array
    doubt: Array
    frames: tuple[Frame, ...]
    ends: tuple[Interval, ...]

    @property
    def range(self) -> Interval:
        """Bounds of the features over the domain, shape (n,) each."""
        return enclosure(self.part, self.ends)
